"""Checks the client certificates of the grpcio transport: at the start of each call, and while it lasts.

gRPC has no way to close one connection, which a client must leave to be seen with another certificate. So the server's
own descriptor of it is shut down, which gRPC handles as it does a lost connection.
"""

import asyncio
import contextlib
import inspect
import ipaddress
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import unquote

import grpc
from grpc import aio

from xds.protocol.errors import Status
from xds.transport.grpcio_tls import GrpcioCertificates
from xds.transport.tls_failures import OnTlsFailure, TlsFailure

if TYPE_CHECKING:
    from xds.transport.client_certificates import ClientCertificate

LOOK_EVERY_S = 5.0
FAREWELL_S = 1.0
"""How long the status of a refused call may take to reach its client before its connection is closed."""


class CertifiedCall(Protocol):
    """An open stream. ``client`` is the certificate of its client, ``context`` gRPC's, ``address`` where it is from."""

    client: "ClientCertificate | None"
    context: Any
    address: str

    def end(self, status: Status, message: str) -> None:
        """Finish the stream with this status."""


class ClientCheck(aio.ServerInterceptor):
    """Refuses every call of a client whose certificate is refused, and closes its connection."""

    def __init__(self, certificates: GrpcioCertificates, on_failure: OnTlsFailure) -> None:
        self._certificates = certificates
        self._on_failure = on_failure

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the handler of a call, which first checks its client."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        kind = f"{_stream_if(handler.request_streaming)}_{_stream_if(handler.response_streaming)}"
        return cast(
            "grpc.RpcMethodHandler[Any, Any]", handler._replace(**{kind: self._checked(getattr(handler, kind))})
        )

    def _checked(self, behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        if inspect.isasyncgenfunction(behaviour):

            async def streaming(request: Any, context: Any) -> AsyncIterator[Any]:
                await self._check(context)
                async for response in behaviour(request, context):
                    yield response

            return streaming

        async def answering(request: Any, context: Any) -> Any:
            await self._check(context)
            return await behaviour(request, context)

        return answering

    async def _check(self, context: Any) -> None:
        client = self._certificates.examine(context)
        if client is None or not client.reason:
            return
        self._on_failure(TlsFailure(client.reason, client.refusal, address_text(context.peer())))
        close_soon([context.peer()])
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, client.refusal)


class ClientWatch:
    """Ends the calls of clients whose certificate is no longer valid, and closes their connections.

    It has expired, or is revoked, or no CA vouches for it any more.
    """

    def __init__(
        self,
        certificates: GrpcioCertificates,
        calls: Callable[[], Iterable[Any]],
        on_failure: OnTlsFailure,
    ) -> None:
        self._certificates = certificates
        self._calls = calls
        self._on_failure = on_failure
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look at the certificates of open calls every few seconds until ``stop``."""
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self.start)
        clients = self._certificates.clients
        assert clients is not None
        clients.follow_authorities()
        now = time.monotonic()
        self._end(
            call
            for call in self._calls()
            if call.client is not None and clients.is_due(call.client, now, spread_by=id(call))
        )

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def check_all(self) -> None:
        """Look at the certificate of every open call: other ones are revoked."""
        self._end(self._calls())

    def _end(self, calls: Iterable[CertifiedCall]) -> None:
        ended: dict[str, ClientCertificate] = {}
        for call in calls:
            if call.client is None:
                continue
            call.client = client = self._certificates.examine_again(call.client, call.context)
            if client.reason:
                ended[call.address] = client
                call.end(Status.UNAUTHENTICATED, client.refusal)
        for address, client in ended.items():
            self._on_failure(TlsFailure(client.reason, client.refusal, address_text(address)))
        close_soon(ended)


def _stream_if(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def close_soon(addresses: Iterable[str]) -> None:
    """Close the connections with these peers of gRPC's, once their clients have had the time to read a status."""
    wanted = {where for address in addresses if (where := _where(address)) is not None}
    if wanted:
        asyncio.get_running_loop().call_later(FAREWELL_S, _shut_down, wanted)


def _shut_down(wanted: set[tuple[str, int]]) -> None:
    """Shut down this process's connections with clients. Without /proc they stay until their clients leave."""
    with contextlib.suppress(OSError):
        for connection in _sockets():
            with contextlib.suppress(OSError, ValueError):
                if _normal(connection.getpeername()) in wanted:
                    connection.shutdown(socket.SHUT_RDWR)


def _sockets() -> Iterator[socket.socket]:
    """Yield the sockets of this process, each by a descriptor of our own, which is closed after it.

    gRPC may close its descriptor, and the system give the number to another file, at any time.
    """
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptor = os.dup(int(name))
        except OSError:  # it is closed by now
            continue
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:  # another kind of file
            os.close(descriptor)
            continue
        with connection:
            yield connection


def _where(address: str) -> tuple[str, int] | None:
    """Return the host and port of a peer as gRPC writes it: ipv4:HOST:PORT, ipv6:%5BHOST%5D:PORT."""
    kind, _, rest = unquote(address).partition(":")
    host, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return _normal((host.strip("[]"), int(port)))


def _normal(name: Any) -> tuple[str, int]:
    if not isinstance(name, tuple):
        raise ValueError(f"{name!r} is no TCP peer")
    host = ipaddress.ip_address(str(name[0]).partition("%")[0])
    mapped = getattr(host, "ipv4_mapped", None)
    return str(mapped or host), int(name[1])


def address_text(address: str) -> str:
    """Return a peer of gRPC's as HOST:PORT."""
    kind, _, rest = unquote(address).partition(":")
    return rest if kind in ("ipv4", "ipv6") else kind
