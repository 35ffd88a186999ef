"""docs/protocol.md#order, on per-type streams, of which a session has all of one connection; and
docs/envoy-behaviour.md#per-type-streams."""

import pytest
from support.encoded import CDS, EDS, LDS, RDS, cluster, endpoints, listener, route, static
from support.hubs import SOTW, Client, World
from support.scenes import full, start, started, swap

from xds.protocol.policy import Variant
from xds.protocol.sessions import Stream


def test_per_type_start(world: World, variant: Variant) -> None:
    world.publish(cluster("a"), endpoints("a"), listener("l", routes="r"), route("r", 1, "a"))
    start(world.client(variant, per_type=True))


def test_per_type_routes_wait_for_the_ack_of_the_new_endpoints(world: World, variant: Variant) -> None:
    """Clusters are ACKed at once, warm or not: only the ACK of the endpoints shows that they are warm."""
    client = started(world, variant, per_type=True)
    swap(world)
    assert client.take() == [full(variant, "CDS #5 b@1", "CDS #5 a@1 b@1")]
    assert client.ack(CDS) == []
    assert client.subscribe(EDS, "b") == ["EDS #6 b@1"]
    assert client.ack(EDS) == ["RDS #7 r@2"]
    assert client.ack(RDS) == [full(variant, "CDS #8 -a", "CDS #8 b@1")]


def test_per_type_routes_wait_for_the_cds_ack_too(world: World, variant: Variant) -> None:
    client = started(world, variant, per_type=True)
    swap(world)
    client.subscribe(EDS, "b")
    assert client.ack(EDS) == []
    assert client.ack(CDS) == ["RDS #7 r@2"]


def test_per_type_routes_wait_for_every_touched_cluster(world: World, variant: Variant) -> None:
    client = started(world, variant, per_type=True)
    world.publish(cluster("b"), cluster("c"), endpoints("b"), endpoints("c"), route("r", 2, "b c"))
    client.ack(CDS)
    client.subscribe(EDS, "b", "c")
    assert client.ack(EDS) == []
    assert client.ack(EDS) == ["RDS #8 r@2"]


def test_per_type_clusters_without_endpoints_need_only_the_cds_ack(world: World, variant: Variant) -> None:
    client = started(world, variant, per_type=True)
    world.publish(static("b"), route("r", 2, "b"))
    client.take()
    assert client.ack(CDS) == ["RDS #6 r@2"]


def test_per_type_changed_cluster_asks_by_itself_so_nothing_is_sent_twice(world: World, variant: Variant) -> None:
    """For a changed cluster Envoy opens a new endpoints stream without versions, and then ends the old one."""
    client = started(world, variant, per_type=True)
    world.publish(cluster("a", 2), listener("l", 2, routes="r"))
    assert client.take() == ["CDS #5 a@2"]
    assert client.ack(CDS) == []
    old = client.streams.pop((EDS, "a"))
    assert client.subscribe(EDS, "a") == ["EDS #6 a@1"]
    world.hub.close(old)
    assert client.ack(EDS) == ["LDS #7 l@2"]


def test_per_type_endpoints_that_do_not_exist_hold_nothing(world: World, variant: Variant) -> None:
    client = started(world, variant, per_type=True)
    world.publish(cluster("b"), route("r", 2, "b"))
    client.ack(CDS)
    client.subscribe(EDS, "b")
    assert client.ack(EDS) == ["RDS #7 r@2"]


def test_per_type_endpoints_that_go_while_their_cluster_warms_are_sent_nevertheless(
    world: World, variant: Variant
) -> None:
    """Without them the cluster would warm on, or serve without endpoints, while a route uses it."""
    client = started(world, variant, per_type=True)
    swap(world)
    client.ack(CDS)
    world.publish(remove=[endpoints("b")])
    assert client.subscribe(EDS, "b") == ["EDS #6 b@1"]
    expected = ["EDS #7 -b", "RDS #8 r@2"] if variant is Variant.DELTA else ["RDS #7 r@2"]
    assert client.ack(EDS) == expected


def test_per_type_rejected_endpoints_hold_nothing_more(world: World, variant: Variant) -> None:
    client = started(world, variant, per_type=True)
    swap(world)
    client.ack(CDS)
    client.subscribe(EDS, "b")
    assert client.nack(EDS) == ["RDS #7 r@2"]


def test_per_type_rejected_clusters_keep_the_old_routes(world: World, variant: Variant) -> None:
    client = started(world, variant, per_type=True)
    swap(world)
    client.take()
    assert client.nack(CDS) == []
    world.advance(3_600)
    assert client.take() == []


