import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CONTENT_TYPE_LATEST
from support.fetch import fetch

from xds.address import Address, BindError
from xds.api.admin import AdminServer

ANY = Address("127.0.0.1", 0)


def rendered(text: bytes) -> Callable[[], Awaitable[bytes]]:
    async def metrics() -> bytes:
        return text

    return metrics


class State:
    is_healthy = True
    readiness = (True, "")


@asynccontextmanager
async def admin_server(state: State, address: Address = ANY) -> AsyncIterator[Address]:
    server = AdminServer(
        address,
        healthy=lambda: state.is_healthy,
        ready=lambda: state.readiness,
        metrics=rendered(b"xds_streams 3\n"),
    )
    bound = await server.start()
    try:
        yield bound
    finally:
        await server.stop()


async def test_health_and_readiness_follow_the_server() -> None:
    state = State()
    async with admin_server(state) as bound:
        assert bound.port > 0
        health = await fetch(bound.port, "/healthz")
        assert (health.status, health.text, health.headers["cache-control"]) == (200, "ok", "no-store")
        ready = await fetch(bound.port, "/readyz")
        assert (ready.status, ready.text) == (200, "ready")
        state.readiness = (False, "draining: 12 streams left")
        ready = await fetch(bound.port, "/readyz")
        assert (ready.status, ready.text) == (503, "draining: 12 streams left")
        state.readiness = (False, "")
        assert (await fetch(bound.port, "/readyz")).text == "not ready"
        state.is_healthy = False
        health = await fetch(bound.port, "/healthz")
        assert (health.status, health.text) == (503, "not healthy")


async def test_metrics_are_prometheus_text() -> None:
    async with admin_server(State()) as bound:
        answer = await fetch(bound.port, "/metrics")
        assert (answer.status, answer.body) == (200, b"xds_streams 3\n")
        assert answer.headers["content-type"] == CONTENT_TYPE_LATEST


async def test_what_there_is_is_listed_and_the_rest_is_plainly_refused() -> None:
    async with admin_server(State()) as bound:
        index = await fetch(bound.port, "/")
        assert index.status == 200
        assert all(path in index.text for path in ("/healthz", "/readyz", "/metrics"))
        missing = await fetch(bound.port, "/nope")
        assert (missing.status, missing.text) == (404, "Not Found")
        refused = await fetch(bound.port, "/readyz", method="POST")
        assert (refused.status, refused.text) == (405, "Method Not Allowed")
        assert refused.headers["content-type"].startswith("text/plain")
        assert "server" not in index.headers
        assert (await fetch(bound.port, "/healthz", method="HEAD")).status == 200


async def test_a_port_in_use_is_told_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(BindError) as caught:
            async with admin_server(State(), address):
                pass
    assert str(caught.value).startswith(f"the admin address {address} is in use by another process; ")


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "x" * 64 + ".example"])
async def test_an_address_that_is_not_this_machines_is_told(host: str) -> None:
    with pytest.raises(BindError) as caught:
        async with admin_server(State(), Address(host, 0)):
            pass
    assert str(caught.value).startswith(f"the admin address {host}:0 ")


async def test_ipv6_and_names_can_be_listened_on() -> None:
    async with admin_server(State(), Address("localhost", 0)) as bound:
        assert bound.host == "localhost"
    if socket.has_ipv6:
        async with admin_server(State(), Address("::1", 0)) as bound:
            assert (await fetch(bound.port, "/healthz", host="::1")).status == 200


async def test_signals_stay_with_whoever_runs_the_loop() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with admin_server(State()) as bound:
        await fetch(bound.port, "/healthz")
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_stop_closes_the_port_and_idle_connections_and_may_be_repeated() -> None:
    server = AdminServer(ANY, healthy=lambda: True, ready=lambda: (True, ""), metrics=rendered(b""))
    await server.stop()
    bound = await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", bound.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    await server.stop()
    await reader.read()
    writer.close()
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        await fetch(bound.port, "/healthz")


async def test_stop_right_after_start_leaves_nothing_open() -> None:
    async with admin_server(State()) as bound:
        pass
    with pytest.raises(ConnectionRefusedError):
        await fetch(bound.port, "/healthz")
