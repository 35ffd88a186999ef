"""Every example configuration, brought up by a real Envoy from files: no code of the product has a part in it."""

import ssl
from pathlib import Path

import pytest
import yaml
from support import resources as r
from support.envoy import EnvoyProcess
from support.fetch import Answer, fetch
from support.filexds import file_bootstrap, groups_in, move_ports, ports_in, read_group
from support.ports import free_port
from support.upstream import Upstreams

SNAPSHOTS = Path(__file__).parents[2] / "snapshots"
EXAMPLES = sorted(path.name for path in SNAPSHOTS.iterdir() if (path / "README.md").exists())

pytestmark = pytest.mark.envoy


class Example:
    """One group of an example on a real Envoy, its ports moved to free ones; upstreams are named by their port."""

    def __init__(self, directory: Path, name: str, group: str = "default", tls_port: int | None = None) -> None:
        self.resources = read_group(SNAPSHOTS / name, group)
        self.served = {port: free_port() for port in ports_in(self.resources, r.LISTENER)}
        self.called = {port: free_port() for port in ports_in(self.resources, r.ENDPOINTS)}
        bootstrap = file_bootstrap(directory, move_ports(self.resources, self.served | self.called))
        self.envoy = EnvoyProcess(bootstrap)
        pair = (SNAPSHOTS / "tls/demo-cert.pem", SNAPSHOTS / "tls/demo-key.pem")
        plain = {str(port): moved for port, moved in self.called.items() if port != tls_port}
        self.upstreams = [Upstreams(ports=plain)]
        if tls_port:
            self.upstreams.append(Upstreams(ports={str(tls_port): self.called[tls_port]}, tls=pair))

    async def get(self, port: int, path: str = "/", **options: object) -> Answer:
        """Make a request to a listener by the port that its file says."""
        return await fetch(self.served[port], path, **options)

    async def __aenter__(self) -> "Example":
        for upstream in self.upstreams:
            await upstream.start()
        self.envoy.start()
        await self.envoy.wait_live()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.envoy.stop()
        for upstream in self.upstreams:
            await upstream.stop()


GROUPS = [(name, group) for name in EXAMPLES for group in groups_in(SNAPSHOTS / name)]


@pytest.mark.parametrize(("name", "group"), GROUPS, ids=["-".join(pair) for pair in GROUPS])
async def test_an_envoy_goes_live_on_it_and_rejects_nothing(name, group, tmp_path):
    async with Example(tmp_path, name, group) as example:
        assert await example.envoy.nacks() == 0
        found = await example.envoy.dynamic_names()
        wanted = {type_url: {r.name_of(x) for x in example.resources if x["@type"] == type_url} for type_url in TYPES}
        assert {kind: found[kind] for kind in TYPES.values()} == {kind: wanted[url] for url, kind in TYPES.items()}
        assert "[config]" not in example.envoy.log()
        assert "deprecated" not in example.envoy.log().lower()


TYPES = {r.CLUSTER: "clusters", r.LISTENER: "listeners", r.ROUTE: "routes", r.ENDPOINTS: "endpoints"}


def test_every_reference_goes_by_ads():
    for path in SNAPSHOTS.rglob("*.yaml"):
        text = path.read_text()
        for field in ("eds_config", "config_source", "sds_config"):
            assert text.count(f" {field}:") == text.count(f" {field}: {{ads: {{}}, resource_api_version: V3}}"), path


def test_every_readme_names_its_commands():
    for name in EXAMPLES:
        text = (SNAPSHOTS / name / "README.md").read_text()
        assert f"xds serve snapshots/{name}" in text
        assert "xds envoy --node-id" in text
        assert "curl" in text


async def test_quickstart_answers_as_its_readme_says(tmp_path):
    async with Example(tmp_path, "quickstart") as example:
        assert (await example.get(10000, "/a")).text == "8081"
        assert (await example.get(10000, "/a/more")).text == "8081"
        assert (await example.get(10000, "/b")).text == "8082"
        assert {(await example.get(10000)).text for _ in range(40)} == {"8081", "8082"}


async def test_canary_splits_about_nine_to_one_and_testers_get_the_canary(tmp_path):
    async with Example(tmp_path, "canary") as example:
        answers = [await example.get(10000) for _ in range(300)]
        canaries = [answer for answer in answers if answer.headers["x-version"] == "canary"]
        assert {answer.text for answer in canaries} == {"8082"}
        assert 8 <= len(canaries) <= 62  # 30 expected; out of this once in a million runs
        asked = await example.get(10000, headers={"x-canary": "always"})
        assert (asked.text, asked.headers["x-version"]) == ("8082", "canary")


async def test_tls_terminates_and_originates_with_the_certificate_of_its_secrets(tmp_path):
    context = ssl.create_default_context(cafile=SNAPSHOTS / "tls/demo-cert.pem")
    async with Example(tmp_path, "tls", tls_port=8443) as example:
        assert (await example.get(10443, tls=context)).text == "8081"
        assert (await example.get(10443, "/secure", tls=context)).text == "8443"


async def test_mtls_lets_in_only_clients_of_its_ca(tmp_path):
    directory = SNAPSHOTS / "mtls"
    context = ssl.create_default_context(cafile=directory / "demo-ca.pem")
    async with Example(tmp_path, "mtls") as example:
        with pytest.raises(OSError, match=r"(?i)certificate|reset|broken pipe|not a whole"):
            await example.get(10444, tls=context)
        context.load_cert_chain(directory / "demo-client-cert.pem", directory / "demo-client-key.pem")
        assert (await example.get(10444, tls=context)).text == "8081"


async def test_tcp_proxies_and_answers_inline(tmp_path):
    async with Example(tmp_path, "tcp") as example:
        assert (await example.get(10001)).text in {"8081", "8082"}
        assert (await example.get(10002)).text in {"8081", "8082"}
        assert (await example.get(10002, "/ping")).text == "pong"


@pytest.mark.parametrize(
    ("group", "catalog", "checkout", "whereami"),
    [("prod", "8081", "8082", "8081"), ("prod-eu", "8083", "8082", "8083"), ("staging", "8081", "8084", "staging")],
)
async def test_each_group_answers_by_its_overlay(group, catalog, checkout, whereami, tmp_path):
    async with Example(tmp_path, "multi-group", group) as example:
        answers = [(await example.get(10000, path)).text for path in ("/", "/checkout", "/whereami")]
    assert answers == [catalog, checkout, whereami]


def test_the_pem_files_are_those_of_the_secrets():
    secrets = {x["name"]: x for x in yaml.safe_load((SNAPSHOTS / "tls/secrets.yaml").read_text())["resources"]}
    pair = secrets["demo-certificate"]["tls_certificate"]
    assert pair["certificate_chain"]["inline_string"] == (SNAPSHOTS / "tls/demo-cert.pem").read_text()
    assert pair["private_key"]["inline_string"] == (SNAPSHOTS / "tls/demo-key.pem").read_text()