def test_per_type_rejected_routes_keep_the_old_cluster(world: World, variant: Variant) -> None:
    client = started(world, variant, per_type=True)
    swap(world)
    client.ack(CDS)
    client.subscribe(EDS, "b")
    client.ack(EDS)
    assert client.nack(RDS) == []
    world.advance(3_600)
    assert client.take() == []


def test_per_type_cluster_stays_until_the_stream_of_its_route_ends(world: World, variant: Variant) -> None:
    client = started(world, variant, per_type=True)
    world.publish(static("b"), route("r2", 1, "b"), listener("l", 2, routes="r2"))
    client.subscribe(RDS, "r2")
    client.ack_all()
    world.publish(remove=[route("r", 1), cluster("a")])
    assert [line for line in client.ack_all() if "CDS" in line] == []
    assert [line.split(" ", 2)[2] for line in client.unsubscribe(RDS, "r")] == [full(variant, "-a", "b@1")]


@pytest.mark.parametrize("endpoints_first", [True, False])
def test_per_type_endpoints_of_a_cluster_kept_are_kept(world: World, endpoints_first: bool) -> None:
    client = started(world, per_type=True)
    with world.burst():
        if endpoints_first:
            world.publish(remove=[endpoints("a")])
        world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"), remove=[cluster("a")])
        if not endpoints_first:
            world.publish(remove=[endpoints("a")])
    client.subscribe(EDS, "b")
    client.ack_all()
    lines = [str(message).split(" ")[::2] for message in client.messages[4:]]
    assert lines[:4] == [["CDS", "b@1"], ["EDS", "b@1"], ["RDS", "r@2"], ["CDS", "-a"]]


def test_per_type_streams_of_one_connection_and_node_are_one_session(world: World) -> None:
    client = started(world, per_type=True)
    assert len({id(stream.session) for stream in client.streams.values()}) == 1


def test_per_type_streams_of_another_node_or_connection_are_another_session(world: World) -> None:
    clients = [
        world.client(node="n1", connection="tcp1", per_type=True),
        world.client(node="n2", connection="tcp1", per_type=True),
        world.client(node="n1", connection="tcp2", per_type=True),
    ]
    for client in clients:
        client.subscribe(CDS)
    assert len({id(stream.session) for client in clients for stream in client.streams.values()}) == 3


def test_per_type_session_ends_with_its_last_stream(world: World) -> None:
    client = started(world, per_type=True)
    session = client.streams[CDS, ""].session
    client.close()
    client.subscribe(CDS)
    assert client.streams[CDS, ""].session is not session


def test_per_type_reconnect_in_random_order_obeys_the_order(world: World, variant: Variant) -> None:
    """After an outage the EDS stream may reconnect first and the CDS stream last.

    See docs/envoy-behaviour.md#per-type-streams.
    """
    client = started(world, variant, per_type=True)
    client.close()
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"))
    again = world.client(variant, per_type=True, connection="tcp2")
    versions = {"a": {"a": "1"}, "l": {"l": "1"}, "r": {"r": "1"}}
    old = {key: client.accepted[stream] for key, stream in _streams_of(client).items()} if variant is SOTW else {}

    def have(type_url: str, name: str) -> object:
        return old[type_url][0] if variant is SOTW else versions[name]

    assert again.subscribe(RDS, "r", have=have(RDS, "r")) == []
    assert again.subscribe(EDS, "a", have=have(EDS, "a")) == []
    assert again.subscribe(LDS, have=have(LDS, "l")) == []
    world.advance(1.1)
    (said,) = again.subscribe(CDS, have=have(CDS, "a"))
    assert said.endswith(" b@1")
    assert again.ack(CDS) == []
    again.subscribe(EDS, "b")
    assert again.ack(EDS)[-1].endswith(" r@2")


def _streams_of(client: Client) -> dict[str, tuple[Stream, str]]:
    return {type_url: (stream, type_url) for stream, type_url in client.accepted}


def test_per_type_reconnect_without_clusters_does_not_hold_routes_for_ever(world: World, variant: Variant) -> None:
    world.publish(route("r", 2, "a"))
    client = world.client(variant, per_type=True)
    have = {"r": "1"} if variant is not SOTW else "x"
    assert client.subscribe(RDS, "r", have=have) == []
    world.advance(20)
    assert client.take() == ["RDS #1 r@2"]


