"""Every write is decided on the newest state, even if its process has not read it yet: no change is lost."""

import asyncio

import pytest
from support import resources as r
from support.waiting import wait_until

from tests.publishing.behind import Behind, Log
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.groups import GroupTable, Rule
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.model.types import CLUSTER
from xds.publishing.changes import Change, KeptElsewhereError
from xds.publishing.edits import DeleteGroup, Edit, PutGroup, PutRules, UnknownGroupError, UpdateRules
from xds.publishing.whole import change_of_directory
from xds.schema.ingest import ingest
from xds.store.errors import ConflictError, IdReusedError, OutcomeUnknownError, UnavailableError


def cluster(name: str, port: int = 1) -> Resource:
    return ingest(r.static_cluster(name, port))


def setting(*resources: Resource, group: str = "default", **more: object) -> Change:
    return Change(upserts={group: resources}, **more)  # type: ignore[arg-type]


def unknown(_: object) -> tuple[Problem, ...]:
    return (Problem(what="names a group that is not there"),)


EDITS: dict[str, list[Edit]] = {
    "groups are made": [PutGroup(f"g{number}") for number in range(50)],
    "groups are removed": [DeleteGroup(f"old{number}") for number in range(50)],
    "groups are made to extend another": [PutGroup(f"old{number}", "base") for number in range(50)],
    "external names are added": [
        UpdateRules(explain=unknown, add_external=(f"clusters/e{number}",)) for number in range(50)
    ],
    "what rules say of one group each": [
        UpdateRules(explain=unknown, names=(f"old{number}",), extends={f"old{number}": "base"}) for number in range(50)
    ],
}


def facts(table: GroupTable) -> set[object]:
    """Return the content of a table as facts, each of which an edit adds or removes."""
    return {*table.names, *table.extends.items(), *table.external, *table.rules}


@pytest.mark.parametrize("edits", EDITS.values(), ids=EDITS)
async def test_of_fifty_edits_at_once_none_is_lost(replica, log: Log, edits: list[Edit]) -> None:
    one, two = await replica(Behind(log)), await replica(Behind(log))
    made = [one.publisher.publish(Change(edit=PutGroup(f"old{number}"))) for number in range(50)]
    await asyncio.gather(*made, one.publisher.publish(Change(edit=PutGroup("base"))))
    alone = Catalog()
    alone.apply(one.catalog.export(), revision=51)
    for number, edit in enumerate(edits):
        alone.apply(Changeset(groups=edit.on(alone).table, replace=True), revision=52 + number)
    answers = await asyncio.gather(
        *((one, two)[number % 2].publisher.publish(Change(edit=edit)) for number, edit in enumerate(edits))
    )
    await asyncio.gather(one.publisher.served_at(101), two.publisher.served_at(101))
    assert sorted(each.revision for each in answers) == list(range(52, 102))
    assert facts(one.catalog.table) == facts(two.catalog.table) == facts(alone.table)


async def test_rules_and_groups_that_are_changed_at_once_are_both_kept(replica) -> None:
    one = await replica()
    rules = [PutRules(GroupTable(rules=(Rule(group="default", id=f"n{number}"),)), unknown) for number in range(10)]
    changes = [Change(edit=edit) for edit in (*rules, *(PutGroup(f"g{number}") for number in range(10)))]
    await asyncio.gather(*map(one.publisher.publish, changes))
    assert {f"g{number}" for number in range(10)} == set(one.catalog.table.names)
    assert len(one.catalog.table.rules) == 1


async def test_a_group_is_not_removed_once_another_change_needs_it(replica) -> None:
    for needing in (
        Change(edit=PutGroup("child", "base")),
        Change(edit=PutRules(GroupTable(rules=(Rule(group="base"),)), unknown)),
    ):
        for removed_first in (True, False):
            one = await replica()
            await one.publisher.publish(Change(edit=PutGroup("base")))
            pair = [needing, Change(edit=DeleteGroup("base"))]
            outcomes = await asyncio.gather(
                *map(one.publisher.publish, reversed(pair) if removed_first else pair), return_exceptions=True
            )
            assert not isinstance(outcomes[0], Exception)
            assert isinstance(outcomes[1], ChangesetRejectedError | UnknownGroupError)


