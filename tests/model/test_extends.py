"""A group that extends another inherits its resources; a change costs no more than the resources that changed."""

from model.build import CLUSTER, ENDPOINTS, catalog, clusters_changed, problems_of, removals, resource, served, upserts

from xds.model.catalog import Catalog
from xds.model.changeset import AppliedChangeset, Changeset
from xds.model.groups import GroupTable
from xds.model.view import may_differ

CHAIN = GroupTable(extends={"canary": "prod", "prod": "base"})


def chain() -> Catalog:
    """Return base {a, b}, prod (extends base) {b, c}, canary (extends prod) {c, d}, and default {z}."""
    return catalog(
        {
            "base": [resource("a", "base"), resource("b", "base")],
            "prod": [resource("b", "prod"), resource("c", "prod")],
            "canary": [resource("c", "canary"), resource("d", "canary")],
            "default": [resource("z")],
        },
        table=CHAIN,
    )


def test_the_nearest_group_wins() -> None:
    now = chain()
    assert served(now, "base") == {"a": "base", "b": "base"}
    assert served(now, "prod") == {"a": "base", "b": "prod", "c": "prod"}
    assert served(now, "canary") == {"a": "base", "b": "prod", "c": "canary", "d": "canary"}
    assert served(now, "default") == {"z": "1"}


def test_a_change_of_the_base_reaches_all_that_extend_it() -> None:
    now = chain()
    applied = now.apply(upserts(resource("a", "new"), resource("e"), group="base"))
    assert clusters_changed(applied) == {group: {"a", "e"} for group in ("base", "prod", "canary")}
    assert served(now, "canary")["a"] == "new"


def test_what_is_hidden_by_a_nearer_group_is_no_change_there() -> None:
    now = chain()
    assert clusters_changed(now.apply(upserts(resource("b", "new"), group="base"))) == {"base": {"b"}}
    assert served(now, "prod")["b"] == "prod"


def test_a_removal_in_an_overlay_brings_back_what_it_hid() -> None:
    now = chain()
    assert clusters_changed(now.apply(removals("b", group="prod"))) == {group: {"b"} for group in ("prod", "canary")}
    assert served(now, "canary")["b"] == "base"


def test_hiding_with_equal_content_is_a_revision_that_changes_nothing_for_nodes() -> None:
    now = chain()
    assert now.apply(upserts(resource("a", "base"), group="canary")) == AppliedChangeset(revision=2, changed={})
    assert clusters_changed(now.apply(upserts(resource("a", "new"), group="base"))) == {
        "base": {"a"},
        "prod": {"a"},
    }


def test_an_alias_that_an_overlay_hides_changes_there() -> None:
    now = catalog({"base": [resource("a", aliases=["x"])], "child": []}, table=GroupTable(extends={"child": "base"}))
    assert clusters_changed(now.apply(upserts(resource("a"), group="child"))) == {"child": {"a", "x"}}


def test_another_base_changes_what_differs_between_the_two() -> None:
    now = chain()
    applied = now.apply(Changeset(groups=GroupTable(extends={"canary": "base", "prod": "base"})))
    assert applied == AppliedChangeset(revision=2, changed={"canary": {CLUSTER: frozenset({"b"})}}, regrouped=True)
    assert served(now, "canary") == {"a": "base", "b": "base", "c": "canary", "d": "canary"}


def test_extending_no_more_leaves_a_group_with_its_own() -> None:
    now = chain()
    applied = now.apply(Changeset(groups=GroupTable()))
    assert clusters_changed(applied) == {"prod": {"a"}, "canary": {"a", "b"}}
    assert served(now, "canary") == {"c": "canary", "d": "canary"}


def test_a_type_that_only_the_base_had_goes_with_the_base() -> None:
    now = catalog({"base": [resource("a", type_url=ENDPOINTS)]}, table=GroupTable(extends={"child": "base"}))
    applied = now.apply(Changeset(groups=GroupTable()))
    assert applied.changed == {"child": {ENDPOINTS: frozenset("a")}}
    view = now.snapshots["child"].view(ENDPOINTS)
    assert (len(view), view.fingerprint) == (0, 0)


def test_a_base_that_loses_its_files_leaves_what_extends_it_with_its_own() -> None:
    now = chain()
    kept = {"canary": (resource("c", "canary"),)}
    applied = now.apply(Changeset(upserts=kept, replace=True))
    assert clusters_changed(applied) == {
        "default": {"z"},
        "base": {"a", "b"},
        "prod": {"a", "b", "c"},
        "canary": {"a", "b", "d"},
    }
    assert not applied.regrouped
    assert served(now, "canary") == {"c": "canary"}


def test_a_base_vanishes_with_the_rules_that_named_it() -> None:
    now = chain()
    kept = {"canary": (resource("c", "canary"),), "default": (resource("z"),)}
    applied = now.apply(Changeset(upserts=kept, groups=GroupTable(), replace=True))
    assert (clusters_changed(applied), applied.regrouped) == ({"canary": {"a", "b", "d"}}, True)
    assert set(now.snapshots) == {"canary", "default"}


def test_default_can_extend_and_be_extended() -> None:
    table = GroupTable(extends={"default": "base", "child": "default"})
    now = catalog({"base": [resource("a")], "default": [resource("b")], "child": [resource("c")]}, table=table)
    assert served(now, "default") == {"a": "1", "b": "1"}
    assert served(now, "child") == {"a": "1", "b": "1", "c": "1"}


def test_a_circle_is_rejected_and_what_was_served_stays() -> None:
    now = chain()
    circle = Changeset(groups=GroupTable(extends={"canary": "prod", "prod": "base", "base": "canary"}))
    assert [problem.what for problem in problems_of(now, circle)] == [
        "group base extends itself: base → canary → prod → base"
    ]
    assert served(now, "canary") == {"a": "base", "b": "prod", "c": "canary", "d": "canary"}


def test_what_may_differ_for_a_descendant_is_what_changed_and_no_more() -> None:
    now = chain()
    before = now.snapshots["canary"].view(CLUSTER)
    now.apply(upserts(resource("a", "new"), group="base"))
    now.apply(upserts(resource("d", "new"), group="canary"))
    assert sorted(may_differ(before, now.snapshots["canary"].view(CLUSTER))) == ["a", "d"]
