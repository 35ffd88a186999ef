"""The hub's interface to transports, and requests whose fields are in an unusual order."""

import pytest
from support.encoded import CDS, EDS, SDS, endpoints, static
from support.hubs import DELTA, SOTW, World

from xds._generated import xds_wire_pb2 as wire
from xds.model.groups import GroupTable, Rule
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.policy import Variant
from xds.protocol.requests import span_of_node
from xds.protocol.sessions import IDLE_MAX


def test_a_hub_has_work_while_streams_are_ready_or_events_wait(world: World) -> None:
    assert not world.hub.has_work
    world.publish(static("a"))
    client = world.client()
    with world.burst():
        client.subscribe(CDS)
        assert world.hub.has_work
    assert not world.hub.has_work
    client.nack(CDS)
    assert world.hub.has_work  # an event
    world.events()
    assert not world.hub.has_work


def test_a_stream_is_settled_until_something_is_to_be_sent(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    stream = world.hub.open(variant)
    assert stream.settled
    assert stream.states == {}
    assert world.hub.poll_cohort(stream) is None
    assert world.hub.poll(stream, world.now) is None
    world.hub.close(stream)
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack(CDS)
    (stream,) = client.streams.values()
    assert stream.settled
    world.hub.publish(world.apply(static("a", 2)))
    assert not stream.settled
    world.pump()
    assert stream.settled


def test_a_stream_that_is_to_end_is_given_nothing(world: World) -> None:
    world.publish(static("a"), group="g")
    world.regroup(GroupTable(rules=(Rule(group="g"),)))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    (stream,) = client.streams.values()
    world.hub.publish(world.apply(static("a", 2), group="g"))
    stream.refusal = StreamRefusedError(Status.INTERNAL, "")
    assert world.hub.poll_cohort(stream) is None


def test_unused_subscriptions_are_kept_up_to_a_limit(world: World) -> None:
    world.client(node="stays").subscribe(EDS, "other", "name-0")
    client = world.client()
    for number in range(3 * IDLE_MAX):
        client.subscribe(EDS, f"name-{number}")
        client.unsubscribe(EDS, f"name-{number}")
        client.ack_all()
    client.request(EDS, subscribe=["xdstp://x/envoy.config.endpoint.v3.ClusterLoadAssignment/a/*"])
    client.close()
    table = world.hub._watchers._watchers
    assert all(len(watchers._streams) <= IDLE_MAX + 2 for watchers in table.values())
    world.publish(endpoints("name-1"))
    late = world.client(node="n2")
    assert late.subscribe(EDS, "name-1") == ["EDS #1 name-1@1"]
    world.publish(endpoints("name-1", 2))
    late.ack(EDS)
    assert late.held[EDS] == {"name-1": "1"}


def test_streams_are_found_by_changed_names_and_collections_until_they_unsubscribe(world: World) -> None:
    glob = "xdstp://x/envoy.config.endpoint.v3.ClusterLoadAssignment/a/*"
    member = "xdstp://x/envoy.config.endpoint.v3.ClusterLoadAssignment/a/b"
    world.client(node="stays").subscribe(EDS, "other")
    client = world.client()
    client.request(EDS, subscribe=[glob])
    client.ack_all()
    world.publish(endpoints(member))
    assert client.take() == [f"EDS #2 {member}@1"]
    client.ack_all()
    for number in range(2 * IDLE_MAX):
        client.request(EDS, unsubscribe=[glob], subscribe=[f"n{number}"])
        client.request(EDS, subscribe=[glob], unsubscribe=[f"n{number}"])
        client.ack_all()
    client.request(EDS, unsubscribe=[glob])
    client.ack_all()
    world.publish(endpoints(member, 2))
    assert client.take() == []


def test_where_a_node_is_in_a_request(variant: Variant) -> None:
    node = wire.Node(id="n1")
    if variant is DELTA:
        request = wire.DeltaDiscoveryRequest(node=node, type_url=CDS).SerializeToString()
        assert span_of_node(DELTA, request) == (0, 2 + node.ByteSize())
    else:
        request = wire.DiscoveryRequest(version_info="7", node=node, type_url=CDS).SerializeToString()
        assert span_of_node(SOTW, request) == (3, 5 + node.ByteSize())
    for data in (b"", request[:3], b"\x0a\xff\xff\xff\xff\xff\xff\x01", b"\x0a\x05abc", b"\x12\x05abc", b"\x1a\x01a"):
        assert span_of_node(variant, data) == (0, 0)


@pytest.mark.parametrize("way", ["last", "twice"])
def test_a_node_that_does_not_come_first_is_read_all_the_same(world: World, variant: Variant, way: str) -> None:
    """Parsers accept fields in any order; of a repeated message they use the last value of each field."""
    world.publish(static("a"))
    request: type[wire.DeltaDiscoveryRequest | wire.DiscoveryRequest] = (
        wire.DeltaDiscoveryRequest if variant is DELTA else wire.DiscoveryRequest
    )
    for number in range(4):
        client = world.client(variant, node=f"n{number}")
        node = request(node=wire.Node(id=client.node.id)).SerializeToString()
        other = request(node=wire.Node(id=client.node.id, cluster="c")).SerializeToString() if way == "twice" else b""
        assert client.send(other + request(type_url=CDS).SerializeToString() + node) == ["CDS #1 a@1"]
        (stream,) = client.streams.values()
        assert stream.session is not None
        assert stream.session.node.id == f"n{number}"


def test_a_later_request_of_another_node_is_refused_even_if_the_rest_is_known(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    for number in range(4):
        client = world.client(variant, node=f"n{number}")
        client.subscribe(CDS)
        client.ack(CDS)
        client.request(SDS, subscribe=["s"], node=client.node)
    (said,) = client.request(SDS, subscribe=["t"], node=wire.Node(id="n0"))
    assert said.startswith("END INVALID_ARGUMENT: this stream is of node 'n3', a later request says 'n0'")


def test_a_node_that_is_in_every_request_costs_no_more_than_one_that_is_not(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    for number in range(5):
        client = world.client(variant, node=f"n{number}")
        client.request(CDS, node=client.node)
        client.request(CDS, nonce=client.last(CDS).nonce, node=client.node)
    start = next(iter(world.hub._starts.values()))
    assert start.steps is not None
    assert len(start.steps) == 1
    assert world.hub.counters.acks == 5


def test_an_answer_to_nothing_changes_nothing(world: World) -> None:
    world.publish(static("a"), endpoints("e"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(EDS, "e")
    client.ack_all()
    (stream,) = client.streams.values()
    assert stream.session is not None
    before = stream.session.client_state
    assert client.request(EDS, nonce="abc") == []
    assert stream.session.client_state is before
