"""Limits on what one peer may cost: frames that move nothing ("chores"), refused requests, unread answers."""

from xds.transport.http2 import frames as h2
from xds.transport.http2.faults import ConnectionFault, StreamFault
from xds.transport.http2.frame_reader import FrameReader
from xds.transport.http2.limits import Http2Limits
from xds.transport.http2.payloads import check_priority

TINY = 256
"""A frame that carries fewer bytes of data or credit counts as a chore."""
STREAMS_PER_CHORE = 100
"""Open streams per chore of a SETTINGS frame that changes their windows."""
SETTINGS_BYTES_PER_CHORE = 600
"""Payload bytes per additional chore of a SETTINGS frame."""
CHORES_PER_MALFORMED = 20
"""The cost of a refused request. By default 100 to 200 are allowed at once, then ten per second."""
HEADER_BYTES_PER_CHORE = 1_024
"""Bytes per chore of a header block: decoding Huffman code takes 0.5 ms per kilobyte."""


class Allowance(FrameReader):
    """The accounting of a connection. ``paused``: the peer does not read, so no more data is sent."""

    __slots__ = ("_chores", "_chores_at", "_table_due", "_unread_bytes", "limits", "paused")

    def __init__(self, limits: Http2Limits) -> None:
        super().__init__()
        self.limits = limits
        self.paused = False
        self._chores: float = limits.chores
        self._chores_at = 0.0
        self._unread_bytes = 0
        self._table_due = False

    def write(self, data: bytes) -> None:
        """Send bytes without waiting."""
        raise NotImplementedError

    def clock(self) -> float:
        """Return the time in seconds on a monotonic clock."""
        raise NotImplementedError

    def on_ping(self) -> None:
        """Called when the peer sends a PING."""

    def chore(self, count: int = 1) -> None:
        """Charge the peer for ``count`` chores. Raises ConnectionFault if there were too many."""
        self._chores -= count
        if self._chores < 0:
            now = self.clock()
            earned = self.limits.chores_earned(now - self._chores_at) if self._chores_at else self.limits.chores
            self._chores = min(self.limits.chores, self._chores + earned)
            self._chores_at = now
            if self._chores < -1:  # what is owed stays owed; one is free, as parts of one are not earned exactly
                raise ConnectionFault(
                    h2.ENHANCE_YOUR_CALM, "too many frames that do nothing, or refused requests", "chores"
                )

    def charge(self, count: int) -> None:
        """Charge the peer outside of ``on_frame``; ends the connection if there were too many chores."""
        try:
            self.chore(count)
        except ConnectionFault as fault:
            self.on_limit(fault.limit)
            self.fail(fault.code, fault.text)

    def answer(self, data: bytes) -> None:
        """Send a frame that is not flow-controlled: headers, resets, acknowledgements."""
        if self.paused:
            self._unread_bytes += len(data)
        if self._table_due and data[3] == h2.HEADERS:
            self._table_due = False
            data = h2.without_table(data)
        self.write(data)

    def answered(self, size: int) -> None:
        """Count bytes that TLS has sent by itself; ends the connection if the peer leaves too many unread."""
        if self.paused and not self.dead:
            self._unread_bytes += size
            try:
                self.check_unread()
            except ConnectionFault as fault:
                self.on_limit(fault.limit)
                self.fail(fault.code, fault.text)

    def check_unread(self) -> None:
        """Raise ConnectionFault if a peer sends requests without reading the answers (as CVE-2019-9517, data aside)."""
        if self._unread_bytes > self.limits.unread_bytes_max:
            raise ConnectionFault(h2.ENHANCE_YOUR_CALM, "too many unread answers", "unread_answers")

    def give_up_table(self) -> None:
        """Announce an empty dynamic table in the next header block: the peer reduced its own (RFC 7541, 4.2)."""
        self._table_due = True

    # --- Frames that only cost -------------------------------------------------------------------------------------

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
        self.chore()  # open streams go on; the peer opens no more
        if stream_id:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "GOAWAY on a stream")
