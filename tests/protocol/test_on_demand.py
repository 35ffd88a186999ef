"""ODCDS, VHDS, locators, ``xdstp://`` (docs/protocol.md#on-demand-clusters to docs/protocol.md#xdstp)."""

import pytest
from support.encoded import CDS, EDS, RDS, VHDS, cluster, endpoints, resource, route, static, virtual_host
from support.hubs import SOTW, Client, World

from xds._generated import xds_wire_pb2 as wire
from xds.model.resource import Resource
from xds.model.xdstp import canonical
from xds.protocol import subscription
from xds.protocol.policy import Variant

# --- ODCDS ---------------------------------------------------------------------------------------------------------


def test_odcds_cluster_is_sent_on_demand_beside_the_wildcard(world: World) -> None:
    world.publish(static("a"))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    world.publish(cluster("c1"), endpoints("c1"))
    client.ack_all()
    assert client.subscribe(CDS, "c1") == ["CDS #3 c1@1"]


def test_odcds_without_wildcard_only_what_was_demanded_is_sent(world: World) -> None:
    world.publish(static("a"), static("c1"), static("c2"))
    client = world.client()
    assert client.subscribe(CDS, "c1") == ["CDS #1 c1@1"]
    client.ack(CDS)
    assert client.subscribe(CDS, "c2") == ["CDS #2 c2@1"]
    client.ack(CDS)
    world.publish(static("a", 2), static("c1", 2))
    assert client.take() == ["CDS #3 c1@2"]


def test_odcds_removed_cluster_that_returns_is_pushed(world: World) -> None:
    """Envoy does not request it again (docs/envoy-behaviour.md#on-demand-clusters)."""
    world.publish(static("c1"))
    client = world.client()
    client.subscribe(CDS, "c1")
    client.ack(CDS)
    world.publish(remove=[static("c1")])
    world.advance(30)
    assert client.take() == ["CDS #2 -c1"]
    client.ack(CDS)
    world.publish(static("c1"))
    assert client.take() == ["CDS #3 c1@1"]


def test_odcds_reconnect_with_star_and_names_is_sent_only_what_is_missing(world: World) -> None:
    world.publish(static("a"), static("c1"))
    client = world.client()
    said = client.subscribe(CDS, "*", "c1", "missing", have={"a": "1", "c1": "1"})
    assert said == ["CDS #1 -missing"]


# --- VHDS ----------------------------------------------------------------------------------------------------------


def test_vhds_first_request_without_names_is_not_everything_but_answered_not_empty(world: World) -> None:
    """After an empty response, the listener would wait for its fetch timeout."""
    world.publish(virtual_host("r1/foo.com"))
    client = world.client()
    client.subscribe(RDS, "r1")
    client.subscribe(VHDS)
    (message,) = client.messages
    assert (message.names, message.removed) == ([], ("r1/*",))
    client.ack(VHDS)
    world.publish(route("r2", 1, "a"))
    client.subscribe(RDS, "r2")  # Envoy does not request the virtual hosts of further routes
    assert client.last(VHDS).removed == ("r2/*",)


@pytest.mark.parametrize("busy", [False, True], ids=["the route comes later", "an answer about routes is due"])
def test_vhds_route_is_answered_once_it_is_sent(world: World, busy: bool) -> None:
    """An answer about a route that Envoy lacks has no effect, and its listener would wait for the fetch timeout."""
    world.publish(route("r1", 1, "a"), *([route("r2", 1, "a")] if busy else []))
    client = world.client()
    client.subscribe(RDS, "r1")
    client.subscribe(VHDS)
    client.ack_all()
    if busy:
        world.publish(route("r1", 2, "a"))
    said = client.subscribe(RDS, "r2")
    if not busy:
        world.publish(route("r2", 1, "a"))
    said += client.ack_all()
    assert [line.split(" ", 2)[::2] for line in said][-2:] == [["RDS", "r2@1"], ["VHDS", "-r2/*"]]


def test_vhds_route_that_is_subscribed_again_is_answered_again(world: World) -> None:
    world.publish(route("r1", 1, "a"))
    client = world.client()
    client.subscribe(RDS, "r1")
    client.subscribe(VHDS)
    client.ack_all()
    client.unsubscribe(RDS, "r1")
    said = client.subscribe(RDS, "r1") + client.ack_all()
    assert [line.split(" ", 2)[::2] for line in said] == [["RDS", "r1@1"], ["VHDS", "-r1/*"]]


