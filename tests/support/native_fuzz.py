"""Parts of a fuzzer of the HTTP/2 connection: an application, a generator of frames, a checker of the output.

All run in one process and without sockets: bytes go into the connection, and its output is checked at once.
"""

import random
import struct
import weakref
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

import hpack
from hpack.struct import NeverIndexedHeaderTuple

from support import native_peer as p
from support.native_peer import frame, message, request_fields
from xds.transport.http2 import grpc
from xds.transport.http2.connection import Connection
from xds.transport.http2.headers import RequestHead
from xds.transport.http2.limits import Http2Limits
from xds.transport.http2.stream import Http2Stream

REPLIES_WAITING_MAX = 4
KEPT_BYTES = 2 * 16_384
"""Bytes that may be held of messages above their limit: a prefix, and the frame that exceeds it."""
_KINDS = ("DATA", "HEADERS", "RST_STREAM", "SETTINGS", "PING", "GOAWAY", "WINDOW_UPDATE")
KINDS: dict[int, str] = {getattr(p, name): name for name in _KINDS}
"""The frames that a server may send."""
LIVE: "weakref.WeakSet[object]" = weakref.WeakSet()
"""Connections and streams that are still referenced."""


class Fault(AssertionError):  # noqa: N818 - of the connection under test
    """The connection violated a rule."""


# --- The application -------------------------------------------------------------------------------------------------


