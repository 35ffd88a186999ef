"""Bugs that the state machines (``test_machine``, ``test_order_machine``) found, each reduced to a small test.

The docstring of a test describes the bug."""

from support.encoded import (
    CDS,
    ECDS,
    EDS,
    LDS,
    OTHER,
    RDS,
    SDS,
    VHDS,
    cluster,
    endpoints,
    listener,
    resource,
    route,
    static,
    virtual_host,
)
from support.hubs import SOTW, MakeWorld, World
from support.scenes import full, started

from xds.model.groups import GroupTable, Rule
from xds.protocol.policy import Variant
from xds.protocol.responses import Encoding

# --- Subscriptions -------------------------------------------------------------------------------------------------


def test_regression_sotw_no_names_after_an_explicit_star_mean_nothing(world: World) -> None:
    """They were taken for the legacy wildcard: a client that had unsubscribed from all was still sent changes."""
    world.publish(static("a"))
    client = world.client(SOTW)
    client.subscribe(CDS, "*")
    client.ack(CDS)
    assert client.unsubscribe(CDS, "*") == []
    world.publish(static("b"))
    assert client.take() == []


def test_regression_missing_name_subscribed_again_along_with_star_is_answered(world: World) -> None:
    """The answer to ``*``, which has only existing names, was taken for the answer to the missing name too."""
    client = world.client()
    assert client.subscribe(CDS, "x") == ["CDS #1 -x"]
    client.ack(CDS)
    assert client.subscribe(CDS, "*", "x") == ["CDS #2 -x"]


def test_regression_alias_of_a_shadowed_virtual_host_finds_nothing(make_world: MakeWorld) -> None:
    """The overlay's host, which has no such alias, was sent as if it had the alias of the host that it hides."""
    world = make_world(groups=GroupTable(rules=(Rule(group="overlay"),), extends={"overlay": "default"}))
    world.publish(virtual_host("vh", 1, aliases=("r/foo.com",)))
    world.publish(virtual_host("vh", 2), group="overlay")
    assert world.client().subscribe(VHDS, "r/foo.com") == ["VHDS #1 ~r/foo.com alias=r/foo.com"]


def test_regression_gone_cluster_that_is_kept_is_answered_when_it_is_subscribed_by_name(world: World) -> None:
    """Its removal waits for a route that still uses it, and the subscription was not answered until then."""
    client = started(world)
    world.publish(remove=[cluster("a"), endpoints("a")])
    assert client.subscribe(CDS, "a") == ["CDS #5 a@1", "EDS #6 a@1"]
    client.ack_all()
    assert client.subscribe(EDS, "a") == ["EDS #7 a@1"]
    client.ack(EDS)
    assert client.unsubscribe(CDS, "a") == ["CDS #8 a@1", "EDS #9 a@1"]  # the client still has it, by the wildcard


def test_regression_extension_that_was_gone_when_it_was_requested_is_sent_when_it_comes_back(
    world: World, variant: Variant
) -> None:
    """The name existed when the stream was last updated, so the server assumed that the client had it."""
    first, second = resource(ECDS, "x"), resource(ECDS, "y")
    world.publish(first, second)
    client = world.client(variant)
    assert client.subscribe(ECDS, "x") == ["ECDS #1 x@1"]
    world.publish(remove=[second])
    client.ack(ECDS, subscribe=["y"])
    world.publish(second)
    assert client.take() == ["ECDS #2 y@1"]


def test_regression_cluster_that_was_gone_when_it_was_requested_is_sent_when_it_comes_back(world: World) -> None:
    """As above; the removal was not sent either."""
    world.publish(static("a"), static("b"))
    client = world.client()
    assert client.subscribe(CDS, "a") == ["CDS #1 a@1"]
    world.publish(remove=[static("b")])
    assert client.ack(CDS, subscribe=["b"]) == ["CDS #2 -b"]
    world.publish(static("b"))
    assert client.ack(CDS) == ["CDS #3 b@1"]


def test_regression_cluster_that_was_gone_when_all_were_requested_is_sent_when_it_comes_back(world: World) -> None:
    """As above, for a wildcard; resources that were sent by name before are removed."""
    world.publish(static("a"), static("b"))
    client = world.client()
    assert client.subscribe(CDS, "a") == ["CDS #1 a@1"]
    with world.burst():
        world.publish(remove=[static("b")])
        client.ack(CDS, subscribe=["*"])
    assert client.take() == ["CDS #2 a@1"]
    world.publish(static("b"))
    assert client.ack(CDS) == ["CDS #3 b@1"]


# --- Heartbeats ----------------------------------------------------------------------------------------------------


