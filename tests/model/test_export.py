"""A catalog that applies another catalog's export and effects is equal to it."""

import pickle

from hypothesis import given
from hypothesis import strategies as st
from model.build import CLUSTER, ENDPOINTS, catalog, content_of, removals, resource, served, upserts
from model.test_catalog_properties import changesets, tables

from xds.model.catalog import Catalog
from xds.model.changeset import AppliedChangeset, Changeset
from xds.model.groups import GroupTable, Node, Rule
from xds.model.problem import ChangesetRejectedError
from xds.model.types import ROUTE

NODES = [Node(id=name, cluster=cluster) for name in "mnx" for cluster in ("default", "a", "b", "c", "other")]


def same(one: Catalog, other: Catalog) -> None:
    """Assert that two catalogs have the same resources at the same revision, by every method that reads them."""
    assert (one.revision, one.table) == (other.revision, other.table)
    assert one.snapshots.keys() == other.snapshots.keys()
    assert [one.group_of(node) for node in NODES] == [other.group_of(node) for node in NODES]
    for group, snapshot in one.snapshots.items():
        assert content_of(snapshot) == content_of(other.snapshots[group])
        for type_url in (CLUSTER, ROUTE, ENDPOINTS):
            ours, theirs = snapshot.view(type_url), other.snapshots[group].view(type_url)
            assert (ours.fingerprint, ours.timed) == (theirs.fingerprint, theirs.timed)
            aliases = {alias for name in ours for found in [ours.get(name)] if found for alias in found.aliases}
            named = [[view.named_by(alias) for alias in sorted(aliases)] for view in (ours, theirs)]
            assert [each and each.version for each in named[0]] == [each and each.version for each in named[1]]


def follow(follower: Catalog, leader: Catalog, applied: AppliedChangeset) -> AppliedChangeset:
    """Apply to a catalog what another one has applied, pickled as between processes."""
    assert applied.effect is not None
    return follower.apply(pickle.loads(pickle.dumps(applied.effect)))


def applied_by(leader: Catalog, change: Changeset) -> AppliedChangeset | None:
    """Apply a changeset; return None if it is refused or makes no revision."""
    before = leader.revision
    try:
        applied = leader.apply(change)
    except ChangesetRejectedError:
        return None
    return applied if applied.revision != before else None


@given(st.lists(changesets(referring=False), max_size=6))
def test_an_export_makes_an_empty_catalog_the_same(history: list[Changeset]) -> None:
    leader = Catalog(check_references=False)
    for change in history:
        applied_by(leader, change)
        follower = Catalog(check_references=False)
        follower.resume(leader.export(), leader.revision)
        same(leader, follower)


@given(st.lists(changesets(referring=False), max_size=8), st.integers(0, 8))
def test_a_catalog_that_applies_each_effect_stays_equal(history: list[Changeset], late: int) -> None:
    """One follows from the first change on, another starts from an export later, as a new worker process does."""
    leader = Catalog(check_references=False)
    followers = [Catalog(check_references=False)]
    for number, change in enumerate(history):
        if number == late:
            followers.append(Catalog(check_references=False))
            followers[-1].resume(leader.export(), leader.revision)
        applied = applied_by(leader, change)
        for follower in followers if applied is not None else ():
            told = follow(follower, leader, applied)
            assert (told.revision, told.changed) == (applied.revision, applied.changed)
            assert told.regrouped == applied.regrouped
    for follower in followers:
        same(leader, follower)


@given(st.lists(changesets(referring=True), max_size=6))
def test_a_refused_change_has_no_effect_to_apply(history: list[Changeset]) -> None:
    leader, follower = Catalog(), Catalog(check_references=False)
    for change in history:
        applied = applied_by(leader, change)
        if applied is not None:
            follow(follower, leader, applied)
        same(leader, follower)


@given(tables, tables)
def test_the_effect_of_new_rules_has_no_resources(first: GroupTable, second: GroupTable) -> None:
    leader, follower = Catalog(check_references=False), Catalog(check_references=False)
    for table in (first, second):
        applied = applied_by(leader, Changeset(groups=table))
        if applied is not None:
            assert applied.effect is not None
            assert not any(applied.effect.upserts.values())
            follow(follower, leader, applied)
        same(leader, follower)


