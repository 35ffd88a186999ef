"""The short way of a delivery gives each stream what the long way would, whatever the others are at."""

from collections.abc import Callable

import pytest

from xds._generated import xds_wire_pb2 as wire
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.resource import Resource
from xds.model.types import CLUSTER, ENDPOINTS
from xds.protocol.awaited import Awaited, Wait
from xds.protocol.diff import NO_EXCEPTIONS
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.hub import Hub
from xds.protocol.interest import NOTHING
from xds.protocol.name_sets import NameSet
from xds.protocol.plain_acks import PlainAck
from xds.protocol.response import Part
from xds.protocol.session import Session
from xds.protocol.state import TypeState, Variant
from xds.protocol.stream import Stream


def assignment(name: str, version: str) -> Resource:
    return Resource(type_url=ENDPOINTS, name=name, version=version, encoded=f"{name}@{version}".encode())


class Fleet:
    """Delta streams, each subscribed to names of its own, all of them up to date."""

    def __init__(self, *subscriptions: list[str]) -> None:
        self.catalog = Catalog()
        self.hub = Hub(self.catalog, knows_type=lambda _: True)
        self.change("a", "0")
        self.change("b", "0")
        self.streams = [self.hub.open(Variant.DELTA) for _ in subscriptions]
        for stream, names in zip(self.streams, subscriptions, strict=True):
            request = wire.DeltaDiscoveryRequest(
                node=wire.Node(id="n", cluster="c"), type_url=ENDPOINTS, resource_names_subscribe=names
            )
            self.hub.receive(stream, request.SerializeToString(), 0.0)
            self.poll(stream)

    def change(self, name: str, version: str) -> None:
        self.hub.publish(self.catalog.apply(Changeset(upserts={"default": (assignment(name, version),)})))
        self.hub.take_ready()

    def poll(self, stream: Stream) -> list[bytes]:
        part = self.hub.poll(stream, 0.0)
        assert part is not None
        assert self.hub.poll(stream, 0.0) is None
        message = wire.DeltaDiscoveryResponse.FromString(part.message)
        ack = wire.DeltaDiscoveryRequest(type_url=ENDPOINTS, response_nonce=message.nonce)
        self.hub.receive(stream, ack.SerializeToString(), 0.0)
        self.hub.take_ready()
        assert stream.states[ENDPOINTS].idle
        return list(message.resources)


def test_a_cohort_is_sent_the_same_part():
    fleet = Fleet(["a"], ["a"], ["a"])
    fleet.change("a", "1")
    parts = [fleet.hub.poll(stream, 0.0) for stream in fleet.streams]
    assert parts[0] is not None
    assert parts[0] is parts[1] is parts[2]
    assert all(stream.settled for stream in fleet.streams)


def test_streams_of_other_subscriptions_are_sent_their_own():
    fleet = Fleet(["a"], ["a", "b"], ["a"])
    fleet.change("a", "1")
    fleet.change("b", "1")
    assert [fleet.poll(stream) for stream in fleet.streams] == [[b"a@1"], [b"a@1", b"b@1"], [b"a@1"]]


def test_a_stream_that_is_late_is_sent_what_is_newest_then():
    fleet = Fleet(["a"], ["a"])
    first, second = fleet.streams
    fleet.change("a", "1")
    assert fleet.poll(first) == [b"a@1"]
    fleet.change("a", "2")
    assert fleet.poll(second) == [b"a@2"]
    assert fleet.poll(first) == [b"a@2"]


def carried(fleet: Fleet, upset: Callable[[TypeState, Session], None]) -> list[Part | None]:
    """Return what the short way gives two streams of a cohort, of which the second was upset before."""
    fleet.change("a", "1")
    first, second, third = fleet.streams
    assert fleet.hub.poll(first, 0.0) is not None
    assert second.session is not None
    upset(second.states[ENDPOINTS], second.session)
    return [fleet.hub.carry(second, 0.0), fleet.hub.carry(third, 0.0)]


def set_to(name: str, value: object) -> Callable[[TypeState, Session], None]:
    def upset(state: TypeState, session: Session) -> None:
        setattr(session if hasattr(session, name) else state, name, value)

    return upset


def add_clusters(state: TypeState, session: Session) -> None:
    clusters = TypeState(CLUSTER, Variant.DELTA, NOTHING)
    clusters.dirty = True
    session.clusters.append(clusters)


def with_quiet_clusters(state: TypeState, session: Session) -> None:
    session.clusters.append(TypeState(CLUSTER, Variant.DELTA, NOTHING))


