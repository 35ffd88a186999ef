"""Whether the known nodes have accepted a revision, and waiting until they have.

The numbers are requested from the processes that serve streams; between questions, nothing is done for who waits.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice
from math import ceil

from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.types import short_name
from xds.protocol.blame import rejected_text
from xds.protocol.convergence import Debts
from xds.protocol.status import NodesFound, NodesQuery, NodeSummary
from xds.registry.known_nodes import KnownNode

TIMEOUT_S_MAX = 86_400
KNOWN, CONNECTED = "known", "connected"
LACKING_MAX = 20
"""Nodes that are named which have not accepted a revision."""
ASK_EVERY_S = 0.1
"""The pause between two questions while somebody waits."""


class Verdict(Enum):
    """How far a revision has come."""

    REACHED = "reached"
    PENDING = "pending"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is waited for: that ``quorum`` of the nodes have accepted a revision.

    ``of`` says of which: of the ``known`` ones, or only of the ``connected`` ones. ``quorum`` is a share, more than 0
    and at most 1. ``group`` is None for the nodes of all groups. The goal is missed as soon as more than
    ``rejected_max`` nodes reject the revision.
    """

    revision: int
    group: str | None = None
    quorum: float = 1.0
    rejected_max: int = 0
    of: str = KNOWN

    def check(self, timeout_s: float) -> None:
        """Raise ChangesetRejectedError if the goal or the time-out is none."""
        problems = []
        if not 0 < self.quorum <= 1:
            what = f"{self.quorum:g} is not more than 0 and at most 1"
            problems.append(Problem(what=what, hint="0.99 for 99 of 100 nodes", field="quorum"))
        if not 0 <= timeout_s <= TIMEOUT_S_MAX:
            problems.append(Problem(what=f"{timeout_s:g} is not a time up to {TIMEOUT_S_MAX:,} s", field="timeout_s"))
        if self.of not in (KNOWN, CONNECTED):
            problems.append(Problem(what=f"{self.of!r} is neither {KNOWN} nor {CONNECTED}", field="of"))
        if problems:
            raise ChangesetRejectedError(problems)


PAGE_MAX, PAGES_MAX = 100, 10
"""Streams that are looked at for nodes that lack a revision: those of one node may be many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LackingNode:
    """A node that has not accepted a revision. ``since``: the oldest one that it has not accepted, 0 if not known."""

    id: str
    group: str
    state: str
    """``pending``, ``rejected`` or ``gone``."""
    since: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """The numbers of nodes that have accepted a revision, or not. ``gone`` are known and not connected.

    ``published`` is the oldest revision that all processes serve: while it is older than the goal, nothing is known of
    the goal's own revision. ``missing_workers`` and ``missing_replicas`` did not answer, so their nodes are not
    counted as connected. ``is_blind``: a missing replica may have nodes that nobody else knows of.
    """

    goal: Goal
    published: int
    accepted: int
    pending: int
    rejected: int
    gone: int = 0
    missing_workers: tuple[str, ...] = ()
    missing_replicas: tuple[str, ...] = ()
    is_blind: bool = False
    lacking: tuple[LackingNode, ...] = ()
    """Some of the nodes that have not accepted it, in the last answer."""

    @property
    def nodes(self) -> int:
        """The number of nodes that count."""
        connected = self.accepted + self.pending + self.rejected
        return connected + self.gone if self.goal.of == KNOWN else connected

    @property
    def verdict(self) -> Verdict:
        """How far the revision has come."""
        if self.published < self.goal.revision:
            return Verdict.PENDING
        if self.rejected > self.goal.rejected_max:
            return Verdict.REJECTED
        if self.missing_workers or (self.is_blind and self.goal.of == KNOWN):
            return Verdict.PENDING
        needed = ceil(self.goal.quorum * self.nodes - 1e-9) or (1 if self.goal.quorum and self.nodes else 0)
        if self.accepted < needed:
            return Verdict.PENDING
        return Verdict.REACHED


async def convergence(debts: Callable[[], Awaitable[Debts]], goal: Goal) -> Convergence:
    """Return how far a revision has come. ``debts`` returns what the clients owe, and may raise StreamRefusedError."""
    found = await debts()
    accepted, pending, rejected = found.at(goal.revision, goal.group)
    return Convergence(
        goal=goal,
        published=found.revision,
        accepted=accepted,
        pending=pending,
        rejected=rejected,
        gone=found.gone_of(goal.group),
        missing_workers=found.missing_workers,
        missing_replicas=found.missing_replicas,
        is_blind=found.is_blind,
    )


async def watch_convergence(
    debts: Callable[[], Awaitable[Debts]],
    goal: Goal,
    *,
    timeout_s: float,
    nodes: Callable[[NodesQuery], Awaitable[NodesFound]] | None = None,
    gone: Callable[[str | None], Iterable[KnownNode]] = lambda _group: (),
) -> AsyncIterator[Convergence]:
    """Yield how far a revision has come, at once and whenever that changes.

    Ends after a verdict other than pending, or after ``timeout_s``. If the revision was not reached then, the last one
    names nodes that lack it, as ``nodes`` finds them, and ``gone`` in a group or in all.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    last: Convergence | None = None
    while True:
        found = await convergence(debts, goal)
        left = until - loop.time()
        if found.verdict is not Verdict.PENDING or left <= 0:
            if nodes is not None and found.verdict is not Verdict.REACHED:
                lacking = await _connected_lacking(nodes, goal)
                if goal.of == KNOWN:
                    others = (each for each in gone(goal.group) if each.id not in lacking)
                    lacking |= {each.id: _gone(each, goal.revision) for each in islice(others, LACKING_MAX)}
                found = replace(found, lacking=tuple(islice(lacking.values(), LACKING_MAX)))
            yield found
            return
        if found != last:
            last = found
            yield found
        await asyncio.sleep(min(ASK_EVERY_S, left))


