"""The commonest read of all, known by its bytes: one DATA frame with one whole message.

A cohort's streams, nearly all of which are stream 1 of their connection, answer a response with equal bytes. So what
these are is found by one look-up, without a frame or a message being read.
"""

from typing import NamedTuple

from xds.transport.http2 import grpc
from xds.transport.http2.frames import DATA, HEADER_BYTES

READ_BYTES_MAX = 256
"""Larger reads are not known."""
MESSAGE_AT = HEADER_BYTES + grpc.PREFIX_BYTES


class KnownRead(NamedTuple):
    """What such bytes are: a message on a stream, in a frame with so many bytes of payload."""

    message: bytes
    stream_id: int
    size: int


class KnownReads:
    """The reads seen lately; of so many at most."""

    __slots__ = ("_entries_max", "_known", "get")

    def __init__(self, *, entries_max: int = 4_096) -> None:
        self._known: dict[bytes, KnownRead] = {}
        self._entries_max = entries_max
        self.get = self._known.get
        """Return what a read is, None if that is not known."""

    def learn(self, data: bytes) -> None:
        """Note what a read is, if it is one frame with one message, and nothing else."""
        size = len(data) - HEADER_BYTES
        if size <= grpc.PREFIX_BYTES or data[3] != DATA or data[4] or data[9]:
            return
        if int.from_bytes(data[:3], "big") != size or int.from_bytes(data[10:14], "big") != size - grpc.PREFIX_BYTES:
            return
        if len(self._known) >= self._entries_max:
            self._known.clear()
        self._known[data] = KnownRead(data[MESSAGE_AT:], int.from_bytes(data[5:9], "big"), size)
