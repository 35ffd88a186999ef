"""Behaviour that all stores share."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.waiting import turns, wait_until

from tests.store.makers import MAKERS
from xds.store import entries as limits
from xds.store.entries import Entry, EntrySummary, GroupCounts, Key, State, Store, Stored
from xds.store.errors import (
    CompactedError,
    ConflictError,
    IdReusedError,
    NotYetError,
    StoreError,
    TooLargeError,
    UnavailableError,
)
from xds.store.memory import MemoryStore

CLUSTERS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
A, B, C = Key("default", CLUSTERS, "a"), Key("default", CLUSTERS, "b/ü"), Key("web", CLUSTERS, "c")
TIMEOUT_S = 10


def entry(number: int, operations: dict[Key, bytes | None] | None = None, groups: bytes | None = None) -> Entry:
    if operations is None:
        operations = {A: b"%d" % number}
    return Entry(id=f"id-{number}", operations=operations, groups=groups, author="ann", message="why", at_ms=number)


async def test_an_empty_store_is_at_revision_0(store: Store) -> None:
    assert await store.state() == State(0, {})
    assert await store.entries(0) == []


async def test_entries_make_the_state_and_are_kept_as_they_were_given(store: Store) -> None:
    first = entry(1, {B: b"\0b", A: b"a"}, groups=b"rules")
    second = entry(2, {A: None, Key("other", CLUSTERS, "a"): b""})
    assert [await store.append(first), await store.append(second)] == [1, 2]
    assert await store.state() == State(2, {B: b"\0b", Key("other", CLUSTERS, "a"): b""}, b"rules")
    kept = await store.entries(0)
    assert kept == [Stored(1, first), Stored(2, second)]
    assert list(kept[0].entry.operations) == [B, A]
    assert await store.entries(1) == [Stored(2, second)]
    assert await store.entries(0, limit=1) == [Stored(1, first)]


async def test_each_revision_of_a_long_log_can_be_read(store: Store) -> None:
    for number in range(1, 451):
        await store.append(entry(number, {Key("default", CLUSTERS, f"c{number % 7}"): b"%d" % number}))
    for revision in (1, 199, 200, 201, 399, 400, 401, 449, 450):
        latest = {f"c{number % 7}": b"%d" % number for number in range(1, revision + 1)}
        state = await store.state(revision)
        assert (state.revision, {key.name: value for key, value in state.resources.items()}) == (revision, latest)


async def test_a_removal_of_what_is_not_there_changes_nothing_else(store: Store) -> None:
    await store.append(entry(1, {A: None}))
    await store.append(entry(2, {A: b"a"}))
    assert await store.state(1) == State(1, {})
    assert await store.state(2) == State(2, {A: b"a"})


async def test_every_kept_revision_can_be_read(store: Store) -> None:
    await store.append(entry(1, {A: b"1", B: b"1"}))
    await store.append(entry(2, {A: b"2"}, groups=b"two"))
    await store.append(entry(3, {A: None}, groups=b"three"))
    await store.append(entry(4, {A: b"4", B: None}))
    states = [await store.state(revision) for revision in range(5)]
    assert states == [
        State(0, {}),
        State(1, {A: b"1", B: b"1"}),
        State(2, {A: b"2", B: b"1"}, b"two"),
        State(3, {B: b"1"}, b"three"),
        State(4, {A: b"4"}, b"three"),
    ]


async def test_an_append_that_expects_another_revision_changes_nothing_and_reports_the_present_one(
    store: Store,
) -> None:
    await store.append(entry(1), 0)
    with pytest.raises(ConflictError) as refused:
        await store.append(entry(2), 0)
    assert refused.value.revision == 1
    with pytest.raises(ConflictError):
        await store.append(entry(2), 2)
    assert (await store.state()).revision == 1
    assert await store.append(entry(2), 1) == 2


async def test_of_many_that_expect_the_same_revision_one_wins(store: Store) -> None:
    outcomes = await asyncio.gather(*(store.append(entry(n), 0) for n in range(20)), return_exceptions=True)
    assert [outcome for outcome in outcomes if not isinstance(outcome, ConflictError)] == [1]
    assert (await store.state()).revision == 1


async def test_the_same_id_makes_one_change_whatever_is_expected(store: Store) -> None:
    assert await store.append(entry(1), 0) == 1
    await store.append(entry(2))
    assert await store.append(entry(1), 0) == 1
    assert (await store.state()).revision == 2


async def test_an_id_of_another_change_is_refused(store: Store) -> None:
    await store.append(entry(1))
    with pytest.raises(IdReusedError) as refused:
        await store.append(Entry(id="id-1", operations={A: b"other"}))
    assert refused.value.revision == 1
    assert (await store.state()).revision == 1


async def test_several_are_kept_together_or_none_is(store: Store) -> None:
    await store.append(entry(1))
    assert await store.append_all([entry(2), entry(3, {B: b"b"})], 1) == 3
    with pytest.raises(ConflictError) as refused:
        await store.append_all([entry(4), entry(5)], 2)
    assert refused.value.revision == 3
    with pytest.raises(IdReusedError):
        await store.append_all([entry(4), entry(2)], 3)
    assert await store.state() == State(3, {A: b"2", B: b"b"})
    assert [stored.revision for stored in await store.entries(0)] == [1, 2, 3]


async def test_entries_are_found_by_their_ids(store: Store) -> None:
    await store.append_all([entry(1), entry(2)], 0)
    found = await store.find(["id-2", "none", "id-1"])
    assert {name: each.revision for name, each in found.items()} == {"id-1": 1, "id-2": 2}
    assert found["id-2"].digest == entry(2).digest()


SEAL_BYTES = 64
"""More than encryption adds to a value."""


async def test_summaries_have_the_metadata_of_entries(store: Store) -> None:
    first = Entry(id="id-1", operations={A: b"x", B: b"x"}, groups=b"rules", added=frozenset((A, B)))
    later = [entry(number, {A: b"x", C: None}) for number in range(2, 6)]
    await store.append_all([first, *later], 0)
    (summary,) = await store.summaries(0, limit=1)
    counts = (GroupCounts(A.group, 2, 0, 0),)
    assert summary == EntrySummary(1, "id-1", "", "", 0, 2, counts, True, summary.size_bytes)
    size = len(A.name.encode()) + len(B.name.encode()) + len(b"x" * 2) + len(b"rules")
    assert size <= summary.size_bytes <= size + 3 * SEAL_BYTES
    assert [stored.entry.added for stored in await store.entries(0, 2)] == [{A, B}, set()]
    await store.compact(2)
    assert await store.kept() == (2, 5)
    summaries = await store.summaries(2)
    counts = (GroupCounts(A.group, 0, 1, 0), GroupCounts(C.group, 0, 0, 1))
    assert summaries[0] == EntrySummary(3, "id-3", "ann", "why", 3, 2, counts, size_bytes=summaries[0].size_bytes)
    size = len(A.name.encode()) + len(C.name.encode()) + len(b"x")
    assert size <= summaries[0].size_bytes <= size + SEAL_BYTES
    assert [summary.revision for summary in summaries] == [3, 4, 5]
    assert [summary.revision for summary in await store.summaries(3, limit=1)] == [4]
    with pytest.raises(CompactedError):
        await store.summaries(1)


async def test_a_digest_of_the_request_tells_changes_apart(store: Store) -> None:
    await store.append(Entry(id="x", operations={A: b"1"}, request=b"asked for more"))
    assert await store.append(Entry(id="x", operations={B: b"1"}, request=b"asked for more")) == 1
    with pytest.raises(IdReusedError):
        await store.append(Entry(id="x", operations={A: b"1"}))


async def test_an_entry_larger_than_one_request_is_kept_whole(store: Store) -> None:
    large = {Key("g", CLUSTERS, f"c{number}"): bytes(100_000) for number in range(40)}
    large[Key("g", CLUSTERS, "whole")] = bytes(21_000_000)
    await store.append(Entry(id="large", operations=dict(large)))
    await store.append(entry(2))
    assert (await store.entries(0))[0].entry.operations == large
    await store.compact(2)
    assert (await store.state()).resources == large | {A: b"2"}


async def test_a_watch_yields_past_and_future_entries_once_and_in_order(store: Store) -> None:
    await store.append(entry(1))
    await store.append(entry(2))
    seen: list[Stored] = []

    async def follow() -> None:
        async for stored in store.watch(1):
            seen.append(stored)
            if stored.revision == 300:
                return

    following = asyncio.create_task(follow())
    for number in range(3, 301):
        await store.append(entry(number))
    await asyncio.wait_for(following, TIMEOUT_S)
    assert [stored.revision for stored in seen] == list(range(2, 301))
    assert [stored.entry for stored in seen] == [entry(number) for number in range(2, 301)]


async def test_a_watch_ends_with_its_store(store: Store) -> None:
    await store.append(entry(1))
    seen: list[int] = []

    async def follow() -> None:
        async for stored in store.watch(0):
            seen.append(stored.revision)  # noqa: PERF401 - it is looked at meanwhile

    following = asyncio.create_task(follow())
    await wait_until(lambda: seen, equals=[1])
    await store.close()
    await asyncio.wait_for(following, TIMEOUT_S)
    assert seen == [1]
    with pytest.raises(UnavailableError):
        await store.state()
    with pytest.raises(UnavailableError):
        await store.append(entry(1))


async def test_calls_under_way_when_the_store_closes_are_answered(store: Store) -> None:
    for number in range(1, 31):
        await store.append(entry(number))
    calls = [
        *(store.append(entry(number)) for number in range(31, 36)),
        store.append_all([entry(40), entry(41)], 30),
        *(store.state(revision) for revision in (None, 3, 20)),
        store.entries(2),
        store.summaries(2),
        store.kept(),
        store.newest(),
        store.find(["id-1"]),
        store.compact(20),
    ]
    tasks = [asyncio.create_task(call) for call in calls]
    await turns()
    await store.close()
    async with asyncio.timeout(TIMEOUT_S):
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [each for each in answers if isinstance(each, BaseException) and not isinstance(each, StoreError)] == []


async def test_compaction_keeps_the_state_and_what_came_later(store: Store) -> None:
    for number in range(1, 251):
        await store.append(entry(number, {A: b"%d" % number, B: b"b"} if number % 2 else {B: None}))
    before = [await store.state(revision) for revision in (240, 250)]
    assert await store.compact(240) == 240
    assert [await store.state(revision) for revision in (240, 250)] == before
    assert [stored.revision for stored in await store.entries(240)] == list(range(241, 251))
    assert await store.compact(100) == 240
    for reading in (store.state(239), store.entries(239), anext(store.watch(0))):
        with pytest.raises(CompactedError) as refused:
            await reading
        assert refused.value.oldest == 240
    assert await store.append(entry(251)) == 251


async def test_a_revision_that_does_not_exist_yet_is_an_error(store: Store) -> None:
    await store.append(entry(1))
    for reading in (store.state(2), store.entries(2), store.compact(2), anext(store.watch(2))):
        with pytest.raises(NotYetError) as refused:
            await reading
        assert refused.value.revision == 1


async def test_what_is_too_large_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OPERATIONS_MAX", 1)
    monkeypatch.setattr(limits, "ENTRY_BYTES_MAX", 10)
    for large in (
        entry(1, {A: b"", B: b""}),
        entry(1, {A: b"x" * 11}),
        entry(1, {}, groups=b"x" * 11),
        Entry(id="i", operations={A: b""}, message="x" * 5_000),
        Entry(id="i", operations={A: b""}, author="x" * 5_000),
    ):
        with pytest.raises(TooLargeError):
            await store.append(large)
    assert (await store.state()).revision == 0


@pytest.mark.parametrize("bad", [Entry(id="", operations={A: b""}), Entry(id="x" * 200), Entry(id="i")])
async def test_an_entry_without_an_id_or_an_effect_is_refused(store: Store, bad: Entry) -> None:
    with pytest.raises(ValueError, match="an entry"):
        await store.append(bad)


KEYS = st.builds(Key, st.sampled_from(["g", "h"]), st.just(CLUSTERS), st.sampled_from("abc"))
STEPS = st.lists(
    st.tuples(
        st.dictionaries(KEYS, st.none() | st.binary(max_size=4), min_size=1, max_size=4),
        st.none() | st.binary(max_size=3),
        st.integers(0, 12),  # afterwards compact up to this revision, if it exists
    ),
    max_size=10,
)


@pytest.mark.parametrize("kind", MAKERS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_any_sequence_reads_as_it_does_in_memory(
    kind: str, steps: list[tuple[dict[Key, bytes | None], bytes | None, int]]
) -> None:
    model = MemoryStore()
    with tempfile.TemporaryDirectory() as directory:
        store = await MAKERS[kind](Path(directory))
        oldest = 0
        for number, (operations, rules, compact_at) in enumerate(steps, 1):
            made = Entry(id=f"step-{number}", operations=dict(operations), groups=rules)
            assert await store.append(made) == await model.append(made) == number
            if oldest < compact_at <= number:
                oldest = await store.compact(compact_at)
                assert oldest == await model.compact(compact_at) == compact_at
        for revision in range(oldest, len(steps) + 1):
            assert await store.state(revision) == await model.state(revision)
            assert await store.entries(revision) == await model.entries(revision)
        await store.close()
