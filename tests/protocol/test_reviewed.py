"""Faults that a review found: what a few names and types, as the simulation has them, do not reach."""

import pytest
from support.encoded import CDS, EDS, LDS, RDS, RTDS, SDS, cluster, endpoints, listener, resource, route, static
from support.hubs import DELTA, SOTW, Client, MakeWorld, World

from xds.model.changeset import Changeset
from xds.model.groups import GroupTable, Rule
from xds.model.resource import Reference
from xds.protocol.convergence import NO_DEBT
from xds.protocol.policy import Ordering, Variant
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


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_per_type_a_removal_reaches_each_stream_with_the_cluster(world: World, variant: Variant, used: bool) -> None:
    world.publish(static("x"), static("y"), *([listener("l", clusters="y")] if used else []))
    client = world.client(variant, per_type=True)
    client.subscribe(CDS)
    client.subscribe(CDS, "y")
    client.ack_all()
    client.subscribe(LDS)
    client.ack_all()
    world.publish(remove=[static("y")])
    client.ack_all()
    if used:
        world.advance(30)
        client.ack_all()
        assert world.hub.acceptance("default", world.hub.revision).pending == 1
        world.publish(remove=[listener("l", clusters="y")])
        client.ack_all()
    world.advance(700)
    client.ack_all()
    assert world.hub.debts() == {"default": {NO_DEBT: 1}}


# --- Rejections, versions, renewals ----------------------------------------------------------------------------------


def test_good_resources_of_a_rejected_response_go_again_with_the_mended_one(world: World, variant: Variant) -> None:
    """Nobody knows whether the client has them, and so it would count as rejecting the change for ever."""
    world.publish(*(resource(EDS, name) for name in ("x", "y")))
    client = world.client(variant)
    client.subscribe(EDS, "x", "y")
    client.ack_all()
    world.publish(*(resource(EDS, name, 2) for name in ("x", "y")))
    client.take()
    assert client.nack(EDS, "x is bad") == []
    world.publish(resource(EDS, "x", 3))
    assert kinds(client.ack_all()) == ["EDS x@3 y@2"]
    assert world.hub.debts() == {"default": {NO_DEBT: 1}}


def test_a_mended_change_is_pending_until_it_is_answered_whatever_older_is_owed(world: World) -> None:
    """A removal that is held is owed since before the rejected change."""
    world.publish(static("a"), static("b"), listener("l", clusters="a"), resource(RTDS, "x"))
    client = world.client()
    for type_url, names in ((CDS, []), (LDS, []), (RTDS, ["x"])):
        client.subscribe(type_url, *names)
        client.ack_all()
    world.publish(listener("l", 2, clusters="b"), remove=[static("a")])
    client.ack_all()
    world.publish(resource(RTDS, "x", 2))
    client.nack(RTDS, "bad")
    rejected_at = world.hub.revision
    assert world.hub.acceptance("default", rejected_at) == (0, 0, 1)
    world.publish(resource(RTDS, "x", 3))
    assert world.hub.acceptance("default", world.hub.revision) == (0, 1, 0)
    assert world.hub.acceptance("default", rejected_at) == (0, 0, 1)
    client.ack_all()
    assert world.hub.acceptance("default", world.hub.revision) == (0, 1, 0)  # the removal is still held
    world.advance(700)
    client.ack_all()
    assert world.hub.acceptance("default", world.hub.revision) == (1, 0, 0)


def test_a_rejected_resource_that_goes_demands_nothing_more(world: World, variant: Variant) -> None:
    """On SotW its removal is not sent."""
    world.publish(resource(RTDS, "x"), resource(RTDS, "y"))
    client = world.client(variant)
    client.subscribe(RTDS, "x", "y")
    client.ack_all()
    world.publish(resource(RTDS, "x", 2))
    client.nack(RTDS, "bad")
    world.publish(remove=[resource(RTDS, "x", 2)])
    client.ack_all()
    assert world.hub.debts() == {"default": {NO_DEBT: 1}}


def test_a_rejected_response_without_a_name_is_no_rejected_change(world: World, variant: Variant) -> None:
    client = world.client(variant)
    client.subscribe(CDS)
    client.nack(CDS)
    world.publish(static("a"))
    client.ack_all()
    assert world.hub.debts() == {"default": {NO_DEBT: 1}}


