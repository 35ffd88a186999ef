"""The step cache: it changes no message, and it is bounded and emptied.

Random histories of a small fleet run with the cache, without it, and with the cache cleared at random points.
``XDS_HISTORIES`` is the number of histories.
"""

import gc
import os
from collections.abc import Callable
from random import Random

import pytest
from support.encoded import CDS, EDS, LDS, RDS, SDS, cluster, endpoints, listener, resource, route, static
from support.hubs import DELTA, SOTW, Client, World
from support.rechecked import RecheckedHub

from xds.model.groups import GroupTable, Rule
from xds.protocol.client_state import AGE_MAX, STEPS_MAX, StepCache
from xds.protocol.policy import Ordering, Variant

HISTORIES = int(os.environ.get("XDS_HISTORIES", "60"))
NAMES = "abc"
QUICK = Ordering(hold_timeout_s=5.0, listener_drain_s=30.0)


class History:
    """The events of a fleet, drawn from a seed, whatever is cached."""

    def __init__(self, seed: int, step_cache: StepCache, forget: float) -> None:
        self.chance = Random(f"history {seed}")
        self.world = World(ordering=QUICK, step_cache=step_cache)
        self.step_cache = step_cache
        self._forget, self._lapses = forget, Random(f"lapses {seed}")
        variant = self.chance.choice((DELTA, DELTA, SOTW))
        self.clients = [self.world.client(variant, node=f"n{number}") for number in range(5)]
        self.versions = 0
        self.group = "default"
        for _ in range(6):
            self.change()

    def change(self) -> None:
        """Change some resources of the group."""
        chance, upserts, removals = self.chance, [], []
        for _ in range(chance.choice((1, 1, 2, 4))):
            self.versions += 1
            name = chance.choice(NAMES)
            made = chance.choice(
                (
                    lambda n: endpoints(n, self.versions),
                    lambda n: cluster(n, self.versions) if self.versions % 3 else static(n, self.versions),
                    lambda n: route(n, self.versions, chance.choice(NAMES)),
                    lambda n: listener(n, self.versions, clusters=chance.choice(NAMES)),
                    lambda n: resource(SDS, n, self.versions),
                )
            )(name)
            keys = [(each.type_url, each.name) for each in upserts + removals]
            if (made.type_url, made.name) in keys:
                continue
            exists = self.world.hub.snapshot(self.group).view(made.type_url).get(made.name) is not None
            (removals if exists and chance.random() < 0.3 else upserts).append(made)
        self.world.publish(*upserts, remove=removals, group=self.group)

    def join(self) -> None:
        """Subscribe all clients one after the other, like a fleet that starts."""
        for client in self.clients:
            for type_url, names in ((CDS, ""), (EDS, NAMES), (LDS, ""), (RDS, NAMES), (SDS, "a")):
                client.subscribe(type_url, *names)
            if self.chance.random() < 0.7:
                client.ack_all()

    def happen(self) -> None:
        """Run one random event."""
        chance = self.chance
        client = chance.choice(self.clients)
        kind = chance.choices(
            ("change", "ack all", "one answers", "names", "time", "return", "all return"), (8, 8, 8, 3, 3, 1, 0.5)
        )[0]
        if kind == "change":
            self.change()
        elif kind == "ack all":
            for each in self.clients:
                each.ack_all()
        elif kind == "one answers":
            waiting = [t for queues in client.unanswered.values() for t, queue in queues.items() if queue]
            if waiting:
                (client.nack if chance.random() < 0.2 else client.ack)(chance.choice(waiting))
        elif kind == "names":
            name, adds = chance.choice(NAMES), chance.random() < 0.6
            for each in self.clients if chance.random() < 0.5 else [client]:
                (each.subscribe if adds else each.unsubscribe)(EDS, name)
        elif kind == "time":
            self.world.advance(chance.choice((0.1, 1.0, 6.0, 31.0)))
        else:
            chosen = self.clients if kind == "all return" else [client]
            self.clients = [each.reconnect() if each in chosen else each for each in self.clients]
        if self._lapses.random() < self._forget:
            self.step_cache.clear()

    def run(self, steps: int = 60) -> tuple[dict[str, list[str]], list[str]]:
        """Return the messages of each client, and the hub's events after each step, without nonces and sizes.

        The order in which a change reaches the clients depends on their addresses in memory.
        """
        self.join()
        told: list[str] = []
        for _ in range(steps):
            self.happen()
            hub = self.world.hub
            told += [
                repr(hub.next_tick_at),
                _without_nonces(hub.counters),
                *sorted(map(_without_nonces, self.world.events())),
            ]
        self.world.check_nothing_unsaid()
        said: dict[str, list[str]] = {}
        for line in self.world.transcript:
            said.setdefault(line.split()[0], []).append(line)
        return said, told


def _without_nonces(told: object) -> str:
    text = repr(told)
    for field in ("nonce='", "response_bytes="):
        while field in text:
            at = text.index(field)
            end = min(each for mark in (",", ")") if (each := text.find(mark, at)) > 0)
            text = text[:at] + text[end:]
    return text


