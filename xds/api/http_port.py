"""An HTTP port for uvicorn that clients which say nothing can't fill.

A client has so long to send a request's headers, its body, and to read the answer. Where all connections are taken, the
one that has been silent longest is closed for a new one: a request that is being answered is never cut off for that.
"""

import asyncio
import contextlib
import fcntl
import socket
import ssl
import sys
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

ACCEPTS_MAX = 64
"""Connections that are taken in one turn of the event loop."""
ACCEPT_PAUSE_S = 0.5
"""How long no connection is taken after the system had no room for one: it would be tried without end."""
SWEEP_S = 0.5
DOWNLOAD_BYTES_MIN = 16 * 1024
"""Less may be unacknowledged just because clients acknowledge late."""
_408 = b"the request was not complete in time\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What a port's clients may take. Times in seconds."""

    connections_max: int = 1_000
    headers_timeout_s: float = 5.0
    body_timeout_s: float = 60.0
    unread_timeout_s: float = 30.0


class HttpConnection(H11Protocol):
    """One connection. ``since``: when it began to wait for what it waits for, or the present request came."""

    def __init__(self, port: "HttpPort", **given: Any) -> None:
        super().__init__(**given)
        self._port = port
        self.since = self.loop.time()
        self.arriving: asyncio.Task[None] | None = None
        """Brings it here, by way of TLS; None once it is here."""
        self.started = False
        self._request: RequestResponseCycle | None = None
        self._unread: tuple[int, float] = (0, 0.0)
        self._told = False

    @property
    def waits(self) -> bool:
        """Whether it waits for the headers of a request; the answer to the one before may be unread."""
        return self._request is None or self._request.response_complete

    @property
    def incomplete(self) -> bool:
        """Whether the present request has a body that is not there whole."""
        return self._request is not None and not self._request.response_complete and self._request.more_body

    # --- From the event loop ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Be here."""
        self.arriving = None
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what the client said, and note whether that begins a request."""
        if self._told:
            return
        super().data_received(data)
        if self.cycle is not self._request:
            self._request = self.cycle
            self._port.note(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._port.forget(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request, or go on with one that is here already."""
        super().on_response_complete()
        self._request = self.cycle
        self._unread = (self.unread_bytes, self.loop.time())
        self._port.note(self)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, unless the answer to the request that it came with has begun: that is cut short."""
        request: RequestResponseCycle | None = self.cycle
        if request is not None and not request.response_complete:
            request.disconnected = True  # whatever answers it has nobody to answer to now
            request.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    # --- Deadlines -------------------------------------------------------------------------------------------------

    @property
    def unread_bytes(self) -> int:
        """What the kernel has sent or is to send to the client, which has not acknowledged it.

        Over TLS the transport does not tell what it has still to write. Where that is anything, the kernel is full.
        """
        if self.arriving is not None:
            return 0
        descriptor: int = self.transport.get_extra_info("socket").fileno()
        if descriptor < 0:
            return 0
        return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    @property
    def downloads(self) -> bool:
        """Whether it had much to read when that was looked at last."""
        return self._unread[0] > DOWNLOAD_BYTES_MIN

    def unread_s(self, now: float) -> float:
        """Return how long the client has read nothing of what is written. To be asked regularly."""
        size, (before, since) = self.unread_bytes, self._unread
        if not size or size != before:
            since = now
        self._unread = (size, since)
        return now - since

    def expire(self) -> None:
        """Close the connection: its request did not come in time. Who has said something is told so."""
        if self.arriving is not None:
            self.arriving.cancel()
        elif self._told or self.transport.is_closing() or not self._begun:
            self.transport.abort()
        else:
            self._refuse()
            self._port.note(self)  # it is cut off if it does not close then

    @property
    def _begun(self) -> bool:
        """Whether a request has begun to come that can still be answered."""
        if self.waits:
            return self.conn.our_state is h11.IDLE and bool(self.conn.trailing_data[0])
        return self._request is not None and not self._request.response_started

    def _refuse(self) -> None:
        self._told = True
        if self._request is not None:
            self._request.disconnected = True  # whoever reads the body is told that there is no more
            self._request.message_event.set()
        headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(_408)))]
        events = (
            h11.Response(status_code=408, headers=[*headers, ("connection", "close")], reason=b"Request Timeout"),
            h11.Data(data=_408),
            h11.EndOfMessage(),
        )
        self.transport.write(b"".join(filter(None, map(self.conn.send, events))))
        # What still comes is dropped: closing with bytes unread would reset the connection, and this would be lost.
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def cut(self) -> None:
        """Close the connection at once: another one needs its place."""
        if self.arriving is not None:
            self.arriving.cancel()
        else:
            self.transport.abort()


class HttpPort:
    """Takes the connections of a listening socket, from ``open`` to ``close``."""

    def __init__(
        self,
        listening: socket.socket,
        make: Callable[["HttpPort"], HttpConnection],
        *,
        limits: HttpLimits,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._listening = listening
        self._make = make
        self._limits = limits
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[HttpConnection, None] = {}  # for headers; the one that waits longest is first
        self._asking: dict[HttpConnection, None] = {}  # a request has begun, the oldest one first
        self._sweeper: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False

    def open(self) -> None:
        """Begin to take connections."""
        self._listening.setblocking(False)
        self._loop.add_reader(self._listening, self._accept)
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    # --- uvicorn calls these as those of an asyncio.Server ---------------------------------------------------------

    def close(self) -> None:
        """Take no more connections, and drop those that are not there yet."""
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
        """Return at once: connections are uvicorn's to wait for."""

    def cut_all(self) -> None:
        """Close all connections at once."""
        for connection in list(self._connections()):
            connection.cut()

    # --- Connections -----------------------------------------------------------------------------------------------

    def _connections(self) -> Iterator[HttpConnection]:
        yield from self._waiting
        yield from self._asking

    def note(self, connection: HttpConnection) -> None:
        """Have a connection begin to wait from now on, for a request or for the rest of one."""
        if connection not in self._waiting and connection not in self._asking:
            return
        self.forget(connection)
        connection.since = self._loop.time()
        (self._waiting if connection.waits else self._asking)[connection] = None

    def forget(self, connection: HttpConnection) -> None:
        """Know a connection no more."""
        self._waiting.pop(connection, None)
        self._asking.pop(connection, None)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_MAX):
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
        """Take no connections for a while, and make room meanwhile."""
        self._loop.remove_reader(self._listening)
        self._pause = self._loop.call_later(ACCEPT_PAUSE_S, self._loop.add_reader, self._listening, self._accept)
        self._make_room()

    def _admit(self, accepted: socket.socket) -> None:
        if len(self._waiting) + len(self._asking) >= self._limits.connections_max and not self._make_room():
            accepted.close()
            return
        connection = self._make(self)
        self._waiting[connection] = None
        connection.arriving = self._loop.create_task(self._connect(connection, accepted))
        connection.arriving.add_done_callback(lambda task: self._on_arrived(connection, accepted, task))

    def _make_room(self) -> bool:
        """Close the connection that is silent longest, or else one whose request has no whole body yet."""
        connection = next((each for each in self._waiting if not each.downloads), None)
        if connection is None:
            connection = next((each for each in self._asking if each.incomplete), None)
        if connection is None:
            return False
        self.forget(connection)
        connection.cut()
        return True

    async def _connect(self, connection: HttpConnection, accepted: socket.socket) -> None:
        connection.started = True
        timeout_s = self._limits.headers_timeout_s if self._tls is not None else None
        with contextlib.suppress(OSError):  # it does not speak TLS, took too long, or left
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=self._tls, ssl_handshake_timeout=timeout_s
            )

    def _on_arrived(self, connection: HttpConnection, accepted: socket.socket, task: "asyncio.Task[None]") -> None:
        if connection.arriving is not None:  # it never was: there is no connection_lost to come
            self.forget(connection)
        if not connection.started:
            accepted.close()  # else it is its transport's to close
        if not task.cancelled():
            task.result()

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        limits, now = self._limits, self._loop.time()
        for connection in list(self._connections()):
            if connection.unread_s(now) > limits.unread_timeout_s:
                connection.cut()
            elif connection.waits and connection.unread_bytes:
                self.note(connection)  # it is to ask again once it has read that
            elif connection.waits or connection.incomplete:
                timeout_s = limits.headers_timeout_s if connection.waits else limits.body_timeout_s
                if now - connection.since > timeout_s:
                    connection.expire()


class HttpServer(uvicorn.Server):
    """Serves a listening socket within the running loop, between ``serve`` and ``should_exit``, within limits."""

    def __init__(self, config: uvicorn.Config, listening: socket.socket, limits: HttpLimits) -> None:
        super().__init__(config)
        self._listening = listening
        self._limits = limits

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: SIGTERM drains the xDS port first."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take connections of the socket by an ``HttpPort``, not by the event loop's own server."""
        await self.lifespan.startup()
        self._port = HttpPort(self._listening, self._connection, limits=self._limits, tls=self.config.ssl)
        self._port.open()
        self.servers = [self._port]  # type: ignore[list-item]
        self.started = True

    def let_go(self) -> None:
        """Take no more connections, and close those that are open: for one that ended without ``shutdown`` too."""
        if self.started:
            self._port.close()
            self._port.cut_all()
        self._listening.close()

    def _connection(self, port: HttpPort) -> HttpConnection:
        return HttpConnection(port, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port; connections that are open after the grace are cut off."""
        await super().shutdown(sockets=[self._listening])
        self._port.cut_all()