def test_regression_sotw_heartbeats_of_clusters_end_with_the_subscription(world: World) -> None:
    """Heartbeats went on without resources, and their absence removed the other clusters."""
    world.publish(cluster("a", eds=None, ttl_s=9), static("b"))
    client = world.client(SOTW)
    client.subscribe(CDS, "a", "b")
    client.ack(CDS)
    assert client.unsubscribe(CDS, "a") == []
    world.advance(60)
    assert client.take() == []


def test_regression_heartbeats_between_the_parts_renew_only_what_was_sent(
    make_world: MakeWorld, variant: Variant
) -> None:
    """Heartbeats renewed resources of parts that were not sent yet, which the client rejects."""
    world = make_world(encoding=Encoding(response_bytes_max=500))
    world.publish(*[resource(OTHER, name, ttl_s=9, padding=400) for name in "abc"])
    client = world.client(variant)
    assert client.subscribe(OTHER) == ["OTHER #1 a@1 ttl=9"]
    world.advance(3)
    assert client.take() == ["OTHER #2 ~a@1 ttl=9" if variant is Variant.DELTA else "OTHER #2 a@1 ttl=9"]


def test_regression_heartbeats_do_not_renew_what_was_subscribed_and_is_not_sent_yet(world: World) -> None:
    """The name was in the stream's view, so the client was answered as if it had the resource."""
    world.publish(resource(SDS, "a", ttl_s=9), resource(SDS, "b", ttl_s=9))
    client = world.client()
    assert client.subscribe(SDS, "a") == ["SDS #1 a@1 ttl=9"]
    assert client.subscribe(SDS, "b") == []
    world.advance(3)
    assert client.take() == ["SDS #2 ~a@1 ttl=9"]


# --- Answers that come late ----------------------------------------------------------------------------------------


def test_regression_sotw_late_ack_after_giving_up_repeats_nothing(world: World) -> None:
    """After the hold timeout, the late ACK of clusters was taken for a request to send them again."""
    world.publish(static("a"))
    world.publish(static("b"), group="overlay")
    client = world.client(SOTW)
    assert client.subscribe(CDS, "a") == ["CDS #1 a@1"]
    world.advance(20)
    world.regroup(GroupTable(rules=(Rule(group="overlay"),), extends={"overlay": "default"}))
    assert client.take() == []
    assert client.ack(CDS) == []


