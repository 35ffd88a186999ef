"""Per-type streams that end while clusters warm: clusters that the client reports may not be warm.

On per-type streams Envoy ACKs clusters at once (docs/envoy-behaviour.md#warming), and requests the endpoints of a
warming cluster without reporting them (2.8). The server once took such clusters for warm after a reconnect, and sent
listeners and routes too early.
"""

import pytest
from support.encoded import CDS, EDS, LDS, RDS, cluster, endpoints, listener, route, static
from support.hubs import DELTA, SOTW, Client, World
from support.scenes import started

from xds.protocol.policy import Variant


def reported(client: Client, type_url: str, **names: str) -> dict[str, str] | str:
    """Return the versions that a client with these resources reports: on SotW that of the last message."""
    return names if client.variant is DELTA else client.last(type_url).version


@pytest.fixture
def old(world: World, variant: Variant) -> Client:
    """A client with cluster a and route r to it, which disconnected while b, the next cluster of r, was warming."""
    client = started(world, variant, per_type=True)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"))
    client.ack(CDS)
    client.close()
    return client


def come_back(old: Client, *, clusters_last: bool = False) -> Client:
    """Reopen all streams except the one for b's endpoints, in either order."""
    client = old.world.client(old.variant, per_type=True, connection="tcp2")
    clusters = reported(old, CDS, a="1", b="1")
    if not clusters_last:
        assert client.subscribe(CDS, have=clusters) == []
    assert client.subscribe(RDS, "r", have=reported(old, RDS, r="1")) == []
    assert client.subscribe(EDS, "a", have=reported(old, EDS, a="1")) == []
    assert client.subscribe(LDS, have=reported(old, LDS, l="1")) == []
    if clusters_last:
        assert client.subscribe(CDS, have=clusters) == []
    return client


@pytest.mark.parametrize("clusters_last", [False, True])
def test_per_type_reconnect_routes_wait_for_endpoints_that_are_not_reported(old: Client, clusters_last: bool) -> None:
    client = come_back(old, clusters_last=clusters_last)
    assert client.subscribe(EDS, "b") == ["EDS #1 b@1"]
    assert client.ack(EDS) == ["RDS #2 r@2"]


@pytest.mark.parametrize("answered", [False, True])
def test_per_type_reconnect_endpoints_may_come_before_the_clusters(old: Client, answered: bool) -> None:
    client = old.world.client(old.variant, per_type=True, connection="tcp2")
    client.subscribe(EDS, "b")
    client.subscribe(EDS, "a", have=reported(old, EDS, a="1"))
    client.subscribe(RDS, "r", have=reported(old, RDS, r="1"))
    if answered:
        client.ack(EDS)
    said = client.subscribe(CDS, have=reported(old, CDS, a="1", b="1"))
    assert (said if answered else client.ack(EDS)) == ["RDS #2 r@2"]


def test_per_type_reconnect_new_endpoints_of_a_cluster_that_serves_hold_nothing(world: World) -> None:
    """The client goes on using the older ones, which it reports."""
    started(world, per_type=True).close()
    world.publish(endpoints("a", 2), route("r", 2, "a"))
    client = world.client(per_type=True, connection="tcp2")
    client.subscribe(RDS, "r", have={"r": "1"})
    assert client.subscribe(EDS, "a", have={"a": "1"}) == ["EDS #1 a@2"]
    assert client.subscribe(CDS, have={"a": "1"}) == ["RDS #2 r@2"]


def test_per_type_reconnect_reported_endpoints_hold_nothing(old: Client) -> None:
    """The client had them, but the stream ended before it could ACK them."""
    client = come_back(old)
    sent = reported(old, EDS, a="1") if old.variant is SOTW else {"b": "1"}
    client.subscribe(EDS, "b", have=sent)
    client.ack_all()
    assert "r@2" in str(client.last(RDS))


def test_per_type_reconnect_waits_no_longer_than_for_an_answer(old: Client) -> None:
    client = come_back(old)
    old.world.advance(19.9)
    assert client.take() == []
    old.world.advance(0.1)
    assert client.take() == ["RDS #1 r@2"]


def test_per_type_reconnect_first_listeners_wait_too(world: World, variant: Variant) -> None:
    """The client disconnected while its first clusters warmed, so it has no listener to report."""
    world.publish(cluster("a"), endpoints("a"), listener("l", clusters="a"))
    old = world.client(variant, per_type=True)
    old.subscribe(CDS)
    old.ack(CDS)
    old.close()
    client = world.client(variant, per_type=True, connection="tcp2")
    assert client.subscribe(CDS, have=reported(old, CDS, a="1")) == []
    assert client.subscribe(LDS) == []
    assert client.subscribe(EDS, "a") == ["EDS #1 a@1"]
    assert client.ack(EDS) == ["LDS #2 l@1"]


def test_per_type_reconnect_rejecting_another_cluster_does_not_end_the_wait(old: Client) -> None:
    """Only for rejected clusters may the client never request the endpoints."""
    client = come_back(old)
    old.world.publish(static("c"), cluster("d"), endpoints("d"))
    client.take()
    client.nack(CDS)
    old.world.advance(1.1)
    assert client.take() == []
    client.subscribe(EDS, "b")
    assert client.ack(EDS) == ["RDS #3 r@2"]


def test_per_type_reconnect_a_changed_cluster_is_not_warm_by_reported_endpoints(world: World) -> None:
    """They are on the stream that the client ends once it receives the change."""
    started(world, per_type=True).close()
    world.publish(cluster("a", 2), listener("l", 2, routes="r"))
    client = world.client(per_type=True, connection="tcp2")
    assert client.subscribe(CDS, have={"a": "1"}) == ["CDS #1 a@2"]
    client.subscribe(LDS, have={"l": "1"})
    client.subscribe(RDS, "r", have={"r": "1"})
    assert client.subscribe(EDS, "a", have={"a": "1"}) == []
    assert client.ack(CDS) == []
    old = client.streams.pop((EDS, "a"))
    assert client.subscribe(EDS, "a") == ["EDS #2 a@1"]
    world.hub.close(old)
    assert client.ack(EDS) == ["LDS #3 l@2"]


def test_per_type_reconnect_one_stream_for_all_endpoints_reports_only_some(world: World) -> None:
    """A client other than Envoy may request all of them on one stream."""
    old = started(world, per_type=True)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"))
    old.ack(CDS)
    old.close()
    client = world.client(per_type=True, connection="tcp2")
    client.subscribe(CDS, have={"a": "1", "b": "1"})
    client.subscribe(RDS, "r", have={"r": "1"})
    assert client.request(EDS, subscribe=["a", "b"], have={"a": "1"}, key="a") == ["EDS #1 b@1"]
    assert client.ack(EDS) == ["RDS #2 r@2"]
