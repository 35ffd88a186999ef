"""Unreadable data in etcd is named, logged and retried; following etcd never ends silently."""

import logging
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.etcd import Etcd
from support.waiting import turns, wait_until

from xds._generated import store_pb2 as pb
from xds.store.cache import StateCache
from xds.store.entries import Entry, Key
from xds.store.errors import UnavailableError, UnreadableError
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import EtcdClient, EtcdOptions
from xds.store.records import encode_batch

A = Key("default", "type.googleapis.com/envoy.config.cluster.v3.Cluster", "a")
GARBAGE = b"no protobuf at all \xff"
LATER_VERSION = pb.Record().SerializeToString() + b"\xfa\x01\x03abc"


def entry(number: int) -> Entry:
    return Entry(id=f"id-{number}", operations={A: b"%d" % number})


def record(number: int) -> bytes:
    return bytes(pb.Record(batch=encode_batch([entry(number)], number)).SerializeToString())


class Place:
    """A prefix in a real etcd, which a test writes to by hand, with a store that has two entries."""

    def __init__(self, options: EtcdOptions, store: EtcdStore, prefix: str) -> None:
        self.options, self.store, self.prefix = options, store, prefix
        self.raw = EtcdClient(options)

    def key(self, name: str) -> bytes:
        return f"{self.prefix}/{name}".encode()

    def log_key(self, revision: int) -> bytes:
        return self.key(f"log/{revision:020d}")

    async def head(self) -> pb.Head:
        return pb.Head.FromString((await self.raw.range(self.key("head"))).kvs[0].value)

    async def move_head(self, revision: int) -> None:
        head = await self.head()
        head.revision = revision
        await self.raw.put(self.key("head"), head.SerializeToString())


@pytest.fixture(scope="module")
def etcd():
    made = Etcd()
    made.start()
    yield made
    for member in made.members:
        member.kill()


@pytest.fixture
async def place(etcd: Etcd) -> AsyncIterator[Place]:
    await etcd.wait_ready()
    prefix, options = uuid.uuid4().hex, EtcdOptions(endpoints=etcd.endpoints)
    store = await EtcdStore.open(options, prefix)
    for number in (1, 2):
        await store.append(entry(number))
    made = Place(options, store, prefix)
    yield made
    await made.raw.close()
    await store.close()


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{each.message} {getattr(each, 'problem', '')} {getattr(each, 'key', '')}" for each in caplog.records]


async def test_a_key_that_is_no_part_of_the_log_is_named_once_and_ignored(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("log/zz", "log/", "log/7"):
        await place.raw.put(place.key(name), GARBAGE)
    await place.raw.put(place.key("log/zz"), b"again")
    assert await place.store.append(entry(3)) == 3
    late = await EtcdStore.open(place.options, place.prefix)
    for store in (late, place.store):
        assert [stored.revision for stored in await store.entries(0)] == [1, 2, 3]
        assert (await store.state(2)).resources == {A: b"2"}
        assert store.away == ""
    await late.close()
    await wait_until(lambda: [each for each in logged(caplog) if "/log/zz" in each], lambda found: len(found) >= 2)
    assert len([each for each in logged(caplog) if "/log/zz" in each]) == 2, "once each store"


@pytest.mark.parametrize(
    "content",
    [GARBAGE, LATER_VERSION, b"", record(9), pb.Record(pieces="gone", piece_count=2).SerializeToString()],
    ids=["garbage", "later version", "empty", "another revision", "pieces gone"],
)
async def test_an_unreadable_record_is_named_and_followed_once_it_is_repaired(
    place: Place, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    caplog.set_level(logging.INFO, logger="xds")
    await place.raw.put(place.log_key(3), content)
    await place.move_head(3)
    key = place.log_key(3).decode()
    await wait_until(lambda: place.store.away, lambda why: key in why or "gone" in why)
    assert any(place.store.away in each for each in logged(caplog)), "it is logged"
    assert (await place.store.state()).resources == {A: b"2"}, "what is known stays"
    with pytest.raises(UnavailableError, match=re.escape(place.store.away)):
        await place.store.append(entry(4))
    with pytest.raises(UnavailableError):
        await place.store.newest()
    with pytest.raises(UnreadableError):
        await EtcdStore.open(place.options, place.prefix)
    await place.raw.put(place.log_key(3), record(3))
    await wait_until(lambda: place.store.away, equals="")
    assert (await place.store.state()).revision == 3
    assert await place.store.append(entry(4)) == 4
    assert "etcd is followed again" in [each.message for each in caplog.records]


async def test_a_missing_record_is_named(place: Place) -> None:
    await place.move_head(3)
    await wait_until(lambda: place.store.away, lambda why: "lacks a record" in why)
    await place.raw.put(place.log_key(3), record(3))
    await wait_until(lambda: place.store.away, equals="")
    assert (await place.store.state()).revision == 3


async def test_an_unreadable_head_is_named(place: Place) -> None:
    whole = (await place.raw.range(place.key("head"))).kvs[0].value
    await place.raw.put(place.key("head"), GARBAGE)
    await wait_until(lambda: place.store.away, lambda why: place.key("head").decode() in why)
    await place.raw.put(place.key("head"), whole)
    await wait_until(lambda: place.store.away, equals="")
    assert await place.store.append(entry(3)) == 3


async def test_an_unreadable_base_is_named(place: Place) -> None:
    await place.store.compact(2)
    base = (await place.head()).base
    await place.raw.put(place.key(f"pieces/{base}/000000"), GARBAGE)
    with pytest.raises(UnreadableError, match=base):
        await EtcdStore.open(place.options, place.prefix)
    await place.raw.delete(place.key(f"pieces/{base}/000000"))
    with pytest.raises(UnreadableError, match=base):
        await EtcdStore.open(place.options, place.prefix)


async def test_a_start_with_an_unreadable_etcd_has_the_last_known_state(place: Place, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    store = await EtcdStore.open(place.options, place.prefix, cache=StateCache(cache))
    await store.close()
    await place.raw.put(place.log_key(1), GARBAGE)
    store = await EtcdStore.open(place.options, place.prefix, cache=StateCache(cache))
    assert (await store.state()).resources == {A: b"2"}
    assert place.log_key(1).decode() in store.away
    await store.close()


async def test_records_beyond_the_head_are_not_part_of_the_log(place: Place) -> None:
    await place.raw.put(place.log_key(3), GARBAGE)
    await place.raw.put(place.log_key(4), record(4))
    with pytest.raises(UnavailableError, match=f"{place.log_key(3).decode()} that its head does not know of"):
        await place.store.append(entry(3))
    assert (await place.store.state()).revision == 2
    await place.raw.delete(place.log_key(3))
    await turns()
    assert await place.store.append(entry(3)) == 3
