"""What a write is answered whose reply from etcd is lost, or whose log is replaced or removed meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from support.etcd import Etcd

from xds._generated import store_pb2 as pb
from xds.store import etcd as etcd_store
from xds.store.entries import Entry, Key
from xds.store.errors import OutcomeUnknownError, UnavailableError
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import EtcdClient, EtcdOptions, LostReplyError
from xds.store.etcd_rekey import convert_etcd
from xds.store.keys import KeyRing, new_key
from xds.store.rekey import encrypting
from xds.store.sealing import Sealer

A = Key("default", "type.googleapis.com/envoy.config.cluster.v3.Cluster", "a")


def entry(number: int) -> Entry:
    return Entry(id=f"id-{number}", operations={A: b"%d" % number})


@pytest.fixture
async def options() -> AsyncIterator[EtcdOptions]:
    async with Etcd() as etcd:
        yield EtcdOptions(endpoints=etcd.endpoints)


@pytest.fixture
async def store(options: EtcdOptions) -> AsyncIterator[EtcdStore]:
    made = await EtcdStore.open(options, "x")
    yield made
    await made.close()


@pytest.fixture
async def client(options: EtcdOptions) -> AsyncIterator[EtcdClient]:
    made = EtcdClient(options)
    yield made
    await made.close()


def around_next(
    store: EtcdStore,
    monkeypatch: pytest.MonkeyPatch,
    *,
    before: Callable[[], Awaitable[Any]] | None = None,
    lose: bool = False,
    after: Callable[[], Awaitable[Any]] | None = None,
) -> None:
    """Have something happen before and after etcd takes the store's next transaction, whose reply may be lost."""
    transact = store._client.transact

    async def once(*request: Any) -> Any:
        monkeypatch.setattr(store._client, "transact", transact)
        if before is not None:
            await before()
        answer = await transact(*request)
        if after is not None:
            await after()
        if lose:
            raise LostReplyError("the reply was lost")
        return answer

    monkeypatch.setattr(store._client, "transact", once)


async def test_a_write_that_etcd_keeps_is_acknowledged_though_its_reply_and_the_watch_are_lost(
    options: EtcdOptions, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_store, "SETTLE_S", 0.3)
    assert store._following is not None
    store._following.cancel()
    around_next(store, monkeypatch, lose=True)
    assert await store.append_all([entry(1), entry(2)], 0) == 2
    assert [stored.entry.id for stored in await store.entries(0)] == ["id-1", "id-2"]
    other = await EtcdStore.open(options, "x")
    assert await other.state() == await store.state()
    await other.close()
    assert await store.append_all([entry(3)], 2) == 3


async def test_a_write_whose_values_are_encrypted_anew_before_its_lost_reply_is_settled_is_acknowledged(
    options: EtcdOptions, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison of values would take the record for another writer's, and have the change made twice."""
    sealer = Sealer(KeyRing((new_key(),)))

    async def encrypt() -> None:
        await convert_etcd(options, "x", encrypting(sealer))

    around_next(store, monkeypatch, lose=True, after=encrypt)
    assert await store.append_all([entry(1)], 0) == 1
    assert [stored.entry.id for stored in await store.entries(0)] == ["id-1"]


async def test_of_a_write_that_was_kept_and_forgotten_since_the_outcome_is_unknown(
    options: EtcdOptions, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conflict would have it made a second time."""
    other = await EtcdStore.open(options, "x")

    async def forget() -> None:
        async with asyncio.timeout(10):
            await other._notifier.reach(1)
        assert await other.append_all([entry(2)], 1) == 2
        assert await other.compact(2) == 2

    around_next(store, monkeypatch, lose=True, after=forget)
    with pytest.raises(OutcomeUnknownError) as unknown:
        await store.append_all([entry(1)], 0)
    assert unknown.value.entry_id == "id-1"
    await other.close()


async def test_nothing_is_written_into_another_log_that_took_the_place_of_this_one(
    client: EtcdClient, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be at the same revision: what was planned on the former state would be put on top of another."""

    async def replace() -> None:
        await client.put(b"x/head", pb.Head(epoch="another").SerializeToString())

    around_next(store, monkeypatch, before=replace)
    with pytest.raises(UnavailableError, match="replaced"):
        await store.append_all([entry(1)], 0)
    assert not (await client.range(b"x/log/", b"x/log0")).kvs


async def test_of_a_lost_write_into_a_log_that_was_replaced_meanwhile_the_outcome_is_unknown(
    client: EtcdClient, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_store, "SETTLE_S", 0.3)

    async def replace() -> None:
        await client.put(b"x/head", pb.Head(epoch="another").SerializeToString())

    around_next(store, monkeypatch, lose=True, after=replace)
    with pytest.raises(OutcomeUnknownError, match="replaced"):
        await store.append_all([entry(1)], 0)


@pytest.mark.parametrize("lose", [False, True])
async def test_a_head_that_somebody_removed_is_named(
    client: EtcdClient, store: EtcdStore, monkeypatch: pytest.MonkeyPatch, lose: bool
) -> None:
    monkeypatch.setattr(etcd_store, "SETTLE_S", 0.3)
    around_next(store, monkeypatch, before=lambda: client.delete(b"x/head"), lose=lose)
    with pytest.raises(OutcomeUnknownError if lose else UnavailableError, match="nothing at x/head"):
        await store.append_all([entry(1)], 0)
