"""What the wire has of a message that goes to a whole cohort: made once, and kept while it goes out.

Nearly all clients have their stream as stream 1 of their connection, for which even the frames are the same.
"""

from xds.protocol.response import Part
from xds.transport.http2 import grpc

PARTS_MAX = 64
BYTES_MAX = 2 * 1024 * 1024


class FramedParts:
    """Parts as DATA frames of stream 1. Those not asked for since ``grow_old`` was called twice are forgotten.

    ``part`` is the one that was taken last, ``framed`` what it is in frames, and ``size`` its message's with prefix.
    """

    __slots__ = ("_bytes", "_known", "_older", "framed", "part", "size")

    def __init__(self) -> None:
        self.part: Part | None = None
        self.framed = b""
        self.size = 0
        self._known: dict[Part, bytes] = {}
        self._older: dict[Part, bytes] = {}
        self._bytes = 0

    def take(self, part: Part) -> None:
        """Have a part framed, if it is not yet."""
        framed = self._known.get(part)
        if framed is None:
            framed = self._older.pop(part, None) or grpc.framed(1, part.message)
            self._bytes += len(framed)
            if len(self._known) >= PARTS_MAX or self._bytes > BYTES_MAX:
                self._known, self._older = {}, {}
                self._bytes = len(framed)
            self._known[part] = framed
        self.part, self.framed, self.size = part, framed, len(part.message) + grpc.PREFIX_BYTES

    def grow_old(self) -> None:
        """Forget what nobody asked for since the last call."""
        self._older, self._known = self._known, {}
        self._bytes = 0
        self.part, self.framed, self.size = None, b"", 0
