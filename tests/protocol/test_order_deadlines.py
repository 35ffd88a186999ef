"""Every hold has a deadline, after which the status of the stream shows it as overdue (docs/protocol.md#order)."""

import pytest
from support.encoded import CDS, EDS, LDS, RDS, cluster, endpoints, listener, route, static
from support.hubs import DELTA, MakeWorld, World
from support.scenes import full, started, swap

from xds.protocol.hub import CATCH_UP_S
from xds.protocol.policy import Ordering, Variant
from xds.protocol.status import Overdue


def _overdue(type_url: str, nonce: str, *, waited_s: float = 20.0) -> Overdue:
    return Overdue(node_id="n1", group="default", type_url=type_url, nonce=nonce, waited_s=waited_s)


def test_deadline_routes_follow_when_the_cds_ack_does_not_come(world: World, variant: Variant) -> None:
    client = started(world, variant)
    swap(world)
    client.take()
    world.advance(19.9)
    assert (client.take(), world.events()) == ([], [])
    world.advance(0.2)
    assert client.take() == ["RDS #6 r@2"]
    assert world.events() == [_overdue(CDS, client.last(CDS).nonce)]
    assert world.hub.counters.overdue == 1


def test_deadline_clusters_are_not_removed_before_the_cds_ack_that_is_overdue(world: World, variant: Variant) -> None:
    client = started(world, variant)
    swap(world)
    world.advance(21)
    client.take()
    assert client.ack(RDS) == []
    assert client.ack(CDS) == [full(variant, "CDS #7 -a", "CDS #7 b@1")]


