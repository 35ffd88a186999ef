"""Pages of nodes: every node that stays is on exactly one, however others come and go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.encoded import CDS, cluster
from support.hubs import World

from xds.protocol.paging import (
    NodeState,
    Position,
    Sort,
    WrongCursorError,
    cursor_of,
    first_after,
    page_of,
    position,
    position_of,
)
from xds.protocol.status import NodesFound, NodesQuery, joined, nodes_page


def at(sort: Sort = Sort.ID, **fields: object) -> Position:
    told = {"id": "n", "group": "g", "state": NodeState.ACCEPTED, "since_ms": 5, "version": "1.2.3", "tie": "t"}
    return position(sort, **(told | fields))  # type: ignore[arg-type]


def in_order(sort: Sort, name: str, *values: object) -> bool:
    places = [at(sort, **{name: value}) for value in values]
    return places == sorted(places) and len(set(places)) == len(values)


def test_nodes_are_sorted_by_what_is_asked_for() -> None:
    assert in_order(Sort.ID, "id", "a", "b", "ba")
    assert in_order(Sort.GROUP, "group", "a", "b")
    assert in_order(Sort.STATE, "state", NodeState.REJECTED, NodeState.PENDING, NodeState.GONE, NodeState.ACCEPTED)
    assert in_order(Sort.SINCE, "since_ms", 9, 10, 1_790_000_000_000)
    assert in_order(Sort.VERSION, "version", "", "1.9.12", "1.40.0", "1.40.1")


@given(st.sampled_from(Sort), st.text(), st.text(), st.text())
def test_a_cursor_is_the_position_that_it_was_made_of(sort: Sort, key: str, node_id: str, tie: str) -> None:
    place = Position(key, node_id, tie)
    assert position_of(sort, cursor_of(sort, place)) == place


@pytest.mark.parametrize("cursor", ["x", "é", "W10", cursor_of(Sort.GROUP, at()), "A" * 9_000, "W1tbW1tb"])
def test_what_is_no_cursor_of_the_list_is_refused(cursor: str) -> None:
    with pytest.raises(WrongCursorError):
        position_of(Sort.ID, cursor)


@given(st.data())
def test_who_stays_is_on_exactly_one_page_while_others_come_and_go(data: st.DataObject) -> None:
    ids = st.integers(0, 60).map(lambda number: f"n{number}")
    stay = data.draw(st.sets(ids))
    limit = data.draw(st.integers(1, 5))
    seen: list[str] = []
    after: Position | None = None
    while True:
        here = sorted(stay | data.draw(st.sets(ids)))
        found = first_after(((at(id=each), each) for each in here), after, limit)
        seen += [each for _, each in found if each in stay]
        if len(found) < limit:
            break
        after = found[-1][0]
    assert seen == sorted(stay)


Item = tuple[str, str, int]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 30))), st.data())
def test_a_page_of_keyed_items_is_that_of_their_positions(
    items: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    def tie_of(item: tuple[str, str, int]) -> str:
        return f"{item[2]:02}"

    everything = [(Position(key, node_id, tie_of(item)), item) for item in items for key, node_id, _ in [item]]
    after = data.draw(st.none() | st.sampled_from([place for place, _ in everything] or [None]))
    limit = data.draw(st.integers(1, 6))
    keyed = [(key, node_id, (key, node_id, number)) for key, node_id, number in items]
    found = page_of(keyed, tie_of, after, limit)
    assert [place for place, _ in found] == [place for place, _ in first_after(everything, after, limit)]
    assert all(place == Position(*item[:2], tie_of(item)) for place, item in found)


def fleet(world: World, count: int) -> None:
    world.publish(cluster("a"))
    for number in range(count):
        world.client(node=f"n{number:02}").subscribe(CDS)


def pages(world: World, **query: object) -> list[list[str]]:
    found: list[list[str]] = []
    after: Position | None = None
    while True:
        asked = NodesQuery(after=after, **query)  # type: ignore[arg-type]
        page = nodes_page(world.hub.streams, asked, world.now)
        found.append([each.node.id for each in page.nodes])
        if not page.after(asked):
            return found
        after = position_of(asked.sort, page.after(asked))


def test_a_list_of_nodes_comes_in_pages(world: World) -> None:
    fleet(world, 5)
    assert pages(world, limit=2) == [["n00", "n01"], ["n02", "n03"], ["n04"]]
    assert pages(world, search="N03") == [["n03"]]
    assert nodes_page(world.hub.streams, NodesQuery(limit=2), world.now).total == 5


def test_connections_of_one_id_are_told_apart(world: World) -> None:
    world.publish(cluster("a"))
    for _ in range(5):
        world.client(node="same").subscribe(CDS)
    assert pages(world, limit=2) == [["same", "same"], ["same", "same"], ["same"]]


def test_pages_of_several_processes_make_one() -> None:
    worlds = [World(), World()]
    for number, world in enumerate(worlds):
        world.publish(cluster("a"))
        for node in range(number, 6, 2):
            world.client(node=f"n{node}").subscribe(CDS)
    query = NodesQuery(limit=4)
    page = joined((nodes_page(world.hub.streams, query, world.now) for world in worlds), query)
    assert ([each.node.id for each in page.nodes], page.total) == (["n0", "n1", "n2", "n3"], 6)
    query = NodesQuery(limit=4, after=position_of(Sort.ID, page.after(query)))
    page = joined((nodes_page(world.hub.streams, query, world.now) for world in worlds), query)
    assert ([each.node.id for each in page.nodes], page.after(query)) == (["n4", "n5"], "")


def test_who_did_not_answer_is_said_of_the_whole_page() -> None:
    one = NodesFound(nodes=(), missing_workers=("w1",), problems=("p",))
    other = NodesFound(nodes=(), missing_replicas=("r",), problems=("p", "q"))
    whole = joined((one, other), NodesQuery())
    assert (whole.missing_workers, whole.missing_replicas, whole.problems) == (("w1",), ("r",), ("p", "q"))


def test_no_cursor_is_the_beginning() -> None:
    assert position_of(Sort.ID, "") is None


def test_nodes_are_listed_by_each_key(world: World) -> None:
    world.publish(cluster("a"))
    agents = {"n0": "envoy 1.40.0", "n1": "grpc 1.60", "n2": "envoy 1.9.1"}
    clients = {node_id: world.client(node=node_id, user_agent=agent) for node_id, agent in agents.items()}
    for client in clients.values():
        client.subscribe(CDS)
        world.advance(1)
    clients["n0"].ack(CDS)
    clients["n1"].nack(CDS)
    expected = {
        Sort.ID: ["n0", "n1", "n2"],
        Sort.GROUP: ["n0", "n1", "n2"],
        Sort.STATE: ["n1", "n2", "n0"],
        Sort.SINCE: ["n0", "n1", "n2"],
        Sort.VERSION: ["n1", "n2", "n0"],
    }
    for sort, ids in expected.items():
        assert [each for page in pages(world, sort=sort, limit=2) for each in page] == ids, sort
        told = nodes_page(world.hub.streams, NodesQuery(sort=sort), world.now).nodes
        assert [each.position for each in told] == [
            position(
                sort,
                id=each.node.id,
                group=each.group,
                state=each.state,
                since_ms=each.first_seen_ms,
                version=each.node.envoy_version,
                tie=each.position.tie,
            )
            for each in told
        ]
