"""The short way of a delivery gives each stream what the long way would, whatever the others are at."""

from xds._generated import xds_wire_pb2 as wire
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.resource import Resource
from xds.model.types import ENDPOINTS
from xds.protocol.hub import Hub
from xds.protocol.state import Variant
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