def test_deadline_next_clusters_go_out_when_the_ack_of_the_last_does_not_come(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(static("b"))
    client.take()
    world.advance(10)
    world.publish(static("c"))
    assert client.take() == []
    world.advance(10)
    assert client.take() == [full(variant, "CDS #6 c@1", "CDS #6 a@1 b@1 c@1")]
    assert world.events() == [_overdue(CDS, client.messages[4].nonce)]


def test_deadline_late_ack_of_the_first_of_two_settles_nothing(world: World) -> None:
    """Two pushes while warming are ACKed later, in order (docs/envoy-behaviour.md#changes)."""
    client = started(world)
    world.publish(static("b"))
    world.advance(20)
    world.publish(static("c"), route("r", 2, "c"))
    client.take()
    assert client.ack(CDS) == []
    assert client.ack(CDS) == ["RDS #7 r@2"]


def test_deadline_is_said_once(world: World, variant: Variant) -> None:
    client = started(world, variant)
    swap(world)
    client.take()
    world.advance(3_600)
    assert world.events() == [_overdue(CDS, client.last(CDS).nonce), _overdue(RDS, client.last(RDS).nonce)]


@pytest.mark.parametrize("type_url", [LDS, RDS])
def test_deadline_of_listeners_and_routes_is_said(world: World, variant: Variant, type_url: str) -> None:
    client = started(world, variant)
    world.publish(listener("l", 2, routes="r") if type_url == LDS else route("r", 2, "a"))
    client.take()
    world.advance(20)
    assert world.events() == [_overdue(type_url, client.last(type_url).nonce)]


def test_deadline_next_routes_go_out_when_the_ack_of_the_last_does_not_come(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(route("r", 2, "a"))
    world.publish(route("r", 3, "a"))
    client.take()
    world.advance(20)
    assert client.take() == ["RDS #6 r@3"]


def test_deadline_routes_pass_listeners_whose_ack_does_not_come(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(listener("l", 2, routes="r"))
    world.publish(listener("l", 3, routes="r"), route("r", 2, "a"))
    assert client.take() == ["LDS #5 l@2"]
    world.advance(20)
    assert client.take() == ["LDS #6 l@3", "RDS #7 r@2"]


def test_deadline_of_endpoints_does_not_exist(world: World, variant: Variant) -> None:
    client = started(world, variant)
    world.publish(endpoints("a", 2))
    world.publish(endpoints("a", 3))
    world.advance(3_600)
    assert (client.take(), world.events()) == (["EDS #5 a@2"], [])


def test_deadline_is_configurable(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(ordering=Ordering(hold_timeout_s=2.5))
    client = started(world, variant)
    swap(world)
    client.take()
    world.advance(2.5)
    assert client.take() == ["RDS #6 r@2"]
    assert world.events() == [_overdue(CDS, client.last(CDS).nonce, waited_s=2.5)]


def test_deadline_passes_without_overdue_when_the_ack_comes_in_time(world: World, variant: Variant) -> None:
    client = started(world, variant)
    swap(world)
    world.advance(19)
    client.subscribe(EDS, "b")
    client.ack_all()
    world.advance(3_600)
    assert (client.take(), world.events()) == ([], [])


def test_deadline_of_a_stream_that_ended_is_not_said(world: World, variant: Variant) -> None:
    client = started(world, variant)
    swap(world)
    client.close()
    world.advance(100)
    assert (world.events(), world.hub.next_tick_at) == ([], float("inf"))


def test_deadline_of_removals_whose_rds_ack_does_not_come_is_said_and_a_late_ack_releases_them(
    world: World, variant: Variant
) -> None:
    client = started(world, variant)
    swap(world)
    client.subscribe(EDS, "b")
    client.ack(CDS)
    client.ack(EDS)
    world.advance(20)
    assert world.events() == [_overdue(RDS, client.last(RDS).nonce)]
    client.take()
    client.unanswered[next(iter(client.streams.values()))][CDS].clear()
    client.ack(RDS)
    client.ack_all()
    assert str(client.last(CDS)) == full(variant, "CDS #8 -a", "CDS #8 b@1")


def test_deadline_of_endpoints_on_a_stream_of_their_own_is_said(world: World, variant: Variant) -> None:
    """On per-type streams, routes wait for the ACK of the endpoints: that hold has a deadline too, and is reported."""
    client = started(world, variant, per_type=True)
    swap(world)
    client.take()
    client.ack(CDS)
    client.subscribe(EDS, "b")
    world.advance(19.9)
    assert client.take() == []
    world.advance(0.2)
    assert client.take() == ["RDS #7 r@2"]
    assert [event.type_url for event in world.events()] == [EDS]


def test_deadline_of_a_client_that_never_asks_for_its_clusters(world: World) -> None:
    """Envoy reconnected while warming and requests endpoints first; its routes must not wait for ever.

    See docs/envoy-behaviour.md#reconnect."""
    started(world).close()
    client = world.client(DELTA)
    with world.burst():
        client.subscribe(EDS, "a", have={"a": "1"})
        client.subscribe(RDS, "r", have={"r": "0"})
    assert client.ack_all() == ["EDS #1 a@1"]
    world.advance(20)
    assert client.take() == ["RDS #2 r@1"]


def test_deadline_no_timer_is_left_when_nothing_is_held(world: World, variant: Variant) -> None:
    started(world, variant)
    world.advance(100)
    assert world.hub.next_tick_at == float("inf")


def test_deadline_passed_while_asleep_is_looked_at_by_the_next_tick(world: World) -> None:
    client = started(world)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"))
    client.take()
    world.now += 50
    world.hub.tick(world.now)
    world.pump()
    assert client.take() == ["RDS #6 r@2"]
    assert world.events() == [_overdue(CDS, client.last(CDS).nonce, waited_s=50.0)]


def test_deadline_waits_for_what_came_while_the_process_stood_still(world: World) -> None:
    client = started(world)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"))
    client.take()
    world.now += 50
    world.hub.stood_still(world.now)
    world.hub.tick(world.now)
    world.pump()
    assert client.take() == []
    assert world.hub.next_tick_at == world.now + CATCH_UP_S
    assert client.ack(CDS) == ["RDS #6 r@2"]
    assert world.events() == []


def test_deadline_ends_in_a_process_that_stands_still_again_and_again(world: World) -> None:
    client = started(world)
    world.publish(cluster("b"), endpoints("b"), route("r", 2, "b"))
    client.take()
    for _ in range(20):
        world.now += 1.5
        world.hub.stood_still(world.now)
        world.hub.tick(world.now)
        world.pump()
    assert client.take() == ["RDS #6 r@2"]
    (event,) = world.events()
    assert event == _overdue(CDS, client.last(CDS).nonce, waited_s=event.waited_s)
    assert event.waited_s <= 20 + CATCH_UP_S + 1.5


def test_deadline_late_nack_after_the_hold_timeout_is_recorded(world: World, variant: Variant) -> None:
    """On delta Envoy answers both of two responses, on SotW it may answer only the last.

    See docs/envoy-behaviour.md#changes.
    """
    client = started(world, variant)
    world.publish(static("b"))
    world.advance(20)
    world.publish(static("c"))
    world.events()
    client.take()
    assert client.request(CDS, nonce="x9", error="of what?") == []
    assert client.nack(CDS, "bad b") == []
    assert client.ack(CDS) == []
    assert [event.message for event in world.events()] == ["bad b"]
    late = client.messages[4].nonce
    assert client.request(CDS, nonce=late, error="again") == []
    assert world.events() == []
