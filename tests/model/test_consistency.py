"""Referenced resources must be served to the same nodes; a missing one is a problem with a place and a suggestion."""

from collections.abc import Iterable

import pytest
from model.build import catalog, problems_of, removals, resource, served, upserts

from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.consistency import NAMES_SEARCHED_MAX
from xds.model.groups import GroupTable
from xds.model.problem import Problem
from xds.model.resource import Resource
from xds.model.types import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION_CONFIG,
    FROM_BOOTSTRAP,
    LISTENER,
    ROUTE,
    SCOPED_ROUTE,
    SECRET,
    TYPE_PREFIX,
    short_name,
)

KINDS = [
    (CLUSTER, ENDPOINTS),
    (CLUSTER, SECRET),
    (CLUSTER, CLUSTER),
    (LISTENER, ROUTE),
    (LISTENER, CLUSTER),
    (LISTENER, SECRET),
    (LISTENER, EXTENSION_CONFIG),
    (SCOPED_ROUTE, ROUTE),
    (ROUTE, CLUSTER),
    (TYPE_PREFIX + "acme.Thing", TYPE_PREFIX + "acme.Other"),
]
ADD_IT = "add it, or list {} under external in groups.yaml if Envoys get it elsewhere"


def route(name: str, *clusters: str, source: str = "") -> Resource:
    refers_to = [(CLUSTER, cluster, f"routes[{index}].cluster") for index, cluster in enumerate(clusters)]
    return resource(name, type_url=ROUTE, refers_to=refers_to, source=source)


def found(problems: Iterable[Problem]) -> list[tuple[str, str, str]]:
    return sorted((each.group, each.resource, each.what.split()[2].rstrip(",")) for each in problems)


@pytest.mark.parametrize(("referrer", "target"), KINDS)
class TestEveryKind:
    def test_what_is_there_is_fine(self, referrer: str, target: str) -> None:
        refers = resource("one", type_url=referrer, refers_to=[(target, "two")])
        assert Catalog().apply(upserts(refers, resource("two", type_url=target))).revision == 1

    def test_what_is_missing_is_a_problem(self, referrer: str, target: str) -> None:
        refers = resource("one", type_url=referrer, refers_to=[(target, "two", "a.field")])
        word = f"{short_name(target)}/two"
        assert problems_of(Catalog(), upserts(refers)) == [
            Problem(
                what=f"refers to {word}, which does not exist in group default",
                hint=ADD_IT.format(word),
                group="default",
                resource=f"{short_name(referrer)}/one",
                field="a.field",
            )
        ]

    def test_what_is_referred_to_can_not_be_removed(self, referrer: str, target: str) -> None:
        refers = resource("one", type_url=referrer, refers_to=[(target, "two")])
        now = catalog({"default": [refers, resource("two", type_url=target)]})
        word = f"{short_name(target)}/two"
        assert found(problems_of(now, removals("two", type_url=target))) == [
            ("default", f"{short_name(referrer)}/one", word)
        ]

    def test_both_can_be_removed_together_and_the_referrer_alone(self, referrer: str, target: str) -> None:
        refers = resource("one", type_url=referrer, refers_to=[(target, "two")])
        now = catalog({"default": [refers, resource("two", type_url=target)]})
        both = Changeset(removals={"default": ((target, "two"), (referrer, "one"))})
        assert now.apply(both).revision == 2
        now = catalog({"default": [refers, resource("two", type_url=target)]})
        assert now.apply(removals("one", type_url=referrer)).revision == 2
        assert now.apply(removals("two", type_url=target)).revision == 3


def test_every_missing_target_of_every_referrer_is_a_problem() -> None:
    problems = problems_of(Catalog(), upserts(route("r", "a", "b"), route("s", "b", "c"), resource("c")))
    assert found(problems) == [
        ("default", "routes/r", "clusters/a"),
        ("default", "routes/r", "clusters/b"),
        ("default", "routes/s", "clusters/b"),
    ]


def test_every_referrer_of_a_removed_resource_is_a_problem() -> None:
    now = catalog({"default": [route("r", "a"), route("s", "a", "b"), resource("a"), resource("b")]})
    assert found(problems_of(now, removals("a", "b"))) == [
        ("default", "routes/r", "clusters/a"),
        ("default", "routes/s", "clusters/a"),
        ("default", "routes/s", "clusters/b"),
    ]


def test_a_resource_that_no_longer_refers_to_another_does_not_prevent_its_removal() -> None:
    now = catalog({"default": [route("r", "a"), route("s", "a"), resource("a"), resource("b")]})
    now.apply(upserts(route("r", "b")))
    assert found(problems_of(now, removals("a"))) == [("default", "routes/s", "clusters/a")]
    now.apply(upserts(route("s", "b")))
    assert now.apply(removals("a")).revision == 4


