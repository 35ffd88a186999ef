"""A client's end of an HTTP/2 connection that sends whatever a test wants, valid or not.

Frames are built and parsed by ``hyperframe`` and headers by ``hpack``, which the server under test does not use;
``frame`` builds frames that these refuse.
"""

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import hpack
from hyperframe import frame as hf

from support import resources as r
from support.wire import ADS, wire

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DELTA_ADS = f"/{ADS.name}/{ADS.delta}"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
FRAME_BYTES_MAX = 16_384
CHUNK_BYTES = 64 * 1024

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, _, STREAM_CLOSED, FRAME_SIZE_ERROR = range(7)
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, _, ENHANCE_YOUR_CALM = range(7, 12)
HEADER_TABLE_SIZE, _, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

Fields = Iterable[tuple[str, str]]


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a frame of any kind, also a forbidden one."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes((kind, flags)) + struct.pack(">I", stream_id) + payload


def settings_frame(settings: Mapping[int, int] | Sequence[tuple[int, int]] = ()) -> bytes:
    """Return a SETTINGS frame; pairs may repeat an identifier."""
    pairs = settings.items() if isinstance(settings, Mapping) else settings
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def window_update(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream_id, struct.pack(">I", increment))


def reset(stream_id: int, code: int = CANCEL) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, struct.pack(">I", code))


def ping(payload: bytes = b"12345678") -> bytes:
    """Return a PING frame."""
    return frame(PING, 0, 0, payload)


def message(payload: bytes, *, flag: int = 0) -> bytes:
    """Return a gRPC message with its prefix."""
    return bytes((flag,)) + struct.pack(">I", len(payload)) + payload


def delta_request(type_url: str = r.CLUSTER, *names: str, node_id: str = "n1") -> bytes:
    """Return the first message of a delta stream, with its prefix."""
    made = wire.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names)
    made.node.CopyFrom(wire.Node(id=node_id, cluster="c1"))
    return message(made.SerializeToString())


def request_fields(path: str = DELTA_ADS, *, drop: Iterable[str] = (), **replaced: str) -> list[tuple[str, str]]:
    """Return a gRPC request's header fields; ``replaced`` has Python names (``content_type``, ``method``)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    for name, value in replaced.items():
        known = f":{name}" if f":{name}" in fields else name.replace("_", "-")
        fields[known] = value
    return [(name, value) for name, value in fields.items() if name not in drop]


@dataclass(slots=True)
class Answer:
    """Everything received on one stream. ``status`` is grpc-status, from headers or trailers."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    ended: bool = False
    resets: list[int] = field(default_factory=list)
    header_frames: int = 0

    @property
    def reset(self) -> int | None:
        """Return the code of the first RST_STREAM, None if there was none."""
        return self.resets[0] if self.resets else None

    @property
    def status(self) -> int | None:
        """Return the gRPC status, None if there is none."""
        said = self.trailers.get("grpc-status", self.headers.get("grpc-status"))
        return None if said is None else int(said)

    @property
    def text(self) -> str:
        """Return grpc-message as it was sent."""
        return self.trailers.get("grpc-message", self.headers.get("grpc-message", ""))

    def messages(self) -> list[bytes]:
        """Return the complete messages so far."""
        found, at = [], 0
        while len(self.data) - at >= 5:
            end = at + 5 + struct.unpack(">I", self.data[at + 1 : at + 5])[0]
            if end > len(self.data):
                break
            found.append(self.data[at + 5 : end])
            at = end
        return found


@dataclass(frozen=True, slots=True)
class Flooded:
    """The end of a flood: the bytes sent, and the server's answer. ``code`` is its GOAWAY's.

    ``stalled``: the server stopped reading, without an answer.
    """

    sent: int
    closed: bool = False
    stalled: bool = False
    code: int | None = None


