"""What the wire has of a message that goes to a whole cohort: made once, and kept while it goes out.

Nearly all clients have their stream as stream 1 of their connection, for which even the frames are the same. What does
not fit into a client's window goes out piece by piece, of one copy with its prefix that all share.
"""

from xds.protocol.responses import Part
from xds.transport.http2 import grpc

BYTES_MAX = 8 * 1024 * 1024
"""So much is kept, and the newest in any case."""


class FramedParts:
    """Parts as the wire has them. Those not asked for since ``grow_old`` was called twice are forgotten.

    ``part`` is the one taken last, ``framed`` what it is in DATA frames of stream 1, ``size`` its message's with
    the prefix.
    """

    __slots__ = ("_bytes", "_known", "_older", "framed", "part", "size")

    def __init__(self) -> None:
        self.part: Part | None = None
        self.framed = b""
        self.size = 0
        self._known: dict[tuple[Part, bool], bytes] = {}
        self._older: dict[tuple[Part, bool], bytes] = {}
        self._bytes = 0

    def take(self, part: Part) -> None:
        """Have a part framed, if it is not yet."""
        self.framed = self._get(part, framed=True)
        self.part, self.size = part, len(part.message) + grpc.PREFIX_BYTES

    def prefixed(self, part: Part) -> bytes:
        """Return a part's message with its prefix."""
        return self._get(part, framed=False)

    def _get(self, part: Part, *, framed: bool) -> bytes:
        key = (part, framed)
        data = self._known.get(key)
        if data is None:
            data = self._older.pop(key, None)
            if data is None:
                data = grpc.framed(1, part.message) if framed else grpc.prefixed(part.message)
                self._bytes += len(data)
            self._known[key] = data
            while self._bytes > BYTES_MAX and len(self._known) + len(self._older) > 1:
                oldest = self._older or self._known
                self._bytes -= len(oldest.pop(next(iter(oldest))))
        return data

    def grow_old(self) -> None:
        """Forget what nobody asked for since the last call."""
        self._bytes -= sum(map(len, self._older.values()))
        self._older, self._known = self._known, {}
        self.part, self.framed, self.size = None, b"", 0
