"""The grpcio transport: xDS streams on grpc.aio, bytes in and bytes out."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from xds.address import Address, BindError
from xds.model.identity import ANONYMOUS, Peer
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.hub import Hub
from xds.protocol.policy import METHODS, SERVICES, Method
from xds.protocol.responses import Part
from xds.transport.dispatcher import Dispatcher
from xds.transport.grpcio_clients import ClientCheck, ClientWatch, address_text
from xds.transport.grpcio_tls import GrpcioCertificates
from xds.transport.grpcio_tokens import TokenCheck, admitted
from xds.transport.http2.headers import HEADER_BYTES_MAX
from xds.transport.tls import TlsFiles
from xds.transport.tls_failures import OnTlsFailure, ignore_failure
from xds.transport.tokens import Tokens

if TYPE_CHECKING:
    from xds.transport.client_certificates import ClientCertificate
    from xds.transport.revocation_watch import RevocationWatch

STATUS = {code.value[0]: code for code in grpc.StatusCode}
ABORT_TIMEOUT_S = 5.0
GONE_TIMEOUT_S = 2.0
"""After a failed write, the reading side reports within this time that the client has gone."""
FAREWELL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcioOptions:
    """Connection settings. ``message_bytes_max`` bounds requests: Envoy reports all that it has."""

    keepalive_interval_s: float = 30.0
    keepalive_timeout_s: float = 10.0
    ping_interval_min_s: float = 0.0
    message_bytes_max: int = 16 * 1024 * 1024
    connection_streams_max: int = 10_000
    pending_max: int = 100_000
    handshake_s: float = 20.0
    idle_s: float = 300.0
    connections_max: int = 100_000
    age_max_s: float = 0.0
    age_grace_s: float = 10.0
    tls: TlsFiles | None = None
    anonymous: Peer = ANONYMOUS
    """The peer of a client without a certificate."""
    make_peer: Callable[[tuple[str, ...]], Peer] = Peer
    """Makes the peer of the identity in a client certificate, which may be ()."""
    tokens: Tokens | None = None
    """By which clients show who they are; None if certificates do."""
    reflection_pool: Any = None
    """The descriptor pool that reflection shows, or None for no reflection."""

    def channel_options(self) -> list[tuple[str, int]]:
        """Return gRPC's own options. gRPC ignores misspelt ones silently; ``tests/transport`` tests each."""
        pings_ms = int(self.ping_interval_min_s * 1000)
        return [
            # With it, two servers on one port would share its clients at random instead of failing to start.
            ("grpc.so_reuseport", 0),
            # By default gRPC refuses calls beyond 1,000 waiting ones: a reconnect storm has more.
            ("grpc.server.max_pending_requests", self.pending_max),
            ("grpc.server.max_pending_requests_hard_limit", self.pending_max),
            ("grpc.max_concurrent_streams", self.connection_streams_max),
            # By default gRPC refuses calls with more than 8 KiB of headers at random, the more the larger.
            ("grpc.max_metadata_size", HEADER_BYTES_MAX),
            ("grpc.absolute_max_metadata_size", HEADER_BYTES_MAX),
            ("grpc.max_receive_message_length", self.message_bytes_max),
            ("grpc.max_send_message_length", -1),
            # Envoy pings idle connections; with the defaults that costs it the stream every two minutes.
            ("grpc.http2.max_ping_strikes", 0 if pings_ms == 0 else 2),
            ("grpc.http2.min_ping_interval_without_data_ms", pings_ms),
            ("grpc.keepalive_time_ms", int(self.keepalive_interval_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(self.keepalive_timeout_s * 1000)),
            # The connection is closed by this one: a minute, unless told otherwise.
            ("grpc.http2.ping_timeout_ms", int(self.keepalive_timeout_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            # Probing the bandwidth costs a ping a message and wins nothing for small ones.
            ("grpc.http2.bdp_probe", 0),
            # Until it has sent its SETTINGS, TLS included; two minutes, unless told otherwise.
            ("grpc.server_handshake_timeout_ms", int(self.handshake_s * 1000)),
            ("grpc.max_connection_idle_ms", int(self.idle_s * 1000)),
            ("grpc.max_allowed_incoming_connections", self.connections_max),
            *self._age_options(),
        ]

    def _age_options(self) -> list[tuple[str, int]]:
        if not self.age_max_s:
            return []
        # gRPC varies the age by a tenth itself. It waits for no answer: streams are cut off after the grace.
        return [
            ("grpc.max_connection_age_ms", int(self.age_max_s * 1000)),
            ("grpc.max_connection_age_grace_ms", int(self.age_grace_s * 1000)),
        ]


class _Call:
    """The server's side of one stream: reads requests and writes what polling returns, one message at a time."""

    __slots__ = ("_dispatcher", "_refusal", "_task", "_told", "_writer", "address", "client", "context", "stream")

    def __init__(
        self,
        dispatcher: Dispatcher,
        method: Method,
        context: "aio.ServicerContext[bytes, bytes]",
        peer: Peer,
        client: "ClientCertificate | None",
    ) -> None:
        self.client = client
        self._told = False  # that there may be more, while something is written
        self._dispatcher = dispatcher
        self.context = context
        self._writer: asyncio.Task[None] | None = None
        self._refusal: StreamRefusedError | None = None
        self._task = asyncio.current_task()
        # On a unix socket every client has the same peer: there, each stream stands for itself.
        self.address = address = context.peer()
        connection = f"{address}#{id(self)}" if address.startswith("unix:") else address
        self.stream = dispatcher.open(method.variant, self, type_url=method.type_url, connection=connection, peer=peer)

    def send_cohort(self, hub: Hub) -> bool:
        if self._writer is not None or self._refusal is not None:
            self._told = True
            return True
        self._told = False
        try:
            part = hub.poll_cohort(self.stream)
        except Exception as error:
            self._fail(error)
            return True
        if part is None:
            return False
        self._writer = asyncio.get_running_loop().create_task(self._write(part))
        return True

    def ready(self) -> None:
        self._told = True
        if self._writer is None and self._refusal is None:
            self._writer = asyncio.get_running_loop().create_task(self._write(None))

    @property
    def peer_address(self) -> str:
        """Where the client connects from."""
        return address_text(self.address)

    def probe(self, within_s: float, why: str) -> None:
        """Do nothing: gRPC sends no ping on request. Its keepalive closes connections whose clients are gone."""

    def end(self, status: Status, message: str) -> None:
        if self._refusal is None and self._task is not None:
            self._refusal = StreamRefusedError(status, message)
            self._task.cancel()

    async def _write(self, part: Part | None) -> None:
        """Write a part, if one is given, then what polling returns until there is nothing more."""
        try:
            while self._refusal is None:
                if part is None:
                    self._told = False
                    part = self._dispatcher.poll(self.stream)
                    if part is None:
                        return
                await self.context.write(part.message)
                if self.stream.settled and not self._told:
                    return
                part = None
        except (aio.UsageError, aio.AioRpcError, asyncio.InvalidStateError, grpc.RpcError):
            pass  # the client went away; the reading side ends the stream
        except aio.InternalError as error:
            # A write under way also fails when the client cancels. Otherwise the stream has lost a message.
            assert self._task is not None
            await asyncio.wait({self._task}, timeout=GONE_TIMEOUT_S)
            self._fail(error)
        except Exception as error:
            self._fail(error)
        finally:
            self._writer = None

    def _fail(self, error: Exception) -> None:
        """End the stream: it was refused, or a bug of ours failed it, which must not affect other streams."""
        if isinstance(error, StreamRefusedError):
            self.end(error.status, error.message)
        else:
            self._dispatcher.report_fault(error)
            self.end(Status.INTERNAL, "internal error")

    async def run(self) -> None:
        """Read until the client is done, or raise what the stream must end with."""
        why = "the client ended its stream"
        try:
            while isinstance(data := await self.context.read(), bytes):  # else aio.EOF
                self._dispatcher.receive(self.stream, data)
        except StreamRefusedError as refusal:
            self._refusal, why = refusal, _told(refusal)
            raise
        except asyncio.CancelledError:
            if self._refusal is None:
                why = "the client reset its stream, or its connection closed"
                raise
            assert self._task is not None
            self._task.uncancel()
            why = _told(self._refusal)
            raise self._refusal from None
        finally:
            self._dispatcher.close(self.stream, why)
            if self._writer is not None:
                await self._end_write(self._writer)

    async def _end_write(self, writer: "asyncio.Task[None]") -> None:
        """End the writer. If a status is to follow, wait for the write first: grpcio sends no status during a write.

        A client that does not read gets no status, and can't keep the stream open.
        """
        try:
            if self._refusal is not None:
                await asyncio.wait({writer}, timeout=ABORT_TIMEOUT_S)
        finally:
            writer.cancel()


def _told(refusal: StreamRefusedError) -> str:
    """Return what a client is told as its stream ends."""
    return f"{refusal.status.name}: {refusal.message}"


def _why_not_bound(address: Address, error: RuntimeError) -> OSError:
    """Return why the system refuses an address: gRPC reports only that binding failed."""
    if not address.is_unix:
        try:
            with socket.create_server((address.host, address.port), family=_family(address.host), reuse_port=False):
                pass
        except OSError as cause:
            return cause
    return OSError(0, str(error))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class GrpcioTransport:
    """Serves every xDS method, gRPC health and additional ``handlers`` on one address."""

    def __init__(
        self,
        address: Address,
        dispatcher: Dispatcher,
        *,
        options: GrpcioOptions | None = None,
        handlers: Sequence[grpc.GenericRpcHandler] = (),
        on_problem: Callable[[str], None] = lambda text: None,
        on_tls_failure: OnTlsFailure = ignore_failure,
    ) -> None:
        self._address = address
        self._dispatcher = dispatcher
        self._options = options or GrpcioOptions()
        self._more_handlers = tuple(handlers)
        self._on_problem = on_problem
        self._on_tls_failure = on_tls_failure
        self._certificates: GrpcioCertificates | None = None
        self._watch: ClientWatch | None = None
        self._revocations: RevocationWatch | None = None
        self._server: aio.Server | None = None
        self._health = health.aio.HealthServicer()

    async def start(self) -> Address:
        """Listen, and return the address that was bound. Raises BindError."""
        options = self._options
        interceptors: list[aio.ServerInterceptor] = []
        if options.tls is not None:
            self._certificates = GrpcioCertificates(options.tls, self._on_problem, make_peer=options.make_peer)
            if options.tls.is_mutual:
                interceptors.append(ClientCheck(self._certificates, self._on_tls_failure))
        if options.tokens is not None:
            interceptors.append(TokenCheck(options.tokens))
        server = aio.server(options=options.channel_options(), interceptors=interceptors)
        handlers: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {}
        for method in METHODS:
            handlers.setdefault(method.service, {})[method.name] = grpc.stream_stream_rpc_method_handler(
                self._handler(method)
            )
        for service, methods in handlers.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        server.add_generic_rpc_handlers(self._more_handlers)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._options.reflection_pool is not None:
            self._add_reflection(server)
        port = self._bind(server)
        await server.start()
        self._server = server
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        self._watch_clients()
        return self._address if self._address.is_unix else Address(self._address.host, port)

    def _watch_clients(self) -> None:
        certificates, files = self._certificates, self._options.tls
        if certificates is None or certificates.clients is None or files is None:
            return
        watch = self._watch = ClientWatch(certificates, lambda: self._dispatcher.sinks, self._on_tls_failure)
        watch.start()
        if files.has_revocations:
            from xds.transport.revocation_watch import RevocationWatch

            self._revocations = RevocationWatch(
                certificates.clients, on_change=watch.check_all, on_problem=self._on_problem
            )
            self._revocations.start()

    def reload_certificates(self) -> bool:
        """Reload the TLS files; return whether TLS is configured and they can be used."""
        if self._revocations is not None:
            self._revocations.look_soon()
        return self._certificates is not None and self._certificates.reload()

    def move(self, share: float, over_s: float) -> int:
        """Do nothing and return 0: gRPC's server can't close one connection, and ended streams would return on it."""
        return 0

    def _bind(self, server: aio.Server) -> int:
        target = str(self._address)
        try:
            if self._certificates is None:
                port = server.add_insecure_port(target)
            else:
                port = server.add_secure_port(target, self._certificates.credentials)
        except RuntimeError as error:
            raise BindError("xDS", self._address, _why_not_bound(self._address, error)) from None
        return port

    def _add_reflection(self, server: aio.Server) -> None:
        from grpc_reflection.v1alpha import reflection

        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server, pool=self._options.reflection_pool)

    def _handler(self, method: Method) -> Any:
        async def handle(_: Any, context: "aio.ServicerContext[bytes, bytes]") -> None:
            try:
                client = self._certificates.examine(context) if self._certificates is not None else None
                if self._options.tokens is not None:
                    await self._run_with_token(self._options.tokens, method, context, client)
                    return
                peer = self._options.anonymous if client is None else client.peer
                await _Call(self._dispatcher, method, context, peer, client).run()
            except StreamRefusedError as refusal:
                await self._abort(context, refusal)
            except Exception as error:
                if not isinstance(error, aio.AbortError):
                    self._dispatcher.report_fault(error)
                    await self._abort(context, StreamRefusedError(Status.INTERNAL, "internal error"))
                raise

        return handle

    async def _run_with_token(
        self,
        tokens: Tokens,
        method: Method,
        context: "aio.ServicerContext[bytes, bytes]",
        client: "ClientCertificate | None",
    ) -> None:
        admission = await admitted(tokens, context)
        call = _Call(self._dispatcher, method, context, admission.peer, client)
        tokens.expiry.add(call, admission.ends_at)
        try:
            await call.run()
        finally:
            tokens.expiry.discard(call, admission.ends_at)

    async def _abort(self, context: "aio.ServicerContext[bytes, bytes]", refusal: StreamRefusedError) -> None:
        """End a call with its status, even if its client does not read."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ABORT_TIMEOUT_S):
                await context.abort(STATUS[refusal.status.value], refusal.message)

    async def _set_health(self, status: int) -> None:
        for service in ("", *SERVICES):
            await self._health.set(service, status)

    async def drain(self, window_s: float) -> None:
        """Send GOAWAY, accept no new streams, and end the open ones one by one over ``window_s`` seconds."""
        assert self._server is not None
        await self._health.enter_graceful_shutdown()
        server = self._server
        stopping = asyncio.create_task(server.stop(window_s + ABORT_TIMEOUT_S))
        await asyncio.sleep(0)  # let it refuse new streams before the open ones are counted
        sinks = self._dispatcher.sinks
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number, sink in enumerate(sinks):
            wait_s = start + window_s * number / len(sinks) - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            sink.end(Status.UNAVAILABLE, "this server is shutting down; connect again")
        # Health watches, CSDS and reflection would keep it open for the whole grace.
        await server.stop(FAREWELL_S)
        await stopping

    async def stop(self, grace_s: float) -> None:
        """Close everything within ``grace_s`` seconds."""
        for watch in (self._watch, self._revocations):
            if watch is not None:
                watch.stop()
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None
