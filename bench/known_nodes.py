"""The cost of known nodes: bytes per node, and microseconds per connect and disconnect in the table and its batches.

Run it as ``python -m bench.known_nodes``. A worker makes the events and encodes them; the parent notes them.
"""

import gc
import pickle
import statistics
import time
import tracemalloc

from xds.model.groups import Locality
from xds.registry.known_nodes import RECORD_BYTES, KnownNodes
from xds.registry.session_events import SessionBegan, SessionEnded, SessionEvent

NODES = 100_000
BATCH = 500


def events(first: int, count: int) -> list[SessionEvent]:
    """Return what a worker says of sessions that begin, as of new text each time."""
    place = Locality(region="eu-west-1", zone="b")
    return [
        SessionBegan(
            140_000_000_000_000 + 16 * number,
            1_795_974_000_000 + number,
            f"sidecar~10.0.{number // 250}.{number % 250}~web-{number}.shop~shop.svc.cluster.local",
            f"group-{number % 50}",
            "web.shop",
            f"10.0.{number // 250}.{number % 250}:41234",
            (f"spiffe://cluster.local/ns/shop/sa/web-{number % 100}",),
            "envoy 1.40.0",
            place,
        )
        for number in range(first, first + count)
    ]


def filled(known: KnownNodes) -> list[float]:
    """Note ``NODES`` sessions in batches as they come from a worker; return the seconds per event of each batch."""
    took = []
    for first in range(0, NODES, BATCH):
        made = events(first, BATCH)
        start = time.thread_time()
        data = pickle.dumps(made, pickle.HIGHEST_PROTOCOL)
        known.note(1, pickle.loads(data))
        took.append((time.thread_time() - start) / BATCH)
    return took


def main() -> None:
    """Print the figures."""
    tracemalloc.start()
    known = KnownNodes(nodes_max=NODES)
    filled(known)
    gc.collect()
    bytes_each = tracemalloc.get_traced_memory()[0] / NODES
    tracemalloc.stop()
    texts = known.size_bytes / NODES - RECORD_BYTES
    print(f"{NODES:,} connected nodes: {bytes_each:.0f} bytes each, of which {texts:.0f} characters of their texts")
    print(f"counted as {known.size_bytes / NODES:.0f} bytes each")
    known = KnownNodes(nodes_max=NODES)
    took = filled(known)
    last = [SessionEnded(140_000_000_000_000 + 16 * number, 1_795_975_000_000, 42, "why") for number in range(NODES)]
    ended = []
    for first in range(0, NODES, BATCH):
        start = time.thread_time()
        data = pickle.dumps(last[first : first + BATCH], pickle.HIGHEST_PROTOCOL)
        known.note(1, pickle.loads(data))
        ended.append((time.thread_time() - start) / BATCH)
    for what, times in (("a connect", took), ("a disconnect", ended)):
        tenth = statistics.quantiles(times, n=10)[0]
        print(f"{what}, encoded, decoded and noted: {1e6 * tenth:.1f} us (median {1e6 * statistics.median(times):.1f})")
    start = time.thread_time()
    known.forget(1_795_975_000_000 + 3_600_000)
    print(f"forgetting one: {1e6 * (time.thread_time() - start) / NODES:.1f} us")


if __name__ == "__main__":
    main()
