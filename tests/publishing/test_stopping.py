"""Stopping answers all pending changes, whichever step they are at."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from support import resources as r
from support.waiting import turns, wait_until

from tests.publishing.behind import Behind, Log
from xds.publishing.changes import Change, Published
from xds.publishing.publisher import Publisher
from xds.schema.ingest import ingest
from xds.store.entries import Entry
from xds.store.errors import OutcomeUnknownError, StoreError, UnavailableError
from xds.store.memory import MemoryStore

ANSWER_S = 5


def setting(name: str, **more: object) -> Change:
    return Change(upserts={"default": (ingest(r.static_cluster(name, 1)),)}, **more)  # type: ignore[arg-type]


class Silent(MemoryStore):
    """Does not answer calls of the method that ``silent`` names."""

    def __init__(self) -> None:
        super().__init__()
        self.silent = ""
        self.asked = asyncio.Event()

    async def _answer(self, what: str) -> None:
        if what == self.silent:
            self.asked.set()
            await asyncio.Event().wait()

    async def append_all(self, entries: Sequence[Entry], expected_revision: int) -> int:
        await self._answer("append")
        return await super().append_all(entries, expected_revision)

    async def newest(self) -> int:
        await self._answer("newest")
        return await super().newest()

    async def find(self, ids):
        await self._answer("find")
        return await super().find(ids)


async def outcome(answer: "asyncio.Future[Published]") -> Published | BaseException:
    async with asyncio.timeout(ANSWER_S):
        return (await asyncio.gather(answer, return_exceptions=True))[0]


async def test_a_change_that_waits_to_be_merged_is_refused(replica) -> None:
    one = await replica()
    waiting = asyncio.create_task(one.publisher.publish(setting("a", mergeable=True)))
    await wait_until(lambda: one.publisher._taken, poll_s=0)  # a moment that nothing tells of
    await one.publisher.stop()
    assert isinstance(await outcome(waiting), UnavailableError)


@pytest.mark.parametrize(
    ("silent", "change", "expected"),
    [
        ("find", setting("b", id="x"), UnavailableError),
        ("newest", setting("a"), UnavailableError),
        ("newest", setting("a", expected_revision=7), UnavailableError),
        ("append", setting("b"), OutcomeUnknownError),
    ],
    ids=["looked up", "unchanged", "refused", "on its way"],
)
async def test_changes_are_answered_whichever_call_of_the_store_is_pending(
    replica, silent: str, change: Change, expected: type[StoreError]
) -> None:
    store = Silent()
    one = await replica(store)
    await one.publisher.publish(setting("a"))
    store.silent = silent
    answers = [await one.publisher.submit(change), await one.publisher.submit(replace(change))]
    await store.asked.wait()
    answers.append(await one.publisher.submit(setting("e")))
    await one.publisher.stop()
    outcomes = [await outcome(answer) for answer in answers]
    assert isinstance(outcomes[0], expected)
    assert all(isinstance(each, UnavailableError | OutcomeUnknownError) for each in outcomes)


async def test_what_is_kept_and_not_served_yet_is_acknowledged(replica, log: Log) -> None:
    store = Behind(log)
    publisher: Publisher = (await replica(store)).publisher
    store.told.clear()
    store.tells_once_asked = False
    answers = [await publisher.submit(setting("a")) for _ in range(2)]  # the second finds nothing left to do
    await wait_until(log.kept.newest, equals=1, poll_s=0)
    assert publisher.revision == 0
    await publisher.stop()
    found = [await outcome(answer) for answer in answers]
    assert [each.revision for each in found if isinstance(each, Published)] == [1, 1]


async def test_changes_that_wait_for_room_and_later_ones_are_refused(replica) -> None:
    store = Silent()
    reached: list[str] = []
    one = await replica(store, pending_max=3, on_limit=reached.append)
    store.silent = "append"
    calls = [asyncio.create_task(one.publisher.publish(setting(f"c{number}"))) for number in range(20)]
    await store.asked.wait()
    await wait_until(one.publisher._waiting.full, poll_s=0)  # a moment that nothing tells of
    await one.publisher.stop()
    for call in calls:
        assert isinstance(await outcome(call), UnavailableError | OutcomeUnknownError)
    with pytest.raises(UnavailableError):
        await one.publisher.publish(setting("late"))
    assert "pending_changes" in reached


async def test_waiting_for_a_revision_ends_with_an_error(replica) -> None:
    one = await replica()
    task = asyncio.create_task(one.publisher.served_at(9))
    await turns()
    await one.publisher.stop()
    async with asyncio.timeout(ANSWER_S):
        with pytest.raises(UnavailableError, match="going down"):
            await task
