"""Commits changes to the store, and serves the entries that the store has committed.

One task writes: it takes pending changes for a moment's work, endpoints first, plans each on the state that results
from those before it, and commits them to the store as one batch. Another task follows the store and serves each entry
in order, by this or any other writer. So only committed changes are served, a slow disk makes batches larger instead
of queues longer, and entries of other writers need no special case.

All writes are linearizable, also those that are refused or have no effect. The store compares the revision, so every
committed entry was planned on the newest state. A refusal, a dry run or a change without effect is answered after the
entries of its batch are committed. In a batch without entries, the store is first asked whether ``head`` is its newest
revision: on an older state the answer might be wrong.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from uuid import uuid4

import structlog

from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.sizes import RESOURCE_BYTES_MAX, check_sizes
from xds.process.background import Background
from xds.publishing.batch import Planned, Verdict, Waiting, endpoints_first, hide_secrets, runs, without_twins
from xds.publishing.changes import Change, KeptElsewhereError, Published, check
from xds.publishing.codec import changeset_of_entry, changeset_of_state
from xds.publishing.edits import UnknownGroupError
from xds.publishing.gate import Gate, passed, with_warnings
from xds.publishing.group_revisions import GroupRevisions, names_changed
from xds.publishing.journey import current
from xds.publishing.plan import concerned, digest_of, merged, plan
from xds.store.entries import EntrySummary, State, Store, Stored
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
BATCH_MAX = 500
SUMMARIES_A_PAGE = 1_000
PLAN_TURN_S = 0.002
"""How long changes are planned in one turn of the event loop."""
PLANS_S = 0.02
"""How long the changes of one batch are planned. Others are in the next, which endpoints that come meanwhile begin."""
MERGE_S = 0.002
"""How long a mergeable change waits for others: a revision costs the store and each worker the same for one or many."""
CONFLICT_S = 10.0
"""How long to retry a change while other writers are first."""
RETRY_MIN_S, RETRY_MAX_S = 0.1, 5.0
RECENT_S = 1.0
"""Changes go out regularly if the last one was so long ago."""


async def nobody_lacks(_revision: int) -> tuple[str, ...]:
    """Return that no process lacks a revision, where one process serves as it publishes."""
    return ()


REFUSALS = (ChangesetRejectedError, ConflictError, KeptElsewhereError, UnknownGroupError)


class Publisher:
    """Publishes changes between ``start`` and ``stop``. Calls ``serve`` with each revision's changeset, in order.

    ``served`` is the catalog to which ``serve`` applies the changesets; the publisher only reads it. ``on_entry`` is
    called with each entry that is served, by whomever it was written. Larger resources than ``resource_bytes_max`` are
    refused; those that the store has are served. ``pending_max`` changes may wait; further ones wait to be queued.
    ``refuses_because`` returns why this process takes no changes now, "" if it does. ``on_limit`` is called with the
    name of a limit that a change reached (``xds/limits.py``), ``on_answered`` with the seconds that each change took
    from its arrival to its outcome, ``on_stored`` with those that the store took to commit a batch. ``lacking`` waits
    until every process that serves streams has a revision of ``served``, for a second at most, and returns the names of
    those that lack it.
    """

    def __init__(
        self,
        store: Store,
        served: Catalog,
        serve: Callable[[Changeset, int], None],
        on_entry: Callable[[Stored], None] = lambda _stored: None,
        *,
        background: Background | None = None,
        resource_bytes_max: int = RESOURCE_BYTES_MAX,
        pending_max: int = 10_000,
        gate: Gate | None = None,
        refuses_because: Callable[[], str] = lambda: "",
        on_limit: Callable[[str], None] = lambda _limit: None,
        lacking: Callable[[int], Awaitable[tuple[str, ...]]] = nobody_lacks,
        on_answered: Callable[[float], None] = lambda _seconds: None,
        on_stored: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self.store = store
        self._on_answered = on_answered
        self._on_stored = on_stored
        self._refuses_because = refuses_because
        self._on_limit = on_limit
        self._lacking = lacking
        self._resource_bytes_max = resource_bytes_max
        self._gate = gate
        self._background = background or Background()
        self._served = served
        self._serve = serve
        self._on_entry = on_entry
        self._head = Catalog()
        self._behind: deque[tuple[int, Changeset, bool]] = deque()
        """Entries of other writers that ``_head`` lacks: revision, changeset, and whether it replaces everything."""
        self._planned: deque[Planned] = deque()
        """Entries being committed or not served yet, in order of revision. Each is planned on the one before it."""
        self._due: list[Verdict] = []
        """Outcomes without an entry, based on states that are committed and not served yet."""
        self._waiting: asyncio.Queue[Waiting] = asyncio.Queue(pending_max)
        self._moved = asyncio.Event()
        self._submitting = 0
        self._taken: list[Waiting] = []
        """Changes taken from ``_waiting`` whose batch is not done yet."""
        self._unplanned: list[Waiting] = []
        """Changes of the batch whose turn is in the next one, as those before them took long enough."""
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._writing = False
        self._offset = 0
        self._epoch = ""
        self._group_revisions = GroupRevisions()
        self._moved_at = -RECENT_S
        self.revision = 0
        self.stale_because = ""
        """Why the store can't be followed at present, "" if it can."""

    # --- Life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Serve the store's state, then follow the store and accept changes. Raises StoreError."""
        state = await self.store.state()
        self._epoch = self.store.epoch
        self._take_whole(changeset_of_state(state), state.revision)
        keep = self._background.keep
        self._tasks = [
            keep("follow the store", self._follow, on_death=self._on_following_died),
            keep("write changes", self._write_all, on_death=self._on_writing_died),
        ]

    async def stop(self) -> None:
        """Answer all pending changes, and close the store. Committed changes stay committed."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for planned in self._planned:
            if planned.kept:
                planned.accept()
            else:
                planned.refuse(OutcomeUnknownError(planned.entry_id, "this control plane went down"))
        self._planned.clear()
        for verdict in self._due:
            verdict.tell()
        self._due.clear()
        while self._taken or self._submitting or not self._waiting.empty():
            for waiting in self._taken:
                waiting.refuse(_going_down())
            self._taken = [self._waiting.get_nowait() for _ in range(self._waiting.qsize())]
            await asyncio.sleep(0)  # a ``submit`` that waits for room continues, and raises
        self._moved.set()
        await self.store.close()

    async def publish(self, change: Change, *, on_made: Callable[[Published], None] | None = None) -> Published:
        """Make a change, and return once it is committed and served: a stream that begins now is sent it.

        The processes that serve streams are waited for a second at most; a warning names those that lack the change.
        Raises ChangesetRejectedError with every problem, KeptElsewhereError, UnknownGroupError and StoreError.
        Cancelling the call does not cancel the change: ``on_made`` is called in any case if it is made.
        """
        answer = await self.submit(change)
        if on_made is not None:
            answer.add_done_callback(lambda done: _tell_made(done, on_made))
        published = await asyncio.shield(answer)
        warnings = await self.reached(published.revision)
        return replace(published, warnings=(*published.warnings, *warnings)) if warnings else published

    async def reached(self, revision: int) -> tuple[Problem, ...]:
        """Return once all processes have a served revision, or after a second, with a warning for those that lack it.

        Changes that are published meanwhile do not wait for it.
        """
        lacking = await self._lacking(revision + self._offset)
        if not lacking:
            return ()
        what = f"kept and served, but not by {', '.join(lacking)} yet, which may be stopped or overloaded"
        return (Problem(what=what, hint="a node that connects there is sent what was before, and this change later"),)

    async def submit(self, change: Change) -> "asyncio.Future[Published]":
        """Queue a change behind all earlier ones, and return the future of its outcome; see ``publish``.

        Endpoints pass changes that concern other groups (``endpoints_first``).

        Waits while as many changes are queued as may be. Raises ChangesetRejectedError, and UnavailableError after
        ``stop``, or while the memory is too short for changes; those of endpoints alone, and removals, are taken even
        then: traffic depends on the former, and the latter free memory.
        """
        check(change)
        if (change.upserts and not change.mergeable) and (why := self._refuses_because()):
            self._on_limit("memory_changes")
            raise UnavailableError(f"changes are refused: {why}; nothing was changed, try again later")
        if self._waiting.full():
            self._on_limit("pending_changes")
        waiting = Waiting(change, asyncio.get_running_loop().create_future(), current.get())
        arrived = time.monotonic()
        waiting.answer.add_done_callback(lambda _: self._on_answered(time.monotonic() - arrived))
        if not self._stopping:
            self._submitting += 1
            try:
                await self._waiting.put(waiting)
            finally:
                self._submitting -= 1
        if self._stopping:
            waiting.answer.cancel()
            raise _going_down()
        return waiting.answer

    async def served_at(self, revision: int, within_s: float = CONFLICT_S) -> None:
        """Return once a revision is served. Raises UnavailableError after ``within_s`` seconds."""
        try:
            async with asyncio.timeout(within_s):
                while self.revision < revision:
                    if self._stopping:
                        raise _going_down()
                    await self._moved.wait()
        except TimeoutError:
            why = self.stale_because or "the store is slow"
            raise UnavailableError(f"revision {revision} is kept but not served after {within_s:g} s: {why}") from None

    async def next_move(self) -> bool:
        """Return once another revision is served; whether there may be more: not after ``stop``."""
        if not self._stopping:
            await self._moved.wait()
        return not self._stopping

    async def reach_newest(self) -> None:
        """Return once the store's newest revision at the time of the call is served. Raises StoreError."""
        await self.served_at(await self.store.newest())

    @property
    def is_stopping(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopping

    @property
    def is_busy(self) -> bool:
        """Whether changes go out regularly: others are to leave them the event loop."""
        return time.monotonic() - self._moved_at < RECENT_S or bool(self.waiting)

    @property
    def waiting(self) -> int:
        """The number of changes that wait to be committed."""
        return self._waiting.qsize() + len(self._taken) + self._submitting

    def group_revision(self, name: str) -> int:
        """Return the served revision at which a group, or ``RULES``, last changed, or a later one after a restart.

        A change that expects this revision or a later one is refused only if the group changes in between.
        """
        return self._group_revisions.of(name)

    # --- From the store ----------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        pause_s = RETRY_MIN_S
        while True:
            before = self.revision
            try:
                if await self._follow_to_the_end():
                    return
            except StoreError as error:
                if str(error) != self.stale_because:
                    log.error("the store can't be followed; what is served stays served", problem=str(error))
                self.stale_because = str(error)
            except Exception as error:
                log.error("following the store failed by a bug in this server; please report it", exc_info=error)
                self.stale_because = repr(error)
            pause_s = RETRY_MIN_S if self.revision != before else min(2 * pause_s, RETRY_MAX_S)
            await asyncio.sleep(pause_s)

    def _on_following_died(self, why: str) -> None:
        self.stale_because = f"following the store failed by a bug in this server: {why}"

    async def _follow_to_the_end(self) -> bool:
        """Serve the store's entries until its watch ends. Return whether the store was closed, else follow again."""
        try:
            if self.stale_because and (await self.store.kept())[1] <= self.revision:
                self.stale_because = ""  # nothing was missed
            async for stored in self.store.watch(self.revision):
                self._take(stored)
                self.stale_because = ""
        except CompactedError:
            state = await self.store.state()
            if state.revision <= self.revision:
                return False  # the store is about to read what it missed
            log.warning(
                "changes were missed that are no longer kept; all of the store is served",
                was=self.revision,
                now=state.revision,
            )
            self._take_whole(changeset_of_state(state), state.revision)
        except EpochChangedError:
            self._begin_anew(await self.store.state())
        else:
            return True
        self.stale_because = ""
        return False

    def _take(self, stored: Stored) -> None:
        planned = self._planned[0] if self._planned and self._planned[0].made(stored) else None
        changeset = changeset_of_entry(stored, self._served) if planned is None else planned.plan.changeset
        if planned is None or stored.revision > self._head.revision:  # else it was planned on the head, which has it
            self._behind.append((stored.revision, changeset, False))
        names = names_changed(self._served.table, changeset.groups) | {key.group for key in stored.entry.operations}
        self._group_revisions.note(stored.revision, names)
        journeys = [] if planned is None else [each.journey for each in planned.waiting if each.journey is not None]
        begun_ns = time.time_ns() if journeys else 0
        self._serve(changeset, stored.revision + self._offset)
        for journey in journeys:
            journey.serve(begun_ns, stored.revision + self._offset, tuple(sorted(names)))
        if not self._writing:
            self._catch_up()
        self._on_entry(stored)
        self._move_to(stored.revision)
        if planned is not None:
            self._planned.popleft()
            planned.accept()

    def _take_whole(self, changeset: Changeset, revision: int, *, anew: bool = False) -> None:
        """Serve a whole state instead of single entries: at start, or after missing entries that were compacted."""
        self._behind.append((revision, changeset, anew))
        self._group_revisions.begin(revision)
        self._serve(changeset, revision + self._offset)
        self._move_to(revision)
        self._accept_served()

    def _accept_served(self) -> None:
        """Answer the changes whose entries are committed and were served as part of a whole state."""
        while self._planned and self._planned[0].kept and self._planned[0].plan.published.revision <= self.revision:
            self._planned.popleft().accept()

    def _begin_anew(self, state: State) -> None:
        """Serve another log's state. The catalog's revisions continue to grow: streams and workers rely on it."""
        changeset = changeset_of_state(state)
        log.warning("the store was replaced; all of it is served anew", was=self.revision, now=state.revision)
        for planned in self._planned:
            planned.refuse(OutcomeUnknownError(planned.entry_id, "the store was replaced"))
        self._planned.clear()
        for verdict in self._due:
            verdict.disown("the store was replaced")
        self._due.clear()
        self._epoch = self.store.epoch
        self._offset += max(0, self.revision + 1 - state.revision)
        self._take_whole(changeset, state.revision, anew=True)

    def _move_to(self, revision: int) -> None:
        self.revision = revision
        self._moved_at = time.monotonic()
        if self._due:
            served = [each for each in self._due if each.revision <= revision]
            self._due = [each for each in self._due if each.revision > revision]
            for verdict in served:
                verdict.tell()
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    # --- Into the store ----------------------------------------------------------------------------------------------

    async def _write_all(self) -> None:
        while True:
            if not self._taken:
                self._taken.append(await self._waiting.get())
            if self._taken[0].change.mergeable:
                await asyncio.sleep(MERGE_S)
            while len(self._taken) < BATCH_MAX and not self._waiting.empty():
                self._taken.append(self._waiting.get_nowait())
            self._taken = endpoints_first(self._taken, self._head.snapshots)
            batch, later = without_twins(self._taken)
            self._writing = True
            self._unplanned = []
            try:
                await self._write(batch)
            except StoreError as error:
                if isinstance(error, UnavailableError):
                    self._unplanned = []  # they would fail one after the other
                self._refuse(batch, error)
            except Exception as error:
                log.error("a change failed by a bug in this server; please report it", exc_info=error)
                self._refuse(batch, error)
                self._rebuild_head()
            self._writing = False
            self._taken = [*self._unplanned, *later]

    def _refuse(self, batch: list[Waiting], error: Exception) -> None:
        """Answer a batch with an error, but for those of it whose outcome is decided already or that were not tried."""
        decided = {id(verdict.waiting) for verdict in self._due} | {id(each) for each in self._unplanned}
        for waiting in batch:
            if id(waiting) not in decided:
                waiting.refuse(error)

    def _on_writing_died(self, why: str) -> None:
        """Refuse all pending changes, and rebuild the head from the served catalog."""
        error = UnavailableError(f"writing changes failed by a bug in this server: {why}")
        self._unplanned = []
        self._refuse([*self._taken, *(self._waiting.get_nowait() for _ in range(self._waiting.qsize()))], error)
        self._taken, self._writing = [], False
        self._rebuild_head()

    async def _write(self, batch: list[Waiting]) -> None:
        """Commit a batch to the store, retrying while other writers are first."""
        deadline = time.monotonic() + CONFLICT_S
        is_newest = False
        while True:
            self._unplanned = []
            batch = await self._not_kept_yet([each for each in batch if not each.answer.done()])
            await self._learn_revisions(batch)
            self._catch_up()
            journeys = [each.journey for each in batch if each.journey is not None]
            begun_ns = time.time_ns() if journeys else 0
            planned, verdicts = await self._plan_all(batch)
            for journey in journeys:
                journey.note("plan", begun_ns)
            try:
                if planned:
                    await self._append(planned)
                elif verdicts and not is_newest:
                    is_newest = True
                    if not await self._head_is_newest(verdicts):
                        continue
            except IdReusedError:
                await asyncio.sleep(0)  # whose id that is gets its answer, and the others are planned anew
            except ConflictError as error:
                if time.monotonic() > deadline:
                    raise UnavailableError(f"other writers were first for {CONFLICT_S:g} s; try again") from error
                await self.served_at(error.revision)
                await asyncio.sleep(0)  # lets other tasks run before every retry
            except OutcomeUnknownError as error:
                why = f"whether what came before it was kept is not known ({error}); nothing of this was changed"
                for verdict in verdicts:
                    verdict.waiting.refuse(UnavailableError(why))
                raise
            else:
                for verdict in verdicts:
                    self._tell(verdict)
                return

    async def _head_is_newest(self, verdicts: list[Verdict]) -> bool:
        """Return whether the head is the store's newest state. If not, wait until the missing entries are served."""
        try:
            newest = await self.store.newest()
        except StoreError:
            for verdict in verdicts:  # a start with an unchanged directory does not need the store
                edit = verdict.waiting.change.edit
                if edit is not None and edit.by_directory and isinstance(verdict.outcome, Published):
                    verdict.tell()
            raise
        if newest <= self._head.revision:
            return True
        await self.served_at(newest)
        return False

    def _tell(self, verdict: Verdict) -> None:
        """Answer once the state of the outcome is served, so that a client that then reads finds that state."""
        if verdict.revision > self.revision:
            self._due.append(verdict)
        else:
            verdict.tell()

    async def _append(self, planned: list[Planned]) -> None:
        entries = [each.plan.entry for each in planned if each.plan.entry is not None]
        before = planned[0].plan.published.revision - 1
        self._planned.extend(planned)
        journeys = [each.journey for one in planned for each in one.waiting if each.journey is not None]
        for journey in journeys:
            journey.begin_store()
        try:
            if self.store.epoch != self._epoch:
                raise UnavailableError("the store was replaced: read it again, and decide anew")
            began = time.monotonic()
            try:
                await self.store.append_all(entries, before)
            except StoreError as error:
                await hide_secrets(error, planned)
                raise
            self._on_stored(time.monotonic() - began)
        except BaseException as error:
            self._take_back(planned)
            if isinstance(error, OutcomeUnknownError | asyncio.CancelledError):
                why = str(error.__cause__ or error) or "this control plane went down"
                for each in planned:
                    each.refuse(OutcomeUnknownError(each.entry_id, why))
            raise
        for journey in journeys:
            journey.end_store()
        for each in planned:
            each.kept = True
        self._accept_served()

    def _take_back(self, planned: list[Planned]) -> None:
        """Revert these entries on the head, except those that were served, which have been committed after all."""
        before = len(self._planned)
        these = {id(each) for each in planned}
        self._planned = deque(each for each in self._planned if id(each) not in these)
        if before - len(self._planned) < len(planned):
            self._rebuild_head()
            return
        for each in reversed(planned):
            self._head.apply(each.plan.undo, revision=each.plan.published.revision - 1)

    async def _not_kept_yet(self, batch: list[Waiting]) -> list[Waiting]:
        """Decide the changes whose id is that of a committed entry, and return the others.

        Such an entry may not be served yet. It is known to be committed, so no later failure refuses these changes.
        """
        ids = [each.change.id for each in batch if each.change.id]
        kept = await self.store.find(ids) if ids else {}
        others = []
        for each in batch:
            found = kept.get(each.change.id)
            if found is None:
                others.append(each)
            elif found.digest == digest_of(each.change):
                self._tell(Verdict(each, Published(revision=found.revision, again=True), found.revision))
            else:
                each.refuse(IdReusedError(each.change.id, found.revision))
        return others

    async def _learn_revisions(self, batch: list[Waiting]) -> None:
        """Read from the history, as far as it is kept, when groups last changed whose revision is expected."""
        known = self._group_revisions
        expected = [
            each.change.expected_revision
            for each in batch
            if each.change.expected_revision is not None
            and not all(known.is_known(name) for name in concerned(each.change))
        ]
        until = known.known_from
        if not expected or min(expected) >= until:
            return
        oldest, _ = await self.store.kept()
        since = at = max(min(expected), oldest)
        summaries: list[EntrySummary] = []
        with suppress(CompactedError):  # meanwhile
            while at < until and (page := await self.store.summaries(at, min(SUMMARIES_A_PAGE, until - at))):
                summaries += page
                at = page[-1].revision
        if at == until == known.known_from:  # else the whole state was read anew meanwhile
            known.learn(summaries, since)

    async def _plan_all(self, batch: list[Waiting]) -> tuple[list[Planned], list[Verdict]]:
        planned: list[Planned] = []
        verdicts: list[Verdict] = []
        plans = runs(batch)
        spent_s = turn_s = 0.0
        for number, together in enumerate(plans):
            if turn_s > PLAN_TURN_S:
                await asyncio.sleep(0)
                turn_s = 0.0
            began = time.monotonic()
            await self._plan_judged(together, planned, verdicts)
            took_s = time.monotonic() - began
            spent_s, turn_s = spent_s + took_s, turn_s + took_s
            if spent_s > PLANS_S:
                self._unplanned = [each for later in plans[number + 1 :] for each in later]
                break
        return planned, verdicts

    async def _plan_judged(self, together: list[Waiting], planned: list[Planned], verdicts: list[Verdict]) -> None:
        """Plan changes, and have the gate judge them; what it refuses is taken back before it is committed."""
        start, told = len(planned), len(verdicts)
        self._plan(together, planned, verdicts)
        gate = self._gate
        if gate is None:
            return
        for index in range(told, len(verdicts)):
            if verdicts[index].groups:
                outcome = await asyncio.to_thread(gate, verdicts[index].groups)
                verdicts[index] = passed(verdicts[index], outcome, refuses=gate.refuses)
        for index in range(start, len(planned)):
            each = planned[index]
            outcome = await asyncio.to_thread(gate, each.plan.groups)
            if outcome.problems and gate.refuses:
                await self._plan_without(index, ChangesetRejectedError(outcome.problems), planned, verdicts)
                return
            each.plan = replace(each.plan, published=with_warnings(each.plan.published, outcome))

    async def _plan_without(
        self, index: int, error: ChangesetRejectedError, planned: list[Planned], verdicts: list[Verdict]
    ) -> None:
        """Take back a plan that was refused and all after it, and plan its changes anew, merged ones singly."""
        later = planned[index:]
        del planned[index:]
        for each in reversed(later):
            self._head.apply(each.plan.undo, revision=each.plan.published.revision - 1)
        refused = later[0].waiting
        if len(refused) == 1:
            verdicts.append(Verdict(refused[0], error, self._head.revision))
        again = [[each] for each in refused if len(refused) > 1] + [each.waiting for each in later[1:]]
        for together in again:
            await self._plan_judged(together, planned, verdicts)

    def _check_sizes(self, change: Change) -> None:
        try:
            check_sizes(change.upserts, self._resource_bytes_max)
        except ChangesetRejectedError:
            self._on_limit("resource")
            raise

    def _plan(self, together: list[Waiting], planned: list[Planned], verdicts: list[Verdict]) -> None:
        """Plan changes merged into one; if that is refused, plan them one by one."""
        change = together[0].change if len(together) == 1 else merged(each.change for each in together)
        try:
            self._check_sizes(change)
            made = plan(
                change,
                self._head,
                lambda name: self._changed_at(name, planned),
                entry_id=change.id or uuid4().hex,
                at_ms=time.time_ns() // 1_000_000,
                with_groups=self._gate is not None,
            )
        except REFUSALS as error:
            if len(together) > 1:
                for each in together:
                    self._plan([each], planned, verdicts)
            else:
                verdicts.append(Verdict(together[0], error, self._head.revision))
            return
        if made.entry is None:
            verdicts += [Verdict(each, made.published, self._head.revision, made.groups) for each in together]
        else:
            planned.append(Planned(made, together))

    def _changed_at(self, name: str, planned: list[Planned]) -> tuple[int, bool]:
        """Return the revision on the head at which a name last changed, and whether that is exact."""
        for each in reversed([*self._planned, *planned]):
            if name in each.plan.names:
                return each.plan.published.revision, True
        return self._group_revisions.of(name), self._group_revisions.is_known(name)

    def _catch_up(self) -> None:
        """Apply the entries of other writers to the head."""
        while self._behind:
            revision, changeset, anew = self._behind.popleft()
            if anew:
                self._head = Catalog()
            if revision > self._head.revision:
                self._head.apply(changeset, revision=revision)

    def _rebuild_head(self) -> None:
        self._head = Catalog()
        self._behind.clear()
        self._behind.append((self.revision, self._served.export(), False))


def _tell_made(done: "asyncio.Future[Published]", on_made: Callable[[Published], None]) -> None:
    if not done.cancelled() and done.exception() is None:
        on_made(done.result())


def _going_down() -> UnavailableError:
    return UnavailableError("this control plane is going down; try again with the same id")