@pytest.mark.parametrize(
    "upset",
    [
        set_to("outstanding", Part("ff", b"", (), (), "")),
        set_to("serial", 1 << 40),
        set_to("asked", frozenset("a")),
        set_to("owed", True),
        set_to("exceptions", NO_EXCEPTIONS.set("b", None)),
        set_to("heartbeat_at", 5.0),
        set_to("rest", (Part("ff", b"", (), (), ""),)),
        set_to("dirty", False),
        set_to("variant", Variant.SOTW),
        set_to("interest", NOTHING),
        set_to("view", None),
        set_to("break_due", True),
        set_to("warming", frozenset("a")),
        add_clusters,
    ],
)
def test_a_stream_that_differs_in_anything_goes_the_long_way(upset: Callable[[TypeState, Session], None]):
    alone, other = carried(Fleet(["a"], ["a"], ["a"]), upset)
    assert alone is None
    assert other is not None


def test_clusters_that_wait_for_nothing_are_no_hindrance():
    alone, other = carried(Fleet(["a"], ["a"], ["a"]), with_quiet_clusters)
    assert alone is not None
    assert alone is other


def test_a_stream_that_is_to_be_refused_is_not_carried():
    fleet = Fleet(["a"], ["a"])
    fleet.change("a", "1")
    first, second = fleet.streams
    assert fleet.hub.poll(first, 0.0) is not None
    second.refusal = StreamRefusedError(Status.PERMISSION_DENIED, "no")
    assert fleet.hub.carry(second, 0.0) is None


def test_the_first_response_of_all_is_not_carried_on():
    """Streams that hold nothing yet are of any type."""
    fleet = Fleet(["a"], ["a"])
    for stream in fleet.streams:
        stream.states[ENDPOINTS].view = None
    fleet.change("a", "1")
    first, second = fleet.streams
    assert fleet.hub.poll(first, 0.0) is not None
    assert fleet.hub.carry(second, 0.0) is None
    assert fleet.hub.poll(second, 0.0) is not None


def test_deliveries_of_the_short_way_are_counted():
    fleet = Fleet(["a"], ["a"], ["a"])
    before = fleet.hub.counters.responses, fleet.hub.counters.resources_sent
    for version in ("1", "2"):
        fleet.change("a", version)
        for stream in fleet.streams:
            assert fleet.poll(stream)
    counters = fleet.hub.counters
    assert (counters.responses - before[0], counters.resources_sent - before[1]) == (6, 6)


def test_an_ack_is_taken_once_and_of_this_type_and_nonce_only():
    fleet = Fleet(["a"])
    (stream,) = fleet.streams
    state = stream.states[ENDPOINTS]
    fleet.change("a", "1")
    part = fleet.hub.poll(stream, 0.0)
    assert part is not None
    ack = PlainAck(ENDPOINTS, part.nonce)
    assert not fleet.hub.take_ack(stream, PlainAck(CLUSTER, part.nonce), 0.0)
    assert not fleet.hub.take_ack(stream, PlainAck(ENDPOINTS, "ff"), 0.0)
    assert state.outstanding is part
    assert fleet.hub.take_ack(stream, ack, 0.0)
    assert state.outstanding is None
    assert not fleet.hub.take_ack(stream, ack, 0.0)


@pytest.mark.parametrize(
    "upset",
    [
        set_to("coming_back", True),
        set_to("awaited", Awaited({"a": Wait(0, 1.0)})),
        set_to("unknown", NameSet.of("a")),
        set_to("owed", False),
    ],
)
def test_an_ack_that_moves_more_moves_it(upset: Callable[[TypeState, Session], None]):
    fleet = Fleet(["a"])
    (stream,) = fleet.streams
    state, session = stream.states[ENDPOINTS], stream.session
    assert session is not None
    fleet.change("a", "1")
    part = fleet.hub.poll(stream, 0.0)
    assert part is not None
    acks = fleet.hub.counters.acks
    upset(state, session)
    assert fleet.hub.take_ack(stream, PlainAck(ENDPOINTS, part.nonce), 0.0)
    assert (state.outstanding, set(state.unknown.names) or None, session.coming_back, session.awaited.names) == (
        None,
        None,
        False,
        {},
    )
    assert fleet.hub.counters.acks == acks + 1


def test_an_ack_of_what_is_outdated_brings_the_next_response():
    fleet = Fleet(["a"])
    (stream,) = fleet.streams
    fleet.change("a", "1")
    part = fleet.hub.poll(stream, 0.0)
    assert part is not None
    fleet.change("a", "2")
    assert fleet.hub.take_ack(stream, PlainAck(ENDPOINTS, part.nonce), 0.0)
    assert fleet.hub.take_ready() == [stream]
    assert fleet.poll(stream) == [b"a@2"]


def test_a_hub_tells_which_bytes_are_a_mere_ack_once_it_took_them():
    fleet = Fleet(["a"])
    (stream,) = fleet.streams
    fleet.change("a", "1")
    part = fleet.hub.poll(stream, 0.0)
    assert part is not None
    data = wire.DeltaDiscoveryRequest(type_url=ENDPOINTS, response_nonce=part.nonce).SerializeToString()
    assert fleet.hub.plain_ack(data) is None
    fleet.hub.receive(stream, data, 0.0)
    assert fleet.hub.plain_ack(data) == PlainAck(ENDPOINTS, part.nonce)
