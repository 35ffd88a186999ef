"""Checks that a recorded history of writes is linearizable, by the model and the store's entries.

The place of a write that made an entry is its revision. Every other call (refused, without effect, dry run, read) must
have a place between its request and its answer at which the model gives the same result. As the entries' places are
fixed, and every other constraint is a lower bound, taking the earliest possible place for each call, in the order of
the requests, finds an order if there is one.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from support.write_model import CONFLICT, UNAVAILABLE, Op, State, outcome, shown


@dataclass(frozen=True, slots=True)
class Made:
    """The answer to a write that was made: its revision; ``again``: the id existed already."""

    revision: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer to a refused call: the status, and for a conflict the reported revision."""

    status: int
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """The answer to a read: the revision, and the part of the state that it shows (see ``shown``)."""

    revision: int
    shown: object


@dataclass(frozen=True, slots=True)
class Call:
    """An operation, the times of its request and answer, its server, and the answer.

    An answer of None: the outcome is unknown.
    """

    op: Op
    server: int
    asked: float
    answered: float
    answer: Made | Refused | Read | None


class NotLinearizableError(AssertionError):
    """No order of the calls explains the history."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The store's entry at a revision: the id of the change, and the resulting state."""

    id: str
    state: State


@dataclass(frozen=True, slots=True)
class Figures:
    """The number of calls by outcome, and the number of entries."""

    calls: int
    entries: int
    made: int
    unchanged: int
    again: int
    refused: dict[int, int]
    reads: int
    unknown: int

    def __str__(self) -> str:
        refused = ", ".join(f"{status}: {count}" for status, count in sorted(self.refused.items()))
        return (
            f"{self.calls} calls: {self.made} made {self.entries} entries, {self.unchanged} changed nothing, "
            f"{self.again} made before, refused {refused or 'none'}, {self.reads} reads, {self.unknown} unknown"
        )


def check(calls: Sequence[Call], entries: Sequence[Entry]) -> Figures:
    """Return figures of a linearizable history. Raises NotLinearizableError with the first contradiction.

    ``entries`` are the store's, from revision 1. Every entry must have been made by a call (no duplicates), and every
    call answered as made must have made its own entry (no losses).
    """
    states = [State(), *(entry.state for entry in entries)]
    makers = _makers(calls, entries, states)
    counts: Counter[str] = Counter()
    refused: Counter[int] = Counter()
    floors = _Floors()
    for call in sorted(calls, key=lambda each: each.asked):
        floor = floors.at(call)
        place: int | None = None
        match call.answer:
            case Made(revision, again):
                if id(call) in makers:
                    counts["made"] += 1
                    if revision <= floor:
                        raise NotLinearizableError(f"{call} is older than revision {floor}, answered before it began")
                    place = revision
                elif again or (0 < revision <= len(entries) and entries[revision - 1].id == call.op.id):
                    counts["again"] += 1
                    place = max(revision, floor)
                else:
                    counts["unchanged"] += 1
                    if revision < floor:
                        raise NotLinearizableError(f"{call} was decided on a state older than revision {floor}")
                    place = revision
            case Refused(status, told):
                refused[status] += 1
                if status == UNAVAILABLE:
                    continue  # nothing was changed, whatever the state
                place = _place_of_refusal(call, status, told, floor, states)
            case Read(revision, told_state):
                counts["reads"] += 1
                if revision >= len(states) or told_state != shown(states[revision], call.op):
                    raise NotLinearizableError(f"{call}: that is not the state at revision {revision}")
                if revision < floors.at_server(call):
                    raise NotLinearizableError(f"{call} is older than what its server answered before")
                floors.note(call, revision, is_read=True)
            case None:
                counts["unknown"] += 1
        if place is not None:
            floors.note(call, place)
    return Figures(
        calls=len(calls),
        entries=len(entries),
        made=counts["made"],
        unchanged=counts["unchanged"],
        again=counts["again"],
        refused=dict(refused),
        reads=counts["reads"],
        unknown=counts["unknown"],
    )


