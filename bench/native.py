"""What the native transport and the core cost in Python, without the kernel: connections that write into a list.

For each of so many connections the steps of a delta ADS stream are timed one by one: connecting, the first request of
each type, its ACK. Then one endpoint assignment changes and goes to all of them, and each ACKs it. Tenths and medians
over all connections are shown, since a machine that does other things too spoils means.

    python bench/native.py [--streams 1000] [--clusters 100] [--pushes 60]
"""

import argparse
import asyncio
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import hpack
import uvloop
from serve import Workload

from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node
from xds.embed import ControlPlane, Settings
from xds.model.types import CLUSTER, ENDPOINTS, ROUTE
from xds.process.memory import settle_memory
from xds.reporting.logs import configure_logging
from xds.transport.http2 import frames as h2
from xds.transport.http2.grpc import framed
from xds.transport.native_connection import NativeConnection

PATH = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
HEAD = hpack.Encoder().encode(
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", PATH),
        (":authority", "xds"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
)
WINDOW = 1 << 20
HELLO = h2.PREFACE + h2.settings_frame([(h2.INITIAL_WINDOW_SIZE, WINDOW)]) + h2.window_update(0, 16 * WINDOW)


class Written(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data: list[bytes] = []

    def write(self, data: Any) -> None:
        self.data.append(bytes(data))

    def abort(self) -> None:
        """There is nothing to close."""


def request(type_url: str, **fields: Any) -> bytes:
    """Return a request as the DATA frame that it comes in."""
    return framed(1, DeltaDiscoveryRequest(type_url=type_url, **fields).SerializeToString())


class Sidecar:
    """A connection, with what its stream was sent."""

    def __init__(self, connection: NativeConnection) -> None:
        self.transport = Written()
        self.connection = connection
        connection.connection_made(self.transport)

    def acks(self, known: dict[bytes, bytes]) -> bytes:
        """Return the ACKs of the responses since the last call; equal ones are parsed once."""
        data = b"".join(self.transport.data)
        self.transport.data.clear()
        if data not in known:
            known[data] = b"".join(
                request(response.type_url, response_nonce=response.nonce) for response in responses_in(data)
            )
        return known[data]


def responses_in(data: bytes) -> list[DeltaDiscoveryResponse]:
    """Return the responses in a connection's bytes."""
    body = bytearray()
    while data:
        end = h2.HEADER_BYTES + int.from_bytes(data[:3], "big")
        if data[3] == h2.DATA:
            body += data[h2.HEADER_BYTES : end]
        data = data[end:]
    found = []
    while body:
        size = 5 + int.from_bytes(body[1:5], "big")
        found.append(DeltaDiscoveryResponse.FromString(bytes(body[5:size])))
        del body[:size]
    return found


class Bench:
    """The sidecars of one control plane, and how long each step took for each of them."""

    def __init__(self, control_plane: ControlPlane, workload: Workload, streams: int) -> None:
        self._control_plane = control_plane
        self._workload = workload
        self._streams = streams
        self._shared = control_plane._app._streams._transport._shared  # type: ignore[union-attr]
        self._known: dict[bytes, bytes] = {}
        self.sidecars: list[Sidecar] = []
        self.steps_s: dict[str, list[float]] = {}

    def _timed(self, step: str, do: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = do()
        self.steps_s.setdefault(step, []).append(time.perf_counter() - start)
        return result

    async def _all(self, step: str, data: Callable[[int], bytes]) -> None:
        for number, sidecar in enumerate(self.sidecars):
            sent = data(number)
            self._timed(step, lambda sidecar=sidecar, sent=sent: sidecar.connection.data_received(sent))
        while self._control_plane._app.hub.has_work:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)  # new clients take turns

    async def connect(self) -> None:
        """Bring every sidecar up to date, as an Envoy does it."""
        for _ in range(self._streams):
            self.sidecars.append(self._timed("connection", lambda: Sidecar(NativeConnection(self._shared))))
        opening = HELLO + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, HEAD)
        await self._all("preface, SETTINGS, HEADERS", lambda _: opening)
        await self._all("clusters", lambda n: request(CLUSTER, node=Node(id=f"node-{n:07}", cluster="bench")))
        names = [f"cluster-{number}" for number in range(self._workload.clusters)]
        acks = [sidecar.acks(self._known) for sidecar in self.sidecars]
        await self._all("endpoints", lambda _: request(ENDPOINTS, resource_names_subscribe=names))
        await self._all("ACK of clusters", acks.__getitem__)
        routes = [f"route-{number}" for number in range(self._workload.routes)]
        acks = [sidecar.acks(self._known) for sidecar in self.sidecars]
        await self._all("ACK of endpoints", acks.__getitem__)
        await self._all("routes", lambda _: request(ROUTE, resource_names_subscribe=routes))
        acks = [sidecar.acks(self._known) for sidecar in self.sidecars]
        await self._all("ACK of routes", acks.__getitem__)

    async def push(self) -> tuple[float, float]:
        """Change one assignment; return the seconds that its deliveries took a stream, and the ACKs."""
        change = self._workload.next_change()
        start = time.perf_counter()
        self._control_plane.apply(upsert=[change])
        while not all(sidecar.transport.data for sidecar in self.sidecars):
            await asyncio.sleep(0)
        sent_s = time.perf_counter() - start
        acks = [(sidecar.connection.data_received, sidecar.acks(self._known)) for sidecar in self.sidecars]
        start = time.perf_counter()
        for receive, ack in acks:
            receive(ack)
        return sent_s / len(acks), (time.perf_counter() - start) / len(acks)


def shown(name: str, seconds: list[float]) -> str:
    """Return a line of the table."""
    ordered = sorted(seconds)
    tenth, median = ordered[len(ordered) // 10], statistics.median(ordered)
    return f"{name:32} {tenth * 1e6:8.2f} {median * 1e6:8.2f}"


async def run(options: argparse.Namespace) -> None:
    """Measure and print the table."""
    workload = Workload(clusters=options.clusters, routes=10, endpoints=10)
    control_plane = ControlPlane(Settings(listen="127.0.0.1:0", admin="off", transport={"workers": 0}))
    control_plane.apply(upsert=workload.initial())
    settle_memory()
    async with control_plane:
        bench = Bench(control_plane, workload, options.streams)
        await bench.connect()
        gc.collect()
        pushes = [await bench.push() for _ in range(options.pushes)]
    print(f"{options.streams:,} streams, {options.clusters:,} clusters; µs a stream{'tenth':>10} {'median':>8}")
    for step, seconds in bench.steps_s.items():
        print(shown(step, seconds))
    print(shown("a change, delivered", [sent_s for sent_s, _ in pushes]))
    print(shown("its ACK", [ack_s for _, ack_s in pushes]))


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--pushes", type=int, default=60)
    configure_logging()
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
