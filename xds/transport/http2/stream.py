"""One request and its response: messages in, messages out, as much as flow control allows.

It does not know frames. A subclass says what happens with messages (``on_message`` and so on). What can't be
sent yet is kept as a view of the message's own bytes, which its cohort shares.
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

UNIMPLEMENTED, INTERNAL, RESOURCE_EXHAUSTED = 12, 13, 8


class StreamConnection(Protocol):
    """What a stream needs of its connection. For annotations alone: a connection does not derive from it."""

    limits: Http2Limits
    peer_stream_window: int
    window: int
    paused: bool

    def write(self, data: bytes) -> None:
        """Send frames that flow control is accounted for."""

    def answer(self, data: bytes) -> None:
        """Send a frame that flow control does not hold back."""

    def chore(self, count: int = 1) -> None:
        """Charge the peer while one of its frames is taken. Raises ConnectionFault for too much."""

    def block(self, stream: "Http2Stream") -> None:
        """Have the stream's ``pump`` called once the connection's window opens, and the peer reads."""

    def grant(self, stream: "Http2Stream", more: int) -> None:
        """Let the client send ``more`` bytes on a stream."""

    def on_large(self, stream: "Http2Stream", more: int) -> None:
        """Note that a stream's message needs ``more`` bytes than came."""

    def on_assembled(self, stream: "Http2Stream") -> None:
        """Note that a message that credit was granted for has arrived, or never will."""

    def reset(self, stream_id: int, code: int) -> None:
        """End a stream at once."""

    def ended(self, stream: "Http2Stream") -> None:
        """Note that a stream's response is complete."""


class Http2Stream:
    """A stream of a connection. ``window`` is what may still be sent, ``credit`` what the client may still send.

    ``partial`` is a message that has not arrived whole, ``wanted`` its size with the prefix once that is known.
    ``granted`` says that the client was given the credit for all of it. ``rest`` is what is still to be sent of a
    message, ``ending`` what goes after it.
    """

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
    """Messages are all that matters to it of what the client sends: ``on_message`` may be called without ``take``."""

    def __init__(self, connection: StreamConnection, stream_id: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.window = connection.peer_stream_window
        self.credit = connection.limits.stream_window
        self.partial: Partial | None = None
        self.wanted = 0
        self.granted = False
        self.encoding = "identity"
        self.rest: memoryview | None = None
        self.ending = b""
        self.started = False
        self.remote_closed = False
        self.local_closed = False
        self.length_left: int | None = None
        """What is left of the ``content-length`` that was announced, if any was."""

    # --- For the subclass ------------------------------------------------------------------------------------------

    def on_message(self, message: bytes) -> None:
        """Take a message of the client."""
        raise NotImplementedError

    def on_end(self) -> None:
        """The client has nothing more to say."""
        raise NotImplementedError

    def on_gone(self) -> None:
        """The stream is over, whichever way: finished, reset, or lost with its connection. May be called twice."""
        raise NotImplementedError

    def on_writable(self) -> None:
        """All that was given to ``send`` has gone out, and the connection takes more."""
        raise NotImplementedError

    # --- Receiving -------------------------------------------------------------------------------------------------

    def take(self, data: bytes) -> None:
        """Take the payload of a DATA frame, flow control accounted for."""
        self.count(len(data))
        if self.ending:
            return  # the answer is decided, if not sent; what still comes must not be kept
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
        if self.partial.size == self.wanted:
            self._take_last(self.partial)
        elif self.partial.size >= self.wanted:
            self._take_all(self.partial)

    def count(self, size: int) -> None:
        """Hold the client to the ``content-length`` that it announced, if it did."""
        if self.length_left is not None:
            self.length_left -= size
            if self.length_left < 0:
                raise StreamFault(self.id, PROTOCOL_ERROR, "more data than content-length says")

    def _take_last(self, partial: Partial) -> None:
        """Hand on a message, known to be taken, that nothing follows."""
        message = partial.whole(grpc.PREFIX_BYTES)
        self.partial = None
        self.wanted = 0
        self._release()
        self.on_message(message)

    def _take_all(self, partial: Partial) -> None:
        """Hand on the messages that are complete, keep what is left, and ask for the rest of what is not complete."""
        data, at = partial.whole(), 0
        while len(data) - at >= grpc.PREFIX_BYTES and not self.over:
            size = int.from_bytes(data[at + 1 : at + 5], "big")
            self.wanted = size + grpc.PREFIX_BYTES
            most = self.connection.limits.message_bytes_max
            if data[at]:
                self._refuse_compressed(data[at])
                break
            if size > most:
                self._refuse(RESOURCE_EXHAUSTED, f"a message of {size} bytes; at most {most} are taken")
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
            self._refuse(UNIMPLEMENTED, "compressed messages are not taken; grpc-accept-encoding says what is")
        else:
            self._refuse(INTERNAL, f"message flag {flag} without an encoding that allows it")

    def _refuse(self, status: int, message: str) -> None:
        self.finish(status, message)
        self.connection.chore(CHORES_PER_MALFORMED)

    @property
    def arrived(self) -> int:
        """How many bytes came of the message that has not arrived whole."""
        return self.partial.size if self.partial is not None else 0

    # --- Sending ---------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Say whether the response is decided, to its end: what the client still says is of no account."""
        return self.local_closed or bool(self.ending)

    @property
    def can_send(self) -> bool:
        """Say whether a message given to ``send`` now would go out at once, flow control allowing."""
        return self.rest is None and not self.local_closed and not self.connection.paused

    def start(self) -> None:
        """Send the response's headers."""
        if not self.started and not self.local_closed:
            self.started = True
            self.connection.answer(grpc.response_headers(self.id))

    def send(self, data: bytes, framed: bytes | None = None) -> None:
        """Send a message with its prefix; ``framed`` is the same as DATA frames of this stream, if somebody has it.

        Must only be called while ``can_send``.
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
        """Send as much of what is left as flow control and the peer's reading allow."""
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
        """End the response with a gRPC status; a message that is on its way goes out before it, whole."""
        if self.over:
            return
        end = grpc.trailers(self.id, status, message, only=not self.started)
        if self.rest is None:
            self._close(end)
        else:
            self.ending = end

    def cut(self, status: int, message: str = "") -> None:
        """End the response with a gRPC status, at once: a message that is on its way is given up for it."""
        if self.rest is None:
            self.finish(status, message)
        elif not self.local_closed:
            # No trailers can follow half a message; gRPC clients read this code as UNAVAILABLE and connect again.
            self.connection.reset(self.id, REFUSED_STREAM)

    def answer_http(self, status: int, *, headers_only: bool = False) -> None:
        """Answer what is not a gRPC request: status and a line of text, as flow control allows."""
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
