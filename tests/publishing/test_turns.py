"""Endpoints do not wait for hundreds of other changes: these are made in short batches, which endpoints begin."""

import asyncio
from typing import Any

import pytest
from support import resources as r

from xds.publishing import publisher as module
from xds.publishing.batch import Waiting, endpoints_first
from xds.publishing.changes import Change
from xds.publishing.edits import PutGroup
from xds.schema.ingest import ingest
from xds.store.errors import OutcomeUnknownError, UnavailableError
from xds.store.memory import MemoryStore


def endpoints(name: str, group: str = "default") -> Change:
    return Change(upserts={group: (ingest(r.assignment(name, 1)),)}, mergeable=True)


def group(name: str) -> Change:
    return Change(edit=PutGroup(name, None))


def cluster(name: str) -> Change:
    return Change(upserts={"default": (ingest(r.static_cluster(name, 1)),)})


def order(*changes: Change) -> list[Change]:
    loop: Any = asyncio.get_running_loop()
    waiting = [Waiting(each, loop.create_future()) for each in changes]
    return [each.change for each in endpoints_first(waiting, {"default", "other"})]


async def test_endpoints_pass_changes_of_other_groups_only_and_stay_in_order_among_themselves() -> None:
    first, second, theirs, new = endpoints("a"), endpoints("a"), endpoints("b", "other"), endpoints("c", "new")
    edit, ours = group("g"), cluster("x")
    assert order(edit, first, second) == [first, second, edit]
    assert order(edit, ours, first, theirs) == [theirs, edit, ours, first]
    assert order(group("default"), first) != [first, group("default")]
    assert order(edit, new) == [edit, new]  # what waits may make its group
    assert order(first, ours, second, edit, theirs) == [first, theirs, ours, second, edit]


async def test_endpoints_that_come_while_others_wait_are_made_with_the_next_batch(
    replica: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLANS_S", 0.0)
    store = Halting()
    one = await replica(store)
    edits = [await one.publisher.submit(group(f"g{number}")) for number in range(20)]
    await store.halted.wait()
    pushed = await one.publisher.submit(endpoints("a"))
    store.goes_on.set()
    assert (await pushed).revision == 2
    made = [each.revision for each in await asyncio.gather(*edits)]
    assert made == sorted(made)
    assert made[-1] == 21


class Halting(MemoryStore):
    """Waits before it keeps what it is given until ``goes_on`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.halted, self.goes_on = asyncio.Event(), asyncio.Event()

    async def append_all(self, entries: Any, expected_revision: int) -> int:
        self.halted.set()
        await self.goes_on.wait()
        return await super().append_all(entries, expected_revision)


class Refusing(MemoryStore):
    """Refuses what it is given, once, with an error."""

    error: Exception | None = None

    async def append_all(self, entries: Any, expected_revision: int) -> int:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return await super().append_all(entries, expected_revision)


@pytest.mark.parametrize(("error", "refused"), [(UnavailableError("away"), 5), (OutcomeUnknownError("id", "?"), 1)])
async def test_changes_that_were_not_tried_fail_with_their_batch_only_where_the_store_is_away(
    error: Exception, refused: int, replica: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLANS_S", 0.0)
    store = Refusing()
    one = await replica(store)
    store.error = error
    edits = [await one.publisher.submit(group(f"g{number}")) for number in range(5)]
    outcomes = await asyncio.gather(*edits, return_exceptions=True)
    assert sum(isinstance(each, type(error)) for each in outcomes) == refused
    assert sum(isinstance(each, Exception) for each in outcomes) == refused
