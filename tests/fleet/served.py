"""Servers for the fleet to load, in this process: our own and a faulty one; each with a URL that triggers a push."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from fleet.build import assignment, cluster, delta
from support import resources as r

from xds._generated import xds_wire_pb2 as wire
from xds.address import Address
from xds.embed import ControlPlane, Settings
from xds.fleet.options import FleetOptions
from xds.model.types import CLUSTER, ENDPOINTS

NAMES = ("a", "b", "c")


@dataclass(frozen=True, slots=True)
class Served:
    """A server: its address, and the URL that triggers a push."""

    address: Address
    trigger: str
    control_plane: ControlPlane | None = None

    @property
    def ours(self) -> ControlPlane:
        """The control plane, if the server is our own."""
        assert self.control_plane is not None
        return self.control_plane

    def options(self, **options: Any) -> FleetOptions:
        """Return options for a fleet that connects to this server."""
        given = {"streams": (50,), "timeout_s": 20.0, "connects_in_flight_max": 20}
        return FleetOptions(server=self.address, **(given | {"trigger": self.trigger} | options))


def resources() -> list[r.Json]:
    """Return a few resources of each type, including a listener with routes."""
    made = [one for name in NAMES for one in (r.cluster(name), r.assignment(name, 1))]
    return [*made, r.listener("l", 10_000, "routes"), r.route("routes", "a")]


@asynccontextmanager
async def ours(**settings: Any) -> AsyncIterator[Served]:
    """Serve with our own control plane; each push changes the endpoints of cluster a."""
    made = Settings.model_validate({"listen": "127.0.0.1:0", "admin": "off", **settings})
    async with ControlPlane(made) as control_plane:
        control_plane.replace({"default": resources()})
        pushed = 0

        async def push() -> None:
            nonlocal pushed
            pushed += 1
            control_plane.apply(upsert=[r.assignment("a", 1 + pushed)])

        async with http_trigger(push) as url:
            assert control_plane.address is not None
            yield Served(control_plane.address, url, control_plane)


@asynccontextmanager
async def http_trigger(push: Callable[[], Awaitable[None]], status: str = "200 OK") -> AsyncIterator[str]:
    """Serve a URL that calls ``push`` on each GET."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while (await reader.readline()).strip():
                pass
            await push()
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/push"


class ForgetfulServer:
    """A delta ADS server that sends some nodes an old assignment when it sends all others the new one."""

    def __init__(self, *, forgets: tuple[str, ...] = (), silent: tuple[str, ...] = ()) -> None:
        self.forgets, self.silent = forgets, silent
        self._port = 1
        self._streams: dict[str, asyncio.Queue[bytes]] = {}

    async def push(self) -> None:
        """Change the assignment, and send it."""
        self._port += 1
        for node_id, queue in self._streams.items():
            if node_id not in self.silent:
                port = 1 if node_id in self.forgets else self._port
                queue.put_nowait(self._assignment(port, version=str(port)))

    def _assignment(self, port: int, version: str) -> bytes:
        return delta(ENDPOINTS, {"a": (version, assignment("a", port))}, nonce=f"e{port}")

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Serve one stream."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        reading = asyncio.create_task(self._read(requests, queue))
        try:
            while True:
                yield await queue.get()
        finally:
            reading.cancel()

    async def _read(self, requests: AsyncIterator[bytes], queue: asyncio.Queue[bytes]) -> None:
        async for encoded in requests:
            request = wire.DeltaDiscoveryRequest.FromString(encoded)
            if request.node.id:
                self._streams[request.node.id] = queue
            if request.response_nonce:
                continue
            if request.type_url == CLUSTER:
                queue.put_nowait(delta(CLUSTER, {"a": ("1", cluster("a"))}, nonce="c"))
            else:
                queue.put_nowait(self._assignment(self._port, version=str(self._port)))


@asynccontextmanager
async def forgetful(**options: Any) -> AsyncIterator[Served]:
    """Serve with a server that sends some nodes an old assignment, or nothing."""
    made = ForgetfulServer(**options)
    server = grpc.aio.server()
    methods = {"DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(made.stream)}
    service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with http_trigger(made.push) as url:
            yield Served(Address("127.0.0.1", port), url)
    finally:
        await server.stop(0)
