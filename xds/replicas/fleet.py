"""What is asked of the fleet, answered by all replicas together: who owes what, which nodes there are.

Each replica keeps the known nodes of all: it follows those of the others, a few seconds late, and up to date with each
question about debts. So a node that moved from one replica to another is connected, and not gone; and the nodes of a
replica that is silent are still known. See docs/protocol.md#convergence.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import structlog
from pydantic import Field

from xds.process.background import Background
from xds.protocol.convergence import Debt, Debts, without_best
from xds.protocol.holders import Holders, HoldersQuery
from xds.protocol.inspection import Inspection, InspectQuery
from xds.protocol.status import NodesFound, NodesQuery, joined
from xds.registry.known_nodes import KnownNode, KnownNodes
from xds.replicas.asking import Answers, Missing
from xds.replicas.inspected import INSPECT, InspectionTold, heard, told
from xds.replicas.membership import Known, Member
from xds.replicas.questions import question
from xds.replicas.replicas import Replicas

log = structlog.get_logger("xds")
FOLLOW_S = 2.0
"""How often the known nodes of the other replicas are read."""
NODES_MAX = 5_000
"""Known nodes in one answer; the rest follows with the next question."""
SERIALS = 2**63
VANISHED = "its replica {name} is silent"
ENDED = "its replica {name} ended"
Revision = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DebtsAsked:
    """``since``: the number of the last change of known nodes that the asker has of the one asked; 0 for none."""

    since: Annotated[int, Field(ge=0, lt=SERIALS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """How many nodes of a group owe the same."""

    group: str
    owed: Revision
    rejected: Revision
    mending: Revision = 0
    count: Annotated[int, Field(ge=1, le=2**31)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DebtsTold:
    """What the nodes of one replica owe, and which of its known nodes changed since ``DebtsAsked.since``."""

    epoch: str
    revision: Revision
    debts: list[Owed]
    missing_workers: list[str]
    uncounted: list[str]
    """The ids of nodes that have connected to it since, and are not counted in ``debts``."""
    nodes: list[KnownNode]
    serial: Annotated[int, Field(ge=0, lt=SERIALS)]
    """The number of the last of these changes."""
    is_all: bool
    """Whether no more nodes changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a replica stands: the revision that it serves, and its open streams."""

    revision: Revision
    streams: Annotated[int, Field(ge=0)]


DEBTS = question("debts", DebtsAsked, DebtsTold)
HOLDERS = question("holders", HoldersQuery, Holders)
NODES = question("nodes", NodesQuery, NodesFound)
STANDING = question("standing", None, Standing)


@dataclass(slots=True)
class _Followed:
    """Another replica whose known nodes are followed: its name here, and the number of its last change known here."""

    name: str
    serial: int = 0
    is_behind: bool = False
    """It has told some of its nodes, and there are more."""
    was_read: bool = False
    """All of its nodes were known here at some time."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """What the others said of their debts, the replicas that are missing, and ``Debts.is_blind``."""

    told: Mapping[str, DebtsTold]
    """By the name of the replica."""
    missing: tuple[str, ...]
    is_blind: bool


class Fleet:
    """Joins this replica's answers with those of the others.

    ``debts``, ``nodes``, ``inspect`` and ``holders`` answer for this replica alone.
    """

    def __init__(
        self,
        replicas: Replicas,
        known: KnownNodes,
        *,
        epoch: Callable[[], str],
        debts: Callable[[], Awaitable[Debts]],
        nodes: Callable[[NodesQuery], Awaitable[NodesFound]],
        inspect: Callable[[InspectQuery], Awaitable[Inspection]],
        holders: Callable[[HoldersQuery], Awaitable[Holders]],
        standing: Callable[[], Awaitable[Standing]],
        probe: Callable[[Iterable[str]], None],
    ) -> None:
        """``probe`` finds out whether the clients of nodes are still there, which came to another replica."""
        self._probe = probe
        self._replicas = replicas
        self._known = known
        self._epoch = epoch
        self._own_debts = debts
        self._own_nodes = nodes
        self._own_inspection = inspect
        self._own_holders = holders
        self._followed: dict[str, _Followed] = {}
        self._following: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._begun = self._answered = 0
        self._last: Debts | None = None
        known.follow()
        replicas.answering.add(DEBTS, self._tell_debts)
        replicas.answering.add(NODES, nodes)
        replicas.answering.add(HOLDERS, holders)
        replicas.answering.add(INSPECT, self._tell_inspection)
        replicas.answering.add(STANDING, lambda _query: standing())

    def start(self, background: Background) -> None:
        """Follow the known nodes of the other replicas."""
        self._following = background.keep("follow the nodes of other replicas", self._follow)

    async def stop(self) -> None:
        """Follow them no more."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    # --- Answers of the whole fleet ----------------------------------------------------------------------------------

    async def debts(self) -> Debts:
        """Return what the nodes of all replicas that answer owe, and those that are known and connected to none.

        One question is asked at a time. Who asks meanwhile gets the answer to the next one, with all others who do.
        Raises StreamRefusedError if no process of this replica answers.
        """
        wanted = self._begun + 1
        async with self._turn:
            if self._answered >= wanted and self._last is not None:
                return self._last
            self._begun += 1
            number = self._begun
            self._last = await self._join_debts()
            self._answered = number
            return self._last

    async def _join_debts(self) -> Debts:
        """Ask the others first: a node that comes to this replica meanwhile is counted here too. A node that several
        have counted is left out, all but once, of those that owe the least; one that leaves this replica is counted as
        gone. So none is missed, or taken for better.
        """
        heard = await self._ask_debts()
        own = await self._own_debts()
        told = heard.told.values()
        sums = Debts.sum([own, *map(_debts_of, told)])
        workers = (worker for each in told for worker in each.missing_workers)
        by_group = dict(sums.by_group)
        for group, number in self._counted_again(own, heard.told).items():
            if group in by_group:
                by_group[group] = without_best(by_group[group], number)
        return replace(
            sums,
            by_group=by_group,
            gone=self._gone(own, told),
            missing_workers=(*own.missing_workers, *workers),
            missing_replicas=heard.missing,
            is_blind=heard.is_blind,
        )

    def _counted_again(self, own: Debts, told: Mapping[str, DebtsTold]) -> Mapping[str, int]:
        """Return by group how often nodes were counted that another replica has counted as well."""
        uncounted = {name: frozenset(each.uncounted) for name, each in told.items()}
        again: Counter[str] = Counter()
        for node_id in self._known.on_several:
            counted = int(bool(self._known.sessions(node_id)) and node_id not in own.uncounted)
            counted += sum(
                name in uncounted and node_id not in uncounted[name] for name in self._known.replicas(node_id)
            )
            if counted > 1 and (group := self._known.group_of(node_id)) is not None:
                again[group] += counted - 1
        return again

    def _gone(self, own: Debts, told: Collection[DebtsTold]) -> Mapping[str, int]:
        """Return how many nodes count as gone: those too that came to another replica after it had counted."""
        gone = dict(own.gone)
        for node_id in {node_id for each in told for node_id in each.uncounted}:
            group = self._known.group_of(node_id)
            if group is not None and not self._known.is_gone(node_id) and not self._known.sessions(node_id):
                gone[group] = gone.get(group, 0) + 1
        return gone

    async def nodes(self, query: NodesQuery) -> NodesFound:
        """Return the nodes of all replicas that match a query. This replica knows all that are gone."""
        connected = replace(query, known=False)
        answers, own = await asyncio.gather(
            self._replicas.ask(NODES, lambda _member: connected), self._own_nodes(query)
        )
        said = [_named(own, self._replicas.name, is_only=not answers.found)]
        said += (_named(each, self._name_of(member)) for member, each in answers.found)
        return replace(joined(said, query), missing_replicas=self._missing(answers))

    async def inspect(self, query: InspectQuery) -> Inspection:
        """Return the connections of a node to all replicas, in full. What others tell has no secrets."""
        answers, own = await asyncio.gather(
            self._replicas.ask(INSPECT, lambda _member: query), self._inspect_own(query)
        )
        several = [own, *(heard(each, self._name_of(member)) for member, each in answers.found)]
        return replace(Inspection.joined(several), missing_replicas=self._missing(answers))

    async def _inspect_own(self, query: InspectQuery) -> Inspection:
        own = await self._own_inspection(query)
        name = self._replicas.name
        return replace(
            own,
            clients=tuple(replace(each, summary=replace(each.summary, replica=name)) for each in own.clients),
        )

    async def holders(self, query: HoldersQuery) -> Holders:
        """Return which clients of all replicas have which version of a resource."""
        answers, own = await asyncio.gather(
            self._replicas.ask(HOLDERS, lambda _member: query), self._own_holders(query)
        )
        said = (
            replace(each, missing_workers=_of(self._name_of(member), each.missing_workers))
            for member, each in answers.found
        )
        return replace(Holders.joined([own, *said]), missing_replicas=self._missing(answers))

    async def standings(self) -> Sequence[tuple[Member, Standing | Missing]]:
        """Return the other replicas by name, each with how it stands or why it did not say so."""
        answers = await self._replicas.ask(STANDING, lambda _member: None)
        said: list[tuple[Member, Standing | Missing]] = [
            *answers.found,
            *((each.member, each) for each in answers.missing),
        ]
        return sorted(said, key=lambda each: (each[0].name, each[0].api))

    def _missing(self, answers: Answers[Any]) -> tuple[str, ...]:
        away = self._replicas.membership.away
        return (*([f"other replicas can't be looked up: {away}"] if away else []), *answers.missing_replicas)

    # --- The known nodes of the others -------------------------------------------------------------------------------

    async def _ask_debts(self) -> _Heard:
        """Return what the others owe, with their known nodes merged, and those that are missing."""
        self._forget()
        answers = await self._replicas.ask(DEBTS, lambda member: DebtsAsked(since=self._follow_of(member).serial))
        missing = list(self._missing(answers))
        is_blind = bool(self._replicas.membership.away)
        for absent in answers.missing:
            followed = self._follow_of(absent.member)
            is_blind = is_blind or absent.is_leased or not followed.was_read
            if not absent.is_leased and followed.serial:
                self._end(followed, VANISHED)
        said: dict[str, DebtsTold] = {}
        for member, each in answers.found:
            if each.epoch != self._epoch():
                missing.append(f"{member}: it follows another store, or not yet the same one")
                is_blind = True
                continue
            self._merge(member, each)
            if each.is_all:
                said[self._follow_of(member).name] = each
            else:
                missing.append(f"{member}: its nodes are still being read")
                is_blind = True
        return _Heard(said, tuple(sorted(missing)), is_blind)

    async def _follow(self) -> None:
        """Read the known nodes of the others regularly; at once, where there were more than one answer has."""
        while True:
            async with self._turn:
                await self._ask_debts()
            await asyncio.sleep(FOLLOW_S / 20 if any(each.is_behind for each in self._followed.values()) else FOLLOW_S)

    def _merge(self, member: Member, told: DebtsTold) -> None:
        followed = self._follow_of(member)
        self._known.merge(followed.name, told.nodes, _now_ms())
        twice = [node.id for node in told.nodes if node.is_connected and self._known.sessions(node.id)]
        if twice:
            self._probe(twice)
        followed.serial, followed.is_behind = told.serial, not told.is_all
        followed.was_read = followed.was_read or told.is_all

    def _follow_of(self, member: Member) -> _Followed:
        return self._followed.setdefault(member.instance, _Followed(self._name_of(member)))

    def _name_of(self, member: Member) -> str:
        """Return the name of another replica, with its address if it is not the only one with that name."""
        others = self._replicas.membership.others
        names = [self._replicas.name, *(each.member.name for each in others.values())]
        return member.name if names.count(member.name) == 1 else str(member)

    def _forget(self) -> None:
        """Note the nodes of replicas that ended, or that are not remembered any more, as gone."""
        others: Mapping[str, Known] = self._replicas.membership.others
        for instance in self._followed.keys() - others.keys():
            self._end(self._followed.pop(instance), ENDED)

    def _end(self, followed: _Followed, why: str) -> None:
        self._known.end_replica(followed.name, _now_ms(), why.format(name=followed.name))
        followed.serial, followed.is_behind = 0, False  # if it is back, all of it is read anew

    # --- Answers of this replica alone -------------------------------------------------------------------------------

    async def _tell_inspection(self, query: InspectQuery) -> InspectionTold:
        found = await self._own_inspection(query)
        return await asyncio.to_thread(told, found)

    async def _tell_debts(self, asked: DebtsAsked) -> DebtsTold:
        debts = await self._own_debts()
        nodes, serial = self._known.changes(asked.since, NODES_MAX, _now_ms())
        return DebtsTold(
            epoch=self._epoch(),
            revision=debts.revision,
            debts=[
                Owed(group=group, owed=debt.owed, rejected=debt.rejected, mending=debt.mending, count=count)
                for group, counts in debts.by_group.items()
                for debt, count in counts.items()
            ],
            missing_workers=[f"{self._replicas.name}: {worker}" for worker in debts.missing_workers],
            uncounted=list(debts.uncounted),
            nodes=nodes,
            serial=serial,
            is_all=len(nodes) < NODES_MAX,
        )


def _debts_of(told: DebtsTold) -> Debts:
    by_group: dict[str, dict[Debt, int]] = {}
    for each in told.debts:
        counts = by_group.setdefault(each.group, {})
        debt = Debt(each.owed, each.rejected, each.mending)
        counts[debt] = counts.get(debt, 0) + each.count
    return Debts(revision=told.revision, by_group=by_group)


def _named(found: NodesFound, name: str, *, is_only: bool = False) -> NodesFound:
    """Return what a replica found with its name, which its workers and problems are told apart by."""
    nodes = tuple(node if node.connected_s is None else replace(node, replica=name) for node in found.nodes)
    if is_only:
        return replace(found, nodes=nodes)
    return replace(
        found,
        nodes=nodes,
        missing_workers=_of(name, found.missing_workers),
        problems=_of(name, found.problems),
    )


def _of(replica: str, several: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{replica}: {each}" for each in several)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