def test_a_listener_that_follows_its_clusters_is_owed_from_the_first_request_on(world: World, variant: Variant) -> None:
    """The first request is answered with the listener of before, as clusters of the change are not answered."""
    world.publish(static("a"), listener("l", clusters="a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack_all()
    world.publish(static("b"), listener("l", 2, clusters="b"))
    client.take()
    client.subscribe(LDS)
    client.ack(LDS)
    assert kinds(client.ack(CDS)) == ["LDS l@2"]
    assert world.hub.acceptance("default", world.hub.revision).pending == 1
    client.ack_all()
    assert world.hub.acceptance("default", world.hub.revision).accepted == 1


def test_a_second_collection_is_owed_until_it_is_answered(world: World) -> None:
    first, second = (f"xdstp://authority/envoy.config.cluster.v3.Cluster/{part}" for part in "ab")
    world.publish(static(f"{first}/x"), static(f"{second}/x"))
    client = world.client()
    client.subscribe(CDS, f"{first}/*")
    client.ack_all()
    client.subscribe(CDS, f"{second}/*")
    assert world.hub.acceptance("default", world.hub.revision).pending == 1
    client.ack_all()
    assert world.hub.acceptance("default", world.hub.revision).accepted == 1


def test_a_sotw_version_says_what_a_client_lacks_that_it_rejected(make_world: MakeWorld) -> None:
    """Another server process, which knows nothing of the rejection, takes a version at its word."""
    world, other = make_world(), make_world()
    world.publish(route("x", 1), route("y", 1))
    client = world.client(SOTW)
    client.subscribe(RDS, "x", "y")
    client.ack_all()
    world.publish(route("x", 2))
    client.nack(RDS, "x is bad")
    world.publish(route("y", 2))
    client.ack_all()
    other.publish(route("x", 2), route("y", 2))
    again = other.client(SOTW)
    assert kinds(again.subscribe(RDS, "x", "y", have=client.last(RDS).version)) == ["RDS x@2 y@2"]


def test_a_sotw_version_says_what_a_response_really_has(world: World) -> None:
    """A cluster whose update was rejected, and which is gone, is kept as it worked."""
    world.publish(static("a"), static("z"), listener("l", clusters="a"))
    client = world.client(SOTW)
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(static("a", 2))
    client.nack(CDS, "a is bad")
    world.publish(static("y"), remove=[static("a")])
    kept = client.take()
    assert kinds(kept) == ["CDS a@1 y@1 z@1"]
    client.ack_all()
    client.close()
    world.publish(static("a", 2))
    again = world.client(SOTW, connection="another")
    assert kinds(again.subscribe(CDS, have=client.last(CDS).version)) == ["CDS a@2 y@1 z@1"]


def test_a_renewal_before_the_last_part_does_not_say_that_all_is_there(make_world: MakeWorld) -> None:
    world = make_world(encoding=Encoding(response_bytes_max=130))
    world.publish(resource(RTDS, "a", 1, ttl_s=3), resource(RTDS, "b"), resource(RTDS, "d"))
    client = world.client(SOTW)
    client.subscribe(RTDS, "a", "b", "d")
    world.advance(2)
    client.close()
    again = world.client(SOTW, connection="another")
    again.subscribe(RTDS, "a", "b", "d", have=client.messages[-1].version)
    assert {name for line in kinds(again.ack_all()) for name in ("b", "d") if f"{name}@1" in line} == {"b", "d"}


def test_what_was_rejected_and_then_mended_is_renewed(world: World, variant: Variant) -> None:
    world.publish(resource(CDS, "c", 1, ttl_s=6))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack_all()
    world.publish(resource(CDS, "c", 2, ttl_s=6))
    client.nack(CDS, "c is bad")
    world.publish(resource(CDS, "c", 3, ttl_s=6))
    client.ack_all()
    client.messages.clear()
    world.advance(3)
    assert client.messages


def test_a_listener_of_a_rejected_response_is_not_sent_once_more_with_a_cluster_that_is_missing(world: World) -> None:
    """The client has its older version, which works."""
    world.publish(static("a"), listener("bad", clusters="a"), listener("good", clusters="a"))
    client = world.client()
    client.subscribe(CDS)
    client.ack_all()
    world.publish(static("c"), listener("good", 2, clusters="c"))
    client.subscribe(LDS)
    said = client.nack(LDS, "bad: bad") + client.nack(CDS, "bad: c") + client.ack_all()
    assert [line for line in kinds(said) if "good" in line] == ["LDS good@1"]


def test_endpoints_that_a_warming_cluster_needs_are_not_removed_in_the_same_response(world: World) -> None:
    """Their removal was rejected before, and goes again with the next response without them."""
    world.publish(endpoints("x"))
    client = world.client()
    for type_url, names in ((CDS, ()), (EDS, ("x", "e"))):
        client.subscribe(type_url, *names)
    client.ack(CDS)
    client.nack(EDS, "x: bad")
    world.publish(endpoints("x", 2))
    world.publish(cluster("a", eds="e"), endpoints("e"))
    world.publish(remove=[endpoints("e")])
    said = client.nack(EDS, "x: bad")
    assert [line for line in kinds(said) if " e@1" in line] == ["EDS e@1"]


def test_what_two_rejected_responses_had_is_sent_once_more_only_if_neither_blames_it(world: World) -> None:
    world.publish(static("a"))
    client = world.client()
    client.subscribe(CDS)
    client.ack_all()
    world.publish(static("a", 2), static("bad"))
    world.publish(static("a", 3), static("worse"))
    world.advance(21)
    client.nack(CDS, "bad: no")
    client.nack(CDS, "a: no, worse: no")
    world.publish(static("another"))
    assert not [line for line in client.ack_all() if "a@3" in line]


def test_a_route_that_came_with_a_bad_one_may_be_in_use_after_a_return_and_keeps_its_cluster(world: World) -> None:
    """Envoy reports no versions of a response that it rejected, and uses what was good in it."""
    world.publish(static("b"), listener("l", routes="r"), route("r", 2, "b"))
    client = world.client()
    with world.burst():
        client.request(CDS, have={"a": "1"})
        client.request(LDS, have={"l": "1"})
        client.request(RDS, subscribe=["r"])
    client.ack(CDS)
    said = client.nack(RDS, "r: bad")
    world.advance(21)
    said += client.ack_all()
    assert not [line for line in said if "-a" in line]
    world.publish(route("r", 3, "b"))
    assert kinds(client.ack_all()) == ["RDS r@3", "CDS -a"]


def test_a_removed_route_that_a_draining_listener_uses_keeps_its_cluster_over_a_restart(world: World) -> None:
    """Envoy stays subscribed to the route, and reports no version of it."""
    world.publish(static("b"), listener("l", routes="r"), route("r", 1, "b"))
    client = world.client()
    with world.burst():
        client.request(CDS, have={"a": "1", "b": "1"})
        client.request(LDS, have={"l": "1"})
        client.request(RDS, subscribe=["r", "gone"], have={"r": "1"})
    said = client.take()
    world.advance(599)
    said += client.ack_all()
    assert not [line for line in said if "-a" in line]
    world.advance(2)
    assert kinds(client.ack_all()) == ["CDS -a"]


def test_a_good_resource_of_a_rejected_response_is_renewed(world: World) -> None:
    """Envoy has it, and would drop it when its TTL ends."""
    world.publish(resource(CDS, "good", 1, ttl_s=6), resource(CDS, "bad", 1, ttl_s=6))
    client = world.client()
    client.subscribe(CDS)
    client.ack_all()
    world.publish(resource(CDS, "good", 2, ttl_s=6), resource(CDS, "bad", 2, ttl_s=6))
    client.nack(CDS, "bad: bad")
    client.ack_all()
    world.advance(3)
    assert [line for line in kinds(client.take()) if "good" in line] == ["CDS ~good@2 ttl=6"]


def test_what_a_later_response_in_flight_had_is_not_sent_once_more(world: World) -> None:
    """The first of two responses is rejected, and the second, with a good cluster of it, is not."""
    world.publish(static("a"), route("r", 1, "a"), listener("l", routes="r"))
    client = world.client()
    for type_url, names in ((CDS, ()), (LDS, ()), (RDS, ("r",))):
        client.subscribe(type_url, *names)
        client.ack_all()
    world.publish(static("bad"), static("good"), route("r", 2, "good"))
    world.publish(static("good", 2), static("bad", 2))
    world.advance(21)
    client.nack(CDS, "bad: bad")
    client.ack(CDS)
    world.publish(static("another"))
    assert kinds([line for line in client.ack_all() if line.startswith("CDS")]) == ["CDS another@1"]


def test_without_ordering_a_client_that_does_not_answer_is_given_up_on_too(make_world: MakeWorld) -> None:
    world = make_world(ordering=Ordering(enabled=False))
    world.publish(listener("l"))
    client = world.client()
    client.subscribe(LDS)
    world.publish(listener("l", 2))
    world.advance(30)
    assert kinds(client.take())[-1:] == ["LDS l@2"]


def test_a_group_that_goes_and_comes_back_is_followed(make_world: MakeWorld) -> None:
    """The nodes are moved one after the other; some have left the group by then, and some have not."""
    world = make_world(groups=GroupTable(names=("g",)))
    world.publish(static("x"), static("y"), group="g")
    world.publish(static("other"))
    clients = [world.client(node=f"n{number}", cluster="g", connection=f"c{number}") for number in range(2)]
    for client in clients:
        client.subscribe(CDS)
        client.ack_all()
    world.hub.publish(world.catalog.apply(Changeset(groups=GroupTable(), gone=("g",))), regroup=False)
    world.hub.regroup_some(1)
    world.pump()
    back = Changeset(upserts={"g": (static("x", 2),)}, groups=GroupTable(names=("g",)))
    world.hub.publish(world.catalog.apply(back), regroup=False)
    assert world.hub.reached_revision < world.hub.revision
    while world.hub.regroup_some(10):
        pass
    world.pump()
    for client in clients:
        client.ack_all()
        world.advance(30)
        client.ack_all()
        assert client.held[CDS] == {"x": "2"}
    assert world.hub.reached_revision == world.hub.revision


def test_sotw_a_repeated_request_for_everything_beside_names_is_answered_with_everything(world: World) -> None:
    world.publish(resource(RTDS, "a"), resource(RTDS, "b"))
    client = world.client(SOTW)
    client.subscribe(RTDS, "*", "a")
    client.ack_all()
    assert kinds(client.request(RTDS)) == ["RTDS a@1 b@1"]


def swapping(world: World, variant: Variant, *, per_type: bool) -> Client:
    """Return a client that has a route to ``a``, of whose swap to ``b``, with ``a`` removed, nothing is answered."""
    world.publish(static("a"), static("c"), listener("l", routes="r"), route("r", 1, "a"), route("other", 1, "c"))
    client = world.client(variant, per_type=per_type)
    for type_url, names in ((CDS, ()), (LDS, ()), (RDS, ("r", "other"))):
        client.subscribe(type_url, *names)
        client.ack_all()
    world.publish(static("b"), route("r", 2, "b"), remove=[static("a")])
    return client


def was_removed(client: Client, name: str) -> bool:
    """Say whether a cluster was removed in an answered response."""
    sent = [message for message in client.messages if message.type_url == CDS]
    waiting = [message for queues in client.unanswered.values() for message in queues.get(CDS, [])]
    answered = [message for message in sent if message not in waiting]
    if client.variant is DELTA:
        return any(name in message.removed for message in answered)
    return all(each.name != name for each in answered[-1].resources)


def answer_oldest(client: Client, type_url: str) -> None:
    """ACK the oldest response of a type if one waits."""
    if any(queues.get(type_url) for queues in client.unanswered.values()):
        client.ack(type_url)


@pytest.mark.parametrize("per_type", [False, True])
@pytest.mark.parametrize("changes", ["clusters", "routes", "both"])
def test_clusters_are_removed_also_where_changes_come_before_the_answers_to_those_before(
    world: World, variant: Variant, changes: str, *, per_type: bool
) -> None:
    client = swapping(world, variant, per_type=per_type)
    for version in range(2, 12):
        changed = [static("c", version)] if changes != "routes" else []
        changed += [route("other", version, "c")] if changes != "clusters" else []
        world.publish(*changed)
        answer_oldest(client, CDS)
        world.publish(*changed)
        answer_oldest(client, RDS)
    assert was_removed(client, "a")


def test_a_cluster_is_not_removed_while_the_response_that_replaces_its_route_is_unanswered(
    world: World, variant: Variant
) -> None:
    """The client may reject it, and then goes on with the former route."""
    client = swapping(world, variant, per_type=False)
    client.ack(CDS)
    for version in range(2, 12):
        world.publish(static("c", version))
        answer_oldest(client, CDS)
    client.nack(RDS, "route r")
    client.ack_all()
    assert not was_removed(client, "a")
    world.publish(route("r", 3, "b"))
    client.ack_all()
    assert was_removed(client, "a")


def test_a_good_cluster_of_a_rejected_response_that_is_gone_is_not_sent_once_more(world: World) -> None:
    """The routes that use it follow, as the answer was overdue, so that its removal waits for them."""
    world.publish(static("a"), route("r", 1, "a"), listener("l", routes="r"))
    client = world.client()
    for type_url, names in ((CDS, ()), (LDS, ()), (RDS, ("r",))):
        client.subscribe(type_url, *names)
        client.ack_all()
    world.publish(static("bad"), static("c"), route("r", 2, "c"))
    world.publish(static("bad", 2), route("r", 3, "bad"), remove=[static("a"), static("c")])
    world.advance(41)
    client.take()
    said = client.nack(CDS, "bad: bad") + client.ack_all()
    assert not [line for line in said if line.startswith("CDS") and "c@1" in line]


def test_endpoints_that_two_rejected_clusters_shared_do_not_show_that_the_other_was_accepted(world: World) -> None:
    """The client asks for them for ``good``, which was changed since, and lacks ``bad``."""
    world.publish(static("a"), listener("l", 1, clusters="a"))
    client = world.client(per_type=True)
    for type_url in (CDS, LDS):
        client.subscribe(type_url)
        client.ack_all()
    shared = (Reference(EDS, "e"),)
    world.publish(
        resource(CDS, "bad", 1, refers=shared), resource(CDS, "good", 1, refers=shared), endpoints("e"), endpoints("f")
    )
    client.nack(CDS, "bad: bad")
    world.publish(resource(CDS, "good", 2, refers=(Reference(EDS, "f"),)))
    client.ack(CDS)
    for name in ("e", "f"):
        client.subscribe(EDS, name)
        client.ack_all()
    world.publish(listener("l", 2, clusters="bad"))
    world.advance(21)
    assert client.ack_all() == []


def routed(world: World, variant: Variant) -> Client:
    """Return a client with a listener whose route goes to the first of two clusters."""
    world.publish(static("a"), static("b"), listener("l", routes="r"), route("r", 1, "a"))
    client = world.client(variant)
    for type_url, names in ((CDS, ()), (LDS, ()), (RDS, ("r",))):
        client.subscribe(type_url, *names)
        client.ack_all()
    return client


def test_a_route_on_its_way_that_is_subscribed_again_keeps_its_cluster(world: World) -> None:
    """It does not exist any more, so that nothing answers; a draining listener may use it."""
    client = routed(world, DELTA)
    world.publish(route("r", 2, "b"))  # on its way
    client.request(RDS, unsubscribe=["r"])
    world.publish(remove=[route("r", 2), static("a"), static("b"), listener("l")])
    client.request(RDS, subscribe=["r"])
    client.ack_all()
    assert not was_removed(client, "b")
    client.request(RDS, unsubscribe=["r"])
    world.advance(601)  # the listener has drained
    client.ack_all()
    assert was_removed(client, "b")


@pytest.mark.parametrize("error", [None, "r: bad"])
def test_a_route_that_a_stale_request_dropped_and_its_answer_names_keeps_its_cluster(
    world: World, error: str | None
) -> None:
    """The client had it when it answered, or applied it in part: a draining listener may use it."""
    client = routed(world, SOTW)
    before = client.last(RDS).nonce
    world.publish(route("r", 2, "b"))  # on its way
    client.request(RDS, unsubscribe=["r"], nonce=before)
    world.publish(remove=[route("r", 2), static("a"), static("b"), listener("l")])
    client.request(RDS, subscribe=["r"], nonce=before)  # stale too: the answer says it again
    world.advance(21)
    if error is None:
        client.ack(RDS)
    else:
        client.nack(RDS, error)
    client.ack_all()
    assert not was_removed(client, "b")
    client.request(RDS, unsubscribe=["r"])
    world.advance(601)  # the listener has drained
    client.ack_all()
    assert was_removed(client, "b")


def test_endpoints_that_were_requested_before_a_rejected_cluster_used_them_do_not_show_that_it_was_accepted(
    world: World, variant: Variant
) -> None:
    """Another cluster had them, and a cluster that is rejected twice had others at first."""
    world.publish(cluster("a", eds="e"), endpoints("e"), endpoints("f"), static("b"))
    world.publish(listener("l", routes="r"), route("r", 1, "b"))
    client = world.client(variant)
    for type_url, names in ((CDS, ()), (EDS, ("e",)), (LDS, ()), (RDS, ("r",))):
        client.subscribe(type_url, *names)
        client.ack_all()
    world.publish(cluster("bad", 1, eds="f"))
    client.nack(CDS, "bad: bad")
    client.ack_all()
    world.publish(static("a", 2), cluster("bad", 2, eds="e"))
    client.nack(CDS, "bad: bad")
    client.subscribe(EDS, "f")  # looks again
    client.ack_all()
    world.publish(route("r", 2, "bad"))
    world.advance(21)
    assert client.ack_all() == []


def test_a_route_that_followed_older_clusters_owes_nothing_once_the_newest_have_the_same(
    world: World, variant: Variant
) -> None:
    """Else its node would count as pending for ever, though all is accepted."""
    world.publish(static("a"), listener("l", routes="r"))
    client = world.client(variant)
    for type_url in (CDS, LDS):
        client.subscribe(type_url)
        client.ack_all()
    world.publish(static("b"))
    world.publish(static("b", 2), route("r", 1, "a"))
    client.ack(CDS)
    world.publish(static("b", 3))
    client.subscribe(RDS, "r")  # the clusters that are answered are those before the route
    client.ack_all()
    assert {stream.session.client_state.debt for stream in world.hub.streams if stream.session} == {NO_DEBT}


def test_a_removed_route_without_clusters_that_a_client_still_uses_is_not_replaced_by_one_to_a_rejected_cluster(
    world: World,
) -> None:
    world.publish(static("a"), route("r", 1))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    client.subscribe(RDS, "r")
    client.ack(RDS)
    world.publish(remove=[route("r", 1)])
    client.ack(RDS)
    world.publish(static("b"), route("r", 2, "b"))
    assert kinds(client.take()) == ["CDS b@1"]
    assert client.nack(CDS, "bad: b") == []
    world.publish(static("b", 2))
    assert kinds(client.take()) == ["CDS b@2"]
    assert kinds(client.ack(CDS)) == ["RDS r@2"]


def test_endpoints_that_a_client_requested_for_another_cluster_do_not_show_that_it_accepted_a_rejected_one(
    world: World,
) -> None:
    world.publish(static("old"), listener("l", clusters="old"))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    client.subscribe(LDS)
    client.ack(LDS)
    client.subscribe(EDS, "other")
    world.publish(cluster("bad", eds="e"), listener("l", 2, clusters="bad"))
    client.take()
    assert client.nack(CDS, "bad: bad") == []
    world.publish(cluster("good", eds="e"), endpoints("e"))
    client.subscribe(EDS, "e")
    client.ack(EDS)
    client.ack(CDS)
    world.publish(static("good", 2))  # it uses the endpoints no more, and the client has not unsubscribed yet
    assert kinds(client.take()) == ["CDS good@2"]
    assert client.ack(CDS) == []
    assert client.unsubscribe(EDS, "e") == []
    assert kinds(client.subscribe(EDS, "e")) == ["LDS l@2"]  # this request is the rejected cluster's


def test_a_removal_of_a_route_that_a_client_rejects_after_it_unsubscribed_keeps_no_cluster(world: World) -> None:
    client = routed(world, SOTW)
    before = client.last(RDS).nonce
    client.request(RDS, subscribe=["other"])
    client.ack_all()
    world.publish(route("other", 1, "b"), remove=[route("r", 1), listener("l")])  # on its way
    client.request(RDS, unsubscribe=["r"], nonce=before)
    client.nack(RDS, "bad: other")
    world.publish(remove=[static("a")])
    client.ack_all()
    world.advance(601)  # the listener has drained
    client.ack_all()
    assert was_removed(client, "a")


def test_a_route_that_stale_requests_dropped_and_named_again_is_not_sent_again_once_it_is_rejected(
    world: World,
) -> None:
    client = routed(world, SOTW)
    before = client.last(RDS).nonce
    world.publish(route("r", 2, "b"))  # on its way
    client.request(RDS, unsubscribe=["r"], nonce=before)
    client.request(RDS, subscribe=["r"], nonce=before)
    client.take()
    assert client.nack(RDS, "bad: r") == []
    world.publish(route("r", 3, "b"))
    assert kinds(client.take()) == ["RDS r@3"]