def test_vhds_each_stream_of_a_per_type_client_is_answered(world: World) -> None:
    world.publish(route("r1", 1, "a"), route("r2", 1, "a"))
    client = world.client(per_type=True)
    for name in ("r1", "r2"):
        client.request(RDS, subscribe=[name])
        client.ack_all()
        client.request(VHDS, key=name)
        client.ack_all()
    removed = [{name for each in messages for name in each.removed} for messages in client.messages_on.values()]
    assert [names for names in removed if names >= {"r2/*"}] == [{"r1/*", "r2/*"}] * 2


def test_vhds_answer_about_a_route_survives_a_subscription_meanwhile(world: World) -> None:
    world.publish(route("r1", 1, "a"), route("r2", 1, "a"))
    client = world.client()
    client.subscribe(RDS, "r1")
    client.subscribe(VHDS)
    client.request(RDS, subscribe=["r2"])
    client.ack(RDS)
    client.request(VHDS, subscribe=["r1/foo.com"])
    client.ack_all()
    assert "r2/*" in {name for each in client.messages for name in each.removed}


def test_vhds_host_is_sent_by_its_name(world: World) -> None:
    world.publish(virtual_host("r1/foo.com"))
    client = world.client()
    client.subscribe(RDS, "r1")
    client.subscribe(VHDS)
    client.ack(VHDS)
    assert client.subscribe(VHDS, "r1/foo.com") == ["VHDS #2 r1/foo.com@1"]


def test_vhds_host_is_found_by_its_alias(world: World) -> None:
    world.publish(virtual_host("r1/vh", aliases=("r1/foo.com", "r1/bar.com")))
    client = world.client()
    client.subscribe(RDS, "r1")
    client.subscribe(VHDS)
    client.ack(VHDS)
    assert client.subscribe(VHDS, "r1/foo.com") == ["VHDS #2 r1/vh@1 alias=r1/foo.com,r1/bar.com"]


def test_vhds_host_found_by_its_alias_is_kept_up_to_date(world: World) -> None:
    world.publish(virtual_host("r1/vh", aliases=("r1/foo.com",)))
    client = world.client()
    client.subscribe(VHDS, "r1/foo.com")
    client.ack(VHDS)
    world.publish(virtual_host("r1/vh", 2, aliases=("r1/foo.com",)))
    assert client.take() == ["VHDS #2 r1/vh@2 alias=r1/foo.com"]
    client.ack(VHDS)
    world.publish(remove=[virtual_host("r1/vh")])
    assert client.take() == ["VHDS #3 -r1/vh"]


def test_vhds_host_whose_alias_appears_later_is_sent(world: World) -> None:
    client = world.client()
    client.subscribe(VHDS, "r1/foo.com")
    client.ack(VHDS)
    world.publish(virtual_host("r1/vh", aliases=("r1/other.com",)))
    assert client.take() == []
    world.publish(virtual_host("r1/vh", 2, aliases=("r1/foo.com",)))
    assert client.take() == ["VHDS #2 r1/vh@2 alias=r1/foo.com"]


def aliased(name: str, version: int = 1, *aliases: str) -> Resource:
    return virtual_host(f"r1/{name}", version, aliases=tuple(f"r1/{alias}" for alias in aliases))


def by_alias(world: World) -> Client:
    """Return a client that subscribes to the alias ``r1/foo.com`` and has answered what it was sent."""
    client = world.client()
    client.subscribe(VHDS, "r1/foo.com")
    client.ack_all()
    return client


def test_vhds_host_that_loses_its_alias_is_removed_from_those_who_asked_by_it(world: World) -> None:
    """They do not subscribe to it any more, so they would not be sent its later changes either."""
    world.publish(aliased("vh", 1, "foo.com", "bar.com"))
    client, other = by_alias(world), world.client(node="n2")
    other.subscribe(VHDS, "r1/vh")
    other.ack_all()
    world.publish(aliased("vh", 2, "bar.com"))
    assert client.take() == ["VHDS #2 -r1/vh"]
    assert other.take() == ["VHDS #2 r1/vh@2 alias=r1/bar.com"]
    client.ack_all()
    world.publish(aliased("vh", 3, "bar.com"))
    assert client.take() == []
    assert client.subscribe(VHDS, "r1/foo.com") == ["VHDS #3 ~r1/foo.com alias=r1/foo.com"]


