"""A directory as one of several authors: its groups, those of other authors, and groups that it no longer names."""

from pathlib import Path

import pytest
from support import resources as r

from xds.model.changeset import Changeset
from xds.model.groups import GroupTable, Rule
from xds.model.resource import Resource
from xds.publishing.changes import Change, KeptElsewhereError
from xds.publishing.edits import PutGroup, PutRules
from xds.publishing.whole import change_of_directory, is_newest_of, no_directory
from xds.schema.ingest import ingest
from xds.store.memory import MemoryStore


def cluster(name: str, port: int = 1) -> Resource:
    return ingest(r.static_cluster(name, port))


def read(groups: dict[str, list[Resource]], table: GroupTable | None = None) -> Changeset:
    upserts = {"default": (), **{group: tuple(resources) for group, resources in groups.items()}}
    return Changeset(upserts=upserts, groups=table or GroupTable(), replace=True)


async def publish(one, changeset: Changeset) -> int:
    return (await one.publisher.publish(change_of_directory(changeset))).revision


async def test_a_restart_with_the_same_files_makes_no_revision(replica) -> None:
    store = MemoryStore()
    directory = read({"default": [cluster("a")], "web": [cluster("b")]}, GroupTable(rules=(Rule(group="web"),)))
    one = await replica(store)
    assert await publish(one, directory) == 1
    two = await replica(store)
    assert await publish(two, directory) == 1
    assert (await store.state()).revision == 1


async def test_resources_that_the_directory_no_longer_has_are_removed_and_pushed_ones_stay(replica) -> None:
    one = await replica()
    await publish(one, read({"default": [cluster("a"), cluster("b")], "web": [cluster("w")]}))
    await one.publisher.publish(Change(upserts={"pushed": (cluster("p"),)}))
    await publish(one, read({"default": [cluster("b", 2)]}))
    assert one.catalog.snapshots.keys() == {"default", "pushed"}
    assert one.names() == {"b": cluster("b", 2).version}
    assert one.names("pushed") == {"p": cluster("p").version}


async def test_only_the_groups_that_the_directory_names_are_kept_by_it(replica) -> None:
    one = await replica()
    await publish(one, read({"web": [cluster("w")]}))
    with pytest.raises(KeptElsewhereError):
        await one.publisher.publish(Change(upserts={"web": (cluster("x"),)}))
    await one.publisher.publish(Change(upserts={"default": (cluster("x"),)}))
    await one.publisher.publish(Change(edit=PutRules(GroupTable(rules=(Rule(group="web"),)), lambda _: ())))
    await publish(one, read({"web": [cluster("w")]}, GroupTable(deny_unmatched=True)))
    with pytest.raises(KeptElsewhereError, match="rules"):
        await one.publisher.publish(Change(edit=PutRules(GroupTable(), lambda _: ())))


async def test_without_a_directory_any_client_may_change_its_former_groups(replica) -> None:
    one = await replica()
    await publish(one, read({"default": [cluster("a")]}, GroupTable(deny_unmatched=True)))
    await one.publisher.publish(no_directory())
    await one.publisher.publish(Change(upserts={"default": (cluster("b"),)}))
    assert one.names().keys() == {"a", "b"}
    assert one.catalog.table.deny_unmatched, "the rules stay as they were"


async def test_an_overlay_keeps_extending_what_it_did(replica) -> None:
    one = await replica()
    table = GroupTable(extends={"canary": "default"})
    await publish(one, read({"default": [cluster("a")], "canary": [cluster("b")]}, table))
    await one.publisher.publish(Change(edit=PutGroup("pushed"), upserts={"pushed": (cluster("p"),)}))
    await publish(one, read({"default": [cluster("a", 2)], "canary": [cluster("b")]}, table))
    view = one.catalog.snapshots["canary"].view(r.CLUSTER)
    assert {name: view.get(name).version for name in view} == {
        "a": cluster("a", 2).version,
        "b": cluster("b").version,
    }


async def test_the_newest_directory_of_a_store_is_known_by_its_path(replica, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("xds.publishing.whole.SUMMARIES_MAX", 2)
    monkeypatch.chdir(tmp_path)
    store = MemoryStore()
    one = await replica(store)
    here, there = Path("here"), tmp_path / "there"
    await one.publisher.publish(change_of_directory(read({"default": [cluster("a")]}), there))
    assert (await is_newest_of(store, there), await is_newest_of(store, here)) == (True, False)
    await one.publisher.publish(change_of_directory(read({"default": [cluster("b")]}), here))
    for number in range(5):
        await one.publisher.publish(Change(upserts={"pushed": (cluster("p", number + 1),)}))
    assert (await is_newest_of(store, there), await is_newest_of(store, here)) == (False, True)
    assert await is_newest_of(store, tmp_path / "here")
    await store.compact(await store.newest())
    assert await is_newest_of(store, there), "nothing is known of another"
