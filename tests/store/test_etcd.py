"""The store in etcd: several replicas, etcd unreachable, the local cache, a replaced log."""

import asyncio
import itertools
import signal
import uuid
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from support.etcd import Etcd, wait_known
from support.ports import unread_bytes
from support.waiting import turns, wait_until

from xds._generated import store_pb2 as pb
from xds.store.cache import StateCache
from xds.store.entries import Entry, Key
from xds.store.errors import ConflictError, EpochChangedError, OutcomeUnknownError, UnavailableError
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import AwayError, EtcdClient, EtcdOptions
from xds.store.opening import StoreUrlError, check_url, etcd_parts

CLUSTERS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
A = Key("default", CLUSTERS, "a")


def entry(number: int) -> Entry:
    return Entry(id=f"id-{number}", operations={A: b"%d" % number})


async def test_replicas_see_each_others_changes_in_one_order() -> None:
    async with Etcd() as etcd:
        prefix = uuid.uuid4().hex
        options = EtcdOptions(endpoints=etcd.endpoints)
        stores = [await EtcdStore.open(options, prefix) for _ in range(3)]
        numbers = iter(range(1, 61))
        await asyncio.gather(*(store.append(entry(next(numbers))) for _ in range(20) for store in stores))
        for store in stores:
            await wait_known(store, 60)
        logs = [await store.entries(0, 100) for store in stores]
        assert logs[0] == logs[1] == logs[2]
        assert len({stored.entry.id for stored in logs[0]}) == 60
        late = await EtcdStore.open(options, prefix)
        assert await late.state() == await stores[0].state()
        assert late.epoch == stores[0].epoch
        await stores[0].compact(50)
        await wait_known(stores[1], 60)
        assert await stores[1].append(entry(61), 60) == 61
        await wait_known(late, 61)
        assert (await late.kept())[0] == 50
        with pytest.raises(ConflictError):
            await late.append(entry(62), 60)
        for store in (*stores, late):
            await store.close()


async def test_a_change_that_comes_to_be_known_while_it_is_appended_again_is_that_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where a first attempt's reply was lost: etcd kept it, and the watch tells of it between conflict and retry."""
    async with Etcd() as etcd:
        prefix, options = uuid.uuid4().hex, EtcdOptions(endpoints=etcd.endpoints)
        store, other = [await EtcdStore.open(options, prefix) for _ in range(2)]
        append_all, kept = store.append_all, []

        async def in_conflict(entries: list[Entry], expected_revision: int) -> int:
            monkeypatch.setattr(store, "append_all", append_all)
            kept.append(await other.append(entries[0]))
            raise ConflictError(expected_revision, kept[0])

        monkeypatch.setattr(store, "append_all", in_conflict)
        assert await store.append(entry(1)) == 1
        assert kept == [1]
        assert [stored.entry for stored in await store.entries(0, 10)] == [entry(1)]
        for each in (store, other):
            await each.close()


async def test_with_etcd_away_reading_goes_on_and_writing_is_refused_until_it_is_back() -> None:
    async with Etcd() as etcd:
        store = await EtcdStore.open(EtcdOptions(endpoints=etcd.endpoints), "x")
        await store.append(entry(1))
        etcd.members[0].kill()
        await wait_until(lambda: store.away)
        assert (await store.state()).resources == {A: b"1"}
        with pytest.raises(UnavailableError):
            await store.append(entry(2))
        etcd.start()
        await wait_until(lambda: store.away, equals="")
        assert await store.append(entry(2)) == 2
        await store.close()


