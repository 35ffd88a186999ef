"""Clusters are removed once nothing that a client may use refers to them (docs/protocol.md#order)."""

import pytest
from support.encoded import (
    CDS,
    EDS,
    LDS,
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
from support.hubs import World
from support.scenes import full, started, swap

from xds.model.resource import Reference
from xds.protocol.policy import Variant


def test_order_cds_removals_wait_for_the_rds_ack(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(static("b"))
    client.ack_all()
    world.publish(route("r", 2, "b"), remove=[cluster("a")])
    assert client.take() == ["RDS #6 r@2"]
    assert client.ack(RDS) == [full(variant, "CDS #7 -a", "CDS #7 b@1")]


def test_order_nacked_rds_keeps_the_old_cluster(world: World, variant: Variant) -> None:
    client = started(world, variant)
    swap(world)
    client.subscribe(EDS, "b")
    client.ack(CDS)
    client.ack(EDS)
    assert client.nack(RDS) == []
    world.advance(3_600)
    assert client.take() == []
    world.publish(route("r", 3, "b"))
    assert client.take() == ["RDS #8 r@3"]
    assert client.ack(RDS) == [full(variant, "CDS #9 -a", "CDS #9 b@1")]


def test_order_nacked_rds_twice_keeps_every_cluster_that_it_may_use(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(static("b"), static("c"))
    client.ack_all()
    world.publish(route("r", 2, "b"))
    client.nack(RDS)
    world.publish(route("r", 3, "c"), remove=[cluster("a"), static("b")])
    assert client.take() == ["RDS #7 r@3"]
    assert client.nack(RDS) == []
    world.publish(route("r", 4, "c"))
    client.take()
    assert client.ack(RDS) == [full(variant, "CDS #9 -a -b", "CDS #9 c@1")]


def test_order_cluster_that_another_subscribed_route_names_stays(world: World, variant: Variant) -> None:
    """A draining listener stays subscribed to its old route configuration, for up to 600 s."""
    client = started(world, variant)
    world.publish(static("b"), route("r2", 1, "b"), listener("l", 2, routes="r2"))
    client.subscribe(RDS, "r2")
    client.ack_all()
    before = len(client.messages)
    world.publish(remove=[route("r", 1), cluster("a")])
    client.ack_all()
    assert [str(m) for m in client.messages[before:] if m.type_url == CDS] == []
    said = client.unsubscribe(RDS, "r")
    said += client.ack_all()
    assert [line.split(" ", 2)[2] for line in said] == [full(variant, "-a", "b@1")]


def test_order_endpoints_of_a_cluster_kept_are_kept(world: World) -> None:
    client = started(world)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"), remove=[cluster("a"), endpoints("a")])
    client.subscribe(EDS, "b")
    client.ack_all()
    lines = [str(message) for message in client.messages[4:]]
    assert lines == ["CDS #5 b@1", "EDS #6 b@1", "RDS #7 r@2", "CDS #8 -a", "EDS #9 -a"]


def test_order_inline_routes_of_a_replaced_listener_keep_their_cluster_for_the_drain_time(
    world: World, variant: Variant
) -> None:
    world.publish(static("a"), listener("l", 1, clusters="a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(static("b"), listener("l", 2, clusters="b"), remove=[static("a")])
    client.ack_all()
    assert str(client.messages[-1]) == "LDS #4 l@2"
    world.advance(599)
    assert client.take() == []
    world.advance(2)
    assert client.take() == [full(variant, "CDS #5 -a", "CDS #5 b@1")]


def test_order_a_kept_cluster_keeps_the_clusters_that_it_refers_to(world: World, variant: Variant) -> None:
    """Members of an aggregate cluster, also of one within another, and of a loop."""
    inner = resource(CDS, "inner", refers=(Reference(CDS, "a"), Reference(CDS, "outer")))
    outer = resource(CDS, "outer", refers=(Reference(CDS, "inner"),))
    world.publish(static("a"), static("c"), inner, outer, listener("l", 1, clusters="outer"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(static("b"), listener("l", 2, clusters="b"), remove=[static("a"), static("c"), inner, outer])
    client.ack_all()
    assert str(client.messages[-1]) == full(variant, "CDS #5 -c", "CDS #5 a@1 b@1 inner@1 outer@1")
    world.advance(601)
    assert client.take() == [full(variant, "CDS #6 -a -inner -outer", "CDS #6 b@1")]


def test_order_inline_routes_of_a_removed_listener_keep_their_cluster_for_the_drain_time(
    world: World, variant: Variant
) -> None:
    world.publish(static("a"), static("b"), listener("l", 1, clusters="a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(remove=[static("a"), listener("l")])
    client.ack_all()
    world.advance(599)
    assert [message.type_url for message in client.messages] == [CDS, LDS, LDS]
    world.advance(2)
    assert client.take() == [full(variant, "CDS #4 -a", "CDS #4 b@1")]


def test_order_cluster_removed_while_a_replaced_listener_still_drains_goes_after_it(
    world: World, variant: Variant
) -> None:
    world.publish(static("a"), static("b"), listener("l", 1, clusters="a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(listener("l", 2, clusters="b"))
    client.ack_all()
    world.advance(100)
    world.publish(remove=[static("a")])
    assert client.take() == []
    world.advance(499)
    assert client.take() == []
    world.advance(2)
    assert client.take() == [full(variant, "CDS #4 -a", "CDS #4 b@1")]


def test_order_rejected_listener_keeps_the_old_one_s_clusters(world: World, variant: Variant) -> None:
    world.publish(static("a"), static("b"), listener("l", 1, clusters="a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(listener("l", 2, clusters="b"), remove=[static("a")])
    client.nack(LDS)
    world.advance(3_600)
    assert client.take() == []
    world.publish(listener("l", 3, clusters="b"))
    client.ack_all()
    world.advance(601)
    assert client.take() == [full(variant, "CDS #5 -a", "CDS #5 b@1")]


def test_order_rejected_listener_that_is_then_removed_frees_its_clusters_after_the_drain_time(
    world: World, variant: Variant
) -> None:
    world.publish(static("a"), static("b"), listener("l", 1, clusters="a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(listener("l", 2, clusters="b"))
    client.nack(LDS)
    world.publish(remove=[static("a"), listener("l")])
    client.ack_all()
    world.advance(601)
    client.ack_all()
    assert str(client.last(CDS)) == full(variant, "CDS #5 -a", "CDS #5 b@1")


def test_order_virtual_hosts_keep_their_clusters_until_their_ack(world: World) -> None:
    world.publish(static("a"), virtual_host("r/h", 1, clusters="a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(VHDS, "r/h")
    client.ack_all()
    world.publish(static("b"), virtual_host("r/h", 2, clusters="b"), remove=[static("a")])
    assert client.take() == ["CDS #3 b@1"]
    assert client.ack(CDS) == ["VHDS #4 r/h@2"]
    assert client.ack(VHDS) == ["CDS #5 -a"]


def test_order_cluster_that_returns_while_kept_is_no_change(world: World, variant: Variant) -> None:
    """Removed and re-added in consecutive messages costs requests (docs/envoy-behaviour.md#make-before-break)."""
    client = started(world, variant)
    world.publish(route("r", 2, "a"))
    world.publish(remove=[cluster("a")])
    world.publish(cluster("a"))
    client.ack_all()
    assert [m.type_url for m in client.messages] == [CDS, EDS, LDS, RDS, RDS]


def test_order_named_cluster_that_is_gone_and_then_dropped_needs_no_removal(world: World, variant: Variant) -> None:
    """A gRPC client unsubscribes from a cluster once its routes no longer refer to it.

    See docs/envoy-behaviour.md#grpc-clients.
    """
    world.publish(static("a"), static("b"), listener("l"))
    client = world.client(variant)
    client.subscribe(LDS, "l")
    client.subscribe(CDS, "a", "b")
    client.ack_all()
    world.publish(remove=[static("a")])
    assert client.unsubscribe(CDS, "a") == []
    world.advance(3_600)
    assert client.take() == []


@pytest.mark.parametrize("names", [(), ("a", "b")], ids=["wildcard", "by name"])
def test_order_a_client_of_clusters_alone_is_sent_removals_at_once(
    world: World, variant: Variant, names: tuple[str, ...], per_type: bool
) -> None:
    world.publish(static("a"), static("b"))
    client = world.client(variant, per_type=per_type)
    client.subscribe(CDS, *names)
    client.ack_all()
    world.publish(remove=[static("a")])
    # A per-type client has one stream for each name.
    everything = "(empty)" if per_type and names else "b@1"
    assert [line.split(" ", 2)[2] for line in client.take()] == [full(variant, "-a", everything)]
    client.ack_all()
    world.publish(static("b", 2))
    assert client.take()[-1].endswith(" b@2")


@pytest.mark.parametrize("type_url", [EDS, SDS], ids=["EDS", "SDS"])
def test_order_what_can_not_use_clusters_keeps_none(world: World, type_url: str) -> None:
    world.publish(static("a"), static("b"), resource(type_url, "x"))
    client = world.client()
    client.subscribe(CDS, "a", "b")
    client.subscribe(type_url, "x")
    client.ack_all()
    world.publish(remove=[static("a")])
    assert client.take() == ["CDS #3 -a"]


def test_order_a_reconnected_client_of_clusters_alone_may_still_subscribe_to_listeners(world: World) -> None:
    """Envoy requests clusters before listeners."""
    world.publish(static("a"), static("b"))
    client = world.client()
    client.subscribe(CDS)
    client.ack_all()
    client.close()
    world.publish(static("b", 2), remove=[static("a")])
    again = client.reconnect()
    assert again.take() == ["CDS #1 b@2"]
    assert again.ack(CDS) == ["CDS #2 -a"]


def test_order_routes_of_grpc_s_client_on_a_stream_of_their_own_wait_for_no_cluster_stream(world: World) -> None:
    world.publish(static("a"), static("b"), route("r", 1, "a"))
    client = world.client(per_type=True, user_agent="gRPC Go 1.70")
    client.subscribe(RDS, "r")
    client.ack_all()
    world.publish(route("r", 2, "b"))
    client.ack_all()
    client.close()
    world.publish(route("r", 3, "b"))
    assert client.reconnect().take() == ["RDS #1 r@3"]
