"""Nodes, wildcards, and an answer to every subscribe.

See docs/protocol.md#node to docs/protocol.md#missing-resources, and docs/protocol.md#nonces.
"""

import pytest
from support.encoded import CDS, ECDS, EDS, LDS, OTHER, RDS, RTDS, SDS, endpoints, resource, static
from support.hubs import World

from xds._generated import xds_wire_pb2 as wire

# --- Nodes ---------------------------------------------------------------------------------------------------------


def test_delta_first_request_without_node_is_invalid_argument(world: World) -> None:
    client = world.client()
    assert client.request(CDS, node=wire.Node()) == [
        "END INVALID_ARGUMENT: the first request of a stream must carry a node with an id"
    ]


def test_delta_node_may_be_left_out_later(world: World) -> None:
    world.publish(static("a"), endpoints("e"))
    client = world.client()
    assert client.subscribe(CDS) == ["CDS #1 a@1"]
    assert client.subscribe(EDS, "e") == ["EDS #2 e@1"]


def test_delta_node_may_be_repeated_on_every_request(world: World) -> None:
    world.publish(static("a"), endpoints("e"))
    client = world.client()
    client.subscribe(CDS)
    assert client.request(EDS, subscribe=["e"], node=client.node) == ["EDS #2 e@1"]


@pytest.mark.parametrize("changed", [wire.Node(id="n2", cluster="c1"), wire.Node(id="n1", cluster="c2")])
def test_delta_changed_node_is_an_error(world: World, changed: wire.Node) -> None:
    world.publish(static("a"))
    client = world.client()
    client.subscribe(CDS)
    (said,) = client.request(EDS, subscribe=["e"], node=changed)
    assert said.startswith("END INVALID_ARGUMENT: ")
    assert "n1" in said


# --- Wildcards -----------------------------------------------------------------------------------------------------

LEGACY = [CDS, LDS, EDS, RDS, SDS, RTDS, ECDS, OTHER]


