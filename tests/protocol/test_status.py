"""The status shows what is held, and the progress of each resource of each node (docs/protocol.md#order)."""

from support.encoded import CDS, EDS, LDS, RDS, cluster, endpoints, route
from support.hubs import DELTA, Client, World
from support.scenes import started, swap

from xds.protocol.policy import Variant
from xds.protocol.status import NodeStatus, Progress, ResourceStatus, node_statuses


def _status(world: World) -> NodeStatus:
    (status,) = node_statuses(world.hub.streams, world.now)
    return status


def _of(world: World, type_url: str) -> dict[str, tuple[str, Progress]]:
    (found,) = [status for status in _status(world).types if status.type_url == type_url]
    return {resource.name: (resource.version, resource.progress) for resource in found.resources}


def test_status_of_a_client_that_accepted_everything(world: World, variant: Variant, per_type: bool) -> None:
    started(world, variant, per_type=per_type)
    status = _status(world)
    assert (status.node.id, status.group, status.revision) == ("n1", "default", 1)
    told = [(s.type_url, s.variant, s.wildcard, s.resources, s.rejections, s.waited_s, s.overdue) for s in status.types]
    acked = Progress.ACKED
    assert sorted(told, key=lambda item: [CDS, EDS, LDS, RDS].index(item[0])) == [
        (CDS, variant, True, (ResourceStatus(name="a", version="1", progress=acked),), (), None, False),
        (EDS, variant, False, (ResourceStatus(name="a", version="1", progress=acked),), (), None, False),
        (LDS, variant, True, (ResourceStatus(name="l", version="1", progress=acked),), (), None, False),
        (RDS, variant, False, (ResourceStatus(name="r", version="1", progress=acked),), (), None, False),
    ]


def test_status_says_what_is_unacked_and_for_how_long(world: World, variant: Variant) -> None:
    started(world, variant)
    swap(world)
    world.advance(7)
    (clusters,) = [status for status in _status(world).types if status.type_url == CDS]
    assert (clusters.waited_s, clusters.overdue) == (7.0, False)
    assert _of(world, CDS)["b"] == ("1", Progress.SENT)
    world.advance(13)
    (clusters,) = [status for status in _status(world).types if status.type_url == CDS]
    assert (clusters.waited_s, clusters.overdue) == (20.0, True)


def test_status_is_overdue_no_more_once_answered(world: World, variant: Variant) -> None:
    client = started(world, variant)
    swap(world)
    world.advance(20)
    client.ack(CDS)
    (clusters,) = [status for status in _status(world).types if status.type_url == CDS]
    assert (clusters.waited_s, clusters.overdue) == (None, False)


def test_status_says_what_is_held_back(world: World) -> None:
    client = started(world)
    swap(world)
    client.subscribe(EDS, "b")
    assert _of(world, CDS) == {"a": ("1", Progress.HELD), "b": ("1", Progress.SENT)}
    client.ack(CDS)
    client.ack(EDS)
    assert _of(world, RDS) == {"r": ("2", Progress.SENT)}


def test_status_says_what_was_rejected(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(route("r", 2, "a"))
    client.nack(RDS, "bad regex")
    (routes,) = [status for status in _status(world).types if status.type_url == RDS]
    assert _of(world, RDS) == {"r": ("2", Progress.NACKED)}
    (rejection,) = routes.rejections
    assert (rejection.message, rejection.versions) == ("bad regex", {"r": "2"})


def test_status_says_what_does_not_exist(world: World, variant: Variant) -> None:
    client = world.client(variant)
    client.subscribe(EDS, "a", "x")
    client.ack_all()
    world.publish(endpoints("a"))
    client.ack_all()
    assert _of(world, EDS) == {"a": ("1", Progress.ACKED), "x": ("", Progress.MISSING)}


def test_status_is_one_a_session_and_none_before_its_node_is_known(world: World) -> None:
    world.hub.open(DELTA)
    clients: list[Client] = [world.client(node="n1", per_type=True), world.client(node="n2")]
    for client in clients:
        client.subscribe(CDS)
        client.subscribe(LDS)
    found = [status.node.id for status in node_statuses(world.hub.streams, world.now)]
    assert found == ["n1", "n2"]


def test_status_has_no_unsubscribed_name(world: World) -> None:
    world.publish(cluster("a"), endpoints("a"))
    client = world.client()
    client.subscribe(EDS, "a", "b")
    client.ack_all()
    client.unsubscribe(EDS, "a")
    assert _of(world, EDS) == {"b": ("", Progress.MISSING)}


def test_status_snapshot_of_a_group_is_the_one_published(world: World) -> None:
    applied = world.apply(cluster("a"))
    assert world.hub.snapshot("default").revision == 0
    world.hub.publish(applied)
    assert world.hub.snapshot("default").revision == 1
