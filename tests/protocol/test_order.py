"""Make before break on one aggregated stream (docs/protocol.md#order)."""

import pytest
from support.encoded import (
    CDS,
    ECDS,
    EDS,
    LDS,
    RDS,
    SDS,
    SRDS,
    VHDS,
    cluster,
    endpoints,
    listener,
    resource,
    route,
    static,
)  # fmt: skip
from support.hubs import DELTA, SOTW, MakeWorld, World
from support.scenes import full, started, swap

from xds.protocol.policy import Ordering, Variant


def test_order_route_swap_step_by_step(world: World, variant: Variant) -> None:
    client = started(world, variant)
    swap(world)
    assert client.take() == [full(variant, "CDS #5 b@1", "CDS #5 a@1 b@1")]
    assert client.subscribe(EDS, "b") == ["EDS #6 b@1"]
    assert client.ack(CDS) == ["RDS #7 r@2"]
    assert client.ack(EDS) == []
    assert client.ack(RDS) == [full(variant, "CDS #8 -a", "CDS #8 b@1")]
    assert client.ack(CDS) == []


def test_order_additions_and_removals_of_clusters_are_never_in_one_response(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack(CDS)
    world.publish(static("b"), remove=[static("a")])
    assert client.take() == [full(variant, "CDS #2 b@1", "CDS #2 a@1 b@1")]
    assert client.ack(CDS) == [full(variant, "CDS #3 -a", "CDS #3 b@1")]


def test_order_removal_alone_goes_at_once(world: World, variant: Variant) -> None:
    world.publish(static("a"), static("b"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack(CDS)
    world.publish(remove=[static("a")])
    assert client.take() == [full(variant, "CDS #2 -a", "CDS #2 b@1")]


# --- Clusters, each with its endpoints -----------------------------------------------------------------------------


def test_order_changed_cluster_has_its_endpoints_sent_again_unchanged(world: World, variant: Variant) -> None:
    """On delta Envoy does not request them again and warms until its fetch timeout.

    See docs/envoy-behaviour.md#warming.
    """
    client = started(world, variant)
    world.publish(cluster("a", 2))
    assert client.take() == ["CDS #5 a@2", "EDS #6 a@1"]


def test_order_second_cluster_on_subscribed_endpoints_has_them_sent_again(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(cluster("a2", eds="a"))
    assert client.take() == [full(variant, "CDS #5 a2@1", "CDS #5 a@1 a2@1"), "EDS #6 a@1"]


def test_order_untouched_clusters_have_their_endpoints_not_sent_again(world: World) -> None:
    client = started(world)
    world.publish(cluster("b"), endpoints("b"))
    assert client.take() == ["CDS #5 b@1"]
    assert client.subscribe(EDS, "b") == ["EDS #6 b@1"]


def test_order_endpoints_sent_again_only_once(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(cluster("a", 2), endpoints("a", 2))
    assert client.take() == ["CDS #5 a@2", "EDS #6 a@2"]
    assert client.ack(EDS) == []
    assert client.ack(CDS) == []


def test_order_endpoints_are_never_held_behind_the_cds_ack(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(cluster("b"), endpoints("b"))
    client.subscribe(EDS, "b")
    client.ack(EDS)
    world.publish(endpoints("b", 2), endpoints("a", 3))
    (said,) = client.take()
    assert said.endswith("EDS #7 a@3 b@2")


def test_order_endpoints_unacked_when_the_cluster_changes_come_again_after_their_ack(world: World) -> None:
    client = started(world)
    world.publish(endpoints("a", 2))
    world.publish(cluster("a", 2))
    assert client.take() == ["EDS #5 a@2", "CDS #6 a@2"]
    assert client.ack(EDS) == ["EDS #7 a@2"]


def test_order_endpoints_that_are_gone_while_their_cluster_warms_are_answered(world: World, variant: Variant) -> None:
    """Envoy ACKs clusters only after it received the endpoints: on delta their removal, on SotW their last version."""
    client = started(world, variant)
    world.publish(endpoints("a", 2))
    world.publish(cluster("a", 2))
    world.publish(route("r", 2), remove=[cluster("a"), endpoints("a")])
    assert client.take() == ["EDS #5 a@2", "CDS #6 a@2"]
    (said,) = client.ack(EDS)
    assert said in ("EDS #7 a@2", "EDS #7 -a")
    client.ack_all()
    assert [str(client.last(RDS)).split()[2], str(client.last(CDS)).split()[2]] == [
        "r@2",
        full(variant, "-a", "(empty)"),
    ]


def test_order_secrets_are_never_held(world: World, variant: Variant) -> None:
    client = started(world, variant)
    client.subscribe(SDS, "s")
    client.ack_all()
    world.publish(cluster("b"), endpoints("b"), resource(SDS, "s"))
    assert any(line.endswith(" s@1") for line in client.take())


def test_order_cluster_additions_are_never_held_behind_a_rejected_route(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(route("r", 2, "a"))
    client.nack(RDS)
    world.publish(static("b"))
    assert client.take() == [full(variant, "CDS #6 b@1", "CDS #6 a@1 b@1")]


def test_order_cluster_additions_are_never_held_behind_an_unacked_route(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(route("r", 2, "a"))
    world.publish(static("b"))
    assert client.take() == ["RDS #5 r@2", full(variant, "CDS #6 b@1", "CDS #6 a@1 b@1")]


# --- Wait for the CDS ACK, then listeners, then routes -------------------------------------------------------------


@pytest.mark.parametrize("type_url", [LDS, RDS, SRDS, VHDS, ECDS])
def test_order_what_routes_waits_for_the_cds_ack(world: World, variant: Variant, type_url: str) -> None:
    world.publish(static("a"), resource(type_url, "x"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(type_url, "x")
    client.ack_all()
    world.publish(static("b"), resource(type_url, "x", 2))
    (clusters,) = client.take()
    assert clusters.startswith("CDS")
    (after,) = client.ack(CDS)
    assert after.endswith(" x@2")


@pytest.mark.parametrize("type_url", [LDS, RDS])
def test_order_what_routes_goes_at_once_when_no_cluster_changes(world: World, variant: Variant, type_url: str) -> None:
    client = started(world, variant)
    changed = listener("l", 2, routes="r") if type_url == LDS else route("r", 2, "a")
    world.publish(changed)
    assert len(client.take()) == 1


def test_order_listeners_go_before_routes(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(route("r", 2, "b"), listener("l", 2, routes="r"), static("b"))
    client.take()
    assert client.ack(CDS) == ["LDS #6 l@2", "RDS #7 r@2"]


def test_order_routes_follow_the_snapshot_whose_clusters_were_acked(world: World, variant: Variant) -> None:
    """A swap to c that is published during the swap to b must not send r to c before the client has c."""
    client = started(world, variant)
    swap(world)
    world.publish(static("c"), route("r", 3, "c"))
    client.subscribe(EDS, "b")
    client.take()
    assert client.ack(CDS) == [full(variant, "CDS #7 c@1", "CDS #7 a@1 b@1 c@1"), "RDS #8 r@2"]
    assert client.ack(EDS) == []
    assert client.ack(RDS) == []
    assert client.ack(CDS) == ["RDS #9 r@3", full(variant, "CDS #10 -a", "CDS #10 b@1 c@1")]


def test_order_new_route_subscribed_while_clusters_are_unacked_comes_with_the_ack(world: World) -> None:
    client = started(world)
    world.publish(static("b"), route("r2", 1, "b"))
    assert client.subscribe(RDS, "r2") == ["CDS #5 b@1"]
    assert client.ack(CDS) == ["RDS #6 r2@1"]


def test_order_subscribed_route_of_before_is_answered_while_clusters_are_unacked(
    world: World, variant: Variant
) -> None:
    client = started(world, variant)
    world.publish(route("r2", 1, "a"))
    world.publish(static("b"))
    client.take()
    said = client.subscribe(RDS, "r2")
    assert said in ([], ["RDS #6 r2@1"])
    assert [*said, *client.ack_all()][-1] == "RDS #6 r2@1"


# --- Elsewhere -----------------------------------------------------------------------------------------------------


def test_order_disabled_sends_everything_at_once(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(ordering=Ordering(enabled=False))
    client = started(world, variant)
    swap(world)
    assert client.take() == [full(variant, "CDS #5 b@1 -a", "CDS #5 b@1"), "RDS #6 r@2"]


def test_order_two_streams_never_block_each_other(world: World, variant: Variant) -> None:
    slow, quick = started(world, variant), world.client(variant, "n2")
    quick.subscribe(CDS)
    quick.subscribe(EDS, "a")
    quick.subscribe(LDS)
    quick.subscribe(RDS, "r")
    quick.ack_all()
    swap(world)
    assert len(slow.take()) == 1
    quick.subscribe(EDS, "b")
    quick.ack_all()
    assert str(quick.messages[-1]) == full(variant, "CDS #8 -a", "CDS #8 b@1")
    assert slow.take() == []


def test_order_two_streams_of_one_node_never_block_each_other(world: World) -> None:
    first, second = started(world), world.client(DELTA, "n1", connection="tcp2")
    second.subscribe(CDS)
    second.subscribe(RDS, "r")
    second.ack_all()
    swap(world)
    first.take()
    second.take()
    assert second.ack(CDS) == ["RDS #4 r@2"]
    assert first.take() == []


def test_order_unacked_type_does_not_block_another(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(endpoints("a", 2))
    client.take()
    world.publish(endpoints("a", 3), route("r", 2, "a"))
    assert client.take() == ["RDS #6 r@2"]


def test_order_grpc_client_that_asks_backwards_is_never_kept_waiting(world: World) -> None:
    """LDS, RDS, CDS, EDS by name, each ACKed before the next (docs/envoy-behaviour.md#grpc-clients)."""
    world.publish(cluster("ca", eds="ca-eds"), endpoints("ca-eds"), listener("svc1", routes="r1"), route("r1", 1, "ca"))
    client = world.client(SOTW)
    said = client.subscribe(LDS, "svc1") + client.ack(LDS)
    said += client.subscribe(RDS, "r1") + client.ack(RDS)
    said += client.subscribe(CDS, "ca") + client.ack(CDS)
    said += client.subscribe(EDS, "ca-eds") + client.ack(EDS)
    assert said == ["LDS #1 svc1@1", "RDS #2 r1@1", "CDS #3 ca@1", "EDS #4 ca-eds@1"]
    world.publish(cluster("cb", eds="cb-eds"), endpoints("cb-eds"), route("r1", 2, "cb"), remove=[cluster("ca")])
    assert client.take() == ["RDS #5 r1@2"]
    assert client.ack(RDS) == []
    assert client.subscribe(CDS, "cb") == ["CDS #6 ca@1 cb@1"]


def test_order_routes_answered_late_follow_the_clusters_that_the_client_has_by_then(
    world: World, variant: Variant
) -> None:
    """The next clusters are in flight by then; the routes need not wait for them."""
    world.publish(static("a"), route("r", 1, "a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack(CDS)
    client.subscribe(RDS, "r")
    client.ack(RDS)
    world.publish(route("r", 2, "a"))
    world.publish(static("a", 2))
    world.publish(route("r", 3, "a"), static("a", 3))
    assert client.take() == ["RDS #3 r@2", "CDS #4 a@2"]
    assert client.ack(CDS) == ["CDS #5 a@3"]
    world.publish(static("a", 4))
    assert client.ack(CDS) == ["CDS #6 a@4"]
    assert client.ack(RDS) == ["RDS #7 r@3"]
