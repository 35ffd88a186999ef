"""The client's side of one gRPC stream on its own connection, on asyncio.

Made for a hundred thousand streams in a few processes: without a task, queue or decoder for each. A message that
arrives whole in one frame, and that another stream has received before, costs one lookup.
"""

import asyncio
from collections import deque
from typing import cast
from urllib.parse import unquote

from xds.fleet.content import MalformedError, Message
from xds.fleet.http2 import STREAM_ID, headers
from xds.fleet.shared import SharedByStreams
from xds.fleet.wire import Outgoing
from xds.transport.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES_MAX,
    GOAWAY,
    HEADER_BYTES,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PING,
    PRIORITIZED,
    RST_STREAM,
    SETTINGS,
    WINDOW_DEFAULT,
    WINDOW_MAX,
    WINDOW_UPDATE,
    data_frames,
    frame,
    window_update,
)

MESSAGE_BYTES_MAX = 512 << 20
BLOCK_BYTES_MAX = 64 << 10
UNSENT_PARTS_MAX = 10_000
_PREFIX_BYTES = 5
_SETTINGS_ACK = frame(SETTINGS, ACK, 0)
_STREAM = STREAM_ID.to_bytes(4, "big")


class FaultError(Exception):
    """A server violated HTTP/2 or gRPC, or ended the stream. Losses are counted by ``kind``."""

    def __init__(self, kind: str, text: str = "") -> None:
        super().__init__(f"{kind}: {text}" if text else kind)
        self.kind = kind