async def test_a_change_that_looks_like_no_change_is_made_if_another_replica_has_changed_the_resource(
    replica, log: Log
) -> None:
    one, behind = await replica(Behind(log)), Behind(log)
    two = await replica(behind)
    await one.publisher.publish(setting(cluster("a", 1)))
    await two.publisher.served_at(1)
    behind.told.clear()
    await one.publisher.publish(setting(cluster("a", 2)))
    assert two.names() == {"a": cluster("a", 1).version}, "it does not know of it yet"
    made = await two.publisher.publish(setting(cluster("a", 1)))
    assert (made.revision, [key.name for key in made.changed]) == (3, ["a"])
    await one.publisher.served_at(3)
    assert one.names() == two.names() == {"a": cluster("a", 1).version}


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (Change(edit=PutGroup("base")), Change(edit=PutGroup("child", "base"))),
        (Change(edit=PutGroup("web")), Change(edit=DeleteGroup("web"))),
        (Change(edit=PutGroup("web")), Change(removals={"web": ((CLUSTER, "a"),)})),
        (setting(cluster("c")), setting(ingest(r.route("route", "c")))),
        (setting(cluster("c")), setting(cluster("d"), expected_revision=1)),
        (Change(edit=PutGroup("g")), Change(edit=PutRules(GroupTable(rules=(Rule(group="g"),)), unknown))),
        (Change(edit=PutGroup("g")), Change(edit=UpdateRules(explain=unknown, rules=(Rule(group="g"),)))),
    ],
    ids=["base", "removed", "emptied", "referred to", "expected", "ruled", "ruled in part"],
)
async def test_a_change_that_a_replica_would_refuse_is_made_if_another_has_made_it_valid(
    replica, log: Log, before: Change, change: Change
) -> None:
    one, behind = await replica(Behind(log)), Behind(log)
    two = await replica(behind)
    behind.told.clear()
    await one.publisher.publish(before)
    assert (await two.publisher.publish(change)).revision in (1, 2)


async def test_what_is_refused_is_refused_on_the_newest_state_and_says_where_that_is(replica, log: Log) -> None:
    one, behind = await replica(Behind(log)), Behind(log)
    two = await replica(behind)
    behind.told.clear()
    await one.publisher.publish(setting(cluster("a")))
    with pytest.raises(ConflictError) as refused:
        await two.publisher.publish(setting(cluster("b"), expected_revision=0))
    assert refused.value.revision == 1


async def test_a_dry_run_is_tried_on_the_newest_state(replica, log: Log) -> None:
    one, behind = await replica(Behind(log)), Behind(log)
    two = await replica(behind)
    behind.told.clear()
    await one.publisher.publish(setting(cluster("a")))
    tried = await two.publisher.publish(setting(cluster("a"), dry_run=True))
    assert (tried.revision, tried.changed) == (1, ())


async def test_no_change_is_rejected_while_the_store_can_not_report_its_newest_revision(replica, monkeypatch) -> None:
    one = await replica()
    await one.publisher.publish(setting(cluster("a")))

    async def away() -> int:
        raise UnavailableError("etcd does not answer")

    monkeypatch.setattr(one.publisher.store, "newest", away)
    for change in (setting(cluster("a")), Change(edit=DeleteGroup("none")), setting(cluster("a"), expected_revision=9)):
        with pytest.raises(UnavailableError, match="etcd does not answer"):
            await one.publisher.publish(change)


async def test_unchanged_files_are_served_while_the_store_is_away(replica, monkeypatch) -> None:
    one = await replica()
    directory = Changeset(upserts={"default": (cluster("a"),)}, replace=True)
    await one.publisher.publish(change_of_directory(directory))

    async def away() -> int:
        raise UnavailableError("etcd does not answer")

    monkeypatch.setattr(one.publisher.store, "newest", away)
    assert (await one.publisher.publish(change_of_directory(directory))).revision == 1


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (UnavailableError("disk full"), UnavailableError),
        (OutcomeUnknownError("x", "power went"), UnavailableError),
    ],
    ids=["refused", "unknown"],
)
async def test_an_outcome_based_on_an_entry_that_is_not_committed_is_not_acknowledged(
    replica, log: Log, error: Exception, answer: type[Exception]
) -> None:
    """Two changes set the same at once: the first makes an entry, the second changes nothing. Neither is committed."""
    one = await replica(Behind(log))
    await one.publisher.publish(setting(cluster("a")))
    log.before_append = [error]
    changes = [setting(cluster("b")), setting(cluster("b")), Change(removals={"default": ((CLUSTER, "b"),)})]
    outcomes = await asyncio.gather(*map(one.publisher.publish, changes[:2]), return_exceptions=True)
    assert isinstance(outcomes[0], type(error))
    assert isinstance(outcomes[1], answer)
    assert one.names().keys() == {"a"}


async def test_an_outcome_based_on_an_entry_is_answered_once_the_entry_is_served(replica, log: Log) -> None:
    store = Behind(log)
    one = await replica(store)
    store.told.clear()
    answers = [await one.publisher.submit(setting(cluster("a"))) for _ in range(2)]
    await wait_until(log.kept.newest, equals=1, poll_s=0)
    assert not any(answer.done() for answer in answers)
    assert [(await answer).revision for answer in answers] == [1, 1]
    assert one.names().keys() == {"a"}
    assert store.asked == 0, "the store's own answer said that this was the newest state"


