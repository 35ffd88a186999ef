"""A catalog applies each changeset as a whole or not at all, and returns exactly what it changed."""

import pytest
from model.build import (
    CLUSTER,
    ENDPOINTS,
    catalog,
    clusters_changed,
    content_of,
    problems_of,
    removals,
    resource,
    served,
    upserts,
)

from xds.model.catalog import Catalog
from xds.model.changeset import AppliedChangeset, Changeset
from xds.model.groups import DEFAULT_GROUP, GroupTable, Node, Rule
from xds.model.problem import ChangesetRejectedError, Problem


def test_a_new_catalog_has_the_default_group_with_nothing_in_it() -> None:
    new = Catalog()
    assert new.revision == 0
    assert new.table == GroupTable()
    assert list(new.snapshots) == [DEFAULT_GROUP]
    assert content_of(new.snapshots[DEFAULT_GROUP]) == {}


def test_a_change_makes_one_revision_and_returns_the_names_it_changed() -> None:
    new = Catalog()
    web = resource("web", type_url=ENDPOINTS)
    applied = new.apply(upserts(resource("a"), resource("b"), web))
    changed = {DEFAULT_GROUP: {CLUSTER: frozenset("ab"), ENDPOINTS: frozenset({"web"})}}
    assert applied == AppliedChangeset(revision=1, changed=changed)
    assert new.revision == 1
    assert new.snapshots[DEFAULT_GROUP].revision == 1
    assert served(new) == {"a": "1", "b": "1"}
    assert new.snapshots[DEFAULT_GROUP].view(ENDPOINTS).get("web") is web


def test_upserts_and_removals_take_effect_together() -> None:
    served_now = catalog({"default": [resource("a"), resource("b"), resource("c")]})
    change = Changeset(
        upserts={"default": (resource("b", "2"), resource("d"))}, removals={"default": ((CLUSTER, "a"),)}
    )
    assert clusters_changed(served_now.apply(change)) == {"default": {"a", "b", "d"}}
    assert served(served_now) == {"b": "2", "c": "1", "d": "1"}


@pytest.mark.parametrize(
    "nothing",
    [
        Changeset(),
        upserts(resource("a")),
        removals("not-there"),
        removals("a", type_url=ENDPOINTS),
        Changeset(upserts={"default": (resource("a"),)}, replace=True),
        Changeset(groups=GroupTable()),
    ],
)
def test_a_change_to_the_current_state_makes_no_revision(nothing: Changeset) -> None:
    served_now = catalog({"default": [resource("a")]})
    before = served_now.snapshots["default"]
    assert served_now.apply(nothing) == AppliedChangeset(revision=1, changed={})
    assert served_now.revision == 1
    assert served_now.snapshots["default"] is before


def test_of_equal_content_the_resource_that_is_served_stays() -> None:
    first = resource("a")
    served_now = catalog({"default": [first]})
    served_now.apply(upserts(resource("a"), resource("b")))
    assert served_now.snapshots["default"].view(CLUSTER).get("a") is first


def test_an_upsert_wins_over_a_removal_in_the_same_changeset() -> None:
    served_now = catalog({"default": [resource("a")]})
    served_now.apply(Changeset(upserts={"default": (resource("a", "2"),)}, removals={"default": ((CLUSTER, "a"),)}))
    assert served(served_now) == {"a": "2"}


def test_a_snapshot_that_a_stream_holds_never_changes() -> None:
    served_now = catalog({"default": [resource("a")]})
    held = served_now.snapshots["default"]
    served_now.apply(upserts(resource("a", "2"), resource("b")))
    assert set(held.view(CLUSTER)) == {"a"}
    assert held.revision == 1


def test_other_types_keep_their_view_when_one_changes() -> None:
    served_now = catalog({"default": [resource("a"), resource("a", type_url=ENDPOINTS)]})
    before = served_now.snapshots["default"].view(CLUSTER)
    served_now.apply(upserts(resource("a", "2", type_url=ENDPOINTS)))
    assert served_now.snapshots["default"].view(CLUSTER) is before