def test_the_effect_is_the_change_less_what_was_so() -> None:
    leader = catalog({"default": [resource("a"), resource("b"), resource("c")]})
    change = Changeset(
        upserts={"default": (resource("a"), resource("b", "2"), resource("d"))},
        removals={"default": ((CLUSTER, "c"), (CLUSTER, "never"))},
    )
    effect = leader.apply(change).effect
    assert effect is not None
    assert {group: [each.name for each in upserted] for group, upserted in effect.upserts.items()} == {
        "default": ["b", "d"]
    }
    assert effect.removals == {"default": ((CLUSTER, "c"),)}
    assert (effect.groups, effect.replace) == (None, False)


def test_the_effect_of_a_replacement_names_what_it_removes() -> None:
    leader = catalog({"default": [resource("a"), resource("b")]})
    effect = leader.apply(upserts(resource("a"), replace=True)).effect
    assert effect is not None
    assert (effect.upserts, effect.removals, effect.replace) == ({}, {"default": ((CLUSTER, "b"),)}, False)


def test_the_effect_costs_what_changed_and_not_what_there_is() -> None:
    leader = catalog({"default": [resource(f"r{number}") for number in range(1_000)]})
    everything = tuple(resource(f"r{number}", "2" if number == 7 else "1") for number in range(1_000))
    effect = leader.apply(Changeset(upserts={"default": everything}, replace=True)).effect
    assert effect is not None
    assert [each.name for each in effect.upserts["default"]] == ["r7"]


def test_the_effect_of_a_group_that_comes_or_goes_costs_what_changed() -> None:
    leader = catalog({"default": [resource(f"r{number}") for number in range(100)], "old": [resource("o")]})
    applied = leader.apply(Changeset(upserts={"blue": (resource("b"),), "empty": ()}, gone=("old",)))
    assert (applied.regrouped, leader.snapshots.keys()) == (True, {"default", "blue", "empty"})
    assert applied.effect is not None
    assert {group: [each.name for each in all_] for group, all_ in applied.effect.upserts.items()} == {
        "blue": ["b"],
        "empty": [],
    }
    assert (applied.effect.gone, applied.effect.groups, applied.effect.removals) == (("old",), None, {})


def test_no_change_has_no_effect() -> None:
    leader = catalog({"default": [resource("a")]})
    applied = leader.apply(upserts(resource("a")))
    assert (applied.revision, applied.changed, applied.regrouped, applied.effect) == (1, {}, False, None)


def test_a_change_that_no_node_sees_has_an_effect() -> None:
    """The group's own resource hides the base's from then on, although both are equal now."""
    leader = catalog({"default": [resource("a")], "blue": []}, table=GroupTable(extends={"blue": "default"}))
    follower = Catalog(check_references=False)
    follower.resume(leader.export(), leader.revision)
    for change in (upserts(resource("a"), group="blue"), upserts(resource("a", "2"))):
        applied = leader.apply(change)
        assert applied.effect is not None
        assert follow(follower, leader, applied).changed == applied.changed
        same(leader, follower)
    assert (served(follower), served(follower, "blue")) == ({"a": "2"}, {"a": "1"})


def test_a_resumed_catalog_goes_on_from_the_revision_of_the_other() -> None:
    leader = catalog(
        {"default": [resource("a")], "blue": [resource("b")]}, table=GroupTable(extends={"blue": "default"})
    )
    for number in range(5):
        leader.apply(upserts(resource("a", str(number + 2))))
    follower = Catalog(check_references=False)
    follower.resume(leader.export(), leader.revision)
    change = removals("a")
    assert follower.apply(change).revision == leader.apply(change).revision == 7
    assert served(follower, "blue") == served(leader, "blue") == {"b": "1"}


def test_an_empty_catalog_can_be_exported_too() -> None:
    follower = Catalog()
    follower.resume(Catalog().export(), 0)
    same(Catalog(), follower)


def test_an_export_over_another_state_leaves_nothing_of_that() -> None:
    leader = catalog({"default": [resource("a")]}, table=GroupTable(rules=(Rule(group="blue", id="m"),)))
    follower = catalog({"default": [resource("old")], "red": [resource("r")]})
    applied = follower.resume(leader.export(), 9)
    assert applied.changed["default"] == {CLUSTER: frozenset({"a", "old"})}
    assert (set(follower.snapshots), served(follower), follower.revision) == ({"default", "blue"}, {"a": "1"}, 9)