@pytest.mark.parametrize("type_url", LEGACY)
def test_delta_first_request_without_names_is_the_wildcard(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x"), resource(type_url, "y"))
    client = world.client()
    client.subscribe(type_url)
    assert client.last(type_url).names == ["x", "y"]


@pytest.mark.parametrize("type_url", LEGACY)
def test_delta_explicit_star_is_the_same(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x"), resource(type_url, "y"))
    client = world.client()
    client.subscribe(type_url, "*")
    assert client.last(type_url).names == ["x", "y"]


def test_delta_wildcard_follows_what_is_added_changed_and_removed(world: World) -> None:
    world.publish(static("a"), static("b"))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    world.publish(static("a", 2), static("c"))
    assert client.take() == ["CDS #2 a@2 c@1"]
    client.ack(CDS)
    world.publish(remove=[static("b")])
    assert client.take() == ["CDS #3 -b"]


def test_delta_empty_set_after_names_means_nothing(world: World) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    client = world.client()
    client.subscribe(EDS, "a")
    client.ack(EDS)
    assert client.unsubscribe(EDS, "a") == []
    world.publish(endpoints("a", 2), endpoints("c"))
    assert client.take() == []


def test_delta_empty_set_after_unsubscribing_star_means_nothing(world: World) -> None:
    world.publish(static("a"))
    client = world.client()
    client.subscribe(CDS, "*")
    client.ack(CDS)
    assert client.unsubscribe(CDS, "*") == []
    world.publish(static("a", 2), static("b"))
    assert client.take() == []


def test_delta_legacy_wildcard_ends_with_an_explicit_unsubscribe_of_star(world: World) -> None:
    world.publish(static("a"), static("b"))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    assert client.request(CDS, subscribe=["a"], unsubscribe=["*"]) == ["CDS #2 a@1"]
    client.ack(CDS)
    world.publish(static("a", 2), static("b", 2))
    assert client.take() == ["CDS #3 a@2"]


def test_delta_wildcard_stays_when_names_are_added_to_it(world: World) -> None:
    world.publish(static("a"), static("b"))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    assert client.subscribe(CDS, "a") == ["CDS #2 a@1"]
    client.ack(CDS)
    world.publish(static("b", 2))
    assert client.take() == ["CDS #3 b@2"]


def test_delta_star_subscribed_later_brings_everything(world: World) -> None:
    world.publish(static("a"), static("b"))
    client = world.client()
    client.subscribe(CDS, "a")
    client.ack(CDS)
    assert client.subscribe(CDS, "*") == ["CDS #2 a@1 b@1"]


# --- Subscribing again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_url", [CDS, EDS, LDS, RDS, SDS, RTDS, ECDS, OTHER])
def test_delta_subscribing_again_sends_again(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x"), resource(type_url, "y"))
    client = world.client()
    client.subscribe(type_url, "x", "y")
    client.ack(type_url)
    client.subscribe(type_url, "x")
    assert (client.last(type_url).number, client.last(type_url).names) == (2, ["x"])


def test_delta_subscribing_again_after_unsubscribing_sends_again(world: World) -> None:
    world.publish(endpoints("a"))
    client = world.client()
    client.subscribe(EDS, "a")
    client.ack(EDS)
    client.unsubscribe(EDS, "a")
    assert client.subscribe(EDS, "a") == ["EDS #2 a@1"]


def test_delta_subscribing_again_while_unacked_sends_again_after_the_ack(world: World) -> None:
    world.publish(endpoints("a"))
    client = world.client()
    client.subscribe(EDS, "a")
    assert client.subscribe(EDS, "a") == []
    assert client.ack(EDS) == ["EDS #2 a@1"]


def test_delta_subscribing_to_star_again_sends_everything_again(world: World) -> None:
    world.publish(static("a"), static("b"))
    client = world.client()
    client.subscribe(CDS, "*")
    client.ack(CDS)
    assert client.subscribe(CDS, "*") == ["CDS #2 a@1 b@1"]


# --- Names that do not exist ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_url", [EDS, SDS, RTDS, OTHER])
def test_delta_missing_name_is_answered_at_once_as_removed(world: World, type_url: str) -> None:
    client = world.client()
    client.subscribe(type_url, "x")
    assert (client.last(type_url).names, client.last(type_url).removed) == ([], ("x",))


def test_delta_missing_on_demand_cluster_is_answered_at_once_as_removed(world: World) -> None:
    world.publish(static("a"))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    assert client.subscribe(CDS, "x") == ["CDS #2 -x"]


def test_delta_missing_on_demand_cluster_without_wildcard_is_answered_at_once(world: World) -> None:
    assert world.client().subscribe(CDS, "x") == ["CDS #1 -x"]


@pytest.mark.parametrize("type_url", [RDS, ECDS])
def test_delta_missing_route_or_extension_is_not_answered(world: World, type_url: str) -> None:
    client = world.client()
    assert client.subscribe(type_url, "x") == []
    world.publish(resource(type_url, "x"))
    client.take()
    assert client.last(type_url).names == ["x"]


@pytest.mark.parametrize("type_url", [RDS, ECDS])
def test_delta_missing_route_beside_one_that_exists_is_left_out(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "y"))
    client = world.client()
    client.subscribe(type_url, "x", "y")
    assert (client.last(type_url).names, client.last(type_url).removed) == (["y"], ())


@pytest.mark.parametrize("type_url", [EDS, SDS, RTDS, CDS, RDS, ECDS, LDS, OTHER])
def test_delta_missing_name_stays_subscribed_and_is_sent_when_it_appears(world: World, type_url: str) -> None:
    client = world.client()
    client.subscribe(type_url, "x")
    client.ack_all()
    world.publish(resource(type_url, "other"))
    assert client.take() == []
    world.publish(resource(type_url, "x"))
    client.take()
    assert client.last(type_url).names == ["x"]


def test_delta_name_that_disappears_and_returns_is_sent_again(world: World) -> None:
    world.publish(endpoints("a"))
    client = world.client()
    client.subscribe(EDS, "a")
    client.ack(EDS)
    world.publish(remove=[endpoints("a")])
    assert client.take() == ["EDS #2 -a"]
    client.ack(EDS)
    world.publish(endpoints("a"))
    assert client.take() == ["EDS #3 a@1"]


# --- Unsubscribing under the wildcard ------------------------------------------------------------------------------


@pytest.mark.parametrize("type_url", [CDS, LDS, EDS, SDS, OTHER])
def test_delta_unsubscribing_under_the_wildcard_is_answered_with_the_resource(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x"), resource(type_url, "y"))
    client = world.client()
    client.subscribe(type_url, "*", "x")
    client.ack(type_url)
    client.unsubscribe(type_url, "x")
    assert (client.last(type_url).names, client.last(type_url).removed) == (["x"], ())


@pytest.mark.parametrize("type_url", [CDS, LDS, EDS, SDS, RDS, ECDS, OTHER])
def test_delta_unsubscribing_under_the_wildcard_is_answered_with_its_removal(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "y"))
    client = world.client()
    client.subscribe(type_url, "*", "x")
    client.ack_all()
    client.unsubscribe(type_url, "x")
    assert (client.last(type_url).names, client.last(type_url).removed) == ([], ("x",))


def test_delta_unsubscribing_without_wildcard_is_not_answered(world: World) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    client = world.client()
    client.subscribe(EDS, "a", "b")
    client.ack(EDS)
    assert client.unsubscribe(EDS, "a") == []


# --- Every subscribe is answered -----------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [(), ("*",)])
@pytest.mark.parametrize("type_url", [CDS, LDS, OTHER])
def test_delta_first_wildcard_of_an_empty_type_is_answered(world: World, type_url: str, names: tuple) -> None:
    client = world.client()
    assert client.subscribe(type_url, *names) != []
    assert (client.last(type_url).names, client.last(type_url).removed) == ([], ())


def test_delta_listeners_of_a_client_that_never_asks_for_clusters_are_answered(world: World) -> None:
    world.publish(resource(LDS, "l"))
    assert world.client().subscribe(LDS) == ["LDS #1 l@1"]


def test_delta_star_subscribed_later_is_answered_though_there_is_nothing(world: World) -> None:
    client = world.client()
    client.subscribe(CDS, "x")
    client.ack(CDS)
    assert client.subscribe(CDS, "*") == ["CDS #2 (empty)"]


def test_delta_name_already_sent_by_the_wildcard_is_answered(world: World) -> None:
    world.publish(static("a"))
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    assert client.subscribe(CDS, "a") == ["CDS #2 a@1"]


# --- Nonces and subscription changes at once -----------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["ack", "nack"])
def test_delta_an_answer_may_carry_subscription_changes(world: World, answer: str) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    client = world.client()
    client.subscribe(EDS, "a")
    assert getattr(client, answer)(EDS, subscribe=["b"], unsubscribe=["a"]) == ["EDS #2 b@1"]
    client.ack(EDS)
    world.publish(endpoints("a", 2), endpoints("b", 2))
    assert client.take() == ["EDS #3 b@2"]


@pytest.mark.parametrize("nonce", ["unknown", "old"])
def test_delta_old_or_unknown_nonce_never_loses_subscription_changes(world: World, nonce: str) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    client = world.client()
    client.subscribe(EDS, "a")
    client.ack(EDS)
    old = client.last(EDS).nonce
    world.publish(endpoints("a", 2))
    assert client.take() == ["EDS #2 a@2"]
    assert client.request(EDS, subscribe=["b"], nonce=old if nonce == "old" else "x9") == []
    assert client.ack(EDS) == ["EDS #3 b@1"]


def test_delta_old_nonce_is_no_ack(world: World) -> None:
    world.publish(endpoints("a"))
    client = world.client()
    client.subscribe(EDS, "a")
    client.ack(EDS)
    old = client.last(EDS).nonce
    world.publish(endpoints("a", 2))
    world.publish(endpoints("a", 3))
    assert client.take() == ["EDS #2 a@2"]
    assert client.request(EDS, nonce=old) == []
    assert client.ack(EDS) == ["EDS #3 a@3"]


def test_delta_no_response_has_an_empty_or_repeated_nonce(world: World) -> None:
    client = world.client()
    client.subscribe(CDS)
    for version in range(5):
        client.ack_all()
        world.publish(static("a", version))
    nonces = [message.nonce for message in client.messages]
    assert (len(nonces), len(set(nonces)), "" in nonces) == (6, 6, False)
