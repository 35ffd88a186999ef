"""Versions, nonces, full state, and the rules shared with delta (docs/protocol.md#state-of-the-world)."""

from dataclasses import replace

import pytest
from support.encoded import (
    CDS,
    ECDS,
    EDS,
    LDS,
    OTHER,
    RDS,
    RTDS,
    SDS,
    SRDS,
    TYPES,
    cluster,
    endpoints,
    resource,
    static,
)
from support.hubs import SOTW, MakeWorld, World

from xds.model.resource import Resource

ALL = [CDS, LDS, EDS, RDS, SDS, RTDS, ECDS, OTHER]


@pytest.mark.parametrize("type_url", ALL)
def test_sotw_first_request_without_names_is_the_wildcard(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x"), resource(type_url, "y"))
    client = world.client(SOTW)
    assert client.subscribe(type_url) == [f"{TYPES[type_url]} #1 x@1 y@1"]


@pytest.mark.parametrize("type_url", ALL)
def test_sotw_explicit_star_is_the_same(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x"), resource(type_url, "y"))
    assert world.client(SOTW).subscribe(type_url, "*") == [f"{TYPES[type_url]} #1 x@1 y@1"]


@pytest.mark.parametrize("type_url", [CDS, LDS])
def test_sotw_empty_wildcard_is_answered(world: World, type_url: str) -> None:
    assert world.client(SOTW).subscribe(type_url) == [f"{TYPES[type_url]} #1 (empty)"]


def test_sotw_empty_names_after_names_mean_nothing(world: World) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    client = world.client(SOTW)
    client.subscribe(EDS, "a")
    client.ack(EDS)
    assert client.unsubscribe(EDS, "a") == []
    world.publish(endpoints("a", 2), endpoints("b", 2))
    assert client.take() == []


def test_sotw_names_end_the_legacy_wildcard(world: World) -> None:
    world.publish(static("a"), static("b"))
    client = world.client(SOTW)
    client.subscribe(CDS)
    client.ack(CDS)
    assert client.subscribe(CDS, "a") == ["CDS #2 a@1"]
    client.ack(CDS)
    world.publish(static("b", 2))
    assert client.take() == []


def test_sotw_star_beside_names_is_both(world: World) -> None:
    world.publish(static("a"), static("b"))
    client = world.client(SOTW)
    client.subscribe(CDS)
    client.ack(CDS)
    assert client.subscribe(CDS, "*", "a") == ["CDS #2 a@1 b@1"]


def test_sotw_star_added_to_names_brings_everything(world: World) -> None:
    world.publish(static("a"), static("b"))
    client = world.client(SOTW)
    client.subscribe(CDS, "a")
    client.ack(CDS)
    assert client.subscribe(CDS, "*") == ["CDS #2 a@1 b@1"]


@pytest.mark.parametrize("type_url", ALL)
def test_sotw_reconnect_with_equal_version_sends_nothing(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x"), resource(type_url, "y"))
    client = world.client(SOTW)
    client.subscribe(CDS, *(["x"] if type_url == CDS else []))
    client.subscribe(type_url, "x")
    client.ack_all()
    assert client.reconnect().ack_all() == []


def test_sotw_reconnect_with_another_version_sends_what_is_subscribed(world: World) -> None:
    world.publish(endpoints("a"), endpoints("b"), endpoints("c"))
    client = world.client(SOTW)
    client.subscribe(CDS)
    client.subscribe(EDS, "a", "b")
    client.ack_all()
    client.close()
    world.publish(endpoints("b", 2))
    assert client.reconnect().take() in (["EDS #1 b@2"], ["EDS #1 a@1 b@2"])


def test_sotw_reconnect_with_a_version_of_elsewhere_sends_what_is_subscribed(world: World) -> None:
    world.publish(static("a"), endpoints("a"), endpoints("b"), endpoints("c"))
    client = world.client(SOTW)
    assert client.subscribe(CDS, have="0123456789abcdef") == ["CDS #1 a@1"]
    assert client.subscribe(EDS, "a", "b", have="0123456789abcdef") == ["EDS #2 a@1 b@1"]


def test_sotw_version_is_the_content_s_on_every_replica(world: World, make_world: MakeWorld) -> None:
    other = make_world()
    other.publish(static("gone"), static("a", 9))
    other.publish(static("b"), static("a"), remove=[static("gone")])
    world.publish(static("a"), static("b"))
    clients = [world.client(SOTW), other.client(SOTW)]
    for client in clients:
        client.subscribe(CDS)
    assert clients[0].last(CDS).version == clients[1].last(CDS).version != ""


def test_sotw_version_after_many_changes_is_that_of_a_fresh_client(world: World) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    client = world.client(SOTW)
    client.subscribe(EDS, "a")
    client.ack(EDS)
    client.subscribe(EDS, "b")
    client.ack(EDS)
    world.publish(endpoints("a", 2), endpoints("c"))
    client.ack(EDS)
    client.request(EDS, subscribe=["c"], unsubscribe=["b"])
    client.ack(EDS)
    fresh = world.client(SOTW, "n2")
    fresh.subscribe(EDS, "a", "c")
    assert client.last(EDS).version == fresh.last(EDS).version


def test_sotw_version_differs_with_content(world: World) -> None:
    world.publish(static("a"))
    client = world.client(SOTW)
    client.subscribe(CDS)
    first = client.last(CDS).version
    client.ack(CDS)
    world.publish(static("a", 2))
    assert client.last(CDS).version != first


def labelled(resource: Resource, version: str) -> Resource:
    return replace(resource, version=version, labelled=True)


def test_sotw_version_of_an_author_says_nothing_of_what_a_client_has(world: World) -> None:
    world.publish(labelled(endpoints("x"), "build-7"))
    client = world.client(SOTW)
    client.subscribe(EDS, "x")
    client.ack_all()
    assert client.last(EDS).version == "build-7"
    client.close()
    world.publish(labelled(endpoints("x", 2), "build-7b"))
    world.publish(labelled(endpoints("x", 3), "build-7"))
    assert world.client(SOTW).subscribe(EDS, "x", have="build-7") != []


def test_sotw_stale_nonce_is_ignored(world: World) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    client = world.client(SOTW)
    client.subscribe(EDS, "a")
    client.ack(EDS)
    old = client.last(EDS).nonce
    world.publish(endpoints("a", 2))
    world.publish(endpoints("a", 3))
    assert client.take() == ["EDS #2 a@2"]
    assert (
        client.request(EDS, subscribe=["b"], nonce=old) == []
    )  # as gRPC does: it sends them again with the current nonce, below
    assert client.ack(EDS) == ["EDS #3 a@3 b@1"]


@pytest.mark.parametrize("more", [[], ["c"]])
def test_sotw_a_name_that_a_stale_request_lacks_is_sent_again_once_it_is_named_again(
    world: World, more: list[str]
) -> None:
    """The client ignores it in the response that is in flight: it did not subscribe to it when that arrived."""
    world.publish(endpoints("a"), endpoints("b"), endpoints("c"))
    client = world.client(SOTW)
    with world.burst():
        client.subscribe(EDS, "a", "b")
    client.take()
    assert client.request(EDS, unsubscribe=["b"], subscribe=more) == []
    first = client.last(EDS).nonce
    assert client.request(EDS, subscribe=["b"], nonce=first) == [" ".join(["EDS #2 b@1", *(f"{n}@1" for n in more)])]


def test_sotw_names_of_a_request_without_a_nonce_are_ignored_where_nothing_is_under_way(world: World) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    client = world.client(SOTW)
    client.subscribe(EDS, "a")
    client.ack(EDS)
    assert client.request(EDS, unsubscribe=["a"], nonce="") == []
    world.publish(endpoints("a", 2))
    assert client.take() == ["EDS #2 a@2"]


def test_sotw_stale_nack_is_ignored(world: World) -> None:
    world.publish(endpoints("a"))
    client = world.client(SOTW)
    client.subscribe(EDS, "a")
    client.ack(EDS)
    old = client.last(EDS).nonce
    world.publish(endpoints("a", 2))
    client.take()
    assert client.request(EDS, nonce=old, error="bad") == []
    assert world.events() == []


def test_sotw_request_before_the_first_answer_is_not_stale(world: World) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    client = world.client(SOTW)
    with world.burst():
        client.subscribe(EDS, "a")
        client.subscribe(EDS, "b")
    assert client.take() == ["EDS #1 a@1 b@1"]


@pytest.mark.parametrize("type_url", [CDS, LDS, SRDS])
def test_sotw_clusters_and_listeners_carry_the_full_set(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x"), resource(type_url, "y"))
    client = world.client(SOTW)
    client.subscribe(type_url)
    client.ack(type_url)
    world.publish(resource(type_url, "x", 2))
    assert client.take() == [f"{TYPES[type_url]} #2 x@2 y@1"]


@pytest.mark.parametrize("type_url", [EDS, RDS, SDS, ECDS, RTDS, OTHER])
def test_sotw_other_types_carry_only_what_changed(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x"), resource(type_url, "y"))
    client = world.client(SOTW)
    client.subscribe(type_url, "x", "y")
    client.ack(type_url)
    world.publish(resource(type_url, "x", 2), resource(type_url, "z"))
    assert client.take() == [f"{TYPES[type_url]} #2 x@2"]


@pytest.mark.parametrize("type_url", [CDS, LDS])
def test_sotw_removed_cluster_or_listener_is_sent_by_absence(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x"), resource(type_url, "y"))
    client = world.client(SOTW)
    client.subscribe(type_url)
    client.ack(type_url)
    world.publish(remove=[resource(type_url, "x")])
    assert client.take() == [f"{TYPES[type_url]} #2 y@1"]


@pytest.mark.parametrize("type_url", [CDS, LDS])
def test_sotw_last_cluster_or_listener_removed_is_an_empty_answer(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x"))
    client = world.client(SOTW)
    client.subscribe(type_url)
    client.ack(type_url)
    world.publish(remove=[resource(type_url, "x")])
    assert client.take() == [f"{TYPES[type_url]} #2 (empty)"]


@pytest.mark.parametrize("type_url", [CDS, LDS])
def test_sotw_named_cluster_or_listener_removed_is_sent_by_absence(world: World, type_url: str) -> None:
    """gRPC never uses the wildcard, and absence removes. Removals wait until it unsubscribes, but not for ever."""
    world.publish(resource(type_url, "x"), resource(type_url, "y"))
    client = world.client(SOTW)
    client.subscribe(type_url, "x", "y")
    client.ack(type_url)
    world.publish(remove=[resource(type_url, "x")])
    world.advance(60)
    assert client.take() == [f"{TYPES[type_url]} #2 y@1"]


@pytest.mark.parametrize("type_url", [CDS, LDS])
def test_sotw_subscribed_name_that_does_not_exist_is_sent_by_absence(world: World, type_url: str) -> None:
    assert world.client(SOTW).subscribe(type_url, "x") == [f"{TYPES[type_url]} #1 (empty)"]


@pytest.mark.parametrize("type_url", [EDS, RDS, SDS])
def test_sotw_removal_of_another_type_is_not_sent(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x"))
    client = world.client(SOTW)
    client.subscribe(type_url, "x")
    client.ack(type_url)
    world.publish(remove=[resource(type_url, "x")])
    assert client.take() == []
    world.publish(resource(type_url, "x"))
    assert client.take() == [f"{TYPES[type_url]} #2 x@1"]


@pytest.mark.parametrize("type_url", [EDS, RDS, SDS, OTHER])
def test_sotw_name_added_later_is_answered_though_the_version_is_unchanged(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x"), resource(type_url, "y"))
    client = world.client(SOTW)
    client.subscribe(type_url, "x")
    client.ack(type_url)
    assert client.subscribe(type_url, "y") == [f"{TYPES[type_url]} #2 y@1"]


@pytest.mark.parametrize("type_url", [CDS, LDS])
def test_sotw_name_added_later_to_a_full_state_type_is_answered_with_all(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x"), resource(type_url, "y"))
    client = world.client(SOTW)
    client.subscribe(type_url, "x")
    client.ack(type_url)
    assert client.subscribe(type_url, "y") == [f"{TYPES[type_url]} #2 x@1 y@1"]


def test_sotw_name_dropped_and_added_again_is_answered(world: World) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    client = world.client(SOTW)
    client.subscribe(EDS, "a", "b")
    client.ack(EDS)
    assert client.unsubscribe(EDS, "b") == []
    assert client.subscribe(EDS, "b") == ["EDS #2 b@1"]


def test_sotw_request_identical_to_the_previous_ack_is_answered(world: World) -> None:
    """Envoy requests the endpoints of a changed cluster in this way (docs/envoy-behaviour.md#changes)."""
    world.publish(endpoints("a"))
    client = world.client(SOTW)
    client.subscribe(EDS, "a")
    client.ack(EDS)
    assert client.subscribe(EDS, "a") == ["EDS #2 a@1"]
    assert client.ack(EDS) == []


def test_sotw_ack_of_a_later_nonce_covers_the_earlier(world: World) -> None:
    """Of two CDS pushes while warming only the last is ACKed (docs/envoy-behaviour.md#changes)."""
    world.publish(cluster("a"), endpoints("a"))
    client = world.client(SOTW)
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(cluster("b"))
    world.advance(20)  # the hold timeout of the first passes
    world.publish(cluster("c"), resource(LDS, "l"))
    client.take()
    (stream,) = client.streams.values()
    client.unanswered[stream][CDS].pop(0)
    assert client.ack(CDS) == ["LDS #5 l@1"]
