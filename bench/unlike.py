"""What fleets cost that are not alike, in the pure core without sockets: µs of CPU a message and its answer.

- ``subscriptions``: each stream subscribes to another 90 of 100 assignments, one of which changes at a time;
- ``versions``: each stream says that it has another version of one resource (in µs a stream that connects);
- ``delays``: clusters, assignments and routes change, and each answer comes after a time by chance;
- ``rejections``: each stream rejects every other response with clusters.

Revisions are compared by ``python -m bench.in_turns --before REV --rows unlike``, each with its own of this file.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.micro import initial, resource
from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.resource import Reference, Resource
from xds.model.types import CLUSTER, ENDPOINTS, ROUTE
from xds.protocol.hub import Hub
from xds.protocol.policy import Variant

CLUSTERS = 100
NAMES = [f"cluster-{number}" for number in range(CLUSTERS)]
ROUTES = [f"route-{number}" for number in range(0, CLUSTERS, 10)]


class Unlike:
    """A hub with streams whose answers wait until they are called for."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(f"unlike {seed}")
        self.catalog = Catalog()
        self.hub = Hub(self.catalog, knows_type=lambda type_url: True)
        self.now = 1_000.0
        self.publish(*initial(CLUSTERS))
        self.streams: list = []
        self.waiting: list[tuple[object, bytes]] = []
        self.spent_s = 0.0
        self.messages = 0
        self.rejects: Callable[[str], bool] = lambda _: False

    def timed(self, work: Callable[..., object], *arguments: object) -> object:
        """Do something of the hub's, and count the time."""
        began = time.process_time()
        done = work(*arguments)
        self.spent_s += time.process_time() - began
        return done

    def publish(self, *changed: Resource) -> None:
        """Change resources of the one group."""
        applied = self.catalog.apply(Changeset(upserts={"default": changed}))
        if hasattr(self, "streams"):
            self.timed(self.hub.publish, applied)
        else:
            self.hub.publish(applied)

    def say(self, stream: object, request: DeltaDiscoveryRequest) -> None:
        """Have a stream say something."""
        self.timed(self.hub.receive, stream, request.SerializeToString(), self.now)

    def deliver(self) -> None:
        """Poll what is ready; note the answers."""
        while ready := self.timed(self.hub.take_ready):
            for stream in ready:  # type: ignore[attr-defined]
                while (part := self.timed(self.hub.poll, stream, self.now)) is not None:
                    self.messages += 1
                    response = DeltaDiscoveryResponse.FromString(part.message)  # type: ignore[attr-defined]
                    answer = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
                    if self.rejects(response.type_url):
                        answer.error_detail.CopyFrom(Status(code=13, message="no"))
                    self.waiting.append((stream, answer.SerializeToString()))

    def answer(self, share: float = 1.0) -> None:
        """Give so large a share of the answers, those that come first by chance; deliver what follows, and so on."""
        self.deliver()
        while self.waiting:
            mine, self.waiting = self.waiting, []
            later = []
            for stream, answer in mine:
                if self.chance.random() < share:
                    self.timed(self.hub.receive, stream, answer, self.now)
                else:
                    later.append((stream, answer))
            self.deliver()
            self.waiting = later + self.waiting
            if share < 1:
                return

    def connect(self, names: list[str], have: dict[str, str] | None = None) -> None:
        """Open a stream that subscribes as an Envoy does, and let it have all."""
        stream = self.timed(self.hub.open, Variant.DELTA)
        node = Node(id=f"n{len(self.streams)}", cluster="c")
        self.streams.append(stream)
        clusters = DeltaDiscoveryRequest(type_url=CLUSTER, node=node)
        for name, version in (have or {}).items():
            clusters.initial_resource_versions[name] = version
        self.say(stream, clusters)
        self.say(stream, DeltaDiscoveryRequest(type_url=ENDPOINTS, resource_names_subscribe=names))
        self.say(stream, DeltaDiscoveryRequest(type_url=ROUTE, resource_names_subscribe=ROUTES))
        self.answer()

    def fresh(self) -> None:
        """Begin to count."""
        gc.collect()
        self.spent_s, self.messages = 0.0, 0


def subscriptions(streams: int, changes: int) -> float:
    """Return the µs a message and its answer."""
    fleet = Unlike(1)
    for _ in range(streams):
        fleet.connect(fleet.chance.sample(NAMES, 90))
    fleet.fresh()
    for number in range(changes):
        fleet.publish(resource(ENDPOINTS, NAMES[number * 7 % CLUSTERS], number + 1))
        fleet.answer()
    return 1e6 * fleet.spent_s / fleet.messages


def versions(streams: int, _changes: int) -> float:
    """Return the µs a stream that connects."""
    fleet = Unlike(2)
    have = dict.fromkeys(NAMES, f"{0:016x}")
    fleet.fresh()
    for number in range(streams):
        fleet.connect(NAMES, have | {NAMES[number % CLUSTERS]: f"old-{number}"})
    return 1e6 * fleet.spent_s / streams


def delays(streams: int, changes: int) -> float:
    """Return the µs a message and its answer."""
    fleet = Unlike(3)
    for _ in range(streams):
        fleet.connect(NAMES)
    fleet.fresh()
    for number in range(changes):
        name = NAMES[number * 7 % CLUSTERS]
        changed = (
            resource(ENDPOINTS, name, number + 1),
            resource(CLUSTER, name, number + 1, Reference(ENDPOINTS, name)),
            resource(ROUTE, ROUTES[number % len(ROUTES)], number + 1, Reference(CLUSTER, name)),
        )[number % 3]
        fleet.publish(changed)
        fleet.now += 0.05
        fleet.answer(0.3)
    fleet.answer()
    return 1e6 * fleet.spent_s / fleet.messages


def rejections(streams: int, changes: int) -> float:
    """Return the µs a message and its answer."""
    fleet = Unlike(4)
    for _ in range(streams):
        fleet.connect(NAMES)
    fleet.fresh()
    fleet.rejects = lambda type_url: type_url == CLUSTER and fleet.chance.random() < 0.5
    for number in range(changes):
        name = NAMES[number * 7 % CLUSTERS]
        fleet.publish(resource(CLUSTER, name, number + 1, Reference(ENDPOINTS, name)))
        fleet.answer()
    return 1e6 * fleet.spent_s / fleet.messages


FLEETS = {each.__name__: each for each in (subscriptions, versions, delays, rejections)}


def main() -> int:
    """Measure and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--changes", type=int, default=20)
    options = parser.parse_args()
    for name, measure in FLEETS.items():
        print(f"{name} {measure(options.streams, options.changes):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