def test_vhds_host_that_lost_its_alias_while_the_client_was_away_is_removed(world: World) -> None:
    world.publish(aliased("vh", 2), aliased("other", 1, "bar.com"))
    client = world.client()
    said = client.subscribe(VHDS, "r1/foo.com", "r1/bar.com", have={"r1/vh": "1", "r1/other": "1"})
    assert said == ["VHDS #1 ~r1/foo.com alias=r1/foo.com -r1/vh"]


def test_vhds_alias_that_moves_to_another_host_brings_that_one(world: World) -> None:
    world.publish(aliased("vh1", 1, "foo.com"), aliased("vh2"))
    client = by_alias(world)
    world.publish(aliased("vh1", 2), aliased("vh2", 2, "foo.com"))
    assert client.take() == ["VHDS #2 r1/vh2@2 alias=r1/foo.com -r1/vh1"]


def test_vhds_second_host_of_an_alias_is_sent_when_the_first_is_gone(world: World) -> None:
    """Envoy rejects two hosts of one domain, so only the first by name is sent."""
    world.publish(aliased("vh1", 1, "foo.com"), aliased("vh2", 1, "foo.com"))
    client = by_alias(world)
    world.publish(aliased("vh2", 2, "foo.com"))
    assert client.take() == []
    world.publish(remove=[aliased("vh1")])
    assert client.take() == ["VHDS #2 r1/vh2@2 alias=r1/foo.com -r1/vh1"]
    client.ack_all()
    world.publish(aliased("vh0", 1, "foo.com"))
    assert client.take() == ["VHDS #3 r1/vh0@1 alias=r1/foo.com -r1/vh2"]
    client.ack_all()
    world.publish(aliased("vh0", 2))
    assert client.take() == ["VHDS #4 r1/vh2@2 alias=r1/foo.com -r1/vh0"]


def test_vhds_host_whose_name_is_the_alias_of_another_goes_before_it(world: World) -> None:
    world.publish(aliased("vh", 1, "foo.com"))
    client = by_alias(world)
    world.publish(aliased("foo.com"))
    assert client.take() == ["VHDS #2 r1/foo.com@1 -r1/vh"]
    client.ack_all()
    world.publish(remove=[aliased("foo.com")])
    assert client.take() == ["VHDS #3 r1/vh@1 alias=r1/foo.com -r1/foo.com"]


def test_vhds_alias_of_a_host_that_another_alias_brings_too(world: World) -> None:
    """The second host was not sent for the alias that both have."""
    world.publish(aliased("vh1", 1, "foo.com"), aliased("vh2", 1, "foo.com", "bar.com"))
    client = by_alias(world)
    assert client.subscribe(VHDS, "r1/bar.com") == ["VHDS #2 r1/vh2@1 alias=r1/foo.com,r1/bar.com"]


def test_vhds_alias_subscribed_again_is_sent_again(world: World) -> None:
    world.publish(virtual_host("r1/vh", aliases=("r1/foo.com",)))
    client = world.client()
    client.subscribe(VHDS, "r1/foo.com")
    client.ack(VHDS)
    assert client.subscribe(VHDS, "r1/foo.com") == ["VHDS #2 r1/vh@1 alias=r1/foo.com"]


def test_vhds_alias_unsubscribed_is_sent_no_more(world: World) -> None:
    world.publish(virtual_host("r1/vh", aliases=("r1/foo.com",)))
    client = world.client()
    client.subscribe(VHDS, "r1/foo.com")
    client.ack(VHDS)
    client.unsubscribe(VHDS, "r1/foo.com")
    world.publish(virtual_host("r1/vh", 2, aliases=("r1/foo.com",)))
    assert client.take() == []


def test_vhds_unknown_host_is_answered_without_a_body(world: World) -> None:
    """Envoy answers 404 at once; a removal, or no answer, would hang the request
    (docs/envoy-behaviour.md#virtual-hosts-on-demand)."""
    client = world.client()
    assert client.subscribe(VHDS, "r1/foo.com") == ["VHDS #1 ~r1/foo.com alias=r1/foo.com"]


def test_vhds_unknown_host_that_appears_is_sent(world: World) -> None:
    client = world.client()
    client.subscribe(VHDS, "r1/foo.com")
    client.ack(VHDS)
    world.publish(virtual_host("r1/foo.com"))
    assert client.take() == ["VHDS #2 r1/foo.com@1"]


