"""The short way of an ACK: only for requests that say nothing else, and to the same end as the long way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds._generated import xds_wire_pb2 as wire
from xds.model.catalog import Catalog
from xds.model.groups import Node
from xds.model.snapshot import Snapshot
from xds.protocol.cohorts import Cohorts
from xds.protocol.hub import Hub
from xds.protocol.plain_acks import BYTES_MAX, PlainAck, PlainAcks, end_of_node, is_plain_ack
from xds.protocol.response import Encoding
from xds.protocol.session import Session
from xds.protocol.state import Variant
from xds.protocol.stream import Ordering

TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
NODE = wire.Node(id="n1", cluster="c1")


def ack(**more) -> wire.DeltaDiscoveryRequest:
    return wire.DeltaDiscoveryRequest(**{"type_url": TYPE, "response_nonce": "1f", **more})


@pytest.mark.parametrize(
    "request_",
    [
        ack(error_detail=wire.Status(code=13)),
        ack(resource_names_subscribe=["a"]),
        ack(resource_names_unsubscribe=["a"]),
        ack(resource_locators_subscribe=[wire.ResourceLocator(name="a")]),
        ack(resource_locators_unsubscribe=[wire.ResourceLocator(name="a")]),
        ack(response_nonce=""),
        ack(type_url=""),
        wire.DiscoveryRequest(type_url=TYPE, response_nonce="1f"),
    ],
)
def test_what_says_more_or_less_is_no_plain_ack(request_):
    assert not is_plain_ack(request_)


def test_a_plain_ack_may_bring_its_node():
    assert is_plain_ack(ack())
    assert is_plain_ack(ack(node=NODE))


@given(st.text(max_size=300), st.booleans())
def test_the_nodes_end_is_found_whatever_its_size(node_id, with_node):
    plain = ack().SerializeToString()
    whole = ack(node=wire.Node(id=node_id)).SerializeToString() if with_node else plain
    end = end_of_node(whole)
    assert whole[end:] == plain
    assert bool(end) == with_node
    if with_node:
        assert wire.DeltaDiscoveryRequest.FromString(whole[:end]).node.id == node_id


@pytest.mark.parametrize("data", [b"", b"\x0a", b"\x0a\xff", b"\x0a\xff\xff\xff\xff\xff\xff\xff"])
def test_bytes_that_are_no_request_are_left_whole(data):
    assert end_of_node(data) == 0


def test_a_node_that_is_longer_than_its_request_ends_with_it():
    assert end_of_node(b"\x0a\x05ab") == 4


def test_a_hub_is_restless_while_a_stream_is_to_be_polled():
    hub = Hub(Catalog(), knows_type=lambda _: True)
    stream = hub.open(Variant.DELTA)
    assert not hub.restless
    hub.receive(stream, wire.DeltaDiscoveryRequest(type_url=TYPE, node=NODE).SerializeToString(), 0.0)
    assert hub.restless
    assert hub.take_ready() == [stream]
    assert not hub.restless


def test_so_many_acks_are_known_and_no_large_ones():
    acks = PlainAcks(entries_max=2)
    for nonce in ("1", "2"):
        acks.add(nonce.encode(), TYPE, nonce)
    assert acks.get(b"1") == PlainAck(TYPE, "1")
    acks.add(b"3", TYPE, "3")
    assert [acks.get(key) for key in (b"1", b"2", b"3")] == [None, None, PlainAck(TYPE, "3")]
    acks.add(b"x" * (BYTES_MAX + 1), TYPE, "4")
    assert acks.get(b"x" * (BYTES_MAX + 1)) is None


def test_an_ack_with_its_node_is_known_again_if_the_node_is_the_streams():
    acks, session = PlainAcks(), Session(Node(id="n1"), "g", Snapshot("g", 0, {}), Ordering(), Encoding(), Cohorts())
    request = ack(node=NODE)
    data = request.SerializeToString()
    end = end_of_node(data)
    assert acks.read(session, data, end) is None
    acks.learn(session, request, data, end)
    known = PlainAck(TYPE, "1f")
    assert acks.read(session, data, end) == acks.read(None, data[end:], 0) == known
    other = ack(node=wire.Node(id="n2")).SerializeToString()
    assert acks.read(session, other, end_of_node(other)) is None
    assert acks.read(None, data, end) is None
