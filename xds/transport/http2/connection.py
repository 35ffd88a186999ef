"""One HTTP/2 connection of a gRPC server: bytes in, stream events and bytes out.

A subclass implements ``write``, ``close``, ``clock`` and ``open_stream``. ``Http2Limits`` bounds the memory and work
that a peer can cause. Source: RFC 9113; sections are named below.
"""

from collections.abc import Callable

from xds.transport.http2 import frames as h2
from xds.transport.http2.allowance import (
    CHORES_PER_MALFORMED,
    HEADER_BYTES_PER_CHORE,
    SETTINGS_BYTES_PER_CHORE,
    STREAMS_PER_CHORE,
    TINY,
    Allowance,
)
from xds.transport.http2.closed import ClosedStreams, Fate
from xds.transport.http2.faults import ConnectionFault, StreamFault
from xds.transport.http2.frame_reader import ConnectionStage
from xds.transport.http2.header_blocks import HeaderBlocks
from xds.transport.http2.headers import RequestHead, trailing_problem
from xds.transport.http2.limits import Http2Limits
from xds.transport.http2.payloads import number_of, settings_of, unpadded
from xds.transport.http2.stream import INTERNAL, Http2Stream


class Connection(Allowance):
    """The server's end of a connection.

    ``window`` is how many bytes of data we may send, ``credit`` how many the peer may send. ``dead``: GOAWAY was sent
    for a fault, or the peer is gone.
    """

    __slots__ = (
        "_blocked",
        "_blocks",
        "_closed",
        "_last_id",
        "credit",
        "draining",
        "peer_stream_window",
        "streams",
        "window",
    )

    def __init__(self, limits: Http2Limits) -> None:
        super().__init__(limits)
        self.streams: dict[int, Http2Stream] = {}
        self.window = h2.WINDOW_DEFAULT
        self.credit = limits.connection_window
        self.peer_stream_window = h2.WINDOW_DEFAULT
        self.draining = False
        self._last_id = 0
        self._blocks = HeaderBlocks(limits.header_block_bytes_max)
        self._blocked: dict[Http2Stream, None] | None = None
        self._closed = ClosedStreams()

    # --- For the subclass ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection once everything written has been sent."""
        raise NotImplementedError

    def open_stream(self, stream_id: int, head: RequestHead) -> Http2Stream:
        """Return a new stream for a request, of the subclass that handles it."""
        raise NotImplementedError

    def began(self, stream: Http2Stream, head: RequestHead) -> None:
        """Called when the connection has registered the stream that ``open_stream`` returned."""
        raise NotImplementedError

    def on_large(self, stream: Http2Stream, more: int) -> None:
        """Called when a stream's message lacks ``more`` bytes; call ``grant`` at once or when there is room."""
        self.grant(stream, more)

    def on_assembled(self, stream: Http2Stream) -> None:
        """Called when a message that credit was granted for has arrived, or never will."""

    # --- Frames in -------------------------------------------------------------------------------------------------

    def on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == h2.DATA and not self._blocks.open_on and self.stage is ConnectionStage.OPEN:
            self._data(flags, stream_id, payload)
            return
        self.check_unread()
        if self.stage is ConnectionStage.SETTINGS and (kind != h2.SETTINGS or flags & h2.ACK):
            raise ConnectionFault(h2.PROTOCOL_ERROR, "the preface is not followed by SETTINGS")
        if self._blocks.open_on and (kind != h2.CONTINUATION or stream_id != self._blocks.open_on):
            raise ConnectionFault(h2.PROTOCOL_ERROR, "a header block is interrupted")
        if kind < len(_HANDLERS):
            _HANDLERS[kind](self, flags, stream_id, payload)
        else:
            self.chore()  # RFC 9113, 5.5: unknown frame types are ignored

    # --- DATA and flow control -------------------------------------------------------------------------------------

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self.credit -= size
        if self.credit < 0:
            raise ConnectionFault(h2.FLOW_CONTROL_ERROR, "more data than the connection's window")
        if 2 * self.credit < self.limits.connection_window:
            self.write(h2.window_update(0, self.limits.connection_window - self.credit))
            self.credit = self.limits.connection_window
        if flags & h2.PADDED:
            payload = unpadded(payload)
            self.chore()
        stream = self.streams.get(stream_id)
        if stream is None or stream.remote_closed:
            self._data_on_closed(flags, stream_id, len(payload))
            return
        stream.credit -= size
        if stream.credit < 0:
            raise StreamFault(stream_id, h2.FLOW_CONTROL_ERROR, "more data than the stream's window")
        if payload:
            stream.take(payload)
        elif not flags & h2.END_STREAM:
            self.chore()
        if flags & h2.END_STREAM:
            self._remote_end(stream)
        elif 2 * stream.credit < self.limits.stream_window:
            self._refill(stream)

    def _refill(self, stream: Http2Stream) -> None:
        """Let the client send a whole window again, unless credit is granted by the message."""
        if not stream.wanted and not stream.over:
            self.write(h2.window_update(stream.id, self.limits.stream_window - stream.credit))
            stream.credit = self.limits.stream_window

    def await_turn(self, stream: Http2Stream) -> None:
        """Called when a stream's large message has arrived; set ``waits``, and call ``take_waiting`` in its turn."""
        stream.take_turn()

    def take_waiting(self, stream: Http2Stream) -> None:
        """Handle the large message of a stream, in its turn."""
        self.waits = False
        try:
            self._take_waiting(stream)
        except StreamFault as fault:
            self.on_limit(fault.limit)
            self.fail_stream(fault.stream_id, fault.code)
        except ConnectionFault as fault:
            self.on_limit(fault.limit)
            self.fail(fault.code, fault.text)

    def _take_waiting(self, stream: Http2Stream) -> None:
        if stream.local_closed:
            return
        stream.take_turn()
        if stream.remote_closed:
            self._end_remote(stream)
        elif 2 * stream.credit < self.limits.stream_window:
            self._refill(stream)

    def takes_whole(self, stream_id: int, size: int) -> Http2Stream | None:
        """Return the stream if a DATA frame of ``size`` bytes with one whole message only needs ``on_message``."""
        stream = self.streams.get(stream_id)
        if stream is None or self._buffer or self._blocks.open_on:
            return None
        if stream.partial is not None or stream.length_left is not None or stream.remote_closed:
            return None
        if stream.local_closed or stream.ending or not stream.reads_messages:
            return None
        room = 2 * (self.credit - size) >= self.limits.connection_window
        return stream if room and 2 * (stream.credit - size) >= self.limits.stream_window else None

    def _data_on_closed(self, flags: int, stream_id: int, size: int) -> None:
        """Handle data for a stream that is not open (RFC 9113, 5.1)."""
        if stream_id == 0 or stream_id > self._last_id:
            raise ConnectionFault(h2.PROTOCOL_ERROR, f"DATA on stream {stream_id}, which is idle")
        answered = self._closed.answered(stream_id)
        if answered is None and self._closed.fate(stream_id) is not Fate.RESET:
            raise StreamFault(stream_id, h2.STREAM_CLOSED, f"DATA on stream {stream_id}, which is closed")
        if size < TINY:
            self.chore()
        if answered is None:
            return
        answered.count(size)
        answered.credit -= size
        if flags & h2.END_STREAM:
            self._remote_end(answered)
        elif 2 * answered.credit < self.limits.stream_window:
            self.reset(
                stream_id, h2.NO_ERROR
            )  # RFC 9113, 8.1: the response is complete, so no more of the request is needed

    def grant(self, stream: Http2Stream, more: int) -> None:
        """Let the client send ``more`` bytes on a stream, beyond its window if need be."""
        stream.granted = True
        if more > stream.credit:
            self.write(h2.window_update(stream.id, more - stream.credit))
            stream.credit = more

    def _remote_end(self, stream: Http2Stream) -> None:
        if stream.length_left:
            raise StreamFault(stream.id, h2.PROTOCOL_ERROR, "less data than content-length says")
        stream.remote_closed = True
        if not self.waits:
            self._end_remote(stream)

    def _end_remote(self, stream: Http2Stream) -> None:
        if stream.local_closed:
            self._forget(stream)
        elif stream.partial:
            stream.cut(INTERNAL, "the request ends within a message")
            self.chore(CHORES_PER_MALFORMED)
        elif not stream.ending:
            stream.on_end()

    def _window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        increment = number_of(payload, "WINDOW_UPDATE") & 0x7FFFFFFF
        if increment < TINY:
            self.chore()
        if stream_id == 0:
            self.window += increment
            if increment == 0 or self.window > h2.WINDOW_MAX:
                code = h2.FLOW_CONTROL_ERROR if increment else h2.PROTOCOL_ERROR
                raise ConnectionFault(code, "WINDOW_UPDATE of 0, or beyond a connection window of 2^31-1")
            self._unblock()
            return
        stream = self.streams.get(stream_id) or self._closed.answered(stream_id)
        if stream is None:
            if stream_id > self._last_id:
                raise ConnectionFault(h2.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            self.chore()
            return
        if increment == 0:
            raise StreamFault(stream_id, h2.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        stream.window += increment
        if stream.window > h2.WINDOW_MAX:
            raise StreamFault(stream_id, h2.FLOW_CONTROL_ERROR, "the window is beyond 2^31-1")
        stream.pump()

    def block(self, stream: Http2Stream) -> None:
        """Continue sending on the stream once the connection's window opens and the peer reads."""
        self._blocked = self._blocked or {}
        self._blocked[stream] = None

    def _unblock(self) -> None:
        while self._blocked and self.window > 0 and not self.paused:
            stream = next(iter(self._blocked))
            del self._blocked[stream]
            stream.pump()
        self._blocked = self._blocked or None

    def resume(self) -> None:
        """Continue every stream, as the peer reads again."""
        self.paused = False
        self._unread_bytes = 0
        self._unblock()
        for stream in list(self.streams.values()):
            if stream.can_send:
                stream.on_writable()

    # --- HEADERS ---------------------------------------------------------------------------------------------------

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._blocks.begin(flags, stream_id, payload):
            self._end_block(stream_id)

    def _continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        self.chore()
        if self._blocks.go_on(flags, payload):
            self._end_block(stream_id)

    def _end_block(self, stream_id: int) -> None:
        self.chore(self._blocks.size // HEADER_BYTES_PER_CHORE)
        head, ends = self._blocks.finish()
        stream = self.streams.get(stream_id) or self._closed.answered(stream_id)
        if stream is not None:
            self._trailers(stream, head, ends)
            return
        if stream_id <= self._last_id:
            fate = self._closed.fate(stream_id)
            if fate is Fate.RESET:
                self.chore()
                return
            if fate is Fate.OVER:
                raise ConnectionFault(h2.STREAM_CLOSED, f"HEADERS on stream {stream_id}, which is closed")
            raise ConnectionFault(h2.PROTOCOL_ERROR, f"HEADERS on stream {stream_id} after {self._last_id}")
        self._last_id = stream_id
        if head.malformed:
            limit = "headers" if head.code == h2.ENHANCE_YOUR_CALM else ""
            raise StreamFault(stream_id, head.code, head.malformed, limit)
        if len(self.streams) >= self.limits.streams_max or self.draining:
            limit = "" if self.draining else "connection_streams"
            raise StreamFault(stream_id, h2.REFUSED_STREAM, "no more streams on this connection", limit)
        self._begin(stream_id, head, ends)

    def _begin(self, stream_id: int, head: RequestHead, ends: bool) -> None:
        if ends and head.content_length:
            raise StreamFault(stream_id, h2.PROTOCOL_ERROR, "content-length says that data follows")
        stream = self.open_stream(stream_id, head)
        self.streams[stream_id] = stream
        stream.length_left = head.content_length
        stream.encoding = head.encoding
        stream.remote_closed = ends
        self.began(stream, head)
        if ends and stream_id in self.streams:
            self._remote_end(stream)

    def _trailers(self, stream: Http2Stream, head: RequestHead, ends: bool) -> None:
        if stream.remote_closed:
            raise StreamFault(stream.id, h2.STREAM_CLOSED, "HEADERS after END_STREAM")
        if not ends:
            raise StreamFault(stream.id, h2.PROTOCOL_ERROR, "trailers that do not end the stream")
        if wrong := trailing_problem(head):
            raise StreamFault(stream.id, head.code, wrong)
        self._remote_end(stream)

    # --- The other frames ------------------------------------------------------------------------------------------

    def _rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        number_of(payload, "RST_STREAM")
        if stream_id == 0 or stream_id > self._last_id:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        stream = self.streams.get(stream_id)
        if stream is None or stream.window >= self.peer_stream_window:
            self.chore()  # nothing was sent on it: it was opened and reset for nothing
        self._closed.add(stream_id, Fate.OVER)
        if stream is not None:
            self._drop(stream)

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & h2.ACK:
            if payload:
                raise ConnectionFault(h2.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
            self.chore()
            return
        if self.stage is ConnectionStage.SETTINGS:
            self.stage = ConnectionStage.OPEN
        else:
            self.chore(1 + len(payload) // SETTINGS_BYTES_PER_CHORE)
        size = self.peer_stream_window
        for key, value in settings_of(payload):
            if key == h2.INITIAL_WINDOW_SIZE:
                size = value
            elif key == h2.HEADER_TABLE_SIZE and value < h2.TABLE_DEFAULT:
                self.give_up_table()
        moved = size - self.peer_stream_window
        if moved:
            self._move_windows(moved)
        self.answer(_SETTINGS_ACK)  # RFC 9113, 6.5.3: before any frame that the new settings first allow
        if moved > 0:
            self._use_windows(tiny=moved < TINY)

    def _move_windows(self, moved: int) -> None:
        """Change the window of every open stream, which may become negative (RFC 9113, 6.9.2)."""
        self.chore(len(self.streams) // STREAMS_PER_CHORE)
        self.peer_stream_window += moved
        for stream in self.streams.values():
            stream.window += moved
            if stream.window > h2.WINDOW_MAX:
                raise ConnectionFault(h2.FLOW_CONTROL_ERROR, "a stream's window beyond 2^31-1")

    def _use_windows(self, *, tiny: bool) -> None:
        for stream in list(self.streams.values()):
            if stream.rest is not None:
                if tiny:
                    self.chore()
                stream.pump()

    def _misplaced(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(h2.PROTOCOL_ERROR, "PUSH_PROMISE from a client, or DATA before anything else")

    # --- Ends ------------------------------------------------------------------------------------------------------

    def fail_stream(self, stream_id: int, code: int) -> None:
        if stream_id > self._last_id or stream_id % 2 == 0:  # RFC 9113, 6.4: no RST_STREAM on an idle stream
            raise ConnectionFault(code, f"a fault on stream {stream_id}, which is idle")
        self.chore()
        self.reset(stream_id, code)

    def reset(self, stream_id: int, code: int) -> None:
        """Reset a stream with an RFC 9113 error code."""
        self.answer(h2.reset_frame(stream_id, code))
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._drop(stream)
        self._closed.add(stream_id, Fate.RESET)

    def ended(self, stream: Http2Stream) -> None:
        """Close a stream whose response is complete. gRPC clients that are still sending then end it themselves."""
        # A RST_STREAM right after the trailers makes some of them report an internal error instead of the status.
        self._forget(stream)
        if not stream.remote_closed:
            self._closed.add_answered(stream)

    def _drop(self, stream: Http2Stream) -> None:
        stream.local_closed = True
        stream.rest = None
        self._forget(stream)

    def _forget(self, stream: Http2Stream) -> None:
        self._closed.add(stream.id, Fate.OVER)
        if self.streams.pop(stream.id, None) is None:
            return
        stream.on_gone()
        if stream.granted:
            stream.granted = False
            self.on_assembled(stream)
        if self._blocked is not None:
            self._blocked.pop(stream, None)

    def goaway(self, text: str = "this server is shutting down") -> None:
        """Send GOAWAY with a reason: the peer opens its next streams on another connection, and open streams go on."""
        if not self.draining and not self.dead:
            self.draining = True
            self.write(h2.goaway_frame(self._last_id, h2.NO_ERROR, text))

    def fail(self, code: int, text: str) -> None:
        """End the connection with GOAWAY, an error code and its reason."""
        if not self.dead:
            self.dead = True
            self.write(h2.goaway_frame(self._last_id, code, text))
            self.lost()
            self.close()

    def lost(self) -> None:
        """Drop all streams, as the connection is closed."""
        self.dead = True
        self.forget_bytes()
        for stream in list(self.streams.values()):
            self._drop(stream)
        self._closed.forget()


_SETTINGS_ACK = h2.frame(h2.SETTINGS, h2.ACK, 0)

_HANDLERS: tuple[Callable[[Connection, int, int, bytes], None], ...] = (
    Connection._misplaced,
    Connection._on_headers,
    Connection._priority,
    Connection._rst_stream,
    Connection._settings,
    Connection._misplaced,
    Connection._ping,
    Connection._goaway,
    Connection._window_update,
    Connection._continuation,
)
"""By frame type."""
