"""An HTTP port for uvicorn that idle clients can't fill.

A client has limited time to send a request's headers, to send its body, and to read the answer. Between requests it may
be idle for longer, as the connections of a pool are. When all connections are in use, the one idle longest is closed
for a new one, and if none is idle, the client that reads its complete answer slowest; a request that is being answered
is never cut off for that.
"""

import asyncio
import contextlib
import fcntl
import socket
import ssl
import sys
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from xds.limits import LimitHits
from xds.process.loop_share import LoopShare
from xds.reporting.escaping import json_text
from xds.transport.certificates import intermediates_of
from xds.transport.tls_failures import OnTlsFailure, failure_of, ignore_failure, peer_text

ACCEPTS_MAX = 64
"""Connections accepted in one turn of the event loop, if its share of the time suffices for them."""
WORK_S = 0.001
"""Seconds that a turn of the event loop works on new connections and received bytes: a push takes a dozen turns."""
ACCEPT_PAUSE_S = 0.5
"""Pause after the system could not accept a connection: without it, accepting would be retried in a busy loop."""
SWEEP_S = 0.5
DOWNLOAD_BYTES_MIN = 16 * 1024
"""Unacknowledged bytes that make a connection a download; fewer can be due to delayed acknowledgements.

A client must also read as many of a complete answer within ``HttpLimits.unread_timeout_s``, again and again.
"""
TCP_INFO_BYTES = 128
TCPI_BYTES_ACKED = 120
"""The offset of ``tcpi_bytes_acked`` in Linux's ``tcp_info`` (uapi/linux/tcp.h)."""
CERTIFICATES = "xds.client_certificates"
"""The key, in the state of an ASGI scope, of a client's certificate and the intermediates that came with it (DER)."""
HEAD_BYTES_MAX = 64 * 1024
"""Bytes of a request's line and headers."""
_STATUSES = {
    400: (b"Bad Request", "the request is not valid HTTP/1.1"),
    408: (b"Request Timeout", "the request was not complete in time"),
    431: (
        b"Request Header Fields Too Large",
        f"the request's line and headers are longer than {HEAD_BYTES_MAX} bytes; shorten the path, query or headers",
    ),
}
"""The reason phrase and the text of each answer to a request that reaches no handler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Limits on a port's clients, and ``hits``, which counts how often they are reached. Times in seconds."""

    connections_max: int = 1_000
    headers_timeout_s: float = 5.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 300.0
    unread_timeout_s: float = 30.0
    hits: LimitHits = field(default_factory=LimitHits)


def no_tls() -> None:
    """Return no TLS context: connections are in plaintext."""