def test_vhds_unsubscribing_an_unknown_host_under_the_wildcard_is_answered_with_its_removal(world: World) -> None:
    client = world.client()
    client.subscribe(VHDS, "*", "r1/foo.com")
    client.ack(VHDS)
    client.unsubscribe(VHDS, "r1/foo.com")
    assert (client.last(VHDS).names, client.last(VHDS).removed) == ([], ("r1/foo.com",))


def test_vhds_reconnect_with_star_is_sent_only_what_changed(world: World) -> None:
    world.publish(virtual_host("r1/foo.com"), virtual_host("r1/bar.com", 2))
    client = world.client()
    said = client.subscribe(VHDS, "*", have={"r1/foo.com": "1", "r1/bar.com": "1", "r1/gone": "1"})
    assert said == ["VHDS #1 r1/bar.com@2 -r1/gone"]


def test_vhds_reported_version_found_by_its_alias_survives_another_subscription(world: World) -> None:
    """The answer is still held until clusters are ACKed when the client subscribes to the next host."""
    world.publish(static("a"), virtual_host("r1/vh", 2, aliases=("r1/foo.com",)), virtual_host("r1/bar.com"))
    client = world.client()
    with world.burst():
        client.subscribe(CDS)
        client.subscribe(VHDS, "r1/foo.com", have={"r1/vh": "1"})
    assert client.take() == ["CDS #1 a@1"]
    assert client.subscribe(VHDS, "r1/bar.com") == []
    assert client.ack(CDS) == ["VHDS #2 r1/bar.com@1 r1/vh@2 alias=r1/foo.com"]


def test_vhds_reported_version_found_by_its_alias_survives_the_end_of_another_subscription(world: World) -> None:
    world.publish(static("a"), virtual_host("r1/vh", 2, aliases=("r1/foo.com",)), virtual_host("r1/bar.com"))
    client = world.client()
    with world.burst():
        client.subscribe(CDS)
        client.subscribe(VHDS, "r1/foo.com", "r1/bar.com", have={"r1/vh": "1"})
    assert client.take() == ["CDS #1 a@1"]
    assert client.unsubscribe(VHDS, "r1/bar.com") == []
    assert client.ack(CDS) == ["VHDS #2 r1/vh@2 alias=r1/foo.com"]


@pytest.mark.parametrize("more", [[], ["r1/bar.com"]], ids=["", "and subscribes to another"])
def test_vhds_host_found_by_its_alias_that_was_rejected_is_removed_on_return(world: World, more: list[str]) -> None:
    """The client may have it, although it does not report it."""
    host = virtual_host("r1/vh", aliases=("r1/foo.com",))
    world.publish(host)
    client = world.client()
    client.subscribe(VHDS, "r1/foo.com")
    client.nack(VHDS)
    if more:
        client.subscribe(VHDS, *more)
    client.close()
    world.publish(remove=[host])
    again = world.client(connection="another")
    again.subscribe(VHDS, "r1/foo.com")
    assert again.last(VHDS).removed == ("r1/vh",)


def test_vhds_rejected_removal_of_a_host_found_by_its_alias_goes_again_after_another_subscription(world: World) -> None:
    host = virtual_host("r1/vh", aliases=("r1/foo.com",))
    world.publish(host, virtual_host("r1/bar.com"))
    client = world.client()
    client.subscribe(VHDS, "r1/foo.com")
    client.ack(VHDS)
    world.publish(remove=[host])
    assert client.take() == ["VHDS #2 -r1/vh"]
    client.nack(VHDS)
    assert client.subscribe(VHDS, "r1/bar.com") == ["VHDS #3 r1/bar.com@1 -r1/vh"]


# --- Locators ------------------------------------------------------------------------------------------------------


def test_locators_subscribe_and_unsubscribe_as_names_do(world: World) -> None:
    world.publish(route("r", 1), route("s", 1))
    client = world.client()
    assert client.request(RDS, subscribe=["r"], locators=True) == ["RDS #1 r@1"]
    client.ack(RDS)
    assert client.request(RDS, subscribe=["s"], unsubscribe=["r"], locators=True) == ["RDS #2 s@1"]
    client.ack(RDS)
    world.publish(route("r", 2), route("s", 2))
    assert client.take() == ["RDS #3 s@2"]


def test_locators_subscribe_on_sotw(world: World) -> None:
    world.publish(route("r", 1))
    assert world.client(SOTW).request(RDS, subscribe=["r"], locators=True) == ["RDS #1 r@1"]