def test_groups_do_not_see_each_other() -> None:
    served_now = catalog({"one": [resource("a")], "two": [resource("b")]})
    assert (served(served_now, "one"), served(served_now, "two")) == ({"a": "1"}, {"b": "1"})
    two = served_now.snapshots["two"]
    assert clusters_changed(served_now.apply(upserts(resource("a", "2"), group="one"))) == {"one": {"a"}}
    assert served_now.snapshots["two"] is two


def test_an_alias_changes_with_its_resource() -> None:
    served_now = catalog({"default": [resource("a", aliases=["x", "y"])]})
    assert clusters_changed(served_now.apply(upserts(resource("a", aliases=["y", "z"])))) == {"default": set("axyz")}
    assert clusters_changed(served_now.apply(removals("a"))) == {"default": set("ayz")}


def test_removing_from_an_unknown_group_makes_no_group() -> None:
    served_now = catalog({"default": [resource("a")]})
    assert served_now.apply(removals("a", group="typo")) == AppliedChangeset(revision=1, changed={})
    assert served_now.group_of(Node(id="n", cluster="typo")) == "default"


class TestReplace:
    def test_what_is_not_named_is_removed_everywhere(self) -> None:
        endpoints = resource("a", type_url=ENDPOINTS)
        served_now = catalog({"default": [resource("a"), resource("b"), endpoints], "one": [resource("c")]})
        applied = served_now.apply(upserts(resource("b"), resource("d"), replace=True))
        assert applied.changed == {"default": {CLUSTER: frozenset("ad"), ENDPOINTS: frozenset("a")}}
        assert served(served_now) == {"b": "1", "d": "1"}

    def test_groups_that_are_not_named_vanish_and_their_nodes_go_elsewhere(self) -> None:
        served_now = catalog({"default": [resource("a")], "one": [resource("c")]})
        node = Node(id="n", cluster="one")
        assert served_now.group_of(node) == "one"
        applied = served_now.apply(upserts(resource("a"), replace=True))
        assert applied == AppliedChangeset(revision=2, changed={}, regrouped=True)
        assert list(served_now.snapshots) == ["default"]
        assert served_now.group_of(node) == "default"

    def test_default_is_always_there(self) -> None:
        served_now = catalog({"default": [resource("a")], "one": [resource("c")]})
        served_now.apply(Changeset(upserts={"one": (resource("c"),)}, replace=True))
        assert served(served_now, "default") == {}

    def test_groups_that_the_rules_name_stay_without_resources(self) -> None:
        table = GroupTable(rules=(Rule(group="ruled"),), extends={"child": "base"})
        served_now = catalog({}, table=table)
        served_now.apply(Changeset(replace=True))
        assert set(served_now.snapshots) == {"default", "ruled", "child", "base"}

    def test_a_group_that_comes_back_starts_anew(self) -> None:
        served_now = catalog({"one": [resource("a"), resource("b")]})
        served_now.apply(Changeset(replace=True))
        applied = served_now.apply(upserts(resource("a"), group="one"))
        assert (applied.changed, applied.regrouped) == ({"one": {CLUSTER: frozenset("a")}}, True)
        assert served(served_now, "one") == {"a": "1"}


class TestRules:
    def test_a_new_group_regroups_the_nodes(self) -> None:
        served_now = catalog({"default": [resource("a")]})
        applied = served_now.apply(upserts(resource("b"), group="one"))
        assert applied == AppliedChangeset(revision=2, changed={"one": {CLUSTER: frozenset("b")}}, regrouped=True)
        assert not served_now.apply(upserts(resource("c"), group="one")).regrouped

    def test_rules_alone_make_a_revision(self) -> None:
        served_now = catalog({"default": [resource("a")]})
        table = GroupTable(deny_unmatched=True)
        assert served_now.apply(Changeset(groups=table)) == AppliedChangeset(revision=2, changed={}, regrouped=True)
        assert served_now.table is table
        assert (served_now.revision, served_now.snapshots["default"].revision) == (
            2,
            1,
        )  # no resource of the group changed

    def test_a_changeset_without_rules_leaves_them(self) -> None:
        table = GroupTable(rules=(Rule(group="one", id="x"),))
        served_now = catalog({}, table=table)
        served_now.apply(upserts(resource("a"), replace=True))
        assert served_now.table is table


