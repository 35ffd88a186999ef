"""Changes through the publisher: answers, stored entries, served state, and other writers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import pytest
from structlog.testing import capture_logs
from support import resources as r
from support.waiting import wait_until

from tests.publishing.behind import Behind, Log
from xds.model.changeset import Changeset
from xds.model.problem import ChangesetRejectedError
from xds.model.resource import Resource
from xds.model.types import CLUSTER, ENDPOINTS
from xds.publishing import batch
from xds.publishing.changes import Change, KeptElsewhereError
from xds.publishing.edits import UnknownGroupError
from xds.publishing.publisher import Publisher
from xds.publishing.whole import change_of_directory
from xds.schema.ingest import ingest
from xds.store.entries import Entry, Key, Stored
from xds.store.errors import (
    CompactedError,
    ConflictError,
    IdReusedError,
    OutcomeUnknownError,
    StoreError,
    UnavailableError,
    UnreadableError,
)
from xds.store.memory import MemoryStore


def cluster(name: str, port: int = 1) -> Resource:
    return ingest(r.static_cluster(name, port))


def setting(*resources: Resource, group: str = "default", **more: object) -> Change:
    return Change(upserts={group: resources}, **more)  # type: ignore[arg-type]


async def test_what_is_published_is_kept_and_served(replica) -> None:
    one = await replica()
    published = await one.publisher.publish(setting(cluster("a"), cluster("b")))
    assert published.revision == 1
    assert [key.name for key in published.changed] == ["a", "b"]
    assert one.names().keys() == {"a", "b"}
    assert (await one.publisher.store.state()).revision == 1


async def test_a_change_without_effect_makes_no_revision(replica) -> None:
    one = await replica()
    await one.publisher.publish(setting(cluster("a")))
    published = await one.publisher.publish(setting(cluster("a")))
    assert (published.revision, published.changed, [key.name for key in published.unchanged]) == (1, (), ["a"])


async def test_another_start_serves_the_same_at_the_same_revision(replica) -> None:
    store = MemoryStore()
    one = await replica(store)
    await one.publisher.publish(setting(cluster("a"), group="web"))
    await one.publisher.publish(setting(cluster("b")))
    two = await replica(store)
    assert two.catalog.revision == one.catalog.revision == 2
    assert (two.names(), two.names("web")) == (one.names(), one.names("web"))
    assert two.catalog.snapshots.keys() == {"default", "web"}


async def test_a_group_stays_when_its_last_resource_is_removed_also_on_a_later_replica(replica) -> None:
    """Else its nodes would belong to ``default`` from then on, and be sent its resources."""
    store = MemoryStore()
    one = await replica(store)
    await one.publisher.publish(setting(cluster("a"), group="tenant"))
    await one.publisher.publish(Change(removals={"tenant": ((CLUSTER, "a"),)}))
    two = await replica(store)
    for each in (one, two):
        assert "tenant" in each.catalog.snapshots
        assert each.names("tenant") == {}


async def test_the_same_id_twice_is_one_change_and_another_change_is_refused(replica) -> None:
    one = await replica()
    first = setting(cluster("a"), id="x")
    assert (await one.publisher.publish(first)).again is False
    await one.publisher.publish(setting(cluster("a", port=2)))
    again = await one.publisher.publish(first)
    assert (again.revision, again.again) == (1, True)
    assert one.names() == {"a": cluster("a", port=2).version}, "it was made once, before the other"
    with pytest.raises(IdReusedError):
        await one.publisher.publish(setting(cluster("b"), id="x"))


async def test_the_same_id_and_content_on_another_condition_is_another_change(replica) -> None:
    one = await replica()
    await one.publisher.publish(setting(cluster("a")))
    made = replace(setting(cluster("a", port=2)), id="x")
    assert (await one.publisher.publish(made)).revision == 2
    with pytest.raises(IdReusedError):
        await one.publisher.publish(replace(made, expected_revision=1))


async def test_the_same_change_twice_in_a_batch_is_one_change(replica) -> None:
    one = await replica()
    made = await asyncio.gather(*(one.publisher.publish(setting(cluster("a"), id="x")) for _ in range(5)))
    assert [each.revision for each in made] == [1] * 5
    assert sum(each.again for each in made) == 4


async def test_an_expected_revision_holds_or_nothing_is_changed(replica) -> None:
    one = await replica()
    await one.publisher.publish(setting(cluster("a"), expected_revision=0))
    with pytest.raises(ConflictError) as refused:
        await one.publisher.publish(setting(cluster("b"), expected_revision=0))
    assert refused.value.revision == 1
    assert one.names().keys() == {"a"}


async def test_of_many_that_expect_the_same_revision_one_is_made(replica) -> None:
    one = await replica()
    changes = [setting(cluster(f"c{number}"), expected_revision=0) for number in range(10)]
    outcomes = await asyncio.gather(*map(one.publisher.publish, changes), return_exceptions=True)
    assert sum(isinstance(each, ConflictError) for each in outcomes) == 9
    assert len(one.names()) == 1


async def test_a_dry_run_says_what_it_would_change_and_changes_nothing(replica) -> None:
    one = await replica()
    await one.publisher.publish(setting(cluster("a")))
    tried = await one.publisher.publish(setting(cluster("a", port=2), cluster("b"), dry_run=True))
    assert (tried.revision, [key.name for key in tried.changed]) == (1, ["a", "b"])
    made = await one.publisher.publish(setting(cluster("b")))
    assert made.revision == 2
    assert one.names() == {"a": cluster("a").version, "b": cluster("b").version}


async def test_an_invalid_change_is_rejected_and_those_in_its_batch_are_made(replica) -> None:
    one = await replica()
    dangling = setting(ingest(r.cluster("e")), ingest(r.route("route", "none")))
    outcomes = await asyncio.gather(
        one.publisher.publish(setting(cluster("a"))),
        one.publisher.publish(dangling),
        one.publisher.publish(setting(cluster("b"))),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], ChangesetRejectedError)
    assert one.names().keys() == {"a", "b"}
    assert one.catalog.revision == 2


@pytest.mark.parametrize(
    "change",
    [setting(cluster("a"), cluster("a", 2)), setting(cluster("a"), group="a/b"), setting(cluster("a"), group="")],
    ids=["twice", "slash", "empty"],
)
async def test_invalid_group_names_and_repeated_resources_are_problems(replica, change: Change) -> None:
    one = await replica()
    with pytest.raises(ChangesetRejectedError):
        await one.publisher.publish(change)
    assert one.catalog.revision == 0


async def test_removing_from_a_group_that_is_not_there_is_an_error(replica) -> None:
    one = await replica()
    with pytest.raises(UnknownGroupError):
        await one.publisher.publish(Change(removals={"none": ((CLUSTER, "a"),)}))


async def test_replacing_a_group_removes_the_rest_of_it_and_nothing_else(replica) -> None:
    one = await replica()
    await one.publisher.publish(setting(cluster("a"), cluster("b")))
    await one.publisher.publish(setting(cluster("a"), group="web"))
    published = await one.publisher.publish(setting(cluster("b"), cluster("c"), replace=("default",)))
    assert {key.name for key in published.changed} == {"a", "c"}
    assert (one.names().keys(), one.names("web").keys()) == ({"b", "c"}, {"a"})


async def test_nobody_else_may_change_what_a_directory_manages(replica) -> None:
    one = await replica()
    await one.publisher.publish(change_of_directory(Changeset(upserts={"default": (cluster("a"),)}, replace=True)))
    with pytest.raises(KeptElsewhereError):
        await one.publisher.publish(setting(cluster("b"), author="directory"))
    await one.publisher.publish(setting(cluster("b"), group="web"))


def assignment(name: str, port: int) -> Resource:
    return ingest(r.assignment(name, port))


async def test_mergeable_changes_share_a_revision_and_the_later_one_counts(replica) -> None:
    one = await replica()
    await one.publisher.publish(
        setting(ingest(r.cluster("a")), ingest(r.cluster("b")), assignment("a", 1), assignment("b", 1))
    )
    changes = [setting(assignment(name, port), mergeable=True) for port in range(2, 12) for name in "ab"]
    made = await asyncio.gather(*map(one.publisher.publish, changes))
    assert len({each.revision for each in made}) < len(changes)
    view = one.catalog.snapshots["default"].view(ENDPOINTS)
    assert {name: view.get(name).version for name in "ab"} == {n: assignment(n, 11).version for n in "ab"}


async def test_two_replicas_that_write_at_once_both_serve_all_of_it_in_the_same_order(replica) -> None:
    store = MemoryStore()
    one, two = await replica(store), await replica(store)
    changes = [setting(cluster(f"c{number % 7}", port=1 + number)) for number in range(60)]
    made = await asyncio.gather(
        *((one, two)[number % 2].publisher.publish(change) for number, change in enumerate(changes))
    )
    assert sorted(each.revision for each in made) == list(range(1, 61))
    await one.publisher.served_at(60)
    await two.publisher.served_at(60)
    assert one.names() == two.names()
    assert [revision for revision, _ in one.served[1:]] == [revision for revision, _ in two.served[1:]]


class Failing(MemoryStore):
    """Fails the next appends with the errors in ``fail``; if ``keeps``, their entries are committed all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.fail: list[Exception] = []
        self.keeps = False

    async def append_all(self, entries: Sequence[Entry], expected_revision: int) -> int:
        if self.fail:
            if self.keeps:
                await super().append_all(entries, expected_revision)
            raise self.fail.pop(0)
        return await super().append_all(entries, expected_revision)