async def test_a_batch_that_another_writer_overtakes_is_planned_again(replica, log: Log) -> None:
    """A change is refused in the same batch as an entry that conflicts: the refusal may be wrong on the new state."""
    one, behind = await replica(Behind(log)), Behind(log)
    two = await replica(behind)
    behind.told.clear()
    await one.publisher.publish(Change(edit=PutGroup("base")))
    made = await asyncio.gather(
        two.publisher.publish(setting(cluster("b"))), two.publisher.publish(Change(edit=PutGroup("child", "base")))
    )
    assert [each.revision for each in made] == [2, 3]


async def test_after_a_fault_changes_are_planned_on_entries_that_are_committed_and_not_served_yet(
    replica, log: Log, monkeypatch
) -> None:
    """The head is then rebuilt from the served catalog, and must receive the entries that the watch delivers."""
    store = Behind(log)
    one = await replica(store)
    store.told.clear()
    store.tells_once_asked = False
    first = await one.publisher.submit(setting(cluster("a")))
    await wait_until(log.kept.newest, equals=1, poll_s=0)
    monkeypatch.setattr(one.publisher, "_plan_all", lambda batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await one.publisher.publish(setting(cluster("b")))
    monkeypatch.undo()
    assert not first.done()
    store.told.set()
    assert (await first).revision == 1
    async with asyncio.timeout(2):
        assert (await one.publisher.publish(setting(cluster("a", 2)))).revision == 2


async def test_an_entry_of_another_writer_with_the_same_id_is_served_as_stored(replica, log: Log) -> None:
    """The plan's state was overtaken: the plan has resources that the stored entry lacks."""
    one, slow = await replica(Behind(log)), Behind(log)
    two = await replica(slow)
    group = Change(edit=PutGroup("g"), id="x")

    async def overtake() -> None:
        await one.publisher.publish(setting(cluster("b")))
        assert (await one.publisher.publish(group)).revision == 2
        await two.publisher.served_at(2)
        assert two.names() == one.names()

    slow.before_append = overtake
    made = await asyncio.gather(two.publisher.publish(setting(cluster("a"))), two.publisher.publish(group))
    assert [(each.revision, each.again) for each in made] == [(3, False), (2, True)]
    await one.publisher.served_at(3)
    assert one.names() == two.names() == {"a": cluster("a").version, "b": cluster("b").version}


async def test_of_two_changes_with_one_id_at_two_replicas_the_second_is_refused(replica, log: Log) -> None:
    """Each replica planned its own change at the same revision before it saw the other's."""
    one, slow = await replica(Behind(log)), Behind(log)
    two = await replica(slow)

    async def overtake() -> None:
        await one.publisher.publish(setting(cluster("a", 1), id="x"))
        await two.publisher.served_at(1)

    slow.before_append = overtake
    with pytest.raises(IdReusedError):
        await two.publisher.publish(setting(cluster("a", 2), id="x"))
    assert one.names() == two.names() == {"a": cluster("a", 1).version}
    assert (await two.publisher.publish(setting(cluster("a", 2)))).revision == 2


async def test_a_directory_also_manages_which_groups_its_groups_extend(replica) -> None:
    one = await replica()
    table = GroupTable(extends={"canary": "default"})
    groups = {"default": (cluster("a"),), "canary": (cluster("b"),)}
    await one.publisher.publish(change_of_directory(Changeset(upserts=groups, groups=table, replace=True)))
    for edit in (
        PutGroup("canary"),
        DeleteGroup("canary"),
        PutRules(GroupTable(names=("canary",)), unknown),
        UpdateRules(explain=unknown, names=("canary",)),
    ):
        with pytest.raises((KeptElsewhereError, ChangesetRejectedError)):
            await one.publisher.publish(Change(edit=edit, author="directory"))
    await one.publisher.publish(Change(edit=PutRules(GroupTable(rules=(Rule(group="canary"),)), unknown)))
    assert one.catalog.table.extends == {"canary": "default"}, "what is not named stays"
    assert one.catalog.table.kept == ("canary", "default")


def test_equal_edits_have_equal_content() -> None:
    same = [(PutRules(GroupTable(), unknown), PutRules(GroupTable(), lambda _: ())), (PutGroup("a"), PutGroup("a"))]
    for one, other in same:
        assert one.content == other.content
    different = [
        PutGroup("a"),
        PutGroup("a", "b"),
        DeleteGroup("a"),
        PutRules(GroupTable(), unknown),
        PutRules(GroupTable(external=("clusters/a",)), unknown),
        UpdateRules(explain=unknown),
        UpdateRules(explain=unknown, rules=()),
        UpdateRules(explain=unknown, external=()),
        UpdateRules(explain=unknown, deny_unmatched=False),
        UpdateRules(explain=unknown, add_external=("clusters/a",)),
        UpdateRules(explain=unknown, external=("clusters/a",)),
    ]
    assert len({edit.content for edit in different}) == len(different)