class TestRejection:
    def test_a_changeset_with_a_duplicate_name_is_rejected_whole(self) -> None:
        served_now = catalog({"default": [resource("a")]})
        twice = upserts(
            resource("b", source="x.yaml:3"), resource("b", "2", source="dir/y.yaml:5"), resource("c"), group="one"
        )
        problem = Problem(
            what="is in the changeset twice, first at x.yaml:3",
            hint="remove or rename one of them",
            file="dir/y.yaml",
            line=5,
            group="one",
            resource="clusters/b",
        )
        assert problems_of(served_now, twice) == [problem]
        assert served(served_now) == {"a": "1"}

    @pytest.mark.parametrize("source", ["item 3", "odd:name"])
    def test_a_source_without_a_line_is_shown_as_it_is(self, source: str) -> None:
        (problem,) = problems_of(Catalog(), upserts(resource("a"), resource("a", source=source)))
        assert (problem.file, problem.line) == (source, 0)

    def test_every_duplicate_is_a_problem(self) -> None:
        groups = {"one": (resource("a"),) * 3, "two": (resource("b"),) * 2}
        problems = problems_of(Catalog(), Changeset(upserts=groups))
        assert [(each.group, each.resource) for each in problems] == [
            ("one", "clusters/a"),
            ("one", "clusters/a"),
            ("two", "clusters/b"),
        ]
        assert {each.what for each in problems} == {"is in the changeset twice"}

    def test_one_name_in_two_groups_or_two_types_is_no_duplicate(self) -> None:
        both = Changeset(upserts={"one": (resource("a"), resource("a", type_url=ENDPOINTS)), "two": (resource("a"),)})
        assert Catalog().apply(both).revision == 1

    def test_a_circle_of_groups_is_rejected_whole(self) -> None:
        served_now = catalog({"default": [resource("a")]})
        circle = upserts(resource("b"), groups=GroupTable(extends={"x": "y", "y": "x"}))
        problems = problems_of(served_now, circle)
        assert problems == [
            Problem(what="group x extends itself: x → y → x", hint="let one of them extend nothing"),
        ]

    def test_a_cycle_is_described_by_its_groups(self) -> None:
        table = GroupTable(extends={"child": "x", "x": "y", "y": "x"})
        assert [each.what for each in problems_of(Catalog(), Changeset(groups=table))] == [
            "group x extends itself: x → y → x"
        ]

    def test_the_next_changeset_is_applied_as_if_nothing_had_been(self) -> None:
        served_now = catalog({"default": [resource("a")]})
        with pytest.raises(ChangesetRejectedError):
            served_now.apply(upserts(resource("b"), resource("c", refers_to=[(ENDPOINTS, "none")]), group="one"))
        assert clusters_changed(served_now.apply(upserts(resource("b"), group="one"))) == {"one": {"b"}}
        assert served_now.revision == 2


def test_a_snapshot_iterates_over_all_resources_that_its_nodes_see() -> None:
    new = Catalog()
    assert list(new.snapshots[DEFAULT_GROUP].resources()) == []
    ours = [resource("a"), resource("b"), resource("web", type_url=ENDPOINTS)]
    new.apply(upserts(*ours))
    found = list(new.snapshots[DEFAULT_GROUP].resources())
    assert sorted(found, key=id) == sorted(ours, key=id)


def test_a_groups_own_resources_are_read_by_type() -> None:
    new = Catalog()
    new.apply(upserts(resource("a"), resource("b")))
    before = new.own_by_type(DEFAULT_GROUP)
    new.apply(removals("a"))
    assert {type_url: sorted(named) for type_url, named in before.items()} == {CLUSTER: ["a", "b"]}
    assert sorted(new.own_names(DEFAULT_GROUP, CLUSTER)) == ["b"]
    assert list(new.own_names(DEFAULT_GROUP, ENDPOINTS)) == []