class _Floors:
    """The latest place of all calls answered before another call's request, in all and by server.

    A read returns its server's state, which may be older than another server's; but it never goes back.
    """

    def __init__(self) -> None:
        self._answered: list[tuple[float, int, int, bool, bool]] = []
        self._floor = 0
        self._by_server: Counter[int] = Counter()

    def at(self, call: Call) -> int:
        while self._answered and self._answered[0][0] < call.asked:
            _, server, place, is_told, is_read = heapq.heappop(self._answered)
            if is_told:
                self._by_server[server] = max(self._by_server[server], place)
            if not is_read:
                self._floor = max(self._floor, place)
        return self._floor

    def at_server(self, call: Call) -> int:
        self.at(call)
        return self._by_server[call.server]

    def note(self, call: Call, place: int, *, is_read: bool = False) -> None:
        is_told = not isinstance(call.answer, Refused) or call.answer.revision is not None  # else inferred here
        heapq.heappush(self._answered, (call.answered, call.server, place, is_told, is_read))


def _place_of_refusal(call: Call, status: int, told: int | None, floor: int, states: list[State]) -> int:
    """Return the first place not before ``floor`` at which the model refuses a call in the same way.

    Whether it precedes all changes requested later is checked when those get their places.
    """
    if status == CONFLICT and told is not None:
        if floor <= told < len(states) and outcome(states, told, call.op) == status:
            return told
        raise NotLinearizableError(f"{call}: at revision {told} there is no conflict, or it is older than {floor}")
    for place in range(floor, len(states)):
        if outcome(states, place, call.op) == status:
            return place
    raise NotLinearizableError(f"{call}: the model refuses it so at no revision from {floor} to {len(states) - 1}")


def _makers(calls: Sequence[Call], entries: Sequence[Entry], states: list[State]) -> set[int]:
    """Return the calls, by identity, that made the entries. Raises if an entry or a call is left over."""
    told: dict[int, list[Call]] = {}
    unknown = {call.op.id for call in calls if call.answer is None}
    for call in calls:
        if isinstance(call.answer, Made):
            told.setdefault(call.answer.revision, []).append(call)
    makers: set[int] = set()
    for revision, entry in enumerate(entries, 1):
        those = told.pop(revision, [])
        makers |= _makers_of(revision, entry, those, states, may_be_unknown=entry.id in unknown)
    for revision, those in told.items():
        if revision > 0:
            raise NotLinearizableError(f"revision {revision} was told, and is lost: {those[0]}")
        for call in those:
            if not _is_so(call.op, states, 0):
                raise NotLinearizableError(f"{call} was told to be so in the empty state")
    return makers


def _makers_of(
    revision: int, entry: Entry, those: list[Call], states: list[State], *, may_be_unknown: bool
) -> set[int]:
    before = states[revision - 1]
    fresh = [call for call in those if isinstance(call.answer, Made) and not call.answer.again and not call.op.dry_run]
    fresh.sort(key=lambda each: each.asked)
    makers: list[Call] = []
    if entry.state != before:
        alone = [c for c in fresh if c.op.kind != "push" and outcome(states, revision - 1, c.op) == entry.state]
        alone = [call for call in alone if call.op.id == entry.id] or alone
        makers = alone[:1]  # the others requested the same state, so theirs had no effect
    if not makers:
        makers = _merged([call for call in fresh if call.op.kind == "push"], before, entry.state)
    if not makers and not may_be_unknown:
        changed = {
            place: entry.state.resources.get(place)
            for place in {*entry.state.resources, *before.resources}
            if entry.state.resources.get(place) != before.resources.get(place)
        }
        raise NotLinearizableError(f"revision {revision} ({entry.id}) is what no call did, {changed} or rules: {those}")
    chosen = {id(call) for call in makers}
    for call in those:
        if id(call) in chosen or call.op.id == entry.id:
            continue  # equal ids are one change: two servers called concurrently may both report it as made
        assert isinstance(call.answer, Made)
        if call.answer.again:
            raise NotLinearizableError(f"{call} was told to be revision {revision}, which is {entry.id}")
        if not _is_so(call.op, states, revision):
            raise NotLinearizableError(f"{call} was told to be made at revision {revision}, which has no trace of it")
    return chosen


def _is_so(op: Op, states: list[State], at: int) -> bool:
    """Return whether an operation has no effect at a revision; for a dry run, whether it would be accepted."""
    after = outcome(states, at, op)
    return not isinstance(after, int) and (op.dry_run or after == states[at])


def _merged(pushes: list[Call], before: State, wanted: State) -> list[Call]:
    """Return the pushes that together lead from one state to another, none if they do not.

    Each writer pushes its own names, in order; so the order among writers does not matter.
    """
    made: list[Call] = []
    for call in pushes:
        after = outcome([before], 0, call.op)
        assert isinstance(after, State)
        if after != before:
            made.append(call)
            before = after
    return made if before == wanted else []
