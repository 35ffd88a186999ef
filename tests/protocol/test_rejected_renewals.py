"""A NACK of a TTL renewal is counted and shown, and the client is sent what it lacks. Reasons outlive streams."""

import pickle
from sys import getsizeof

import pytest
from support.encoded import CDS, EDS, RTDS, cluster, endpoints, resource, static
from support.hubs import DELTA, SOTW, MakeWorld, World

from xds.model.groups import Node
from xds.protocol.node_history import NODE_BYTES, REASON_CHARS_MAX, NackedNames
from xds.protocol.paging import NodeState
from xds.protocol.policy import Variant
from xds.protocol.responses import Part
from xds.protocol.status import NodesQuery, nodes_page
from xds.protocol.subscription import NameSet


def test_a_rejected_renewal_is_counted_and_logged(world: World, variant: Variant) -> None:
    world.publish(resource(RTDS, "a", ttl_s=9), resource(RTDS, "b"))
    client = world.client(variant)
    client.subscribe(RTDS, "a", "b")
    client.ack(RTDS)
    world.advance(3)
    assert len(client.take()) == 1
    client.nack(RTDS, "a is not here")
    assert world.hub.counters.nacks == 1
    assert [(event.message, dict(event.resources)) for event in world.events()] == [("a is not here", {"a": "1"})]


def test_a_resource_that_expired_at_its_client_is_sent_again_with_its_body(world: World) -> None:
    """Its TTL expired while no renewal came; the next renewal is of a version that the client no longer has."""
    world.publish(cluster("a", eds=None, ttl_s=9), static("b"))
    client = world.client(DELTA)
    client.subscribe(CDS)
    client.ack_all()
    world.advance(3.1)
    assert client.take() == ["CDS #2 ~a@1 ttl=9"]
    assert client.nack(CDS, "missing body") == ["CDS #3 a@1 ttl=9"]
    client.ack(CDS)
    (node,) = nodes_page(world.hub.streams, NodesQuery(), world.now).nodes
    assert node.state is NodeState.ACCEPTED


def test_an_unsubscribed_name_of_a_rejected_renewal_is_not_sent(world: World) -> None:
    world.publish(endpoints("a", ttl_s=9), endpoints("b"))
    client = world.client(DELTA)
    client.subscribe(EDS, "a", "b")
    client.ack(EDS)
    world.advance(3.1)
    client.take()
    client.unsubscribe(EDS, "a")
    assert client.nack(EDS, "missing body") == []


def test_a_renewal_with_bodies_that_is_rejected_is_shown_and_not_sent_again(make_world: MakeWorld) -> None:
    world = make_world()
    world.publish(cluster("a", eds=None, ttl_s=9), static("b"))
    client = world.client(SOTW)
    client.subscribe(CDS)
    client.ack_all()
    world.advance(3)
    assert len(client.take()) == 1
    assert client.nack(CDS, "no") == []
    (node,) = nodes_page(world.hub.streams, NodesQuery(), world.now).nodes
    (found,) = node.types
    assert (node.state, found.nacked, found.error) == (NodeState.REJECTED, ("a", "b"), "no")


def test_a_renewal_is_not_kept_for_a_client_that_may_reject_it(make_world: MakeWorld) -> None:
    """On SotW each client's renewal has all resources, with their bodies."""
    world = make_world()
    world.publish(cluster("a", eds=None, ttl_s=9))
    client = world.client(SOTW)
    client.subscribe(CDS)
    client.ack_all()
    world.advance(3)
    (stream,) = world.hub.streams
    assert not any(isinstance(kept, Part) for kept in stream.states[CDS].heartbeat)


def test_names_that_a_node_rejected_on_an_earlier_stream_are_shown_with_its_message(
    world: World, variant: Variant
) -> None:
    world.publish(static("a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack_all()
    world.publish(static("b"))
    client.nack(CDS, "odd")
    client.reconnect()
    (node,) = nodes_page(world.hub.streams, NodesQuery(), world.now).nodes
    (found,) = node.types
    assert (node.state, "b" in found.nacked, found.error) == (NodeState.PENDING, True, "odd")


def test_reasons_are_bounded_shared_and_dropped_with_their_names() -> None:
    node, other = Node(id="n", cluster="c"), NackedNames(nodes_max=2, bytes_max=1_000_000)
    nacked = NackedNames(
        nodes_max=2, bytes_max=1_000_000, share=lambda entry: other.remember(pickle.loads(pickle.dumps(entry)))
    )
    nacked.add(node, CDS, NameSet.of("ab"), "x" * 10_000)
    nacked.add(node, EDS, NameSet.of("e"), "why")
    late = NackedNames(nodes_max=2, bytes_max=1_000_000)
    for entry in nacked.entries():
        late.remember(entry)
    for each in (nacked, other, late):
        assert (len(each.reason(node, CDS)), each.reason(node, EDS)) == (REASON_CHARS_MAX, "why")
    nacked.accept(node, CDS, NameSet.of("a"))
    assert len(nacked.reason(node, CDS)) == REASON_CHARS_MAX
    nacked.accept(node, CDS, NameSet.of("b"))
    assert (nacked.reason(node, CDS), nacked.reason(node, EDS)) == ("", "why")
    for number in range(2):
        nacked.add(Node(id=f"m{number}", cluster="c"), CDS, NameSet.of("a"))
    assert (nacked.reason(node, EDS), nacked._reasons) == ("", {})


def test_messages_of_rejections_count_in_the_limit_in_bytes() -> None:
    nacked = NackedNames(nodes_max=1_000_000, bytes_max=100_000)
    for number in range(200):
        nacked.add(Node(id=f"m{number}", cluster="c"), CDS, NameSet.of("a"), "\N{SNOWMAN}" * 10_000)
        assert nacked.bytes_kept <= 100_000
    each_bytes = NODE_BYTES + getsizeof("\N{SNOWMAN}" * REASON_CHARS_MAX)
    assert 0 < len(nacked.by_node) <= 100_000 // each_bytes


@pytest.mark.parametrize("message", ["", "again"])
def test_the_last_message_that_says_something_is_kept(message: str) -> None:
    nacked = NackedNames(nodes_max=2, bytes_max=1_000_000)
    node = Node(id="n", cluster="c")
    nacked.add(node, CDS, NameSet.of("a"), "first")
    nacked.add(node, CDS, NameSet.of("a"), message)
    assert nacked.reason(node, CDS) == (message or "first")