class HttpConnection(H11Protocol):
    """One connection. ``since`` is when its present wait began, or when the present request arrived."""

    def __init__(self, port: "HttpPort", **given: Any) -> None:
        super().__init__(**given)
        self._port = port
        self.since = port.clock()
        self.arriving: asyncio.Task[None] | None = None
        """Sets up the connection, including TLS; None once that is done."""
        self.started = False
        self._request: RequestResponseCycle | None = None
        self.socket: socket.socket | None = None
        """The accepted socket; it is closed by the transport."""
        self._unread: tuple[int, int, float] = (0, 0, 0.0)
        """The unread bytes at the last check; the acknowledged bytes at the last progress, and its time."""
        self._answered: tuple[int, float] = (0, 0.0)
        """The acknowledged bytes when the last answer was complete, and that time."""
        self.pace = 0.0
        """How fast the client has read since then, in bytes per second."""
        self.is_closing = False
        """Whether the server has ended the connection; what the client still sends is dropped."""
        self._kept = b""
        """Received bytes that wait for a later turn of the event loop."""

    @property
    def waits(self) -> bool:
        """Whether it waits for the headers of a request; the former request's answer may still be unread."""
        return self._request is None or self._request.response_complete

    @property
    def incomplete(self) -> bool:
        """Whether the present request's body has not arrived completely."""
        return self._request is not None and not self._request.response_complete and self._request.more_body

    @property
    def is_idle(self) -> bool:
        """Whether a request was answered, and no byte of another one has arrived."""
        return self._request is not None and self._request.response_complete and not (self._begun or self.is_closing)

    # --- From the event loop ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note that the connection is set up."""
        self.arriving = None
        if (tls := transport.get_extra_info("ssl_object")) is not None:
            own = tls.getpeercert(True)
            self.app_state = self.app_state | {CERTIFICATES: (own, *intermediates_of(tls)) if own else ()}
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass on received data, in a later turn of the event loop if this one has worked for its time."""
        if self._kept:
            self._kept += data
        elif not self._port.share.is_over:
            self._take(data)
        elif data:
            self._kept = data
            self.flow.pause_reading()
            self._port.share.rest(self)

    def go_on(self) -> None:
        """Pass on the data that was kept."""
        data, self._kept = self._kept, b""
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._take(data)

    def _take(self, data: bytes) -> None:
        """Pass on data to uvicorn, and note whether it begins a request."""
        if self.is_closing:
            return
        was_idle = self.is_idle
        super().data_received(data)
        if self.cycle is not self._request:
            self._request = self.cycle
            self._port.note(self)
        elif was_idle:
            self._port.note(self)  # the time for headers starts with their first byte

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._port.forget(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request, or start one that has already arrived."""
        super().on_response_complete()
        self._unset_keepalive_if_required()  # ``HttpLimits.idle_timeout_s`` bounds the time until the next request
        self._request = self.cycle
        self._answered = acked, now = self.acked_bytes, self._port.clock()
        self._unread = self.unread_bytes, acked, now
        self._port.note(self)

    def send_400_response(self, msg: str) -> None:
        """Answer data that is not HTTP, or close the connection if the answer to its request has begun."""
        request: RequestResponseCycle | None = self.cycle
        if request is not None and not request.response_complete:
            request.disconnected = True  # its handler has no client any more
            request.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            error = sys.exception()  # of h11: uvicorn passes on none of it
            too_long = isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431
            self._refuse(431 if too_long else 400)
        else:
            self.transport.close()

    # --- Deadlines -------------------------------------------------------------------------------------------------

    @property
    def unread_bytes(self) -> int:
        """Bytes in the kernel's send buffer: unsent, or not acknowledged by the client.

        Over TLS the transport does not report its own unwritten bytes. If there are any, the kernel's buffer is full.
        """
        if self.arriving is not None:
            return 0
        descriptor: int = self.transport.get_extra_info("socket").fileno()
        if descriptor < 0:
            return 0
        return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    @property
    def acked_bytes(self) -> int:
        """Bytes that the client's system has acknowledged since the connection was made."""
        if self.socket is None or self.socket.fileno() < 0:
            return 0
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
        return int.from_bytes(info[TCPI_BYTES_ACKED : TCPI_BYTES_ACKED + 8], sys.byteorder)

    @property
    def downloads(self) -> bool:
        """Whether the client had much to read at the last check."""
        return self._unread[0] > DOWNLOAD_BYTES_MIN

    def unread_s(self, now: float) -> float:
        """Return how long the client has read too little although there is data to read. Call it regularly.

        That is nothing while it is answered, since more data may come at any moment, and ``DOWNLOAD_BYTES_MIN`` after.
        """
        size, (_, acked, since) = self.unread_bytes, self._unread
        if not size:
            self._unread = (0, 0, now)
            return 0.0
        acked_now = self.acked_bytes
        if self.waits:
            answered, answered_at = self._answered
            self.pace = (acked_now - answered) / (now - answered_at + SWEEP_S)
        if not self._unread[0] or acked_now - acked >= (DOWNLOAD_BYTES_MIN if self.waits else 1):
            acked, since = acked_now, now
        self._unread = (size, acked, since)
        return now - since

    def expire(self) -> None:
        """Close the connection: no request arrived in time. If one has begun, it is answered with 408."""
        if self.arriving is not None:
            self.arriving.cancel()
        elif self.is_idle:
            self.is_closing = True
            self.transport.close()
            self._port.note(self)
        elif self.is_closing or self.transport.is_closing() or not self._begun:
            self.transport.abort()
        else:
            self._refuse(408)

    @property
    def _begun(self) -> bool:
        """Whether a request has begun to arrive and can still be answered."""
        if self.waits:
            return self.conn.our_state is h11.IDLE and bool(self.conn.trailing_data[0])
        return self._request is not None and not self._request.response_started

    def _refuse(self, status: int) -> None:
        """Answer a request without its handler, with a status of ``_STATUSES``, and end the connection."""
        self.is_closing = True
        if self._request is not None:
            self._request.disconnected = True  # a handler that reads the body learns that there is no more
            self._request.message_event.set()
        reason, text = _STATUSES[status]
        body = json_text({"error": text}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        events = (
            h11.Response(status_code=status, headers=headers, reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        self.transport.write(b"".join(filter(None, map(self.conn.send, events))))
        # Further data is dropped: closing with unread bytes would reset the connection and lose this answer.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._port.note(self)  # it is cut off if it does not close in time

    def cut(self) -> None:
        """Close the connection at once, to make room for another."""
        if self.arriving is not None:
            self.arriving.cancel()
        else:
            self.transport.abort()


class HttpPort:
    """Accepts the connections of a listening socket, from ``open`` to ``close``.

    ``tls`` returns the context for a new connection, None for plaintext.
    """

    def __init__(
        self,
        listening: socket.socket,
        make: Callable[["HttpPort"], HttpConnection],
        *,
        limits: HttpLimits,
        tls: Callable[[], ssl.SSLContext | None] = no_tls,
        on_tls_failure: OnTlsFailure = ignore_failure,
    ) -> None:
        self._on_tls_failure = on_tls_failure
        self._listening = listening
        self._make = make
        self._limits = limits
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self.share = LoopShare(self._loop.call_soon, work_s=WORK_S)
        self._waiting: dict[HttpConnection, None] = {}  # for headers; the longest wait first
        self._asking: dict[HttpConnection, None] = {}  # a request has begun; the oldest first
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_at = 0.0
        self._stood_still_s = 0.0
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False

    def open(self) -> None:
        """Start to accept connections."""
        self._listening.setblocking(False)
        self._loop.add_reader(self._listening, self._accept)
        self._sweep_soon()

    # --- Called by uvicorn, like those of an asyncio.Server --------------------------------------------------------

    def close(self) -> None:
        """Accept no more connections, and drop those that are not set up yet."""
        if self._closed:
            return
        self._closed = True
        for timer in (self._sweeper, self._pause):
            if timer is not None:
                timer.cancel()
        self._loop.remove_reader(self._listening)
        for connection in [each for each in self._connections() if each.arriving is not None]:
            connection.cut()

    async def wait_closed(self) -> None:
        """Return at once: uvicorn waits for connections itself."""

    def cut_all(self) -> None:
        """Close all connections at once."""
        for connection in list(self._connections()):
            connection.cut()

    # --- Connections -----------------------------------------------------------------------------------------------

    def _connections(self) -> Iterator[HttpConnection]:
        yield from self._waiting
        yield from self._asking

    def note(self, connection: HttpConnection) -> None:
        """Restart a connection's wait, for a request or for the rest of one."""
        if connection not in self._waiting and connection not in self._asking:
            return
        self.forget(connection)
        connection.since = self.clock()
        (self._waiting if connection.waits else self._asking)[connection] = None

    def forget(self, connection: HttpConnection) -> None:
        """Remove a connection."""
        self._waiting.pop(connection, None)
        self._asking.pop(connection, None)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_MAX):
            if self.share.is_over:
                return  # the listening socket stays readable
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError:  # no descriptors, no memory
                self._rest()
                return
            self._admit(accepted)

    def _rest(self) -> None:
        """Pause accepting, and close a connection to make room."""
        self._loop.remove_reader(self._listening)
        self._pause = self._loop.call_later(ACCEPT_PAUSE_S, self._loop.add_reader, self._listening, self._accept)
        self._make_room()

    def _admit(self, accepted: socket.socket) -> None:
        if len(self._waiting) + len(self._asking) >= self._limits.connections_max:
            self._limits.hits.add("connections_admin")
            if not self._make_room():
                accepted.close()
                return
        connection = self._make(self)
        connection.socket = accepted
        self._waiting[connection] = None
        connection.arriving = self._loop.create_task(self._connect(connection, accepted))
        connection.arriving.add_done_callback(lambda task: self._on_arrived(connection, accepted, task))

    def _make_room(self) -> bool:
        """Close a connection; return whether one was closed.

        That is the one idle longest, else that of the oldest incomplete request, else of the slowest reader.
        """
        connection = next((each for each in self._waiting if not each.downloads), None)
        if connection is None:
            connection = next((each for each in self._asking if each.incomplete), None)
        if connection is None:
            connection = min(self._waiting, key=lambda each: each.pace, default=None)
        if connection is None:
            return False
        self.forget(connection)
        connection.cut()
        return True

    async def _connect(self, connection: HttpConnection, accepted: socket.socket) -> None:
        connection.started = True
        tls = self._tls()
        timeout_s = self._limits.headers_timeout_s if tls is not None else None
        peer = ""
        try:
            peer = peer_text(accepted.getpeername())
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=tls, ssl_handshake_timeout=timeout_s
            )
        except OSError as error:  # the client does not speak TLS, took too long, or left
            if tls is not None:
                self._on_tls_failure(failure_of(error, peer))

    def _on_arrived(self, connection: HttpConnection, accepted: socket.socket, task: "asyncio.Task[None]") -> None:
        if connection.arriving is not None:  # it was never set up: connection_lost will not be called
            self.forget(connection)
        if not connection.started:
            accepted.close()  # else its transport closes it
        if not task.cancelled():
            task.result()

    def clock(self) -> float:
        """Return a time in seconds that leaves out those in which this process stood still.

        What clients sent meanwhile is read after the next check of their deadlines, and is not late because of it.
        """
        return self._loop.time() - self._stood_still_s

    def _sweep_soon(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        self._sweep_at = self._loop.time() + SWEEP_S

    def _sweep(self) -> None:
        self._stood_still_s += max(0.0, self._loop.time() - self._sweep_at)
        self._sweep_soon()
        limits, now = self._limits, self.clock()
        for connection in list(self._connections()):
            if connection.unread_s(now) > limits.unread_timeout_s:
                limits.hits.add("unread_timeout")
                connection.cut()
            elif connection.waits and connection.unread_bytes:
                self.note(connection)  # its wait starts once it has read the answer
            elif connection.waits or connection.incomplete:
                limit, timeout_s = self._limit_on(connection)
                if now - connection.since > timeout_s:
                    if not connection.is_closing:
                        limits.hits.add(limit)
                    connection.expire()

    def _limit_on(self, connection: HttpConnection) -> tuple[str, float]:
        """Return which limit applies to a connection that waits for its client, and its time."""
        if connection.is_idle:
            return "idle_timeout", self._limits.idle_timeout_s
        if connection.waits:
            return "headers_timeout", self._limits.headers_timeout_s
        return "body_timeout", self._limits.body_timeout_s


class HttpServer(uvicorn.Server):
    """Serves a listening socket in the running loop, from ``serve`` until ``should_exit``, within limits."""

    def __init__(
        self,
        config: uvicorn.Config,
        listening: socket.socket,
        limits: HttpLimits,
        on_tls_failure: OnTlsFailure = ignore_failure,
        *,
        tls: Callable[[], ssl.SSLContext | None] = no_tls,
    ) -> None:
        super().__init__(config)
        self._tls = tls
        self._on_tls_failure = on_tls_failure
        self._listening = listening
        self._limits = limits

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers: SIGTERM drains the xDS port first."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections with an ``HttpPort`` instead of the event loop's own server."""
        await self.lifespan.startup()
        self._port = HttpPort(
            self._listening,
            self._connection,
            limits=self._limits,
            tls=self._tls,
            on_tls_failure=self._on_tls_failure,
        )
        self._port.open()
        self.servers = [self._port]  # type: ignore[list-item]
        self.started = True

    def let_go(self) -> None:
        """Accept no more connections and close the open ones, also after an end without ``shutdown``."""
        if self.started:
            self._port.close()
            self._port.cut_all()
        self._listening.close()

    def _connection(self, port: HttpPort) -> HttpConnection:
        return HttpConnection(port, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port; connections still open after the grace period are cut off."""
        await super().shutdown(sockets=[self._listening])
        self._port.cut_all()
