"""What `xds nodes` costs with 10,000 nodes: all pages, from a process's sessions to the client's objects.

Prints CPU seconds and wall seconds of each step: pages made from all sessions, in two processes' hubs; pickled, merged
and unpickled as between workers and their parent; as gRPC messages; and read by the client. No sockets.
"""

import argparse
import pickle
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.micro import initial
from xds._generated import snapshots_pb2 as pb
from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest, Node
from xds.api.messages import node_messages
from xds.client.results import nodes_of
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.types import CLUSTER, ENDPOINTS, LISTENER, ROUTE
from xds.protocol.hub import Hub
from xds.protocol.paging import Sort, position_of
from xds.protocol.policy import Variant
from xds.protocol.status import NODES_MAX, NodesFound, NodesQuery, joined, nodes_page


def hub_of(numbers: range) -> Hub:
    """Return a hub with a node for each number, which subscribes to four types."""
    catalog = Catalog(check_references=False)
    catalog.apply(Changeset(upserts={"default": tuple(initial(100))}))
    hub = Hub(catalog, knows_type=lambda _: True)
    for number in numbers:
        stream = hub.open(Variant.DELTA)
        for type_url in (CLUSTER, ENDPOINTS, LISTENER, ROUTE):
            request = DeltaDiscoveryRequest(type_url=type_url, node=Node(id=f"sidecar-{number:06}", cluster="web"))
            hub.receive(stream, request.SerializeToString(), 1.0)
    return hub


class Spent:
    """CPU and wall seconds by step."""

    def __init__(self) -> None:
        self.steps: dict[str, tuple[float, float]] = {}

    @contextmanager
    def on(self, step: str) -> Iterator[None]:
        """Count what is spent inside."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        before = self.steps.get(step, (0.0, 0.0))
        self.steps[step] = before[0] + time.process_time() - cpu, before[1] + time.perf_counter() - wall


def pages(hubs: list[Hub], spent: Spent, *, types: bool) -> int:
    """Read all pages; return the number of nodes."""
    cursor, count = "", 0
    while True:
        query = NodesQuery(after=position_of(Sort.ID, cursor), limit=NODES_MAX, types=types)
        with spent.on("pages of the workers"):
            made = [nodes_page(hub.streams, query, 2.0) for hub in hubs]
        with spent.on("pickled and merged"):
            found: NodesFound = joined((pickle.loads(pickle.dumps(each)) for each in made), query)
        with spent.on("gRPC messages"):
            nodes = node_messages(found.nodes)
            data = pb.Nodes(nodes=nodes, next=found.after(query), total=found.total).SerializeToString()
        with spent.on("read by the client"):
            page = nodes_of(pb.Nodes.FromString(data))
        count, cursor = count + len(page.nodes), page.next
        if not cursor:
            return count


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    count = parser.parse_args().nodes
    hubs = [hub_of(range(first, count, 2)) for first in range(2)]
    for types in (False, True):
        spent = Spent()
        found = pages(hubs, spent, types=types)
        assert found == count, f"{found} of {count} nodes are on a page"
        print(f"{count:,} nodes, {'with' if types else 'without'} their types: CPU s, wall s")
        total = [sum(each[at] for each in spent.steps.values()) for at in range(2)]
        for step, (cpu, wall) in [*spent.steps.items(), ("in all", tuple(total))]:
            print(f"  {step:24} {cpu:6.3f} {wall:6.3f}")


if __name__ == "__main__":
    main()