def test_locators_with_dynamic_parameters_are_answered_by_name(world: World) -> None:
    world.publish(route("r", 1))
    client = world.client()
    made = wire.DeltaDiscoveryRequest(type_url=RDS, node=client.node)
    made.resource_locators_subscribe.add(name="r").dynamic_parameters["env"] = "prod"
    assert client.send(made.SerializeToString()) == ["RDS #1 r@1"]


# --- xdstp ---------------------------------------------------------------------------------------------------------

COLLECTION = "xdstp://auth1/envoy.config.cluster.v3.Cluster/col/"
NODE = "?xds.node.cluster=c1&xds.node.id=n1"
SWAPPED = "?xds.node.id=n1&xds.node.cluster=c1"
GLOB = COLLECTION + "*" + NODE


def test_xdstp_singleton_is_a_name_like_another(world: World) -> None:
    name = "xdstp://auth1/envoy.config.endpoint.v3.ClusterLoadAssignment/a"
    world.publish(endpoints(name))
    assert world.client().subscribe(EDS, name) == [f"EDS #1 {name}@1"]


def test_xdstp_glob_brings_its_members_with_equal_context_parameters(world: World) -> None:
    member, swapped = COLLECTION + "a" + NODE, COLLECTION + "b" + SWAPPED
    others = [
        COLLECTION + "c",
        COLLECTION + "d?xds.node.cluster=c1&xds.node.id=n2",
        COLLECTION + "deeper/e" + NODE,
        COLLECTION.replace("col", "other") + "f" + NODE,
        COLLECTION.replace("auth1", "auth2") + "g" + NODE,
        "plain",
    ]
    world.publish(*[static(name) for name in (member, swapped, *others)])
    client = world.client()
    client.subscribe(CDS, GLOB)
    assert client.last(CDS).names == [member, swapped]


def test_xdstp_glob_without_parameters_brings_members_without(world: World) -> None:
    world.publish(static(COLLECTION + "a"), static(COLLECTION + "b" + NODE))
    client = world.client()
    client.subscribe(CDS, COLLECTION + "*")
    assert client.last(CDS).names == [COLLECTION + "a"]


def test_xdstp_glob_follows_its_members(world: World) -> None:
    first, second = COLLECTION + "a" + NODE, COLLECTION + "b" + NODE
    world.publish(static(first))
    client = world.client()
    client.subscribe(CDS, GLOB)
    client.ack(CDS)
    world.publish(static(second), static(COLLECTION + "x"))
    assert client.take() == [f"CDS #2 {second}@1"]
    client.ack(CDS)
    world.publish(remove=[static(first)])
    world.advance(30)
    assert client.take() == [f"CDS #3 -{first}"]


def test_xdstp_glob_on_sotw(world: World) -> None:
    world.publish(static(COLLECTION + "a" + NODE), static("plain"))
    assert world.client(SOTW).subscribe(CDS, GLOB) == [f"CDS #1 {COLLECTION}a{NODE}@1"]


def test_xdstp_empty_glob_is_answered(world: World) -> None:
    assert world.client().subscribe(CDS, GLOB) != []


def test_xdstp_empty_glob_subscribed_later_is_answered(world: World) -> None:
    client = world.client()
    client.subscribe(CDS, "plain")
    client.ack(CDS)
    assert client.subscribe(CDS, GLOB) != []


def test_xdstp_glob_subscribed_again_is_sent_again(world: World) -> None:
    member = COLLECTION + "a" + NODE
    world.publish(static(member))
    client = world.client()
    client.subscribe(CDS, GLOB)
    client.ack(CDS)
    assert client.subscribe(CDS, GLOB) == [f"CDS #2 {member}@1"]


def test_xdstp_glob_subscribed_again_beside_a_name_brings_both(world: World) -> None:
    member = COLLECTION + "a" + NODE
    world.publish(static(member), static("plain"))
    client = world.client()
    client.subscribe(CDS, GLOB)
    client.ack(CDS)
    assert client.subscribe(CDS, GLOB, "plain") == [f"CDS #2 plain@1 {member}@1"]


def test_xdstp_glob_unsubscribed_is_sent_no_more(world: World) -> None:
    member = COLLECTION + "a" + NODE
    world.publish(static(member))
    client = world.client()
    client.subscribe(CDS, GLOB)
    client.ack(CDS)
    client.unsubscribe(CDS, GLOB)
    world.publish(static(member, 2))
    assert client.take() == []


