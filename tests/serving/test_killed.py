"""A killed worker costs its streams one reconnect, and other clients nothing."""

import asyncio
import os
import random
import signal
from typing import Any

import pytest
from grpc import aio
from support import resources as r
from support.control_planes import app_of, port_of, served
from support.running import runs
from support.waiting import for_a_while, wait_until
from support.wire import DeltaClient
from support.worker_fleet import Fleet, metrics, shares

from xds.api.csds import SERVICE
from xds.embed import ControlPlane
from xds.schema.pool import load_schema

STREAMS = 24
TIMEOUT_S = 30.0


async def kill_one(control_plane: ControlPlane, chance: random.Random) -> int:
    """Kill a worker that has streams; return how many."""
    share = shares(app_of(control_plane).worker_pids, port_of(control_plane))
    victim = chance.choice([pid for pid in share if share[pid]])
    os.kill(victim, signal.SIGKILL)
    await wait_until(lambda: not runs(victim))
    return share[victim]


def change_at_random(control_plane: ControlPlane, chance: random.Random) -> None:
    names = [f"c{number}" for number in chance.sample(range(30), 3)]
    present = served(control_plane)
    gone = [("clusters", name) for name in names[:1] if name in present]
    upserts = [r.static_cluster(name, chance.randrange(1, 4)) for name in names[1:]]
    control_plane.apply(upsert=upserts, remove=gone)


async def test_whatever_is_killed_while_changes_go_on_every_stream_ends_up_with_what_is_served(serving):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    resources = [r.static_cluster(f"c{number}", 1) for number in range(20)]
    async with (
        serving({"default": resources}) as control_plane,
        Fleet(port_of(control_plane), STREAMS, r.CLUSTER) as fleet,
    ):
        await fleet.wait_versions(served(control_plane))
        expected_streams, counted = STREAMS, {}
        for _ in range(3):
            changing = asyncio.create_task(_keep_changing(control_plane, chance))
            expected_streams += await kill_one(control_plane, chance)
            await wait_until(lambda: fleet.streams, equals=expected_streams)
            changing.cancel()
            await asyncio.gather(changing, return_exceptions=True)
            await fleet.wait_versions(served(control_plane))
            assert fleet.streams == expected_streams  # the other worker's streams were not affected
            assert [follower.repeated for follower in fleet.followers if follower.repeated] == []
            counted = await _check_figures(control_plane, counted)
        await wait_until(lambda: len(app_of(control_plane).worker_pids), equals=2)


async def _keep_changing(control_plane: ControlPlane, chance: random.Random) -> None:
    while True:
        change_at_random(control_plane, chance)
        await for_a_while(0.01, "the pace of the changes")


async def _check_figures(control_plane: ControlPlane, before: dict[str, float]) -> dict[str, float]:
    """Assert that totals only grow, and that all streams are open; return the totals."""
    assert control_plane.admin_address is not None
    port = control_plane.admin_address.port
    said = await wait_until(lambda: metrics(port), lambda found: found["xds_streams"] == STREAMS, poll_s=0.01)
    assert said["xds_streams_opened_total"] - said["xds_streams_closed_total"] == STREAMS
    # Those of a process, which a replaced worker begins anew, are apart.
    own = {name for name in said if name.startswith("xds_process_")}
    totals = {name: value for name, value in said.items() if name.endswith("_total") and name not in own}
    assert [name for name, value in before.items() if totals[name] < value] == []
    return totals


async def test_both_at_once_can_be_killed_and_what_changed_meanwhile_is_all_that_is_sent(serving):
    resources = [r.static_cluster(f"c{number}", 1) for number in range(20)]
    async with (
        serving({"default": resources}) as control_plane,
        Fleet(port_of(control_plane), STREAMS, r.CLUSTER) as fleet,
    ):
        await fleet.wait_versions(served(control_plane))
        for pid in app_of(control_plane).worker_pids:
            os.kill(pid, signal.SIGKILL)
        control_plane.apply(upsert=[r.static_cluster("c3", 9)], remove=[("clusters", "c4")])
        await fleet.wait_versions(served(control_plane))
        assert [follower.streams for follower in fleet.followers] == [2] * STREAMS
        for follower in fleet.followers:
            assert [name for name, _ in follower.sent] == ["c3"]
            assert [response.removed for response in follower.responses[-1] if response.removed] == [("c4",)]


async def test_streams_come_back_to_the_same_content_and_are_sent_nothing(serving):
    async with serving() as control_plane, Fleet(port_of(control_plane), STREAMS, r.CLUSTER) as fleet:
        await fleet.wait_versions(served(control_plane))
        for pid in app_of(control_plane).worker_pids:
            os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: fleet.streams, equals=2 * STREAMS)
        control_plane.apply(upsert=[r.static_cluster("z", 1)])
        await fleet.wait_versions(served(control_plane))
        assert {tuple(name for name, _ in follower.sent) for follower in fleet.followers} == {("z",)}


