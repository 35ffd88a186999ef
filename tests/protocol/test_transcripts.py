"""Whole conversations, for a human to review: ``transcripts/*.txt``. XDS_REWRITE_TRANSCRIPTS=1 writes them anew."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.encoded import CDS, EDS, LDS, RDS, RTDS, SDS, cluster, endpoints, listener, resource, route
from support.hubs import DELTA, SOTW, Client, World
from support.scenes import started, swap

HERE = Path(__file__).parent / "transcripts"


def fresh_start(world: World) -> None:
    """Envoy as it starts: runtimes, clusters, endpoints, listeners, routes, secrets (docs/envoy-behaviour.md#start)."""
    world.publish(
        resource(RTDS, "rt1"), cluster("a"), cluster("b"), endpoints("a"), endpoints("b"), listener("l", routes="r"),
        route("r", 1, "a b"), resource(SDS, "cert"),
    )  # fmt: skip
    client = world.client()
    client.subscribe(RTDS, "rt1")
    client.ack(RTDS)
    client.subscribe(CDS)
    client.subscribe(EDS, "a", "b")
    client.ack(CDS)
    with world.burst():
        client.subscribe(LDS)
        client.ack(EDS)
    with world.burst():
        client.subscribe(RDS, "r")
        client.subscribe(SDS, "cert")
        client.ack(LDS)
    client.ack_all()


def empty_start(world: World) -> None:
    """Envoy as it starts when there is nothing: answered at once, so that it needs no fetch timeout."""
    client = world.client()
    client.subscribe(CDS)
    client.ack(CDS)
    client.subscribe(LDS)
    client.ack(LDS)
    world.say("the first configuration arrives")
    world.publish(cluster("a"), endpoints("a"), listener("l", routes="r"), route("r", 1, "a"))
    client.subscribe(EDS, "a")
    client.ack(CDS)
    client.subscribe(RDS, "r")
    client.ack_all()


def _swap(client: Client) -> None:
    world = client.world
    world.say("the route moves from a to b, and a is removed, in one change")
    swap(world)
    client.subscribe(EDS, "b")
    client.ack(CDS)
    client.ack(EDS)
    client.ack(RDS)
    client.unsubscribe(EDS, "a")
    client.ack_all()


def swap_delta_ads(world: World) -> None:
    """Make before break on one delta stream."""
    _swap(started(world, DELTA))


def swap_sotw_ads(world: World) -> None:
    """Make before break on one SotW stream."""
    _swap(started(world, SOTW))


def swap_delta_per_type(world: World) -> None:
    """Make before break on a delta stream for each subscription: routes wait for the endpoints' ACK."""
    _swap(started(world, DELTA, per_type=True))


def swap_sotw_per_type(world: World) -> None:
    """Make before break on a SotW stream for each subscription."""
    _swap(started(world, SOTW, per_type=True))


def reconnect_with_changes(world: World) -> None:
    """The whole swap happened while Envoy was away: its first answers obey the order too."""
    client = started(world)
    client.close()
    swap(world)
    client = client.reconnect()
    client.subscribe(EDS, "b")
    client.ack(CDS)
    client.ack(EDS)
    client.ack(RDS)
    client.ack_all()
    client.reconnect()


def nack_and_recovery(world: World) -> None:
    """A cluster is rejected, so the route to it waits; it is fixed; then the route is rejected, and fixed."""
    client = started(world)
    swap(world)
    client.nack(CDS, "Error adding cluster b: no such lb policy")
    world.say("the cluster is fixed")
    world.publish(cluster("b", 2))
    client.subscribe(EDS, "b")
    client.ack(CDS)
    client.ack(EDS)
    client.nack(RDS, "bad regex")
    world.advance(60)
    world.say("the route is fixed")
    world.publish(route("r", 3, "b"))
    client.ack(RDS)
    client.ack_all()


def silent_client(world: World) -> None:
    """Envoy does not ACK its clusters, which a health check keeps warming: after the deadline its routes follow."""
    client = started(world)
    swap(world)
    client.subscribe(EDS, "b")
    client.ack(EDS)
    world.advance(20)
    client.ack(RDS)
    world.say("the health check passes at last")
    client.ack(CDS)
    client.ack_all()


SCENES = [
    fresh_start, empty_start, swap_delta_ads, swap_sotw_ads, swap_delta_per_type, swap_sotw_per_type,
    reconnect_with_changes, nack_and_recovery, silent_client,
]  # fmt: skip


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_transcript_is_as_reviewed(world: World, scene: Callable[[World], None]) -> None:
    scene(world)
    said = "\n".join([f"# {scene.__doc__}", "", *world.transcript, ""])
    file = HERE / f"{scene.__name__}.txt"
    if os.environ.get("XDS_REWRITE_TRANSCRIPTS"):
        file.write_text(said)
    assert said == file.read_text()


def test_transcripts_are_all_of_a_scene() -> None:
    assert {file.stem for file in HERE.glob("*.txt")} == {scene.__name__ for scene in SCENES}
