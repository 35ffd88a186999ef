"""A native connection: an asyncio protocol around the HTTP/2 connection, in plaintext or over TLS.

TLS runs on memory BIOs, in small pieces and with one read buffer for all connections, and takes 30 KB a connection: the
event loop's own TLS takes 80 KB, and a BIO keeps the size of its largest flush for ever.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, cast

from xds.limits import LimitHits
from xds.model.identity import ANONYMOUS, Peer
from xds.process.loop_share import LoopShare
from xds.protocol.errors import Status, StreamRefusedError
from xds.transport.assembly import Assembly
from xds.transport.calls import Call, RefusedCall, Services
from xds.transport.certificates import Certificates
from xds.transport.http2 import grpc
from xds.transport.http2.allowance import CHORES_PER_MALFORMED
from xds.transport.http2.connection import Connection
from xds.transport.http2.frame_reader import SPEAKS_TLS, ConnectionStage
from xds.transport.http2.frames import ENHANCE_YOUR_CALM, PING, frame
from xds.transport.http2.headers import RequestHead
from xds.transport.http2.known_reads import READ_BYTES_MAX, KnownReads
from xds.transport.http2.limits import Http2Limits
from xds.transport.http2.stream import Http2Stream
from xds.transport.tls_failures import (
    LATE,
    LEFT,
    NO_TLS,
    OnTlsFailure,
    TlsFailure,
    failure_of,
    ignore_failure,
    peer_text,
)
from xds.transport.turns import Turns

if TYPE_CHECKING:
    from xds.transport.client_certificates import ClientCertificate

PING_STRIKES_MAX = 2
TLS_PIECE_BYTES = 2_048
KEPT_FOR_STREAMS = 5
"""The id of the third stream of a connection."""
LINGER_BYTES_MAX = 256 * 1024
"""Bytes that are read and dropped after our last frame: closing with unread bytes would lose that frame."""
TLS_READ_BYTES = 16_384
CORKED_MAX = 64
CORKED_BYTES_MAX = 16_384
"""Maximum pieces of output, and bytes of a piece, that are joined after one read; more is sent at once."""
PAUSE_PER_NAME_S, PAUSE_MIN_S = 2e-6, 0.02
"""How long a connection rests for each name that its requests had examined: twice as long as that takes."""
FRAMES_AT_ONCE = 32
"""Frames of one client processed at a time: more than one read of a large request contains. One that begins a stream
counts as ``HEADERS_WEIGHT``.
"""
KEEPALIVE_PING = frame(PING, 0, 0, b"xds-ping")


@dataclass(slots=True, eq=False)
class SharedByConnections:
    """What all connections of a server share. ``tick`` is a coarse clock, in seconds since the start."""

    services: Services
    limits: Http2Limits
    assembly: Assembly
    clock: Callable[[], float]
    call_at: Callable[[float, Callable[[], None]], asyncio.TimerHandle]
    share: LoopShare
    turns: Turns
    """The connections with a large message that has arrived."""
    ping_interval_min_s: float = 0.0
    tick: int = 0
    connections: dict["NativeConnection", None] = field(default_factory=dict)
    names: "count[int]" = field(default_factory=count)
    reads: KnownReads = field(default_factory=KnownReads)
    buffer: bytearray = field(default_factory=lambda: bytearray(TLS_READ_BYTES))
    connections_max: int = 100_000
    anonymous: Peer = ANONYMOUS
    """The peer of a connection without a client certificate."""
    certificates: Certificates | None = None
    on_tls_failure: OnTlsFailure = ignore_failure
    idle: Iterator["NativeConnection"] = field(default_factory=lambda: iter(()))
    idle_left: int = 0
    hits: LimitHits = field(default_factory=LimitHits)
    probed: "set[NativeConnection]" = field(default_factory=set)
    """The connections that are to show that their clients are there."""
    on_forgotten: Callable[["NativeConnection"], None] = lambda _connection: None

    def admit(self, connection: "NativeConnection") -> None:
        """Register a new connection. If all places are taken, the oldest connection without a stream is closed."""
        if len(self.connections) >= self.connections_max:
            self.hits.add("connections_xds")
            (self._idle_one() or connection).abort()
        self.connections[connection] = None

    def forget(self, connection: "NativeConnection") -> None:
        """Remove a connection that is closed."""
        self.connections.pop(connection, None)
        self.on_forgotten(connection)

    def _idle_one(self) -> "NativeConnection | None":
        """Return the next connection without a stream; all connections are scanned only now and then."""
        self.idle_left -= 1
        if self.idle_left < 0:
            self.idle_left = len(self.connections) // 8
            self.idle = iter([each for each in self.connections if not each.streams])
        return next((each for each in self.idle if not each.streams and each in self.connections), None)


class NativeConnection(Connection, asyncio.Protocol):
    """One client's connection in plaintext.

    ``since`` is when it was made, or when it began to close; ``busy`` when it last had a stream; ``heard`` when bytes
    were last received, ``pinged`` whether a keepalive ping is unanswered; ``lingering`` counts bytes received after our
    last frame.
    """

    __slots__ = (
        "_corked",
        "_deadlines",
        "_name",
        "_pings",
        "_resting",
        "_transport",
        "_turn_of",
        "asked",
        "busy",
        "heard",
        "lingering",
        "pinged",
        "services",
        "shared",
        "since",
        "unasked_s",
    )

    frames_at_once = FRAMES_AT_ONCE
    client: "ClientCertificate | None" = None
    """The certificate that the client has shown; None without mutual TLS."""

    def __init__(self, shared: SharedByConnections) -> None:
        super().__init__(shared.limits)
        self.shared = shared
        self.services = shared.services
        self._resting = False
        self._turn_of: Http2Stream | None = None
        self.since = self.heard = self.busy = shared.tick
        self.pinged = False
        self.asked = False
        """Note that a request was received on one of its streams. Until then the sweep counts ``unasked_s``."""
        self.unasked_s = 0
        self.lingering: int | None = None
        self._transport: asyncio.Transport | None = None
        self._corked: list[bytes] | None = None
        self._name = ""
        self._pings: tuple[float, int] | None = None
        self._deadlines: dict[Http2Stream, asyncio.TimerHandle] | None = None

    @property
    def name(self) -> str:
        """The name of this connection, unique in the process."""
        if not self._name:
            self._name = f"c{next(self.shared.names)}"
        return self._name

    @property
    def peer(self) -> Peer:
        """Who the client is."""
        return self.shared.anonymous

    @property
    def address(self) -> str:
        """Where the client connects from."""
        return peer_text(self._transport.get_extra_info("peername")) if self._transport is not None else ""

    @property
    def why_lost(self) -> str:
        if not self.dead:
            return "the client reset its stream"
        return "its connection closed" if not self.pinged else "its connection closed while a ping was unanswered"

    @property
    def greeted(self) -> bool:
        """Whether the client has completed the HTTP/2 handshake."""
        return self.stage is ConnectionStage.OPEN

    # --- From the event loop ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.shared.admit(self)

    def data_received(self, data: bytes) -> None:
        if self.dead:
            self._linger(data)
            return
        shared = self.shared
        self.heard = shared.tick
        self.pinged = False
        small = len(data) <= READ_BYTES_MAX
        known = shared.reads.get(data) if small else None
        if known is not None:
            stream = self.takes_whole(known.stream_id, known.size)
            if stream is not None:
                self.credit -= known.size
                stream.credit -= known.size
                stream.on_message(known.message)
                if self.tired:
                    self.on_rest()
                return
        if small and known is None:
            shared.reads.learn(data)
        if shared.share.is_over:
            self.keep(data)
            self.on_rest()
        else:
            self.take(data)

    def take(self, data: bytes) -> None:
        """Process received bytes; the output they cause is sent together."""
        self._corked = []
        try:
            self.receive(data)
        finally:
            self._flush_corked()
            self._corked = None

    def on_rest(self) -> None:
        self._stop_reading()
        pause_s, self.tired = self.tired * PAUSE_PER_NAME_S, 0
        if pause_s < PAUSE_MIN_S:
            self.shared.share.rest(self)
        else:
            self.shared.call_at(self.clock() + pause_s, self.go_on)

    def _stop_reading(self) -> None:
        # Nothing more is read meanwhile: otherwise a client could make this process buffer all that it sends.
        if not self._resting and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._resting = True

    def await_turn(self, stream: Http2Stream) -> None:
        self._stop_reading()
        self.waits, self._turn_of = True, stream
        self.shared.turns.add(self, stream.wanted)

    def take_turn(self) -> None:
        """Handle the large message that has waited, then more of the received bytes."""
        stream, self._turn_of = self._turn_of, None
        if stream is not None and self._transport is not None:
            self.heard = self.shared.tick
            self._corked = []
            try:
                self.take_waiting(stream)
            finally:
                self._flush_corked()
                self._corked = None
            self.go_on()

    def go_on(self) -> None:
        """Process more of the received bytes, and resume reading once they are used up."""
        self._resting = False
        if self._transport is None:
            return
        self.take(b"")
        self._read_on()

    def _read_on(self) -> None:
        if not self._resting and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _flush_corked(self) -> None:
        corked = self._corked
        if corked:
            self._corked = []
            self._emit(b"".join(corked))

    def _linger(self, data: bytes) -> None:
        self.lingering = (self.lingering or 0) + len(data)
        if self.lingering > LINGER_BYTES_MAX:
            self.abort()

    def eof_received(self) -> bool:
        return False  # close: a client that sends nothing more does not read either

    def on_preface(self) -> None:
        self.write(self.limits.hello())

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self.shared.forget(self)
        self.lost()
        self._transport = None

    # --- To the client ---------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        corked = self._corked
        if corked is None:
            transport = self._transport
            if transport is not None:
                transport.write(data)
            return
        corked.append(data)
        if len(data) > CORKED_BYTES_MAX or len(corked) > CORKED_MAX:
            self._flush_corked()

    def _emit(self, data: bytes) -> None:
        transport = self._transport
        if transport is not None:
            transport.write(data)

    def close(self) -> None:
        """Close gracefully: read and drop what the peer still sends until it closes, or for ``CLOSING_S`` seconds.

        Closing with unread bytes would reset the connection, and the peer could lose our last frames.
        """
        if self._transport is not None and self.lingering is None:
            self._flush_corked()
            self.lingering = 0
            self.since = self.shared.tick
            self.lost()
            if not self._transport.is_closing():
                self._transport.write_eof()

    def abort(self) -> None:
        """Close at once; written bytes may be lost."""
        if self._transport is not None:
            self._transport.abort()

    def give_up(self) -> None:
        """Close at once: the client did not complete its handshake in time."""
        self.abort()

    def fail(self, code: int, text: str) -> None:
        if text is SPEAKS_TLS and not self.dead:
            self._note(TlsFailure(NO_TLS.reason, NO_TLS.text))
        if not self.dead:
            for stream in list(self.streams.values()):
                cast("Call", stream).leave(f"its connection was closed: {text}")
        super().fail(code, text)

    def _note(self, failure: TlsFailure) -> None:
        """Report a failure, with the client's address."""
        peer = self.address
        self.shared.on_tls_failure(replace(failure, peer=peer))

    def ping(self) -> None:
        """Send a keepalive ping."""
        self.pinged = True
        self.write(KEEPALIVE_PING)

    def probe(self, within_s: float, why: str) -> None:
        """Ping, and close for a reason unless the client sends anything within ``within_s`` seconds."""
        shared = self.shared
        if not self.dead and self._transport is not None and self not in shared.probed:
            shared.probed.add(self)
            self.ping()
            shared.call_at(self.clock() + within_s, partial(self._end_probe, why))

    def _end_probe(self, why: str) -> None:
        self.shared.probed.discard(self)
        if self.pinged and not self.dead:
            for stream in list(self.streams.values()):
                cast("Call", stream).leave(why)
            self.abort()

    @property
    def is_answered(self) -> bool:
        """Whether all responses on all its streams are sent and answered."""
        return all(cast("Call", stream).is_answered for stream in self.streams.values())

    def depart(self, text: str, status: Status = Status.UNAVAILABLE) -> None:
        """End all streams, and have the client connect anew; it closes this connection (else the sweep does)."""
        self._corked = []  # one write, so that the client opens no stream here between the ends
        try:
            for stream in list(self.streams.values()):
                cast("Call", stream).end(status, text)
            self.goaway(text)
        finally:
            self._flush_corked()
            self._corked = None

    # --- From the HTTP/2 connection --------------------------------------------------------------------------------

    def clock(self) -> float:
        return self.shared.clock()

    def open_stream(self, stream_id: int, head: RequestHead) -> Http2Stream:
        if grpc.http_refusal(head) is not None:
            return _NotGrpc(self, stream_id)
        try:
            return self.services.call(self, stream_id, head)
        except StreamRefusedError as refusal:
            return RefusedCall(self, stream_id, refusal)

    def began(self, stream: Http2Stream, head: RequestHead) -> None:
        assert isinstance(stream, Call)
        try:
            timeout_s = grpc.timeout_s(head.timeout)
        except ValueError as error:
            stream.end(Status.INTERNAL, str(error))
            self.charge(CHORES_PER_MALFORMED)
            return
        if timeout_s is not None:
            self._deadlines = self._deadlines or {}
            self._deadlines[stream] = self.shared.call_at(self.clock() + timeout_s, stream.expire)
        stream.begin(head)

    def _forget(self, stream: Http2Stream) -> None:
        if self._deadlines is not None and stream in self._deadlines:
            self._deadlines.pop(stream).cancel()
        super()._forget(stream)

    def on_large(self, stream: Http2Stream, more: int) -> None:
        self.shared.assembly.ask(stream, more, self.shared.tick)

    def on_assembled(self, stream: Http2Stream) -> None:
        self.shared.assembly.release(stream)

    def on_limit(self, limit: str) -> None:
        self.shared.hits.add(limit)

    def on_shed(self) -> None:
        """Close the connection if it has no stream: the next attempt may then reach another replica."""
        if not self.streams:
            self.goaway("this server is past its capacity; try again later")

    def on_ping(self) -> None:
        """Charge the pings of a client that sends too many."""
        least_s = self.shared.ping_interval_min_s
        if not least_s:
            return
        at, strikes = self._pings or (-least_s, 0)
        now = self.clock()
        strikes = strikes + 1 if now - at < least_s else 0
        self._pings = (now, strikes)
        if strikes > PING_STRIKES_MAX:
            self.on_limit("ping_interval")
            self.fail(ENHANCE_YOUR_CALM, "too_many_pings")


