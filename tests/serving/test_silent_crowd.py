"""`xds serve` with more silent connections on a port than it accepts: health checks and new clients are served."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support import resources as r
from support.fetch import fetch
from support.running import children_of, runs
from support.server import XdsServer
from support.waiting import for_a_while, wait_until
from support.wire import DeltaClient

from xds.client import Client, UnavailableError

CROWD = 1_100
HALF = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
BODY = b"PUT /v1/groups/default/snapshot HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{"


@asynccontextmanager
async def crowd(port: int, said: bytes = b"", count: int = CROWD) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Connect a number of clients that send these bytes and nothing more."""
    connected = []
    try:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            connected.append((reader, writer))
            writer.write(said)
        yield [reader for reader, _ in connected]
    finally:
        for _, writer in connected:
            writer.transport.abort()


async def is_ended(reader: asyncio.StreamReader, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            with contextlib.suppress(ConnectionError):
                await reader.read(-1)
            return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("said", [b"", HALF, BODY], ids=["nothing", "half", "body"])
async def test_health_is_answered_and_newcomers_are_served_while_1000_connections_say_nothing(
    tmp_path: Path, said: bytes
) -> None:
    r.write_directory(tmp_path, [r.static_cluster("a", 1)])
    settings = {"connections.headers_timeout_s": 5, "api.body_timeout_s": 5}
    async with XdsServer(tmp_path, settings=settings) as server:
        await server.wait_ready()
        async with crowd(server.admin_port, said) as readers:
            for path in ("/healthz", "/readyz", "/metrics"):
                assert (await fetch(server.admin_port, path)).status == 200, path
            ends = await asyncio.gather(*(is_ended(reader, 20.0) for reader in readers))
            assert all(ends)
            assert (await fetch(server.admin_port, "/v1/groups")).status == 200


# --- xDS and the push API --------------------------------------------------------------------------------------------

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
SAID = {
    "nothing": b"",
    "half a preface": PREFACE[:10],
    "settings": PREFACE + SETTINGS,
    "no HTTP/2": b"GET / HTTP/1.1\r\n",
}


async def is_served(port: int) -> None:
    async with DeltaClient(port) as client:
        await client.subscribe(r.CLUSTER)
        assert (await client.take(timeout_s=20.0)).names == {"a"}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
async def test_xds_takes_newcomers_whatever_the_crowd_says_and_keeps_the_streams_that_it_has(
    tmp_path: Path, said: bytes, workers: int
) -> None:
    r.write_directory(tmp_path, [r.static_cluster("a", 1)])
    settings = {
        "transport.kind": "native",
        "connections.xds_max": CROWD // 4,
        "connections.handshake_timeout_s": 600,
        "connections.idle_timeout_s": 600,
    }
    async with XdsServer(tmp_path, "--workers", str(workers), settings=settings) as server:
        await server.wait_ready()
        async with DeltaClient(server.port) as old:
            await old.subscribe(r.CLUSTER)
            await old.ack(await old.take())
            async with crowd(server.port, said):
                for _ in range(5):
                    await is_served(server.port)
                assert (await fetch(server.admin_port, "/readyz")).text == "ready"
                r.write_directory(tmp_path, [r.static_cluster("a", 1), r.static_cluster("b", 1)])
                assert (await old.take(timeout_s=20.0)).names == {"b"}


@pytest.mark.parametrize("kind", ["native", "grpcio"])
async def test_silent_connections_of_xds_and_the_push_api_end_in_time(tmp_path: Path, kind: str) -> None:
    r.write_directory(tmp_path, [r.static_cluster("a", 1)])
    times = ("headers_timeout_s", "handshake_timeout_s", "idle_timeout_s")
    settings = {"transport.kind": kind} | {f"connections.{each}": 2 for each in times}
    async with XdsServer(tmp_path, settings=settings) as server:
        await server.wait_ready()
        for port in (server.port, server.api_port):
            for said in ("nothing", "half a preface", "settings"):
                async with crowd(port, SAID[said], 20) as readers:
                    assert all(await asyncio.gather(*(is_ended(each, 20.0) for each in readers))), (port, said)


# --- Descriptors -----------------------------------------------------------------------------------------------------

LIMIT = 256


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def asked(server: XdsServer) -> str:
    async with Client(f"127.0.0.1:{server.api_port}", patience_s=0) as client:
        try:
            return str(await asyncio.wait_for(client.revision(), 5.0))
        except (UnavailableError, TimeoutError):
            return "unavailable"


async def test_a_killed_worker_is_replaced_while_clients_take_all_descriptors_that_they_can(tmp_path: Path) -> None:
    r.write_directory(tmp_path, [r.static_cluster("a", 1)])
    settings = {"transport.kind": "native"}
    async with contextlib.AsyncExitStack() as stack:
        server = XdsServer(tmp_path, "--workers", "2", settings=settings)
        server.argv = ["bash", "-c", f'ulimit -n {LIMIT}; exec "$@"', "bash", *server.argv]
        await stack.enter_async_context(server)
        await server.wait_ready()
        assert server.pid is not None
        workers = children_of(server.pid)
        for port in (server.admin_port, server.api_port, server.port):
            await stack.enter_async_context(crowd(port, b"", 2 * LIMIT))
        assert [pid for pid in (server.pid, *workers) if descriptors(pid) > LIMIT - 32] == []
        before = {pid: cpu_s(pid) for pid in (server.pid, *workers)}
        await for_a_while(2.0, "processes that spin take CPU time meanwhile")
        assert [pid for pid, cpu in before.items() if cpu_s(pid) - cpu > 1.0] == []
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await fetch(server.admin_port, path)).status == 200, path

        os.kill(workers[0], signal.SIGKILL)
        await wait_until(lambda: not runs(workers[0]))
        await wait_until(lambda: len(children_of(server.pid)), equals=2)
        r.write_directory(tmp_path, [r.static_cluster("a", 2)])  # files are read, the store is written
        for _ in range(5):
            await is_served(server.port)
        assert (await fetch(server.admin_port, "/healthz")).text == "ok"
        assert (await fetch(server.admin_port, "/v1/groups")).status == 200
        # Silent ones end after headers_timeout_s; until then the API has no room.
        await wait_until(lambda: asked(server), equals="2", poll_s=0.1)
        assert server.events("a worker is lacking, trying again") == []
        (told,) = server.events("fewer connections than set, for want of descriptors")
        assert told["connections"]["admin"] < told["settings"]["admin"]
