"""The native transport: xDS and gRPC health on our own HTTP/2 over asyncio."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from xds.address import Address
from xds.limits import LimitHits
from xds.model.identity import ANONYMOUS, Peer
from xds.process.loop_share import LoopShare
from xds.protocol.errors import Status
from xds.transport.assembly import ASSEMBLY_BYTES_MAX, EMPTIED_BYTES_MIN, Assembly
from xds.transport.calls import Call, Reply, Services
from xds.transport.certificates import Certificates
from xds.transport.departures import Departures
from xds.transport.dispatcher import Dispatcher
from xds.transport.http2.frames import ENHANCE_YOUR_CALM, NO_ERROR
from xds.transport.http2.limits import Http2Limits
from xds.transport.native_connection import NativeConnection, SharedByConnections, TlsConnection
from xds.transport.sockets import BACKLOG, bound, listen
from xds.transport.tls import TlsFiles
from xds.transport.tls_failures import OnTlsFailure, ignore_failure
from xds.transport.token_calls import TokenCalls
from xds.transport.tokens import Tokens
from xds.transport.turns import Turns
from xds.transport.waiting import WAITING_BYTES_MAX, WaitingMessages

if TYPE_CHECKING:
    from xds.transport.revocation_watch import RevocationWatch

SWEEP_SLICE = 2_000
CLOSING_S = 5
FOLLOW_TLS_S = 5
"""How often changes of the TLS files are noticed while no client connects."""
FAREWELL_S = 0.5
REST_S, REST_INTERVAL_S = 0.05, 1.0
"""Memory is returned to the system so long after the last large request, and at most so often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeOptions:
    """Connection settings; times in seconds.

    ``handshake_s``: how long a client has to complete the HTTP/2 handshake and to send a request on its first streams;
    ``idle_s``: how long a connection may have no stream.
    """

    keepalive_interval_s: float = 30.0
    keepalive_timeout_s: float = 10.0
    ping_interval_min_s: float = 0.0
    handshake_s: float = 20.0
    idle_s: float = 300.0
    connections_max: int = 100_000
    assembly_bytes_max: int = ASSEMBLY_BYTES_MAX
    waiting_bytes_max: int = WAITING_BYTES_MAX
    age_max_s: float = 0.0
    age_grace_s: float = 10.0
    limits: Http2Limits = field(default_factory=Http2Limits)
    tls: TlsFiles | None = None
    anonymous: Peer = ANONYMOUS
    """The peer of a client without a certificate."""
    make_peer: Callable[[tuple[str, ...]], Peer] = Peer
    """Makes the peer of the identity in a client certificate, which may be ()."""
    tokens: Tokens | None = None
    """By which clients show who they are; None if certificates do."""


