"""The history of a node is shared by the hubs of all processes on a port, as nodes may reconnect to another process."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from immutables import Map
from support.encoded import CDS, LDS, RDS, listener, static
from support.hubs import MakeWorld, World

from xds.model.groups import Node
from xds.model.resource import Resource
from xds.protocol.draining import Draining
from xds.protocol.node_history import (
    DrainingNodes,
    HistoryEntry,
    NackedNames,
    Share,
    _bytes_of,
    node_key,
    share_with_nobody,
)
from xds.protocol.status import Counters
from xds.protocol.subscription import NameSet, NameSets

NODES = [Node(id=name, cluster="c") for name in "mno"]
TYPES = (CDS, RDS)

events = st.tuples(
    st.sampled_from(["reject", "accept"]),
    st.sampled_from(NODES),
    st.sampled_from(TYPES),
    st.sets(st.sampled_from("abc"), min_size=1).map(frozenset),
)


def nacked_names(*, nodes_max: int, bytes_max: int = 1_000_000, share: Share = share_with_nobody) -> NackedNames:
    return NackedNames(nodes_max=nodes_max, bytes_max=bytes_max, share=share)


def known(nacked: NackedNames) -> dict[str, dict[str, NameSet]]:
    """Return every NACKed name by node and type, read by ``of``."""
    found = {node.id: {type_url: names for type_url in TYPES if (names := nacked.of(node, type_url))} for node in NODES}
    return {node: by_type for node, by_type in found.items() if by_type}


def happen(nacked: NackedNames, event: tuple[str, Node, str, frozenset[str]]) -> None:
    what, node, type_url, names = event
    (nacked.add if what == "reject" else nacked.accept)(node, type_url, NameSet.of(names))


@given(st.lists(events, max_size=20))
def test_a_process_that_receives_every_entry_has_the_same_names(history):
    other = nacked_names(nodes_max=10)
    nacked = nacked_names(nodes_max=10, share=lambda entry: other.remember(pickle.loads(pickle.dumps(entry))))
    for event in history:
        happen(nacked, event)
        assert known(other) == known(nacked)


@given(st.lists(events, max_size=20))
def test_a_new_process_receives_all_entries_at_once(history):
    nacked, late = nacked_names(nodes_max=10), nacked_names(nodes_max=10)
    for event in history:
        happen(nacked, event)
    for entry in nacked.entries():
        late.remember(entry)
    assert known(late) == known(nacked)


@given(st.lists(st.tuples(st.integers(0, 2), events), max_size=20))
def test_several_processes_that_share_entries_have_the_same_names(history):
    shared = [0]

    def pass_on(source: int, entry: HistoryEntry) -> None:
        shared[0] += 1
        for number, each in enumerate(all_of_them):
            if number != source:
                each.remember(entry)

    all_of_them = [nacked_names(nodes_max=10, share=lambda entry, n=number: pass_on(n, entry)) for number in range(3)]
    for where, event in history:
        happen(all_of_them[where], event)
    assert known(all_of_them[0]) == known(all_of_them[1]) == known(all_of_them[2])
    assert shared[0] <= len(history)  # an entry of another hub is not shared again: it would circulate for ever


def test_acks_of_names_that_are_not_nacked_are_not_shared():
    shared: list[HistoryEntry] = []
    nacked = nacked_names(nodes_max=10, share=shared.append)
    nacked.accept(NODES[0], CDS, NameSet.of("a"))
    assert shared == []
    nacked.add(NODES[0], CDS, NameSet.of("a"))
    nacked.accept(NODES[0], CDS, NameSet.of("b"))
    nacked.accept(NODES[0], CDS, NameSet.of("ab"))
    assert [(entry.rejected, entry.accepted) for entry in shared] == [
        (NameSet.of("a"), NameSet.of("")),
        (NameSet.of(""), NameSet.of("a")),
    ]


@pytest.mark.parametrize("nodes_max", [1, 3])
def test_the_nodes_remembered_are_bounded_and_the_longest_unseen_go_first(nodes_max):
    nacked, other = nacked_names(nodes_max=nodes_max), nacked_names(nodes_max=nodes_max)
    nodes = [Node(id=f"n{number}", cluster="c") for number in range(nodes_max + 2)]
    for node in nodes:
        nacked.add(node, CDS, NameSet.of("a"))
    for entry in [entry for node in nodes for entry in memories_of(node)]:
        other.remember(entry)
    for each in (nacked, other):
        assert [node.id for node in nodes if each.of(node, CDS)] == [node.id for node in nodes[2:]]
        assert len(each.by_node) == nodes_max


def memories_of(node: Node) -> list[HistoryEntry]:
    return [HistoryEntry(node=(node.cluster, node.id), type_url=CDS, rejected=NameSet.of("a"))]


def test_a_node_that_rejects_again_is_remembered_longer():
    nacked = nacked_names(nodes_max=2)
    for number in (0, 1, 0, 2):
        nacked.remember(HistoryEntry(node=("c", NODES[number].id), type_url=CDS, rejected=NameSet.of("a")))
    assert known(nacked).keys() == {"m", "o"}


def test_a_new_process_evicts_in_the_same_order():
    nacked, late = nacked_names(nodes_max=2), nacked_names(nodes_max=2)
    for number in (0, 1, 0):
        nacked.add(NODES[number], CDS, NameSet.of("a"))
    for entry in nacked.entries():
        late.remember(entry)
    for each in (nacked, late):
        each.add(NODES[2], CDS, NameSet.of("a"))
        assert known(each).keys() == {"m", "o"}


# --- Bounds ----------------------------------------------------------------------------------------------------------


def test_nodes_that_reject_the_same_names_share_one_set_across_processes():
    nacked = nacked_names(nodes_max=10_000)
    names = NameSet.of(f"cluster-{number}" for number in range(100))
    for number in range(500):
        entry = HistoryEntry(node=("c", f"n{number}"), type_url=CDS, rejected=NameSet.of(names.names))
        nacked.remember(pickle.loads(pickle.dumps(entry)))
    assert len({id(by_type[CDS]) for by_type in nacked.by_node.values()}) == 1
    assert nacked.bytes_kept < 500 * 1_000 + 2 * names.bytes_kept


def test_what_another_process_tells_is_unpacked_once_for_all_nodes_that_reject_the_same():
    """Unpacking 5,000 names takes milliseconds, and each of thousands of nodes may reject them."""
    here, told = nacked_names(nodes_max=10), list[HistoryEntry]()
    there = nacked_names(nodes_max=10, share=lambda entry: told.append(pickle.loads(pickle.dumps(entry))))
    for node in NODES:
        there.add(node, CDS, NameSet.of(["a", "b"]))
    there.accept(NODES[0], CDS, NameSet.of(["a", "b"]))
    for entry in told:
        here.remember(entry)
    assert here.by_node == there.by_node
    assert [entry.rejected._names is not None for entry in told if entry.rejected] == [True, False, False]
    assert told[-1].accepted._names is None


def test_what_nodes_rejected_is_bounded_in_bytes_and_the_longest_unseen_go_first():
    nacked = nacked_names(nodes_max=10_000, bytes_max=100_000)
    for number in range(200):
        nacked.add(Node(id=f"n{number}", cluster="c"), CDS, NameSet.of(f"{number}-{index}" for index in range(50)))
        assert nacked.bytes_kept <= 100_000
    kept = [int(node_id[1:]) for _, node_id in nacked.by_node]
    assert kept == list(range(200 - len(kept), 200))
    assert len(kept) > 5


def test_a_set_larger_than_the_bound_is_not_kept():
    nacked = nacked_names(nodes_max=10, bytes_max=10_000)
    nacked.add(NODES[0], CDS, NameSet.of(f"n{index}" for index in range(1_000)))
    assert (dict(nacked.by_node), nacked.bytes_kept) == ({}, 0)


@given(st.lists(events, max_size=30))
def test_the_byte_count_is_that_of_the_kept_entries(history):
    nacked = nacked_names(nodes_max=2)
    for event in history:
        happen(nacked, event)
    sets = {names for by_type in nacked.by_node.values() for names in by_type.values()}
    assert nacked.bytes_kept == sum(names.bytes_kept for names in sets) + 1_000 * len(nacked.by_node)
    for node in NODES:
        for type_url in TYPES:
            nacked.accept(node, type_url, NameSet.of(""))
    assert (dict(nacked.by_node), nacked.bytes_kept) == ({}, 0)


@given(st.sets(st.text(max_size=3)), st.sets(st.text(max_size=3)))
def test_name_sets_are_sets(ours, theirs):
    a, b = NameSet.of(ours), NameSet.of(theirs)
    assert a.union(b) == NameSet.of(ours | theirs)
    assert a.difference(b) == NameSet.of(ours - theirs)
    assert a.intersection(b) == NameSet.of(ours & theirs)
    assert (len(a), bool(a), set(a.names)) == (len(ours), bool(ours), ours)
    assert pickle.loads(pickle.dumps(a)) == a
    assert (a == b, "x" in a) == (ours == theirs, "x" in ours)
    assert a != ours


def test_name_sets_are_equal_by_their_names():
    sets = NameSets()
    first = sets.get(NameSet.of("ab"))
    assert sets.get(NameSet.of("ba")) is first
    assert repr(first) == "<NameSet ['a', 'b']>"
    assert len(sets) == 1
    del first
    assert len(sets) == 0


def test_long_names_of_nodes_are_remembered_by_a_digest():
    long, other = Node(id="n" * 60_000, cluster="c" * 60_000), Node(id="n" * 60_001, cluster="c" * 60_000)
    assert sum(map(len, node_key(long))) <= 400
    assert node_key(long) != node_key(other)
    assert node_key(NODES[0]) == ("c", "m")


# --- What is drained -------------------------------------------------------------------------------------------------

A = frozenset({"a"})
ON_A: Draining = Map({"l": ((A, 5.0),)})
drainings = st.dictionaries(st.sampled_from("xy"), st.just(((A, 5.0),)), max_size=2).map(Map)


def draining_nodes(*, nodes_max: int, bytes_max: int = 1_000_000) -> DrainingNodes:
    return DrainingNodes(nodes_max=nodes_max, bytes_max=bytes_max)


def left(nodes: DrainingNodes) -> dict[tuple[tuple[str, str], str], Draining]:
    return {(m.node, m.type_url): m.draining for m in nodes.entries() if m.draining is not None}


@given(st.lists(st.tuples(st.sampled_from("mno"), st.sampled_from([LDS, RDS]), drainings), max_size=12))
def test_draining_resources_add_up_per_node_and_type_until_an_empty_entry(history):
    nodes, late = draining_nodes(nodes_max=10), draining_nodes(nodes_max=10)
    expected: dict[tuple[tuple[str, str], str], Draining] = {}
    for node, type_url, draining in history:
        nodes.remember(HistoryEntry(node=("c", node), type_url=type_url, draining=draining))
        before = expected.get((("c", node), type_url), Map())
        expected[("c", node), type_url] = before.update(draining) if draining else Map()
    assert left(nodes) == {key: draining for key, draining in expected.items() if draining}
    assert len(nodes) == len({node for (node, _), draining in expected.items() if draining})
    for entry in nodes.entries():
        late.remember(pickle.loads(pickle.dumps(entry)))
    assert left(late) == left(nodes)
    assert nodes.bytes_kept == late.bytes_kept == sum(map(_bytes_of, left(nodes).values()))


def test_draining_resources_are_bounded_in_nodes():
    nodes = draining_nodes(nodes_max=2)
    for number in range(4):
        nodes.remember(HistoryEntry(node=("c", f"n{number}"), type_url=LDS, draining=ON_A))
    assert [node for node, _ in left(nodes)] == [("c", "n2"), ("c", "n3")]


def test_draining_resources_are_bounded_in_bytes():
    nodes = draining_nodes(nodes_max=1_000, bytes_max=10_000)
    for number in range(200):
        uses = frozenset(f"cluster-{index}" for index in range(number % 20))
        nodes.remember(HistoryEntry(node=("c", f"n{number}"), type_url=LDS, draining=Map({"l": ((uses, 5.0),)})))
        assert nodes.bytes_kept <= 10_000
    assert [node for node, _ in left(nodes)][-1] == ("c", "n199")


def test_each_table_applies_only_its_own_entries():
    nacked, nodes = nacked_names(nodes_max=2), draining_nodes(nodes_max=2)
    for entry in (
        HistoryEntry(node=("c", "m"), type_url=LDS, draining=ON_A),
        HistoryEntry(node=("c", "n"), type_url=LDS, rejected=NameSet.of("a")),
    ):
        nacked.remember(entry)
        nodes.remember(entry)
    assert (list(nacked.by_node), [node for node, _ in left(nodes)]) == ([("c", "n")], [("c", "m")])


# --- Two hubs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def here_and_there(make_world: MakeWorld) -> tuple[World, World]:
    """Two processes with the same resources that share their node history."""

    def share_with(number: int) -> Share:
        return lambda entry: worlds[number].hub.remember(pickle.loads(pickle.dumps(entry)))

    worlds = [make_world(share=share_with(1)), make_world(share=share_with(0))]
    return worlds[0], worlds[1]


def publish(worlds: tuple[World, World], *upserts: Resource, remove: list[Resource] | None = None) -> None:
    for world in worlds:
        world.publish(*upserts, remove=remove or [])


def test_what_one_process_saw_rejected_is_sent_again_by_the_other_whatever_is_reported(here_and_there):
    here, there = here_and_there
    publish(here_and_there, static("a"), static("b"))
    client = here.client()
    client.subscribe(CDS)
    client.ack(CDS)
    publish(here_and_there, static("b", 2))
    client.nack(CDS)
    publish(here_and_there, static("b", 1))
    moved = client.reconnect(world=there)
    assert moved.take() == ["CDS #1 b@1"]
    moved.ack(CDS)
    assert moved.reconnect(world=here).take() == []


def test_draining_resources_keep_their_clusters_at_another_process(here_and_there):
    here, there = here_and_there
    publish(here_and_there, static("a"), static("b"), listener("l", 1, clusters="a"))
    client = here.client()
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    publish(here_and_there, listener("l", 2, clusters="b"))
    client.ack_all()
    there.now = here.now
    moved = client.reconnect(world=there)
    publish(here_and_there, remove=[static("a")])
    moved.ack_all()
    assert [message for message in moved.messages if message.type_url == CDS] == []
    there.advance(601)
    moved.ack_all()
    assert str(moved.last(CDS)).endswith(" -a")


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "half-open"])
def test_draining_resources_keep_their_clusters_if_the_node_reconnects_before_its_dead_stream_is_noticed(
    here_and_there, noticed
):
    publish(here_and_there, static("a"), static("b"), listener("l", 1, clusters="a"))
    client = here_and_there[0].client()
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    publish(here_and_there, listener("l", 2, clusters="b"), remove=[static("a")])
    client.ack_all()
    for world in here_and_there:
        moved = client.reconnect(world=world, before_closing=not noticed)
        moved.ack_all()
        world.advance(100)
        moved.ack_all()
        assert "a" in moved.held[CDS]
        world.advance(500)
        moved.ack_all()
        assert "a" not in moved.held[CDS]


# --- Totals ----------------------------------------------------------------------------------------------------------

counters = st.builds(
    Counters, **{name: st.integers(0, 2**40) for name in ("streams_opened", "streams_closed", "acks", "response_bytes")}
)


@given(st.lists(counters, max_size=5))
def test_totals_of_several_are_the_sums_of_each(several):
    before = [(each.streams_opened, each.streams_closed) for each in several]
    total = Counters.sum(several)
    for name in Counters.__dataclass_fields__:
        found = [getattr(each, name) for each in several]
        assert getattr(total, name) == sum(found, type(getattr(total, name))())
    assert [(each.streams_opened, each.streams_closed) for each in several] == before
