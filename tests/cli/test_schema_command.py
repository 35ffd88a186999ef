"""``xds schema``, and ``--schema`` of other commands."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from support.schemas import FILTER, older_api, own_filter
from support.server import XdsServer
from support.wire import DeltaClient

from xds._generated import xds_wire_pb2 as wire
from xds.client import Client
from xds.schema.origin import built_with
from xds.schema.union import encode_set

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
EXTENSION = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"


def extension(config: str) -> str:
    typed = f"  typed_config:\n    '@type': type.googleapis.com/{config}\n"
    return f"resources:\n- '@type': {EXTENSION}\n  name: greet\n{typed}"


@pytest.fixture
def own_set(tmp_path: Path) -> Path:
    path = tmp_path / "acme.binpb"
    path.write_bytes(encode_set([own_filter()]))
    return path


def test_show_says_which_envoy_the_packaged_schema_is_of(xds) -> None:
    done = xds("schema", "show", "--format", "json")

    summary = json.loads(done.stdout)
    assert (done.returncode, summary["source"], summary["envoy"]) == (0, "the packaged schema", built_with())
    assert summary["files"] > 500
    assert summary["messages"] > 1_500


def test_show_prints_the_fields_of_a_message(xds, own_set: Path) -> None:
    done = xds("schema", "show", FILTER, "--schema", own_set)

    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows == [
        [FILTER],
        ["field", "type", "number", "notes"],
        ["text", "string", "1"],
        ["pause", "google.protobuf.Duration", "2"],
    ]


def test_show_of_an_unknown_message_suggests_one(xds) -> None:
    done = xds("schema", "show", "envoy.config.cluster.v3.Clutser")

    assert (done.returncode, done.stdout) == (1, "")
    assert "did you mean envoy.config.cluster.v3.Cluster" in done.stderr


def test_export_and_diff(xds, own_set: Path, tmp_path: Path) -> None:
    assert xds("schema", "export", "all.binpb", "--schema", own_set).returncode == 0

    refused = xds("schema", "export", "all.binpb")
    assert (refused.returncode, "--force" in refused.stderr) == (1, True)

    differs = xds("schema", "diff", "all.binpb")
    assert differs.returncode == 1
    assert differs.stdout.splitlines()[0] == f"- {FILTER}  message"
    assert xds("schema", "export", "all.binpb", "--force").returncode == 0
    same = xds("schema", "diff", "all.binpb")
    assert (same.returncode, len(same.stdout.splitlines())) == (0, 1)


@pytest.mark.parametrize("command", [("schema", "show", "--schema"), ("schema", "diff"), ("validate", ".", "--schema")])
def test_a_file_that_is_no_schema_is_one_clear_line(xds, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for name, text in (("notes.txt", "is neither an Envoy binary nor a FileDescriptorSet"), ("none", "can't be read")):
        done = xds(*command, name)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert text in done.stderr


def test_validate_reads_filters_of_ones_own(xds, own_set: Path, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    (served / "a.yaml").write_text(extension(FILTER) + "    text: hi\n    pause: 1s\n")

    without = xds("validate", served)
    assert without.returncode == 1
    assert f"unknown type {FILTER}" in without.stdout
    assert "--schema" in without.stdout
    assert xds("validate", served, "--schema", own_set).returncode == 0
    assert xds("validate", served, XDS_SCHEMAS=str(own_set)).returncode == 0
    (served / "a.yaml").write_text(extension(FILTER) + "    txet: hi\n")
    assert "did you mean text?" in xds("validate", served, "--schema", own_set).stdout


@pytest.mark.parametrize("workers", ["0", "2"])
async def test_a_filter_of_ones_own_is_served_also_when_its_schema_is_gone(
    own_set: Path, tmp_path: Path, workers: str
) -> None:
    served = tmp_path / "served"
    served.mkdir()
    (served / "a.yaml").write_text(extension(FILTER) + "    text: hi\n")
    store = ["--store", f"sqlite:///{tmp_path}/store.db", "--workers", workers]
    async with XdsServer(served, "--schema", str(own_set), *store) as server:
        await server.wait_ready()
        assert await _extensions(server) == {"greet"}
        server.stop()
        own_set.unlink()
        server.start()
        await server.wait_ready()
        assert await _extensions(server) == {"greet"}
        assert "what it had at an earlier start is used" in server.log()


@pytest.mark.parametrize("workers", ["0", "2"])
async def test_unknown_types_are_passed_as_bytes_where_that_is_set(tmp_path: Path, workers: str) -> None:
    (tmp_path / "a.yaml").write_text(extension("acme.v1.Unheard") + "    value: CgJoaQ==\n")
    store = ["--store", "memory:", "--workers", workers]
    async with XdsServer(tmp_path, *store, settings={"unknown_types": "pass"}) as server:
        await server.wait_ready()
        async with DeltaClient(server.port) as client:
            await client.subscribe(EXTENSION, "greet")
            answer = await client.take()
            body = answer.resources["greet"].body
            assert b"type.googleapis.com/acme.v1.Unheard" in body
            assert body.endswith(b"\x0a\x02hi")


async def _extensions(server: XdsServer) -> set[str]:
    async with DeltaClient(server.port) as client:
        await client.subscribe(EXTENSION, "greet")
        answer = await client.take()
        return set(answer.resources)


ROUTES = """\
resources:
- '@type': type.googleapis.com/envoy.config.route.v3.RouteConfiguration
  name: r
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - match: {prefix: /, cookies: [{name: c, string_match: {exact: "1"}}]}
      direct_response: {status: 200}
