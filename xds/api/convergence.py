"""Whether the connected nodes have accepted a revision, and waiting until they have.

The numbers are requested from the processes that serve streams; between questions, nothing is done for who waits.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from enum import Enum
from math import ceil

from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.types import short_name
from xds.protocol.convergence import Debts
from xds.protocol.status import NodesFound, NodesQuery, NodeSummary

TIMEOUT_S_MAX = 86_400
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
    """What is waited for: that ``quorum`` of the connected nodes have accepted a revision.

    ``quorum`` is a share, more than 0 and at most 1. ``group`` is None for the nodes of all groups. The goal is missed
    as soon as more than ``rejected_max`` nodes reject the revision.
    """

    revision: int
    group: str | None = None
    quorum: float = 1.0
    rejected_max: int = 0

    def check(self, timeout_s: float) -> None:
        """Raise ChangesetRejectedError if the goal or the time-out is none."""
        problems = []
        if not 0 < self.quorum <= 1:
            what = f"{self.quorum:g} is not more than 0 and at most 1"
            problems.append(Problem(what=what, hint="0.99 for 99 of 100 nodes", field="quorum"))
        if not 0 <= timeout_s <= TIMEOUT_S_MAX:
            problems.append(Problem(what=f"{timeout_s:g} is not a time up to {TIMEOUT_S_MAX:,} s", field="timeout_s"))
        if problems:
            raise ChangesetRejectedError(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class LackingNode:
    """A node that has not accepted a revision. ``since``: the oldest revision that it has not accepted."""

    id: str
    group: str
    is_rejected: bool
    since: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """The numbers of connected nodes that have accepted a revision, or not.

    ``published`` is the oldest revision that all processes serve: while it is older than the goal, nothing is known of
    the goal's own revision. ``missing_workers`` did not answer, so their nodes are not counted.
    """

    goal: Goal
    published: int
    accepted: int
    pending: int
    rejected: int
    missing_workers: tuple[str, ...] = ()
    lacking: tuple[LackingNode, ...] = ()
    """Some of the nodes that have not accepted it, in the last answer."""

    @property
    def nodes(self) -> int:
        """The number of connected nodes."""
        return self.accepted + self.pending + self.rejected

    @property
    def verdict(self) -> Verdict:
        """How far the revision has come."""
        if self.published < self.goal.revision:
            return Verdict.PENDING
        if self.rejected > self.goal.rejected_max:
            return Verdict.REJECTED
        if self.missing_workers or self.accepted < ceil(self.goal.quorum * self.nodes - 1e-9):
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
        missing_workers=found.missing_workers,
    )


async def watch_convergence(
    debts: Callable[[], Awaitable[Debts]],
    goal: Goal,
    *,
    timeout_s: float,
    nodes: Callable[[NodesQuery], Awaitable[NodesFound]] | None = None,
) -> AsyncIterator[Convergence]:
    """Yield how far a revision has come, at once and whenever that changes.

    Ends after a verdict other than pending, or after ``timeout_s``. If the revision was not reached then, the last one
    names nodes that lack it, as ``nodes`` finds them.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    last: Convergence | None = None
    while True:
        found = await convergence(debts, goal)
        left = until - loop.time()
        if found.verdict is not Verdict.PENDING or left <= 0:
            if nodes is not None and found.verdict is not Verdict.REACHED:
                query = NodesQuery(group=goal.group, lacks=goal.revision, limit=LACKING_MAX)
                lacking = (await nodes(query)).nodes[:LACKING_MAX]
                found = replace(found, lacking=tuple(_lacking(each, goal.revision) for each in lacking))
            yield found
            return
        if found != last:
            last = found
            yield found
        await asyncio.sleep(min(ASK_EVERY_S, left))


def _lacking(node: NodeSummary, revision: int) -> LackingNode:
    is_rejected = 0 < node.debt.rejected <= revision
    reasons = []
    for each in node.types:
        name = short_name(each.type_url)
        if is_rejected and each.nacked:
            reasons.append(f"it rejected {name} {', '.join(each.nacked[:3])}: {each.error[:300]}")
        elif not is_rejected and (each.unacked or each.pending):
            parts = [f"{each.unacked} not answered"] * bool(each.unacked) + ["more to be sent"] * bool(each.pending)
            reasons.append(f"{name}: {', '.join(parts)}")
    return LackingNode(
        id=node.node.id,
        group=node.group,
        is_rejected=is_rejected,
        since=node.debt.rejected if is_rejected else node.debt.owed,
        reason="; ".join(reasons),
    )
