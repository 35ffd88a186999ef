"""The head in a store in etcd only moves forward, in whatever order replies and watch events arrive."""

import asyncio

import pytest
from support.etcd import wait_known
from support.fake_etcd import FakeEtcd
from support.waiting import turns

from xds._generated import store_pb2 as pb
from xds.store import etcd as etcd_store
from xds.store.entries import Entry, Key
from xds.store.errors import ConflictError, OutcomeUnknownError
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import LostReplyError
from xds.store.records import encode_batch

A = Key("default", "type.googleapis.com/envoy.config.cluster.v3.Cluster", "a")


def entry(name: str) -> Entry:
    return Entry(id=name, operations={A: name.encode()})


@pytest.fixture
async def fake(monkeypatch):
    made = FakeEtcd()
    monkeypatch.setattr(etcd_store, "EtcdClient", lambda options: made)
    return made


@pytest.fixture
async def store(fake):
    made = await EtcdStore.open(None, "x")  # type: ignore[arg-type]
    yield made
    await made.close()


def write(fake: FakeEtcd, revision: int, name: str) -> None:
    """Append an entry as another replica does."""
    head = pb.Head.FromString(fake.value(b"x/head"))
    head.revision = revision
    record = pb.Record(batch=encode_batch([entry(name)], revision))
    fake.write(**{f"log_{revision:020d}": record.SerializeToString(), "head": head.SerializeToString()})


async def test_a_reply_that_arrives_after_later_watch_events_does_not_move_the_head_back(
    fake: FakeEtcd, store: EtcdStore
) -> None:
    async def overtaken() -> None:
        for revision in (2, 3):
            write(fake, revision, f"theirs-{revision}")
        fake.tell()
        await wait_known(store, 3)

    fake.before_reply = overtaken
    assert await store.append_all([entry("ours")], 0) == 1
    assert [stored.entry.id for stored in await store.entries(0)] == ["ours", "theirs-2", "theirs-3"]
    assert await store.append_all([entry("next")], 3) == 4, "the first try is on the newest head"


async def test_a_late_reply_to_a_fence_or_a_compaction_does_not_move_the_head_back(
    fake: FakeEtcd, store: EtcdStore
) -> None:
    assert await store.append_all([entry("first")], 0) == 1

    async def overtaken() -> None:
        write(fake, 2, "theirs")
        fake.tell()
        await wait_known(store, 2)

    fake.before_reply = overtaken
    assert await store.compact(1) == 1
    assert await store.append_all([entry("next")], 2) == 3

    transact, lost = fake.transact, iter([True])

    async def lose_one(*request):
        for _ in lost:
            raise LostReplyError("gone")
        return await transact(*request)

    fake.transact = lose_one  # type: ignore[method-assign]
    fake.before_reply = None

    async def overtake_the_fence() -> None:
        write(fake, 4, "theirs-too")
        fake.tell()
        await wait_known(store, 4)

    fake.before_reply = overtake_the_fence
    with pytest.raises(ConflictError) as refused:
        await store.append_all([entry("lost")], 3)
    assert refused.value.revision == 4
    assert await store.append_all([entry("lost")], 4) == 5


@pytest.mark.parametrize("of_the_same_content", [True, False])
async def test_a_lost_write_is_not_confirmed_by_another_change_with_its_id(
    fake: FakeEtcd, store: EtcdStore, of_the_same_content: bool
) -> None:
    """Another replica was given the same id: the entry at that revision may be another change."""
    ours = entry("same")

    async def lose(*_: object):
        head = pb.Head.FromString(fake.value(b"x/head"))
        head.revision = 1
        theirs = Entry(id="same", operations=ours.operations if of_the_same_content else {A: b"other"}, at_ms=7)
        record = pb.Record(batch=encode_batch([theirs], 1))
        fake.write(**{f"log_{1:020d}": record.SerializeToString(), "head": head.SerializeToString()})
        raise LostReplyError("gone")

    fake.transact = lose  # type: ignore[method-assign]
    with pytest.raises(ConflictError):
        await store.append_all([ours], 0)


async def test_a_write_with_an_unknown_outcome_is_answered_when_the_store_closes(
    fake: FakeEtcd, store: EtcdStore
) -> None:
    async def lose(*_: object):
        raise LostReplyError("gone")

    fake.transact = lose  # type: ignore[method-assign]
    waiting = asyncio.create_task(store.append_all([entry("a")], 0))
    await turns()
    await store.close()
    async with asyncio.timeout(2):
        with pytest.raises(OutcomeUnknownError):
            await waiting
