"""What encryption of the store costs: pushes of one change at a time, and a start, with and without a key, in turns.

``python bench/sealed_push.py`` prints the median CPU of the rounds and the range of their ratios.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from xds.store.entries import Entry, Key, State
from xds.store.keys import KeyRing, KeySource, new_key
from xds.store.sealed import SealedStore
from xds.store.sqlite import SqliteStore

TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
VALUE_BYTES = 700
"""About an assignment of ten endpoints."""


async def measure(directory: Path, ring: KeyRing, changes: int, batch: int) -> tuple[float, float]:
    """Return the microseconds of CPU per change, stored and read back, and per resource of a start."""
    store = SealedStore(await SqliteStore.open(directory / "store.db"), KeySource(), ring)
    watching, value = store.watch(0), b"x" * VALUE_BYTES
    started = time.process_time()
    for first in range(0, changes, batch):
        entries = [
            Entry(id=f"{number}", operations={Key("default", TYPE, f"a-{number}"): value})
            for number in range(first, first + batch)
        ]
        await store.append_all(entries, first)
        for _ in entries:
            await anext(watching)
    pushed = time.process_time() - started
    started = time.process_time()
    state: State = await store.state()
    read = time.process_time() - started
    await store.close()
    return 1e6 * pushed / changes, 1e6 * read / len(state.resources)


async def run(rounds: int, changes: int, batch: int) -> None:
    rings = {"in plain": KeyRing(), "encrypted": KeyRing((new_key(),))}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in rings}
    for _ in range(rounds):
        for name, ring in rings.items():
            with tempfile.TemporaryDirectory() as directory:
                found[name].append(await measure(Path(directory), ring, changes, batch))
    for at, what in enumerate((f"a change, in batches of {batch}", "a resource at the start")):
        medians = {name: statistics.median(each[at] for each in times) for name, times in found.items()}
        ratios = sorted(b[at] / a[at] for a, b in zip(*found.values(), strict=True))
        shown = ", ".join(f"{name} {median:.1f} µs" for name, median in medians.items())
        print(f"{what}: {shown}; ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--changes", type=int, default=2_000)
    parser.add_argument("--batch", type=int, default=20)
    given = parser.parse_args()
    asyncio.run(run(given.rounds, given.changes, given.batch))
