"""The versions that a client reports with the first request of each type on a stream.

See docs/protocol.md#initial-resource-versions.
"""

import pytest
from support.encoded import CDS, ECDS, EDS, LDS, OTHER, RDS, RTDS, SDS, cluster, endpoints, resource, static
from support.hubs import Client, World


@pytest.mark.parametrize("type_url", [CDS, EDS, LDS, RDS, SDS, RTDS, ECDS, OTHER])
def test_delta_what_the_client_has_at_the_right_version_is_not_sent_again(world: World, type_url: str) -> None:
    world.publish(resource(type_url, "x", 1), resource(type_url, "y", 2))
    names = () if type_url in (CDS, LDS) else ("x", "y")
    settle = world.client if type_url == CDS else lambda **node: _settled(world, **node)
    client, other = settle(), settle(node="n2")
    assert client.subscribe(type_url, *names, have={"x": "1", "y": "2"}) == []
    other.subscribe(type_url, *names, have={"x": "1", "y": "1"})
    assert other.last(type_url).names == ["y"]


def test_delta_what_no_longer_exists_is_removed(world: World) -> None:
    world.publish(static("a"), endpoints("e"))
    client = world.client()
    client.subscribe(CDS, have={"a": "1", "gone": "1"})
    assert client.subscribe(SDS, "lost", have={"lost": "7"})[-1].endswith(" -lost")
    client.subscribe(EDS, "e", "lost", have={"e": "1", "lost": "7"})
    world.advance(20)  # the routes that the client may still have are not known yet
    client.ack_all()
    assert [str(client.last(type_url)).split(" ", 2)[2] for type_url in (CDS, EDS)] == ["-gone", "-lost"]


def test_delta_what_is_missing_changed_and_gone_comes_in_one_response(world: World) -> None:
    world.publish(endpoints("new"), endpoints("old", 2), endpoints("same"))
    client = _settled(world)
    said = client.subscribe(EDS, "new", "old", "same", "gone", have={"old": "1", "same": "1", "gone": "1"})
    assert said == ["EDS #2 new@1 old@2 -gone"]


def test_delta_reported_versions_apply_on_the_first_request_of_a_type_only(world: World) -> None:
    world.publish(endpoints("a"), endpoints("b"))
    client = world.client()
    client.subscribe(EDS, "a")
    client.ack(EDS)
    assert client.subscribe(EDS, "b", have={"b": "1", "a": "0"}) == ["EDS #2 b@1"]


def test_delta_each_type_of_a_stream_has_its_first_request(world: World) -> None:
    world.publish(static("a"), endpoints("e"))
    client = world.client()
    assert client.subscribe(CDS, have={"a": "1"}) == []
    assert client.subscribe(EDS, "e", have={"e": "1"}) == []


def test_delta_reported_but_not_subscribed_is_not_sent(world: World) -> None:
    world.publish(endpoints("a"), endpoints("b", 2))
    client = _settled(world)
    assert client.subscribe(EDS, "a", have={"a": "1", "b": "1"}) == []


def test_delta_reconnecting_fleet_is_sent_no_resource(world: World) -> None:
    world.publish(cluster("a"), endpoints("a"), resource(LDS, "l"), resource(RDS, "r"))
    fleet = [world.client(node=f"n{number}") for number in range(5)]
    for client in fleet:
        _start(client)
    assert [client.reconnect().ack_all() for client in fleet] == [[]] * 5


def test_delta_another_replica_with_the_same_content_sends_no_resource(world: World, make_world) -> None:
    other = make_world()
    other.publish(static("since replaced"))
    other.publish(resource(RDS, "r"), resource(LDS, "l"), remove=[static("since replaced")])
    other.publish(cluster("a"), endpoints("a"))
    world.publish(cluster("a"), endpoints("a"), resource(LDS, "l"), resource(RDS, "r"))
    client = world.client()
    _start(client)
    assert client.reconnect(world=other).ack_all() == []


def test_delta_what_changed_after_a_quiet_reconnect_is_sent(world: World) -> None:
    world.publish(static("a"))
    client = world.client()
    client.subscribe(CDS, have={"a": "1"})
    world.publish(static("a", 2))
    assert client.take() == ["CDS #1 a@2"]


def _settled(world: World, node: str = "n1") -> Client:
    """Return a client that subscribed to clusters first: only then are its reported versions of endpoints used."""
    client = world.client(node=node)
    client.subscribe(CDS, "no-such-cluster")
    client.ack_all()
    return client


def _start(client) -> None:
    client.subscribe(CDS)
    client.subscribe(EDS, "a")
    client.ack_all()
    client.subscribe(LDS)
    client.subscribe(RDS, "r")
    client.ack_all()
