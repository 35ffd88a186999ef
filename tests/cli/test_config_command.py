"""``xds config`` against a real Envoy: what it has is what it should have, or else the command says what is not."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cli.conftest import Run
from support import resources as r
from support.envoy import EnvoyProcess
from support.forms import DELTA_ADS
from support.pki import Authority
from support.ports import free_port
from support.server import XdsServer
from support.waiting import wait_until

from tests.cli.test_push_commands import shell
from xds.cli.config_dump import Held, NoDumpError, compare, read_dump
from xds.client import Client
from xds.model.types import ROUTE, TYPE_PREFIX
from xds.schema.ingest import ingest

pytestmark = pytest.mark.envoy


@dataclass(frozen=True, slots=True)
class Scene:
    """An Envoy that follows a server."""

    envoy: EnvoyProcess
    server: XdsServer
    client: Client
    key: str


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    pair = Authority(tmp_path / "pki").server()
    resources = [
        r.cluster("a"),
        r.assignment("a", 1001, 1002),
        r.assignment("unused", 1003),
        r.route("r1", "a"),
        r.listener("plain", 0, "r1"),
        r.listener("tls", 0, "r1", tls=r.downstream_tls("certificate")),
        r.secret("certificate", pair.cert_text, pair.key_text),
    ]
    async with XdsServer(None) as server, Client(f"127.0.0.1:{server.api_port}") as client:
        await server.wait_ready()
        await client.apply(upsert=resources)
        async with EnvoyProcess(DELTA_ADS.bootstrap(server.port)) as envoy:
            await envoy.wait_live()
            yield Scene(envoy, server, client, pair.key_text)


async def compared(xds: Run, scene: Scene, *arguments: str | Path) -> tuple[int, dict[str, Any], str]:
    """Return the exit code, the states by resource, and what a person is told."""
    where = ("--admin", f"127.0.0.1:{scene.envoy.admin_port}") if "--dump" not in arguments else ()
    command = ("config", "n1", "--api", f"127.0.0.1:{scene.server.api_port}", *where, *arguments)
    done = await asyncio.to_thread(xds, *command, "-o", "json")
    said = await asyncio.to_thread(xds, *command, "-v")
    assert scene.key.splitlines()[1] not in done.stdout + said.stdout
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    return done.returncode, {f"{each['type']}/{each['name']}": each for each in told["resources"]}, said.stdout


async def test_an_envoy_that_has_what_it_should_have(xds: Run, scene: Scene, tmp_path: Path) -> None:
    code, found, said = await compared(xds, scene)
    states = {name: each["state"] for name, each in found.items()}
    assert (code, states) == (
        0,
        {
            "clusters/a": "same",
            "clusters/xds": "static",
            "endpoints/a": "same",
            "endpoints/unused": "unused",
            "endpoints/xds": "static",
            "listeners/plain": "same",
            "listeners/tls": "same",
            "routes/r1": "same",
            "secrets/certificate": "same",
        },
    ), said
    assert "n1 (group default, revision 1): 9 resources: 6 same, 1 not used, 2 from its bootstrap" in said
    dump = tmp_path / "dump.json"
    dump.write_text(json.dumps(await scene.envoy.config_dump(include_eds=True)))
    assert (await compared(xds, scene, "--dump", dump))[:2] == (0, found)
    printed = await asyncio.to_thread(
        xds, "config", "n1", "--exec", f"cat {dump}", "--api", f"127.0.0.1:{scene.server.api_port}"
    )
    assert (printed.returncode, printed.stdout.splitlines()[-1]) == (0, said.splitlines()[-1])


async def test_what_differs_is_named_field_by_field(xds: Run, scene: Scene) -> None:
    await scene.client.put_group("other")
    await scene.client.apply(
        group="other",
        upsert=[
            r.cluster("a", connect_timeout="7s"),
            r.assignment("a", 1001, 1009),
            r.static_cluster("b", 1005),
            r.route("r1", "a"),
            r.listener("plain", 0, "r1"),
        ],
    )
    code, found, said = await compared(xds, scene, "--group", "other")
    states = {name: each["state"] for name, each in found.items() if each["state"] not in ("same", "static")}
    assert (code, states) == (
        1,
        {
            "clusters/a": "differs",
            "clusters/b": "missing",
            "endpoints/a": "differs",
            "listeners/tls": "elsewhere",
            "secrets/certificate": "elsewhere",
        },
    )
    assert found["clusters/a"]["fields"] == [{"path": "connect_timeout", "before": "1s", "after": "7s"}]
    assert sorted(each["path"] for each in found["endpoints/a"]["fields"]) == ["127.0.0.1:1002", "127.0.0.1:1009"]
    assert '- connect_timeout: "1s"' in said
    assert "clusters/b: missing" in said


async def test_what_envoy_rejected_is_told_with_its_words(xds: Run, scene: Scene) -> None:
    taken = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port := free_port())
    async with taken:
        await scene.client.apply(upsert=[r.listener("plain", port, "r1")])
        await wait_until(scene.envoy.nacks)
        code, found, said = await compared(xds, scene)
    assert code == 1
    assert (found["listeners/plain"]["state"], str(port) in found["listeners/plain"]["error"]) == ("rejected", True)
    assert "listeners/plain: rejected" in said


async def test_a_type_that_the_dump_does_not_have_is_named(xds: Run, scene: Scene, tmp_path: Path) -> None:
    dump = tmp_path / "dump.json"
    dump.write_text(json.dumps(await scene.envoy.config_dump()))
    command = ("config", "n1", "--dump", dump, "--api", f"127.0.0.1:{scene.server.api_port}")
    said = await asyncio.to_thread(xds, *command)
    assert said.returncode == 0
    assert "not compared, as the config dump has none: endpoints; ask for /config_dump?include_eds" in said.stderr
    told = await asyncio.to_thread(xds, *command, "-o", "json")
    assert json.loads(told.stdout)["not_in_the_dump"] == ["endpoints"]


MARK = "hush-hush-hush"
TABLE = {
    "name": "r1",
    "virtual_hosts": [
        {
            "name": "all",
            "domains": ["*"],
            "routes": [
                {
                    "match": {
                        "prefix": "/",
                        "headers": [{"name": "authorization", "string_match": {"exact": f"Bearer {MARK}"}}],
                        "cookies": [{"name": "sess", "string_match": {"exact": f"{MARK}-2"}}],
                    },
                    "direct_response": {"status": 200},
                }
            ],
        }
    ],
}


def dumped(kind: str, key: str, item: dict[str, Any]) -> list[Held]:
    return read_dump({"configs": [{"@type": f"type.googleapis.com/envoy.admin.v3.{kind}ConfigDump", key: [item]}]})


def test_what_envoy_says_of_a_rejected_resource_has_none_of_its_secrets() -> None:
    failed = {"@type": TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration", **TABLE}
    details = f"no header authorization: Bearer {MARK}, no cookie {MARK}-2; it says why"
    item = {"route_config": {"name": "r1"}, "error_state": {"details": details, "failed_configuration": failed}}
    (held,) = dumped("Routes", "dynamic_route_configs", item)
    assert "it says why" in held.error
    assert MARK not in held.error


def test_what_a_node_rejects_is_told_where_the_dump_has_no_error_of_it() -> None:
    old, new = (ingest(r.route("r1", name)) for name in ("a", "b"))
    held = dumped("Routes", "dynamic_route_configs", {"version_info": old.version, "route_config": r.route("r1", "a")})
    nacks = {(ROUTE, "r1"): "it answered with a NACK: odd"}
    for wanted, state in ((new, "rejected"), (old, "same")):
        (found,) = compare(held, {(ROUTE, "r1"): wanted}, nacks)
        assert (found.state, "odd" in found.error) == (state, state == "rejected")
    assert compare(held, {(ROUTE, "r1"): new})[0].state == "differs"


def test_what_is_no_dump_is_refused() -> None:
    for wrong in (None, [], {}, {"configs": {}}):
        with pytest.raises(NoDumpError):
            read_dump(wrong)
    for wrong in (
        {"endpoints": "x"},
        {"endpoints": ["x"]},
        {"endpoints": [{"locality": "x"}]},
        {"endpoints": [{"lb_endpoints": {"a": 1}}]},
        {"endpoints": [{"lb_endpoints": [{"endpoint": 1}]}]},
        {"endpoints": [{"lb_endpoints": [{"endpoint": {"address": []}}]}]},
        {"endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": 1}}}]}]},
    ):
        with pytest.raises(NoDumpError, match=r"is no (list of objects|object)"):
            dumped("Endpoints", "dynamic_endpoint_configs", {"endpoint_config": {"cluster_name": "a", **wrong}})
    odd = {"configs": [1, {"@type": "x.ClustersConfigDump", "static_clusters": [1, {"cluster": 2}, {}]}]}
    assert [each.name for each in read_dump(odd)] == ["", ""]


async def test_an_admin_interface_may_be_a_unix_socket(tmp_path: Path) -> None:
    body = b'{"configs": {}}'
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    path = tmp_path / "admin.sock"
    async with await asyncio.start_unix_server(answer, path):
        done = await shell(f"xds config n --admin unix:{path}", cwd=tmp_path)
    assert (done.returncode, "that is no config dump" in done.stderr) == (1, True), done.stderr
    assert asked[0].startswith(b"GET /config_dump?include_eds HTTP/1.1")
    done = await shell(f"xds config n --admin unix:{tmp_path}/none", cwd=tmp_path)
    assert (done.returncode, "No such file" in done.stderr) == (5, True), done.stderr
