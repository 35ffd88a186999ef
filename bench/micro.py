"""What one change costs in the pure core: no sockets, no event loop, so what is measured is the model and the protocol.

For each number of resources, so many delta ADS streams subscribe to everything as an Envoy does, and ACK it. Then one
endpoint assignment changes: it is checked against the catalog, published, polled by every stream and ACKed by each.
Run ``python bench/micro.py --help``. The cost must not grow with the number of resources; see ARCHITECTURE.md.
"""

import argparse
import gc
import platform
import statistics
import sys
import time
from collections.abc import Iterator

from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest, Node
from xds._generated.xds_wire_pb2 import Resource as WireResource
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.resource import Reference, Resource
from xds.model.types import CLUSTER, ENDPOINTS, ROUTE
from xds.protocol.hub import Hub
from xds.protocol.policy import Variant
from xds.protocol.sessions import Stream
from xds.version import __version__

BODY_BYTES = 200
FLAT_WITHIN = 2.0


def resource(type_url: str, name: str, version: int, *references: Reference) -> Resource:
    """Return a resource with a body of the size of a small endpoint assignment."""
    wire = WireResource(name=name, version=f"{version:016x}")
    wire.resource.type_url = type_url
    wire.resource.value = version.to_bytes(8, "big") * (BODY_BYTES // 8)
    return Resource(
        type_url=type_url, name=name, version=wire.version, encoded=wire.SerializeToString(), references=references
    )


def initial(count: int) -> Iterator[Resource]:
    """Yield ``count`` clusters, as many assignments, and a route for every tenth cluster."""
    for number in range(count):
        name = f"cluster-{number}"
        yield resource(CLUSTER, name, 0, Reference(ENDPOINTS, name))
        yield resource(ENDPOINTS, name, 0)
        if number % 10 == 0:
            yield resource(ROUTE, f"route-{number}", 0, Reference(CLUSTER, name))


class Fleet:
    """A hub with streams that subscribe to all there is and accept whatever they are sent."""

    def __init__(self, resources: int, streams: int) -> None:
        self.resources = resources
        self.catalog = Catalog()
        self.hub = Hub(self.catalog, knows_type=lambda type_url: True)
        self.hub.publish(self.catalog.apply(Changeset(upserts={"default": tuple(initial(resources))})))
        self.streams = [self.hub.open(Variant.DELTA) for _ in range(streams)]
        self.node = Node(id="n", cluster="c")
        self.deliveries = 0
        names = [f"cluster-{number}" for number in range(resources)]
        requests = (
            DeltaDiscoveryRequest(type_url=CLUSTER, node=self.node).SerializeToString(),
            DeltaDiscoveryRequest(type_url=ENDPOINTS, resource_names_subscribe=names).SerializeToString(),
            DeltaDiscoveryRequest(
                type_url=ROUTE, resource_names_subscribe=[f"route-{n}" for n in range(0, resources, 10)]
            ).SerializeToString(),
        )
        for stream in self.streams:
            for request in requests:
                self.hub.receive(stream, request, 0.0)
            self.deliver()

    def deliver(self) -> None:
        """Poll every stream that is ready, and ACK what it is sent, until nothing is left to say."""
        acks: dict[str, bytes] = {}
        while ready := self.hub.take_ready():
            for stream in ready:
                while (part := self.hub.poll(stream, 0.0)) is not None:
                    self.deliveries += 1
                    self._ack(stream, part.nonce, acks)

    def _ack(self, stream: Stream, nonce: str, acks: dict[str, bytes]) -> None:
        ack = acks.get(nonce)
        if ack is None:
            (type_url,) = [url for url, s in stream.states.items() if s.outstanding and s.outstanding.nonce == nonce]
            ack = acks[nonce] = DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce).SerializeToString()
        self.hub.receive(stream, ack, 0.0)

    def change(self, number: int) -> float:
        """Change one assignment and bring every stream up to date; return the seconds it took."""
        name = f"cluster-{number * 7919 % self.resources}"
        changed = resource(ENDPOINTS, name, number + 1)
        start = time.perf_counter()
        self.hub.publish(self.catalog.apply(Changeset(upserts={"default": (changed,)})))
        self.deliver()
        return time.perf_counter() - start


def connected(resources: int, streams: int) -> tuple[Fleet, float]:
    """Return a fleet whose streams have everything, and the seconds that took a stream."""
    start = time.perf_counter()
    fleet = Fleet(resources, streams)
    return fleet, (time.perf_counter() - start) / streams


def measure(fleets: list[Fleet], changes: int) -> list[list[float]]:
    """Return the seconds that each change took in each fleet. They take turns, so that all see the same machine."""
    gc.collect()
    gc.freeze()
    before = [fleet.deliveries for fleet in fleets]
    rounds = [[fleet.change(number) for fleet in fleets] for number in range(changes)]
    gc.unfreeze()
    for fleet, count in zip(fleets, before, strict=True):
        assert fleet.deliveries - count == changes * len(fleet.streams), "every change reaches every stream once"
    return [list(took) for took in zip(*rounds, strict=True)]


def main() -> int:
    """Measure, print the table, and fail if the cost of a change is not flat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resources", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--changes", type=int, default=30)
    options = parser.parse_args()
    print(f"xds {__version__}, Python {platform.python_version()}, {platform.machine()}, {options.streams} streams\n")
    made = [connected(resources, options.streams) for resources in options.resources]
    measured = measure([fleet for fleet, _ in made], options.changes)
    print(f"{'resources':>10} {'change p50':>12} {'change max':>12} {'per delivery':>13} {'connect':>14} {'ratio':>6}")
    medians = [statistics.median(took) for took in measured]
    for (fleet, connect_s), took, median_s in zip(made, measured, medians, strict=True):
        print(
            f"{fleet.resources:>10,} {median_s * 1e3:>9.2f} ms {max(took) * 1e3:>9.2f} ms "
            f"{median_s / options.streams * 1e6:>10.2f} µs {connect_s * 1e6:>11.0f} µs {median_s / medians[0]:>6.2f}"
        )
    ratio = max(medians) / min(medians)
    print(f"\nslowest / fastest: {ratio:.2f} (to be within {FLAT_WITHIN:g})")
    return 0 if ratio <= FLAT_WITHIN else 1


if __name__ == "__main__":
    sys.exit(main())
