"""`xds serve` with more silent connections on a port than it takes: health is answered, and newcomers are served."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support import resources as r
from support.fetch import fetch
from support.server import XdsServer

CROWD = 1_100
HALF = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
BODY = b"PUT /v1/groups/default/snapshot HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{"


@asynccontextmanager
async def crowd(port: int, said: bytes = b"", count: int = CROWD) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Connect so many clients that say this and no more."""
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
    settings = {"connections.headers_timeout_s": 5, "connections.body_timeout_s": 5}
    async with XdsServer(tmp_path, settings=settings) as server:
        await server.wait_ready()
        async with crowd(server.admin_port, said) as readers:
            for path in ("/healthz", "/readyz", "/metrics"):
                assert (await fetch(server.admin_port, path)).status == 200, path
            ends = await asyncio.gather(*(is_ended(reader, 20.0) for reader in readers))
            assert all(ends)
            assert (await fetch(server.admin_port, "/v1/groups")).status == 200