class Echo(Http2Stream):
    """Answers each message with one of the size in its first two bytes; ends when the client does."""

    def __init__(self, connection: "Application", stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self.application = connection
        self.waiting: list[int] = []
        self.done = False
        self.forgotten = False
        LIVE.add(self)

    def on_message(self, message: bytes) -> None:
        if self.forgotten:
            raise Fault(f"stream {self.id} is over and is given a message")
        self.application.messages += 1
        if len(message) > self.connection.limits.message_bytes_max:
            raise Fault(f"a message of {len(message)} bytes")
        if len(self.waiting) < REPLIES_WAITING_MAX:
            self.waiting.append(int.from_bytes(message[:2], "big"))
        if message[:1] == b"\xff":
            self.finish(3, "as the message wants it: «ï» 100%")
        elif message[:1] == b"\xfe":
            self.cut(13, "at once")
        else:
            self.start()
            self.on_writable()

    def on_writable(self) -> None:
        while self.waiting and self.can_send:
            self.start()
            self.send(grpc.prefixed(bytes(self.waiting.pop(0))))
        if self.done and not self.waiting and not self.rest:
            self.finish(0)

    def on_end(self) -> None:
        self.done = True
        self.on_writable()

    def on_gone(self) -> None:
        if not self.forgotten:
            self.application.gone += 1
        self.forgotten = True


class Application(Connection):
    """A connection with its output in ``out``, and its clock in ``now``."""

    def __init__(self, limits: Http2Limits) -> None:
        super().__init__(limits)
        self.out = bytearray()
        self.closed = False
        self.now = 1.0
        self.opened = self.gone = self.messages = 0
        self.limits_reached: list[str] = []
        LIVE.add(self)

    def write(self, data: bytes) -> None:
        if self.closed:
            raise Fault("written to after close")
        self.out += data

    def close(self) -> None:
        self.closed = True

    def on_limit(self, limit: str) -> None:
        if limit:
            self.limits_reached.append(limit)

    def clock(self) -> float:
        return self.now

    def open_stream(self, stream_id: int, head: RequestHead) -> Http2Stream:
        self.opened += 1
        return Echo(self, stream_id)

    def began(self, stream: Http2Stream, head: RequestHead) -> None:
        status = grpc.http_refusal(head)
        if status is not None:
            stream.answer_http(status)

    def stir(self, chance: random.Random) -> None:
        """Do something spontaneous: time passes, the peer reads or stops reading, a stream is written to or ends."""
        self.now += chance.random() * 5
        act = chance.randrange(12)
        if act < 6 and self.paused:
            self.resume()
        elif act < 4:
            self.paused = True
        elif act == 11 and chance.random() < 0.1:
            self.goaway()
        elif self.streams and not self.dead:
            stream = self.streams[chance.choice(list(self.streams))]
            if act == 10:
                stream.finish(14, "for reasons of its own")
            elif act == 9:
                stream.cut(14, "for reasons of its own")
            elif stream.can_send:
                stream.start()
                stream.send(grpc.prefixed(bytes(chance.choice((0, 10, 100_000)))))

    def check(self) -> None:
        """Raise Fault if streams have leaked, are too many, or hold more than the limits allow."""
        if self.opened - self.gone != len(self.streams):
            raise Fault(f"{self.opened} streams opened, {self.gone} gone, {len(self.streams)} open")
        if len(self.streams) > self.limits.streams_max:
            raise Fault(f"{len(self.streams)} streams are open, {self.limits.streams_max} allowed")
        for stream in self.streams.values():
            if stream.partial is not None and stream.partial.size > self.limits.message_bytes_max + KEPT_BYTES:
                raise Fault(f"{stream.partial.size} bytes of a message are kept")


# --- Input -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def header_block(which: int) -> bytes:
    """Return one of a few header blocks: of requests, of trailers, malformed, or not HPACK at all."""
    fields = _BLOCKS[which % len(_BLOCKS)]
    if isinstance(fields, bytes):
        return fields
    return hpack.Encoder().encode([NeverIndexedHeaderTuple(name, value) for name, value in fields])


_BLOCKS: list[bytes | list[tuple[str, str]]] = [
    request_fields(),
    request_fields(grpc_timeout="10S"),
    request_fields(grpc_encoding="gzip"),
    request_fields(content_length="7"),
    [("x-trailer", "1")],
    request_fields("/", method="GET"),
    request_fields(content_type="text/html"),
    [*request_fields(), *((f"x-{number}", "v" * 300) for number in range(30))],
    [*request_fields(), ("connection", "close")],
    request_fields(drop=[":path"]),
    [("", "")],
    b"",
    b"\xff\xff\xff\xff\xff\xff",
    b"\x82\x86\x84\x41\x0f" + b"www.example.com",
]
REQUESTS = 3
"""The number of blocks, from the first, that are valid requests."""


class Sayer:
    """Makes random frames: ``sane`` ones that a client could send, ``wild`` ones, and ``damaged`` ones."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.next_id = 1
        self._sane: list[tuple[Callable[[], bytes], int]] = [
            (self.request, 20),
            (self.data, 40),
            (self.credit, 15),
            (self.cancel, 4),
            (self.end, 6),
            (self.settings, 2),
            (lambda: p.ping(self.chance.randbytes(8)), 2),
            (self.priority, 2),
            (self.cut_headers, 3),
            (lambda: frame(self.chance.randrange(10, 256), 0, 0, b"?"), 1),
            (lambda: frame(p.SETTINGS, p.ACK, 0), 1),
        ]
        self._sane_made = [made for made, _ in self._sane]
        self._sane_weights = [weight for _, weight in self._sane]

    def sane(self) -> bytes:
        """Return a frame that a client could send, though maybe not at this point; the first opens a stream."""
        if self.next_id == 1:
            return self.request()
        (made,) = self.chance.choices(self._sane_made, self._sane_weights)
        return made()

    def stream_id(self) -> int:
        """Return the number of an opened stream, mostly a recent one."""
        back = int(self.chance.expovariate(0.5))
        return max(1, self.next_id - 2 - 2 * back)

    def opened(self) -> int:
        """Return the number of the next stream."""
        self.next_id += 2
        return self.next_id - 2

    def request(self) -> bytes:
        block = header_block(
            self.chance.randrange(REQUESTS) if self.chance.random() < 0.9 else self.chance.randrange(8)
        )
        flags = p.END_HEADERS | (p.END_STREAM if self.chance.random() < 0.05 else 0)
        return frame(p.HEADERS, flags, self.opened(), block) + (self.data(self.next_id - 2) if flags == 4 else b"")

    def data(self, stream_id: int = 0) -> bytes:
        size = self.chance.choice((0, 2, 2, 2, 10, 300, 5_000))
        asked = self.chance.choice((0, 10, 10, 200, 20_000)).to_bytes(2, "big")
        said = message((asked + bytes(size))[:size], flag=self.chance.choices((0, 1, 7), (98, 1, 1))[0])
        if self.chance.random() < 0.2:
            at = self.chance.randrange(len(said) + 1)
            number = stream_id or self.stream_id()
            return frame(p.DATA, 0, number, said[:at]) + frame(p.DATA, 0, number, said[at:])
        if self.chance.random() < 0.1:
            padding = self.chance.randrange(256)
            return frame(p.DATA, p.PADDED, stream_id or self.stream_id(), bytes((padding,)) + said + bytes(padding))
        return frame(p.DATA, 0, stream_id or self.stream_id(), said)

    def credit(self) -> bytes:
        increment = self.chance.choice((1, 1_000, 40_000, 1 << 20))
        return p.window_update(0 if self.chance.random() < 0.5 else self.stream_id(), increment)

    def cancel(self) -> bytes:
        return p.reset(self.stream_id(), self.chance.randrange(16))

    def end(self) -> bytes:
        if self.chance.random() < 0.2:
            return frame(p.HEADERS, p.END_HEADERS | p.END_STREAM, self.stream_id(), header_block(4))
        return frame(p.DATA, p.END_STREAM, self.stream_id())

    def settings(self) -> bytes:
        known = {
            p.INITIAL_WINDOW_SIZE: self.chance.choice((0, 1, 100, 65_535, 1 << 20)),
            p.HEADER_TABLE_SIZE: self.chance.choice((0, 4_096, 1 << 30)),
            p.MAX_FRAME_SIZE: self.chance.choice((16_384, 1 << 20)),
            self.chance.randrange(7, 1 << 16): 5,
        }
        return p.settings_frame(
            {key: known[key] for key in self.chance.sample(sorted(known), self.chance.randrange(3))}
        )

    def priority(self) -> bytes:
        return frame(p.PRIORITY, 0, self.stream_id(), struct.pack(">IB", 0, self.chance.randrange(256)))

    def cut_headers(self) -> bytes:
        block = header_block(self.chance.choice((0, 7)))
        at = self.chance.randrange(len(block) + 1)
        number = self.opened()
        return frame(p.HEADERS, 0, number, block[:at]) + frame(p.CONTINUATION, p.END_HEADERS, number, block[at:])

    def unlike(self) -> tuple[str, bytes]:
        """Return frames that no client sends, and the name of their kind."""
        return ("wild", self.wild()) if self.chance.random() < 0.5 else ("damaged", self.damaged())

    def wild(self) -> bytes:
        """Return a frame of any kind, on any stream, with any payload, and a correct length."""
        chance = self.chance
        number = chance.choice((0, 1, 2, self.stream_id(), self.next_id, 2**31 - 1, 2**31 + 1))
        payload = chance.choice(
            (b"", header_block(chance.randrange(14)), chance.randbytes(chance.choice((1, 4, 5, 6, 8, 40))))
        )
        return frame(chance.randrange(11), chance.randrange(256), number, payload)

    def damaged(self) -> bytes:
        """Return frames with a few bits flipped, a piece cut out, or a wrong length."""
        said = bytearray(self.sane())
        kind = self.chance.randrange(3)
        if kind == 0:
            for _ in range(self.chance.randrange(1, 4)):
                said[self.chance.randrange(len(said))] ^= 1 << self.chance.randrange(8)
        elif kind == 1:
            at = self.chance.randrange(len(said))
            del said[at : at + self.chance.randrange(1, 20)]
        else:
            said[0:3] = self.chance.choice((0, 1, 16_384, 16_385, 1 << 23)).to_bytes(3, "big")
        return bytes(said)


# --- Output ----------------------------------------------------------------------------------------------------------


class Watcher:
    """Reads a server's output, and raises Fault for output that is wrong after any input."""

    def __init__(self) -> None:
        self.started: set[int] = set()
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.goaway: int | None = None
        self._decoder = hpack.Decoder(max_header_list_size=1 << 20)
        self._known: set[bytes] = set()

    def look(self, out: bytes) -> Counter[str]:
        """Check all frames written since the last call, and count them by kind."""
        at, found = 0, Counter[str]()
        while at < len(out):
            if len(out) - at < 9:
                raise Fault(f"{len(out) - at} bytes that are no frame")
            length = int.from_bytes(out[at : at + 3], "big")
            kind, flags = out[at + 3], out[at + 4]
            number = int.from_bytes(out[at + 5 : at + 9], "big")
            payload = out[at + 9 : at + 9 + length]
            if len(payload) < length or length > p.FRAME_BYTES_MAX or kind not in KINDS or number >> 31:
                raise Fault(f"a frame of {length} bytes, kind {kind}, stream {number}")
            if self.goaway:
                raise Fault(f"a frame of kind {kind} after GOAWAY {self.goaway}")
            found[KINDS[kind]] += 1
            self._frame(kind, flags, number, payload)
            at += 9 + length
        return found

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == p.GOAWAY:
            self.goaway = int.from_bytes(payload[4:8], "big")
        elif kind in (p.SETTINGS, p.PING):
            if number or (kind == p.PING and len(payload) != 8) or (flags & p.ACK and kind == p.SETTINGS and payload):
                raise Fault(f"kind {kind} with {len(payload)} bytes on stream {number}")
        elif kind == p.WINDOW_UPDATE:
            if not 0 < int.from_bytes(payload, "big") < 2**31:
                raise Fault(f"WINDOW_UPDATE by {payload.hex()}")
        elif number % 2 == 0 or (number in self.ended | self.reset and kind != p.RST_STREAM):
            raise Fault(f"kind {kind} on stream {number}, which is not open")
        elif kind == p.RST_STREAM:
            self.reset.add(number)
        elif kind == p.HEADERS:
            self._headers(flags, number, payload)
        elif number not in self.started:
            raise Fault(f"DATA on stream {number} before its headers")
        if kind in (p.DATA, p.HEADERS) and flags & p.END_STREAM:
            self.ended.add(number)

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if not flags & p.END_HEADERS or (number in self.started and not flags & p.END_STREAM):
            raise Fault(f"headers on stream {number} that are neither first nor last")
        if payload not in self._known:
            if len(self._known) < 1_000:
                self._known.add(payload)
            names = [str(name) for name, _ in self._decoder.decode(payload)]
            if (":status" in names) == (number in self.started):
                raise Fault(f"headers {names} on stream {number}")
        self.started.add(number)
