"""Summaries: the numbers of resources that a node subscribes to, has, rejected and waits for."""

from support.encoded import CDS, EDS, LDS, cluster, endpoints, listener, route
from support.hubs import World
from support.scenes import started, swap

from xds.protocol.paging import NodeState
from xds.protocol.policy import Variant
from xds.protocol.status import NAMES_SHOWN_MAX, NodesQuery, NodeSummary, TypeSummary, nodes_page


def summaries(world: World, query: NodesQuery | None = None) -> list[NodeSummary]:
    return list(nodes_page(world.hub.streams, query or NodesQuery(), world.now).nodes)


def of(world: World, type_url: str) -> TypeSummary:
    (node,) = summaries(world)
    (found,) = [each for each in node.types if each.type_url == type_url]
    return found


def test_a_node_that_accepted_everything_is_in_that_state(world: World, variant: Variant, per_type: bool) -> None:
    world.advance(3)
    started(world, variant, per_type=per_type)
    world.advance(5)
    (node,) = summaries(world)
    assert (node.node.id, node.group, node.revision, node.state) == ("n1", "default", 1, NodeState.ACCEPTED)
    assert node.connected_s == 5
    clusters, assignments = of(world, CDS), of(world, EDS)
    assert (clusters.wildcard, clusters.subscribed, clusters.sent, clusters.unacked) == (True, 1, 1, 0)
    assert (clusters.acked, assignments.acked) == (1, 1)
    assert (assignments.wildcard, assignments.subscribed, assignments.sent) == (False, 1, 1)
    assert (clusters.nacked, clusters.error, clusters.versions) == ((), "", {})


def test_a_node_that_has_not_answered_is_pending(world: World, variant: Variant) -> None:
    started(world, variant)
    swap(world)
    (node,) = summaries(world)
    assert node.state is NodeState.PENDING
    assert of(world, CDS).unacked >= 1
    assert of(world, CDS).acked == 0


def test_a_node_that_rejected_something_says_what(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(cluster("b"), endpoints("b"))
    client.nack(CDS, "odd")
    (node,) = summaries(world)
    assert node.state is NodeState.REJECTED
    clusters = of(world, CDS)
    assert "b" in clusters.nacked
    assert (clusters.error, clusters.versions["b"]) == ("odd", "1")


def test_what_was_rejected_is_not_accepted_however_many_names_are_shown(world: World) -> None:
    client = started(world, Variant.DELTA)
    names = [f"b{number:03}" for number in range(NAMES_SHOWN_MAX + 5)]
    world.publish(*map(cluster, names))
    client.nack(CDS, "odd")
    clusters = of(world, CDS)
    assert clusters.nacked == tuple(names[:NAMES_SHOWN_MAX])
    assert (clusters.sent, clusters.acked, clusters.unacked) == (len(names) + 1, 1, 0)


def test_who_requested_nothing_yet_or_has_nothing_is_told_too(world: World) -> None:
    world.client().subscribe(EDS, "none")
    found = of(world, EDS)
    assert (found.subscribed, found.sent) == (1, 0)


def test_a_query_chooses(world: World) -> None:
    for node in ("n1", "n2", "n3"):
        world.client(node=node).subscribe(CDS)
    assert [each.node.id for each in summaries(world)] == ["n1", "n2", "n3"]
    assert [each.node.id for each in summaries(world, NodesQuery(id="n2"))] == ["n2"]
    assert len(summaries(world, NodesQuery(limit=2))) == 2
    assert [each.node.id for each in summaries(world, NodesQuery(group_globs=("none", "def*")))] == [
        each.node.id for each in summaries(world, NodesQuery(group="default"))
    ]
    assert summaries(world, NodesQuery(group_globs=("none",))) == []
    assert summaries(world, NodesQuery(lacks=0)) == []
    assert summaries(world, NodesQuery(group="other")) == []
    assert len(summaries(world, NodesQuery(group="default"))) == 3
    assert summaries(world, NodesQuery(state=NodeState.REJECTED)) == []


def test_what_is_held_back_is_not_sent(world: World) -> None:
    world.publish(cluster("a"), endpoints("a"), listener("l", routes="r"), route("r", 1, "a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(LDS)
    found = of(world, LDS)
    assert (found.sent, found.pending) == (0, 1)


def test_on_a_page_of_many_each_node_is_told_as_it_is_told_alone(world: World, variant: Variant) -> None:
    clients = {node: world.client(variant, node=node) for node in ("n1", "n2", "n3", "n4", "n5")}
    for client in clients.values():
        client.subscribe(CDS)
        client.ack(CDS)

    def told() -> dict[str, tuple[int, int, int, str]]:
        page = {each.node.id: each.types for each in summaries(world)}
        for node, types in page.items():
            (alone,) = summaries(world, NodesQuery(id=node))
            assert types == alone.types
        return {node: (one.acked, one.unacked, one.pending, one.error) for node, (one,) in page.items()}

    world.publish(cluster("b"))
    clients["n2"].ack(CDS)
    clients["n3"].nack(CDS, "odd")
    clients["n4"].nack(CDS, "odder")
    assert told() == {
        "n1": (0, 1, 0, ""),
        "n2": (1, 0, 0, ""),
        "n3": (0, 0, 0, "odd"),
        "n4": (0, 0, 0, "odder"),
        "n5": (0, 1, 0, ""),
    }
    with world.burst():
        world.publish(cluster("c"))
        assert [pending for _, _, pending, _ in told().values()] == [1] * len(clients)
