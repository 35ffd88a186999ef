"""Splits the bytes of a connection into the preface and frames, and handles the faults that these raise."""

from enum import IntEnum

from xds.transport.http2 import frames as h2
from xds.transport.http2.faults import ConnectionFault, StreamFault

TLS_HANDSHAKE = b"\x16\x03"
"""How a TLS client begins (RFC 8446, 5.1: the type of the record, and its version)."""
HEADERS_WEIGHT = 4
"""Frames that one of HEADERS counts as: it begins a stream, whose first request takes some hundred microseconds."""
SPEAKS_TLS = "the client speaks TLS, and this port does not"


class ConnectionStage(IntEnum):
    """What a connection expects next: the preface, the first SETTINGS, or any frame."""

    PREFACE = 0
    SETTINGS = 1
    OPEN = 2


class FrameReader:
    """The receiving half of a connection. ``dead``: the connection has ended; bytes that still arrive are ignored.

    ``waits``: a large message waits for its turn, and no frame is handled before. ``tired``: what the last messages
    have cost, in names that were examined; if it is not 0, the connection rests after the frame.
    """

    __slots__ = ("_buffer", "dead", "stage", "tired", "waits")
    frames_at_once = 1 << 30
    """Frames handled before ``on_rest``, HEADERS as ``HEADERS_WEIGHT``; lower where many connections are served."""

    def __init__(self) -> None:
        self._buffer = b""
        self.stage = ConnectionStage.PREFACE
        self.dead = self.waits = False
        self.tired = 0

    def on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Handle a frame. Raises ConnectionFault or StreamFault for the peer's faults."""
        raise NotImplementedError

    def on_preface(self) -> None:
        """Called when the preface has arrived: send our SETTINGS and whatever else goes first."""

    def on_rest(self) -> None:
        """Called when frames are left: call ``receive(b"")`` once other connections have had their turn."""

    def on_limit(self, limit: str) -> None:
        """Called when the peer has reached a limit; "" is none."""

    def fail(self, code: int, text: str) -> None:
        """End the connection with GOAWAY, an error code and its reason."""
        raise NotImplementedError

    def fail_stream(self, stream_id: int, code: int) -> None:
        """Reset a stream for a fault of the peer. Raises ConnectionFault if there were too many."""
        raise NotImplementedError

    def receive(self, data: bytes) -> None:
        """Handle bytes from the peer. Its faults are answered as RFC 9113 says, and never raised."""
        if self.dead:
            return
        try:
            self._receive(data)
        except ConnectionFault as fault:
            self.on_limit(fault.limit)
            self.fail(fault.code, fault.text)

    def keep(self, data: bytes) -> None:
        """Keep bytes from the peer until ``receive`` is called with more."""
        self._buffer += data

    def forget_bytes(self) -> None:
        """Drop the buffered beginning of a frame that will not be completed."""
        self._buffer = b""

    def _receive(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        at, end = 0, len(data)
        if self.stage == 0:
            if not h2.PREFACE.startswith(data[: len(h2.PREFACE)]):
                what = SPEAKS_TLS if data.startswith(TLS_HANDSHAKE) else "no HTTP/2 preface"
                raise ConnectionFault(h2.PROTOCOL_ERROR, what)
            if end < len(h2.PREFACE):
                self._buffer = data
                return
            self.stage, at = ConnectionStage.SETTINGS, len(h2.PREFACE)
            self.on_preface()
        left = self.frames_at_once
        while end - at >= h2.HEADER_BYTES and not self.waits:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if length > h2.FRAME_BYTES_MAX:
                raise ConnectionFault(h2.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            stop = at + h2.HEADER_BYTES + length
            if stop > end:
                break
            kind = data[at + 3]
            stream_id = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
            try:
                self.on_frame(kind, data[at + 4], stream_id, data[at + h2.HEADER_BYTES : stop])
            except StreamFault as fault:
                self.on_limit(fault.limit)
                self.fail_stream(fault.stream_id, fault.code)
            if self.dead:
                return
            at = stop
            left -= HEADERS_WEIGHT if kind == h2.HEADERS else 1
            if (self.tired or (left <= 0 and end > at)) and not self.waits:
                self._buffer = data[at:]
                self.on_rest()
                return
        if at < end:
            self._buffer = data[at:] if at else data