async def _connected_lacking(
    nodes: Callable[[NodesQuery], Awaitable[NodesFound]], goal: Goal
) -> dict[str, LackingNode]:
    """Return some connected nodes that lack the goal's revision, by id; one with several streams as its worst."""
    lacking: dict[str, LackingNode] = {}
    query = NodesQuery(group=goal.group, lacks=goal.revision, limit=PAGE_MAX)
    for _ in range(PAGES_MAX):
        found = await nodes(query)
        for each in found.nodes:
            told = _lacking(each, goal.revision)
            known = lacking.setdefault(each.node.id, told)
            if (known.state, told.state) == ("pending", "rejected"):
                lacking[each.node.id] = told
        if len(lacking) >= LACKING_MAX or not found.has_more(query):
            break
        query = replace(query, after=found.nodes[-1].position)
    return lacking


def _gone(node: KnownNode, revision: int) -> LackingNode:
    ago_s = max(0.0, time.time() - node.last_seen_ms / 1000)
    since = node.accepted_revision + 1 if 0 < node.accepted_revision < revision else 0
    reason = f"it left {ago_s:.0f} s ago: {node.left_because or 'why is not known'}"
    return LackingNode(id=node.id, group=node.group, state="gone", since=since, reason=reason)


def _lacking(node: NodeSummary, revision: int) -> LackingNode:
    is_rejected = node.debt.is_rejected(revision)
    reasons = []
    for each in node.types:
        name = short_name(each.type_url)
        if is_rejected and (each.nacked or each.error):
            what = rejected_text(each.nacked, each.blamed, each.blamed_by)
            reasons.append(f"it rejected {f'{name} {what}'.strip()}: {each.error[:300]}")
        elif not is_rejected and (each.unacked or each.pending):
            parts = [f"{each.unacked} not answered"] * bool(each.unacked) + ["more to be sent"] * bool(each.pending)
            reasons.append(f"{name}: {', '.join(parts)}")
    return LackingNode(
        id=node.node.id,
        group=node.group,
        state="rejected" if is_rejected else "pending",
        since=node.debt.rejected if is_rejected else node.debt.oldest,
        reason="; ".join(reasons),
    )
