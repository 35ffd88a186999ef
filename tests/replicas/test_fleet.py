"""Replicas join their answers: nodes that move between them, silent replicas, and nodes that come meanwhile."""

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from support import resources as r
from support.waiting import turns

from xds.api.convergence import CONNECTED, KNOWN, Goal, Verdict, convergence
from xds.api.node_answers import differences_of_node_json, resources_of_node_json
from xds.model.groups import Locality, Node
from xds.model.types import CLUSTER, SECRET
from xds.protocol.convergence import NO_DEBT, Debt, Debts
from xds.protocol.holders import Holders, HoldersQuery, Holding
from xds.protocol.inspection import (
    Held,
    How,
    InspectedClient,
    Inspection,
    InspectQuery,
    NackSeen,
    Standing,
    Wait,
    Waiting,
)
from xds.protocol.paging import NodeState
from xds.protocol.status import NodesFound, NodesQuery, NodeSummary, Progress
from xds.registry.known_nodes import KnownNodes
from xds.registry.session_events import SessionBegan, SessionEnded
from xds.replicas import fleet as fleet_module
from xds.replicas.asking import Answers, Missing
from xds.replicas.fleet import DEBTS, HOLDERS, NODES, STANDING, Fleet
from xds.replicas.fleet import Standing as ReplicaStanding
from xds.replicas.inspected import INSPECT
from xds.replicas.membership import Known, Member
from xds.replicas.questions import Question
from xds.schema.ingest import ingest

G = "default"