async def test_what_the_store_refuses_is_not_served_and_the_next_change_is_made(replica) -> None:
    store = Failing()
    one = await replica(store)
    await one.publisher.publish(setting(cluster("a")))
    store.fail = [UnavailableError("disk full")]
    with pytest.raises(UnavailableError, match="disk full"):
        await one.publisher.publish(setting(cluster("a", port=2), cluster("b")))
    assert one.names() == {"a": cluster("a").version}
    made = await one.publisher.publish(setting(cluster("c")))
    assert made.revision == 2
    assert one.names().keys() == {"a", "c"}


@pytest.mark.parametrize("kind", [UnavailableError, partial(OutcomeUnknownError, "id-1")])
async def test_what_a_store_repeats_of_a_secret_is_hidden(replica, kind: Callable[[str], StoreError]) -> None:
    store = Failing()
    one = await replica(store)
    text = "etcd: can't keep 'hush-hush-key' (no space)"
    error = kind(text)
    error.__cause__ = RuntimeError(text)
    store.fail = [error]
    with pytest.raises(StoreError) as refused:
        await one.publisher.publish(setting(ingest(r.keyed_cluster("a", "hush-hush-key"))))
    assert "can't keep '[redacted]' (no space)" in str(refused.value)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("error", [ConflictError(0, 0), IdReusedError("another", 1)])
