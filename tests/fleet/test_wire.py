import pytest
from google.protobuf import any_pb2
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from xds._generated import xds_wire_pb2 as wire
from xds.fleet.wire import NodeTemplate, Outgoing, delta_request, fields, length_field, sotw_request, text, varint
from xds.transport.http2.frames import FRAME_BYTES_MAX


@given(st.text(), st.binary(), st.integers(0, 2**64 - 1), st.lists(st.text(min_size=1)))
def test_fields_are_read_as_protobuf_wrote_them(name: str, value: bytes, number: int, aliases: list[str]) -> None:
    resource = wire.Resource(name=name, aliases=aliases, resource=any_pb2.Any(type_url=name, value=value))
    resource.ttl.seconds = number >> 1
    encoded = resource.SerializeToString()
    found = list(fields(encoded))
    assert text(encoded, 3) == name
    assert [v.decode() for n, v in found if n == 4 and isinstance(v, bytes)] == aliases
    (body,) = (v for n, v in found if n == 2)
    assert body == resource.resource.SerializeToString()
    (ttl,) = (v for n, v in found if n == 6)
    assert isinstance(ttl, bytes)
    assert list(fields(ttl)) == ([(1, number >> 1)] if number >> 1 else [])


@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_raise_and_never_loop(encoded: bytes) -> None:
    try:
        found = list(fields(encoded))
    except ValueError:
        return
    assert len(found) <= len(encoded)


@pytest.mark.parametrize("encoded", [b"\x0a", b"\x0a\x05abc", b"\x80", b"\x0b", b"\x09abc"])
def test_what_is_cut_short_is_said_to_be(encoded: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut short|wire type"):
        list(fields(encoded))


@given(st.integers(0, 2**63))
def test_varints_are_protobufs(number: int) -> None:
    message = wire.Status(code=0)
    message.ParseFromString(varint(1 << 3) + varint(number & 0x7FFFFFFF))
    assert message.code == number & 0x7FFFFFFF


@given(st.binary(max_size=3 * FRAME_BYTES_MAX))
def test_a_request_is_framed_for_grpc_and_http2(request: bytes) -> None:
    made = Outgoing.of([request])
    assert made.data == b"\0" + len(request).to_bytes(4, "big") + request
    at, payload = 0, b""
    while at < len(made.frames):
        size = int.from_bytes(made.frames[at : at + 3], "big")
        assert (made.frames[at + 3 : at + 9], size <= FRAME_BYTES_MAX) == (b"\0\0\0\0\0\x01", True)
        payload += made.frames[at + 9 : at + 9 + size]
        at += 9 + size
    assert payload == made.data


def test_a_node_goes_before_what_all_sidecars_send_alike() -> None:
    node = NodeTemplate.of(cluster="web", region="r", zone="z", sub_zone="s", metadata={"labels": {"stage": "prod"}})
    shared = delta_request("type", subscribe=["a"], versions={"a": "1"})
    delta = wire.DeltaDiscoveryRequest.FromString(node.field("sidecar-7") + shared)
    sotw = wire.DiscoveryRequest.FromString(
        node.sotw_field("sidecar-7") + sotw_request("type", ["a"], version="1", nonce="")
    )
    assert delta.node == sotw.node
    assert (delta.node.id, delta.node.cluster, delta.node.locality.zone) == ("sidecar-7", "web", "z")
    assert Struct.FromString(delta.node.metadata)["labels"]["stage"] == "prod"
    assert (delta.type_url, delta.resource_names_subscribe, dict(delta.initial_resource_versions)) == (
        "type",
        ["a"],
        {"a": "1"},
    )
    assert (sotw.version_info, sotw.resource_names) == ("1", ["a"])


def test_a_long_field_has_its_length() -> None:
    assert length_field(1, b"x" * 300) == b"\x0a\xac\x02" + b"x" * 300
