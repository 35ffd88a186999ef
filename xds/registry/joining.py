"""Joins what several processes say of their clients, each at its own time, so that each node counts once.

A process answers at some time, and the table goes on with what the processes report afterwards. The answers together
are a *cut*: the sessions that each process had when it answered. Every node that was connected in the cut counts as
that, with the worst of its sessions, and every other known node as gone. The journal has what the table learned while
the question was asked; by the number of its events, each answer says how much of that it knew.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace

from xds.protocol.convergence import Debt, Debts, worst
from xds.registry.known_nodes import Journal, KnownNodes


@dataclass(frozen=True, slots=True)
class ProcessDebts:
    """What the clients of one process owe."""

    debts: Debts
    several: tuple[tuple[str, str, Debt], ...]
    """The id, group and debt of each of its sessions whose node has others, as far as that was asked for."""
    events: int
    """The number of events of its sessions before the answer."""


def joined_debts(
    answers: Mapping[int, ProcessDebts], known: KnownNodes, journal: Journal, missing: Set[int] = frozenset()
) -> Debts:
    """Return the sums over processes that answered. ``missing`` are those that did not."""
    found = Debts.sum(each.debts for each in answers.values())
    by_group = {group: dict(counts) for group, counts in found.by_group.items()}
    sessions: dict[str, list[tuple[str, Debt]]] = {}
    for answer in answers.values():
        for node_id, group, debt in answer.several:
            sessions.setdefault(node_id, []).append((group, debt))
    for node_id, several in sessions.items():
        if len(several) > 1:
            for group, debt in several:
                _add(by_group, group, debt, -1)
            _add(by_group, known.group_of(node_id) or several[-1][0], worst(debt for _, debt in several), 1)
    gone, uncounted = _gone(answers, known, journal, missing)
    return replace(found, by_group=by_group, gone=gone, uncounted=uncounted)


def _add(by_group: dict[str, dict[Debt, int]], group: str, debt: Debt, count: int) -> None:
    counts = by_group.setdefault(group, {})
    counts[debt] = counts.get(debt, 0) + count
    if not counts[debt]:
        del counts[debt]
    if not counts:
        del by_group[group]


def _gone(
    answers: Mapping[int, ProcessDebts], known: KnownNodes, journal: Journal, missing: Set[int]
) -> tuple[Mapping[str, int], tuple[str, ...]]:
    """Return how many nodes count as gone, by group, and those of them that have connected since the answers."""
    uncounted: list[str] = []
    gone = dict(known.gone_by_group)
    begun: set[tuple[int, int, str]] = set()
    left: set[str] = set()
    ids: set[str] = set()
    for entry in journal.entries:
        answer = answers.get(entry.process)
        if entry.process in missing or (answer is not None and entry.number <= answer.events):
            continue
        place = (entry.process, entry.session, entry.id)
        ids.add(entry.id)
        if entry.began:
            begun.add(place)
        elif place in begun:
            begun.discard(place)
        elif answer is not None:
            left.add(entry.id)
    for node_id in ids:
        group = known.group_of(node_id)
        if group is None:
            continue
        was_there = node_id in left or _was_there(node_id, known, answers.keys() | missing, begun)
        is_gone = known.is_gone(node_id)
        change = int(not was_there) - int(is_gone)
        if not was_there and not is_gone:
            uncounted.append(node_id)
        gone[group] = gone.get(group, 0) + change
        if not gone[group]:
            del gone[group]
    return gone, tuple(uncounted)


def _was_there(node_id: str, known: KnownNodes, processes: Set[int], begun: Iterable[tuple[int, int, str]]) -> bool:
    """Return whether a session of a node that is open now was open in the cut, or may have been."""
    return any(
        each.process in processes and (each.process, each.session, node_id) not in begun
        for each in known.sessions(node_id)
    )
