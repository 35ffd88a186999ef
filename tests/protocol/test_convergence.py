"""Which revisions clients have accepted: one scene for each part of the definition, then an independent judge.

See docs/protocol.md#convergence."""

import random
from collections.abc import Iterator

import pytest
from support.encoded import CDS, ECDS, EDS, LDS, RDS, cluster, endpoints, listener, resource, route, static
from support.hubs import DELTA, Client, MakeWorld, World
from support.scenes import started, swap

from xds.model.changeset import Changeset
from xds.model.groups import GroupTable, Rule
from xds.protocol.client_state import add_mark, debt_with
from xds.protocol.convergence import (
    NO_DEBT,
    UNSENT_MAX,
    Acceptance,
    Debt,
    Debts,
    acceptance,
    split_at,
    with_revision,
    without_best,
    worst,
)
from xds.protocol.policy import Variant


def at(world: World, revision: int | None = None, group: str = "default") -> tuple[int, int, int]:
    """Return how many clients have accepted, not yet accepted, and rejected a revision, by default the newest."""
    return tuple(world.hub.acceptance(group, revision or world.hub.revision))


ACCEPTED, PENDING, REJECTED, NOBODY = (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)


def test_a_client_has_accepted_what_it_acked(world: World, variant: Variant, per_type: bool) -> None:
    client = started(world, variant, per_type=per_type)
    assert at(world) == ACCEPTED
    world.publish(static("a", 2))
    assert at(world) == PENDING
    assert at(world, world.hub.revision - 1) == ACCEPTED
    client.ack_all()
    assert at(world) == ACCEPTED
    client.close()
    assert at(world) == NOBODY


