"""A batch of changes: pending changes, planned entries, and outcomes without an entry."""

import asyncio
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from xds.model.snapshot import Snapshot
from xds.publishing.changes import Change, Published
from xds.publishing.journey import Journey
from xds.publishing.plan import ChangePlan, concerned
from xds.schema.scrub import hider_of
from xds.store.entries import Stored
from xds.store.errors import ConflictError, IdReusedError, OutcomeUnknownError, StoreError, UnavailableError

LARGE_BYTES = 64 * 1024
"""Bytes of resources whose secrets are found in some milliseconds; for less, a thread only adds delay."""
OWN_WORDS = (ConflictError, IdReusedError)
"""Errors that repeat nothing of what a service or a file says. Replicas that write at once cause many of them."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A pending change, and the future of its outcome. ``journey``: what is noted of its way, if anything is."""

    change: Change
    answer: "asyncio.Future[Published]"
    journey: Journey | None = None

    def refuse(self, error: Exception) -> None:
        """Answer with an error, unless already answered."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # marks it as retrieved: asyncio would log it if nobody awaits it any more

    def accept(self, published: Published) -> None:
        """Answer with success, unless already answered."""
        if not self.answer.done():
            self.answer.set_result(published)


@dataclass(slots=True, eq=False)
class Planned:
    """A plan with an entry, and the changes that it carries out: several if they were merged."""

    plan: ChangePlan
    waiting: list[Waiting]
    kept: bool = False
    """Whether the store has acknowledged the entry."""

    @property
    def entry_id(self) -> str:
        """The id of the plan's entry."""
        assert self.plan.entry is not None
        return self.plan.entry.id

    def made(self, stored: Stored) -> bool:
        """Return whether an entry of the log is this one, not another one with the same id or revision."""
        mine, theirs = self.plan.entry, stored.entry
        assert mine is not None
        return (
            self.plan.published.revision == stored.revision
            and mine.id == theirs.id
            and mine.groups == theirs.groups
            and mine.operations == theirs.operations
        )

    def refuse(self, error: Exception) -> None:
        """Answer all changes with an error."""
        for each in self.waiting:
            each.refuse(error)

    def accept(self) -> None:
        """Answer all changes with success."""
        for each in self.waiting:
            each.accept(self.plan.published)


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """The outcome of a change without an entry of its own: refused, unchanged, a dry run, or made by an earlier try.

    It may be sent to the author only once ``revision`` is committed and served.
    """

    waiting: Waiting
    outcome: Published | Exception
    revision: int
    """The revision of the state that the outcome is based on, which may not be committed yet."""
    groups: Mapping[str, Snapshot] = field(default_factory=dict)
    """What a dry run would lead to, for a gate to judge."""

    def tell(self) -> None:
        """Answer the change with the outcome."""
        if isinstance(self.outcome, Exception):
            self.waiting.refuse(self.outcome)
        else:
            self.waiting.accept(self.outcome)

    def disown(self, why: str) -> None:
        """Answer that the log was replaced: the outcome is unknown if an earlier try was committed in it."""
        if isinstance(self.outcome, Published) and self.outcome.again:
            self.waiting.refuse(OutcomeUnknownError(self.waiting.change.id, why))
        else:
            self.waiting.refuse(UnavailableError(f"{why}: read it again, and decide anew"))


def endpoints_first(waiting: list[Waiting], known: Container[str]) -> list[Waiting]:
    """Return the changes in the order in which they are made: mergeable ones pass others that concern no group of them.

    They are the endpoints that traffic depends on, and hundreds of them cost as much as one other change. ``known`` are
    the groups that exist: what waits may make further ones.
    """
    first: list[Waiting] = []
    others: list[Waiting] = []
    passed: set[str] = set()
    for each in waiting:
        names = concerned(each.change)
        if each.change.mergeable and passed.isdisjoint(names) and all(name in known for name in names):
            first.append(each)
        else:
            others.append(each)
            passed |= names
    return first + others


def runs(batch: list[Waiting]) -> list[list[Waiting]]:
    """Group the changes, in order: consecutive mergeable changes of one author together, every other change alone."""
    found: list[list[Waiting]] = []
    for (mergeable, _), run in groupby(batch, key=lambda each: (each.change.mergeable, each.change.author)):
        together = list(run)
        found += [together] if mergeable else [[each] for each in together]
    return found


def without_twins(batch: list[Waiting]) -> tuple[list[Waiting], list[Waiting]]:
    """Split a batch before the first repeated id; return both parts."""
    seen: set[str] = set()
    for number, each in enumerate(batch):
        if each.change.id and each.change.id in seen:
            return batch[:number], batch[number:]
        seen.add(each.change.id)
    return batch, []


async def hide_secrets(error: StoreError, batch: Iterable[Planned]) -> None:
    """Hide the secrets of a batch in what a store says of it: a service may repeat what it was sent.

    All changes of a batch get the same answer, so one caller's secrets would be told to others.
    """
    if isinstance(error, OWN_WORDS):
        return
    changes = (waiting.change for planned in batch for waiting in planned.waiting)
    resources = [each for change in changes for upserts in change.upserts.values() for each in upserts]

    def hidden() -> list[str]:
        hide = hider_of(resources)
        return [hide(str(each)) for each in (error, error.__cause__)]

    is_large = sum(len(each.body) for each in resources) > LARGE_BYTES
    words, cause = await asyncio.to_thread(hidden) if is_large else hidden()
    error.args = (words,)
    if error.__cause__ is not None:
        error.__cause__ = StoreError(cause)