class TlsConnection(NativeConnection):
    """One client's connection over TLS. ``_up`` is None until the client sends something, then if TLS is set up."""

    __slots__ = ("_incoming", "_kept", "_outgoing", "_tls", "_up", "client")

    def __init__(self, shared: SharedByConnections, context: ssl.SSLContext) -> None:
        super().__init__(shared)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._up: bool | None = None
        self._kept = b""
        """Received bytes that wait for a later turn; not in the BIO, which would keep their size."""
        self.client = None

    @property
    def peer(self) -> Peer:
        return self.shared.anonymous if self.client is None else self.client.peer

    def open_stream(self, stream_id: int, head: RequestHead) -> Http2Stream:
        client = self.client
        if client is not None and client.reason:
            return _RefusedClientCall(self, stream_id, StreamRefusedError(Status.UNAUTHENTICATED, client.refusal))
        return super().open_stream(stream_id, head)

    def check_client(self) -> None:
        """End everything if the client's certificate, which was accepted, is no longer valid."""
        certificates = self.shared.certificates
        if certificates is None or self.client is None or self.client.reason or self.dead:
            return
        self.client = client = certificates.examine_again(self.client, self._tls)
        if not client.reason:
            return
        self._note(TlsFailure(client.reason, client.refusal))
        self.depart(client.refusal, Status.UNAUTHENTICATED)

    def give_up(self) -> None:
        if self._up is False:
            self._note(TlsFailure(LATE.reason, LATE.text))
        self.abort()

    def eof_received(self) -> bool:
        if self._up is False and not self.dead:
            self._note(TlsFailure(LEFT.reason, LEFT.text))
            self.lost()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._up is False and not self.dead:
            self._note(TlsFailure(LEFT.reason, LEFT.text))
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.dead:
            self._linger(data)
            return
        self.heard = self.shared.tick
        self.pinged = False
        if self.shared.share.is_over:
            self._kept = data
            self.on_rest()
        else:
            self._decrypt(data)

    def go_on(self) -> None:
        self._resting = False
        if self._transport is None:
            return
        self.take(b"")
        if not self._resting and not self.dead:
            data, self._kept = self._kept, b""
            self._decrypt(data)
        self._read_on()

    def on_shed(self) -> None:
        """Close the connection at its third stream if memory is not short: a handshake costs as much as ten of them."""
        if self._last_id >= KEPT_FOR_STREAMS or self.services.dispatcher.admission.pressure:
            super().on_shed()

    def _decrypt(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            for at in range(0, len(data), TLS_READ_BYTES):
                self._incoming.write(view[at : at + TLS_READ_BYTES])
                self._read()
                if self.dead:
                    return
            if not data:
                self._read()
        except ssl.SSLWantReadError:
            self._flush()
        except (ssl.SSLError, ValueError) as error:  # the client's end of TLS is one, too
            self._end(error)

    def _end(self, error: Exception) -> None:
        if not self._up and not self.dead:
            self._note(failure_of(error))
        self._flush()  # the alert that says why
        self.close()

    def _read(self) -> None:
        if not self._up:
            self._up = False
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                return
            self._up = True
            self._flush()
            self._see_client()
        buffer = self.shared.buffer
        while not self._resting and (self._incoming.pending or self._tls.pending()):
            try:
                size = cast("int", self._tls.read(TLS_READ_BYTES, buffer))  # the stubs know only the other form
            except ssl.SSLWantReadError:
                break
            if size <= 0:
                raise ssl.SSLZeroReturnError
            self._flush_own()
            self.take(bytes(memoryview(buffer)[:size]))
        self._flush_own()

    def _see_client(self) -> None:
        certificates = self.shared.certificates
        if certificates is not None:
            self.client = certificates.examine(self._tls)
        if self.client is not None and self.client.reason:
            self._note(TlsFailure(self.client.reason, self.client.refusal))

    def write(self, data: bytes) -> None:
        if self._corked is None:
            self._emit(data)
        else:
            super().write(data)

    def _emit(self, data: bytes) -> None:
        if not self._up or self._transport is None:
            return
        view = memoryview(data)
        try:
            for at in range(0, len(data), TLS_PIECE_BYTES):
                self._tls.write(view[at : at + TLS_PIECE_BYTES])
                self._flush()
        except ssl.SSLError:
            self.abort()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data and self._transport is not None and self.lingering is None:
            self._transport.write(data)

    def _flush_own(self) -> None:
        """Send what TLS says of its own accord, such as the answer to a client's KeyUpdate (RFC 8446, 4.6.3)."""
        size = self._outgoing.pending
        if size:
            self._flush()
            self.answered(size)


class _RefusedClientCall(RefusedCall):
    """Called for a client whose certificate is refused. It is to connect again, with another one."""

    __slots__ = ()

    def on_end(self) -> None:
        super().on_end()
        self.connection.goaway(self._refusal.message)


class _NotGrpc(Call):
    """Called for a request that is not gRPC."""

    __slots__ = ()
    reads_messages = False

    def begin(self, head: RequestHead) -> None:
        status = grpc.http_refusal(head)
        assert status is not None
        self.answer_http(status, headers_only=head.method == "HEAD")
        self.connection.charge(CHORES_PER_MALFORMED)

    def end(self, status: Status, message: str) -> None:
        self.on_gone()
        self.connection.reset(self.id, 0)

    def on_message(self, message: bytes) -> None:
        """Called once it was answered."""

    def on_end(self) -> None:
        """Called once it was answered."""
