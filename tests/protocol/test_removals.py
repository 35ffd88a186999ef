"""Removals of clusters: which clients they are sent to at once, and what they wait for otherwise."""

import pytest
from support.encoded import (
    CDS,
    EDS,
    LDS,
    RDS,
    SDS,
    SRDS,
    TYPES,
    VHDS,
    cluster,
    endpoints,
    listener,
    resource,
    route,
    static,
)
from support.hubs import Client, World
from support.scenes import full

from xds.model.resource import Reference
from xds.protocol.policy import Variant

HOLD_S = 20.0
CAN_USE = (LDS, RDS, SRDS, VHDS)
CAN_NOT_USE = (EDS, SDS)
GRPC = "gRPC Go 1.70"


def words(said: list[str]) -> list[str]:
    """Return the lines without the numbers of the responses."""
    return [f"{line.split()[0]} {line.split(' ', 2)[2]}" for line in said]


def of_clusters(world: World, variant: Variant, names: tuple[str, ...], **options: object) -> Client:
    """Return a client that has clusters a and b."""
    world.publish(static("a"), static("b"))
    client = world.client(variant, **options)
    client.subscribe(CDS, *names)
    client.ack_all()
    return client


@pytest.fixture(params=[(), ("a", "b")], ids=["wildcard", "by name"])
def names(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


# --- At once -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_url", [*CAN_USE, *CAN_NOT_USE], ids=TYPES.__getitem__)
def test_a_client_with_nothing_in_flight_is_sent_removals_at_once(
    world: World, variant: Variant, type_url: str
) -> None:
    """Whatever else the client subscribes to is ACKed, and does not refer to the cluster."""
    world.publish(resource(type_url, "x"))
    client = of_clusters(world, variant, ())
    client.subscribe(type_url, "x")
    client.ack_all()
    world.publish(remove=[static("a")])
    assert words(client.take()) == [full(variant, "CDS -a", "CDS b@1")]


@pytest.mark.parametrize("type_url", CAN_USE, ids=TYPES.__getitem__)
@pytest.mark.parametrize("drops", [False, True], ids=["keeps the name", "drops the name"])
def test_a_client_of_names_that_has_what_could_use_them_is_given_time_to_drop_them(
    world: World, variant: Variant, type_url: str, drops: bool
) -> None:
    """A gRPC client unsubscribes from a cluster once its routes no longer refer to it
    (docs/envoy-behaviour.md#grpc-clients). If the removal came earlier, its calls would fail. It is sent after the
    hold, if the client still subscribes to the cluster."""
    world.publish(resource(type_url, "x"))
    client = of_clusters(world, variant, ("a", "b"))
    client.subscribe(type_url, "x")
    client.ack_all()
    world.publish(remove=[static("a")])
    world.advance(HOLD_S - 1)
    assert client.take() == []
    if drops:
        assert client.unsubscribe(CDS, "a") == []
    world.advance(2)
    assert words(client.take()) == ([] if drops else [full(variant, "CDS -a", "CDS b@1")])


@pytest.mark.parametrize("type_url", CAN_NOT_USE, ids=TYPES.__getitem__)
def test_what_can_not_use_clusters_is_not_waited_for(
    world: World, variant: Variant, names: tuple[str, ...], type_url: str
) -> None:
    """Unanswered endpoints and secrets send no requests to clusters."""
    world.publish(resource(type_url, "x"))
    client = of_clusters(world, variant, names)
    client.subscribe(type_url, "x")
    world.publish(remove=[static("a")])
    assert words(client.take()) == [full(variant, "CDS -a", "CDS b@1")]


def test_a_removal_beside_a_change_goes_with_the_ack_of_the_change(
    world: World, variant: Variant, names: tuple[str, ...]
) -> None:
    """Additions and removals are never in one response; the removals wait only for the answer."""
    client = of_clusters(world, variant, names)
    world.publish(static("b", 2), remove=[static("a")])
    assert words(client.take()) == [full(variant, "CDS b@2", "CDS a@1 b@2")]
    assert words(client.ack(CDS)) == [full(variant, "CDS -a", "CDS b@2")]


def test_removals_one_after_the_other_each_go_with_the_answer_to_the_last(world: World, variant: Variant) -> None:
    client = of_clusters(world, variant, ())
    world.publish(static("c"))
    client.ack_all()
    world.publish(remove=[static("a")])
    world.publish(remove=[static("b")])
    assert words(client.take()) == [full(variant, "CDS -a", "CDS b@1 c@1")]
    assert words(client.ack(CDS)) == [full(variant, "CDS -b", "CDS c@1")]


def test_endpoints_go_with_their_cluster(world: World) -> None:
    world.publish(cluster("a"), endpoints("a"), static("b"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(EDS, "a")
    client.ack_all()
    world.publish(remove=[cluster("a"), endpoints("a")])
    assert words(client.take()) == ["CDS -a", "EDS -a"]


def test_a_client_that_unsubscribed_from_listeners_and_routes_is_sent_removals_at_once(world: World) -> None:
    """Resources that the client unsubscribed from use no clusters."""
    world.publish(static("a"), static("b"), route("r", 1, "a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(RDS, "r")
    client.ack_all()
    world.publish(remove=[static("a")])
    assert client.take() == []
    assert words(client.unsubscribe(RDS, "r")) == ["CDS -a"]


# --- What is under way ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_url", CAN_USE, ids=TYPES.__getitem__)
def test_what_can_use_clusters_is_waited_for_while_it_is_under_way(
    world: World, variant: Variant, type_url: str
) -> None:
    """The client may still use the version before, which uses a, until it ACKs the one that does not."""
    world.publish(resource(type_url, "x", 1, refers=(Reference(CDS, "a"),)))
    client = of_clusters(world, variant, ())
    client.subscribe(type_url, "x")
    client.ack_all()
    world.publish(resource(type_url, "x", 2), remove=[static("a")])
    assert words(client.take()) == [f"{TYPES[type_url]} x@2"]
    said = client.ack(type_url)
    if type_url == LDS:  # the older version drains
        world.advance(599)
        assert client.take() == said == []
        world.advance(2)
        said = client.take()
    assert words(said) == [full(variant, "CDS -a", "CDS b@1")]


# --- Clients that have just reconnected -------------------------------------------------------------------------------


def test_a_reconnected_client_is_sent_removals_after_its_first_answer(
    world: World, variant: Variant, names: tuple[str, ...]
) -> None:
    """It may still subscribe to listeners: Envoy subscribes to clusters first."""
    client = of_clusters(world, variant, names)
    client.close()
    world.publish(static("b", 2), remove=[static("a")])
    again = client.reconnect()
    # On SotW the server has recorded the version with a, which it sent on the node's last stream.
    assert words(again.take()) == [full(variant, "CDS b@2", "CDS a@1 b@2")]
    assert words(again.ack(CDS)) == [full(variant, "CDS -a", "CDS b@2")]


def test_a_reconnected_per_type_client_is_sent_removals_after_the_hold(world: World, variant: Variant) -> None:
    """Each stream reconnects by its own timer: the one for listeners may follow.

    See docs/envoy-behaviour.md#per-type-streams.
    """
    client = of_clusters(world, variant, (), per_type=True)
    client.close()
    world.publish(static("b", 2), remove=[static("a")])
    again = client.reconnect()
    said = again.ack_all()
    world.advance(HOLD_S - 1)
    assert words(said + again.take()) == [full(variant, "CDS b@2", "CDS a@1 b@2")]
    world.advance(2)
    assert words(again.take()) == [full(variant, "CDS -a", "CDS b@2")]


def test_a_client_that_is_back_and_has_nothing_to_answer_waits_no_longer_than_the_hold(
    world: World, names: tuple[str, ...]
) -> None:
    client = of_clusters(world, Variant.DELTA, names)
    client.close()
    world.publish(remove=[static("a")])
    again = client.reconnect()
    world.advance(HOLD_S + 1)
    assert words(again.take()) == ["CDS -a"]


def test_a_client_that_reconnected_long_ago_is_sent_removals_at_once(
    world: World, variant: Variant, names: tuple[str, ...]
) -> None:
    client = of_clusters(world, variant, names)
    client.close()
    again = client.reconnect()
    assert again.take() == []
    world.advance(HOLD_S + 1)
    world.publish(remove=[static("a")])
    assert words(again.take()) == [full(variant, "CDS -a", "CDS b@1")]


def test_a_client_that_asks_for_listeners_after_its_return_keeps_what_they_use(world: World) -> None:
    world.publish(static("a"), static("b"), listener("l", 1, clusters="a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    client.close()
    world.publish(static("b", 2), listener("l", 2, clusters="b"), remove=[static("a")])
    again = world.client(connection="another")
    said = again.request(CDS, have={"a": "1", "b": "1"})
    said += again.request(LDS, have={"l": "1"})
    said += again.ack_all()
    assert words(said) == ["CDS b@2", "LDS l@2"]
    world.advance(599)
    assert again.take() == []
    world.advance(2)
    assert words(again.take()) == ["CDS -a"]


# --- Per-type streams ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_url", CAN_USE, ids=TYPES.__getitem__)
def test_per_type_streams_of_grpc_s_client_wait_for_no_cluster_stream(
    world: World, variant: Variant, type_url: str
) -> None:
    """The client subscribes to clusters after routes, or gets them elsewhere; there is no stream for an ACK."""
    world.publish(static("a"), static("b"), resource(type_url, "x", 1, refers=(Reference(CDS, "a"),)))
    client = world.client(variant, per_type=True, user_agent=GRPC)
    client.subscribe(type_url, "x")
    client.ack_all()
    world.publish(static("c"), resource(type_url, "x", 2, refers=(Reference(CDS, "c"),)), remove=[static("a")])
    assert words(client.take()) == [f"{TYPES[type_url]} x@2"]
    client.ack_all()
    client.close()
    world.publish(static("c", 2), resource(type_url, "x", 3, refers=(Reference(CDS, "c"),)))
    assert words(client.reconnect().take()) == [f"{TYPES[type_url]} x@3"]


def test_a_cluster_stream_of_grpc_s_client_that_is_there_is_waited_for(world: World, variant: Variant) -> None:
    """Routes use a new cluster only after its ACK, and the old one is removed after the ACK of the routes."""
    world.publish(static("a"), route("r", 1, "a"))
    client = world.client(variant, per_type=True, user_agent=GRPC)
    client.subscribe(CDS)
    client.subscribe(RDS, "r")
    client.ack_all()
    world.publish(static("b"), route("r", 2, "b"), remove=[static("a")])
    assert words(client.take()) == [full(variant, "CDS b@1", "CDS a@1 b@1")]
    assert words(client.ack(CDS)) == ["RDS r@2"]
    assert words(client.ack(RDS)) == [full(variant, "CDS -a", "CDS b@1")]
