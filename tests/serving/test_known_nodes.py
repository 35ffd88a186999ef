"""Which nodes are known, as real streams begin and end, in one process and in several."""

import os
import signal
import time
from collections.abc import AsyncIterator

import pytest
from support.freezing_proxy import FreezingProxy
from support.transports import settings_on
from support.waiting import stays, wait_until
from support.wire import DeltaClient

from xds.app import App
from xds.model.types import CLUSTER
from xds.registry.known_nodes import PROCESS_ENDED, KnownNode
from xds.serving.streams import REPLACED


@pytest.fixture(params=[("native", 0), ("native", 2), ("grpcio", 0)], ids=["alone", "workers", "grpcio"])
async def app(request: pytest.FixtureRequest) -> AsyncIterator[App]:
    kind, workers = request.param
    app = App(settings_on(kind, transport={"workers": workers}, drain={"timeout_s": 0}), workers=workers)
    await app.start()
    yield app
    await app.stop()


def node(app: App, node_id: str) -> KnownNode | None:
    return app.known.node(node_id, time.time_ns() // 1_000_000)


def is_connected(app: App, node_id: str) -> bool | None:
    found = node(app, node_id)
    return None if found is None else found.is_connected


async def test_a_node_is_known_while_it_is_connected_and_afterwards(app: App) -> None:
    before_ms = time.time_ns() // 1_000_000
    async with DeltaClient(str(app.address), node_id="n") as client:
        await client.subscribe(CLUSTER)
        await client.ack(await client.next())
        await wait_until(lambda: is_connected(app, "n"), equals=True)
        found = node(app, "n")
        assert found is not None
        assert (found.group, found.address.rpartition(":")[0]) == ("default", "127.0.0.1")
        assert before_ms <= found.first_seen_ms <= found.last_seen_ms <= time.time_ns() // 1_000_000
    await wait_until(lambda: is_connected(app, "n"), equals=False)
    found = node(app, "n")
    assert found is not None
    assert found.left_because in (
        "the client ended its stream",
        "the client reset its stream",
        "its connection closed",
        "the client reset its stream, or its connection closed",
    )
    assert app.known.gone_by_group == {"default": 1}


async def test_a_node_that_the_server_sends_away_is_gone_for_that_reason(app: App) -> None:
    async with DeltaClient(str(app.address), node_id="n") as client:
        await client.subscribe(CLUSTER)
        await client.next()
        await app.drain()
    await wait_until(lambda: is_connected(app, "n"), equals=False)
    found = node(app, "n")
    assert found is not None
    assert found.left_because == "UNAVAILABLE: this server is shutting down; connect again"


async def test_the_nodes_of_a_killed_worker_are_gone_until_they_return() -> None:
    app = App(settings_on("native", transport={"workers": 2}), workers=2)
    await app.start()
    try:
        clients = [DeltaClient(str(app.address), node_id=f"n{number}") for number in range(8)]
        for client in clients:
            await client.__aenter__()
            await client.subscribe(CLUSTER)
            await client.next()
        await wait_until(lambda: len(app.known), equals=8)
        victim = app.worker_pids[0]
        served = [each for each in range(8) if app.known._records[f"n{each}"].process == victim]
        os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: app.known.gone_by_group.get("default", 0), equals=len(served))
        assert {found.left_because for each in served if (found := node(app, f"n{each}"))} <= {PROCESS_ENDED}
        for number in served:
            async with DeltaClient(str(app.address), node_id=f"n{number}") as client:
                await client.subscribe(CLUSTER)
                await client.next()
                await wait_until(lambda number=number: is_connected(app, f"n{number}"), equals=True)
    finally:
        await app.stop()


@pytest.mark.parametrize("workers", [0, 2])
async def test_a_newer_stream_of_a_node_ends_a_half_open_one(workers: int) -> None:
    app = App(settings_on("native", transport={"workers": workers}), workers=workers)
    await app.start()
    try:
        assert app.address is not None
        async with FreezingProxy(app.address.port) as proxy:
            old = await DeltaClient(proxy.port, node_id="n").__aenter__()
            await old.subscribe(CLUSTER)
            await old.next()  # it never answers
            proxy.freeze()
            async with DeltaClient(app.address.port, node_id="n") as new:
                await new.subscribe(CLUSTER)
                await new.ack(await new.next())
                await wait_until(lambda: len(app.known.sessions("n")), equals=2)
                revision = app.catalog.revision or 1
                assert tuple((await app.debts()).at(revision)) == (0, 1, 0), "the worst of its streams"
                await wait_until(lambda: len(app.known.sessions("n")), equals=1)
                await wait_until(lambda: app.stream_count, equals=1)
                assert tuple((await app.debts()).at(revision)) == (1, 0, 0)
                assert is_connected(app, "n")
    finally:
        await app.stop()
    assert REPLACED.startswith("its node has a newer stream")


@pytest.mark.parametrize("workers", [0, 2])
async def test_two_clients_that_share_an_id_both_stay(workers: int) -> None:
    app = App(settings_on("native", transport={"workers": workers}), workers=workers)
    await app.start()
    try:
        async with DeltaClient(str(app.address), node_id="n") as one, DeltaClient(str(app.address), node_id="n") as two:
            for client in (one, two):
                await client.subscribe(CLUSTER)
                await client.ack(await client.next())
            await wait_until(lambda: len(app.known.sessions("n")), equals=2)
            await stays(lambda: len(app.known.sessions("n")), equals=2, for_s=4)
            assert tuple((await app.debts()).at(1)) == (1, 0, 0)
    finally:
        await app.stop()
