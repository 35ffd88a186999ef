"""A view is one set of resources over all its layers; logs and diffs return the changes between two views."""

from collections.abc import Iterable

from immutables import Map
from model.build import CLUSTER, resource

from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.resource import Resource
from xds.model.snapshot import Snapshot
from xds.model.view import EmptyViews, Layer, RevisionLog, View, fingerprint_of, may_differ


def log_of(*names: str, live: int = 10, tombstones_max: int = 10) -> RevisionLog:
    log = RevisionLog(tombstones_max=tombstones_max)
    for revision, name in enumerate(names, start=1):
        log.record(name, revision, live=live)
    return log


def empty_layer(tombstones_max: int = 10) -> Layer:
    return Layer(Map(), 0, RevisionLog(tombstones_max=tombstones_max))


def after(layer: Layer, changes: dict[str, Resource | None]) -> Layer:
    """Return the next layer, with its log as the catalog keeps it."""
    changed = layer.replaced(changes, layer.revision + 1)
    for name in changes:
        changed.log.record(name, changed.revision, live=len(changed.resources))
    return changed


def layer_of(*resources: Resource) -> Layer:
    return after(empty_layer(), {each.name: each for each in resources})


def view_of(*layers: Layer) -> View:
    view = View(CLUSTER, layers, 0)
    return View(CLUSTER, layers, fingerprint_of(view))


def names_by_alias(layer: Layer) -> dict[str, str]:
    view = view_of(layer)
    return {alias: found.name for alias in "xyz" if (found := view.named_by(alias)) is not None}


class TestRevisionLog:
    def test_a_new_log_has_no_changes(self) -> None:
        assert RevisionLog().since(0) == []
        assert len(RevisionLog()) == 0

    def test_a_log_has_what_changed_after_a_revision_newest_first(self) -> None:
        assert log_of("a", "b", "c").since(1) == ["c", "b"]

    def test_nothing_changed_after_the_newest_revision(self) -> None:
        assert log_of("a", "b").since(2) == []
        assert log_of("a", "b").since(9) == []

    def test_a_name_is_in_the_log_once_at_its_last_change(self) -> None:
        log = log_of("a", "b", "a")
        assert log.since(0) == ["a", "b"]
        assert log.since(2) == ["a"]
        assert len(log) == 2

    def test_names_of_one_revision_belong_together(self) -> None:
        log = log_of("a")
        for name in ("b", "c"):
            log.record(name, 2, live=3)
        assert log.since(1) == ["c", "b"]

    def test_the_oldest_are_forgotten_beyond_the_live_ones_and_so_many_tombstones(self) -> None:
        log = log_of("a", "b", "c", "d", live=1, tombstones_max=2)
        assert len(log) == 3
        assert log.since(1) == ["d", "c", "b"]

    def test_a_revision_before_the_log_gives_none(self) -> None:
        log = log_of("a", "b", "c", "d", live=1, tombstones_max=1)
        assert log.since(1) is None
        assert log.since(0) is None
        assert log.since(2) == ["d", "c"]

    def test_fewer_live_resources_make_it_forget_more(self) -> None:
        log = log_of("a", "b", "c", live=3, tombstones_max=0)
        assert log.since(0) == ["c", "b", "a"]
        log.record("d", 4, live=1)
        assert log.since(2) is None
        assert log.since(3) == ["d"]


class TestLayer:
    def test_it_shares_its_log_and_leaves_the_one_before_as_it_was(self) -> None:
        before = layer_of(resource("a"), resource("b"))
        later = before.replaced({"a": None, "c": resource("c")}, 2)
        assert set(before.resources) == {"a", "b"}
        assert set(later.resources) == {"b", "c"}
        assert later.revision == 2
        assert later.log is before.log
        assert later.log.since(1) == []

    def test_removing_what_is_not_there_changes_nothing(self) -> None:
        assert set(layer_of(resource("a")).replaced({"b": None}, 2).resources) == {"a"}

    def test_it_knows_which_resources_have_a_ttl(self) -> None:
        layer = layer_of(resource("a", ttl_s=3), resource("b"), resource("c", ttl_s=4))
        assert layer.timed == Map(a=3, c=4)
        changed = after(layer, {"a": resource("a"), "b": resource("b", ttl_s=5), "c": None})
        assert changed.timed == Map(b=5)

    def test_it_knows_what_aliases_stand_for(self) -> None:
        layer = layer_of(resource("a", aliases=["x", "y"]), resource("b"))
        assert names_by_alias(layer) == {"x": "a", "y": "a"}
        assert names_by_alias(after(layer, {"a": resource("a", aliases=["y", "z"])})) == {"y": "a", "z": "a"}
        assert names_by_alias(after(layer, {"a": None})) == {}

    def test_an_alias_can_move_in_one_change_in_either_order(self) -> None:
        layer = layer_of(resource("a", aliases=["x"]), resource("b"))
        bare, aliased = resource("a"), resource("b", aliases=["x"])
        assert names_by_alias(after(layer, {"a": bare, "b": aliased})) == {"x": "b"}
        assert names_by_alias(after(layer, {"b": aliased, "a": bare})) == {"x": "b"}

    def test_an_alias_of_two_resources_belongs_to_the_same_one_in_either_order(self) -> None:
        a, b = resource("a", aliases=["x"]), resource("b", aliases=["x"])
        assert names_by_alias(layer_of(a, b)) == names_by_alias(layer_of(b, a)) == {"x": "a"}
        assert names_by_alias(after(layer_of(a, b), {"a": None})) == {"x": "b"}
        assert names_by_alias(after(layer_of(a, b), {"b": None})) == {"x": "a"}


