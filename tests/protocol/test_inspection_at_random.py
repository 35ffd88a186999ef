"""Whatever a client has not accepted although it wants it, an inspection says what it waits for."""

import random
from collections.abc import Callable, Iterator

import pytest
from support.encoded import CDS, ECDS, EDS, LDS, RDS, VHDS, cluster, endpoints, listener, resource, route, virtual_host
from support.hubs import Client, MakeWorld, World
from support.scenes import started

from xds.model.resource import Resource
from xds.protocol.hub import Hub
from xds.protocol.inspection import How, Inspection, Inspector, Standing, Wait
from xds.protocol.policy import Variant
from xds.protocol.responses import Encoding
from xds.protocol.status import Progress

CLUSTERS, ROUTES = ("a", "b", "c"), ("r", "s")


def inspectors(hub: Hub, now: float) -> Iterator[Inspector]:
    for session in {id(each.session): each.session for each in hub.streams if each.session is not None}.values():
        yield hub.inspector(session, now)


def check(found: Standing) -> None:
    if found.how is not How.NOT and found.accepted != found.wanted:
        assert found.waits, found
    if found.progress is Progress.ACKED:
        assert found.accepted == found.sent == found.wanted
        assert found.waits == ()
    assert all(each.left_s is None or each.left_s >= 0 for each in found.waits), found


def drawn(chance: random.Random, version: int) -> Resource:
    name = chance.choice(CLUSTERS)
    makes: tuple[Callable[[], Resource], ...] = (
        lambda: cluster(name, version),
        lambda: endpoints(name, version),
        lambda: route(chance.choice(ROUTES), version, name),
        lambda: listener("l", version, routes="r"),
        lambda: listener("m", version, clusters=name),
        lambda: resource(ECDS, "filter", str(version)),
    )
    return chance.choice(makes)()


def act(world: World, client: Client, chance: random.Random, version: int) -> None:
    waiting = [type_url for by_type in client.unanswered.values() for type_url, queue in by_type.items() if queue]
    match chance.randrange(9):
        case 0 | 1 | 2:
            world.publish(
                *{
                    (each.type_url, each.name): each for each in (drawn(chance, version), drawn(chance, version))
                }.values()
            )
        case 3:
            one = drawn(chance, version)
            known = world.catalog.own_resource("default", one.type_url, one.name)
            if known is not None:
                world.publish(remove=[known])
        case 4:
            world.advance(chance.choice((1, 25, 700)))
        case 5 if waiting:
            client.nack(chance.choice(waiting), chance.choice(("odd", "a: odd", "b: odd", "r: odd")))
        case _ if waiting:
            client.ack(chance.choice(waiting))


@pytest.mark.parametrize("seed", range(25))
def test_what_is_lacking_waits_for_something(world: World, variant: Variant, per_type: bool, seed: int) -> None:
    chance = random.Random(seed)
    client = started(world, variant, per_type=per_type)
    world.publish(*(each(name) for name in CLUSTERS for each in (cluster, endpoints)))
    client.subscribe(EDS, *CLUSTERS)
    client.subscribe(ECDS, "filter")
    returned = False
    for version in range(2, 80):
        act(world, client, chance, version)
        if chance.random() < 0.03:
            client.reconnect()
            returned = True
        for each in inspectors(world.hub, world.now):
            for found in each.standings():
                check(found)
                # These clients ask for endpoints of clusters that they rejected, which shows that they have them.
                if variant is Variant.DELTA and not returned and found.type_url != CDS:
                    assert found.accepted in (None, client.held.get(found.type_url, {}).get(found.name, "")), found
            for type_url in (CDS, EDS, LDS, RDS, ECDS):
                for name in (*CLUSTERS, *ROUTES, "l", "m", "filter", "none"):
                    check(each.standing(type_url, name))
            assert len(list(each.differences(RDS))) <= len(list(each.differences()))
            assert {each.type_url for each in each.standings(EDS)} <= {EDS}


def test_inspections_of_several_processes_are_joined() -> None:
    one, other = Inspection(missing_workers=("b", "a")), Inspection(missing_workers=("a",), missing_replicas=("x",))
    joined = Inspection.joined([one, other])
    assert (joined.missing_workers, joined.missing_replicas, joined.clients) == (("a", "b"), ("x",), ())


def test_a_part_waits_for_the_parts_before_it(make_world: MakeWorld) -> None:
    world = make_world(encoding=Encoding(response_bytes_max=1_500))
    world.publish(*(resource(CDS, f"big{number}", padding=900) for number in range(3)))
    client = world.client()
    client.subscribe(CDS)
    found = [each for one in inspectors(world.hub, world.now) for each in one.standings()]
    assert [wait.why for each in found for wait in each.waits].count(Wait.EARLIER_PARTS) == 2
    assert {each.progress for each in found} == {Progress.SENT}


def only(world: World) -> Inspector:
    (found,) = inspectors(world.hub, world.now)
    return found


def test_what_is_had_by_an_alias_is_told_apart(world: World) -> None:
    world.publish(virtual_host("r/a.com", aliases=("r/b.com",)))
    client = world.client()
    client.subscribe(VHDS, "r/b.com")
    client.ack(VHDS)
    assert only(world).standing(VHDS, "r/a.com").how is How.ALIAS


def test_listeners_wait_for_the_clusters_of_a_client_that_returns(world: World) -> None:
    world.publish(cluster("a"), endpoints("a"), listener("l", clusters="a"))
    client = world.client()
    client.subscribe(EDS, "a", have={"a": "1"})
    client.subscribe(LDS)
    assert Wait.CLUSTERS_REQUEST in [each.why for each in only(world).standing(LDS, "l").waits]


def test_a_route_that_needs_no_rejected_cluster_does_not_wait_for_it(world: World) -> None:
    client = started(world)
    world.publish(cluster("b"), endpoints("b"))
    client.nack(CDS, "b: odd")
    world.publish(cluster("c"), endpoints("c"), route("r", 2, "a"))
    assert [each.why for each in only(world).standing(RDS, "r").waits] == [Wait.CLUSTERS_ANSWER]
