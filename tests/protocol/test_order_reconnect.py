"""The first responses on a reconnected stream are ordered too.

See docs/protocol.md#order; docs/envoy-behaviour.md#reconnect.
"""

import pytest
from support.encoded import CDS, EDS, LDS, RDS, cluster, endpoints, listener, route, static
from support.hubs import DELTA, SOTW, MakeWorld, World
from support.scenes import full, start, started, swap

from xds.protocol.policy import Limits, Variant


def test_reconnect_without_changes_is_sent_nothing(world: World, variant: Variant, per_type: bool) -> None:
    client = started(world, variant, per_type=per_type)
    assert client.reconnect().ack_all() == []


def test_reconnect_with_a_swap_obeys_the_order(world: World) -> None:
    client = started(world)
    client.close()
    swap(world)
    client = client.reconnect()
    assert client.take() == ["CDS #1 b@1"]
    assert client.subscribe(EDS, "b") == ["EDS #2 b@1"]
    assert client.ack(CDS) == ["RDS #3 r@2"]
    client.ack(EDS)
    assert client.ack(RDS) == ["CDS #4 -a"]


def test_reconnect_with_a_swap_obeys_the_order_on_sotw(world: World) -> None:
    """A SotW client reports only a version, by which the server that sent it knows the resources."""
    client = started(world, SOTW)
    client.close()
    swap(world)
    client = client.reconnect()
    assert client.take() == ["CDS #1 a@1 b@1"]
    client.subscribe(EDS, "b")
    assert client.ack(CDS)[-1].endswith("r@2")


def test_reconnect_in_the_middle_of_a_swap_goes_on_with_it(world: World) -> None:
    client = started(world)
    swap(world)
    client.subscribe(EDS, "b")
    client.ack(CDS)
    client.ack(EDS)
    client = client.reconnect()
    assert client.take() == ["RDS #1 r@2"]
    assert client.ack(RDS) == ["CDS #2 -a"]


def test_reconnect_with_a_changed_cluster_sends_its_endpoints_again(world: World, variant: Variant) -> None:
    client = started(world, variant)
    client.close()
    world.publish(cluster("a", 2))
    assert client.reconnect().take() == ["CDS #1 a@2", "EDS #2 a@1"]


def test_reconnect_while_warming_asks_for_endpoints_first_and_gets_all(world: World, variant: Variant) -> None:
    """Its reported versions of endpoints must be ignored (docs/envoy-behaviour.md#reconnect-while-warming)."""
    client = started(world, variant)
    client.close()
    assert client.reconnect(EDS).take() == ["EDS #1 a@1"]


def test_reconnect_of_grpc_in_any_order_is_sent_nothing(world: World, variant: Variant) -> None:
    """gRPC requests types in any order, so a first request for endpoints does not show that clusters are warming."""
    world.publish(cluster("a"), endpoints("a"), listener("l", routes="r"), route("r", 1, "a"))
    for user_agent in ("gRPC C-core linux Python C-core 58.0.0", "gRPC Go", "gRPC Java"):
        client = world.client(variant, user_agent, user_agent=user_agent)
        start(client)
        for types in ((EDS, CDS, LDS, RDS), (EDS, RDS, LDS, CDS), (RDS, EDS, CDS, LDS)):
            client = client.reconnect(*types)
            assert client.ack_all() == [], (user_agent, types)


def test_reconnect_while_warming_holds_routes_until_the_clusters_are_requested(world: World, variant: Variant) -> None:
    client = started(world, variant)
    client.close()
    world.publish(static("b"), route("r", 2, "b"))
    client = world.client(variant)
    with world.burst():
        client.subscribe(EDS, "a", have={"a": "1"} if variant is DELTA else "x")
        client.subscribe(RDS, "r", have={"r": "1"} if variant is DELTA else "x")
    assert client.take() == ["EDS #1 a@1"]
    client.ack(EDS)
    said = client.subscribe(CDS, have={"a": "1"} if variant is DELTA else "x")
    assert said[0] == full(variant, "CDS #2 b@1", "CDS #2 a@1 b@1")
    assert [line for line in said if "RDS" in line] == []
    assert client.ack_all()[-1].endswith(" r@2")


