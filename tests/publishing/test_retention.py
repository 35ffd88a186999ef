"""History is bounded by count and by age; the newest state stays whatever its age."""

import time

from support.waiting import wait_until

from xds.publishing.retention import Retention
from xds.store.entries import Entry, Key, Store
from xds.store.memory import MemoryStore

A = Key("default", "type.googleapis.com/envoy.config.cluster.v3.Cluster", "a")


async def filled(count: int, *, old: int = 0) -> Store:
    """Return a store with ``count`` entries, of which the first ``old`` are two hours old."""
    store = MemoryStore()
    now = int(time.time() * 1000)
    for number in range(count):
        at_ms = now - 7_200_000 if number < old else now
        await store.append(Entry(id=f"i{number}", operations={A: b"%d" % number}, at_ms=at_ms))
    return store


async def test_entries_beyond_the_limit_are_removed_once_they_are_a_tenth_of_it() -> None:
    store = await filled(109)
    retention = Retention(store, most=100, longest_s=3_600)
    await retention.tidy()
    assert await store.kept() == (0, 109)
    await store.append(Entry(id="x", operations={A: b"x"}, at_ms=int(time.time() * 1000)))
    await retention.tidy()
    assert await store.kept() == (10, 110)


async def test_old_entries_are_removed_and_the_newest_state_never() -> None:
    store = await filled(60, old=50)
    await Retention(store, most=100, longest_s=3_600).tidy()
    assert await store.kept() == (50, 60)
    store = await filled(20, old=20)
    await Retention(store, most=100, longest_s=3_600).tidy()
    assert await store.kept() == (20, 20)
    assert (await store.state()).resources == {A: b"19"}


async def test_it_runs_by_itself_while_entered() -> None:
    store = await filled(30)
    async with Retention(store, most=10, longest_s=3_600, every_s=0.01):
        await wait_until(store.kept, equals=(20, 30))
