"""A catalog that follows a log: given revisions, inverse changesets, and the own resources of groups."""

import pytest

from tests.model.build import content_of, removals, resource, upserts
from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.groups import GroupTable
from xds.model.problem import ChangesetRejectedError
from xds.model.types import CLUSTER


def contents(made: Catalog) -> dict[str, dict[tuple[str, str], str]]:
    return {group: content_of(snapshot) for group, snapshot in made.snapshots.items()}


def test_the_revision_is_the_given_one_even_if_nothing_changes() -> None:
    made = Catalog()
    assert made.apply(upserts(resource("a")), revision=7).revision == made.revision == 7
    applied = made.apply(upserts(resource("a")), revision=9)
    assert (applied.revision, applied.changed, made.revision) == (9, {}, 9)
    made.apply(upserts(resource("b")))
    assert made.revision == 10


def test_what_is_rejected_leaves_the_revision() -> None:
    made = Catalog()
    made.apply(upserts(resource("a")), revision=3)
    with pytest.raises(ChangesetRejectedError):
        made.apply(upserts(resource("x"), resource("x")), revision=4)
    assert made.revision == 3


def test_what_a_group_has_itself() -> None:
    made = Catalog()
    made.apply(upserts(resource("b"), resource("a")))
    made.apply(upserts(resource("c"), group="web"))
    assert [each.name for each in made.own("default")] == ["a", "b"]
    assert [each.name for each in made.own("none")] == []
    found = made.own_resource("web", CLUSTER, "c")
    assert found is not None
    assert found.name == "c"
    assert made.own_resource("web", CLUSTER, "a") is None
    assert made.own_resource("none", CLUSTER, "a") is None


@pytest.mark.parametrize(
    "changeset",
    [
        upserts(resource("a", "2"), resource("new")),
        removals("a", "none"),
        upserts(resource("x"), group="another"),
        Changeset(upserts={"default": (resource("only"),)}, replace=True),
        Changeset(groups=GroupTable(names=("empty",))),
        Changeset(gone=("web",)),
        Changeset(gone=("web",), groups=GroupTable(extends={"blue": "default"}), upserts={"blue": (resource("x"),)}),
        Changeset(upserts={"default": (resource("a", "3"),)}, removals={"default": ((CLUSTER, "b"),)}),
    ],
    ids=["set", "removed", "new group", "replaced", "groups", "gone", "gone and new", "both"],
)
def test_an_inverse_leads_back(changeset: Changeset) -> None:
    made = Catalog()
    made.apply(upserts(resource("a"), resource("b")))
    made.apply(upserts(resource("a"), group="web"))
    before = contents(made)
    inverse = made.inverse(changeset)
    made.apply(changeset, revision=3)
    assert contents(made) != before
    made.apply(inverse, revision=2)
    assert contents(made) == before
    assert made.revision == 2


def test_a_group_that_is_named_is_there_without_resources() -> None:
    made = Catalog()
    made.apply(Changeset(groups=GroupTable(names=("empty",)), replace=True))
    assert made.snapshots.keys() == {"default", "empty"}
    made.apply(Changeset(groups=GroupTable(), replace=True))
    assert made.snapshots.keys() == {"default"}