async def test_who_connects_while_a_worker_is_being_replaced_waits_and_is_served(serving):
    async with serving(workers=1) as control_plane:
        os.kill(app_of(control_plane).worker_pids[0], signal.SIGKILL)
        async with DeltaClient(port_of(control_plane)) as client:
            await client.subscribe(r.CLUSTER)
            assert (await client.take(timeout_s=TIMEOUT_S)).names == {"a"}


# --- What was rejected -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [False, True], ids=["reconnect", "killed"])
async def test_what_was_rejected_is_sent_again_by_any_worker_whatever_the_client_claims(serving, killed):
    """Envoy took the removal of b from a response that it rejected, and goes on claiming b.

    See docs/envoy-behaviour.md#rejected-responses.
    """
    nodes = [f"n{number}" for number in range(16)]
    resources = [r.static_cluster("a", 1), r.static_cluster("b", 3)]
    # With ordering, b would be removed only after the rest is accepted; merged, the client would reconnect first.
    protocol = {"ordering": False, "coalesce_s": 0}
    async with serving({"default": resources}, protocol=protocol) as control_plane:
        claims = served(control_plane)
        clients = [DeltaClient(port_of(control_plane), node_id=node) for node in nodes]
        for client in clients:
            await client.open()
            await client.subscribe(r.CLUSTER)
            await client.take()
        control_plane.apply(upsert=[r.static_cluster("bad", 1)], remove=[("clusters", "b")])
        for client in clients:
            first = await client.next()
            assert (first.names, first.removed) == ({"bad"}, ("b",))
            await client.nack(first)
        await _wait_total(control_plane, "xds_nacks_total", len(nodes))
        if killed:
            for pid in app_of(control_plane).worker_pids:
                os.kill(pid, signal.SIGKILL)
        for client in clients:
            await client.close()
        control_plane.apply(upsert=[r.static_cluster("b", 3)], remove=[("clusters", "bad")])
        again = [DeltaClient(port_of(control_plane), node_id=node) for node in nodes]
        for client in again:
            await client.open()
            await client.subscribe(r.CLUSTER, initial=claims)
            response = await client.take(timeout_s=TIMEOUT_S)
            assert response.names == {"b"}
        await _wait_total(control_plane, "xds_acks_total", len(nodes) * (1 if killed else 2))
        for client in again:
            await client.close()
        # The client accepted that: from now on all workers trust its claims again.
        for node in nodes:
            async with DeltaClient(port_of(control_plane), node_id=node) as client:
                await client.subscribe(r.CLUSTER, initial=claims)
                await client.quiet(0.02)


async def _wait_total(control_plane: ControlPlane, name: str, at_least: int) -> None:
    assert control_plane.admin_address is not None
    port = control_plane.admin_address.port
    await wait_until(lambda: metrics(port), lambda found: found[name] >= at_least, poll_s=0.01)


# --- CSDS ------------------------------------------------------------------------------------------------------------


async def nodes_seen(control_plane: ControlPlane, timeout_s: float = TIMEOUT_S) -> list[str]:
    """Return the ids of the nodes that CSDS reports on a new connection."""
    schema = load_schema()
    request = schema.message_class("envoy.service.status.v3.ClientStatusRequest")()
    response_class: Any = schema.message_class("envoy.service.status.v3.ClientStatusResponse")
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with aio.insecure_channel(f"127.0.0.1:{port_of(control_plane)}", options=options) as channel:
        fetch = channel.unary_unary(
            f"/{SERVICE}/FetchClientStatus",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_class.FromString,
        )
        answer = await fetch(request, timeout=timeout_s)
    return sorted(config.node.id for config in answer.config)


async def test_csds_of_any_worker_tells_of_the_nodes_of_all(serving):
    async with serving(csds=True) as control_plane, Fleet(port_of(control_plane), STREAMS, r.CLUSTER) as fleet:
        await fleet.wait_versions(served(control_plane))
        expected = sorted(follower.node_id for follower in fleet.followers)
        assert min(shares(app_of(control_plane).worker_pids, port_of(control_plane)).values()) > 0
        for _ in range(10):
            assert await nodes_seen(control_plane) == expected


async def test_csds_does_not_wait_for_a_worker_that_dies_before_it_answers(serving):
    async with serving(csds=True) as control_plane, Fleet(port_of(control_plane), STREAMS, r.CLUSTER) as fleet:
        await fleet.wait_versions(served(control_plane))
        share = shares(app_of(control_plane).worker_pids, port_of(control_plane))
        victim, other = app_of(control_plane).worker_pids
        os.kill(victim, signal.SIGSTOP)
        asking = [asyncio.create_task(nodes_seen(control_plane)) for _ in range(24)]
        # Requests on connections of the other worker proceed; the others wait for the stopped worker's successor. With
        # 24 connections, some are the other worker's.
        await wait_until(lambda: shares([other], port_of(control_plane))[other], lambda count: count > share[other])
        os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(8):  # less than the time-out of an answer
            answers = await asyncio.gather(*asking)
        assert min(len(answer) for answer in answers) >= share[other]
