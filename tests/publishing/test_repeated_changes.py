"""A change that is made again with its id, while the entry of the first try is kept and not served yet."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from support import resources as r
from support.waiting import wait_until

from xds.publishing.changes import Change, Published
from xds.publishing.publisher import Publisher
from xds.schema.ingest import ingest
from xds.store.entries import Entry, State, Stored
from xds.store.errors import IdReusedError, OutcomeUnknownError, UnavailableError
from xds.store.memory import MemoryStore


def setting(name: str, port: int = 1, **more: object) -> Change:
    return Change(upserts={"default": (ingest(r.static_cluster(name, port)),)}, **more)  # type: ignore[arg-type]


ONCE = setting("a", id="once")
AGAIN = Published(revision=1, again=True)


class Untold(MemoryStore):
    """Keeps what it is given unless it ``refuses``; its watch tells of it once ``told`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.told = asyncio.Event()
        self.refuses = False

    async def append_all(self, entries: Sequence[Entry], expected_revision: int) -> int:
        if self.refuses:
            raise UnavailableError("the disk is full")
        return await super().append_all(entries, expected_revision)

    async def watch(self, after: int) -> AsyncIterator[Stored]:
        async for stored in super().watch(after):
            await self.told.wait()
            yield stored


@pytest.fixture
async def store(monkeypatch: pytest.MonkeyPatch) -> Untold:
    monkeypatch.setattr(Publisher.served_at, "__defaults__", (0.05,))  # who waited for it would soon give up
    return Untold()


async def kept_and_not_served(publisher: Publisher, change: Change) -> "asyncio.Future[Published]":
    answer = await publisher.submit(change)
    await wait_until(lambda: publisher._planned and publisher._planned[0].kept)
    return answer


async def test_it_is_acknowledged_once_it_is_served_however_long_that_takes(replica, store: Untold) -> None:
    publisher: Publisher = (await replica(store)).publisher
    first = await kept_and_not_served(publisher, ONCE)
    again = await publisher.submit(ONCE)
    await wait_until(lambda: again.done() or publisher._due)
    assert not again.done()
    store.told.set()
    assert (await again, (await first).again) == (AGAIN, False)


async def test_it_is_not_refused_with_a_change_beside_it_that_the_store_can_not_keep(replica, store: Untold) -> None:
    publisher: Publisher = (await replica(store)).publisher
    await kept_and_not_served(publisher, ONCE)
    store.refuses = True
    again, other = await publisher.submit(ONCE), await publisher.submit(setting("b"))
    with pytest.raises(UnavailableError, match="the disk is full"):
        await other
    assert not again.done()
    store.told.set()
    assert await again == AGAIN


async def test_it_is_not_refused_with_a_change_beside_it_that_fails_by_a_bug(
    replica, store: Untold, monkeypatch
) -> None:
    publisher: Publisher = (await replica(store)).publisher
    await kept_and_not_served(publisher, ONCE)
    monkeypatch.setattr(publisher, "_plan_all", lambda batch: 1 / 0)
    again, other = await publisher.submit(ONCE), await publisher.submit(setting("b"))
    with pytest.raises(ZeroDivisionError):
        await other
    assert not again.done()
    store.told.set()
    assert await again == AGAIN


class Overtaken(Untold):
    """Another replica keeps a change with the same id first: the same one, or another."""

    def __init__(self, *, is_same: bool) -> None:
        super().__init__()
        self._is_same = is_same

    async def append_all(self, entries: Sequence[Entry], expected_revision: int) -> int:
        if not await self.newest():
            (ours,) = entries
            await super().append_all([replace(ours, at_ms=7, request=ours.request if self._is_same else b"other")], 0)
        return await super().append_all(entries, expected_revision)


async def test_it_is_acknowledged_where_another_replica_kept_it_first(replica, store: Untold) -> None:
    overtaken = Overtaken(is_same=True)
    publisher: Publisher = (await replica(overtaken)).publisher
    again = await publisher.submit(ONCE)
    await wait_until(lambda: again.done() or publisher._due)
    assert not again.done()
    overtaken.told.set()
    assert await again == AGAIN


async def test_another_change_with_its_id_is_refused_where_another_replica_kept_it_first(replica, store) -> None:
    publisher: Publisher = (await replica(Overtaken(is_same=False))).publisher
    with pytest.raises(IdReusedError):
        await publisher.publish(ONCE)


async def test_it_is_acknowledged_when_the_server_stops(replica, store: Untold) -> None:
    publisher: Publisher = (await replica(store)).publisher
    await kept_and_not_served(publisher, ONCE)
    again = await publisher.submit(ONCE)
    await wait_until(lambda: again.done() or publisher._due)
    await publisher.stop()
    assert await again == AGAIN


async def test_its_outcome_is_unknown_where_the_log_is_replaced_before_it_is_served(replica, store: Untold) -> None:
    publisher: Publisher = (await replica(store)).publisher
    await kept_and_not_served(publisher, ONCE)
    again = await publisher.submit(ONCE)
    await wait_until(lambda: again.done() or publisher._due)
    publisher._begin_anew(State(0, {}))
    with pytest.raises(OutcomeUnknownError, match="replaced") as unknown:
        await again
    assert unknown.value.entry_id == "once"
