"""What the wire has of a message that goes to a whole cohort: made once, and kept while it goes out.

Nearly all clients have their stream as stream 1 of their connection, for which even the frames are the same.
"""

from xds.protocol.response import Part
from xds.transport.http2 import grpc

PARTS_MAX = 64
BYTES_MAX = 2 * 1024 * 1024


class FramedParts:
    """Parts as DATA frames of stream 1. Those not asked for since ``grow_old`` was called twice are forgotten."""

    __slots__ = ("_bytes", "_known", "_older")

    def __init__(self) -> None:
        self._known: dict[Part, bytes] = {}
        self._older: dict[Part, bytes] = {}
        self._bytes = 0

    def get(self, part: Part) -> bytes:
        """Return a part's message with its prefix, in frames of stream 1."""
        framed = self._known.get(part)
        if framed is None:
            framed = self._older.pop(part, None) or grpc.framed(1, part.message)
            self._bytes += len(framed)
            if len(self._known) >= PARTS_MAX or self._bytes > BYTES_MAX:
                self._known, self._older = {}, {}
                self._bytes = len(framed)
            self._known[part] = framed
        return framed

    def grow_old(self) -> None:
        """Forget what nobody asked for since the last call."""
        self._older, self._known = self._known, {}
        self._bytes = 0
