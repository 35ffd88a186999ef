"""Which revisions clients have accepted, counted as their answers arrive.

A client has *accepted* a revision once it has ACKed everything that the revision demands of it, of every type that it
subscribes to, removals and held-back steps included. It is *pending* while anything of it is unsent, held back or
unanswered, and *rejected* while the last answer to something of it is a NACK and nothing newer is on its way, which may
mend that. A change that does not concern a client is accepted by it at once.

So two numbers of a client are enough, its ``Debt``. They are properties of its state, which a fleet in lockstep shares:
a delivery and its ACK cost two changes of a counter, and no stream is looked at to answer a question.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

UNSENT_MAX = 16
"""Maximum revisions of a type that are told apart while they are held back."""
UNLIMITED = 2**63
RUN_S = 0.002
"""Equal changes within this time of the first are counted as made at its time."""
EVERYTHING = 1
"""The revision since which a client owes everything: it has just subscribed to a type."""


class Debt(NamedTuple):
    """What a client owes. 0 stands for nothing.

    It has accepted every revision before both numbers.
    """

    owed: int = 0
    """The oldest revision of which something is unsent, held back or unanswered."""
    rejected: int = 0
    """The oldest revision of which the client rejected something that it has not been sent anew and accepted since."""
    mending: int = 0
    """With ``owed`` no newer than ``rejected``: the oldest revision newer than ``rejected`` of which something is to be
    sent, or is not answered. What is held back does not count."""

    def lacks(self, revision: int) -> bool:
        """Say whether the client has not accepted a revision."""
        return 0 < self.owed <= revision or 0 < self.rejected <= revision

    def is_rejected(self, revision: int) -> bool:
        """Say whether the client has rejected a revision, and nothing of it is due that is newer than what it rejected.

        What is held back with a rejected change is none such: it waits for the rejected one.
        """
        newer = self.owed if self.owed > self.rejected else self.mending
        return 0 < self.rejected <= revision and not 0 < newer <= revision

    def accepted(self, revision: int) -> int:
        """Return the newest revision that the client has accepted, if ``revision`` is the newest one."""
        return min(revision, *(each - 1 for each in self if each)) if self != NO_DEBT else revision

    @property
    def oldest(self) -> int:
        """The oldest revision that the client has not accepted, 0 if there is none."""
        owed, rejected = self.owed, self.rejected
        return min(owed, rejected) if owed and rejected else owed or rejected


NO_DEBT = Debt()


def debt_of(owed: int, rejected: int, due: Iterable[int]) -> Debt:
    """Return the debt of a client. ``due`` are the revisions of which something is to be sent or not answered."""
    if rejected and 0 < owed <= rejected:
        return Debt(owed, rejected, oldest(each for each in due if each > rejected))
    return Debt(owed, rejected) if owed or rejected else NO_DEBT


class Acceptance(NamedTuple):
    """The numbers of a group's clients that have accepted a revision, or not."""

    accepted: int = 0
    pending: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Debts:
    """What the clients of one or several processes owe."""

    revision: int
    """The oldest revision that is published by all processes."""
    by_group: Mapping[str, Mapping[Debt, int]]
    """The numbers of clients by group and debt."""
    missing_workers: tuple[str, ...] = ()
    """The processes that did not answer, whose clients are not counted."""
    gone: Mapping[str, int] = field(default_factory=dict)
    """The numbers of known clients that are not connected, by group."""
    uncounted: tuple[str, ...] = ()
    """The ids of those that count as gone and have connected since the answers."""
    missing_replicas: tuple[str, ...] = ()
    """The replicas that did not answer, each with the reason; their clients are not counted."""
    is_blind: bool = False
    """Whether a missing replica may have clients that nobody else knows of: it has its lease, or was never read."""

    @classmethod
    def sum(cls, several: Iterable["Debts"]) -> "Debts":
        """Return the sums over several processes, revision 0 if there are none."""
        totals: dict[str, dict[Debt, int]] = {}
        revisions = []
        for one in several:
            revisions.append(one.revision)
            for group, counts in one.by_group.items():
                total = totals.setdefault(group, {})
                for debt, count in counts.items():
                    total[debt] = total.get(debt, 0) + count
        return cls(revision=min(revisions, default=0), by_group=totals)

    def of(self, sees: Callable[[str], bool]) -> "Debts":
        """Return the debts of the groups that ``sees`` returns true for, without the ids of nodes."""
        return replace(
            self,
            by_group={name: counts for name, counts in self.by_group.items() if sees(name)},
            gone={name: count for name, count in self.gone.items() if sees(name)},
            uncounted=(),
        )

    def gone_of(self, group: str | None = None) -> int:
        """Return how many known clients, of one group or of all, are not connected."""
        return sum(self.gone.values()) if group is None else self.gone.get(group, 0)

    def at(self, revision: int, group: str | None = None) -> Acceptance:
        """Return how many connected clients, of one group or of all, have accepted a revision."""
        groups = [self.by_group.get(group, {})] if group is not None else self.by_group.values()
        found = [acceptance(counts, revision) for counts in groups]
        return Acceptance(*(sum(numbers) for numbers in zip(*found, strict=True))) if found else Acceptance()


