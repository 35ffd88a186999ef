"""The names that all streams of a process subscribe to are bounded; who fills the room ends, and nobody else."""

import gc
import random

from support.encoded import CDS, EDS, SDS, endpoints, static
from support.hubs import DELTA, SOTW, MakeWorld, World

from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.largest_subscribers import largest_subscribers
from xds.protocol.policy import Limits
from xds.protocol.subscription import Subscriptions, bytes_of

MOST = 1_000_000
LIMITS = Limits(worker_names_bytes_max=MOST)


def names(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{number}".ljust(1_000, "x") for number in range(count)]


def taken(world: World) -> int:
    gc.collect()
    return world.hub._interned.subscriptions.names_bytes


def test_streams_with_most_names_end_until_half_of_the_room_is_free_and_others_go_on(make_world: MakeWorld) -> None:
    world = make_world(limits=LIMITS)
    world.publish(static("a"), endpoints("e"))
    good = [world.client(variant, f"good-{number}") for number, variant in enumerate([DELTA, SOTW] * 10)]
    for client in good:
        client.subscribe(CDS)
        client.ack_all()
        client.subscribe(EDS, "e", f"own-{client.node.id}")
        client.ack_all()
    most = 0
    attackers = [world.client(node=f"attacker-{number}") for number in range(8)]
    for turn in range(10):
        for number, attacker in enumerate(attackers):
            if attacker.streams or not turn:
                attacker.request(EDS, subscribe=names(20, f"{number}-{turn}-"))
                most = max(most, taken(world))
    assert MOST / 2 < most < 1.1 * MOST
    lost = [attacker for attacker in attackers if not attacker.streams]
    assert lost
    assert "RESOURCE_EXHAUSTED: the names of all streams take" in "\n".join(world.transcript)
    assert "worker_names_bytes_max" in "\n".join(world.transcript)
    world.publish(static("a", 2), endpoints("e", 2))
    for client in good:
        assert client.ack_all(), "it is served on"
    # A new client with more names than any good one has, and fewer than an attacker, finds room.
    newcomer = world.client(node="newcomer")
    newcomer.request(EDS, subscribe=names(40, "new-"))
    assert newcomer.streams


def test_equal_subscriptions_count_once(make_world: MakeWorld) -> None:
    world = make_world(limits=LIMITS)
    clients = [world.client(node=f"n{number}") for number in range(100)]
    for client in clients:
        client.request(EDS, subscribe=names(300))
        client.request(SDS, subscribe=names(300))
    assert all(client.streams for client in clients)
    assert taken(world) == bytes_of(names(300)), "the same names, of any type"
    alone = world.client(node="alone")
    alone.request(EDS, subscribe=names(900, "own-"))
    assert not alone.streams, "of what the others have, each takes a hundredth"
    assert all(client.streams for client in clients)


def test_all_streams_of_a_client_with_one_for_each_name_end(make_world: MakeWorld) -> None:
    world = make_world(limits=LIMITS)
    client = world.client(per_type=True)
    for name in names(3):
        client.request(EDS, subscribe=[name], key=name)
    client.request(CDS, subscribe=names(1_000, "cluster-"))
    assert not client.streams


def test_what_is_taken_is_what_streams_subscribe_to_whatever_comes_and_goes() -> None:
    chance, table = random.Random(3), Subscriptions()
    kept = []
    for _ in range(2_000):
        if kept and chance.random() < 0.5:
            kept.pop(chance.randrange(len(kept)))
        else:
            kept.append(table.get(chance.random() < 0.3, [str(chance.randrange(30)) for _ in range(3)]))
        assert table.names_bytes == sum(each.names_bytes for each in set(kept))
    kept.clear()
    assert (len(table), table.names_bytes) == (0, 0)


def test_no_more_are_chosen_than_needed_and_streams_that_end_already_are_not(make_world: MakeWorld) -> None:
    world = make_world()
    clients = [world.client(node=f"n{number}") for number in range(4)]
    for number, client in enumerate(clients):
        client.request(EDS, subscribe=names(number + 1, f"{number}-"))
    world.hub.open(DELTA, type_url="", connection="silent")
    sessions = [stream.session for stream in world.hub.streams]
    assert largest_subscribers(world.hub.streams, 1) == [sessions[3]]
    assert largest_subscribers(world.hub.streams, bytes_of(names(4)) + 100) == [sessions[3], sessions[2]]
    assert largest_subscribers(world.hub.streams, 10**9) == sessions[3::-1]
    sessions[3].streams[0].refusal = StreamRefusedError(Status.RESOURCE_EXHAUSTED, "it is being ended")
    assert largest_subscribers(world.hub.streams, bytes_of(names(4))) == []
    assert largest_subscribers(world.hub.streams, bytes_of(names(4)) + 100) == [sessions[2]]


def test_while_the_largest_are_being_ended_nobody_else_is(make_world: MakeWorld) -> None:
    """A transport ends a stream some turns of its loop later, and requests of others come meanwhile."""
    world = make_world(limits=LIMITS)
    others = [world.client(node=f"other-{number}") for number in range(5)]
    for number, client in enumerate(others):
        client.request(EDS, subscribe=names(60, f"{number}-"))
    attacker = world.client(node="attacker")
    with world.burst():
        attacker.request(EDS, subscribe=names(600, "attacker-"))
        attacker.request(SDS, subscribe=names(100, "more-"))
        for number, client in enumerate(others):
            client.request(SDS, subscribe=names(1, f"{number}-"))
    assert not attacker.streams
    assert all(client.streams for client in others)
