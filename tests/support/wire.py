"""Raw xDS clients: delta and SotW, aggregated or per type, with bytes in and bytes out over grpc.aio.

They implement the transport protocol without Envoy's resource types, and send only what the test requests: every ACK,
NACK and subscription is a call of the test's. ``view`` is the state of a faithful client: exactly what it has ACKed.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf import any_pb2, json_format, struct_pb2

from support import resources as r
from support.grpc_writes import write
from xds._generated import xds_wire_pb2 as wire

RESOURCE_URL = r.TYPE + "envoy.service.discovery.v3.Resource"
TIMEOUT_S = 20.0
"""How long an answer may take where much else runs beside. Where the time is what is tested, the test names it."""


@dataclass(frozen=True, slots=True)
class Service:
    """A discovery service: its full gRPC name, its two methods (None if missing), and its resource type."""

    name: str
    delta: str
    sotw: str | None
    type_url: str | None


ADS = Service(
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "DeltaAggregatedResources",
    "StreamAggregatedResources",
    None,
)


def _service(package: str, name: str, methods: str, type_url: str, *, sotw: bool = True) -> Service:
    full = f"envoy.service.{package}.v3.{name}DiscoveryService"
    return Service(full, f"Delta{methods}", f"Stream{methods}" if sotw else None, type_url)


PER_TYPE: dict[str, Service] = {
    "CDS": _service("cluster", "Cluster", "Clusters", r.CLUSTER),
    "EDS": _service("endpoint", "Endpoint", "Endpoints", r.ENDPOINTS),
    "LDS": _service("listener", "Listener", "Listeners", r.LISTENER),
    "RDS": _service("route", "Route", "Routes", r.ROUTE),
    "SRDS": _service("route", "ScopedRoutes", "ScopedRoutes", r.SCOPED_ROUTE),
    "VHDS": _service("route", "VirtualHost", "VirtualHosts", r.VIRTUAL_HOST, sotw=False),
    "SDS": _service("secret", "Secret", "Secrets", r.SECRET),
    "RTDS": _service("runtime", "Runtime", "Runtime", r.RUNTIME),
    "ECDS": _service("extension", "ExtensionConfig", "ExtensionConfigs", r.EXTENSION),
}
"""The per-type services by short name."""


@dataclass(frozen=True, slots=True)
class Held:
    """A resource that a client has: version and encoded resource."""

    version: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """One resource of a delta response; ``body`` is None if the server sent none (a heartbeat, an alias answer)."""

    name: str
    version: str
    body: bytes | None
    aliases: tuple[str, ...] = ()
    ttl_s: float | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A response of either variant. In SotW ``removed`` is empty, and resources have the response's version."""

    type_url: str
    nonce: str
    version: str
    resources: dict[str, Received]
    removed: tuple[str, ...]
    size: int

    @property
    def names(self) -> set[str]:
        """The names of its resources."""
        return set(self.resources)


