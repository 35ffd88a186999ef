"""Encodes and decodes protobuf and gRPC bytes: fields of a message, and requests framed for HTTP/2.

Bytes are encoded once for all sidecars that send the same, so nothing here is on the hot path.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.struct_pb2 import Struct

from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest, DiscoveryRequest, Node
from xds.transport.http2.frames import data_frames

STREAM_ID = 1
"""The only stream of a sidecar's connection, with a client's first id (RFC 9113, 5.1.1)."""

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield (number, value) of each field of an encoded message; fixed-size fields are left out.

    Raises ValueError if the bytes are malformed.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == LENGTH:
            size, at = _varint(message, at)
            if at + size > end:
                raise ValueError("cut short")
            yield number, message[at : at + size]
            at += size
        elif kind == VARINT:
            value, at = _varint(message, at)
            yield number, value
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
    if at != end:
        raise ValueError("cut short")


def messages(message: bytes, number: int) -> Iterator[bytes]:
    """Yield the values of the length-delimited fields with a number. Raises ValueError."""
    for found, value in fields(message):
        if found == number and isinstance(value, bytes):
            yield value


def text(message: bytes, number: int) -> str:
    """Return a string field, "" without it. Raises ValueError."""
    value = b""
    for value in messages(message, number):  # noqa: B007 (the last one counts, by protobuf's rules)
        pass
    return value.decode()


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("cut short")


def length_field(number: int, value: bytes) -> bytes:
    """Return a length-delimited field with its key."""
    return varint(number << 3 | LENGTH) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """Return an unsigned number as a protobuf varint."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One or more gRPC messages: unframed, for a window too small for them, and framed, for the usual case."""

    data: bytes
    frames: bytes

    @classmethod
    def of(cls, requests: Iterable[bytes]) -> "Outgoing":
        """Frame encoded requests as one write."""
        return cls.framed(b"".join(b"\0" + len(request).to_bytes(4, "big") + request for request in requests))

    @classmethod
    def framed(cls, data: bytes) -> "Outgoing":
        """Frame bytes that already have their gRPC prefixes, or a part of such bytes."""
        return cls(data, data_frames(STREAM_ID, data))


@dataclass(frozen=True, slots=True)
class NodeTemplate:
    """The node of all sidecars without its id, encoded once."""

    rest: bytes

    @classmethod
    def of(cls, *, cluster: str, region: str, zone: str, sub_zone: str, metadata: dict[str, Any]) -> "NodeTemplate":
        """Encode the fields that all sidecars share."""
        node = Node(cluster=cluster, user_agent_name="xds-fleet")
        if metadata:
            described = Struct()
            described.update(metadata)
            node.metadata = described.SerializeToString()
        if region or zone or sub_zone:
            node.locality.region, node.locality.zone, node.locality.sub_zone = region, zone, sub_zone
        return cls(node.SerializeToString())

    def field(self, node_id: str) -> bytes:
        """Return the node as field 1 of a delta request; ``sotw_field`` for the other variant."""
        return length_field(1, length_field(1, node_id.encode()) + self.rest)

    def sotw_field(self, node_id: str) -> bytes:
        """Return the node as field 2 of a state-of-the-world request."""
        return length_field(2, length_field(1, node_id.encode()) + self.rest)


def delta_request(
    type_url: str,
    *,
    subscribe: Iterable[str] = (),
    unsubscribe: Iterable[str] = (),
    versions: dict[str, str] | None = None,
) -> bytes:
    """Encode a delta request that is not an ACK."""
    return DeltaDiscoveryRequest(
        type_url=type_url,
        resource_names_subscribe=subscribe,
        resource_names_unsubscribe=unsubscribe,
        initial_resource_versions=versions or {},
    ).SerializeToString()


def delta_answer(type_url: str, nonce: str, rejection: str | None = None) -> bytes:
    """Encode the ACK of a delta response, or its NACK."""
    request = DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce)
    if rejection is not None:
        request.error_detail.code, request.error_detail.message = 13, rejection
    return request.SerializeToString()


def sotw_request(
    type_url: str, names: Iterable[str], *, version: str, nonce: str, rejection: str | None = None
) -> bytes:
    """Encode a state-of-the-world request: a subscription and an ACK in one, or a NACK."""
    request = DiscoveryRequest(type_url=type_url, resource_names=names, version_info=version, response_nonce=nonce)
    if rejection is not None:
        request.error_detail.code, request.error_detail.message = 13, rejection
    return request.SerializeToString()