class NativeTransport:
    """Serves every xDS method and gRPC health on one address; ``replies`` adds methods, by path.

    ``return_memory`` is called after large requests, once no more of them are arriving, and when large responses were
    dropped from the cache. ``on_tls_failure`` is called with handshakes that failed and certificates that were refused.
    """

    def __init__(
        self,
        address: Address,
        dispatcher: Dispatcher,
        *,
        options: NativeOptions | None = None,
        replies: Mapping[str, Reply] | None = None,
        on_problem: Callable[[str], None] = lambda text: None,
        on_tls_failure: OnTlsFailure = ignore_failure,
        return_memory: Callable[[], None] = lambda: None,
        listening: socket.socket | None = None,
        hits: LimitHits | None = None,
    ) -> None:
        self._address = address
        self._hits = hits or LimitHits()
        self._options = options or NativeOptions()
        self._departures = Departures(age_max_s=self._options.age_max_s, grace_s=self._options.age_grace_s)
        tokens = self._options.tokens
        self._services = Services(
            dispatcher,
            replies or {},
            tokens=None if tokens is None else TokenCalls(tokens),
            waiting=WaitingMessages(self._options.waiting_bytes_max, self._hits.add),
        )
        self._on_problem = on_problem
        self._on_tls_failure = on_tls_failure
        self._return_memory = return_memory
        self._listening = listening
        self._owns_path = address.is_unix and listening is None
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._rester: asyncio.TimerHandle | None = None
        self._rested_at = 0.0
        self._outdated_bytes = 0  # of responses, when memory was given back last
        self._shared: SharedByConnections | None = None
        self._certificates: Certificates | None = None
        self._revocations: RevocationWatch | None = None

    def reload_certificates(self) -> bool:
        """Reload the TLS files; return whether TLS is configured and they can be used."""
        if self._revocations is not None:
            self._revocations.look_soon()
        return self._certificates is not None and self._certificates.reload()

    async def start(self) -> Address:
        """Listen, and return the address that was bound. Raises BindError."""
        loop = asyncio.get_running_loop()
        options = self._options
        self._shared = shared = SharedByConnections(
            services=self._services,
            limits=options.limits,
            assembly=Assembly(bytes_max=options.assembly_bytes_max, on_empty=self._rest_soon),
            clock=loop.time,
            connections_max=options.connections_max,
            call_at=loop.call_at,
            share=LoopShare(loop.call_soon),
            turns=Turns(loop, self._services.dispatcher.pause_after),
            ping_interval_min_s=options.ping_interval_min_s,
            anonymous=options.anonymous,
            on_tls_failure=self._on_tls_failure,
            hits=self._hits,
            on_forgotten=self._departures.forget,
        )
        factory: Callable[[], NativeConnection] = lambda: NativeConnection(shared)  # noqa: E731
        if options.tls is not None:
            certificates = Certificates(options.tls, self._on_problem, make_peer=options.make_peer)
            self._certificates = shared.certificates = certificates
            factory = lambda: TlsConnection(shared, certificates.context())  # noqa: E731
            self._follow_revocations(certificates, options.tls)
        if self._listening is None:
            self._listening = listen(self._address)
        listening = self._listening
        if self._address.is_unix:
            self._server = await loop.create_unix_server(factory, sock=listening, backlog=BACKLOG)
        else:
            self._server = await loop.create_server(factory, sock=listening, backlog=BACKLOG)
        self._sweep()
        return bound(self._address, listening)

    def _follow_revocations(self, certificates: Certificates, files: TlsFiles) -> None:
        if certificates.clients is not None and files.has_revocations:
            from xds.transport.revocation_watch import RevocationWatch

            self._revocations = RevocationWatch(
                certificates.clients, on_change=self._on_revocations, on_problem=self._on_problem
            )
            self._revocations.start()

    # --- Memory ----------------------------------------------------------------------------------------------------

    def _rest_soon(self) -> None:
        if self._rester is None:
            loop = asyncio.get_running_loop()
            at = max(loop.time() + REST_S, self._rested_at + REST_INTERVAL_S)
            self._rester = loop.call_at(at, self._rest)

    def _rest(self) -> None:
        self._rester = None
        if self._shared is not None and not self._shared.assembly.used:
            self._rested_at = asyncio.get_running_loop().time()
            self._outdated_bytes = self._services.dispatcher.hub.response_cache.outdated_bytes
            self._return_memory()

    # --- Connections that say nothing ------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Check every connection once a second, in slices."""
        shared = self._shared
        assert shared is not None
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(1.0, self._sweep)  # first, so that a failure below does not stop the sweeping
        shared.tick += 1
        shared.assembly.expire(shared.tick)
        self._services.framed.evict_idle()
        if self._certificates is not None and shared.tick % FOLLOW_TLS_S == 0:
            self._certificates.context()  # also while nobody connects, for those that are connected
        if self._services.dispatcher.hub.response_cache.outdated_bytes - self._outdated_bytes >= EMPTIED_BYTES_MIN:
            self._rest_soon()
        self._sweep_slice(list(shared.connections), self._look_at)

    def _sweep_slice(
        self, connections: list[NativeConnection], look_at: Callable[[NativeConnection], None], at: int = 0
    ) -> None:
        for connection in connections[at : at + SWEEP_SLICE]:
            look_at(connection)
        if at + SWEEP_SLICE < len(connections):
            asyncio.get_running_loop().call_soon(self._sweep_slice, connections, look_at, at + SWEEP_SLICE)

    def _look_at(self, connection: NativeConnection) -> None:
        shared, options = self._shared, self._options
        assert shared is not None
        if connection.streams:
            self._note_streams(connection)
        if connection.dead or (connection.draining and not connection.streams):
            self._end_closing(connection)
            return
        silent_s = 0 if connection.waits else shared.tick - connection.heard  # it is not read while it waits
        if not connection.greeted:
            if shared.tick - connection.since > options.handshake_s:
                self._hits.add("handshake_timeout")
                connection.give_up()
        elif connection.client is not None and self._client_is_due(connection):
            self._check_client(connection)
        elif not connection.asked and connection.unasked_s > options.handshake_s:
            self._hits.add("handshake_timeout")
            connection.fail(ENHANCE_YOUR_CALM, f"streams without a request for {options.handshake_s:g} s")
        elif shared.tick - connection.busy > options.idle_s:
            self._hits.add("idle_timeout")
            connection.fail(NO_ERROR, f"no stream for {options.idle_s:g} s")
        elif connection.pinged:
            if silent_s > options.keepalive_interval_s + options.keepalive_timeout_s:
                self._hits.add("keepalive_timeout")
                connection.abort()
        elif silent_s >= options.keepalive_interval_s:
            connection.ping()
        if self._departures.look_at(connection, shared.tick):
            self._hits.add("age")

    def _note_streams(self, connection: NativeConnection) -> None:
        assert self._shared is not None
        connection.busy = self._shared.tick
        if not connection.asked and not connection.waits:
            connection.asked = any(cast("Call", stream).has_asked for stream in connection.streams.values())
            connection.unasked_s += 1

    def _end_closing(self, connection: NativeConnection) -> None:
        """Cut off a connection that its client was to close by now: the first to close may lose the last messages."""
        assert self._shared is not None
        since = connection.since if connection.dead else connection.busy
        if self._shared.tick - since > CLOSING_S:
            connection.abort()

    def move(self, share: float, over_s: float) -> int:
        """End a share of the connections at random times within ``over_s``, so that clients connect anew."""
        shared = self._shared
        assert shared is not None
        return self._departures.choose(
            [each for each in shared.connections if each.streams], share, over_s, shared.tick
        )

    def _on_revocations(self) -> None:
        if self._shared is not None:
            self._sweep_slice(list(self._shared.connections), self._check_client)

    def _client_is_due(self, connection: NativeConnection) -> bool:
        clients = self._certificates.clients if self._certificates is not None else None
        if clients is None or connection.client is None:
            return False
        return clients.is_due(connection.client, time.monotonic(), spread_by=id(connection))

    def _check_client(self, connection: NativeConnection) -> None:
        cast("TlsConnection", connection).check_client()

    # --- The end ---------------------------------------------------------------------------------------------------

    async def drain(self, window_s: float) -> None:
        """Send GOAWAY, accept no new streams, and end the open ones one by one over ``window_s`` seconds."""
        shared = self._shared
        assert shared is not None
        self._close_listening()
        self._services.stop_serving()
        for connection in list(shared.connections):
            connection.goaway()
        sinks = self._services.dispatcher.sinks
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number, sink in enumerate(sinks):
            wait_s = start + window_s * number / len(sinks) - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            sink.end(Status.UNAVAILABLE, "this server is shutting down; connect again")
        # Clients close a connection after GOAWAY by themselves; if we close it first they may lose the last messages.
        deadline = loop.time() + FAREWELL_S
        while shared.connections and loop.time() < deadline:  # noqa: ASYNC110 - bounded, and at the end of a life
            await asyncio.sleep(FAREWELL_S / 10)

    async def stop(self, grace_s: float) -> None:
        """Close everything within ``grace_s`` seconds."""
        self._close_listening()
        if self._revocations is not None:
            self._revocations.stop()
        if self._shared is not None:
            for connection in list(self._shared.connections):
                connection.abort()
            await asyncio.sleep(0)
        for timer in (self._sweeper, self._rester):  # now: a message that is cut off sets the latter
            if timer is not None:
                timer.cancel()
        self._server = None

    def _close_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            if self._listening is not None:
                self._listening.close()
            if self._owns_path:
                with contextlib.suppress(OSError):
                    Path(self._address.path).unlink()
