"""What a peer may have done for nothing, and what it may leave unread. It does not know streams."""

from xds.transport.http2 import frames as h2
from xds.transport.http2.faults import ConnectionFault, StreamFault
from xds.transport.http2.frame_reader import FrameReader
from xds.transport.http2.limits import Http2Limits
from xds.transport.http2.payloads import check_priority

TINY = 256
"""Bytes, of data or of credit, that move next to nothing."""
STREAMS_PER_CHORE = 100
"""Whose windows are moved by one chore."""
SETTINGS_BYTES_PER_CHORE = 600
CHORES_PER_MALFORMED = 20
"""What a request that can't be served is charged with: 100 to 200 of them at once, then ten a second."""
HEADER_BYTES_PER_CHORE = 1_024
"""Huffman code takes half a millisecond a kilobyte."""


class Allowance(FrameReader):
    """A connection's end that counts. ``paused``: the peer does not read, so nothing more is to be sent."""

    __slots__ = ("_chores", "_chores_at", "_table_due", "_unread_bytes", "limits", "paused")

    def __init__(self, limits: Http2Limits) -> None:
        super().__init__()
        self.limits = limits
        self.paused = False
        self._chores = limits.chores
        self._chores_at = 0.0
        self._unread_bytes = 0
        self._table_due = False

    def write(self, data: bytes) -> None:
        """Send bytes, without waiting."""
        raise NotImplementedError

    def clock(self) -> float:
        """Return the time in seconds, on any clock that only goes forward."""
        raise NotImplementedError

    def on_ping(self) -> None:
        """The peer sent a PING."""

    def chore(self, count: int = 1) -> None:
        """Charge the peer for a frame that moves nothing, or as much as several; too many end the connection."""
        self._chores -= count
        if self._chores < 0:
            now = self.clock()
            self._chores = self.limits.chores_earned(now - self._chores_at) if self._chores_at else self.limits.chores
            self._chores_at = now
            if self._chores <= 0:
                raise ConnectionFault(
                    h2.ENHANCE_YOUR_CALM, "too many frames that do nothing, or requests that are refused"
                )

    def charge(self, count: int) -> None:
        """Charge the peer for work that was done, outside of taking a frame; too much of it ends the connection."""
        try:
            self.chore(count)
        except ConnectionFault as fault:
            self.fail(fault.code, fault.text)

    def answer(self, data: bytes) -> None:
        """Send a frame that flow control does not hold back: headers, resets, what acknowledges."""
        if self.paused:
            self._unread_bytes += len(data)
        if self._table_due and data[3] == h2.HEADERS:
            self._table_due = False
            data = h2.without_table(data)
        self.write(data)

    def check_unread(self) -> None:
        """Refuse to go on with a peer that asks and does not read the answers (CVE-2019-9517, but for data)."""
        if self._unread_bytes > self.limits.unread_bytes_max:
            raise ConnectionFault(h2.ENHANCE_YOUR_CALM, "too many answers are not read")

    def give_up_table(self) -> None:
        """Say with the next header block that no dynamic table is used: the peer's is smaller now (RFC 7541, 4.2)."""
        self._table_due = True

    # --- Frames that are chores and nothing else ---------------------------------------------------------------------

    def _priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        self.chore()
        if stream_id == 0:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise StreamFault(stream_id, h2.FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
        check_priority(stream_id, payload)

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(h2.FRAME_SIZE_ERROR, "PING of a wrong size")
        self.chore()
        if not flags & h2.ACK:
            self.on_ping()
            if not self.dead:
                self.answer(h2.frame(h2.PING, h2.ACK, 0, payload))

    def _goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        self.chore()  # its streams go on; it opens no more
        if stream_id:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "GOAWAY on a stream")
