"""History is bounded by count, bytes and age; the newest state stays whatever its age."""

import time

from support.waiting import wait_until

from xds.publishing.retention import Retention
from xds.store.entries import Entry, Key, Store
from xds.store.memory import MemoryStore

A = Key("default", "type.googleapis.com/envoy.config.cluster.v3.Cluster", "a")


BYTES_MAX = 1_000_000


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
    retention = Retention(store, most=100, longest_s=3_600, bytes_max=BYTES_MAX)
    await retention.tidy()
    assert await store.kept() == (0, 109)
    await store.append(Entry(id="x", operations={A: b"x"}, at_ms=int(time.time() * 1000)))
    await retention.tidy()
    assert await store.kept() == (10, 110)


async def test_old_entries_are_removed_and_the_newest_state_never() -> None:
    store = await filled(60, old=50)
    await Retention(store, most=100, longest_s=3_600, bytes_max=BYTES_MAX).tidy()
    assert await store.kept() == (50, 60)
    store = await filled(20, old=20)
    await Retention(store, most=100, longest_s=3_600, bytes_max=BYTES_MAX).tidy()
    assert await store.kept() == (20, 20)
    assert (await store.state()).resources == {A: b"19"}


async def test_entries_beyond_the_bytes_are_removed_but_for_the_newest_state() -> None:
    store = MemoryStore()
    retention = Retention(store, most=100, longest_s=3_600, bytes_max=BYTES_MAX)

    async def add(number: int, size: int) -> None:
        at_ms = int(time.time() * 1000)
        await store.append(Entry(id=f"i{number}", operations={A: b"x" * (size - len(A.name))}, at_ms=at_ms))

    for number in range(10):
        await add(number, BYTES_MAX // 10)
    await retention.tidy()
    assert await store.kept() == (0, 10)
    await add(10, BYTES_MAX // 10)
    await retention.tidy()
    assert await store.kept() == (2, 11), "nine tenths stay, so that it need not be done with each change"
    await retention.tidy()
    assert await store.kept() == (2, 11)
    await add(11, 2 * BYTES_MAX)
    await retention.tidy()
    assert await store.kept() == (12, 12)
    assert len((await store.state()).resources[A]) == 2 * BYTES_MAX - len(A.name)
    await add(12, BYTES_MAX)
    await retention.tidy()
    assert await store.kept() == (12, 13), "what was removed counts no more"


async def test_bytes_are_counted_again_where_others_compact_or_restore() -> None:
    store = MemoryStore()
    retention = Retention(store, most=100, longest_s=3_600, bytes_max=BYTES_MAX)
    for number in range(8):
        await store.append(Entry(id=f"i{number}", operations={A: b"x" * (BYTES_MAX // 10)}, at_ms=1 << 50))
    await retention.tidy()
    for number in range(8, 16):
        await store.append(Entry(id=f"i{number}", operations={A: b"x" * (BYTES_MAX // 10)}, at_ms=1 << 50))
    await store.compact(10)
    await retention.tidy()
    assert await store.kept() == (10, 16)


async def test_it_runs_by_itself_while_entered() -> None:
    store = await filled(30)
    async with Retention(store, most=10, longest_s=3_600, bytes_max=BYTES_MAX, every_s=0.01):
        await wait_until(store.kept, equals=(20, 30))
