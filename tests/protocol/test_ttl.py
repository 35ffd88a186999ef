"""Resources with TTL and their heartbeats, on delta and SotW (docs/protocol.md#ttl)."""

from typing import Any

import pytest
from support.encoded import CDS, EDS, LDS, OTHER, RDS, RTDS, SDS, cluster, endpoints, resource, route, static
from support.hubs import DELTA, SOTW, World
from support.scenes import full

from xds.model import types as t
from xds.model.resource import Resource
from xds.protocol.policy import POLICIES, Variant


def renewal(variant: Variant, line: str, *, also: str = "") -> str:
    """Return the line of a heartbeat: on SotW with bodies, and for clusters with the full set."""
    return line if variant is DELTA else line.replace("~", "") + also


def runtime(name: str, version: int = 1, **fields: Any) -> Resource:
    return resource(RTDS, name, version, **fields)


def test_ttl_is_sent(world: World, variant: Variant) -> None:
    world.publish(cluster("a", eds=None, ttl_s=9))
    assert world.client(variant).subscribe(CDS) == ["CDS #1 a@1 ttl=9"]


def test_ttl_heartbeats_have_name_version_and_ttl_but_no_body(world: World, variant: Variant) -> None:
    world.publish(cluster("a", 5, eds=None, ttl_s=9), static("b"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack_all()
    world.advance(3)
    assert client.take() == [renewal(variant, "CDS #2 ~a@5 ttl=9", also=" b@1")]


def test_ttl_heartbeats_go_on_and_are_three_within_the_ttl(world: World, variant: Variant) -> None:
    world.publish(cluster("a", eds=None, ttl_s=9))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack_all()
    beats = []
    for _ in range(9):
        world.advance(1)
        beats.append(len(client.ack_all()))
    assert beats == [0, 0, 1] * 3


def test_ttl_heartbeats_follow_the_shortest_ttl(world: World, variant: Variant) -> None:
    world.publish(runtime("a", ttl_s=9), runtime("b", ttl_s=90), runtime("c"))
    client = world.client(variant)
    client.subscribe(RTDS, "a", "b", "c")
    client.ack_all()
    world.advance(3)
    assert client.take() == [renewal(variant, "RTDS #2 ~a@1 ttl=9 ~b@1 ttl=90")]


def test_ttl_ack_of_a_heartbeat_is_answered_with_nothing(world: World, variant: Variant) -> None:
    world.publish(runtime("a", ttl_s=9))
    client = world.client(variant)
    client.subscribe(RTDS, "a")
    client.ack(RTDS)
    world.advance(3)
    assert client.take() == [renewal(variant, "RTDS #2 ~a@1 ttl=9")]
    assert client.ack(RTDS) == []


def test_ttl_heartbeats_go_on_while_a_response_is_unacked(world: World, variant: Variant) -> None:
    world.publish(runtime("a", ttl_s=9), runtime("b"))
    client = world.client(variant)
    client.subscribe(RTDS, "a", "b")
    client.ack(RTDS)
    world.publish(runtime("b", 2))
    assert client.take() == ["RTDS #2 b@2"]
    world.advance(4)
    assert client.take() == [renewal(variant, "RTDS #3 ~a@1 ttl=9")]


def test_ttl_ack_of_what_was_unacked_at_a_heartbeat_counts(world: World, variant: Variant) -> None:
    world.publish(runtime("a", ttl_s=9), runtime("b"))
    client = world.client(variant)
    client.subscribe(RTDS, "a", "b")
    client.ack(RTDS)
    world.publish(runtime("b", 2))
    world.advance(4)
    client.take()
    client.ack(RTDS)
    client.ack(RTDS)
    world.publish(runtime("b", 3))
    assert client.take() == ["RTDS #4 b@3"]
    assert world.hub.counters.nacks == 0


def test_ttl_nack_of_what_was_unacked_at_a_heartbeat_counts(world: World, variant: Variant) -> None:
    """The heartbeat crossed the NACK on the wire: the rejection must not be taken for an ACK."""
    world.publish(runtime("a", ttl_s=9), runtime("b"))
    client = world.client(variant)
    client.subscribe(RTDS, "a", "b")
    client.ack(RTDS)
    world.publish(runtime("b", 2))
    world.advance(4)
    client.take()
    client.nack(RTDS, "bad b")
    client.ack(RTDS)
    assert [event.message for event in world.events()] == ["bad b"]


def test_ttl_heartbeats_of_a_client_that_came_back_with_equal_versions(world: World, variant: Variant) -> None:
    """The client was sent nothing, but its TTLs run nevertheless."""
    world.publish(cluster("a", eds=None, ttl_s=9))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack(CDS)
    client = client.reconnect()
    assert client.take() == []
    world.advance(3.1)
    assert client.take() == [renewal(variant, "CDS #1 ~a@1 ttl=9")]


def test_ttl_heartbeats_end_with_the_ttl(world: World, variant: Variant) -> None:
    world.publish(runtime("a", ttl_s=9))
    client = world.client(variant)
    client.subscribe(RTDS, "a")
    client.ack(RTDS)
    world.publish(runtime("a", 2))
    client.ack(RTDS)
    world.advance(60)
    assert client.take() == []


def test_ttl_heartbeats_end_with_the_resource(world: World) -> None:
    world.publish(runtime("a", ttl_s=9))
    client = world.client()
    client.subscribe(RTDS, "a")
    client.ack(RTDS)
    world.publish(remove=[runtime("a")])
    client.ack(RTDS)
    world.advance(60)
    assert client.take() == []


def test_ttl_heartbeats_end_with_the_subscription(world: World, variant: Variant) -> None:
    world.publish(runtime("a", ttl_s=9), runtime("b"))
    client = world.client(variant)
    client.subscribe(RTDS, "a", "b")
    client.ack(RTDS)
    client.unsubscribe(RTDS, "a")
    world.advance(60)
    assert client.take() == []


def test_ttl_heartbeats_begin_with_the_ttl(world: World, variant: Variant) -> None:
    world.publish(runtime("a"))
    client = world.client(variant)
    client.subscribe(RTDS, "a")
    client.ack(RTDS)
    world.publish(runtime("a", 2, ttl_s=9))
    client.ack(RTDS)
    world.advance(3)
    assert client.take() == [renewal(variant, "RTDS #3 ~a@2 ttl=9")]


def test_ttl_heartbeats_keep_a_cluster_alive_that_is_yet_to_be_removed(world: World, variant: Variant) -> None:
    world.publish(cluster("a", eds=None, ttl_s=9), route("r", 1, "a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(RDS, "r")
    client.ack_all()
    world.publish(static("b"), route("r", 2, "b"), remove=[cluster("a")])
    client.ack(CDS)
    client.nack(RDS)
    world.advance(3.1)
    assert client.take() == [renewal(variant, "CDS #5 ~a@1 ttl=9", also=" b@1")]


def test_ttl_heartbeats_of_listeners_go_to_all_streams(world: World, variant: Variant) -> None:
    world.publish(resource(LDS, "l", ttl_s=30))
    clients = [world.client(variant, node) for node in ("n1", "n2")]
    for client in clients:
        client.subscribe(LDS)
        client.ack_all()
    world.advance(10)
    assert [client.take() for client in clients] == [[renewal(variant, "LDS #2 ~l@1 ttl=30")]] * 2


def test_ttl_sotw_version_of_a_heartbeat_is_that_of_what_is_held(world: World) -> None:
    world.publish(runtime("a", ttl_s=9), runtime("b"))
    client = world.client(SOTW)
    client.subscribe(RTDS, "a", "b")
    client.ack(RTDS)
    client.unsubscribe(RTDS, "b")
    world.advance(3)
    fresh = world.client(SOTW, "n2")
    fresh.subscribe(RTDS, "a")
    assert client.last(RTDS).version == fresh.last(RTDS).version


def test_ttl_sotw_client_that_acked_a_heartbeat_reconnects_without_being_sent_anything(world: World) -> None:
    world.publish(cluster("a", eds=None, ttl_s=9))
    client = world.client(SOTW)
    client.subscribe(CDS)
    client.ack(CDS)
    world.advance(3)
    client.ack(CDS)
    client.ack_all()
    assert client.reconnect().take() == []


def test_ttl_expired_cluster_comes_back_when_it_changes(world: World, variant: Variant) -> None:
    world.publish(cluster("a", eds=None, ttl_s=9), static("b"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack_all()
    world.publish(cluster("a", 2, eds=None, ttl_s=9))
    assert client.take() == [full(variant, "CDS #2 a@2 ttl=9", "CDS #2 a@2 ttl=9 b@1")]


@pytest.mark.parametrize("variant", [DELTA])
def test_ttl_each_heartbeat_has_a_nonce_of_its_own(world: World, variant: Variant) -> None:
    world.publish(cluster("a", eds=None, ttl_s=9))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack_all()
    world.advance(9)
    client.take()
    assert len({message.nonce for message in client.messages}) == len(client.messages) == 4


def test_ttl_rejected_version_is_not_renewed(world: World, variant: Variant) -> None:
    """docs/envoy-behaviour.md#ttl: a heartbeat with another version than the client's is NACKed each time."""
    world.publish(cluster("a", eds=None, ttl_s=9))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack(CDS)
    world.publish(cluster("a", 2, eds=None, ttl_s=9))
    client.nack(CDS)
    world.advance(3.1)
    assert "a@2" not in " ".join(client.take())


def test_endpoints_that_get_a_ttl_later_are_renewed_from_then_on(world: World, variant: Variant) -> None:
    world.publish(static("a"), endpoints("e"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.subscribe(EDS, "e")
    client.ack_all()
    world.publish(endpoints("e", 2, ttl_s=9))
    client.ack_all()
    world.advance(3.1)
    assert len(client.take()) == (1 if variant is DELTA else 0)


@pytest.mark.parametrize("type_url", sorted({*POLICIES, OTHER} - {t.VIRTUAL_HOST}))
def test_ttl_is_not_sent_to_sotw_clients_where_envoy_crashes_when_it_runs_out(type_url: str, world: World) -> None:
    crashes = {EDS, RDS, SDS, t.SCOPED_ROUTE, t.THRIFT_ROUTE, t.DUBBO_ROUTE, t.GENERIC_ROUTE}
    world.publish(resource(type_url, "a", ttl_s=9))
    client = world.client(SOTW)
    (line,) = client.subscribe(type_url, "a")
    assert line.endswith("a@1" if type_url in crashes else "a@1 ttl=9")
    client.ack_all()
    world.advance(9)
    assert len(client.take()) == (0 if type_url in crashes else 3)
