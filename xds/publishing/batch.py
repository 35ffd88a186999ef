"""Changes that wait for the store: those that are planned together, and what becomes of each. It knows no store."""

import asyncio
from dataclasses import dataclass
from itertools import groupby

from xds.publishing.changes import Change, Published
from xds.publishing.plan import ChangePlan
from xds.store.entries import Stored


@dataclass(slots=True, eq=False)
class Waiting:
    """A change, and what will be its outcome."""

    change: Change
    answer: "asyncio.Future[Published]"

    def refuse(self, error: Exception) -> None:
        """Answer with an error, unless it is answered."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # that nobody waits for it any more is no fault to be logged

    def accept(self, published: Published) -> None:
        """Answer with success, unless it is answered."""
        if not self.answer.done():
            self.answer.set_result(published)


@dataclass(slots=True, eq=False)
class Planned:
    """A plan that makes an entry, and those that wait for it: several, where their changes were merged.

    ``kept`` once the store has said that it keeps the entry.
    """

    plan: ChangePlan
    waiting: list[Waiting]
    kept: bool = False

    @property
    def entry_id(self) -> str:
        """The id of its entry."""
        assert self.plan.entry is not None
        return self.plan.entry.id

    def made(self, stored: Stored) -> bool:
        """Say whether an entry of the log is this one, not another one with its id, or at its place."""
        mine, theirs = self.plan.entry, stored.entry
        assert mine is not None
        return (
            self.plan.published.revision == stored.revision
            and mine.id == theirs.id
            and mine.groups == theirs.groups
            and mine.operations == theirs.operations
        )

    def refuse(self, error: Exception) -> None:
        """Answer all with an error."""
        for each in self.waiting:
            each.refuse(error)

    def accept(self) -> None:
        """Answer all with success."""
        for each in self.waiting:
            each.accept(self.plan.published)


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """What a change comes to that makes no entry: refused, as it was before, or tried only.

    It holds on the state at ``revision``, which may have entries in it that are not kept yet.
    """

    waiting: Waiting
    outcome: Published | Exception
    revision: int

    def tell(self) -> None:
        """Answer with it."""
        if isinstance(self.outcome, Exception):
            self.waiting.refuse(self.outcome)
        else:
            self.waiting.accept(self.outcome)


def runs(batch: list[Waiting]) -> list[list[Waiting]]:
    """Return the changes in order, those that follow each other and may be merged together."""
    found: list[list[Waiting]] = []
    for mergeable, run in groupby(batch, key=lambda each: each.change.mergeable):
        together = list(run)
        found += [together] if mergeable else [[each] for each in together]
    return found


def without_twins(batch: list[Waiting]) -> tuple[list[Waiting], list[Waiting]]:
    """Return a batch in which no id stands twice, and what comes after it."""
    seen: set[str] = set()
    for number, each in enumerate(batch):
        if each.change.id and each.change.id in seen:
            return batch[:number], batch[number:]
        seen.add(each.change.id)
    return batch, []
