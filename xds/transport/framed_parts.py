"""Messages to whole cohorts as bytes on the wire: framed once, and kept while they are being sent.

Nearly all clients use stream 1 of their connection, for which even the frames are equal. A message that does not fit
into a client's window is sent in pieces of one prefixed copy that all clients share.
"""

from xds.protocol.responses import Part
from xds.transport.http2 import grpc

BYTES_MAX = 8 * 1024 * 1024
"""Maximum bytes of all framed messages; the newest is kept in any case."""


class FramedParts:
    """Framed parts. Those not used during two calls of ``evict_idle`` are dropped.

    ``part`` is the one used last, ``framed`` its DATA frames on stream 1, ``size`` the bytes of its message with the
    prefix.
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
        """Frame a part unless it is framed already."""
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

    def evict_idle(self) -> None:
        """Drop what was not used since the last call."""
        self._bytes -= sum(map(len, self._older.values()))
        self._older, self._known = self._known, {}
        self.part, self.framed, self.size = None, b"", 0
