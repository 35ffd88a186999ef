"""One gRPC stream: messages in, and messages out as flow control allows.

A subclass handles the messages (``on_message`` and so on). The unsent rest of a message is a view of its bytes, which
the streams of a cohort share.
"""

from typing import Protocol

from xds.transport.http2 import grpc
from xds.transport.http2.allowance import CHORES_PER_MALFORMED
from xds.transport.http2.faults import StreamFault
from xds.transport.http2.frames import (
    DATA,
    END_STREAM,
    FRAME_BYTES_MAX,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    data_frames,
    frame,
)
from xds.transport.http2.limits import Http2Limits
from xds.transport.http2.partial import Partial

LARGE_BYTES = 32 * 1024
"""Minimum size of the messages that wait for their turn: a smaller one takes at most a millisecond or two."""
UNIMPLEMENTED, INTERNAL, RESOURCE_EXHAUSTED = 12, 13, 8


class StreamConnection(Protocol):
    """What a stream uses of its connection. For annotations only: ``Connection`` does not derive from it."""

    limits: Http2Limits
    peer_stream_window: int
    window: int
    paused: bool

    def write(self, data: bytes) -> None:
        """Send frames whose flow control the caller has accounted for."""

    def answer(self, data: bytes) -> None:
        """Send a frame that is not flow-controlled."""

    def chore(self, count: int = 1) -> None:
        """Charge the peer for ``count`` chores. Raises ConnectionFault if there were too many."""

    def on_limit(self, limit: str) -> None:
        """Note that the peer has reached a limit."""

    def block(self, stream: "Http2Stream") -> None:
        """Call the stream's ``pump`` once the connection's window opens and the peer reads."""

    def grant(self, stream: "Http2Stream", more: int) -> None:
        """Let the client send ``more`` bytes on a stream."""

    def on_large(self, stream: "Http2Stream", more: int) -> None:
        """Note that a stream's message lacks ``more`` bytes."""

    def on_assembled(self, stream: "Http2Stream") -> None:
        """Note that a message that credit was granted for has arrived, or never will."""

    def await_turn(self, stream: "Http2Stream") -> None:
        """Call the stream's ``take_turn`` soon. Nothing more of the connection is read before."""

    def reset(self, stream_id: int, code: int) -> None:
        """Reset a stream."""

    def ended(self, stream: "Http2Stream") -> None:
        """Note that a stream's response is complete."""