def test_a_reference_can_be_changed_and_its_old_target_removed_in_one_change() -> None:
    now = catalog({"default": [route("r", "a"), resource("a")]})
    turned = Changeset(upserts={"default": (route("r", "b"), resource("b"))}, removals={"default": ((CLUSTER, "a"),)})
    assert now.apply(turned).revision == 2
    assert served(now) == {"b": "1"}


def test_a_resource_may_refer_to_one_target_in_two_fields() -> None:
    now = catalog({"default": [route("r", "a", "a"), resource("a")]})
    assert now.apply(removals("r", type_url=ROUTE)).revision == 2
    assert now.apply(removals("a")).revision == 3


class TestAcrossGroups:
    TABLE = GroupTable(extends={"child": "base", "grandchild": "child"})

    def groups(self, **groups: list[Resource]) -> Catalog:
        return catalog(groups, table=self.TABLE)

    def test_an_overlay_refers_to_what_the_base_has(self) -> None:
        now = self.groups(base=[resource("a")], grandchild=[route("r", "a")])
        assert found(problems_of(now, removals("a", group="base"))) == [("grandchild", "routes/r", "clusters/a")]

    def test_a_base_can_not_refer_to_what_only_an_overlay_has(self) -> None:
        change = Changeset(upserts={"base": (route("r", "a"),), "child": (resource("a"),)}, groups=self.TABLE)
        assert found(problems_of(Catalog(), change)) == [("base", "routes/r", "clusters/a")]

    def test_groups_beside_each_other_do_not_help_each_other(self) -> None:
        change = Changeset(upserts={"one": (route("r", "a"),), "two": (resource("a"),)})
        assert found(problems_of(Catalog(), change)) == [("one", "routes/r", "clusters/a")]

    def test_a_base_s_referrer_is_a_problem_in_each_group_that_inherits_it(self) -> None:
        now = self.groups(base=[route("r", "a"), resource("a")])
        assert found(problems_of(now, removals("a", group="base"))) == [
            (group, "routes/r", "clusters/a") for group in ("base", "child", "grandchild")
        ]

    def test_a_target_that_a_nearer_group_has_too_can_go_from_the_base(self) -> None:
        now = self.groups(base=[resource("a")], child=[resource("a", "2"), route("r", "a")])
        assert now.apply(removals("a", group="base")).revision == 2
        assert served(now, "child") == {"a": "2"}

    def test_a_target_that_the_base_has_too_can_go_from_the_overlay(self) -> None:
        now = self.groups(base=[resource("a")], child=[resource("a", "2"), route("r", "a")])
        assert now.apply(removals("a", group="child")).revision == 2
        assert served(now, "child") == {"a": "1"}

    def test_a_hidden_referrer_does_not_prevent_a_removal(self) -> None:
        now = self.groups(base=[resource("x")], child=[route("r", "b"), resource("b")])
        now.apply(upserts(route("r", "x"), group="base"))
        both = {"child": (route("r", "b"),), "grandchild": (resource("c"),)}
        now.apply(Changeset(upserts=both))
        assert found(problems_of(now, removals("x", group="base"))) == [("base", "routes/r", "clusters/x")]

    def test_what_an_overlay_hid_is_checked_when_it_comes_back(self) -> None:
        table = GroupTable(extends={"child": "base"}, external=())
        now = catalog(
            {"base": [route("r", "a"), resource("a")], "child": [route("r", "b"), resource("b")]}, table=table
        )
        change = Changeset(removals={"child": ((ROUTE, "r"), (CLUSTER, "b"))})
        assert now.apply(change).revision == 2

    def test_another_base_is_checked_whole(self) -> None:
        now = self.groups(base=[resource("a")], child=[route("r", "a")])
        change = Changeset(groups=GroupTable(extends={"grandchild": "child"}))
        assert found(problems_of(now, change)) == [
            ("child", "routes/r", "clusters/a"),
            ("grandchild", "routes/r", "clusters/a"),
        ]
        assert served(now, "child") == {"a": "1"}

    def test_a_removed_group_does_not_prevent_removals(self) -> None:
        now = catalog({"one": [route("r", "a"), resource("a")], "default": [resource("a")]})
        assert now.apply(Changeset(replace=True)).revision == 2

    def test_rules_alone_are_checked_no_further_than_they_reach(self) -> None:
        now = self.groups(base=[resource("a")], child=[route("r", "a")])
        table = GroupTable(extends=self.TABLE.extends, deny_unmatched=True)
        assert now.apply(Changeset(groups=table)).regrouped