def test_a_new_client_has_accepted_nothing_before_its_answers(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    world.publish(static("a", 2))
    client = world.client(variant)
    client.subscribe(CDS)
    assert [at(world, revision) for revision in (1, 2)] == [PENDING, PENDING]
    client.ack(CDS)
    assert [at(world, revision) for revision in (1, 2)] == [ACCEPTED, ACCEPTED]


def test_a_change_that_does_not_concern_a_client_is_accepted_at_once(world: World, variant: Variant) -> None:
    started(world, variant)
    world.publish(endpoints("other"), route("other", 1, "a"))
    world.publish(static("a", 2), group="elsewhere")
    assert at(world) == ACCEPTED


def test_a_client_that_returns_with_everything_has_accepted_it(world: World, variant: Variant) -> None:
    client = started(world, variant)
    client.reconnect()
    assert at(world) == ACCEPTED


def test_each_revision_waits_for_its_own_answer(world: World) -> None:
    """A steady flow of changes does not keep a revision from being accepted."""
    client = started(world)
    first = world.hub.revision
    for number in range(2, 12):
        world.publish(endpoints("a", number))  # unsent while the one before is not answered
        if number > 2:
            assert at(world, first + number - 2) == PENDING
            client.ack(EDS)
            assert at(world, first + number - 2) == ACCEPTED
        assert at(world) == PENDING


def test_two_revisions_in_one_response_share_its_answer(world: World, variant: Variant) -> None:
    client = started(world, variant)
    first = world.hub.revision
    for number in (2, 3, 4):
        world.publish(endpoints("a", number))
    client.ack(EDS)
    assert [at(world, first + number) for number in (1, 2, 3)] == [ACCEPTED, PENDING, PENDING]
    client.nack(EDS)
    assert [at(world, first + number) for number in (1, 2, 3)] == [ACCEPTED, REJECTED, REJECTED]


def test_merged_changes_count_for_whom_each_concerns(world: World, variant: Variant) -> None:
    from xds.transport.coalescer import _merged

    client = started(world, variant)
    first = world.apply(endpoints("other"))
    second = world.apply(endpoints("a", 2))
    world.hub.publish(_merged(first, second))
    world.pump()
    assert (at(world, first.revision), at(world, second.revision)) == (ACCEPTED, PENDING)
    client.ack_all()
    assert at(world) == ACCEPTED


def test_what_is_held_back_is_pending(world: World, variant: Variant, per_type: bool) -> None:
    """A route waits for its cluster, and the removal of the old cluster for the route."""
    client = started(world, variant, per_type=per_type)
    swap(world)
    revision = world.hub.revision
    assert at(world) == PENDING
    client.subscribe(EDS, "b")
    while any(queue for by_type in client.unanswered.values() for queue in by_type.values()):
        assert at(world, revision) == PENDING
        waiting = [t for by_type in client.unanswered.values() for t, queue in by_type.items() if queue]
        client.ack(waiting[0])
    assert at(world, revision) == ACCEPTED
    assert "a" not in client.held[CDS] or variant is Variant.SOTW


def test_a_held_removal_keeps_only_its_own_revision_pending(world: World) -> None:
    """Cluster a stays while a draining listener may use it; later changes are accepted or not by themselves."""
    world.publish(static("a"), listener("l", clusters="a"))
    client = world.client()
    client.subscribe(CDS)
    client.subscribe(LDS)
    client.ack_all()
    world.publish(static("b"), listener("l", 2, clusters="b"), remove=[static("a")])
    removal = world.hub.revision
    client.ack_all()
    assert at(world, removal) == PENDING
    assert at(world, removal - 1) == ACCEPTED
    world.publish(static("b", 2))
    client.ack_all()
    assert at(world, removal - 1) == ACCEPTED
    world.advance(700)
    client.ack_all()
    assert (at(world, removal), at(world)) == (ACCEPTED, ACCEPTED)


def test_a_rejection_lasts_until_something_newer_is_accepted(world: World, variant: Variant, per_type: bool) -> None:
    client = started(world, variant, per_type=per_type)
    world.publish(endpoints("a", 2))
    bad = world.hub.revision
    client.nack(EDS)
    world.publish(endpoints("other"))
    assert [at(world, revision) for revision in (bad - 1, bad, bad + 1)] == [ACCEPTED, REJECTED, REJECTED]
    world.publish(endpoints("a", 3))
    assert [at(world, revision) for revision in range(bad - 1, bad + 3)] == [ACCEPTED, REJECTED, REJECTED, PENDING]
    client.ack_all()
    assert [at(world, revision) for revision in range(bad - 1, bad + 3)] == [ACCEPTED] * 4


def test_a_late_answer_counts(world: World) -> None:
    client = started(world)
    world.publish(static("a", 2))
    first = world.hub.revision
    world.advance(25)
    world.publish(static("a", 3))
    assert [at(world, revision) for revision in (first, first + 1)] == [PENDING, PENDING]
    client.ack(CDS)
    assert [at(world, revision) for revision in (first, first + 1)] == [ACCEPTED, PENDING]
    client.ack(CDS)
    assert at(world) == ACCEPTED


def test_a_new_subscription_is_owed_since_its_content_is(world: World) -> None:
    client = started(world)
    before = world.hub.revision
    world.publish(endpoints("x"))
    world.publish(endpoints("other"))
    assert at(world) == ACCEPTED
    client.subscribe(EDS, "x")
    assert [at(world, revision) for revision in (before, before + 1, before + 2)] == [ACCEPTED, PENDING, PENDING]
    client.ack(EDS)
    assert at(world) == ACCEPTED
    client.subscribe(EDS, "does-not-exist")
    assert at(world) == ACCEPTED


def test_a_response_in_parts_is_accepted_with_its_last(make_world: MakeWorld) -> None:
    from xds.protocol.responses import Encoding

    world = make_world(encoding=Encoding(response_bytes_max=2_000))
    client = started(world)
    world.publish(*(resource(CDS, f"big{number}", padding=900) for number in range(6)))
    sent = 0
    while client.unanswered and any(queue for by_type in client.unanswered.values() for queue in by_type.values()):
        assert at(world) == PENDING
        client.ack(CDS)
        sent += 1
    assert sent > 1
    assert at(world) == ACCEPTED


def test_an_extension_stays_owed_until_the_client_unsubscribes(world: World) -> None:
    world.publish(resource(ECDS, "filter"))
    client = world.client()
    client.subscribe(ECDS, "filter")
    client.ack(ECDS)
    world.publish(remove=[resource(ECDS, "filter")])
    assert at(world) == PENDING
    client.unsubscribe(ECDS, "filter")
    assert at(world) == ACCEPTED


def test_clients_are_counted_in_the_group_that_they_moved_to(make_world: MakeWorld, variant: Variant) -> None:
    world = make_world(groups=GroupTable(rules=(Rule(group="a"),)))
    world.publish(static("c"), group="b")
    world.publish(static("c"), group="a")
    client = world.client(variant)
    client.subscribe(CDS)
    client.ack(CDS)
    assert (at(world, group="a"), at(world, group="b")) == (ACCEPTED, NOBODY)
    world.hub.publish(
        world.catalog.apply(Changeset(groups=GroupTable(rules=(Rule(group="b"),)), upserts={"b": (static("c", 2),)}))
    )
    assert (at(world, group="a"), at(world, group="b")) == (NOBODY, PENDING)
    world.pump()
    client.ack(CDS)
    assert at(world, group="b") == ACCEPTED
    world.regroup(GroupTable(rules=(Rule(group="a"),)))  # whose resources are older than the rules
    client.ack_all()
    assert at(world, group="a") == ACCEPTED


def test_a_client_that_leaves_is_counted_no_more_and_others_are(world: World) -> None:
    world.publish(static("a"))
    one, other = (world.client(DELTA, f"n{number}", connection=f"tcp{number}") for number in range(2))
    for client in (one, other):
        client.subscribe(CDS)
    client.ack(CDS)
    one.close()
    assert at(world) == ACCEPTED


def test_many_clients_are_counted_together(world: World) -> None:
    world.publish(static("a"))
    clients = [world.client(DELTA, f"n{number}", connection=f"tcp{number}") for number in range(10)]
    for client in clients:
        client.subscribe(CDS)
        client.ack(CDS)
    world.publish(static("a", 2))
    for number, client in enumerate(clients):
        assert at(world) == (number if number < 5 else 4, 10 - number, 0 if number < 5 else number - 4)
        if number == 4:
            client.nack(CDS)
        else:
            client.ack(CDS)
        if number >= 4:
            assert world.hub.acceptance("default", world.hub.revision).rejected == 1
        if number == 4:
            break
    assert at(world) == Acceptance(4, 5, 1)


def test_revisions_that_are_held_back_together_are_bounded() -> None:
    unsent: tuple[int, ...] = ()
    for revision in range(1, 100):
        unsent = with_revision(unsent, revision)
        assert with_revision(unsent, revision) is unsent
    assert len(unsent) == UNSENT_MAX
    assert (unsent[0], unsent[-1]) == (1, 99)
    assert split_at(unsent, 200, is_newest=False) == (1, ())
    assert split_at(unsent, 50, is_newest=True) == (1, ())
    since, left = split_at(unsent, 50, is_newest=False)
    assert (since, left[0]) == (1, 51)  # 52 to 98 are not told apart: none of them counts as accepted too early
    assert len(left) <= UNSENT_MAX


# --- An independent judge --------------------------------------------------------------------------------------------


class Judge:
    """Knows each resource's history, and decides by what a client holds which revisions it has accepted.

    Versions are the revisions that set them, and no content comes back, so a held version says all.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.changes: dict[tuple[str, str], list[int]] = {}
        self.owed_since: dict[tuple[str, str, str], int] = {}
        """Client, type and name of a later subscription, to the revision of its content then."""

    def note(self, revision: int, names: list[tuple[str, str]]) -> None:
        for name in names:
            self.changes.setdefault(name, []).append(revision)

    def owed(self, client: Client) -> int:
        """Return the oldest revision that a client has not accepted, 0 for none."""
        return min((each for key in self._concerned(client) for each in self._missing(client, key)), default=0)

    def _concerned(self, client: Client) -> Iterator[tuple[str, str]]:
        (stream,) = client.streams.values()
        for type_url, name in self.changes:
            if (stream, type_url) in client.wild or name in client.names.get((stream, type_url), ()):
                yield type_url, name

    def _missing(self, client: Client, key: tuple[str, str]) -> list[int]:
        held = client.held.get(key[0], {}).get(key[1])
        reached = int(held) if held is not None else self.owed_since.get((client.node.id, *key), 1) - 1
        return [revision for revision in self.changes[key] if revision > reached]


@pytest.mark.parametrize("seed", range(40))
def test_a_judge_that_looks_at_what_clients_hold_agrees(make_world: MakeWorld, seed: int) -> None:
    """Random changes of all types, answers in any order, long silences; rejections are what a judge can not see."""
    rng = random.Random(seed)
    world = make_world()
    judge = Judge(world)
    clusters, routes = ["a", "b", "c"], ["r", "s"]

    def publish(upserts, removals=()) -> None:
        revision = world.catalog.revision + 1
        made = [each(revision) for each in upserts]
        world.publish(*made, remove=removals)
        assert world.hub.revision == revision
        judge.note(revision, [(each.type_url, each.name) for each in (*made, *removals)])

    everything = [lambda v, n=n: cluster(n, v) for n in clusters] + [lambda v, n=n: endpoints(n, v) for n in clusters]
    everything += [lambda v, n=n: route(n, v, "a") for n in routes] + [lambda v: listener("l", v, routes="r")]
    publish(everything)
    clients: list[Client] = []
    lagging: set[Client] = set()
    for number in range(4):
        client = world.client(DELTA, f"n{number}", connection=f"tcp{number}")
        client.subscribe(CDS)
        client.subscribe(EDS, *clusters)
        client.subscribe(LDS)
        client.subscribe(RDS, *(routes if number % 2 else routes[:1]))
        client.ack_all()
        clients.append(client)
    for _ in range(60):
        chosen = rng.random()
        if chosen < 0.45:
            publish(rng.sample(everything, rng.randrange(1, 4)))
        elif chosen < 0.55:
            publish([lambda v: route("r", v, rng.choice(clusters)), lambda v: endpoints("a", v)])
        elif chosen < 0.6:
            name = rng.choice(routes)
            client = rng.choice(clients)
            if name not in client.names[client.streams["", ""], RDS]:
                judge.owed_since[client.node.id, RDS, name] = judge.changes[RDS, name][-1]
                lagging.add(client)
                client.subscribe(RDS, name)
        elif chosen < 0.65:
            world.advance(rng.choice((1, 25)))
        for client in clients:
            waiting = [t for by_type in client.unanswered.values() for t, queue in by_type.items() if queue]
            if waiting and rng.random() < 0.5:
                client.ack(rng.choice(waiting))
            (stream,) = client.streams.values()
            assert stream.session is not None
            debt = debt_with(stream.session.client_state.debt, stream.session.marks)
            owed = judge.owed(client)
            if client in lagging:  # it may be sent content older than the newest at first, so it may owe more
                assert debt.owed <= (owed or debt.owed), (seed, client.node.id)
                lagging -= {client} if debt.owed == owed == 0 else set()
            else:
                assert debt == Debt(owed), (seed, client.node.id)
    for client in clients:
        client.ack_all()
    assert at(world) == (4, 0, 0)


# --- Sums, and bounds ------------------------------------------------------------------------------------------------


def test_debts_of_several_processes_add_up() -> None:
    one = Debts(revision=7, by_group={"a": {Debt(): 2, Debt(owed=5): 1}})
    other = Debts(revision=6, by_group={"a": {Debt(): 1}, "b": {Debt(rejected=3): 4}})
    both = Debts.sum([one, other])
    assert both.revision == 6
    assert both.at(5) == Acceptance(3, 1, 4)
    assert both.at(5, "a") == Acceptance(3, 1, 0)
    assert both.at(4) == Acceptance(4, 0, 4)
    assert both.at(5, "none") == Acceptance()
    assert Debts.sum([]).at(1) == Acceptance()
    assert [Debt(owed=5).lacks(4), Debt(owed=5).lacks(5), Debt(rejected=5).lacks(9), Debt().lacks(9)] == [
        False,
        True,
        True,
        False,
    ]


def test_marks_of_a_type_are_bounded_and_keep_the_oldest_and_the_newest() -> None:
    marks: tuple[tuple[int, str, int], ...] = ((0, CDS, 1),)
    for revision in range(2, 100):
        marks = add_mark(marks, ((0, RDS, revision),), several=True)
        marks = add_mark(marks, ((0, CDS, revision),), several=False)
    assert marks[0] == (0, CDS, 1)
    of_routes = [revision for _, type_url, revision in marks if type_url == RDS]
    assert (len(of_routes), of_routes[0], of_routes[-1]) == (UNSENT_MAX, 2, 99)


def test_a_later_subscription_to_everything_owes_everything(world: World, variant: Variant) -> None:
    world.publish(static("a"))
    world.publish(static("b"))
    client = world.client(variant)
    client.subscribe(CDS, "a")
    client.ack(CDS)
    client.request(CDS, subscribe=["*"])
    assert [at(world, revision) for revision in (1, 2)] == [PENDING, PENDING]
    client.ack_all()
    assert at(world) == ACCEPTED


def test_clients_that_are_gone_are_counted_by_group() -> None:
    found = Debts(revision=1, by_group={}, gone={"a": 2, "b": 1})
    assert (found.gone_of(), found.gone_of("a"), found.gone_of("c")) == (3, 2, 0)


def test_debts_tell_of_some_groups_alone() -> None:
    owed = {"blue": {Debt(): 2}, "red": {Debt(2): 1}}
    debts = Debts(revision=3, by_group=owed, gone={"red": 1, "blue": 4}, uncounted=("n1",))
    of_blue = Debts(revision=3, by_group={"blue": {Debt(): 2}}, gone={"blue": 4})
    assert debts.of(lambda group: group == "blue") == of_blue


def test_of_a_node_with_several_clients_the_worst_counts() -> None:
    assert worst([Debt(3, 0), Debt(2, 0), NO_DEBT]) == Debt(2, 0)
    assert worst([Debt(3, 4), Debt(0, 2)]) == Debt(0, 2)
    assert worst([Debt(5, 2), Debt(3, 0)]) == Debt(3, 2)


@pytest.mark.parametrize(
    ("debt", "states"),
    [
        (Debt(0, 0), "aaaa"),
        (Debt(3, 0), "aapp"),
        (Debt(0, 2), "arrr"),
        (Debt(2, 2), "arrr"),
        (Debt(3, 2), "arpp"),
        (Debt(2, 3), "aprr"),
        (Debt(9, 2), "arrr"),
    ],
)
def test_a_client_is_pending_while_something_newer_than_what_it_rejected_is_due(debt: Debt, states: str) -> None:
    counted = [acceptance({debt: 1}, revision) for revision in (1, 2, 3, 4)]
    assert "".join("apr"[numbers.index(1)] for numbers in counted) == states
    for revision, numbers in enumerate(counted, 1):
        assert debt.lacks(revision) == (numbers.accepted == 0)


def test_clients_that_count_elsewhere_are_taken_from_those_that_owe_the_least() -> None:
    counts = {Debt(3, 0): 2, NO_DEBT: 1, Debt(0, 2): 1}
    assert without_best(counts, 0) == counts
    assert without_best(counts, 2) == {Debt(3, 0): 1, Debt(0, 2): 1}