- '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: a
  type: STATIC
  track_timeout_budgets: true
"""
COOKIES = "envoy.config.route.v3.RouteMatch.cookies"


def test_validate_warns_of_deprecated_fields_and_of_what_an_older_envoy_lacks(xds, tmp_path: Path) -> None:
    for version, lacks in (("1.30.0", (COOKIES,)), ("1.40.0", ())):
        source = older_api(version, lacks=lacks)
        (tmp_path / f"envoy-{version}").write_bytes(encode_set(source.files, version))
    served = tmp_path / "served"
    served.mkdir()
    (served / "a.yaml").write_text(ROUTES)
    both = ["--schema", tmp_path / "envoy-1.30.0", "--schema", tmp_path / "envoy-1.40.0"]

    done = xds("validate", served, *both)
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 2
    assert lines[0].endswith("routes[0].match.cookies: is a field that Envoy 1.30.0 lacks")
    assert f"{served}/a.yaml:10: [default] clusters/a track_timeout_budgets: is deprecated in the v3 API" in lines[1]
    report = json.loads(xds("validate", served, "--format", "json").stdout)
    assert [(warning["resource"], warning["field"]) for warning in report["warnings"]] == [
        ("clusters/a", "track_timeout_budgets")
    ]
    assert report["ok"] is True

    only_old = xds("validate", served, "--schema", tmp_path / "envoy-1.30.0")
    assert (only_old.returncode, "unknown field of envoy.config.route.v3.RouteMatch" in only_old.stdout) == (1, True)


async def test_a_push_warns_of_what_the_envoys_of_connected_nodes_lack(tmp_path: Path) -> None:
    for version, lacks in (("1.30.0", (COOKIES,)), ("1.40.0", ())):
        source = older_api(version, lacks=lacks)
        (tmp_path / f"envoy-{version}").write_bytes(encode_set(source.files, version))
    schemas = ["--schema", str(tmp_path / "envoy-1.30.0"), "--schema", str(tmp_path / "envoy-1.40.0")]
    match: dict[str, Any] = {"prefix": "/", "cookies": [{"name": "c", "string_match": {"exact": "1"}}]}

    def routes(name: str) -> dict[str, Any]:
        host = {"name": "all", "domains": ["*"], "routes": [{"match": match, "direct_response": {"status": 200}}]}
        return {"@type": ROUTE, "name": name, "virtual_hosts": [host]}

    def node(minor: int) -> wire.Node:
        made = wire.Node(id=f"n{minor}", cluster="c", user_agent_name="envoy")
        made.user_agent_build_version.version.major_number = 1
        made.user_agent_build_version.version.minor_number = minor
        return made

    async with XdsServer(None, "--store", "memory:", "--workers", "0", *schemas) as server:
        await server.wait_ready()
        async with (
            Client(f"127.0.0.1:{server.api_port}") as client,
            DeltaClient(server.port) as old,
            DeltaClient(server.port) as new,
        ):
            for stream, minor in ((old, 30), (new, 40)):
                await stream.send(wire.DeltaDiscoveryRequest(type_url=ROUTE, node=node(minor)))
                await stream.take()
            (warning,) = (await client.apply(upsert=[routes("r")])).warnings
            await client.put_group("nobody")
            assert (await client.apply(upsert=[routes("r")], group="nobody")).warnings == ()
        what = "is a field that Envoy 1.30.0 lacks"
        assert (warning.what, warning.resource, warning.group) == (what, "routes/r", "default")
        assert warning.field == "virtual_hosts[0].routes[0].match.cookies"
        assert warning.hint.startswith("1 connected node is of this version: ")


async def test_apply_prints_what_is_deprecated(xds, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(ROUTES)
    async with XdsServer(None, "--store", "memory:", "--workers", "0") as server:
        await server.wait_ready()
        address = ["--api", f"127.0.0.1:{server.api_port}"]
        done = await asyncio.to_thread(xds, "apply", "-f", "a.yaml", *address, "--dry-run")
        assert (done.returncode, done.stderr.splitlines()[0]) == (
            0,
            "warning: [default] clusters/a track_timeout_budgets: is deprecated in the v3 API",
        )
        done = await asyncio.to_thread(xds, "apply", "-f", "a.yaml", *address, "-o", "json")
        (warning,) = json.loads(done.stdout)["warnings"]
        assert (warning["field"], done.stderr) == ("track_timeout_budgets", "")


def test_what_a_newer_envoy_may_know_is_not_refused_by_what_the_packaged_one_knows(xds, tmp_path: Path) -> None:
    """Commands of log formats and extensions' categories are not in the descriptors."""
    source = older_api("1.99.0", lacks=())
    (tmp_path / "envoy").write_bytes(encode_set(source.files, "1.99.0"))
    served = tmp_path / "served"
    served.mkdir()
    route = "- match: {prefix: /}\n      direct_response: {status: 200}\n"
    added = '      response_headers_to_add: [{header: {key: x, value: "%BRAND_NEW%"}}]\n'
    (served / "a.yaml").write_text(
        f"resources:\n- '@type': {ROUTE}\n  name: r\n  virtual_hosts:\n  - name: v\n"
        f'    domains: ["*"]\n    routes:\n    {route}{added}'
    )
    refused = xds("validate", served)
    assert (refused.returncode, "unknown command %BRAND_NEW%" in refused.stdout) == (1, True)
    assert xds("validate", served, "--schema", "envoy").returncode == 0