def without_best(counts: Mapping[Debt, int], number: int) -> dict[Debt, int]:
    """Return the numbers of clients without so many of those that owe the least."""
    left = dict(counts)
    for debt in sorted(counts, key=lambda each: -each.accepted(UNLIMITED)):
        taken = min(number, left[debt])
        number -= taken
        left[debt] -= taken
    return {debt: count for debt, count in left.items() if count}


def worst(debts: Iterable[Debt]) -> Debt:
    """Return what a node owes that has several clients: the oldest of each. It is rejected if one of them is."""
    debts = list(debts)
    owed, rejected = oldest(each.owed for each in debts), oldest(each.rejected for each in debts)
    if any(each.is_rejected(UNLIMITED) for each in debts):
        return Debt(0 if owed > rejected else owed, rejected)
    return debt_of(owed, rejected, (max(each.owed, each.mending) for each in debts if each.rejected))


def oldest(revisions: Iterable[int]) -> int:
    """Return the oldest of the revisions, of which 0 stands for none."""
    return min((revision for revision in revisions if revision), default=0)


def with_revision(unsent: tuple[int, ...], revision: int) -> tuple[int, ...]:
    """Add a revision to unsent ones, oldest first. Beyond ``UNSENT_MAX`` the newest stands for those before it."""
    if unsent and unsent[-1] >= revision:
        return unsent
    return (*unsent[: UNSENT_MAX - 1], revision)


def split_at(unsent: tuple[int, ...], revision: int, *, is_newest: bool) -> tuple[int, tuple[int, ...]]:
    """Return the oldest unsent revision that an update to ``revision`` sends, and those that remain unsent.

    An update to the newest revision sends all of them.
    """
    if is_newest or not unsent or unsent[-1] <= revision:
        return (unsent[0] if unsent else 0), ()
    left = tuple(each for each in unsent if each > revision)
    if len(unsent) == UNSENT_MAX and left[0] > revision + 1:
        left = (revision + 1, *left[: UNSENT_MAX - 1])  # revisions in between may have been left out
    return (unsent[0] if unsent[0] <= revision else 0), left


Change = tuple[Debt, Debt]


class Run:
    """Equal changes, or equal ACKs, of clients of one group, within a short time, that are not counted yet.

    The hub adds an ACK by ``count += 1``: a call would cost as much as the rest of what an ACK costs.
    """

    __slots__ = ("answered", "at", "change", "count", "group", "until")

    def __init__(self, group: str, change: Change | None, answered: object, at: float, until: float) -> None:
        self.answered = answered
        """What the ACKs answer, compared by identity; None for other changes."""
        self.change = change
        self.group = group
        self.count = 0
        self.at = at
        self.until = until


RUNS_MAX = 32
"""Different changes and ACKs that are counted at once."""


