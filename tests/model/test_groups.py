"""Nodes belong to groups by the first rule that matches, or by their cluster if there are no rules."""

from collections.abc import Mapping
from typing import Any

import pytest

from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.groups import DEFAULT_GROUP, GroupTable, Locality, Node, Rule, lineage_of
from xds.model.rules import Rules

NODE = Node(
    id="canary-7",
    cluster="web",
    locality=Locality(region="eu", zone="eu-a", sub_zone="rack-1"),
    metadata={"stage": "beta", "labels": {"team": "shop", "deep": {"er": "x"}}, "dotted.key": "y"},
)
KNOWN = {DEFAULT_GROUP: (), "web": (), "db": ()}


def matches(rule: Rule, node: Node) -> bool:
    return Rules(GroupTable(rules=(rule,), deny_unmatched=True)).place(node, KNOWN).group is not None


def group_of(table: GroupTable, node: Node, known: Mapping[str, object]) -> str | None:
    return Rules(table).place(node, known).group


@pytest.mark.parametrize(
    "rule",
    [
        Rule(group="g"),
        Rule(group="g", id="canary-7"),
        Rule(group="g", id="canary-*"),
        Rule(group="g", id="canary-?"),
        Rule(group="g", id="canary-[0-9]"),
        Rule(group="g", id="[!x]*"),
        Rule(group="g", cluster="w?b"),
        Rule(group="g", region="eu"),
        Rule(group="g", zone="*-a"),
        Rule(group="g", sub_zone="rack-*"),
        Rule(group="g", id="c*", cluster="web", region="eu", zone="eu-a", sub_zone="rack-1"),
        Rule(group="g", metadata={"stage": "b*"}),
        Rule(group="g", metadata={"labels.team": "shop", "labels.deep.er": "x"}),
    ],
)
def test_a_rule_takes_a_node_when_all_that_it_says_matches(rule: Rule) -> None:
    assert matches(rule, NODE)


@pytest.mark.parametrize(
    "rule",
    [
        Rule(group="g", id="canary"),
        Rule(group="g", id="CANARY-*"),
        Rule(group="g", cluster="db"),
        Rule(group="g", region="us"),
        Rule(group="g", zone="eu-b"),
        Rule(group="g", sub_zone="rack-2"),
        Rule(group="g", id="canary-*", cluster="db"),
        Rule(group="g", metadata={"stage": "prod"}),
        Rule(group="g", metadata={"missing": "*"}),
        Rule(group="g", metadata={"labels.missing": "*"}),
        Rule(group="g", metadata={"stage.below.a.text": "*"}),
        Rule(group="g", metadata={"stage": "beta", "labels.team": "other"}),
    ],
)
def test_one_thing_that_does_not_match_is_enough_to_refuse(rule: Rule) -> None:
    assert not matches(rule, NODE)


def test_a_node_with_few_fields_matches_only_rules_on_those_fields() -> None:
    nobody = Node(id="")
    assert matches(Rule(group="g"), nobody)
    assert matches(Rule(group="g", region=""), nobody)
    assert not matches(Rule(group="g", region="?*"), nobody)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("prod", "prod"),
        (True, "true"),
        (False, "false"),
        (3.0, "3"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (7, "7"),
        (float("inf"), "inf"),
    ],
)
def test_metadata_is_matched_by_its_text_as_json_writes_it(value: Any, text: str) -> None:
    assert matches(Rule(group="g", metadata={"key": text}), Node(id="n", metadata={"key": value}))


@pytest.mark.parametrize("path", ["dotted.key", "labels.app.kubernetes.io/name"])
def test_metadata_keys_may_have_dots_of_their_own(path: str) -> None:
    metadata = {"dotted.key": "y", "labels": {"app.kubernetes.io/name": "y"}}
    assert matches(Rule(group="g", metadata={path: "y"}), Node(id="n", metadata=metadata))


def test_the_first_rule_that_matches_decides() -> None:
    table = GroupTable(rules=(Rule(group="canary", id="canary-*"), Rule(group="web", cluster="web")))
    assert group_of(table, NODE, KNOWN) == "canary"
    assert group_of(table, Node(id="stable-1", cluster="web"), KNOWN) == "web"


def test_with_rules_a_node_that_none_takes_belongs_to_default() -> None:
    table = GroupTable(rules=(Rule(group="canary", id="canary-*"),))
    assert group_of(table, Node(id="x", cluster="web"), KNOWN) == DEFAULT_GROUP


def test_without_rules_a_node_belongs_to_the_group_named_like_its_cluster_else_to_default() -> None:
    assert group_of(GroupTable(), NODE, KNOWN) == "web"
    assert group_of(GroupTable(), Node(id="n", cluster="elsewhere"), KNOWN) == DEFAULT_GROUP
    assert group_of(GroupTable(), Node(id="n"), KNOWN) == DEFAULT_GROUP


@pytest.mark.parametrize("rules", [(), (Rule(group="canary", id="canary-*"),)])
def test_deny_unmatched_leaves_a_node_that_nothing_takes_without_a_group(rules: tuple[Rule, ...]) -> None:
    table = GroupTable(rules=rules, deny_unmatched=True)
    assert group_of(table, Node(id="x", cluster="elsewhere"), KNOWN) is None
    assert group_of(table, Node(id="canary-1", cluster="web"), KNOWN) is not None


def test_a_lineage_runs_from_the_group_to_its_farthest_base() -> None:
    table = GroupTable(extends={"canary": "prod", "prod": "base"})
    assert lineage_of(table, "canary") == ("canary", "prod", "base")
    assert lineage_of(table, "base") == ("base",)
    assert lineage_of(table, "other") == ("other",)


@pytest.mark.parametrize(
    ("extends", "text"),
    [
        ({"a": "a"}, "group a extends itself: a → a"),
        ({"a": "b", "b": "c", "c": "a"}, "group a extends itself: a → b → c → a"),
    ],
)
def test_a_group_that_extends_itself_is_an_error_that_shows_the_circle(extends: dict[str, str], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        lineage_of(GroupTable(extends=extends), "a")


def test_the_catalog_goes_by_the_rules_in_force() -> None:
    catalog = Catalog()
    assert catalog.group_of(NODE) == DEFAULT_GROUP
    catalog.apply(Changeset(upserts={"web": ()}))
    assert catalog.group_of(NODE) == "web"
    table = GroupTable(rules=(Rule(group="new", id="canary-*"),), deny_unmatched=True)
    assert catalog.apply(Changeset(groups=table)).regrouped
    assert catalog.table is table
    assert catalog.group_of(NODE) == "new"
    assert catalog.group_of(Node(id="x", cluster="web")) is None