@pytest.mark.timeout(60 + 2 * HISTORIES)
def test_a_history_is_the_same_with_the_memory_without_it_and_with_lapses() -> None:
    taken = 0
    for seed in range(HISTORIES):
        step_cache = StepCache()
        with_it = History(seed, step_cache, forget=0.0).run()
        assert History(seed, StepCache(bytes_max=0), forget=0.0).run() == with_it, f"without it, seed {seed}"
        assert History(seed, StepCache(), forget=0.3).run() == with_it, f"with lapses, seed {seed}"
        taken += step_cache.bytes_kept
    assert taken  # something was cached


def test_cached_steps_are_equal_to_computed_ones(world: World) -> None:
    """The worlds of all protocol tests compute each cached step again and compare; here they have cached steps."""
    world.publish(cluster("a"), cluster("b"), endpoints("a"), endpoints("b"))
    clients = fleet(world, DELTA, 20)
    assert isinstance(world.hub, RecheckedHub)
    before = world.hub.rechecked
    assert before > 20
    world.publish(endpoints("a", 2))
    for client in clients:
        client.ack(EDS)
    assert world.hub.rechecked > before + 30


def count_worked_out(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of each computed step is added."""
    assert isinstance(world.hub, RecheckedHub)
    world.hub.every = 1 << 60
    worked_out: list[str] = []
    steps = world.hub._steps

    def counting(name: str, work_out: Callable[..., object]) -> Callable[..., object]:
        def work(*arguments: object) -> object:
            worked_out.append(name)
            return work_out(*arguments)

        return work

    class Counting:
        kind = steps.kind

    for name in ("first_request", "later_request", "advance", "expire", "leave"):
        setattr(Counting, name, staticmethod(counting(name, getattr(steps, name))))
    monkeypatch.setattr(world.hub, "_steps", Counting)
    return worked_out


def fleet(world: World, variant: Variant, count: int) -> list[Client]:
    clients = [world.client(variant, node=f"n{number}") for number in range(count)]
    for client in clients:
        client.subscribe(CDS)
        client.ack_all()
        client.subscribe(EDS, "a", "b")
        client.ack_all()
    return clients


def test_a_fleet_in_one_state_costs_one_step_for_each_change_and_one_for_its_acks(
    world: World, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish(cluster("a"), cluster("b"), endpoints("a"), endpoints("b"))
    clients = fleet(world, variant, 20)
    worked_out = count_worked_out(world, monkeypatch)
    for version in range(2, 6):
        world.publish(endpoints("a", version))
        for client in clients:
            client.ack(EDS)
    assert sorted(worked_out) == ["advance"] * 4 + ["later_request"] * 4


def test_routes_that_wait_for_the_answer_to_clusters_cost_no_step(
    world: World, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish(static("a"), route("r", 1, "a"))
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack_all()
    client.subscribe(RDS, "r")
    client.ack_all()
    world.publish(static("a", 2), route("r", 2, "a"))  # the clusters are sent; with them, the routes are marked
    worked_out = count_worked_out(world, monkeypatch)
    for version in range(3, 6):
        world.publish(route("r", version, "a"))
    assert worked_out == []
    client.ack_all()
    assert client.held[RDS] == {"r": "5"}


def test_equal_first_requests_of_new_clients_are_computed_only_for_the_first_clients(
    world: World, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish(cluster("a"), cluster("b"), endpoints("a"), endpoints("b"))
    fleet(world, variant, 20)
    worked_out = count_worked_out(world, monkeypatch)
    late = world.client(variant, node="late")
    late.subscribe(CDS)
    late.ack_all()
    late.subscribe(EDS, "a", "b")
    late.ack_all()
    assert worked_out == []
    assert late.held == {CDS: {"a": "1", "b": "1"}, EDS: {"a": "1", "b": "1"}}


def test_subscribe_unsubscribe_subscribe_again_gets_a_message_with_another_nonce_each_time(world: World) -> None:
    world.publish(endpoints("a"))
    clients = [world.client(node=f"n{number}") for number in range(4)]
    for _ in range(3):
        for client in clients:
            client.subscribe(EDS, "a")
            client.ack_all()
            client.unsubscribe(EDS, "a")
    for client in clients:
        nonces = [message.nonce for message in client.messages]
        assert len(nonces) == len(set(nonces)) == 3


def test_a_move_to_another_group_and_back_gets_messages_with_other_nonces(make_world: Callable[..., World]) -> None:
    there, back = (GroupTable(rules=(Rule(group=group),)) for group in ("g2", "g1"))
    world = make_world(groups=back)
    for group, version in (("g1", 1), ("g2", 2)):
        world.publish(static("a", version), group=group)
    clients = [world.client(node=f"n{number}") for number in range(4)]
    for client in clients:
        client.subscribe(CDS)
        client.ack_all()
    for _ in range(2):
        for table in (there, back):
            world.regroup(table)
            for client in clients:
                client.ack_all()
    for client in clients:
        nonces = [message.nonce for message in client.messages]
        assert [message.resources[0].version for message in client.messages] == ["1", "2", "1", "2", "1"]
        assert len(nonces) == len(set(nonces))


def test_what_a_node_is_known_for_is_not_missed_where_others_said_the_same(world: World) -> None:
    """A cached first request does not apply to a node with NACKed names, which is sent those resources again."""
    world.publish(static("a"))
    for number in range(4):
        world.client(node=f"n{number}").subscribe(CDS)
    bad = world.client(node="bad")
    bad.subscribe(CDS)
    bad.nack(CDS)
    for number in range(4):
        assert world.client(node=f"m{number}").request(CDS, have={"a": "1"}) == []
    again = world.client(node="bad")
    assert again.request(CDS, have={"a": "1"}) == ["CDS #1 a@1"]


def test_a_request_between_a_change_and_its_delivery_does_not_use_a_step_from_after_the_delivery(
    world: World, variant: Variant
) -> None:
    """It subscribes to listeners before a change of clusters is sent: listeners follow once the clusters are ACKed."""
    world.publish(static("a"), listener("l", 1, clusters="a"))
    clients = [world.client(variant, node=f"n{number}") for number in range(6)]
    for client in clients:
        client.subscribe(CDS)
        client.ack_all()
    with world.burst():
        world.hub.publish(world.apply(static("b"), listener("l", 2, clusters="b"), remove=[static("a")]))
        for client in clients[:3]:
            assert client.subscribe(LDS) == []
    for client in clients[:3]:
        assert [line.split(" ", 2)[::2] for line in client.ack_all()][-1][0] in ("LDS", "CDS")
        assert client.held[LDS] == {"l": "2"}
    for client in clients[3:]:
        client.ack_all()
        assert [line.split(" ", 2)[::2] for line in client.subscribe(LDS)] == [["LDS", "l@2"]]


def test_changes_and_clients_that_come_and_go_leave_nothing_behind(world: World) -> None:
    world.publish(cluster("a"), cluster("b"), endpoints("a"), endpoints("b"))
    clients = fleet(world, DELTA, 5)
    for version in range(2, 400):
        world.publish(endpoints("a", version))
        for client in clients:
            client.ack_all()
        if version % 20 == 0:
            clients[0].close()
            clients = [*clients[1:], *fleet(world, DELTA, 1)]
    gc.collect()
    assert len(world.hub._client_states) < 60
    assert world.hub.step_cache.bytes_kept < 200_000


def test_what_went_by_itself_does_not_count(make_world: Callable[..., World]) -> None:
    """The byte count grows with every step, and is computed again when it exceeds the limit."""
    step_cache = StepCache()
    world = make_world(step_cache=step_cache)
    world.publish(cluster("a"), cluster("b"), endpoints("a"), endpoints("b"))
    clients = fleet(world, DELTA, 5)
    kept = step_cache.bytes_kept
    assert kept
    step_cache.bytes_max = 4 * kept
    for version in range(2, 60):
        world.publish(endpoints("a", version))
        for client in clients:
            client.ack_all()
        assert step_cache._bytes <= step_cache.bytes_max
    assert step_cache.bytes_kept < kept + 10_000


def test_a_step_by_another_snapshot_is_not_taken_whatever_the_memory_forgets(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepCache, "drop_snapshot", lambda *_: None)
    for version in (1, 2):
        world.publish(static("a", version))
        for number in range(4):
            client = world.client(node=f"n{number}")
            assert client.subscribe(CDS) == [f"CDS #1 a@{version}"]


def test_unused_steps_are_evicted(world: World) -> None:
    world.publish(static("a"))
    fleet(world, DELTA, 5)
    assert world.hub.step_cache.bytes_kept
    for _ in range(AGE_MAX + 2):
        world.hub.evict_idle()
    assert world.hub.step_cache.bytes_kept == 0


def test_used_steps_stay_cached_however_old_they_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish(static("a"))
    fleet(world, DELTA, 5)
    for number in range(2 * AGE_MAX + 2):
        fleet(world, DELTA, 1)
        world.hub.evict_idle()
        assert number >= 0
    worked_out = count_worked_out(world, monkeypatch)
    fleet(world, DELTA, 1)
    assert worked_out == []


def test_the_cache_is_bounded_in_bytes_and_in_requests_per_client_state(make_world: Callable[..., World]) -> None:
    step_cache = StepCache(bytes_max=100_000)
    world = make_world(step_cache=step_cache)
    for number in range(200):
        for copy in range(2):
            world.client(node=f"n{number}-{copy}").subscribe(EDS, f"{number}-" + "x" * 2_000)
        assert step_cache.bytes_kept <= 100_000
    step_cache.bytes_max = 1 << 30
    for number in range(2 * STEPS_MAX):
        world.client(node=f"m{number}").subscribe(EDS, f"name-{number}")
    assert {len(start.steps or ()) for start in world.hub._starts.values()} == {STEPS_MAX}


def test_a_request_too_large_for_the_memory_is_taken_all_the_same(make_world: Callable[..., World]) -> None:
    world = make_world(step_cache=StepCache(bytes_max=10_000))
    world.publish(endpoints("a"))
    for number in range(3):
        client = world.client(node=f"n{number}")
        assert client.subscribe(EDS, "a", "x" * 20_000) == [f"EDS #1 a@1 -{'x' * 20_000}"]