class Convergence:
    """The numbers of clients by group and debt.

    The clients of a fleet take the same step one after the other, and those that connect take the same few: equal
    changes within a short time are counted as one.
    """

    __slots__ = ("_groups", "_no_run", "_on_accepted", "_on_acks", "_runs", "_until", "run")

    def __init__(
        self,
        on_accepted: Callable[[str, int, float, int], None] = lambda *_: None,
        on_acks: Callable[[object, str, int], None] = lambda *_: None,
    ) -> None:
        """Create it.

        ``on_accepted`` is called with a group, the oldest revision that clients of it did not have before, the time,
        and their number; ``on_acks`` with what was answered, the group, and the number of ACKs.
        """
        self._on_accepted = on_accepted
        self._on_acks = on_acks
        self._groups: dict[str, dict[Debt, int]] = {}
        self._runs: dict[tuple[int, int, str], Run] = {}
        """By the identities of the change and of what is answered, which a run holds, and the group."""
        self._until = 0.0
        self._no_run = Run("", None, None, 0.0, 0.0)
        self.run = self._no_run
        """The run that was counted last, or one that is over."""

    def add(self, group: str, debt: Debt) -> None:
        """Count a client."""
        _add(self._groups.setdefault(group, {}), debt, 1)

    def remove(self, group: str, debt: Debt) -> None:
        """Count a client no more."""
        self.flush()
        counts = self._groups[group]
        assert debt in counts, "a client that was not counted"
        _add(counts, debt, -1)
        if not counts:
            del self._groups[group]

    def step(self, group: str, change: Change, now: float) -> None:
        """Count that the debt of a client changed, from the first to the second."""
        run = self.run
        if change is run.change and group is run.group and now < run.until and run.answered is None:
            run.count += 1
        else:
            self.begin(group, change, now)

    def begin(self, group: str, change: Change | None, now: float, answered: object = None) -> None:
        """Count a change, an ACK, or both, that is another one than the last."""
        if now >= self._until or len(self._runs) >= RUNS_MAX:
            self.flush()
            self._until = now + RUN_S
        key = (id(change), id(answered), group)
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = Run(group, change, answered, now, self._until)
        run.count += 1
        self.run = run

    def interrupt(self) -> None:
        """Have ``begin`` called for the next one, also if it is equal to the last."""
        self.run = self._no_run

    def move(self, group: str, before: Debt, after: Debt, now: float, count: int = 1) -> None:
        """Count that the debt of ``count`` clients changed."""
        self.flush()
        self._move(group, before, after, now, count)

    def _move(self, group: str, before: Debt, after: Debt, now: float, count: int) -> None:
        counts = self._groups[group]
        _add(counts, before, -count)
        _add(counts, after, count)
        lacked, lacks = before.oldest, after.oldest
        if lacked > EVERYTHING and (not lacks or lacks > lacked):
            self._on_accepted(group, lacked, now, count)

    def flush(self) -> None:
        """Count the changes and ACKs that are not counted yet."""
        if not self._runs:
            return
        runs, self._runs, self.run = self._runs, {}, self._no_run
        for run in runs.values():
            if run.change is not None:
                self._move(run.group, *run.change, run.at, run.count)
            if run.answered is not None:
                self._on_acks(run.answered, run.group, run.count)

    def counts(self) -> dict[str, dict[Debt, int]]:
        """Return the numbers of clients by group and debt."""
        self.flush()
        return {group: dict(counts) for group, counts in self._groups.items()}

    def at(self, group: str, revision: int) -> Acceptance:
        """Return how many of a group's clients have accepted a revision. O(distinct debts)."""
        self.flush()
        return acceptance(self._groups.get(group, {}), revision)


def _add(counts: dict[Debt, int], debt: Debt, count: int) -> None:
    """Add to the number of clients that owe this. It may be negative until all runs are counted, as they are unordered.

    Numbers of 0 are left out.
    """
    total = counts.get(debt, 0) + count
    if total:
        counts[debt] = total
    else:
        del counts[debt]


def acceptance(counts: Mapping[Debt, int], revision: int) -> Acceptance:
    """Return how many clients, counted by debt, have accepted a revision."""
    accepted = pending = rejected = 0
    for debt, count in counts.items():
        if debt.is_rejected(revision):
            rejected += count
        elif debt.lacks(revision):
            pending += count
        else:
            accepted += count
    return Acceptance(accepted, pending, rejected)