def test_per_type_routes_wait_while_the_stream_of_the_clusters_is_away(world: World, variant: Variant) -> None:
    """Only the CDS stream ended: changes meanwhile must not move routes to clusters that were never sent."""
    client = started(world, variant, per_type=True)
    world.hub.close(client.streams.pop((CDS, "")))
    swap(world)
    assert client.take() == []
    client.subscribe(CDS, have={"a": "1"} if variant is not SOTW else "x")
    client.subscribe(EDS, "b")
    said = [str(message).split(" ")[0] for message in client.messages[4:]] + [x.split(" ")[0] for x in client.ack_all()]
    assert said[:2] == ["CDS", "EDS"]
    assert "r@2" in str(client.last(RDS))


def test_per_type_slow_stream_does_not_block_another(world: World, variant: Variant) -> None:
    client = started(world, variant, per_type=True)
    world.publish(endpoints("a", 2))
    client.take()
    world.publish(route("r", 2, "a"))
    assert client.take() == ["RDS #6 r@2"]


def test_per_type_an_answer_to_endpoints_of_before_the_clusters_is_not_what_is_awaited(
    world: World, variant: Variant
) -> None:
    client = started(world, variant, per_type=True)
    world.publish(endpoints("a", 2))
    world.publish(cluster("a", 2), route("r", 2, "a"))
    client.take()
    client.ack(CDS)
    client.ack(EDS)
    assert client.last(RDS).names == ["r"]
    assert "r@2" not in str(client.last(RDS))
    world.advance(20)
    assert "r@2" in str(client.last(RDS))


def test_per_type_mended_clusters_are_waited_for_like_new_ones(world: World) -> None:
    """The wait for a rejected cluster ended. When it is sent again, routes to it wait until it is warm."""
    client = started(world, per_type=True)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"), route("r2", 1, "b"))
    client.take()
    client.nack(CDS)
    world.advance(5)
    world.publish(cluster("b", 2))
    assert client.take() == ["CDS #6 b@2"]
    assert client.ack(CDS) == []
    assert client.subscribe(EDS, "b") == ["EDS #7 b@1"]
    assert client.subscribe(RDS, "r2") == []
    assert client.ack(EDS) == ["RDS #8 r@2", "RDS #9 r2@1"]


@pytest.mark.parametrize("after_s", [0, 5])
def test_per_type_rejected_clusters_that_the_client_took_are_waited_for(world: World, after_s: int) -> None:
    """A late request for their endpoints shows that it has the clusters. They are warm once it has the endpoints."""
    client = started(world, per_type=True)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"), route("r2", 1, "b"))
    client.take()
    client.nack(CDS)
    world.advance(after_s)
    assert client.subscribe(EDS, "b") == ["EDS #6 b@1"]
    world.advance(5)
    assert client.subscribe(RDS, "r2") == []
    assert client.ack(EDS) == ["RDS #7 r@2", "RDS #8 r2@1"]


def test_per_type_rejected_clusters_whose_endpoints_do_not_come_hold_routes_for_a_while(world: World) -> None:
    client = started(world, per_type=True)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"))
    client.take()
    client.nack(CDS)
    assert client.subscribe(EDS, "b") == ["EDS #6 b@1"]
    world.advance(19)
    assert client.take() == []
    world.advance(2)
    assert client.take() == ["RDS #7 r@2"]


def test_per_type_rejected_clusters_that_have_their_endpoints_already_hold_nothing(world: World) -> None:
    client = started(world, per_type=True)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"))
    client.take()
    client.subscribe(EDS, "b")
    client.ack(EDS)
    assert client.nack(CDS) == ["RDS #7 r@2"]


def test_per_type_rejected_update_of_a_cluster_that_warms_leaves_the_wait_for_it(world: World) -> None:
    client = started(world, per_type=True)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"))
    client.ack(CDS)
    world.publish(cluster("b", 2))
    client.take()
    client.nack(CDS)
    world.advance(5)
    assert client.subscribe(EDS, "b") == ["EDS #7 b@1"]
    assert client.ack(EDS) == ["RDS #8 r@2"]


def test_per_type_rejected_cluster_leaves_the_wait_for_another(world: World) -> None:
    client = started(world, per_type=True)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"))
    client.ack(CDS)
    world.publish(cluster("c"), endpoints("c"))
    client.take()
    client.nack(CDS)
    world.advance(5)
    assert client.subscribe(EDS, "b") == ["EDS #7 b@1"]
    assert client.ack(EDS) == ["RDS #8 r@2"]


def test_per_type_rejected_update_of_a_cluster_that_became_warm_meanwhile_holds_routes_no_longer(world: World) -> None:
    client = started(world, per_type=True)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"))
    client.ack(CDS)
    client.subscribe(EDS, "b")
    world.publish(cluster("b", 2))
    client.take()
    assert client.ack(EDS) == []
    client.nack(CDS)
    world.advance(2)
    assert str(client.last(RDS)) == "RDS #8 r@2"
