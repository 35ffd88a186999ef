"""Python's share alone of one rung: connections that write nowhere, no kernel, no event loop; one JSON line.

    python -m bench.ladder.alone --rung credit --streams 1000

Under a fleet the kernel runs through the caches between two steps of Python, so the same code costs more there. But
here a difference of 20 ns can be seen, which no fleet shows.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from bench.ladder import folding
from bench.ladder.rungs import RUNGS, switches_of
from bench.serve import Workload
from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node
from xds.fleet.http2 import opening
from xds.model.types import CLUSTER, ENDPOINTS, ROUTE
from xds.transport.http2 import frames as h2
from xds.transport.http2.grpc import framed

WINDOW_BYTES = 1 << 30


class Loop:
    """Runs what it is given when it is told to; its time is the real one."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.time = time.monotonic
        self.call_soon = self.soon.append

    def run(self) -> None:
        """Run until nothing is left."""
        while self.soon:
            self.soon.pop(0)()


class Nowhere:
    """A transport that keeps the last write alone."""

    def __init__(self) -> None:
        self.last = b""

    def write(self, data: bytes) -> None:
        self.last = data


class Acks:
    """What answers a write: the ACK of each response in it, worked out once for equal bytes."""

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}

    def of(self, data: bytes) -> bytes:
        """Return the ACKs of the responses in what was written."""
        if data not in self._known:
            body = b"".join(payload for kind, payload in _frames(data) if kind == h2.DATA)
            acks = b""
            while body:
                size = 5 + int.from_bytes(body[1:5], "big")
                response = DeltaDiscoveryResponse.FromString(body[5:size])
                acks += request(response.type_url, response_nonce=response.nonce)
                body = body[size:]
            self._known[data] = acks
        return self._known[data]


def _frames(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        stop = h2.HEADER_BYTES + int.from_bytes(data[:3], "big")
        found.append((data[3], data[h2.HEADER_BYTES : stop]))
        data = data[stop:]
    return found


def request(type_url: str, **fields: Any) -> bytes:
    """Return a request as the DATA frame that it comes in."""
    return framed(1, DeltaDiscoveryRequest(type_url=type_url, **fields).SerializeToString())


def measure(streams: int, clusters: int, pushes: int) -> dict[str, float]:
    """Connect so many, push to them, return µs: for a connect, a delivery and its ACK; medians over the pushes."""
    program = import_module("bench.ladder.program.main")
    hub = import_module("bench.ladder.program.hub").Hub(Loop())
    connection_class = import_module("bench.ladder.program.connection").Connection
    workload = Workload(clusters=clusters, routes=10, endpoints=10)
    hub.publish([program.change_of(item) for item in workload.initial()])
    acks = Acks()
    hello = opening(authority="xds", sotw=False, tls=False, window_bytes=WINDOW_BYTES)
    names = [f"cluster-{number}" for number in range(clusters)]
    endpoints = request(ENDPOINTS, resource_names_subscribe=names)
    routes = request(ROUTE, resource_names_subscribe=[f"route-{number}" for number in range(10)])
    firsts = [
        hello + request(CLUSTER, node=Node(id=f"node-{number:07}", cluster="c", user_agent_name="x"))
        for number in range(streams)
    ]
    gc.collect()
    gc.freeze()
    gc.disable()
    connections, connects = [], []
    for first in firsts:
        wire = Nowhere()
        started = time.perf_counter()
        connection = connection_class(hub)
        connection.connection_made(wire)
        connection.data_received(first)
        taken = time.perf_counter() - started
        for subscribe in (endpoints, routes, b""):
            said = subscribe + acks.of(wire.last)
            started = time.perf_counter()
            connection.data_received(said)
            taken += time.perf_counter() - started
        connections.append((connection, wire))
        connects.append(taken)
    deliveries, answers = [], []
    for _ in range(pushes):
        change = program.pushed(workload)
        started = time.perf_counter()
        hub.publish([change])
        hub.loop.run()
        deliveries.append((time.perf_counter() - started) / streams)
        said_by = [(connection.data_received, acks.of(wire.last)) for connection, wire in connections]
        started = time.perf_counter()
        for receive, said in said_by:
            receive(said)
        answers.append((time.perf_counter() - started) / streams)
    return {
        "alone.connect_us": statistics.median(connects) * 1e6,
        "alone.send_us": statistics.median(deliveries) * 1e6,
        "alone.ack_us": statistics.median(answers) * 1e6,
        "alone.cpu_us": (statistics.median(deliveries) + statistics.median(answers)) * 1e6,
    }


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rung", choices=[rung.name for rung in RUNGS], default=RUNGS[0].name)
    parser.add_argument("--way", default="")
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--pushes", type=int, default=100)
    options = parser.parse_args()
    folding.install(switches_of(options.rung, options.way))
    print(json.dumps(measure(options.streams, options.clusters, options.pushes)))


if __name__ == "__main__":
    main()
