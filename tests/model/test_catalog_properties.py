"""The catalog against a naive one: after any history it serves, returns and refuses the same."""

from hypothesis import given
from hypothesis import strategies as st
from model.build import CLUSTER, ENDPOINTS, content_of, resource
from model.naive import Naive

from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.groups import GroupTable, Rule
from xds.model.problem import ChangesetRejectedError
from xds.model.resource import Resource
from xds.model.types import ROUTE
from xds.model.view import FINGERPRINT_MASK, may_differ

GROUPS = st.sampled_from(["default", "a", "b", "c"])
TYPES = st.sampled_from([CLUSTER, ROUTE])
NAMES = st.sampled_from("xyz")


@st.composite
def resources(draw: st.DrawFn, *, referring: bool) -> Resource:
    name, type_url = draw(NAMES), draw(TYPES)
    return resource(
        name,
        draw(st.sampled_from("12")),
        type_url=type_url,
        aliases=draw(st.sampled_from([(), (f"{name}-1",), (f"{name}-1", f"{name}-2")])),
        ttl_s=draw(st.sampled_from([None, None, 5.0])),
        refers_to=draw(st.sets(st.tuples(TYPES, NAMES), max_size=2)) if referring else (),
    )


tables = st.builds(
    GroupTable,
    extends=st.dictionaries(GROUPS, GROUPS, max_size=3),
    rules=st.lists(st.builds(Rule, group=GROUPS, id=st.sampled_from("mn")), max_size=1).map(tuple),
    external=st.sampled_from([(), (), ("*/x",), ("clusters/*",)]),
)


@st.composite
def changesets(draw: st.DrawFn, *, referring: bool) -> Changeset:
    upserted = st.lists(resources(referring=referring), max_size=4).map(tuple)
    removed = st.lists(st.tuples(TYPES, NAMES), max_size=2).map(tuple)
    upserts = draw(st.dictionaries(GROUPS, upserted, max_size=2))
    return Changeset(
        upserts=upserts,
        removals=draw(st.dictionaries(st.sampled_from([*upserts, "default"]), removed, max_size=2)),
        groups=draw(st.none() | tables),
        replace=draw(st.sampled_from([False, False, False, True])),
    )


def tell_apart(catalog: Catalog, change: Changeset) -> set[tuple[str, str, str]] | None:
    """Apply the changeset; return the dangling references for which it was refused, empty if it was refused for
    another reason, None if it was accepted."""
    before = (catalog.revision, catalog.table, dict(catalog.snapshots))
    try:
        catalog.apply(change)
    except ChangesetRejectedError as error:
        assert (catalog.revision, catalog.table, dict(catalog.snapshots)) == before
        dangling = [each for each in error.problems if each.what.startswith("refers to ")]
        found = {(each.group, each.resource, each.what.split()[2].rstrip(",")) for each in dangling}
        assert len(found) == len(dangling)
        return found
    return None


def serves(catalog: Catalog, naive: Naive) -> None:
    """Assert that both have the same resources in every group, by every method that reads them."""
    assert set(catalog.snapshots) == set(naive.own)
    for group, snapshot in catalog.snapshots.items():
        seen = naive.seen(group)
        assert content_of(snapshot) == {key: each.version for key, each in seen.items()}
        for type_url in (CLUSTER, ROUTE, ENDPOINTS):
            view, those = snapshot.view(type_url), {name: each for (t, name), each in seen.items() if t == type_url}
            assert (sorted(view), len(view)) == (sorted(those), len(those))
            assert view.fingerprint == sum(each.fingerprint for each in those.values()) & FINGERPRINT_MASK
            assert view.timed == {name: each.ttl_s for name, each in those.items() if each.ttl_s is not None}


@given(st.lists(changesets(referring=False), max_size=6))
def test_it_serves_and_returns_the_same_as_the_naive_one(history: list[Changeset]) -> None:
    catalog, naive = Catalog(), Naive()
    for change in history:
        after = naive.after(change)
        before = (catalog.revision, dict(catalog.snapshots))
        if after is None:
            assert tell_apart(catalog, change) == set()
            continue
        applied = catalog.apply(change)
        assert applied.changed == naive.changed(after)
        assert (applied.revision == before[0]) == naive.same_as(after)
        assert applied.revision == catalog.revision
        assert applied.regrouped >= (set(naive.own) != set(after.own) or naive.table != after.table)
        for group, old in before[1].items():
            if group in catalog.snapshots:
                for type_url, names in applied.changed.get(group, {}).items():
                    new = catalog.snapshots[group].view(type_url)
                    real = {name for name in names if name in old.view(type_url) or name in new}
                    assert real <= set(may_differ(old.view(type_url), new))
        naive = after
        serves(catalog, naive)


@given(st.lists(changesets(referring=False), max_size=6))
def test_equal_content_has_equal_fingerprints_whatever_the_history(history: list[Changeset]) -> None:
    catalog, naive = Catalog(), Naive()
    for change in history:
        after = naive.after(change)
        if after is not None:
            catalog.apply(change)
            naive = after
    fresh = Catalog()
    own = {group: tuple(each.values()) for group, each in naive.own.items()}
    fresh.apply(Changeset(upserts=own, groups=naive.table))
    for group, snapshot in fresh.snapshots.items():
        for type_url in (CLUSTER, ROUTE):
            assert catalog.snapshots[group].view(type_url).fingerprint == snapshot.view(type_url).fingerprint


@given(st.lists(changesets(referring=True), max_size=6))
def test_it_refuses_exactly_the_changes_that_would_leave_a_reference_dangling(history: list[Changeset]) -> None:
    catalog, naive = Catalog(), Naive()
    for change in history:
        after = naive.after(change)
        if after is None:
            assert tell_apart(catalog, change) == set()
            continue
        assert tell_apart(catalog, change) == (after.missing() or None)
        if not after.missing():
            naive = after
        serves(catalog, naive)