def test_xdstp_reconnected_glob_without_versions_is_sent_everything(world: World) -> None:
    member = COLLECTION + "a" + NODE
    world.publish(static(member))
    client = world.client()
    client.subscribe(CDS, GLOB)
    client.ack(CDS)
    client.held.clear()
    assert client.reconnect().take() == [f"CDS #1 {member}@1"]


def test_xdstp_reconnected_glob_with_versions_is_sent_what_changed(world: World) -> None:
    same, changed, gone = (COLLECTION + name + NODE for name in "abc")
    world.publish(static(same), static(changed, 2))
    client = world.client()
    client.subscribe(CDS, GLOB, have={same: "1", changed: "1", gone: "1"})
    client.ack_all()
    world.advance(20)
    said = " ".join(str(message) for message in client.messages)
    assert [f" {changed}@2" in said, f" -{gone}" in said, f" {same}@" in said] == [True, True, False]


def test_xdstp_names_are_not_of_the_wildcard(world: World) -> None:
    world.publish(static("plain"), static(COLLECTION + "a"))
    assert world.client().subscribe(CDS) == ["CDS #1 plain@1"]


def test_xdstp_name_beside_the_wildcard_is_sent_when_it_changes(world: World) -> None:
    world.publish(static("plain"), static(COLLECTION + "a"))
    client = world.client()
    client.subscribe(CDS, "*", COLLECTION + "a")
    client.ack(CDS)
    world.publish(static(COLLECTION + "a", 2), resource(CDS, COLLECTION + "b"))
    assert client.take() == [f"CDS #2 {COLLECTION}a@2"]


# --- Canonical names -------------------------------------------------------------------------------------------------

SORTED, UNSORTED = "xdstp://a/envoy.Cluster/c?a=1&b=2", "xdstp://a/envoy.Cluster/c?b=2&a=1"


def test_xdstp_parameters_have_no_order_in_subscriptions(world: World, variant: Variant) -> None:
    world.publish(static(SORTED))
    client = world.client(variant)
    assert client.subscribe(CDS, UNSORTED) == [f"CDS #1 {SORTED}@1"]
    client.ack(CDS)
    world.publish(static(SORTED, 2))
    assert client.take() == [f"CDS #2 {SORTED}@2"]


def test_xdstp_parameters_have_no_order_in_reported_versions(world: World) -> None:
    world.publish(static(SORTED))
    assert world.client().subscribe(CDS, UNSORTED, have={UNSORTED: "1"}) == []


def test_xdstp_parameters_have_no_order_when_a_name_is_unsubscribed(world: World) -> None:
    world.publish(static(SORTED))
    client = world.client()
    client.subscribe(CDS, SORTED)
    client.ack(CDS)
    client.unsubscribe(CDS, UNSORTED)
    world.publish(static(SORTED, 2))
    assert client.take() == []


def test_xdstp_parameters_of_a_collection_have_no_order(world: World) -> None:
    member = "xdstp://a/envoy.Cluster/col/c?a=1&b=2"
    world.publish(static(member))
    client = world.client()
    client.subscribe(CDS, "xdstp://a/envoy.Cluster/col/*?b=2&a=1")
    assert client.last(CDS).names == [member]


def test_xdstp_members_are_looked_up_among_many_globs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resource is a direct member of one collection, so it is not compared with each."""
    members = [COLLECTION.replace("col", f"{number:03}") + "m" for number in range(100)]
    globs = [COLLECTION.replace("col", f"{number:03}") + "*" for number in range(300)]
    world.publish(*map(static, members))
    split, looks = subscription._split_xdstp, []
    monkeypatch.setattr(subscription, "_split_xdstp", lambda name: looks.append(name) or split(name))
    client = world.client()
    client.subscribe(CDS, *globs)
    assert client.last(CDS).names == members
    assert len(looks) < 10 * (len(globs) + len(members))


def test_xdstp_names_with_very_many_parameters_are_compared_as_they_are() -> None:
    few, many = ("&".join(f"k{number}=" for number in range(count, 0, -1)) for count in (3, 1_000))
    assert canonical(f"xdstp://a/t/n?{few}") == "xdstp://a/t/n?k1=&k2=&k3="
    assert canonical(f"xdstp://a/t/n?{many}") == f"xdstp://a/t/n?{many}"
