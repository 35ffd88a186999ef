"""Per-type streams that end while clusters warm: what the client claims of clusters does not say that they serve.

Per type, Envoy ACKs clusters at once (envoy-facts.md 2.3), and asks for a warming one's endpoints without claiming them
(2.8). Both were taken for warm after a reconnect, so that listeners and routes came before what they refer to.
"""

import pytest
from support.encoded import CDS, EDS, LDS, RDS, cluster, endpoints, listener, route, static
from support.hubs import DELTA, SOTW, Client, World
from support.scenes import started

from xds.protocol.policy import Variant


def claim(client: Client, type_url: str, **names: str) -> dict[str, str] | str:
    """Return what a client that was sent this says it has: of SotW, the version of the last message."""
    return names if client.variant is DELTA else client.last(type_url).version


@pytest.fixture
def old(world: World, variant: Variant) -> Client:
    """A client that has cluster a and route r to it, and went away while b warmed, to which r is about to go."""
    client = started(world, variant, per_type=True)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"))
    client.ack(CDS)
    client.close()
    return client


def come_back(old: Client, *, clusters_last: bool = False) -> Client:
    """Open all streams anew but that of b's endpoints, in either order."""
    client = old.world.client(old.variant, per_type=True, connection="tcp2")
    clusters = claim(old, CDS, a="1", b="1")
    if not clusters_last:
        assert client.subscribe(CDS, have=clusters) == []
    assert client.subscribe(RDS, "r", have=claim(old, RDS, r="1")) == []
    assert client.subscribe(EDS, "a", have=claim(old, EDS, a="1")) == []
    assert client.subscribe(LDS, have=claim(old, LDS, l="1")) == []
    if clusters_last:
        assert client.subscribe(CDS, have=clusters) == []
    return client


@pytest.mark.parametrize("clusters_last", [False, True])
def test_per_type_reconnect_routes_wait_for_endpoints_that_are_not_claimed(old: Client, clusters_last: bool) -> None:
    client = come_back(old, clusters_last=clusters_last)
    assert client.subscribe(EDS, "b") == ["EDS #1 b@1"]
    assert client.ack(EDS) == ["RDS #2 r@2"]


@pytest.mark.parametrize("answered", [False, True])
def test_per_type_reconnect_endpoints_may_come_before_the_clusters(old: Client, answered: bool) -> None:
    client = old.world.client(old.variant, per_type=True, connection="tcp2")
    client.subscribe(EDS, "b")
    client.subscribe(EDS, "a", have=claim(old, EDS, a="1"))
    client.subscribe(RDS, "r", have=claim(old, RDS, r="1"))
    if answered:
        client.ack(EDS)
    said = client.subscribe(CDS, have=claim(old, CDS, a="1", b="1"))
    assert (said if answered else client.ack(EDS)) == ["RDS #2 r@2"]


def test_per_type_reconnect_new_endpoints_of_a_cluster_that_serves_hold_nothing(world: World) -> None:
    """It goes on serving with the older ones, which it claims."""
    started(world, per_type=True).close()
    world.publish(endpoints("a", 2), route("r", 2, "a"))
    client = world.client(per_type=True, connection="tcp2")
    client.subscribe(RDS, "r", have={"r": "1"})
    assert client.subscribe(EDS, "a", have={"a": "1"}) == ["EDS #1 a@2"]
    assert client.subscribe(CDS, have={"a": "1"}) == ["RDS #2 r@2"]


def test_per_type_reconnect_claimed_endpoints_hold_nothing(old: Client) -> None:
    """The client had them, but the stream ended before it could ACK them."""
    client = come_back(old)
    sent = claim(old, EDS, a="1") if old.variant is SOTW else {"b": "1"}
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
    """It went away while its first clusters warmed, so that there is no listener yet to claim."""
    world.publish(cluster("a"), endpoints("a"), listener("l", clusters="a"))
    old = world.client(variant, per_type=True)
    old.subscribe(CDS)
    old.ack(CDS)
    old.close()
    client = world.client(variant, per_type=True, connection="tcp2")
    assert client.subscribe(CDS, have=claim(old, CDS, a="1")) == []
    assert client.subscribe(LDS) == []
    assert client.subscribe(EDS, "a") == ["EDS #1 a@1"]
    assert client.ack(EDS) == ["LDS #2 l@1"]


def test_per_type_reconnect_rejecting_another_cluster_does_not_end_the_wait(old: Client) -> None:
    """Only of what it rejected can it be that the client never asks for the endpoints."""
    client = come_back(old)
    old.world.publish(static("c"), cluster("d"), endpoints("d"))
    client.take()
    client.nack(CDS)
    old.world.advance(1.1)
    assert client.take() == []
    client.subscribe(EDS, "b")
    assert client.ack(EDS) == ["RDS #3 r@2"]


def test_per_type_reconnect_a_changed_cluster_does_not_serve_by_claimed_endpoints(world: World) -> None:
    """Those are of the stream that the client ends once it reads of the change."""
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


def test_per_type_reconnect_one_stream_for_all_endpoints_claims_but_some(world: World) -> None:
    """A client that is not Envoy may ask for all of them on one stream."""
    old = started(world, per_type=True)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"))
    old.ack(CDS)
    old.close()
    client = world.client(per_type=True, connection="tcp2")
    client.subscribe(CDS, have={"a": "1", "b": "1"})
    client.subscribe(RDS, "r", have={"r": "1"})
    assert client.request(EDS, subscribe=["a", "b"], have={"a": "1"}, key="a") == ["EDS #1 b@1"]
    assert client.ack(EDS) == ["RDS #2 r@2"]