class TestView:
    def test_one_layer_reads_as_it_is(self) -> None:
        a, b = resource("a"), resource("b")
        view = view_of(layer_of(a, b))
        assert view.get("a") is a
        assert view.get("c") is None
        assert set(view) == {"a", "b"}
        assert len(view) == 2

    def test_a_nearer_layer_hides_the_same_name_in_those_behind_it(self) -> None:
        near, far, other = resource("a", "near"), resource("a", "far"), resource("b")
        view = view_of(layer_of(near), layer_of(far, other))
        assert view.get("a") is near
        assert view.get("b") is other
        assert sorted(view) == ["a", "b"]
        assert len(view) == 2
        assert view.fingerprint == (near.fingerprint + other.fingerprint) % 2**64

    def test_an_alias_leads_to_its_resource(self) -> None:
        a, b = resource("a", aliases=["x"]), resource("b", aliases=["y"])
        view = view_of(layer_of(a), layer_of(b))
        assert view.named_by("x") is a
        assert view.named_by("y") is b
        assert view.named_by("a") is None

    def test_the_nearest_layer_decides_what_an_alias_stands_for(self) -> None:
        near, far = resource("a", aliases=["x"]), resource("b", aliases=["x"])
        assert view_of(layer_of(near), layer_of(far)).named_by("x") is near

    def test_an_alias_is_hidden_with_its_resource(self) -> None:
        near, far = resource("a"), resource("a", aliases=["x"])
        view = view_of(layer_of(near), layer_of(far))
        assert view.get("a") is near
        assert view.named_by("x") is None

    def test_behind_a_hidden_alias_another_resource_may_have_it(self) -> None:
        last = resource("b", aliases=["x"])
        view = view_of(layer_of(resource("a")), layer_of(resource("a", aliases=["x"])), layer_of(last))
        assert view.named_by("x") is last

    def test_the_ttls_are_those_of_the_resources_that_are_seen(self) -> None:
        near = layer_of(resource("a"), resource("b", ttl_s=2))
        far = layer_of(resource("a", ttl_s=1), resource("b", ttl_s=9), resource("c", ttl_s=3))
        view = view_of(near, far)
        assert view.timed == {"b": 2, "c": 3}
        assert view.has_timed
        assert not view_of(layer_of(resource("a"))).has_timed

    def test_nothing_is_the_same_object_each_time(self) -> None:
        views = EmptyViews()
        empty = views[CLUSTER]
        assert empty is views[CLUSTER]
        assert (len(empty), list(empty), empty.get("a"), empty.named_by("a")) == (0, [], None, None)
        assert (empty.timed, empty.has_timed, empty.fingerprint) == ({}, False, 0)


class TestMayDiffer:
    def test_nothing_differs_from_itself(self) -> None:
        view = view_of(layer_of(resource("a")))
        assert may_differ(view, view) == []
        assert may_differ(view, view_of(*view.layers)) == []

    def test_a_diff_is_what_changed_since_the_older_view_in_either_direction(self) -> None:
        layer = layer_of(*(resource(f"r{number}") for number in range(100)))
        changed = after(layer, {"r7": resource("r7", "2"), "r8": None})
        old, new = view_of(layer), view_of(changed)
        assert may_differ(old, new) == ["r8", "r7"]
        assert may_differ(new, old) == ["r8", "r7"]

    def test_over_several_layers_each_name_stands_once(self) -> None:
        base = layer_of(resource("a"), resource("b"), resource("c"))
        overlay = layer_of(resource("a"), resource("z"))
        base_after = after(base, {"a": None, "b": None})
        overlay_after = after(overlay, {"a": resource("a", "2")})
        assert may_differ(view_of(overlay, base), view_of(overlay_after, base_after)) == ["a", "b"]
        assert may_differ(view_of(overlay, base), view_of(overlay, base_after)) == ["b", "a"]

    def everything(self, old: View, new: View, names: Iterable[str]) -> None:
        assert sorted(may_differ(old, new)) == sorted(names)
        assert sorted(may_differ(new, old)) == sorted(names)

    def test_between_unrelated_layers_everything_may_differ(self) -> None:
        one, other = layer_of(resource("a"), resource("b")), layer_of(resource("b"), resource("c"))
        self.everything(view_of(one), view_of(other), "abc")
        self.everything(view_of(one), view_of(one, other), "abc")
        self.everything(view_of(one), EmptyViews()[CLUSTER], "ab")

    def test_one_unrelated_layer_is_enough_for_everything(self) -> None:
        base, other = layer_of(resource("a"), resource("b")), layer_of(resource("c"))
        overlay = layer_of(resource("z"))
        self.everything(view_of(overlay, base), view_of(after(overlay, {"z": None}), other), "abcz")

    def test_when_the_log_does_not_reach_back_everything_may_differ(self) -> None:
        first = after(empty_layer(tombstones_max=0), {"a": resource("a"), "b": resource("b")})
        last = after(after(first, {"a": None}), {"b": resource("b", "2")})
        self.everything(view_of(first), view_of(last), "ab")


class TestSnapshot:
    def test_a_type_that_the_group_has_nothing_of_has_an_empty_view(self) -> None:
        view = view_of(layer_of(resource("a")))
        snapshot = Snapshot("default", 1, {CLUSTER: view})
        assert snapshot.view(CLUSTER) is view
        assert (len(snapshot.view("other")), snapshot.view("other").type_url) == (0, "other")

    def test_all_snapshots_of_a_catalog_have_the_same_empty_views(self) -> None:
        catalog = Catalog()
        before = catalog.snapshots["default"]
        catalog.apply(Changeset(upserts={"default": (resource("a"),), "more": (resource("a"),)}))
        views = {id(each.view("other")) for each in (before, *catalog.snapshots.values())}
        assert len(views) == 1
