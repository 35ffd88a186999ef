"""Changes on their way into the store, and out of it to whoever serves. It does not know what a change's author is.

One task writes: it takes what waits, plans it change by change beside the state that will be there by then, and has
the store keep all of it in one go. Another follows the store and serves each entry, whoever wrote it, in order. So what
is served is what is kept, a slow disk makes batches larger instead of queues longer, and other writers are no special
case.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from uuid import uuid4

import structlog

from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.problem import ChangesetRejectedError
from xds.publishing.changes import Change, KeptElsewhereError, Published, UnknownGroupError, check
from xds.publishing.codec import changeset_of_entry, changeset_of_state
from xds.publishing.plan import Plan, digest_of, merged, plan
from xds.store.entries import State, Store, Stored
from xds.store.errors import (
    CompactedError,
    ConflictError,
    EpochChangedError,
    IdReusedError,
    OutcomeUnknownError,
    StoreError,
    UnavailableError,
)

log = structlog.get_logger("xds")
WAITING_MAX = 10_000
BATCH_MAX = 500
PLANS_A_TURN = 20
"""Changes that are planned before the event loop gets its turn."""
MERGE_S = 0.002
"""How long changes that may share a revision wait for others: each costs the store, and every worker, as much."""
CONFLICT_S = 10.0
"""How long other writers may be first, again and again, before a change is given up."""
RETRY_MIN_S, RETRY_MAX_S = 0.1, 5.0
REFUSALS = (ChangesetRejectedError, ConflictError, KeptElsewhereError, UnknownGroupError)


@dataclass(slots=True, eq=False)
class _Waiting:
    change: Change
    answer: "asyncio.Future[Published]"

    def refuse(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def accept(self, published: Published) -> None:
        if not self.answer.done():
            self.answer.set_result(published)


@dataclass(frozen=True, slots=True)
class _Planned:
    """A plan, and those that wait for it: several, where their changes were merged."""

    plan: Plan
    waiting: list[_Waiting]

    def refuse(self, error: Exception) -> None:
        for each in self.waiting:
            each.refuse(error)

    def accept(self) -> None:
        for each in self.waiting:
            each.accept(self.plan.published)


class Publisher:
    """Publishes changes between ``start`` and ``stop``. ``serve`` is given each revision's changeset, in order.

    ``served`` is the catalog that ``serve`` applies them to; it is only read here.
    """

    def __init__(self, store: Store, served: Catalog, serve: Callable[[Changeset, int], None]) -> None:
        self.store = store
        self._served = served
        self._serve = serve
        self._head = Catalog()
        self._behind: deque[tuple[int, Changeset]] = deque()
        self._planned: dict[str, _Planned] = {}
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue(WAITING_MAX)
        self._moved = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._writing = False
        self._offset = 0
        self.revision = 0
        self.stale_because = ""
        """Why the store can't be followed just now, "" if it can."""

    # --- Life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Serve what the store has, then follow it and take changes. Raises StoreError."""
        state = await self.store.state()
        self._take_whole(changeset_of_state(state), state.revision)
        self._tasks = [asyncio.create_task(self._follow(), name="follow"), asyncio.create_task(self._write_all())]

    async def stop(self) -> None:
        """Refuse what waits, and let go of the store. What is kept already stays kept."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        gone = UnavailableError("this control plane is going down; try again with the same id")
        while not self._waiting.empty():
            self._waiting.get_nowait().refuse(gone)
        for entry_id, planned in self._planned.items():
            planned.refuse(OutcomeUnknownError(entry_id, "this control plane went down"))
        self._planned.clear()
        await self.store.close()

    async def publish(self, change: Change) -> Published:
        """Make a change, and return once it is kept and served.

        Raises ChangesetRejectedError with every problem, KeptElsewhereError, UnknownGroupError and every StoreError.
        Whoever stops waiting does not stop the change.
        """
        return await asyncio.shield(await self.submit(change))

    async def submit(self, change: Change) -> "asyncio.Future[Published]":
        """Take a change in, after all that came before it, and return what will be its outcome; see ``publish``.

        Waits while too many others do. Raises ChangesetRejectedError.
        """
        check(change)
        waiting = _Waiting(change, asyncio.get_running_loop().create_future())
        await self._waiting.put(waiting)
        return waiting.answer

    async def served_at(self, revision: int, within_s: float = CONFLICT_S) -> None:
        """Return once a revision is served. Raises UnavailableError where that takes too long."""
        try:
            async with asyncio.timeout(within_s):
                while self.revision < revision:
                    await self._moved.wait()
        except TimeoutError:
            why = self.stale_because or "the store is slow"
            raise UnavailableError(f"revision {revision} is kept but not served after {within_s:g} s: {why}") from None

    # --- From the store ----------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        pause_s = RETRY_MIN_S
        while True:
            try:
                async for stored in self.store.watch(self.revision):
                    self.stale_because, pause_s = "", RETRY_MIN_S
                    self._take(stored)
                return
            except CompactedError:
                with contextlib.suppress(StoreError):
                    state = await self.store.state()
                    self._take_whole(changeset_of_state(state), state.revision)
            except EpochChangedError:
                with contextlib.suppress(StoreError):
                    self._begin_anew(await self.store.state())
            except StoreError as error:
                if not self.stale_because:
                    log.error("the store can't be followed; what is served stays served", problem=str(error))
                self.stale_because = str(error)
            except Exception as error:
                log.error("following the store failed by a bug in this server; please report it", exc_info=error)
                self.stale_because = repr(error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    def _take(self, stored: Stored) -> None:
        planned = self._planned.get(stored.entry.id)
        if planned is not None and planned.plan.published.revision == stored.revision:
            changeset = planned.plan.changeset  # the head has it already
        else:
            changeset = changeset_of_entry(stored.entry, self._served)
            self._behind.append((stored.revision, changeset))
        self._serve(changeset, stored.revision + self._offset)
        if not self._writing:
            self._catch_up()
        self._move_to(stored.revision)
        if planned is not None:
            del self._planned[stored.entry.id]
            planned.accept()

    def _take_whole(self, changeset: Changeset, revision: int) -> None:
        """Serve all there is, without what led to it: at the start, or when too much was missed."""
        self._behind.append((revision, changeset))
        self._serve(changeset, revision + self._offset)
        self._move_to(revision)
        for entry_id, planned in list(self._planned.items()):
            if planned.plan.published.revision <= revision:
                del self._planned[entry_id]
                planned.accept()

    def _begin_anew(self, state: State) -> None:
        """Serve another log's state. The catalog's revisions go on growing, as streams and workers count by them."""
        log.warning("the store was replaced; all of it is served anew", was=self.revision, now=state.revision)
        for entry_id, planned in self._planned.items():
            planned.refuse(OutcomeUnknownError(entry_id, "the store was replaced"))
        self._planned.clear()
        self._offset += max(0, self.revision + 1 - state.revision)
        self._take_whole(changeset_of_state(state), state.revision)

    def _move_to(self, revision: int) -> None:
        self.revision = revision
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    # --- Into the store ----------------------------------------------------------------------------------------------

    async def _write_all(self) -> None:
        later: list[_Waiting] = []
        while True:
            batch = later or [await self._waiting.get()]
            if batch[0].change.mergeable:
                await asyncio.sleep(MERGE_S)
            while len(batch) < BATCH_MAX and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            batch, later = _without_twins(batch)
            self._writing = True
            try:
                await self._write(batch)
            except StoreError as error:
                for waiting in batch:
                    waiting.refuse(error)
            except Exception as error:
                log.error("a change failed by a bug in this server; please report it", exc_info=error)
                for waiting in batch:
                    waiting.refuse(error)
                self._rebuild_head()
            self._writing = False

    async def _write(self, batch: list[_Waiting]) -> None:
        """Have the store keep all of a batch, trying again for as long as other writers are first."""
        deadline = time.monotonic() + CONFLICT_S
        while True:
            batch = await self._not_kept_yet([each for each in batch if not each.answer.done()])
            self._catch_up()
            planned = await self._plan_all(batch)
            if not planned:
                return
            try:
                await self._append(planned)
                return
            except (ConflictError, IdReusedError) as error:
                if time.monotonic() > deadline:
                    raise UnavailableError(f"other writers were first for {CONFLICT_S:g} s; try again") from error
                await self.served_at(error.revision)
                await asyncio.sleep(0)  # whatever the reason to try again, others get their turn

    async def _append(self, planned: list[_Planned]) -> None:
        entries = [each.plan.entry for each in planned if each.plan.entry is not None]
        before = planned[0].plan.published.revision - 1
        self._planned.update((each.plan.entry.id, each) for each in planned if each.plan.entry is not None)
        try:
            await self.store.append_all(entries, before)
        except BaseException as error:
            self._take_back(planned)
            if isinstance(error, OutcomeUnknownError):
                for each in planned:
                    assert each.plan.entry is not None
                    each.refuse(OutcomeUnknownError(each.plan.entry.id, str(error.__cause__ or error)))
            raise

    def _take_back(self, planned: list[_Planned]) -> None:
        """Have the head be as it was before these, but for what of them was served: that was kept after all."""
        ids = [each.plan.entry.id for each in planned if each.plan.entry is not None]
        waited_for = [self._planned.pop(each) for each in ids if each in self._planned]
        if len(waited_for) < len(planned):
            self._rebuild_head()
            return
        for each in reversed(planned):
            self._head.apply(each.plan.undo, revision=each.plan.published.revision - 1)

    async def _not_kept_yet(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Answer those whose id is that of a kept entry, and return the others."""
        ids = [each.change.id for each in batch if each.change.id]
        kept = await self.store.find(ids) if ids else {}
        for each in batch:
            found = kept.get(each.change.id)
            if found is None:
                continue
            if found.digest == digest_of(each.change):
                await self.served_at(found.revision)
                each.accept(Published(revision=found.revision, again=True))
            else:
                each.refuse(IdReusedError(each.change.id, found.revision))
        return [each for each in batch if not each.answer.done()]

    async def _plan_all(self, batch: list[_Waiting]) -> list[_Planned]:
        planned: list[_Planned] = []
        for number, together in enumerate(_runs(batch)):
            if number % PLANS_A_TURN == PLANS_A_TURN - 1:
                await asyncio.sleep(0)
            planned += self._plan(together)
        return planned

    def _plan(self, together: list[_Waiting]) -> list[_Planned]:
        """Plan changes that are made as one; where that can't be, one by one."""
        change = together[0].change if len(together) == 1 else merged(each.change for each in together)
        try:
            made = plan(change, self._head, entry_id=change.id or uuid4().hex, at_ms=time.time_ns() // 1_000_000)
        except REFUSALS as error:
            if len(together) > 1:
                return [planned for each in together for planned in self._plan([each])]
            together[0].refuse(error)
            return []
        planned = _Planned(made, together)
        if made.entry is None:
            planned.accept()
            return []
        return [planned]

    def _catch_up(self) -> None:
        """Bring the head to what others have written meanwhile."""
        while self._behind:
            revision, changeset = self._behind.popleft()
            if revision > self._head.revision or changeset.replace:
                self._head.apply(changeset, revision=revision)

    def _rebuild_head(self) -> None:
        self._head = Catalog()
        self._behind.clear()
        self._behind.append((self.revision, self._served.export()))


def _runs(batch: list[_Waiting]) -> list[list[_Waiting]]:
    """Return the changes in order, those that follow each other and may be merged together."""
    runs: list[list[_Waiting]] = []
    for mergeable, run in groupby(batch, key=lambda each: each.change.mergeable):
        together = list(run)
        runs += [together] if mergeable else [[each] for each in together]
    return runs


def _without_twins(batch: list[_Waiting]) -> tuple[list[_Waiting], list[_Waiting]]:
    """Return a batch in which no id stands twice, and what comes after it."""
    seen: set[str] = set()
    for number, each in enumerate(batch):
        if each.change.id and each.change.id in seen:
            return batch[:number], batch[number:]
        seen.add(each.change.id)
    return batch, []