class StreamEnded(Exception):  # noqa: N818 - an end, not always an error
    """The server ended the stream."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


Request = TypeVar("Request", wire.DeltaDiscoveryRequest, wire.DiscoveryRequest)


class _Client(Generic[Request]):
    """Shared by both variants: one stream, its reader, the node in the first request."""

    def __init__(
        self,
        target: str | int,
        *,
        node_id: str = "n1",
        cluster: str = "c1",
        metadata: Mapping[str, Any] | None = None,
        locality: Mapping[str, str] | None = None,
        service: Service | str = ADS,
        method: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        options: Iterable[tuple[str, Any]] = (),
        node_always: bool = False,
        token: str | None = None,
    ) -> None:
        self.headers = () if token is None else (("authorization", f"Bearer {token}"),)
        address = f"127.0.0.1:{target}" if isinstance(target, int) else target
        all_options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1), *options]
        if credentials:
            self.channel = grpc.aio.secure_channel(address, credentials, options=all_options)
        else:
            self.channel = grpc.aio.insecure_channel(address, options=all_options)
        self.node = wire.Node(id=node_id, cluster=cluster, locality=wire.Locality(**(locality or {})))
        if metadata:
            described = json_format.ParseDict(dict(metadata), struct_pb2.Struct())
            self.node.metadata = described.SerializeToString()
        self.service = service if isinstance(service, Service) else Service(service, method or "", method, None)
        self.node_always = node_always
        self.requests_sent: list[Request] = []
        self.view: dict[str, dict[str, Held]] = {}
        self._responses: asyncio.Queue[bytes | StreamEnded] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None
        self._call: Any = None

    _method: str

    async def open(self) -> Self:
        """Open the stream. Nothing reaches the server before the first request."""
        multi = self.channel.stream_stream(f"/{self.service.name}/{self._method}")
        self._call = multi(metadata=self.headers or None)
        self._reader = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        # One task reads until the stream's end: grpc.aio cancels a call whose read() is cancelled.
        try:
            while (data := await self._call.read()) is not grpc.aio.EOF:
                self._responses.put_nowait(data)
            ended = StreamEnded(await self._call.code(), await self._call.details())
        except grpc.aio.AioRpcError as error:
            ended = StreamEnded(error.code(), error.details() or "")
        except asyncio.CancelledError:
            ended = StreamEnded(grpc.StatusCode.CANCELLED, "by this client")
        self._responses.put_nowait(ended)

    async def send(self, request: Request | bytes) -> None:
        """Send a request, or bytes that need not be one; the node is added to the first request."""
        if not isinstance(request, bytes):
            if (self.node_always or not self.requests_sent) and not request.HasField("node"):
                request.node.CopyFrom(self.node)
            self.requests_sent.append(request)
            request = request.SerializeToString()
        await write(self._call, request)  # if the stream has ended, ``next`` raises with its status

    async def next(self, timeout_s: float = TIMEOUT_S) -> Response:
        """Return the next response. Raises StreamEnded with the status, TimeoutError after ``timeout_s``."""
        async with asyncio.timeout(timeout_s):
            got = await self._responses.get()
        if isinstance(got, StreamEnded):
            self._responses.put_nowait(got)
            raise got
        return self._parse(got)

    async def take(self, timeout_s: float = TIMEOUT_S) -> Response:
        """Return the next response and ACK it."""
        response = await self.next(timeout_s)
        await self.ack(response)
        return response

    async def take_until(self, done: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> list[Response]:
        """ACK responses until ``done()`` is true, such as a condition on ``view``, and return them."""
        taken = []
        async with asyncio.timeout(timeout_s):
            while not done():
                taken.append(await self.take(timeout_s))
        return taken

    async def quiet(self, for_s: float = 0.1) -> None:
        """Assert that the server sends nothing for a while."""
        try:
            response = await self.next(for_s)
        except TimeoutError:
            return
        raise AssertionError(f"expected silence, got {response}")

    async def ended(self, timeout_s: float = TIMEOUT_S) -> StreamEnded:
        """Wait for the server to end the stream and return its status; responses before it are dropped."""
        try:
            while True:
                await self.next(timeout_s)
        except StreamEnded as end:
            return end

    async def finish(self) -> None:
        """Half-close the stream: no more requests will be sent."""
        await self._call.done_writing()

    async def close(self) -> None:
        """Cancel the stream and close the connection."""
        if self._call is not None:
            self._call.cancel()
        if self._reader is not None:
            await self._reader
        await self.channel.close()

    def versions(self, type_url: str) -> dict[str, str]:
        """Return name → version of a type's resources, for ``initial`` of a reconnecting client."""
        return {name: held.version for name, held in self.view.get(type_url, {}).items()}

    def bodies(self, type_url: str) -> dict[str, bytes]:
        """Return name → encoded resource of a type's resources."""
        return {name: held.body for name, held in self.view.get(type_url, {}).items()}

    def _parse(self, data: bytes) -> Response:
        raise NotImplementedError

    async def ack(self, response: Response) -> None:
        """Accept a response: apply it to ``view`` and send the ACK."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class DeltaClient(_Client[wire.DeltaDiscoveryRequest]):
    """A delta stream: ``async with DeltaClient(port) as client: await client.subscribe(CLUSTER)``."""

    @property
    def _method(self) -> str:
        return self.service.delta

    async def subscribe(
        self, type_url: str, *names: str, initial: Mapping[str, str] | None = None, nonce: str = ""
    ) -> None:
        """Subscribe to names, or, without names on a type's first request, to everything.

        ``initial`` are the versions of a reconnecting client.
        """
        await self.request(type_url, subscribe=names, initial=initial, nonce=nonce)

    async def unsubscribe(self, type_url: str, *names: str) -> None:
        """Unsubscribe from names."""
        await self.request(type_url, unsubscribe=names)

    async def request(
        self,
        type_url: str,
        *,
        subscribe: Iterable[str] = (),
        unsubscribe: Iterable[str] = (),
        initial: Mapping[str, str] | None = None,
        nonce: str = "",
        error: str | None = None,
    ) -> None:
        """Send one request with any of its parts; unsubscribed names are removed from ``view``."""
        made = wire.DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce)
        made.resource_names_subscribe.extend(subscribe)
        made.resource_names_unsubscribe.extend(unsubscribe)
        made.initial_resource_versions.update(initial or {})
        if error is not None:
            made.error_detail.CopyFrom(wire.Status(code=13, message=error))
        for name in made.resource_names_unsubscribe:
            self.view.get(type_url, {}).pop(name, None)
        await self.send(made)

    async def ack(self, response: Response) -> None:
        held = self.view.setdefault(response.type_url, {})
        for name, received in response.resources.items():
            if received.body is not None:
                held[name] = Held(received.version, received.body)
        for name in response.removed:
            held.pop(name, None)
        await self.request(response.type_url, nonce=response.nonce)

    async def nack(self, response: Response, message: str = "rejected by the test") -> None:
        """Reject a response; ``view`` is unchanged."""
        await self.request(response.type_url, nonce=response.nonce, error=message)

    def _parse(self, data: bytes) -> Response:
        said = wire.DeltaDiscoveryResponse.FromString(data)
        parsed = [_received(wire.Resource.FromString(one)) for one in said.resources]
        named = {received.name: received for received in parsed}
        assert len(named) == len(parsed), f"a name twice in one response: {[x.name for x in parsed]}"
        return Response(
            said.type_url, said.nonce, said.system_version_info, named, tuple(said.removed_resources), len(data)
        )


def _received(resource: wire.Resource) -> Received:
    body = resource.resource.value if resource.HasField("resource") else None
    ttl = resource.ttl.ToTimedelta().total_seconds() if resource.HasField("ttl") else None
    return Received(resource.name, resource.version, body, tuple(resource.aliases), ttl)


class SotwClient(_Client[wire.DiscoveryRequest]):
    """A state-of-the-world stream: ``subscribe`` sets the whole list of names of a type."""

    FULL_STATE = frozenset({r.CLUSTER, r.LISTENER})
    """Types whose responses are the full set, so that absence means removal."""

    def __init__(self, target: str | int, **options: Any) -> None:
        super().__init__(target, **options)
        self.names: dict[str, tuple[str, ...]] = {}
        self.accepted: dict[str, tuple[str, str]] = {}  # type URL → version last ACKed, nonce last received

    @property
    def _method(self) -> str:
        assert self.service.sotw, f"{self.service.name} has no state-of-the-world method"
        return self.service.sotw

    async def subscribe(self, type_url: str, *names: str, version: str | None = None, nonce: str | None = None) -> None:
        """Subscribe to exactly these names from now on. ``version`` is for a reconnecting client."""
        self.names[type_url] = names
        last_version, last_nonce = self.accepted.get(type_url, ("", ""))
        await self.request(
            type_url, last_version if version is None else version, last_nonce if nonce is None else nonce
        )

    async def request(self, type_url: str, version: str, nonce: str, error: str | None = None) -> None:
        """Send one request with the current names."""
        made = wire.DiscoveryRequest(type_url=type_url, version_info=version, response_nonce=nonce)
        made.resource_names.extend(self.names.get(type_url, ()))
        if error is not None:
            made.error_detail.CopyFrom(wire.Status(code=3, message=error))
        await self.send(made)

    async def ack(self, response: Response) -> None:
        held = {} if response.type_url in self.FULL_STATE else dict(self.view.get(response.type_url, {}))
        before = self.view.get(response.type_url, {})
        for name, received in response.resources.items():
            if received.body is not None:
                held[name] = Held(received.version, received.body)
            elif name in before:
                held[name] = before[name]
        self.view[response.type_url] = held
        self.accepted[response.type_url] = (response.version, response.nonce)
        await self.request(response.type_url, response.version, response.nonce)

    async def nack(self, response: Response, message: str = "rejected by the test") -> None:
        """Reject a response: the last accepted version with the new nonce; ``view`` is unchanged."""
        version = self.accepted.get(response.type_url, ("", ""))[0]
        self.accepted[response.type_url] = (version, response.nonce)
        await self.request(response.type_url, version, response.nonce, message)

    def _parse(self, data: bytes) -> Response:
        said = wire.DiscoveryResponse.FromString(data)
        parsed = [_received_sotw(one, said.version_info) for one in said.resources]
        named = {received.name: received for received in parsed}
        assert len(named) == len(parsed), f"a name twice in one response: {[x.name for x in parsed]}"
        return Response(said.type_url, said.nonce, said.version_info, named, (), len(data))


def _received_sotw(data: bytes, version: str) -> Received:
    packed = any_pb2.Any.FromString(data)
    if packed.type_url == RESOURCE_URL:  # wrapped, to carry a TTL
        inner = _received(wire.Resource.FromString(packed.value))
        return Received(inner.name, inner.version or version, inner.body, inner.aliases, inner.ttl_s)
    # Every resource type's name is its field 1, so any message with a string field 1 can decode it.
    return Received(wire.ControlPlane.FromString(packed.value).identifier, version, packed.value)
