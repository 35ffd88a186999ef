"""Whether the connected nodes have accepted a revision, and waiting until they have.

The numbers are requested from the processes that serve streams; between questions, nothing is done for who waits.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from math import ceil

from xds.protocol.convergence import Debts

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
    debts: Callable[[], Awaitable[Debts]], goal: Goal, *, timeout_s: float
) -> AsyncIterator[Convergence]:
    """Yield how far a revision has come, at once and whenever that changes.

    Ends after a verdict other than pending, or after ``timeout_s``.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    last: Convergence | None = None
    while True:
        found = await convergence(debts, goal)
        if found != last:
            last = found
            yield found
        if found.verdict is not Verdict.PENDING or (left := until - loop.time()) <= 0:
            return
        await asyncio.sleep(min(ASK_EVERY_S, left))
