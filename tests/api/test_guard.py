"""Authorization on the admin port by host name, page origin and token, on a running server."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Route
from support.fetch import fetch
from support.server import XdsServer

from xds.api.admin import admin_app
from xds.api.admission import Admission
from xds.api.guard import Guard, Hosts, peer_of
from xds.api.rest import rest_api
from xds.transport.grpcio_clients import address_text

OPEN = {"/", "/healthz", "/readyz", "/metrics"}
"""The paths open to everyone, by any host name: they show no resource, group or node."""
TOKEN = "s3cret"


def routes() -> list[tuple[str, str]]:
    """Return every path and method of the admin port, including those that FastAPI adds, and some that do not exist."""
    nothing: Any = None
    admin = admin_app(healthy=nothing, ready=nothing, metrics=nothing)
    api: Any = rest_api(nothing, Admission(), body_bytes_max=1).app.app._app
    found = []
    for route in (*admin.routes, *api.routes):
        assert isinstance(route, Route | APIRoute), f"a new kind of route: {route}"
        found += [(route.path, method) for method in sorted(route.methods or ())]
    assert {"/v1/docs", "/v1/openapi.json", "/v1/watch", "/v1/groups/{group}/snapshot"} < {path for path, _ in found}
    return [*found, ("/v1", "GET"), ("/v1/nothing", "GET"), ("/v2", "POST"), ("/v1/groups", "PATCH")]


def filled(path: str) -> str:
    words = {"{name:path}": "s", "{id:path}": "n", "{group}": "default", "{type}": "secrets", "{revision}": "1"}
    for parameter, word in words.items():
        path = path.replace(parameter, word)
    assert "{" not in path
    return path + ("?from=0" if path.endswith(("/watch", "/diff")) else "")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[XdsServer]:
    (tmp_path / "token").write_text(TOKEN)
    options = ["--api-token-file", str(tmp_path / "token"), "--workers", "0", "--set", "api.hosts=xds.example, b.test"]
    async with XdsServer(None, *options) as running:
        await running.wait_ready()
        yield running


async def test_every_path_but_health_and_metrics_asks_for_the_token(server: XdsServer) -> None:
    for path, method in routes():
        answer = await fetch(server.admin_port, filled(path), method=method)
        assert (answer.status == 401) is (path not in OPEN), f"{method} {path}: {answer.status}"
        assert ("www-authenticate" in answer.headers) is (path not in OPEN)
        shown = {"authorization": f"Bearer {TOKEN}"}
        if path != "/v1/watch":
            answer = await fetch(server.admin_port, filled(path), method=method, headers=shown)
            assert answer.status != 401, f"{method} {path}"


async def test_a_name_that_is_not_the_servers_reads_nothing_and_changes_nothing(server: XdsServer) -> None:
    shown = {"authorization": f"Bearer {TOKEN}"}
    for path, method in routes():
        answer = await fetch(
            server.admin_port, filled(path), method=method, headers=shown, authority="evil.example.com:19000"
        )
        assert (answer.status == 421) is (path not in OPEN), f"{method} {path}: {answer.status}"
    groups = await fetch(server.admin_port, "/v1/groups", headers=shown)
    assert groups.json()["revision"] == 0
    for name in ("localhost", "LOCALHOST.", "127.0.0.1", "[::1]", "10.1.2.3", "xds.example", "B.test"):
        for port in ("", ":19000"):
            answer = await fetch(server.admin_port, "/v1/groups", headers=shown, authority=name + port)
            assert answer.status == 200, name + port
    for name in ("evil.example.com", "xds.example.evil.com", "localhost.evil.com", "127.0.0.1.evil.com", "[", "a:b:c"):
        assert (await fetch(server.admin_port, "/v1/groups", headers=shown, authority=name)).status == 421, name


async def test_a_page_of_another_origin_is_refused_whatever_it_asks(server: XdsServer) -> None:
    port = server.admin_port
    shown = {"authorization": f"Bearer {TOKEN}"}
    for origin in ("http://evil.example.com", "null", f"http://localhost:{port + 1}", "http://[", "file://", ""):
        for path, method in routes():
            answer = await fetch(port, filled(path), method=method, headers=shown | {"origin": origin})
            assert (answer.status == 403) is (path not in OPEN), f"{origin}: {method} {path}: {answer.status}"
            assert "access-control-allow-origin" not in answer.headers
    for host, origin in (
        (f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"),
        (f"127.0.0.1:{port}", f"https://127.0.0.1:{port}"),
        ("xds.example", "https://xds.example"),
        ("xds.example:443", "https://xds.example"),
    ):
        answer = await fetch(port, "/v1/groups", headers=shown | {"origin": origin}, authority=host)
        assert answer.status == 200, origin


def test_any_name_is_one_where_that_is_set_and_admins_own_host_always_is() -> None:
    assert Hosts(["*"]).has("evil.example.com")
    assert Hosts(["node-1"]).has("node-1:19000")
    assert not Hosts().has("node-1:19000")
    assert not Hosts().has("")
    assert isinstance(rest_api(None, Admission(), body_bytes_max=1), Guard)  # type: ignore[arg-type]


def test_a_peer_is_told_as_grpc_calls_have_it() -> None:
    for client, told in ((("::1", 5), "[::1]:5"), (("10.0.0.1", 5), "10.0.0.1:5"), (None, "")):
        assert peer_of({"client": client}) == told
    assert address_text("ipv6:%5B::1%5D:5") == peer_of({"client": ("::1", 5)})
