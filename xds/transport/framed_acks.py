"""The commonest read of all, known by its bytes: one DATA frame with one ACK. It does not know connections.

A cohort's streams, nearly all of which are stream 1 of their connection, ACK a response with equal bytes. So what these
say is found by one look-up, without a frame, a message or a request being read.
"""

from collections.abc import Mapping
from typing import NamedTuple

from xds.protocol.plain_acks import PlainAck
from xds.transport.calls import Call
from xds.transport.http2 import grpc
from xds.transport.http2.frames import DATA, HEADER_BYTES

FRAMED_ACK_BYTES_MAX = 256
MESSAGE_AT = HEADER_BYTES + grpc.PREFIX_BYTES


class FramedAck(NamedTuple):
    """What such bytes are: an ACK on a stream, in a frame with so many bytes of payload."""

    said: PlainAck
    stream_id: int
    size: int


class FramedAcks:
    """The ACKs seen lately; of so many at most."""

    __slots__ = ("_entries_max", "_known", "get")

    def __init__(self, *, entries_max: int = 4_096) -> None:
        self._known: dict[bytes, FramedAck] = {}
        self._entries_max = entries_max
        self.get = self._known.get
        """Return what a read is, None if that is not known."""

    def learn(self, data: bytes, streams: Mapping[int, object]) -> None:
        """Note what a read, already taken, was if it was one frame with one ACK for one of the streams."""
        size = len(data) - HEADER_BYTES
        if size <= grpc.PREFIX_BYTES or data[3] != DATA or data[4] or data[9]:
            return
        if int.from_bytes(data[:3], "big") != size or int.from_bytes(data[10:14], "big") != size - grpc.PREFIX_BYTES:
            return
        stream_id = int.from_bytes(data[5:9], "big")
        stream = streams.get(stream_id)
        said = stream.plain_ack(data[MESSAGE_AT:]) if isinstance(stream, Call) else None
        if said is None:
            return
        if len(self._known) >= self._entries_max:
            self._known.clear()
        self._known[data] = FramedAck(said, stream_id, size)
