"""Cache of parsed reads by their bytes, for the most frequent read: one DATA frame with one whole message.

The streams of a cohort, nearly all of them stream 1 of their connection, answer a response with equal bytes. One
look-up then replaces parsing the frame and the message prefix.
"""

from typing import NamedTuple

from xds.transport.http2 import grpc
from xds.transport.http2.frames import DATA, HEADER_BYTES

READ_BYTES_MAX = 256
"""Larger reads are not cached."""
MESSAGE_AT = HEADER_BYTES + grpc.PREFIX_BYTES


class KnownRead(NamedTuple):
    """A parsed read: the message, its stream, and the bytes of the frame's payload."""

    message: bytes
    stream_id: int
    size: int


class KnownReads:
    """Recent reads, at most ``entries_max``."""

    __slots__ = ("_entries_max", "_known", "get")

    def __init__(self, *, entries_max: int = 4_096) -> None:
        self._known: dict[bytes, KnownRead] = {}
        self._entries_max = entries_max
        self.get = self._known.get
        """Return the parsed read, None if it is not cached."""

    def learn(self, data: bytes) -> None:
        """Cache a read if it is exactly one DATA frame with exactly one message."""
        size = len(data) - HEADER_BYTES
        if size <= grpc.PREFIX_BYTES or data[3] != DATA or data[4] or data[9]:
            return
        if int.from_bytes(data[:3], "big") != size or int.from_bytes(data[10:14], "big") != size - grpc.PREFIX_BYTES:
            return
        if len(self._known) >= self._entries_max:
            self._known.clear()
        self._known[data] = KnownRead(data[MESSAGE_AT:], int.from_bytes(data[5:9], "big"), size)
