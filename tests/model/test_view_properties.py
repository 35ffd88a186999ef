"""Logs, layers and diffs against naive ones that keep and compare everything."""

from hypothesis import given
from hypothesis import strategies as st
from immutables import Map
from model.build import CLUSTER, resource

from xds.model.resource import Resource
from xds.model.view import FINGERPRINT_MASK, Layer, RevisionLog, View, fingerprint_of, may_differ

NAMES = st.sampled_from("abcdef")
LAYERS = 2
Changes = dict[str, tuple[str, float | None] | None]
"""Name to content and TTL, or None where it is removed."""

changes_of_a_layer = st.dictionaries(
    NAMES, st.none() | st.tuples(st.sampled_from("12"), st.none() | st.just(3.0)), min_size=1, max_size=3
)
histories = st.lists(st.tuples(st.integers(0, LAYERS - 1), changes_of_a_layer), max_size=12)


def made(name: str, change: tuple[str, float | None] | None) -> Resource | None:
    if change is None:
        return None
    content, ttl_s = change
    return resource(name, content, ttl_s=ttl_s, aliases=[f"{name}-{content}"])


def play(history: list[tuple[int, Changes]], tombstones_max: int) -> tuple[list[View], list[list[dict[str, Resource]]]]:
    """Return every view of the history, each with its layers as plain dicts."""
    layers = [Layer(Map(), 0, RevisionLog(tombstones_max=tombstones_max)) for _ in range(LAYERS)]
    plain: list[dict[str, Resource]] = [{} for _ in range(LAYERS)]
    views, naive = [View(CLUSTER, tuple(layers), 0)], [[dict(each) for each in plain]]
    for revision, (index, changes) in enumerate(history, start=1):
        resources = {name: made(name, change) for name, change in changes.items()}
        layers[index] = layers[index].replaced(resources, revision)
        for name, each in resources.items():
            layers[index].log.record(name, revision, live=len(layers[index].resources))
            if each is None:
                plain[index].pop(name, None)
            else:
                plain[index][name] = each
        views.append(View(CLUSTER, tuple(layers), 0))
        naive.append([dict(each) for each in plain])
    return views, naive


def merged(layers: list[dict[str, Resource]]) -> dict[str, Resource]:
    seen: dict[str, Resource] = {}
    for layer in reversed(layers):
        seen |= layer
    return seen


@given(histories)
def test_a_view_reads_like_dicts_laid_over_each_other(history: list[tuple[int, Changes]]) -> None:
    for view, layers in zip(*play(history, tombstones_max=10), strict=True):
        seen = merged(layers)
        assert {name: view.get(name) for name in "abcdef"} == {name: seen.get(name) for name in "abcdef"}
        assert sorted(view) == sorted(seen)
        assert len(view) == len(seen)
        assert view.timed == {name: each.ttl_s for name, each in seen.items() if each.ttl_s is not None}
        assert view.has_timed or not view.timed
        assert fingerprint_of(view) == sum(each.fingerprint for each in seen.values()) & FINGERPRINT_MASK


@given(histories, st.integers(0, 10))
def test_may_differ_misses_nothing_and_says_nothing_twice(
    history: list[tuple[int, Changes]], tombstones_max: int
) -> None:
    views, naive = play(history, tombstones_max)
    for old, old_layers in zip(views, naive, strict=True):
        for new, new_layers in zip(views, naive, strict=True):
            before, after = merged(old_layers), merged(new_layers)
            differing = {name for name in before | after if before.get(name) is not after.get(name)}
            answer = may_differ(old, new)
            assert differing <= set(answer)
            assert len(answer) == len(set(answer))


@given(st.lists(st.tuples(NAMES, st.integers(0, 6)), max_size=30), st.integers(0, 4))
def test_a_log_has_all_changes_since_a_revision_or_gives_none(
    records: list[tuple[str, int]], tombstones_max: int
) -> None:
    log, kept, forgotten = RevisionLog(tombstones_max=tombstones_max), {}, 0
    last = {}
    for revision, (name, live) in enumerate(records, start=1):
        log.record(name, revision, live=live)
        last[name] = kept[name] = revision
        while len(kept) > live + tombstones_max:
            forgotten = kept.pop(min(kept, key=lambda name: kept[name]), 0)
        assert len(log) == len(kept)
        for asked in range(revision + 1):
            changed = [name for name in sorted(last, key=lambda name: -last[name]) if last[name] > asked]
            assert log.since(asked) == (None if asked < forgotten else changed)


@given(histories)
def test_an_alias_leads_to_the_one_resource_seen_that_has_it(history: list[tuple[int, Changes]]) -> None:
    for view, layers in zip(*play(history, tombstones_max=10), strict=True):
        has = {alias: each for each in merged(layers).values() for alias in each.aliases}
        aliases = [f"{name}-{content}" for name in "abcdef" for content in "12"]
        assert [view.named_by(alias) for alias in aliases] == [has.get(alias) for alias in aliases]