def test_reconnect_nacked_rds_keeps_the_old_cluster(world: World) -> None:
    client = started(world)
    client.close()
    swap(world)
    client = client.reconnect()
    client.subscribe(EDS, "b")
    client.ack(CDS)
    client.ack(EDS)
    client.take()
    assert client.nack(RDS) == []
    world.advance(3_600)
    assert client.take() == []
    world.publish(route("r", 3, "b"))
    client.take()
    assert client.ack(RDS) == ["CDS #5 -a"]


def test_reconnect_cluster_of_a_removed_route_that_is_still_subscribed_stays(world: World) -> None:
    client = started(world)
    client.close()
    world.publish(remove=[route("r", 1), cluster("a")])
    client = client.reconnect()
    assert client.ack_all() == ["RDS #1 -r"]
    world.advance(3_600)
    assert client.take() == []
    assert client.unsubscribe(RDS, "r") == ["CDS #2 -a"]


def test_reconnect_inline_routes_of_a_replaced_listener_keep_their_cluster_for_the_drain_time(world: World) -> None:
    world.publish(static("a"), listener("l", 1, clusters="a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    client.close()
    world.publish(static("b"), listener("l", 2, clusters="b"), remove=[static("a")])
    client = client.reconnect()
    client.ack_all()
    assert [str(message) for message in client.messages] == ["CDS #1 b@1", "LDS #2 l@2"]
    world.advance(601)
    assert client.take() == ["CDS #3 -a"]


def test_reconnect_nacked_clusters_keep_the_old_routes(world: World) -> None:
    client = started(world)
    client.close()
    swap(world)
    client = client.reconnect()
    assert client.take() == ["CDS #1 b@1"]
    assert client.nack(CDS) == []
    world.advance(3_600)
    assert client.take() == []


def test_reconnect_everything_removed_meanwhile_is_removed_in_order(world: World) -> None:
    client = started(world)
    client.close()
    world.publish(remove=[cluster("a"), endpoints("a"), listener("l"), route("r", 1)])
    client = client.reconnect()
    assert client.take() == ["LDS #1 -l", "RDS #2 -r"]
    client.unsubscribe(RDS, "r")
    assert client.ack_all() == []
    world.advance(601)  # the removed listener may have had inline routes
    assert client.take() == ["CDS #3 -a", "EDS #4 -a"]


def test_reconnect_reported_cluster_that_is_kept_is_answered_by_its_removal(world: World) -> None:
    """The server never had the cluster, so it cannot send it, and the client may use it."""
    world.publish(route("r", 1))
    client = world.client()
    assert client.subscribe(CDS, "a", have={"a": "9"}) == []
    client.ack_all()
    assert client.subscribe(CDS, "a") == []
    world.advance(20)
    assert client.take() == ["CDS #1 -a"]


def test_reconnect_twice_is_sent_nothing_the_second_time(world: World, variant: Variant) -> None:
    client = started(world, variant)
    client.close()
    swap(world)
    client = client.reconnect()
    client.subscribe(EDS, "b")
    client.ack_all()
    assert full(variant, "-a", "b@1") in str(client.last(CDS))
    assert client.reconnect().ack_all() == []


def test_reconnect_endpoints_requested_after_changed_clusters_are_sent_though_reported(world: World) -> None:
    """The response with the cluster is already sent when the request for its endpoints is read."""
    started(world).close()
    world.publish(cluster("a", 2))
    client = world.client()
    assert client.subscribe(CDS, have={"a": "1"}) == ["CDS #1 a@2"]
    assert client.subscribe(EDS, "a", have={"a": "1"}) == ["EDS #2 a@1"]


def test_reconnect_sotw_with_one_of_many_versions_is_sent_what_is_right(make_world: MakeWorld) -> None:
    """A client with a version of any age ends with the current resources, however many versions the hub keeps."""
    world = make_world()
    world.hub.response_cache.states_max = 2
    clients = []
    for version in range(5):
        world.publish(endpoints("a", version), endpoints("b"))
        client = world.client(SOTW, f"n{version}")
        client.subscribe(CDS)
        client.subscribe(EDS, "a", "b")
        client.ack_all()
        client.close()
        clients.append(client)
    assert [client.reconnect().ack_all() for client in clients[-2:]] == [["EDS #1 a@4"], []]
    assert clients[0].reconnect().ack_all() == ["EDS #1 a@4 b@1"]


def test_reconnect_a_listener_that_drains_since_before_keeps_its_clusters(world: World, variant: Variant) -> None:
    world.publish(static("a"), static("b"), listener("l", 1, clusters="a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(listener("l", 2, clusters="b"))
    client.ack_all()
    client = client.reconnect()
    world.publish(remove=[static("a")])
    client.ack_all()
    assert [message for message in client.messages if message.type_url == CDS] == []
    world.advance(601)
    client.ack_all()
    assert str(client.last(CDS)).endswith(" -a" if variant is DELTA else " b@1")


def test_reconnect_a_removed_route_still_subscribed_keeps_its_clusters(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(listener("l", 2), remove=[route("r", 1)])
    client.ack_all()
    client = client.reconnect()
    world.publish(remove=[cluster("a")])
    client.ack_all()
    world.advance(601)
    client.ack_all()
    assert [message for message in client.messages if message.type_url == CDS] == []
    client.unsubscribe(RDS, "r")
    assert str(client.last(CDS)).endswith(" -a" if variant is DELTA else "(empty)")


def test_reconnect_a_route_that_is_not_reported_and_whose_update_is_rejected_keeps_every_cluster(world: World) -> None:
    """It was removed while a listener used it, and the client goes on with its older version, which nobody knows."""
    world.publish(static("a"), listener("l", routes="r"))
    client = world.client()
    with world.burst():
        client.request(CDS, have={"a": "1"})
        client.request(LDS, have={"l": "1"})
        client.request(RDS, subscribe=["r"])
    client.ack_all()
    world.publish(route("r", 2))
    client.nack(RDS)
    world.publish(remove=[static("a")])
    world.advance(601)
    assert client.take() == []
    world.publish(route("r", 3))
    client.take()
    assert [line.split(" ", 2)[2] for line in client.ack(RDS)] == ["-a"]


def test_reconnect_a_route_that_is_reported_is_not_replaced_by_one_to_a_rejected_cluster(world: World) -> None:
    """Its name is to be answered, but the client has it, and waits for nothing."""
    world.publish(static("a"))
    client = world.client()
    with world.burst():
        client.request(CDS, have={"a": "1"})
        client.request(RDS, subscribe=["r"], have={"r": "1"})
        world.publish(static("b"), route("r", 2, "b"))
    assert [line.split(" ", 2)[2] for line in client.take()] == ["b@1"]
    assert client.nack(CDS, "bad: b") == []
    world.publish(static("b", 2))
    client.take()
    assert [line.split(" ", 2)[2] for line in client.ack(CDS)] == ["r@2"]


def test_reconnect_clusters_that_came_with_rejected_ones_stay_while_routes_may_use_them(world: World) -> None:
    """Envoy applies good clusters of a response that it rejects, and reports none of them when it returns."""
    world.publish(static("good"), static("bad"))
    client = world.client()
    client.subscribe(CDS)
    client.nack(CDS, "bad: bad")
    client.subscribe(LDS)
    world.publish(route("r", 1, "good"), listener("l", routes="r"))
    client.ack(LDS)
    client.subscribe(RDS, "r")
    world.publish(remove=[route("r", 1), static("good")])
    client.close()
    again = world.client(connection="another")
    with world.burst():
        again.request(CDS)
        again.request(LDS, have={"l": "1"})
        again.request(RDS, subscribe=["r"])
    again.ack_all()
    world.advance(60)
    removed = [name for message in again.messages for name in message.removed if message.type_url == CDS]
    assert removed == []
    world.advance(601)  # the removed route has drained
    again.ack_all()
    removed = [name for message in again.messages for name in message.removed if message.type_url == CDS]
    assert removed == ["good"]


def test_reconnect_what_drains_is_kept_for_a_bounded_number_of_nodes(make_world) -> None:
    world = make_world(limits=Limits(doubtful_nodes_max=1))
    world.publish(static("a"), static("b"), listener("l", 1, clusters="a"))
    clients = [world.client(node=name) for name in ("n3", "n4")]
    for client in clients:
        client.subscribe(CDS)
        client.subscribe(LDS)
        client.ack_all()
    world.publish(listener("l", 2, clusters="b"))
    for client in clients:
        client.ack_all()
        client.close()
    assert len(world.hub._draining) == 1


def test_reconnect_a_route_that_drained_and_is_there_again_is_no_longer_kept(world: World) -> None:
    world.publish(static("a"), static("b"), route("r", 1, "a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(RDS, "r")
    client.ack_all()
    world.publish(remove=[route("r", 1)])
    client.ack_all()
    client.close()
    assert len(world.hub._draining) == 1
    world.publish(route("r", 2, "b"), remove=[static("a")])
    again = client.reconnect()
    again.ack_all()
    assert (len(world.hub._draining), again.held[CDS]) == (0, {"b": "1"})


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "half-open"])
def test_reconnect_a_removed_route_that_a_draining_listener_uses_keeps_its_cluster(world: World, noticed: bool) -> None:
    """Envoy stays subscribed to it and reports no version of it (docs/envoy-behaviour.md#reconnect)."""
    world.publish(static("a"), static("b"), listener("l", 1, routes="r"), route("r", 1, "a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.subscribe(RDS, "r")
    client.ack_all()
    world.publish(remove=[static("a"), listener("l", 1), route("r", 1)])
    client.ack_all()
    assert "a" in client.held[CDS]
    again = client.reconnect(before_closing=not noticed)
    again.ack_all()
    world.advance(10)
    again.ack_all()
    assert "a" in again.held[CDS]
    again.unsubscribe(RDS, "r")
    again.ack_all()
    assert "a" not in again.held[CDS]


def test_reconnect_what_a_dead_stream_is_sent_does_not_replace_what_drains(world: World) -> None:
    """The end of the first stream is not noticed, so the server gives up waits on it, and sends more."""
    world.publish(static("a"), static("b"), listener("l", 1, clusters="a"))
    dead = world.client()
    dead.subscribe(CDS)
    dead.subscribe(LDS)
    dead.ack_all()
    world.advance(1)
    client = dead.reconnect(closing=False)
    client.ack_all()
    world.publish(static("c"), listener("l", 2, clusters="c"))
    client.ack_all()
    world.publish(listener("l", 3, clusters="b"))
    client.ack_all()
    dead.take()
    client.close()
    world.advance(25)
    assert any("LDS" in said for said in dead.take()), "the dead stream is sent the listener"
    again = client.reconnect(closing=False)
    again.ack_all()
    world.publish(remove=[static("c")])
    again.ack_all()
    world.advance(60)
    again.ack_all()
    assert "c" in again.held[CDS], "the second version drains"


def test_reconnect_sotw_without_a_version_of_rejected_routes_keeps_every_cluster(world: World) -> None:
    """The client may have applied them, although it never accepted a version of routes that it could report."""
    world.publish(static("a"), static("b"), listener("l", routes="r"), route("r", 1, "a"))
    client = world.client(SOTW)
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    client.subscribe(RDS, "r")
    client.nack(RDS)
    client.close()
    world.publish(listener("m", 1, clusters="b"), remove=[static("a"), listener("l", routes="r"), route("r", 1, "a")])
    again = client.reconnect()
    assert [line.split(" ", 2)[2] for line in again.ack_all()] == ["m@1"]
    world.advance(3_600)
    assert again.take() == []
    assert again.unsubscribe(RDS, "r")[-1].endswith(" b@1")