class Answering:
    """Answers as ``xds.replicas.answering`` does, with the JSON of question and answer."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[Question[Any, Any], Callable[[Any], Any]]] = {}

    def add(self, kind: Question[Any, Any], answer: Callable[[Any], Any]) -> None:
        self.answers[kind.name] = kind, answer

    async def answer(self, name: str, query: bytes) -> bytes:
        kind, answer = self.answers[name]
        return kind.answer.dump_json(await answer(kind.query.validate_json(query)))


class Membership:
    def __init__(self) -> None:
        self.others: dict[str, Known] = {}
        self.away = ""


class Replica:
    """One replica, whose nodes the test connects; it is also what its ``Fleet`` asks the others by."""

    def __init__(self, name: str, world: "dict[str, Replica]") -> None:
        self.name = name
        self.world = world
        self.member = Member(
            instance=uuid4().hex, name=name, api=f"{name}.test:1", tls=False, epoch="e", version="1", started_at_ms=1
        )
        self.membership = Membership()
        self.answering = Answering()
        self.known = KnownNodes()
        self.epoch = "e"
        self.revision = 5
        self.debt_of: dict[str, Debt] = {}
        self.uncounted: tuple[str, ...] = ()
        self.is_silent = False
        self.asked: list[Any] = []
        self.told: list[bytes] = []
        self.probed: list[str] = []
        self.fleet = Fleet(
            self,  # type: ignore[arg-type]
            self.known,
            epoch=lambda: self.epoch,
            debts=self.debts,
            nodes=self.nodes,
            inspect=self.inspect,
            holders=self.holders,
            standing=self.standing,
            probe=self.probed.extend,
        )
        for other in world.values():
            self.membership.others[other.member.instance] = Known(member=other.member)
            other.membership.others[self.member.instance] = Known(member=self.member)
        world[self.member.instance] = self

    def come(self, *ids: str, debt: Debt = NO_DEBT) -> None:
        for each in ids:
            self.debt_of[each] = debt
            self.known.note(0, [SessionBegan(hash(each), 1_000, each, G, "c", "", (), "", Locality())])

    def go(self, *ids: str, at_ms: int = 2_000) -> None:
        for each in ids:
            del self.debt_of[each]
            self.known.note(0, [SessionEnded(hash(each), at_ms, 3, "it left")])

    async def debts(self) -> Debts:
        counts: dict[Debt, int] = {}
        for node_id, debt in self.debt_of.items():
            if node_id not in self.uncounted:
                counts[debt] = counts.get(debt, 0) + 1
        gone = dict(self.known.gone_by_group)
        if self.uncounted:
            gone[G] = gone.get(G, 0) + len(self.uncounted)
        return Debts(revision=self.revision, by_group={G: counts}, gone=gone, uncounted=self.uncounted)

    async def nodes(self, query: NodesQuery) -> NodesFound:
        found = [
            NodeSummary(node=_node(each), group=G, revision=5, state=NodeState.ACCEPTED, connected_s=1.0, types=())
            for each in self.debt_of
        ]
        if query.known:
            found += (
                NodeSummary(node=_node(each.id), group=G, revision=0, state=NodeState.GONE, connected_s=None, types=())
                for each in self.known.gone()
            )
        return NodesFound(nodes=tuple(found), total=len(found))

    async def inspect(self, query: InspectQuery) -> Inspection:
        """A node rejected its secret, and waits with a cluster."""
        if query.id not in self.debt_of:
            return Inspection()
        summary = (await self.nodes(NodesQuery(id=query.id))).nodes[0]
        waits = (Waiting(Wait.CLUSTERS_WARM, ("e",), 1.5),)
        standing = Standing(
            type_url=CLUSTER,
            name="c",
            how=How.WILDCARD,
            sent="v1",
            accepted=None,
            wanted="v2",
            progress=Progress.HELD,
            waits=waits,
        )
        secrets = [ingest(r.secret("s", r.DEMO_CERT, f"{key}\n{r.DEMO_KEY}")) for key in ("old-key", "new-key")]
        held = Held(type_url=SECRET, name="s", has=secrets[0], wanted=secrets[1], has_version=secrets[0].version)
        client = InspectedClient(
            summary=summary, gets_secrets=True, standings=(standing,), differences=(held,) * query.differs, cut=3
        )
        nack = NackSeen(at_ms=self.revision, type_url=SECRET, names=("s",), count=1, message="bad", nonce="1")
        return Inspection(clients=(client,), nacks=(nack,), missing_workers=("worker 2",))

    async def holders(self, query: HoldersQuery) -> Holders:
        """All of its nodes have the version that is its name."""
        ids = tuple(self.debt_of)
        holdings = tuple(
            Holding(group=group, version=version, clients=len(ids), examples=ids[:2])
            for group in query.groups
            for version in (self.name, None)
            if ids
        )
        return Holders(holdings=holdings, missing_workers=("worker 1",))

    async def standing(self) -> ReplicaStanding:
        return ReplicaStanding(revision=self.revision, streams=len(self.debt_of))

    async def ask(self, kind: Question[Any, Any], query: Callable[[Member], Any]) -> Answers[Any]:
        found, missing = [], []
        await turns(1)
        for instance, known in self.membership.others.items():
            other = self.world[instance]
            if other.is_silent:
                missing.append(Missing(member=known.member, reason="silent", is_leased=known.lost_at is None))
                continue
            told = await other.answering.answer(kind.name, kind.query.dump_json(query(known.member)))
            answer = kind.answer.validate_json(told)
            self.asked.append(answer)
            self.told.append(told)
            found.append((known.member, answer))
        return Answers(found=found, missing=missing)

    def lose(self, other: "Replica") -> None:
        """Learn that another replica lost its lease."""
        self.membership.others[other.member.instance] = Known(member=other.member, lost_at=1.0)

    async def at(self, revision: int = 5, of: str = KNOWN) -> tuple[int, int, int, int, Verdict]:
        found = await convergence(self.fleet.debts, Goal(revision=revision, of=of))
        return found.accepted, found.pending, found.rejected, found.gone, found.verdict


def _node(node_id: str) -> Node:
    return Node(id=node_id)


Pair = tuple[Replica, Replica]


@pytest.fixture
def pair() -> Pair:
    world: dict[str, Replica] = {}
    return Replica("a", world), Replica("b", world)


async def test_the_nodes_of_all_replicas_are_counted(pair: Pair) -> None:
    a, b = pair
    a.come("n1", "n2")
    b.come("n3", debt=Debt(owed=5))
    b.come("n4", debt=Debt(rejected=5))
    for each in pair:
        assert await each.at() == (2, 1, 1, 0, Verdict.REJECTED)
        assert await each.at(4) == (4, 0, 0, 0, Verdict.REACHED)
    assert (await a.fleet.debts()).missing_replicas == ()


async def test_a_revision_that_a_replica_does_not_serve_yet_is_not_reached(pair: Pair) -> None:
    a, b = pair
    b.revision = 4
    assert (await a.at())[-1] is Verdict.PENDING
    b.revision = 5
    assert (await a.at())[-1] is Verdict.REACHED


async def test_a_node_that_moved_to_another_replica_is_not_gone(pair: Pair) -> None:
    a, b = pair
    a.come("n1")
    assert await b.at() == (1, 0, 0, 0, Verdict.REACHED)
    a.go("n1")
    for each in pair:
        assert await each.at() == (0, 0, 0, 1, Verdict.PENDING)
    b.come("n1")
    for each in pair:
        assert await each.at() == (1, 0, 0, 0, Verdict.REACHED)
    b.go("n1", at_ms=3_000)
    for each in pair:
        assert await each.at() == (0, 0, 0, 1, Verdict.PENDING)
        node = each.known.node("n1", 9_000)
        assert node is not None
        assert (node.last_seen_ms, node.left_because, node.accepted_revision) == (3_000, "it left", 3)


async def test_a_stream_that_may_be_half_open_is_probed_once_its_node_comes_to_another_replica(pair: Pair) -> None:
    a, b = pair
    a.come("n1", "n2")
    await b.at()
    b.come("n1")
    for _ in range(2):
        assert await a.at() == (2, 0, 0, 0, Verdict.REACHED)
    b.debt_of["n1"] = Debt(owed=5)  # what the newer stream owes counts, whatever the older one has accepted
    assert await a.at() == (1, 1, 0, 0, Verdict.PENDING)
    assert await b.at() == (1, 1, 0, 0, Verdict.PENDING)
    await b.at()
    assert (a.probed, b.probed) == (["n1"], [])
    a.go("n1")
    b.debt_of["n1"] = NO_DEBT
    for each in pair:
        assert await each.at() == (2, 0, 0, 0, Verdict.REACHED)


async def test_a_node_with_streams_on_several_replicas_is_counted_once_by_each() -> None:
    world: dict[str, Replica] = {}
    several = [Replica(name, world) for name in "abcd"]
    a, b, c, d = several
    b.come("n1", "n2")
    c.come("n1")
    for _ in range(2):
        for each in several:
            assert await each.at() == (2, 0, 0, 0, Verdict.REACHED), each.name
    d.come("n1")
    c.debt_of["n1"] = Debt(owed=5)  # the oldest debt counts
    for each in several:
        assert await each.at() == (1, 1, 0, 0, Verdict.PENDING), each.name
    c.go("n1", at_ms=3_000)
    for each in several:
        assert await each.at() == (2, 0, 0, 0, Verdict.REACHED), each.name
    c.come("n1")
    for each in several:
        await each.at()
    for each in (a, b, d):  # c is lost: what it counted is not there, and what the others counted stays
        del each.membership.others[c.member.instance]
        assert await each.at() == (2, 0, 0, 0, Verdict.REACHED), each.name
    b.go("n1", at_ms=4_000)
    d.go("n1", at_ms=5_000)
    for each in (a, b, d):
        assert await each.at() == (1, 0, 0, 1, Verdict.PENDING), each.name


async def test_a_node_that_a_silent_replica_has_too_is_counted_by_the_one_that_answers(pair: Pair) -> None:
    a, b = pair
    a.come("n1")
    b.come("n1")
    assert (await a.at())[:4] == (1, 0, 0, 0)
    b.is_silent = True
    assert (await a.at())[:4] == (1, 0, 0, 0)


async def test_who_asks_while_a_question_is_asked_shares_the_next_answer(pair: Pair) -> None:
    a, b = pair
    b.come("n1")
    found = await asyncio.gather(*(a.at() for _ in range(10)))
    assert found == [(1, 0, 0, 0, Verdict.REACHED)] * 10
    assert len(a.asked) == 2  # the first who asked, and all others together


async def test_a_silent_replica_that_has_its_lease_keeps_revisions_from_being_reached(pair: Pair) -> None:
    a, b = pair
    a.come("n1")
    b.come("n2")
    await a.at()
    b.is_silent = True
    assert await a.at() == (1, 0, 0, 0, Verdict.PENDING)
    assert await a.at(of=CONNECTED) == (1, 0, 0, 0, Verdict.REACHED)
    debts = await a.fleet.debts()
    assert (debts.missing_replicas, debts.is_blind) == (("b (b.test:1): silent",), True)
    b.is_silent = False
    assert await a.at() == (2, 0, 0, 0, Verdict.REACHED)


async def test_the_nodes_of_a_replica_whose_lease_is_lost_are_gone_until_they_come_elsewhere(pair: Pair) -> None:
    a, b = pair
    a.come("n1")
    b.come("n2", "n3")
    await a.at()
    b.is_silent = True
    a.lose(b)
    assert await a.at() == (1, 0, 0, 2, Verdict.PENDING)
    a.come("n2", "n3")
    assert await a.at() == (3, 0, 0, 0, Verdict.REACHED)
    assert (await a.fleet.debts()).missing_replicas == ("b (b.test:1): silent",)


async def test_a_replica_that_is_back_has_its_nodes_again(pair: Pair) -> None:
    a, b = pair
    b.come("n1", "n2")
    await a.at()
    b.is_silent = True
    a.lose(b)
    assert await a.at() == (0, 0, 0, 2, Verdict.PENDING)
    b.is_silent = False
    a.membership.others[b.member.instance] = Known(member=b.member)
    assert await a.at() == (2, 0, 0, 0, Verdict.REACHED)


async def test_a_replica_that_ended_is_not_missing_and_its_nodes_are_gone(pair: Pair) -> None:
    a, b = pair
    b.come("n1")
    await a.at()
    del a.membership.others[b.member.instance]
    assert await a.at() == (0, 0, 0, 1, Verdict.PENDING)
    node = a.known.node("n1", 0)
    assert node is not None
    assert node.left_because == "its replica b ended"
    a.come("n1")
    assert await a.at() == (1, 0, 0, 0, Verdict.REACHED)


async def test_a_replica_that_was_never_read_may_have_any_nodes(pair: Pair) -> None:
    a, b = pair
    b.is_silent = True
    a.lose(b)
    assert (await a.at())[-1] is Verdict.PENDING


async def test_while_etcd_is_away_nobody_knows_which_replicas_there_are(pair: Pair) -> None:
    a, _ = pair
    a.membership.away = "etcd does not answer"
    debts = await a.fleet.debts()
    assert (debts.is_blind, debts.missing_replicas) == (
        True,
        ("other replicas can't be looked up: etcd does not answer",),
    )


async def test_a_replica_of_another_store_is_missing(pair: Pair) -> None:
    a, b = pair
    b.come("n1")
    b.epoch = "other"
    assert await a.at() == (0, 0, 0, 0, Verdict.PENDING)
    assert "follows another store" in (await a.fleet.debts()).missing_replicas[0]


async def test_nodes_that_came_after_a_replica_had_counted_are_not_left_out(pair: Pair) -> None:
    a, b = pair
    b.come("n1", "n2")
    b.uncounted = ("n2",)
    assert await a.at() == (1, 0, 0, 1, Verdict.PENDING)
    assert await b.at() == (1, 0, 0, 1, Verdict.PENDING)
    b.uncounted = ()
    assert await a.at() == (2, 0, 0, 0, Verdict.REACHED)


async def test_many_nodes_are_read_in_several_answers(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "NODES_MAX", 3)
    a, b = pair
    b.come(*(f"n{number}" for number in range(8)))
    assert (await a.at())[-1] is Verdict.PENDING
    assert "still being read" in (await a.fleet.debts()).missing_replicas[0]
    assert await a.at() == (8, 0, 0, 0, Verdict.REACHED)
    assert len(a.known) == 8


async def test_a_question_has_only_the_nodes_that_changed_and_none_goes_in_circles(pair: Pair) -> None:
    a, b = pair
    c = Replica("c", a.world)
    a.come("n1", "n2")
    b.come("n3")
    for _ in range(3):
        for each in (a, b, c):
            await each.at()
    for each in (a, b, c):
        each.asked.clear()
        assert await each.at() == (3, 0, 0, 0, Verdict.REACHED)
        assert [told.nodes for told in each.asked] == [[], []]
    a.go("n2")
    c.asked.clear()
    assert await c.at() == (2, 0, 0, 1, Verdict.PENDING)
    assert [[node.id for node in told.nodes] for told in c.asked] == [["n2"], []]


async def test_nodes_are_listed_once_with_their_replica(pair: Pair) -> None:
    a, b = pair
    a.come("n1", "n3")
    b.come("n2")
    await a.at()
    await b.at()
    a.go("n3")
    await b.at()
    for each in pair:
        found = await each.fleet.nodes(NodesQuery(known=True))
        assert sorted((node.node.id, node.replica, node.state.value) for node in found.nodes) == [
            ("n1", "a", "accepted"),
            ("n2", "b", "accepted"),
            ("n3", "", "gone"),
        ]
        assert found.missing_replicas == ()


@pytest.mark.parametrize("differs", [False, True])
async def test_a_node_is_told_in_full_by_any_replica(pair: Pair, *, differs: bool) -> None:
    a, b = pair
    b.come("n1")
    asked = InspectQuery(id="n1", differs=differs)
    own, other = await b.fleet.inspect(asked), await a.fleet.inspect(asked)
    assert [client.summary.replica for client in (*own.clients, *other.clients)] == ["b", "b"]
    assert resources_of_node_json(own, "n1")["connections"] == resources_of_node_json(other, "n1")["connections"]
    assert differences_of_node_json(own, "n1")["connections"] == differences_of_node_json(other, "n1")["connections"]
    assert (own.nacks, own.missing_workers) == (other.nacks, ("worker 2",))
    assert (other.missing_workers, other.missing_replicas) == (("b: worker 2",), ())
    assert differs == any(b"[redacted]" in base64.b64decode(each) for each in bodies_of(a.told[-1]))
    assert not any(b"-key" in base64.b64decode(each) for each in bodies_of(a.told[-1]))


def bodies_of(told: bytes) -> list[str]:
    """Return the resources in another replica's answer, in base64."""
    clients = json.loads(told)["clients"]
    return [held[one]["encoded"] for client in clients for held in client["differences"] for one in ("has", "wanted")]