async def test_no_secrets_are_looked_for_where_another_writer_is_first(
    replica, error: StoreError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To find the secrets of a large batch takes long, and these errors have words of ours."""
    looked_for: list[object] = []

    def look_for(resources: Iterable[Resource]) -> Callable[[str], str]:
        looked_for.append(resources)
        return str

    monkeypatch.setattr(batch, "hider_of", look_for)
    store = Failing()
    one = await replica(store)
    store.fail = [error]
    assert (await one.publisher.publish(setting(cluster("a")))).revision == 1
    assert (store.fail, looked_for) == ([], [])


class Compacted(MemoryStore):
    """Another replica compacted what the watch is to tell, and this store has not read the log anew yet."""

    left = 3

    async def watch(self, after: int) -> AsyncIterator[Stored]:
        if after and self.left:
            self.left -= 1
            raise CompactedError(after, after + 2)
        async for stored in super().watch(after):
            yield stored


async def test_a_state_that_is_served_already_is_not_served_again(replica) -> None:
    store = Compacted()
    await (await replica(store)).publisher.publish(setting(cluster("a")))
    one = await replica(store)
    await wait_until(lambda: store.left, equals=0)
    await one.publisher.publish(setting(cluster("b")))
    revisions = [revision for revision, _ in one.served]
    assert revisions == sorted(set(revisions))
    assert one.names().keys() == {"a", "b"}


class Slow(MemoryStore):
    """Commits entries, and runs ``before`` and ``after`` around it: they may delay the reply, or raise."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[], Awaitable[object]] | None = None
        self.after: Callable[[], Awaitable[object]] | None = None

    async def append_all(self, entries: Sequence[Entry], expected_revision: int) -> int:
        if self.before is not None:
            before, self.before = self.before, None
            await before()
        revision = await super().append_all(entries, expected_revision)
        if self.after is not None:
            after, self.after = self.after, None
            await after()
        return revision


async def test_an_entry_of_another_writer_that_arrives_during_a_commit_is_kept_and_so_is_the_commit(replica) -> None:
    store = Slow()
    one, two = await replica(store), await replica(store)

    async def overtake() -> None:
        await two.publisher.publish(setting(cluster("a"), cluster("b", port=2)))
        await one.publisher.served_at(1)

    store.before = overtake
    async with asyncio.timeout(2):
        made = await one.publisher.publish(setting(cluster("b", port=1)))
        assert made.revision == 2
        again = await one.publisher.publish(setting(cluster("a", port=3)))
    assert again.revision == 3
    await two.publisher.served_at(3)
    expected = {name: cluster(name, port).version for name, port in (("a", 3), ("b", 1))}
    assert one.names() == two.names() == expected


@pytest.mark.parametrize("count", [1, 2])
async def test_later_changes_are_planned_on_entries_that_were_served_although_their_commit_seemed_to_fail(
    replica, count: int
) -> None:
    store = Slow()
    one = await replica(store)

    async def served_then_lost() -> None:
        await one.publisher.served_at(count)
        raise OutcomeUnknownError("x", "the reply was lost")

    store.after = served_then_lost
    names = ["a", "b"][:count]
    made = await asyncio.gather(*(one.publisher.publish(setting(cluster(name))) for name in names))
    assert [each.revision for each in made] == list(range(1, count + 1)), "the watch delivered them"
    async with asyncio.timeout(2):
        dry = await one.publisher.publish(Change(upserts={"default": (cluster("a"),)}, dry_run=True))
        assert (dry.changed, len(dry.unchanged)) == ((), 1), "the head has it"
        later = await one.publisher.publish(setting(cluster("c")))
    assert later.revision == count + 1
    assert one.names().keys() == {*names, "c"}


@pytest.mark.parametrize("kept", [True, False])
async def test_an_unknown_outcome_is_reported_and_settled_by_a_retry_with_the_same_id(replica, kept: bool) -> None:
    store = Failing()
    one = await replica(store)
    store.fail, store.keeps = [OutcomeUnknownError("x", "power went")], kept
    change = setting(cluster("a"), id="x")
    with pytest.raises(OutcomeUnknownError):
        await one.publisher.publish(change)
    store.keeps = False
    again = await one.publisher.publish(change)
    assert (again.revision, again.again) == (1, kept)
    assert one.names().keys() == {"a"}


async def test_a_replica_whose_next_entry_was_compacted_serves_the_whole_state_with_its_deletions(
    replica, log: Log
) -> None:
    one, behind = await replica(Behind(log)), Behind(log)
    await one.publisher.publish(setting(cluster("a"), cluster("b")))
    two = await replica(behind)
    behind.told.clear()
    for number in range(5):
        removals = {"default": ((CLUSTER, "a"),)} if number == 2 else {}
        await one.publisher.publish(Change(removals=removals, upserts={"default": (cluster("b", 2 + number),)}))
    await log.kept.compact(5)
    behind.told.set()
    await two.publisher.served_at(6)
    assert two.names() == one.names() == {"b": cluster("b", 6).version}
    await two.publisher.publish(setting(cluster("c")))
    await one.publisher.served_at(7)
    assert one.names() == two.names()


async def test_a_label_is_the_version_and_survives_a_restart(replica) -> None:
    from xds.schema.restore import labelled

    store = MemoryStore()
    one = await replica(store)
    await one.publisher.publish(setting(labelled(cluster("a"), "build-7")))
    two = await replica(store)
    assert one.names() == two.names() == {"a": "build-7"}


async def test_the_same_id_and_label_with_other_content_is_another_change(replica) -> None:
    from xds.schema.restore import labelled

    one = await replica()
    first = setting(labelled(cluster("a"), "build-7"), id="x")
    assert (await one.publisher.publish(first)).revision == 1
    with pytest.raises(IdReusedError):
        await one.publisher.publish(setting(labelled(cluster("a", port=2), "build-7"), id="x"))
    assert (await one.publisher.publish(first)).again is True


async def test_stopping_refuses_what_waits(replica) -> None:
    one = await replica()
    publisher: Publisher = one.publisher
    waiting = await publisher.submit(setting(cluster("a")))
    await publisher.stop()
    with pytest.raises((UnavailableError, OutcomeUnknownError)):
        await waiting


async def test_a_fault_while_serving_is_reported_and_retried(replica) -> None:
    one = await replica()
    one.fails_with = ValueError("a bug")
    await asyncio.wait_for(one.publisher.publish(setting(cluster("a"))), 5)
    assert one.names().keys() == {"a"}
    assert one.publisher.stale_because == ""


@pytest.mark.parametrize(
    ("operations", "groups", "named"),
    [({Key("default", CLUSTER, "bad"): b"\xff"}, None, "clusters/bad"), ({}, b"{}", "groups and rules")],
    ids=["resource", "rules"],
)
async def test_a_change_that_can_not_be_read_is_named_and_what_was_served_stays(
    replica, operations: dict[Key, bytes | None], groups: bytes | None, named: str
) -> None:
    """A replica of a later version may store entries that this one can't read."""
    store = MemoryStore()
    one = await replica(store)
    await one.publisher.publish(setting(cluster("a")))
    await store.append(Entry(id="theirs", operations=operations, groups=groups))
    with capture_logs() as logs:
        await wait_until(lambda: one.publisher.stale_because)
        with pytest.raises(UnavailableError, match="can't be read"):
            await one.publisher.served_at(2, within_s=1)  # following is retried meanwhile
    assert "revision 2 (change 'theirs') can't be read" in one.publisher.stale_because
    assert named in one.publisher.stale_because
    assert len([each for each in logs if "can't be followed" in each["event"]]) == 1, "once, however often it is tried"
    assert one.names().keys() == {"a"}
    with pytest.raises(UnreadableError, match="can't be read"):
        await replica(store)
