"""Two replicas on one etcd behind a balancer: one is killed, and its streams go on at the other with what they have.

``XDS_REPLICA_STREAMS`` sets how many streams there are; ``make faults`` has 2,000.
"""

import asyncio
import os
import time
from contextlib import suppress

import pytest
from support import resources as r
from support.etcd import Etcd
from support.server import XdsServer
from support.worker_fleet import Fleet

from xds.client import Client

STREAMS = int(os.environ.get("XDS_REPLICA_STREAMS", "200"))
MOVED_S = 5.0


class Balancer:
    """Connections to whichever of several ports takes them, in turn."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._next = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> "Balancer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4_096)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self._ports:
            self._next += 1
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", self._ports[self._next % len(self._ports)])
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        dialled = await self._dial()
        try:
            if dialled is not None:
                await asyncio.gather(_copy(reader, dialled[1]), _copy(dialled[0], writer), return_exceptions=True)
        finally:
            for each in (writer, *([dialled[1]] if dialled is not None else [])):
                each.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def streams_of(server: XdsServer) -> int:
    return int((await server.metrics())["xds_streams"])


@pytest.mark.timeout(300)
async def test_a_replica_that_is_killed_costs_its_streams_a_reconnect_and_nothing_else() -> None:
    async with Etcd() as etcd:
        options = ("--store", etcd.url())
        async with XdsServer(None, *options) as one, XdsServer(None, *options) as two:
            await one.wait_ready()
            await two.wait_ready()
            async with Client(f"127.0.0.1:{one.api_port}") as client:
                await client.apply(upsert=[r.static_cluster(f"c{number}", 1) for number in range(50)])
            first, second = [(await server.admin("/v1/groups/default/snapshot")).json() for server in (one, two)]
            assert first == second
            async with (
                Balancer([one.port, two.port]) as balancer,
                Fleet(balancer.port, STREAMS, r.CLUSTER) as fleet,
            ):
                async with asyncio.timeout(120):
                    while any(len(follower.versions) != 50 for follower in fleet.followers):
                        await asyncio.sleep(0.1)
                had = await streams_of(one)
                assert had > STREAMS // 4, "both have some"
                one.kill()
                killed = time.monotonic()
                async with asyncio.timeout(60):
                    while await streams_of(two) < STREAMS:
                        await asyncio.sleep(0.02)
                moved_s = time.monotonic() - killed
                async with Client(f"127.0.0.1:{two.api_port}") as client:
                    await client.apply(upsert=[r.static_cluster("new", 1)])
                async with asyncio.timeout(30):
                    while any(len(follower.versions) != 51 for follower in fleet.followers):
                        await asyncio.sleep(0.1)
                repeated = [each for follower in fleet.followers for each in follower.repeated]
    print(f"{had} of {STREAMS} streams went on at the other replica after {moved_s:.2f} s, {len(repeated)} sent again")
    assert repeated == []
    assert moved_s <= MOVED_S