class Peer:
    """One connection. With ``hello`` it has sent the preface and its SETTINGS.

    While it is ``answering`` it acknowledges the server's SETTINGS and PINGs.
    """

    def __init__(
        self,
        port: int,
        *,
        settings: Mapping[int, int] | None = None,
        hello: bool = True,
        tls: ssl.SSLContext | None = None,
        receive_buffer_bytes: int = 0,
        timeout_s: float = 5.0,
    ) -> None:
        self.timeout_s = timeout_s
        self.answering = hello
        raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer_bytes:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        raw.settimeout(timeout_s)
        raw.connect(("127.0.0.1", port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = tls.wrap_socket(raw, server_hostname="localhost") if tls is not None else raw
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder(max_header_list_size=1 << 20)
        self.answers: dict[int, Answer] = {}
        self.server_settings: dict[int, int] = {}
        self.goaway: hf.GoAwayFrame | None = None
        self.eof = False
        self._received = b""
        if hello:
            self.send(PREFACE, settings_frame(settings or {}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection at once."""
        self.socket.close()

    # --- Out -------------------------------------------------------------------------------------------------------

    def send(self, *frames: bytes) -> None:
        """Send bytes. If the server has closed the connection, the next read shows that."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.socket.sendall(b"".join(frames))

    def block(self, fields: Fields) -> bytes:
        """Return an encoded header block; blocks must be sent in the order of encoding."""
        return self.encoder.encode(list(fields))

    def head(self, stream_id: int, fields: Fields | None = None, *, end: bool = False) -> bytes:
        """Return a HEADERS frame, by default of a delta ADS stream."""
        flags = END_HEADERS | (END_STREAM if end else 0)
        return frame(HEADERS, flags, stream_id, self.block(request_fields() if fields is None else fields))

    def open(self, stream_id: int, data: bytes = b"", *, fields: Fields | None = None, end: bool = False) -> Answer:
        """Open a stream, send data on it, and return its Answer, which fills as frames are read."""
        self.send(self.head(stream_id, fields, end=end and not data))
        if data:
            self.data(stream_id, data, end=end)
        return self.answer(stream_id)

    def data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send data in frames of the default size, regardless of the windows."""
        pieces = [data[at : at + FRAME_BYTES_MAX] for at in range(0, len(data), FRAME_BYTES_MAX)] or [b""]
        for number, piece in enumerate(pieces, start=1):
            self.send(frame(DATA, END_STREAM if end and number == len(pieces) else 0, stream_id, piece))

    # --- In --------------------------------------------------------------------------------------------------------

    def answer(self, stream_id: int) -> Answer:
        """Return a stream's Answer, which fills as frames are read."""
        return self.answers.setdefault(stream_id, Answer())

    def read(self, timeout_s: float | None = None) -> hf.Frame | None:
        """Return the next frame, None at the end of the connection. Raises TimeoutError."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while True:
            found = self._parse()
            if found is not None:
                self._note(found)
                return found
            if self.eof:
                return None
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("the server said nothing more")
            self._fill(left_s)

    def frames(self, timeout_s: float | None = None) -> Iterator[hf.Frame]:
        """Yield frames until the end of the connection. Raises TimeoutError."""
        while (found := self.read(timeout_s)) is not None:
            yield found

    def wait(self, done: Callable[[], Any], timeout_s: float | None = None) -> None:
        """Read until ``done()``. Raises TimeoutError, and ConnectionError at the end of the connection."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while not done():
            if self.read(max(0.0, deadline - time.monotonic())) is None and not done():
                raise ConnectionError(f"the server closed the connection: {self.goaway!r}")

    def settled(self) -> list[hf.Frame]:
        """Send a ping, and return all frames until its answer."""
        found: list[hf.Frame] = []
        self.send(ping(b"settled?"))
        while True:
            one = self.read()
            if one is None:
                raise ConnectionError(f"the server closed the connection: {self.goaway!r}")
            if isinstance(one, hf.PingFrame) and "ACK" in one.flags and one.opaque_data == b"settled?":
                return found
            found.append(one)

    def closed(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end of the connection and return the code of its GOAWAY, None if there was none."""
        for _ in self.frames(timeout_s):
            pass
        return None if self.goaway is None else self.goaway.error_code

    def _fill(self, timeout_s: float) -> None:
        self.socket.settimeout(timeout_s)
        try:
            data = self.socket.recv(CHUNK_BYTES)
        except TimeoutError:
            return
        except (ConnectionResetError, ssl.SSLError):
            data = b""
        self.eof = not data
        self._received += data

    def _parse(self) -> hf.Frame | None:
        if len(self._received) < 9:
            return None
        made, length = hf.Frame.parse_frame_header(memoryview(self._received[:9]))
        if len(self._received) < 9 + length:
            return None
        made.parse_body(memoryview(self._received[9 : 9 + length]))
        self._received = self._received[9 + length :]
        return made

    def _note(self, found: hf.Frame) -> None:
        if isinstance(found, hf.SettingsFrame) and "ACK" not in found.flags:
            self.server_settings |= found.settings
            self._reply(frame(SETTINGS, ACK, 0))
        elif isinstance(found, hf.PingFrame) and "ACK" not in found.flags:
            self._reply(frame(PING, ACK, 0, found.opaque_data))
        elif isinstance(found, hf.GoAwayFrame):
            self.goaway = found
        elif isinstance(found, hf.RstStreamFrame):
            self.answer(found.stream_id).resets.append(found.error_code)
        elif isinstance(found, hf.DataFrame):
            self.answer(found.stream_id).data += found.data
        elif isinstance(found, hf.HeadersFrame):
            self._note_headers(found)
        if isinstance(found, hf.DataFrame | hf.HeadersFrame) and "END_STREAM" in found.flags:
            self.answer(found.stream_id).ended = True

    def _reply(self, answer: bytes) -> None:
        if self.answering:
            self.send(answer)

    def _note_headers(self, found: hf.HeadersFrame) -> None:
        assert "END_HEADERS" in found.flags, "a response's headers fit into a frame"
        answer = self.answer(found.stream_id)
        answer.header_frames += 1
        fields = {str(name): str(value) for name, value in self.decoder.decode(found.data)}
        if answer.headers:
            answer.trailers = fields
        else:
            answer.headers = fields

    # --- Floods ----------------------------------------------------------------------------------------------------

    def flood(self, frames: Iterable[bytes], *, reading: bool = True, stall_s: float = 3.0) -> Flooded:
        """Send all frames, as fast as the server reads them, until all are sent or the server ends the connection.

        Without ``reading`` nothing is read before the end, so that the server's output piles up.
        """
        deadline = time.monotonic() + stall_s
        source, waiting, sent = iter(frames), b"", 0
        self.socket.settimeout(0)
        more = True
        while waiting or more:
            if time.monotonic() > deadline:
                return Flooded(sent, stalled=True)
            while more and len(waiting) < CHUNK_BYTES:
                one = next(source, None)
                more = one is not None
                if one is not None:
                    waiting += one
                    sent += 1
            if not self._pump(waiting, reading):
                return Flooded(sent, closed=True, code=self._last_word())
            if self._pumped:
                deadline = time.monotonic() + stall_s
                waiting = waiting[self._pumped :]
        return Flooded(sent)

    _pumped = 0

    def _pump(self, waiting: bytes, reading: bool) -> bool:
        """Send and read as much as possible now; return whether the connection is still open."""
        self._pumped = 0
        wanted = [self.socket] if reading else []
        ready, writable, _ = select.select(wanted, [self.socket] if waiting else [], [], 0.5)
        try:
            if ready:
                data = self.socket.recv(CHUNK_BYTES)
                if not data:
                    self.eof = True
                    return False
                self._received += data
                self._drop_parsed()
            if writable:
                self._pumped = self.socket.send(waiting)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            return False
        return self.goaway is None

    def _drop_parsed(self) -> None:
        while (found := self._parse()) is not None:
            if isinstance(found, hf.GoAwayFrame):
                self.goaway = found
            elif isinstance(found, hf.HeadersFrame):
                self.decoder.decode(found.data)

    def _last_word(self) -> int | None:
        """Return the code of a GOAWAY in the unread output, None without one."""
        with contextlib.suppress(TimeoutError):
            while self.goaway is None and not self.eof:
                self._drop_parsed()
                self._fill(1.0)
            self._drop_parsed()
        return None if self.goaway is None else self.goaway.error_code
