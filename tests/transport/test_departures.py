"""Connections that have reached their age, or are moved, end without losing or doubling a resource."""

import time
from collections.abc import Iterator

import grpc
import pytest
from support import resources as r
from support.control_planes import app_of, port_of, wait_streams
from support.transports import settings_on
from support.waiting import stays, wait_until
from support.wire import ADS, DeltaClient

from xds.api.operations import CantMoveError
from xds.embed import ControlPlane
from xds.transport.departures import JITTER, Departures

AGED = "this connection has reached its age; connect again"
MOVED = "this connection is moved; connect again"


class Connection:
    """A connection as ``Departures`` sees it."""

    def __init__(self, since: int = 0) -> None:
        self.since = since
        self.is_answered = True
        self.ended_for = ""

    def depart(self, text: str) -> None:
        self.ended_for = text


def ends_at(departures: Departures, connections: list[Connection], until: int) -> Iterator[int]:
    """Look at the connections once a second, and yield when each has ended."""
    ended: dict[int, int] = {}
    for tick in range(until):
        for connection in connections:
            if not connection.ended_for and departures.look_at(connection, tick):
                ended[id(connection)] = tick
    return iter(ended[id(connection)] for connection in connections)


def test_a_fleet_that_connected_at_once_does_not_return_at_once():
    fleet = [Connection() for _ in range(1_000)]
    ends = sorted(ends_at(Departures(age_max_s=1_000.0), fleet, 1_200))
    assert 1_000 * (1 - JITTER) <= ends[0] <= ends[-1] <= 1_000 * (1 + JITTER) + 1
    assert max(ends.count(tick) for tick in set(ends)) < 25
    assert {each.ended_for for each in fleet} == {AGED}


def test_a_share_ends_at_random_times_within_the_window_and_the_others_stay():
    fleet = [Connection() for _ in range(400)]
    departures = Departures()
    assert departures.choose(fleet, 0.25, 100.0, tick=0) == 100
    for tick in range(200):
        for each in fleet:
            departures.look_at(each, tick)
        assert tick != 50 or 20 < sum(bool(each.ended_for) for each in fleet) < 80
        assert tick < 100 or sum(each.ended_for == MOVED for each in fleet) == 100
    assert not departures._due


def test_the_end_waits_for_answers_and_at_the_latest_for_the_grace():
    late, never = Connection(), Connection()
    departures = Departures(grace_s=5.0)
    departures.choose([late, never], 1.0, 0.0, tick=0)
    late.is_answered = never.is_answered = False
    assert not departures.look_at(late, 3)
    assert not departures.look_at(never, 4)
    late.is_answered = True
    assert departures.look_at(late, 4)
    assert departures.look_at(never, 5)


async def test_an_aged_connection_ends_and_its_client_is_sent_only_what_it_lacks(serving):
    async with serving(connections={"age_max_s": 1.5, "age_grace_s": 5.0}) as control_plane:
        port = port_of(control_plane)
        async with DeltaClient(port) as client:
            began = time.monotonic()
            await client.subscribe(r.CLUSTER)
            await client.take()
            end = await client.ended(timeout_s=12.0)
            assert end.code is grpc.StatusCode.UNAVAILABLE
            assert time.monotonic() - began >= 1.0
        await wait_streams(control_plane, 0)
        control_plane.apply(upsert=[r.cluster("b"), r.assignment("b", 1)])
        async with DeltaClient(port) as again:
            await again.subscribe(r.CLUSTER, initial=client.versions(r.CLUSTER))
            assert (await again.take()).names == {"b"}


async def test_without_an_age_no_connection_ends(serving):
    async with serving(connections={"age_grace_s": 0}) as control_plane, DeltaClient(port_of(control_plane)) as client:
        await client.subscribe(r.CLUSTER)
        await client.take()
        await stays(lambda: len(app_of(control_plane).hub.streams), equals=1, for_s=2.5)


@pytest.fixture
async def native() -> ControlPlane:
    control_plane = ControlPlane(settings_on("native", connections={"age_grace_s": 30.0}))
    control_plane.replace({"default": [r.cluster("a"), r.assignment("a", 1)]})
    async with control_plane:
        yield control_plane


async def test_a_moved_connection_ends_once_its_response_is_answered(native):
    async with DeltaClient(port_of(native)) as client:
        await client.subscribe(r.CLUSTER)
        unanswered = await client.next()
        assert await app_of(native).rebalance(1.0, 0.0) == 1
        await stays(lambda: len(app_of(native).hub.streams), equals=1, for_s=2.5)
        await client.ack(unanswered)
        end = await client.ended()
    assert (end.code, end.details) == (grpc.StatusCode.UNAVAILABLE, MOVED)
    counters = app_of(native).hub.counters
    assert (counters.acks, counters.nacks, counters.resources_sent) == (1, 0, 1)
    assert app_of(native).limit_hits["age"] == 1


async def test_all_streams_of_a_moved_connection_end_together(native):
    async with DeltaClient(port_of(native)) as client:
        await client.subscribe(r.CLUSTER)
        await client.take()
        other = client.channel.stream_stream(f"/{ADS.name}/{ADS.delta}")()
        await other.write(client.requests_sent[0].SerializeToString())
        await wait_until(lambda: len(app_of(native).hub.streams), equals=2)
        await other.read()
        await app_of(native).rebalance(1.0, 0.0)
        await stays(lambda: len(app_of(native).hub.streams), equals=2, for_s=1.5)  # one of them has not answered
        other.cancel()
        assert (await client.ended()).details == MOVED
        await wait_streams(native, 0)


async def test_a_client_that_never_answers_is_moved_after_the_grace():
    control_plane = ControlPlane(settings_on("native", connections={"age_grace_s": 1.0}))
    control_plane.replace({"default": [r.cluster("a"), r.assignment("a", 1)]})
    async with control_plane, DeltaClient(port_of(control_plane)) as client:
        await client.subscribe(r.CLUSTER)
        await client.next()
        await app_of(control_plane).rebalance(1.0, 0.0)
        assert (await client.ended()).details == MOVED


async def test_grpcio_can_not_move_connections_and_says_so():
    control_plane = ControlPlane(settings_on("grpcio"))
    async with control_plane:
        with pytest.raises(CantMoveError, match=r"connections\.age_max_s"):
            await app_of(control_plane).rebalance(0.5, 1.0)