async def test_a_node_with_streams_on_two_replicas_is_told_of_both_and_a_silent_one_is_named(pair: Pair) -> None:
    a, b = pair
    for each in pair:
        each.come("n1")
    b.revision = 6
    found = await a.fleet.inspect(InspectQuery(id="n1"))
    assert [client.summary.replica for client in found.clients] == ["a", "b"]
    assert [nack.at_ms for nack in found.nacks] == [6, 5]
    assert await a.fleet.inspect(InspectQuery(id="unknown")) == Inspection()
    b.is_silent = True
    found = await a.fleet.inspect(InspectQuery(id="n1"))
    assert [client.summary.replica for client in found.clients] == ["a"]
    assert found.missing_replicas == ("b (b.test:1): silent",)


async def test_who_has_which_version_is_counted_over_replicas(pair: Pair) -> None:
    a, b = pair
    a.come("n1")
    b.come("n2", "n3")
    asked = HoldersQuery(type_url=CLUSTER, name="c", groups=(G,))
    found = await a.fleet.holders(asked)
    assert [(each.version, each.clients, each.examples) for each in found.holdings] == [
        (None, 3, ("n1", "n2", "n3")),
        ("a", 1, ("n1",)),
        ("b", 2, ("n2", "n3")),
    ]
    assert (found.missing_workers, found.missing_replicas) == (("b: worker 1", "worker 1"), ())
    b.is_silent = True
    found = await a.fleet.holders(asked)
    assert ([each.clients for each in found.holdings], found.missing_replicas) == ([1, 1], ("b (b.test:1): silent",))