class TestExternal:
    @pytest.mark.parametrize("pattern", ["clusters/local", "clusters/*", "*/local", "clusters/l[a-p]cal", "*"])
    def test_what_envoys_get_elsewhere_is_never_missing(self, pattern: str) -> None:
        table = GroupTable(external=("secrets/*", pattern))
        assert catalog({"default": [route("r", "local")]}, table=table).revision == 1

    @pytest.mark.parametrize("pattern", ["clusters/other", "routes/local", "local", "Clusters/local"])
    def test_other_patterns_do_not_help(self, pattern: str) -> None:
        change = upserts(route("r", "local"), groups=GroupTable(external=(pattern,)))
        assert found(problems_of(Catalog(), change)) == [("default", "routes/r", "clusters/local")]

    def test_a_type_without_a_word_is_matched_by_its_message_name(self) -> None:
        thing = resource("r", type_url=ROUTE, refers_to=[(TYPE_PREFIX + "acme.Thing", "t")])
        assert catalog({"default": [thing]}, table=GroupTable(external=("acme.Thing/t",))).revision == 1

    def test_what_is_external_no_more_must_be_there(self) -> None:
        now = catalog({"default": [route("r", "local")]}, table=GroupTable(external=("clusters/*",)))
        assert found(problems_of(now, Changeset(groups=GroupTable()))) == [("default", "routes/r", "clusters/local")]

    def test_external_targets_can_be_served_and_removed(self) -> None:
        now = catalog({"default": [route("r", "local"), resource("local")]}, table=GroupTable(external=("clusters/*",)))
        assert now.apply(removals("local")).revision == 2


class TestText:
    def hint(self, missing: str, *names: str) -> str:
        (problem,) = problems_of(Catalog(), upserts(route("r", missing), *(resource(name) for name in names)))
        return problem.hint

    def test_the_closest_name_is_suggested(self) -> None:
        assert self.hint("web-backend", "web-backends", "web-back", "other") == "did you mean web-backends?"

    def test_without_a_close_one_it_says_what_to_do(self) -> None:
        assert self.hint("web-backend", "x", "y") == ADD_IT.format("clusters/web-backend")

    def test_only_names_of_the_same_type_are_suggested(self) -> None:
        near = resource("web-backends", type_url=ENDPOINTS)
        (problem,) = problems_of(Catalog(), upserts(route("r", "web-backend"), near))
        assert problem.hint == ADD_IT.format("clusters/web-backend")

    def test_with_very_many_names_none_is_suggested(self) -> None:
        names = [f"web-{number:06}" for number in range(NAMES_SEARCHED_MAX + 1)]
        assert self.hint("web-0", *names) == ADD_IT.format("clusters/web-0")
        assert self.hint("web-0000001", *names[1:]) == "did you mean web-000001?"

    @pytest.mark.parametrize(
        ("source", "file", "line"),
        [
            ("dir/routes.yaml:12", "dir/routes.yaml", 12),
            ("a:b/routes.yaml:12", "a:b/routes.yaml", 12),
            ("item 3", "item 3", 0),
            ("odd:name", "odd:name", 0),
            ("", "", 0),
        ],
    )
    def test_the_place_is_where_the_referrer_was_written(self, source: str, file: str, line: int) -> None:
        (problem,) = problems_of(Catalog(), upserts(route("r", "a", source=source)))
        assert (problem.file, problem.line, problem.field) == (file, line, "routes[0].cluster")

    def test_the_place_follows_a_resource_that_moved_within_its_file(self) -> None:
        now = catalog({"default": [route("r", "a", source="routes.yaml:3"), resource("a")]})
        now.apply(upserts(route("r", "a", source="routes.yaml:9"), resource("a"), replace=True))
        moved_on = upserts(route("r", "a", source="routes.yaml:12"), replace=True)
        assert [(each.file, each.line) for each in problems_of(now, moved_on)] == [("routes.yaml", 12)]


class TestUnchecked:
    def test_references_may_dangle(self) -> None:
        now = catalog({"default": [route("r", "a")]}, check_references=False)
        assert now.revision == 1

    def test_what_is_referred_to_may_be_removed_and_come_back(self) -> None:
        now = catalog({"default": [route("r", "a"), resource("a")]}, check_references=False)
        assert now.apply(removals("a")).revision == 2
        assert now.apply(upserts(resource("a"))).revision == 3
        assert now.apply(removals("r", type_url=ROUTE)).revision == 4


class TestSecretsOfTheBootstrap:
    """A secret without a source is looked for in Envoy's bootstrap, never among what is served."""

    LISTENER = resource("l", type_url=LISTENER, refers_to=[(FROM_BOOTSTRAP, "s", "a.field")])

    def test_it_is_missing_even_if_a_secret_of_its_name_is_served(self) -> None:
        (problem,) = problems_of(Catalog(), upserts(self.LISTENER, resource("s", type_url=SECRET)))
        assert problem.what == "names secrets/s without sds_config: Envoy then looks for it in its bootstrap only"
        assert problem.hint.startswith("give sds_config, or list secrets/s under external")

    def test_it_is_not_missing_where_it_is_external(self) -> None:
        table = GroupTable(external=("secrets/s",))
        assert catalog({"default": [self.LISTENER]}, table=table).revision == 1