class Http2Stream:
    """A stream of a connection. ``window`` is how many bytes we may still send, ``credit`` how many the client may."""

    __slots__ = (
        "connection",
        "credit",
        "encoding",
        "ending",
        "granted",
        "id",
        "length_left",
        "local_closed",
        "partial",
        "remote_closed",
        "rest",
        "started",
        "wanted",
        "window",
    )

    reads_messages = True
    """Whether a whole message may be passed to ``on_message`` directly, without ``take``."""

    def __init__(self, connection: StreamConnection, stream_id: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.window = connection.peer_stream_window
        self.credit = connection.limits.stream_window
        self.partial: Partial | None = None
        """An incomplete message."""
        self.wanted = 0
        """Its size with the prefix, 0 until that is known."""
        self.granted = False
        """Whether the client has the credit for all of it."""
        self.encoding = "identity"
        self.rest: memoryview | None = None
        """The unsent rest of a message."""
        self.ending = b""
        """The frame that ends the response after ``rest``."""
        self.started = False
        self.remote_closed = False
        self.local_closed = False
        self.length_left: int | None = None
        """The bytes still to come by the request's ``content-length``, if it has one."""

    # --- For the subclass ------------------------------------------------------------------------------------------

    def on_message(self, message: bytes) -> None:
        """Handle a message of the client."""
        raise NotImplementedError

    def on_end(self) -> None:
        """Called when the client has ended its half of the stream."""
        raise NotImplementedError

    def on_gone(self) -> None:
        """Called when the stream has closed: finished, reset, or lost with its connection. May be called twice."""
        raise NotImplementedError

    def on_writable(self) -> None:
        """Called when the last message has been sent whole and the connection takes more."""
        raise NotImplementedError

    # --- Receiving -------------------------------------------------------------------------------------------------

    def take(self, data: bytes) -> None:
        """Handle the payload of a DATA frame whose flow control is accounted for."""
        self.count(len(data))
        if self.ending:
            return  # the answer is decided, if not sent yet: further data must not be kept
        if self.partial is None:
            if len(data) >= grpc.PREFIX_BYTES and len(data) == int.from_bytes(data[1:5], "big") + grpc.PREFIX_BYTES:
                if data[0]:
                    self._refuse_compressed(data[0])
                else:
                    self.on_message(data[5:])
                return
            self.partial = Partial(data)
        else:
            self.partial.add(data)
        if self.partial.size >= self.wanted:
            if self.wanted >= LARGE_BYTES:
                self.connection.await_turn(self)
            else:
                self._take_whole(self.partial)

    def take_turn(self) -> None:
        """Pass on the large message that has waited for its turn."""
        if self.partial is not None and not self.over:
            self._take_whole(self.partial)

    def _take_whole(self, partial: Partial) -> None:
        if partial.size == self.wanted:
            self._take_last(partial)
        else:
            self._take_all(partial)

    def count(self, size: int) -> None:
        """Raise StreamFault if the client sends more than its ``content-length``."""
        if self.length_left is not None:
            self.length_left -= size
            if self.length_left < 0:
                raise StreamFault(self.id, PROTOCOL_ERROR, "more data than content-length says")

    def _take_last(self, partial: Partial) -> None:
        """Pass on the message, which is allowed and which nothing follows."""
        message = partial.whole(grpc.PREFIX_BYTES)
        self.partial = None
        self.wanted = 0
        self._release()
        self.on_message(message)

    def _take_all(self, partial: Partial) -> None:
        """Pass on the complete messages, keep the remaining bytes, and request credit for an incomplete message."""
        data, at = partial.whole(), 0
        while len(data) - at >= grpc.PREFIX_BYTES and not self.over:
            size = int.from_bytes(data[at + 1 : at + 5], "big")
            self.wanted = size + grpc.PREFIX_BYTES
            most = self.connection.limits.message_bytes_max
            if data[at]:
                self._refuse_compressed(data[at])
                break
            if size > most:
                self.connection.on_limit("message")
                self._refuse(RESOURCE_EXHAUSTED, f"a message of {size} bytes; the limit is {most}")
                break
            if len(data) - at < self.wanted:
                break
            message = data[at + grpc.PREFIX_BYTES : at + self.wanted]
            at += self.wanted
            self.wanted = 0
            self._release()
            self.on_message(message)
        if at:
            self.partial = Partial(data[at:])
        if self.over or at == len(data):
            self._release()
            self.partial = None
            self.wanted = 0
            return
        if self.wanted and not self.granted:
            self.connection.on_large(self, self.wanted - (len(data) - at))

    def _release(self) -> None:
        if self.granted:
            self.granted = False
            self.connection.on_assembled(self)

    def _refuse_compressed(self, flag: int) -> None:
        if flag == 1 and self.encoding != "identity":
            self._refuse(UNIMPLEMENTED, "compressed messages are not supported; see grpc-accept-encoding")
        else:
            self._refuse(INTERNAL, f"compressed flag {flag} without a grpc-encoding that allows it")

    def _refuse(self, status: int, message: str) -> None:
        self.finish(status, message)
        self.connection.chore(CHORES_PER_MALFORMED)

    @property
    def arrived(self) -> int:
        """The bytes received of an incomplete message."""
        return self.partial.size if self.partial is not None else 0

    @property
    def is_whole(self) -> bool:
        """Whether the message has arrived, and waits for its turn."""
        return 0 < self.wanted <= self.arrived

    # --- Sending ---------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether the end of the response is decided; further messages of the client are ignored."""
        return self.local_closed or bool(self.ending)

    @property
    def can_send(self) -> bool:
        """Whether ``send`` may be called: no message is waiting, and the peer reads."""
        return self.rest is None and not self.local_closed and not self.connection.paused

    def start(self) -> None:
        """Send the response's headers."""
        if not self.started and not self.local_closed:
            self.started = True
            self.connection.answer(grpc.response_headers(self.id))

    def send(self, data: bytes, framed: bytes | None = None) -> None:
        """Send a message with its prefix. Must only be called while ``can_send``.

        ``framed`` is the same as DATA frames of this stream, if the caller has them.
        """
        connection = self.connection
        size = len(data)
        if size <= self.window and size <= connection.window:
            self.window -= size
            connection.window -= size
            connection.write(framed or data_frames(self.id, data))
            return
        self.rest = memoryview(data)
        self.pump()

    def pump(self) -> None:
        """Send as much of the rest as flow control allows while the peer reads."""
        rest, connection = self.rest, self.connection
        if rest is None or self.local_closed:
            return
        sent, allowed = 0, min(len(rest), self.window, connection.window)
        while sent < allowed and not connection.paused:
            piece = bytes(rest[sent : min(sent + FRAME_BYTES_MAX, allowed)])
            sent += len(piece)
            connection.write(frame(DATA, 0, self.id, piece))
        self.window -= sent
        connection.window -= sent
        if sent < len(rest):
            self.rest = rest[sent:]
            if connection.window <= 0 or connection.paused:
                connection.block(self)
            return
        self.rest = None
        if self.ending:
            self._close(self.ending)
        elif not connection.paused:
            self.on_writable()

    def finish(self, status: int, message: str = "") -> None:
        """End the response with a gRPC status; an unfinished message is sent whole first."""
        if self.over:
            return
        end = grpc.trailers(self.id, status, message, only=not self.started)
        if self.rest is None:
            self._close(end)
        else:
            self.ending = end

    def cut(self, status: int, message: str = "") -> None:
        """End the response with a gRPC status at once; the rest of an unfinished message is dropped."""
        if self.rest is None:
            self.finish(status, message)
        elif not self.local_closed:
            # No trailers can follow half a message; gRPC clients read this code as UNAVAILABLE and connect again.
            self.connection.reset(self.id, REFUSED_STREAM)

    def answer_http(self, status: int, *, headers_only: bool = False) -> None:
        """Answer a request that is not gRPC with an HTTP status and a line of text."""
        head, body = grpc.http_answer(self.id, status)
        self.started = True
        self.connection.answer(head)
        self.ending = frame(DATA, END_STREAM, self.id)
        if headers_only:
            self._close(self.ending)
            return
        self.rest = memoryview(body)
        self.pump()

    def _close(self, end: bytes) -> None:
        self.local_closed = True
        self.connection.answer(end)
        self.connection.ended(self)