def test_regression_drain_time_of_a_replaced_listener_counts_from_its_ack(world: World, variant: Variant) -> None:
    """The drain time started when the new listener was sent: the old one lost its cluster while it still drained."""
    world.publish(static("a"), static("b"), listener("l", 1, clusters="a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(listener("l", 2, clusters="b"), remove=[static("a")])
    assert client.take() == ["LDS #3 l@2"]
    world.advance(15)
    assert client.ack(LDS) == []
    world.advance(599)
    assert client.take() == []
    world.advance(2)
    assert client.take() == [full(variant, "CDS #4 -a", "CDS #4 b@1")]


# --- Endpoints that a client waits for -----------------------------------------------------------------------------


def test_regression_sotw_endpoints_gone_before_they_were_requested_are_sent_while_their_cluster_warms(
    world: World,
) -> None:
    """SotW cannot send that they do not exist: the cluster warmed, and was not ACKed, until Envoy's fetch timeout."""
    client = world.client(SOTW)
    client.subscribe(CDS)
    client.ack(CDS)
    world.publish(cluster("a", 1, eds="e1"), endpoints("e1"))
    world.publish(cluster("a", 2, eds="e2"), endpoints("e2"), remove=[endpoints("e1")])
    assert client.take() == ["CDS #2 a@1"]
    assert client.subscribe(EDS, "e1") == ["EDS #3 e1@1"]


def test_regression_per_type_sotw_endpoints_that_went_do_not_hold_the_removal_of_their_cluster(world: World) -> None:
    """The ACK of each name was awaited, but no SotW response contains a name that does not exist."""
    world.publish(cluster("a"), endpoints("a"))
    client = world.client(SOTW, per_type=True)
    client.subscribe(CDS)
    world.publish(remove=[cluster("a"), endpoints("a")])
    client.subscribe(EDS, "a")
    client.ack_all()
    assert str(client.last(CDS)) == "CDS #3 (empty)"


def test_regression_per_type_endpoints_whose_stream_ended_un_acked_hold_nothing(world: World) -> None:
    """The former endpoints of the cluster stayed pending: listeners were sent only at the deadline."""
    world.publish(cluster("a", 1, eds="e1"), endpoints("e1"))
    client = world.client(per_type=True)
    client.subscribe(CDS)
    assert client.subscribe(LDS) == []
    client.ack(CDS)
    assert client.subscribe(EDS, "e1") == ["EDS #2 e1@1"]
    upserts = (cluster("a", 2, eds="e2"), endpoints("e2"), listener("l", clusters="a"))
    world.publish(*upserts, remove=[endpoints("e1")])
    client.ack(CDS)
    client.subscribe(EDS, "e2")
    client.unsubscribe(EDS, "e1")
    assert client.ack(EDS) == ["LDS #5 l@1"]


def test_regression_endpoints_that_rejected_clusters_share_do_not_show_that_all_were_taken(world: World) -> None:
    """Envoy applies the good part of a rejected response: the request was for that cluster.

    See docs/envoy-behaviour.md#rejected-responses.
    """
    client = started(world)
    world.publish(cluster("good", eds="e"), cluster("bad", eds="e"), endpoints("e"), route("r", 2, "bad"))
    client.subscribe(EDS, "e")
    assert client.nack(CDS, "one of them") == []
    assert client.ack(EDS) == []
    world.publish(cluster("bad", 2, eds="e"))
    assert client.ack_all()[-1] == "RDS #9 r@2"


def test_regression_shared_endpoints_show_it_once_the_other_rejected_cluster_is_gone(world: World) -> None:
    client = started(world)
    world.publish(cluster("good", eds="e"), cluster("bad", eds="e"), endpoints("e"), route("r", 2, "good"))
    client.subscribe(EDS, "e")
    client.nack(CDS, "one of them")
    client.ack_all()
    assert "r@2" not in str(client.last(RDS))
    world.publish(remove=[cluster("bad", eds="e")])
    client.ack_all()
    assert "r@2" in str(client.last(RDS))


def test_regression_a_new_cluster_that_is_rejected_twice_is_still_absent(world: World) -> None:
    """The first rejected version was taken for one that the client has accepted."""
    client = started(world)
    world.publish(static("b"), route("r", 2, "b"))
    assert client.take() == ["CDS #5 b@1"]
    assert client.nack(CDS) == []
    world.publish(static("b", 2))
    assert client.take() == ["CDS #6 b@2"]
    assert client.nack(CDS) == []
    world.publish(static("b", 3))
    assert client.ack_all() == ["CDS #7 b@3", "RDS #8 r@2"]


# --- Reconnects ----------------------------------------------------------------------------------------------------


def test_regression_reconnect_rejected_clusters_that_are_gone_are_removed_though_not_reported(world: World) -> None:
    """Envoy had applied one of them nevertheless (docs/envoy-behaviour.md#rejected-responses), and kept it for ever."""
    world.publish(static("a"))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    world.publish(static("bad"), static("ok"))
    client.nack(CDS)
    client.close()
    world.publish(remove=[static("bad"), static("ok")])
    client = client.reconnect()
    world.advance(19.9)
    assert client.take() == []
    world.advance(0.2)
    assert client.take() == ["CDS #1 -bad -ok"]


def test_regression_reconnect_removes_no_cluster_before_listeners_and_routes_are_requested(world: World) -> None:
    """After the first request of the burst, the cluster was removed although routes still used it."""
    started(world).close()
    world.publish(remove=[cluster("a"), endpoints("a"), listener("l", routes="r"), route("r", 1, "a")])
    client = world.client()
    assert client.subscribe(CDS, have={"a": "1"}) == []
    assert client.subscribe(EDS, "a", have={"a": "1"}) == []
    assert client.subscribe(LDS, have={"l": "1"}) == ["LDS #1 -l"]


def test_regression_no_nonce_comes_twice_on_a_stream(world: World, variant: Variant) -> None:
    """A cached response was sent again with the same nonce, so that an old ACK counted for it."""
    world.publish(endpoints("a"))
    client = world.client(variant)
    for _ in range(4):
        assert client.subscribe(EDS, "a")
        client.ack(EDS)
    nonces = [message.nonce for message in client.messages]
    assert len(set(nonces)) == len(nonces) == 4


def test_regression_what_a_first_response_left_is_removed_though_nothing_is_reported(world: World) -> None:
    """A node that rejected its first response, and reports no versions, kept the part that it had applied."""
    world.publish(static("bad"), static("ok"))
    client = world.client()
    client.subscribe(CDS)
    client.nack(CDS)
    client.close()
    world.publish(remove=[static("bad"), static("ok")])
    again = client.reconnect()
    again.ack_all()
    world.advance(100)
    again.ack_all()
    assert str(again.last(CDS)).endswith(" -bad -ok")


def test_regression_reconnect_while_warming_removes_endpoints_that_are_gone_and_not_requested(world: World) -> None:
    """Unreliable reported versions were ignored completely: resources removed meanwhile were never removed."""
    world.publish(endpoints("a"), endpoints("b"))
    client = world.client()
    assert client.subscribe(EDS) == ["EDS #1 a@1 b@1"]
    client.ack(EDS)
    client.close()
    world.publish(remove=[endpoints("b")])
    client = world.client()
    assert client.subscribe(EDS, "*", have={"a": "1", "b": "1"}) == ["EDS #1 a@1 -b"]