async def test_a_start_with_etcd_away_has_the_last_known_state(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    async with Etcd() as etcd:
        options = EtcdOptions(endpoints=etcd.endpoints)
        store = await EtcdStore.open(options, "x", cache=StateCache(cache))
        await store.append(entry(1))
        await store.append(entry(2))
        await store.close()
        etcd.members[0].kill()
        with pytest.raises(UnavailableError):
            await EtcdStore.open(options, "x", cache=StateCache(tmp_path / "none"))
        store = await EtcdStore.open(options, "x", cache=StateCache(cache))
        assert store.away
        assert ((await store.state()).revision, (await store.state()).resources) == (2, {A: b"2"})
        with pytest.raises(UnavailableError):
            await store.append(entry(3))
        following = asyncio.create_task(anext(store.watch(2)))
        etcd.start()
        await etcd.wait_ready()
        other = await EtcdStore.open(options, "x")
        await other.append(entry(3))
        assert (await asyncio.wait_for(following, 20)).revision == 3
        await other.close()
        await store.close()


async def test_a_start_from_the_cache_reads_the_log_once_etcd_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch alone would deliver later entries, so that the store would not know the ids of those in the cache."""
    cache = tmp_path / "cache"
    async with Etcd() as etcd:
        options = EtcdOptions(endpoints=etcd.endpoints)
        store = await EtcdStore.open(options, "x", cache=StateCache(cache))
        await store.append(entry(1))
        await store.append(entry(2))
        await store.close()
        calls, ask = itertools.count(), EtcdClient.range

        async def away_at_first(self: EtcdClient, *key: bytes, **options: int) -> Any:
            if next(calls) == 0:
                raise AwayError("etcd is away")
            return await ask(self, *key, **options)

        monkeypatch.setattr(EtcdClient, "range", away_at_first)
        store = await EtcdStore.open(options, "x", cache=StateCache(cache))
        assert store.away
        await wait_until(lambda: store.away, equals="")
        assert [each.revision for each in await store.summaries(0)] == [1, 2]
        assert await store.append(entry(1)) == 1
        await store.close()


async def test_an_incomplete_cache_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    assert StateCache(path).read() is None
    from xds.store.entries import State

    state = State(7, {A: b"a"}, b"rules")
    copy = StateCache(path)
    copy.begin(lambda: ("epoch", state))
    await wait_until(path.exists)
    await copy.end()
    assert StateCache(path).read() == ("epoch", state)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:20] + b"x" + whole[21:], whole + b"x"):
        path.write_bytes(damaged)
        assert StateCache(path).read() is None


async def test_another_log_at_the_same_prefix_is_read_from_its_beginning() -> None:
    """As after a restore from a backup: revisions go back, and are those of other entries."""
    async with Etcd() as etcd:
        options = EtcdOptions(endpoints=etcd.endpoints)
        store = await EtcdStore.open(options, "x")
        for number in range(1, 6):
            await store.append(entry(number))
        following = asyncio.create_task(anext(store.watch(5)))
        await turns()
        client = EtcdClient(options)
        await client.delete(b"x/log/", b"x/log0")
        await client.put(b"x/head", pb.Head(revision=0, epoch="restored").SerializeToString())
        with pytest.raises(EpochChangedError):
            await asyncio.wait_for(following, 10)
        assert ((await store.state()).revision, store.epoch) == (0, "restored")
        assert await store.append(entry(1)) == 1
        await client.close()
        await store.close()


async def test_calls_to_a_silent_member_are_answered_when_the_store_closes() -> None:
    """Closing cancels the calls to etcd, but not the tasks that await them."""
    async with Etcd() as etcd:
        store = await EtcdStore.open(EtcdOptions(endpoints=etcd.endpoints), "x")
        for number in range(1, 5):
            await store.append(entry(number))
        etcd.members[0].signal(signal.SIGSTOP)
        calls = [store.append(entry(9)), store.append_all([entry(10)], 4)]
        reading = [store.newest(), store.state(2), store.compact(3)]
        tasks = [asyncio.create_task(call) for call in (*calls, *reading)]
        sizes = deque([0], maxlen=30)

        def all_are_at_etcd() -> bool:
            sizes.append(unread_bytes(etcd.clients[0]))
            return sizes.count(sizes[-1]) == 30 and sizes[-1] > 0

        await wait_until(all_are_at_etcd)
        await store.close()
        async with asyncio.timeout(2):
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        etcd.members[0].signal(signal.SIGCONT)
    expected = [OutcomeUnknownError] * len(calls) + [UnavailableError] * len(reading)
    assert [kind for answer, kind in zip(answers, expected, strict=True) if not isinstance(answer, kind)] == [], answers


@pytest.mark.parametrize(
    "url",
    [
        "etcd:",
        "etcd://",
        "etcd://h:1",
        "etcd://h:1/",
        "etcd://h/x",
        "etcd://h:1,/x",
        "etcd://h:99999/x",
        "redis://x",
        "sqlite:x",
    ],
)
def test_an_invalid_store_url_is_refused(url: str) -> None:
    with pytest.raises(StoreUrlError):
        check_url(url)


def test_urls_of_etcd() -> None:
    assert etcd_parts("etcd://a:1,[::1]:2/a/b/") == (("a:1", "[::1]:2"), "a/b")
