"""Faults that a review found: what a few names and types, as the simulation has them, do not reach."""

import pytest
from support.encoded import CDS, EDS, LDS, RDS, RTDS, SDS, cluster, endpoints, listener, resource, route, static
from support.hubs import DELTA, SOTW, MakeWorld, World

from xds.model.groups import GroupTable, Rule
from xds.model.resource import Reference
from xds.protocol.policy import Variant
from xds.protocol.responses import Encoding

SMALL = Encoding(response_bytes_max=100)
"""Of two resources, each is sent in a response of its own."""
OF_A, OF_B = (GroupTable(rules=(Rule(group=group, id="n1"), Rule(group="default"))) for group in ("a", "b"))
X = "xdstp://authority/envoy.config.cluster.v3.Cluster/x"


def kinds(said: list[str]) -> list[str]:
    """Return lines without the numbers of their responses."""
    return [f"{line.split(' ', 2)[0]} {line.split(' ', 2)[2]}" for line in said]


@pytest.mark.parametrize("first", [RTDS, SDS])
def test_an_envoy_that_returns_while_clusters_warm_may_ask_for_runtimes_and_secrets_first(
    world: World, variant: Variant, first: str
) -> None:
    """Envoy asks for an RTDS layer, and for a secret of its bootstrap, before endpoints (docs/envoy-behaviour.md)."""
    world.publish(resource(first, "x"), cluster("a"), endpoints("a"), listener("l", routes="r"), route("r", 1, "a"))
    client = world.client(variant)
    for type_url, names in ((first, ["x"]), (CDS, []), (EDS, ["a"]), (LDS, []), (RDS, ["r"])):
        client.subscribe(type_url, *names)
        client.ack_all()
    versions = {each: client.last(each).version for each in (first, EDS, LDS, RDS)}
    world.publish(cluster("a", 2), static("b"), route("r", 2, "b"))
    client.close()
    again = world.client(variant, connection="another")
    with world.burst():
        for type_url, names in ((first, ["x"]), (EDS, ["a"]), (LDS, []), (RDS, ["r"])):
            if variant is DELTA:
                again.request(type_url, subscribe=names, have=dict.fromkeys(names or ["l"], "1"))
            else:
                again.request(type_url, subscribe=names, have=versions[type_url])
    assert kinds(again.ack_all()) == ["EDS a@1"]


def test_an_envoy_with_static_clusters_that_starts_is_sent_its_listeners_at_once(
    world: World, variant: Variant
) -> None:
    """It has endpoints from here, and never asks for clusters."""
    world.publish(endpoints("a"), listener("l", routes="r"), route("r", 1, "a"))
    client = world.client(variant)
    client.subscribe(EDS, "a")
    client.ack_all()
    assert kinds(client.subscribe(LDS)) == ["LDS l@1"]


def test_a_listener_that_a_client_returned_with_is_renewed_while_clusters_warm(world: World) -> None:
    """Envoy removes a listener whose TTL ends."""
    timed = resource(LDS, "l", 1, ttl_s=6, refers=(Reference(CDS, "a"),))
    world.publish(cluster("a"), endpoints("a"), timed)
    client = world.client()
    with world.burst():
        client.request(CDS)
        client.request(EDS, subscribe=["a"], have={"a": "1"})
        client.request(LDS, have={"l": "1"})
    said: list[str] = []
    for _ in range(6):
        world.advance(1)
        said += client.take()
    assert [line for line in said if line.startswith("LDS")][:2] == ["LDS #3 ~l@1 ttl=6", "LDS #4 ~l@1 ttl=6"]


def test_a_name_outside_the_wildcard_that_is_unsubscribed_is_not_sent(world: World) -> None:
    """The wildcard has no xdstp:// names: what is sent after an unsubscription would stay with the client for ever."""
    world.publish(static("a"), static(X))
    client = world.client()
    client.subscribe(CDS)
    client.request(CDS, subscribe=[X])
    client.ack_all()
    assert client.unsubscribe(CDS, X) == []


@pytest.mark.parametrize("variant", [DELTA, SOTW])
def test_a_node_that_moves_is_sent_no_later_part_of_its_former_group(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(encoding=SMALL, groups=OF_A)
    world.publish(*(resource(SDS, f"s{number}") for number in range(3)), group="a")
    world.publish(resource(SDS, "z"), resource(SDS, "s2", 2), group="b")
    client = world.client(variant)
    client.subscribe(SDS, "s0", "s1", "s2", "z")
    world.regroup(OF_B)
    said = kinds(client.ack_all())
    assert [line for line in said if "@1" in line] == ["SDS z@1"]
    assert "SDS s2@2" in said
    assert variant is SOTW or {"-s0", "-s1"} <= set(" ".join(said).split())


def test_removals_of_clusters_that_are_named_do_not_extend_the_wait_of_others(world: World) -> None:
    """With steady changes none would ever be removed."""
    world.publish(*(static(f"c{number}") for number in range(4)), listener("l", clusters="c3"))
    client = world.client()
    client.subscribe(CDS, *(f"c{number}" for number in range(4)))
    client.subscribe(LDS)
    client.ack_all()
    said: list[str] = []
    for number in range(3):
        world.publish(remove=[static(f"c{number}")])
        world.advance(15)
        said += client.ack_all()
    assert kinds(said) == ["CDS -c0 -c1"]


def test_a_cluster_whose_name_has_colons_is_known_by_its_nack(world: World) -> None:
    world.publish(static("svc:80"), static("plain"), static("ok"))
    client = world.client()
    client.subscribe(CDS)
    said = client.nack(CDS, "Error adding/updating cluster(s) plain: x, svc:80: y")
    assert kinds(said) == ["CDS ok@1"]


@pytest.mark.parametrize("back", [False, True], ids=["it stays", "it goes before it is sent"])
def test_a_listener_that_waits_for_clusters_is_not_said_to_be_missing(
    world: World, variant: Variant, back: bool
) -> None:
    """gRPC's client would fail its calls at once."""
    world.publish(cluster("a"), endpoints("a"), listener("l", routes="r"), route("r", 1, "a"))
    client = world.client(variant)
    for type_url, names in ((LDS, ["l"]), (RDS, ["r"]), (CDS, ["a"]), (EDS, ["a"])):
        client.subscribe(type_url, *names)
        client.ack_all()
    world.publish(cluster("a", 2), listener("new", routes="r"))
    client.take()
    assert client.request(LDS, subscribe=["new"] if variant is DELTA else ["l", "new"]) == []
    if back:
        world.publish(remove=[listener("new")])
    said = kinds(client.ack_all())
    asked = [line for line in said if line.startswith("LDS")]
    if back:
        assert asked == (["LDS -new"] if variant is DELTA else ["LDS l@1"])
    else:
        assert asked == (["LDS new@1"] if variant is DELTA else ["LDS l@1 new@1"])


def test_per_type_listeners_go_before_routes_whichever_stream_was_first(world: World, variant: Variant) -> None:
    world.publish(static("a"), listener("l", routes="r"), route("r", 1, "a"))
    client = world.client(variant, per_type=True)
    client.subscribe(CDS)
    client.ack_all()
    client.subscribe(RDS, "r")
    client.ack_all()
    client.subscribe(LDS)
    client.ack_all()
    world.publish(static("b"), listener("l", 2, routes="r"), route("r", 2, "b"))
    order = [line[:3] for line in client.ack_all()]
    assert [kind for kind in order if kind in ("LDS", "RDS")] == ["LDS", "RDS"]
