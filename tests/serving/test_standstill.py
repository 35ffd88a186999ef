"""A server whose process stood still for longer than its timeouts reads first what arrived meanwhile."""

import os
import signal
from pathlib import Path

import pytest
from support import resources as r
from support.running import children_of
from support.server import XdsServer
from support.waiting import for_a_while
from support.wire import DeltaClient

HOLD_S = 1.5


def stop(server: XdsServer, sent: signal.Signals) -> None:
    """Stop the server and its workers, or have them go on."""
    for pid in (server.pid, *children_of(server.pid)):
        os.kill(pid, sent)


@pytest.mark.parametrize("workers", ["0", "1"])
async def test_an_answer_that_came_in_time_is_read_before_its_timeout_ends(tmp_path: Path, workers: str) -> None:
    r.write_directory(tmp_path, [r.static_cluster("a", 1), r.route("r", "a")])
    settings = {"protocol.hold_timeout_s": HOLD_S, "transport.kind": "native"}
    async with XdsServer(tmp_path, "--workers", workers, settings=settings) as server:
        await server.wait_ready()
        async with DeltaClient(server.port) as client:
            await client.subscribe(r.CLUSTER)
            await client.ack(await client.next())
            await client.subscribe(r.ROUTE, "r")
            await client.ack(await client.next())
            r.write_directory(tmp_path, [r.static_cluster("a", 1), r.static_cluster("b", 2), r.route("r", "b")])
            clusters = await client.next()
            assert clusters.type_url == r.CLUSTER
            stop(server, signal.SIGSTOP)
            try:
                await client.ack(clusters)
                await for_a_while(2 * HOLD_S, "the server stands still")
            finally:
                stop(server, signal.SIGCONT)
            assert (await client.next()).type_url == r.ROUTE
            await server.wait_ready()
            assert server.events("no answer") == []


@pytest.mark.parametrize("workers", ["0", "1"])
async def test_an_answer_that_does_not_come_is_given_up_soon_after(tmp_path: Path, workers: str) -> None:
    r.write_directory(tmp_path, [r.static_cluster("a", 1), r.route("r", "a")])
    settings = {"protocol.hold_timeout_s": HOLD_S, "transport.kind": "native"}
    async with XdsServer(tmp_path, "--workers", workers, settings=settings) as server:
        await server.wait_ready()
        async with DeltaClient(server.port) as client:
            await client.subscribe(r.CLUSTER)
            await client.next()
            stop(server, signal.SIGSTOP)
            try:
                await for_a_while(2 * HOLD_S, "the server stands still")
            finally:
                stop(server, signal.SIGCONT)
            (event,) = await server.wait_event("no answer", timeout_s=10.0)
            assert event["type"] == "clusters"