async def test_two_replicas_of_one_name_are_told_apart() -> None:
    world: dict[str, Replica] = {}
    a, b = Replica("x", world), Replica("x", world)
    b.member = replace(b.member, api="b:1")
    b.come("n1")
    a.come("n2")
    assert await a.at() == (2, 0, 0, 0, Verdict.REACHED)
    assert {node.replica for node in (await a.fleet.nodes(NodesQuery())).nodes} == {"x", "x (x.test:1)"}


async def test_each_replica_says_how_it_stands(pair: Pair) -> None:
    a, b = pair
    b.come("n1")
    assert list(await a.fleet.standings()) == [(b.member, ReplicaStanding(revision=5, streams=1))]
    b.is_silent = True
    assert [(member, str(found)) for member, found in await a.fleet.standings()] == [(b.member, "b (b.test:1): silent")]


@pytest.mark.parametrize("question", [DEBTS, HOLDERS, INSPECT, NODES, STANDING], ids=lambda each: each.name)
def test_no_answer_has_bytes_which_json_can_t_have(question: Any) -> None:
    for adapter in (question.query, question.answer):
        schemas = json.dumps(adapter.json_schema(mode="serialization"))
        assert '"format": "binary"' not in schemas


def test_the_question_has_bounds() -> None:
    for wrong in (b'{"since": -1}', b'{"since": 9223372036854775808}', b"{}"):
        with pytest.raises(ValueError, match="since"):
            DEBTS.query.validate_json(wrong)
