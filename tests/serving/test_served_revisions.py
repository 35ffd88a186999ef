"""A push returns once every process serves it, or after a second, and then says which lack it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
from support import resources as r
from support.running import runs
from support.server import XdsServer
from support.waiting import turns, wait_until
from support.wire import DeltaClient

from xds.client import Client
from xds.serving.served import ServedRevisions


async def test_it_waits_for_every_process() -> None:
    served = ServedRevisions[str]()
    served.note("a", 1)
    served.note("b", 1)
    assert await served.wait("ab", 1) == set()
    waiting = asyncio.create_task(served.wait("ab", 2, 20))
    also = asyncio.create_task(served.wait("ab", 2, 20))
    await turns()
    served.note("a", 3)
    await turns()
    assert not waiting.done()
    served.note("b", 2)
    assert (await waiting, await also, served._waiting) == (set(), set(), {})


async def test_a_process_that_is_late_is_not_waited_for_again_until_it_says_something() -> None:
    served = ServedRevisions[str]()
    served.note("a", 1)
    served.note("b", 1)
    assert await served.wait("ab", 2, 0.01) == {"a", "b"}
    served.note("a", 2)
    assert await served.wait("ab", 2, 20) == {"b"}, "only b is late"
    served.note("b", 2)
    waiting = asyncio.create_task(served.wait("ab", 3, 20))
    await turns()
    assert not waiting.done()
    served.note("a", 3)
    served.note("b", 3)
    assert await waiting == set()


async def test_a_process_that_ends_lacks_nothing() -> None:
    served = ServedRevisions[str]()
    served.note("a", 1)
    waiting = asyncio.create_task(served.wait("a", 2, 20))
    await turns()
    served.forget("a")
    assert await waiting == set()


@pytest.fixture(params=["0", "2"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[XdsServer]:
    async with XdsServer(None, "--workers", request.param) as server:
        await server.wait_ready()
        yield server


async def test_a_stream_that_begins_after_a_push_has_returned_is_served_it(server: XdsServer) -> None:
    async with Client(f"127.0.0.1:{server.api_port}") as client:
        for number in range(15):
            applied = await client.apply(upsert=[r.static_cluster(f"c{number}", 1)])
            assert applied.warnings == ()
            async with DeltaClient(server.port, node_id=f"n{number}") as node:
                await node.subscribe(r.CLUSTER, f"c{number}")
                response = await node.next()
                assert (response.names, response.removed) == ({f"c{number}"}, ())


async def test_a_push_waits_a_second_for_a_stopped_worker_and_names_it() -> None:
    async with XdsServer(None, "--workers", "2") as server:
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}") as client:
            await client.apply(upsert=[r.static_cluster("a", 1)])
            victim = _worker_of(server.pid)
            os.kill(victim, signal.SIGSTOP)
            loop = asyncio.get_running_loop()
            try:
                since = loop.time()
                applied = await client.apply(upsert=[r.static_cluster("a", 2)])
                assert loop.time() - since >= 1
                (warning,) = applied.warnings
                assert f"(pid {victim})" in warning.what
                since = loop.time()
                applied = await client.apply(upsert=[r.static_cluster("a", 3)])
                assert f"(pid {victim})" in applied.warnings[0].what
                assert loop.time() - since < 1, "it is known to be late"
            finally:
                os.kill(victim, signal.SIGCONT)
            assert runs(victim)

            async def warnings() -> int:
                return len((await client.apply(upsert=[r.static_cluster("b", 1)])).warnings)

            await wait_until(warnings, equals=0)


def _worker_of(pid: int) -> int:
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return int(children.read().split()[0])