class ClientStream(asyncio.Protocol):
    """Speaks HTTP/2 for one stream; a subclass handles messages (``took``) and the end (``ended``)."""

    __slots__ = (
        "_block",
        "_blocks",
        "_closed",
        "_connection_window",
        "_goaway",
        "_greeted",
        "_initial_window",
        "_partial",
        "_plain",
        "_tail",
        "_unread_bytes",
        "_unsent",
        "_window",
        "shared",
        "transport",
    )

    def __init__(self, shared: SharedByStreams) -> None:
        self.shared = shared
        self.transport: asyncio.Transport | None = None
        self.begin()

    def begin(self) -> None:
        """Reset the state of the last connection."""
        self._tail = b""
        self._partial: bytearray | None = None
        self._plain = self._greeted = self._closed = False
        self._unread_bytes = 0
        self._window = self._connection_window = self._initial_window = WINDOW_DEFAULT
        self._unsent: deque[memoryview] | None = None
        self._block: bytes | None = None
        self._blocks: tuple[bytes, ...] = ()
        self._goaway: str | None = None

    # --- For the subclass ----------------------------------------------------------------------------------------

    def took(self, message: Message) -> None:
        """Handle a received message."""
        raise NotImplementedError

    def ended(self, fault: FaultError) -> None:
        """Handle an end of the stream that this side did not request. Called at most once per connection."""
        raise NotImplementedError

    def send(self, outgoing: Outgoing) -> None:
        """Send as much as the server's windows allow; the rest follows when they grow."""
        size = len(outgoing.data)
        if self._unsent or size > self._window or size > self._connection_window:
            self._queue(memoryview(outgoing.data))
            return
        self._window -= size
        self._connection_window -= size
        self.transport.write(outgoing.frames)  # type: ignore[union-attr]

    def send_both(self, first: Outgoing, second: Outgoing) -> None:
        """Send both, in one write if possible: a write is the most expensive part."""
        size = len(first.data) + len(second.data)
        if self._unsent or size > min(self._window, self._connection_window):
            self.send(first)
            self.send(second)
            return
        self._window -= size
        self._connection_window -= size
        self.transport.write(first.frames + second.frames)  # type: ignore[union-attr]

    def leave(self) -> None:
        """Close the connection; its end is not reported."""
        self._closed = True
        if self.transport is not None:
            self.transport.close()

    @property
    def left(self) -> bool:
        """Whether the connection is closed, by either side, or was never opened."""
        return self._closed

    # --- Receiving -----------------------------------------------------------------------------------------------

    def begin_with(self, transport: asyncio.BaseTransport, *requests: Outgoing) -> None:
        """Send the preface and the first requests, all in one write if the initial window has room for them."""
        self.transport = cast("asyncio.Transport", transport)
        size = sum(len(request.data) for request in requests)
        if size <= self._window:
            self._window -= size
            self._connection_window -= size
            self.transport.write(self.shared.opening + b"".join(request.frames for request in requests))
            return
        self.transport.write(self.shared.opening)
        for request in requests:
            self.send(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface alone; a subclass with requests overrides this."""
        self.begin_with(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end, unless it was reported already or requested by this side."""
        self.transport = None
        if exc is not None:
            self.fail(FaultError(f"connection lost ({type(exc).__name__})", str(exc)))
        else:
            self.fail(FaultError("closed by the server", self._goaway or ""))

    def data_received(self, data: bytes) -> None:
        """Handle received bytes. Faults are reported to ``ended``, never raised."""
        shared = self.shared
        shared.bytes_received += len(data)
        if self._closed:
            return
        if self._plain:
            message = shared.latest_message if data == shared.latest else shared.known(data)
            if message is not None:
                unread_bytes = self._unread_bytes = self._unread_bytes + len(data) - HEADER_BYTES
                if unread_bytes > shared.room_bytes:
                    self._make_room()
                self.took(message)
                return
        try:
            self._read(data)
        except FaultError as fault:
            self.fail(fault)
        except MalformedError as error:
            self.fail(FaultError("malformed response", str(error)))

    def fail(self, fault: FaultError) -> None:
        """Close the connection and report the fault, unless the stream has ended already."""
        if self._closed:
            return
        self._closed = True
        if self.transport is not None:
            self.transport.close()
        self.ended(fault)

    def _read(self, data: bytes) -> None:
        if self._plain and _is_one_message(data):
            message = self.shared.parser.message(data[HEADER_BYTES + _PREFIX_BYTES :])
            self.shared.keep(data, message)
            self._count(len(data) - HEADER_BYTES)
            self.took(message)
            return
        if self._tail:
            data = self._tail + data
        at, end = 0, len(data)
        while end - at >= HEADER_BYTES and not self._closed:
            size = int.from_bytes(data[at : at + 3], "big")
            if not self._greeted:
                self._greet(data[at : at + HEADER_BYTES + 16])
            if size > FRAME_BYTES_MAX:
                raise FaultError("HTTP/2 error", f"a frame of {size} bytes, where {FRAME_BYTES_MAX} were allowed")
            stop = at + HEADER_BYTES + size
            if stop > end:
                break
            on_stream = data[at + 5 : at + HEADER_BYTES] == _STREAM
            self._take(data[at + 3], data[at + 4], on_stream, data[at + HEADER_BYTES : stop])
            at = stop
        self._tail = data[at:]
        self._plain = not self._tail and self._partial is None and bool(self._blocks) and self._block is None

    def _greet(self, start: bytes) -> None:
        if start[3] != SETTINGS or start[5:9] != b"\0\0\0\0":
            raise FaultError("no HTTP/2 there", f"it said {start!r} first; is this a gRPC port, and is it TLS?")
        self._greeted = True

    def _take(self, kind: int, flags: int, on_stream: bool, payload: bytes) -> None:
        if self._block is not None and kind != CONTINUATION:
            raise FaultError("HTTP/2 error", "another frame within a header block (RFC 9113, 6.10)")
        if kind == DATA:
            self._count(len(payload))
            self._data(_unpadded(flags, payload))
            if flags & END_STREAM:
                raise FaultError("stream ended without a status")
        elif kind == HEADERS:
            payload = _unpadded(flags, payload)
            self._headers(flags, payload[5:] if flags & PRIORITIZED else payload)
        elif kind == CONTINUATION:
            self._headers(flags, payload)
        elif kind == WINDOW_UPDATE:
            self._widen(on_stream, int.from_bytes(payload, "big") & WINDOW_MAX)
        elif kind == SETTINGS:
            if not flags & ACK:
                self._settings(payload)
        elif kind == PING:
            if not flags & ACK:
                self._write(frame(PING, ACK, 0, payload))
            else:
                self.ponged()
        elif kind == RST_STREAM and on_stream:
            raise FaultError(f"RST_STREAM {int.from_bytes(payload, 'big')}", self._goaway or "")
        elif kind == GOAWAY:
            text = payload[8:].decode(errors="replace")
            self._goaway = f"GOAWAY {int.from_bytes(payload[4:8], 'big')} {text}".strip()

    def ponged(self) -> None:
        """Handle the answer to a ping."""

    def ping(self) -> None:
        """Send an HTTP/2 PING; its answer shows that the server has read all data sent before."""
        self._write(frame(PING, 0, 0, b"xdsfleet"))

    def _data(self, payload: bytes) -> None:
        if not self._blocks:
            raise FaultError("HTTP/2 error", "DATA before HEADERS")
        if self._partial is None:
            self._partial = bytearray()
        partial = self._partial
        partial += payload
        while len(partial) >= _PREFIX_BYTES:
            size = int.from_bytes(partial[1:_PREFIX_BYTES], "big")
            if partial[0]:
                raise FaultError("gRPC error", "a compressed message, though no compression was offered")
            if size > MESSAGE_BYTES_MAX:
                raise FaultError("gRPC error", f"a message of {size} bytes, more than {MESSAGE_BYTES_MAX}")
            if len(partial) < _PREFIX_BYTES + size:
                return
            with memoryview(partial) as view:
                encoded = bytes(view[_PREFIX_BYTES : _PREFIX_BYTES + size])
            del partial[: _PREFIX_BYTES + size]
            self.took(self.shared.parser.message(encoded))
        if not partial:
            self._partial = None

    def _headers(self, flags: int, fragment: bytes) -> None:
        ends_stream = bool(flags & END_STREAM) or (self._block or b"").startswith(b"!")
        block = (self._block or b"")[1:] + fragment
        if len(block) > BLOCK_BYTES_MAX:
            raise FaultError("HTTP/2 error", f"headers of more than {BLOCK_BYTES_MAX} bytes")
        if not flags & END_HEADERS:
            self._block = (b"!" if ends_stream else b".") + block
            return
        self._block = None
        self._blocks = (*self._blocks, block)
        try:
            decoded = headers(self._blocks)
        except ValueError as error:
            raise FaultError("HTTP/2 error", str(error)) from None
        if len(self._blocks) == 1 and (
            decoded.get(":status") != "200" or not decoded.get("content-type", "").startswith("application/grpc")
        ):
            answer = f"HTTP status {decoded.get(':status')}, content-type {decoded.get('content-type')!r}"
            raise FaultError("no gRPC there", f"{answer}; is this the xDS port?")
        if ends_stream:
            raise FaultError(
                f"grpc-status {decoded.get('grpc-status', 'none')}", unquote(decoded.get("grpc-message", ""))
            )

    # --- Windows -------------------------------------------------------------------------------------------------

    def _count(self, size: int) -> None:
        self._unread_bytes += size
        if self._unread_bytes > self.shared.room_bytes:
            self._make_room()

    def _make_room(self) -> None:
        """Send window updates for the bytes received, in one write for stream and connection."""
        size, self._unread_bytes = self._unread_bytes, 0
        self._write(window_update(0, size) + window_update(STREAM_ID, size))

    def _settings(self, payload: bytes) -> None:
        for at in range(0, len(payload) - 5, 6):
            if int.from_bytes(payload[at : at + 2], "big") == INITIAL_WINDOW_SIZE:
                size = int.from_bytes(payload[at + 2 : at + 6], "big")
                self._window += size - self._initial_window  # RFC 9113, 6.9.2: it may become negative
                self._initial_window = size
        self._write(_SETTINGS_ACK)
        self._flush()

    def _widen(self, on_stream: bool, size: int) -> None:
        if on_stream:
            self._window += size
        else:
            self._connection_window += size
        self._flush()

    def _queue(self, data: memoryview) -> None:
        if self._unsent is None:
            self._unsent = deque()
        self._unsent.append(data)
        if len(self._unsent) > UNSENT_PARTS_MAX:
            self.fail(FaultError("the server takes no requests", f"{UNSENT_PARTS_MAX} wait for its window to open"))
        else:
            self._flush()

    def _flush(self) -> None:
        unsent = self._unsent
        while unsent:
            room = min(self._window, self._connection_window, len(unsent[0]))
            if room <= 0:
                return
            data = unsent.popleft()
            if room < len(data):
                unsent.appendleft(data[room:])
            self._window -= room
            self._connection_window -= room
            self._write(data_frames(STREAM_ID, bytes(data[:room])))
        self._unsent = None

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)


def _is_one_message(data: bytes) -> bool:
    """Return whether this is one DATA frame of the stream, not its last and not padded, with one whole message."""
    size = len(data) - HEADER_BYTES
    return (
        size >= _PREFIX_BYTES
        and data[3] == DATA
        and data[4] == 0
        and data[5:9] == _STREAM
        and int.from_bytes(data[:3], "big") == size
        and data[9] == 0
        and int.from_bytes(data[10:14], "big") == size - _PREFIX_BYTES
    )


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise FaultError("HTTP/2 error", "padding longer than its frame (RFC 9113, 6.1)")
    return payload[1 : len(payload) - payload[0]]
