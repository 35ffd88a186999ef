"""Encrypted stores: no value is written in plain, keys can be rotated at any time, and errors name the key."""

import asyncio
import itertools
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.etcd import Etcd, wait_known
from support.waiting import wait_until

from xds._generated import etcd_pb2
from xds.store import rekey
from xds.store.cache import StateCache
from xds.store.copying import copy_store
from xds.store.entries import Entry, Key, State, Store, Stored
from xds.store.errors import IdReusedError, StoreError, UnreadableError
from xds.store.etcd import EtcdStore
from xds.store.etcd_client import EtcdClient, EtcdOptions, end_of
from xds.store.etcd_rekey import STALE_PASSES_MAX, _Conversion, convert_etcd
from xds.store.keys import KeyRing, KeySource, StoreKey, new_key, write_key_file
from xds.store.memory import MemoryStore
from xds.store.rekey import convert_sqlite, decrypting, encrypting
from xds.store.sealed import SealedStore
from xds.store.sealing import MissingKeyError, Sealer
from xds.store.sqlite import SqliteStore

TYPE = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
A, B, C = Key("web", TYPE, "a"), Key("web", TYPE, "b/ü"), Key("payments", TYPE, "a")
MARKER = b"MARKER-of-a-secret-value"
LARGE = MARKER * 100_000


def entry(number: int, *keys: Key, value: bytes = MARKER) -> Entry:
    operations: dict[Key, bytes | None] = dict.fromkeys(keys or (A,), value + b"-%d" % number)
    return Entry(id=f"id-{number}", operations=operations, author="ann", at_ms=number)


def ring(*keys: StoreKey) -> KeyRing:
    return KeyRing(keys)


def sealed(inner: Store, *keys: StoreKey) -> SealedStore:
    return SealedStore(inner, KeySource(), ring(*keys))


async def whole(store: Store) -> tuple[State, list[Stored]]:
    """Return the newest state and all entries."""
    oldest, _ = await store.kept()
    return await store.state(), await store.entries(oldest, 1_000)


class Interrupted(BaseException):
    """Stands for the end of the process."""


def interrupted(conversion: rekey.Convert, *, after: int) -> rekey.Convert:
    """Return a conversion that is cut off after so many values."""
    left = after

    def convert(value: bytes, *context: str) -> bytes:
        nonlocal left
        found = conversion(value, *context)
        left -= found is not value
        if left < 0:
            raise Interrupted
        return found

    return convert


def with_marker(directory: Path) -> list[str]:
    """Return the files below a directory that have the marker, or a part of it as SQLite may split it."""
    return [path.name for path in directory.rglob("*") if path.is_file() and MARKER[:12] in path.read_bytes()]


async def filled_sqlite(path: Path, *keys: StoreKey) -> tuple[State, list[Stored]]:
    """Write a store with replaced values, removed ones, large ones and compacted entries; return what it has."""
    store = sealed(await SqliteStore.open(path), *keys)
    for number in range(20):
        await store.append(entry(number, A, B, C))
    await store.append(entry(20, B, value=LARGE))
    await store.append(Entry(id="gone", operations={C: None}))
    await store.compact(5)
    found = await whole(store)
    await store.close()
    return found


async def test_a_sqlite_store_and_its_copies_have_no_value_in_plain(tmp_path: Path) -> None:
    key = new_key()
    store = sealed(await SqliteStore.open(tmp_path / "store.db"), key)
    for number in range(20):
        await store.append(entry(number, A, B, C))
    await store.append(entry(20, B, value=LARGE))
    await store.append(Entry(id="gone", operations={C: None}))
    assert with_marker(tmp_path) == []
    assert (tmp_path / "store.db-wal").stat().st_size > 0
    await store.backup(tmp_path / "backup.db")
    await store.compact(5)
    assert await store.state(6) != await store.state(7)
    await store.close()
    copy_store(tmp_path / "store.db", tmp_path / "copy.db", new_epoch=True)
    assert with_marker(tmp_path) == []
    copied = sealed(await SqliteStore.open(tmp_path / "copy.db"), key)
    assert (await copied.state()).resources[B] == LARGE + b"-20"
    await copied.close()


async def test_encrypting_a_store_leaves_nothing_in_plain_and_changes_nothing_else(tmp_path: Path) -> None:
    path, key = tmp_path / "store.db", new_key()
    before = await filled_sqlite(path)
    assert "store.db" in with_marker(tmp_path)
    done = convert_sqlite(path, encrypting(Sealer(ring(key))))
    assert done.converted > 40
    assert done.left == 0
    assert with_marker(tmp_path) == []
    assert convert_sqlite(path, encrypting(Sealer(ring(key)))).converted == 0
    store = sealed(await SqliteStore.open(path), key)
    assert await whole(store) == before
    assert (await store.survey()).values_by_key.keys() == {key.id}
    await store.close()
    convert_sqlite(path, decrypting(Sealer(ring(key))))
    plain = await SqliteStore.open(path)
    assert await whole(plain) == before
    await plain.close()


async def test_an_encryption_that_is_interrupted_can_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value can be read in between, by who has both keys."""
    path, old, new = tmp_path / "store.db", new_key(), new_key()
    before = await filled_sqlite(path, old)
    monkeypatch.setattr(rekey, "ROWS_AT_ONCE", 2)
    interruptions = 0
    while True:
        try:
            convert_sqlite(path, interrupted(encrypting(Sealer(ring(new, old))), after=25))
            break
        except Interrupted:
            interruptions += 1
        store = sealed(await SqliteStore.open(path), new, old)
        assert await whole(store) == before
        await store.close()
    assert interruptions > 2
    store = sealed(await SqliteStore.open(path), new)
    assert await whole(store) == before
    await store.close()


@pytest.mark.parametrize("keys", [(), (new_key(),), (new_key(), new_key())])
async def test_a_store_without_its_key_names_the_key(tmp_path: Path, keys: Sequence[StoreKey]) -> None:
    lost = new_key()
    await filled_sqlite(tmp_path / "store.db", lost)
    store = sealed(await SqliteStore.open(tmp_path / "store.db"), *keys)
    for read in (store.state(), store.entries(10), store.find(["id-19"])):
        with pytest.raises(MissingKeyError) as refused:
            await read
        assert refused.value.key_id == lost.id
        assert lost.id in str(refused.value)
        assert all(key.id in str(refused.value) for key in keys)
    survey = await store.survey()
    assert survey.values_by_key.keys() == {lost.id}
    await store.close()


async def test_the_values_of_two_resources_cannot_be_exchanged(tmp_path: Path) -> None:
    """Who can write the file could else have the secret of one group served to another one."""
    path, key = tmp_path / "store.db", new_key()
    await filled_sqlite(path, key)
    with sqlite3.connect(path) as database:
        of_a = database.execute("SELECT encoded FROM resources WHERE name = 'a'").fetchone()
        database.execute("UPDATE resources SET encoded = ? WHERE name <> 'a'", of_a)
    database.close()
    store = sealed(await SqliteStore.open(path), key)
    with pytest.raises(UnreadableError, match="'b/ü' of the group 'web' can't be decrypted with its key"):
        await store.state()
    await store.close()


@pytest.mark.parametrize("at", [-1, 6, 20, 35, 60])
def test_a_changed_byte_anywhere_is_found(at: int) -> None:
    sealer = Sealer(ring(new_key()))
    value = bytearray(sealer.seal(MARKER, "value", *A))
    value[at] ^= 1
    with pytest.raises(UnreadableError):
        sealer.open(bytes(value), "value", *A)


def test_equal_values_are_sealed_differently_and_no_digest_is_taken_for_a_sealed_value() -> None:
    sealer = Sealer(ring(new_key()))
    assert sealer.seal(MARKER, "value", *A) != sealer.seal(MARKER, "value", *A)
    assert sealer.open(b"\0xds\x01" + b"0123456789a", "digest", "x") == b"\0xds\x01" + b"0123456789a"


async def test_a_retry_holds_over_an_encryption_and_a_rotation(tmp_path: Path) -> None:
    path, old, new = tmp_path / "store.db", new_key(), new_key()
    plain = await SqliteStore.open(path)
    assert await plain.append(entry(1)) == 1
    await plain.close()
    for keys in ([old], [new, old], [new]):
        convert_sqlite(path, encrypting(Sealer(ring(*keys))))
        store = sealed(await SqliteStore.open(path), *keys)
        assert await store.append(entry(1)) == 1
        found = (await store.find(["id-1"]))["id-1"]
        assert found.digest == entry(1).digest()
        with pytest.raises(IdReusedError):
            await store.append(Entry(id="id-1", operations={A: b"another"}))
        await store.close()


async def test_old_plain_values_are_counted_and_new_ones_encrypted(tmp_path: Path) -> None:
    path, key = tmp_path / "store.db", new_key()
    plain = await SqliteStore.open(path)
    await plain.append(entry(1, A, B))
    await plain.close()
    store = sealed(await SqliteStore.open(path), key)
    await store.append(entry(2, B))
    assert (await store.state()).resources == {A: MARKER + b"-1", B: MARKER + b"-2"}
    assert store.plain_count == 1
    await store.close()


async def test_a_reader_reads_the_keys_again_for_a_value_with_an_unknown_one(tmp_path: Path) -> None:
    """Another replica may have been given the new key first."""
    inner, old, new = MemoryStore(), new_key(), new_key()
    file = tmp_path / "keys"
    write_key_file(file, [old])
    reader = SealedStore(inner, KeySource(files=(file,)), ring(old))
    await sealed(inner, old).append(entry(1))
    watching = reader.watch(0)
    assert (await anext(watching)).entry == entry(1)
    write_key_file(file, [new, old])
    await sealed(inner, new).append(entry(2))
    assert (await anext(watching)).entry == entry(2)
    assert reader.key_ids == (new.id, old.id)


async def test_a_follower_without_the_key_of_a_change_refuses_changes_and_says_why() -> None:
    inner, known, unknown = MemoryStore(), new_key(), new_key()
    reader = sealed(inner, known)
    await sealed(inner, unknown).append(entry(1))
    with pytest.raises(MissingKeyError):
        await anext(reader.watch(0))
    assert unknown.id in reader.refusing
    with pytest.raises(StoreError, match=unknown.id):
        await reader.append_all([entry(2)], 1)


# --- etcd ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def etcd() -> Etcd:
    """One etcd of this module's tests, each of which uses its own prefix."""
    made = Etcd()
    made.start()
    return made


async def options_of(etcd: Etcd) -> EtcdOptions:
    await etcd.wait_ready()
    return EtcdOptions(endpoints=etcd.endpoints)


async def values(options: EtcdOptions, prefix: str) -> list[bytes]:
    client = EtcdClient(options)
    found = await client.range(f"{prefix}/".encode(), end_of(f"{prefix}/".encode()))
    await client.close()
    return [kv.value for kv in found.kvs]


async def fill_etcd(store: Store) -> None:
    for number in range(10):
        await store.append(entry(number, A, B, C))
    await store.append(entry(10, B, value=LARGE))  # in pieces
    await store.compact(4)  # makes a base
    await store.append(entry(11, C))


async def test_etcd_and_its_local_copy_have_no_value_in_plain(etcd: Etcd, tmp_path: Path) -> None:
    options, key = await options_of(etcd), new_key()
    cache = StateCache(tmp_path / "etcd.cache")
    store = sealed(await EtcdStore.open(options, "plain", cache=cache), key)
    await fill_etcd(store)
    before = await whole(store)
    await store.close()
    assert not any(MARKER[:12] in value for value in await values(options, "plain"))
    assert (tmp_path / "etcd.cache").stat().st_size > len(LARGE)
    assert with_marker(tmp_path) == []
    again = sealed(await EtcdStore.open(options, "plain"), key)
    assert await whole(again) == before
    await again.close()


async def test_etcd_is_encrypted_anew_while_control_planes_write(etcd: Etcd) -> None:
    options, old, new = await options_of(etcd), new_key(), new_key()
    writer = sealed(await EtcdStore.open(options, "rekey"), new, old)
    plain = await EtcdStore.open(options, "rekey")
    await fill_etcd(plain)
    follower = sealed(await EtcdStore.open(options, "rekey"), new, old)
    stopping = asyncio.Event()

    async def write() -> int:
        number = 100
        while not stopping.is_set():
            await writer.append(entry(number, A, B))
            number += 1
            if number % 20 == 0:
                await writer.compact(number - 100)
        return number

    writing = asyncio.create_task(write())
    for keys in ([old], [new, old]):
        await convert_etcd(options, "rekey", encrypting(Sealer(ring(*keys))) if keys[0] is new else _first(old))
    stopping.set()
    await writing
    await convert_etcd(options, "rekey", encrypting(Sealer(ring(new, old))))
    assert not any(MARKER[:12] in value for value in await values(options, "rekey"))
    newest = await whole(writer)
    only_new = sealed(await EtcdStore.open(options, "rekey"), new)
    assert await whole(only_new) == newest
    assert (await follower.state()).resources[C] == MARKER + b"-11"
    for store in (writer, plain, follower, only_new):
        await store.close()


async def test_a_compaction_leaves_no_value_with_the_key_that_it_had_in_memory(etcd: Etcd) -> None:
    """A server that runs since before the conversion compacts all of its history, and the old key is removed."""
    options, old, new = await options_of(etcd), new_key(), new_key()
    server = sealed(await EtcdStore.open(options, "memory"), old)
    await fill_etcd(server)
    await convert_etcd(options, "memory", encrypting(Sealer(ring(new, old))))
    assert await server.compact(await server.newest()) == 12
    only_new = sealed(await EtcdStore.open(options, "memory"), new)
    assert (await only_new.state()).resources[C] == MARKER + b"-11"
    for store in (server, only_new):
        await store.close()


@pytest.mark.parametrize(("step", "written"), [("read_base", 1), ("read_log", 1), ("put_pieces", 2)])
async def test_a_compaction_during_a_conversion_is_left_for_the_next_time(
    etcd: Etcd, step: str, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes the state in vain only if the conversion begins while it does."""
    options, prefix, old, new = await options_of(etcd), f"meanwhile-{step}", new_key(), new_key()
    inner = await EtcdStore.open(options, prefix)
    server = sealed(inner, new, old)
    await fill_etcd(sealed(inner, old))
    put_pieces, states = inner._layout.put_pieces, []
    is_converted = False

    async def count(data: bytes) -> tuple[str, int]:
        states.append(data)
        return await put_pieces(data)

    monkeypatch.setattr(inner._layout, "put_pieces", count)
    go_on = getattr(inner._layout, step)

    async def convert_before(*arguments: Any, **more: Any) -> Any:
        nonlocal is_converted
        if not is_converted:
            is_converted = True
            await convert_etcd(options, prefix, encrypting(Sealer(ring(new, old))))
        return await go_on(*arguments, **more)

    monkeypatch.setattr(inner._layout, step, convert_before)
    assert await server.compact(8) == 4
    assert await server.compact(8) == 8
    assert len(states) == written
    only_new = sealed(await EtcdStore.open(options, prefix), new)
    assert (await only_new.state()).resources[C] == MARKER + b"-11"
    assert (await only_new.survey()).values_by_key.keys() == {new.id}
    done = await convert_etcd(options, prefix, encrypting(Sealer(ring(new))))
    assert (done.converted, done.leftovers) == (0, ())
    for store in (server, only_new):
        await store.close()


async def test_a_compaction_writes_no_state_where_another_replica_was_faster(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = await options_of(etcd)
    slow, fast = [await EtcdStore.open(options, "faster") for _ in range(2)]
    await fill_etcd(slow)
    await wait_known(fast, 12)
    read_log, states = slow._layout.read_log, []

    async def compact_after(*arguments: Any, **more: Any) -> list[Stored]:
        read = await read_log(*arguments, **more)
        assert await fast.compact(8) == 8
        await wait_until(slow.kept, lambda kept: kept[0] == 8)
        return read

    async def count(data: bytes) -> tuple[str, int]:
        states.append(data)
        return "", 0

    monkeypatch.setattr(slow._layout, "read_log", compact_after)
    monkeypatch.setattr(slow._layout, "put_pieces", count)
    assert (await slow.compact(6), states) == (8, [])
    for store in (slow, fast):
        await store.close()


async def test_large_changes_are_converted_where_etcd_keeps_no_old_revisions(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the revisions at which they were written, nor those at which the conversion began."""
    options, key = await options_of(etcd), new_key()
    store = await EtcdStore.open(options, "large")
    for number, value in enumerate((LARGE, MARKER, LARGE, MARKER)):
        await store.append(entry(number, value=value))
    before = await whole(store)
    await store.close()
    convert_record = _Conversion._convert_record

    async def compact_before(conversion: _Conversion, kv: etcd_pb2.KeyValue, found: rekey.Progress) -> None:
        await etcd.forget_old_revisions()
        await convert_record(conversion, kv, found)

    monkeypatch.setattr(_Conversion, "_convert_record", compact_before)
    done = await convert_etcd(options, "large", encrypting(Sealer(ring(key))))
    assert done.leftovers == ()
    assert not any(MARKER[:12] in value for value in await values(options, "large"))
    again = sealed(await EtcdStore.open(options, "large"), key)
    assert await whole(again) == before
    await again.close()


async def test_values_that_a_compaction_moves_past_a_conversion_are_converted(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compaction comes after the base was looked at, and takes all records away before they are."""
    options, old, new = await options_of(etcd), new_key(), new_key()
    server = sealed(await EtcdStore.open(options, "moved"), old)
    for number in range(3):
        await server.append(entry(number, A, B, C))
    convert_log = _Conversion._convert_log

    async def compact_before(conversion: _Conversion, found: rekey.Progress) -> None:
        await server.compact(await server.newest())
        await convert_log(conversion, found)

    monkeypatch.setattr(_Conversion, "_convert_log", compact_before)
    await convert_etcd(options, "moved", encrypting(Sealer(ring(new, old))))
    only_new = sealed(await EtcdStore.open(options, "moved"), new)
    assert (await only_new.state()).resources[C] == MARKER + b"-2"
    for store in (server, only_new):
        await store.close()


async def test_a_control_plane_that_goes_on_with_another_key_is_named(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, old, new = await options_of(etcd), new_key(), new_key()
    server = sealed(await EtcdStore.open(options, "stale"), old)
    await fill_etcd(server)
    numbers = itertools.count(100)
    convert_base = _Conversion._convert_base

    async def write_before(conversion: _Conversion, found: rekey.Progress) -> str:
        await server.append(entry(next(numbers)))
        return await convert_base(conversion, found)

    monkeypatch.setattr(_Conversion, "_convert_base", write_before)
    said = rf"another key \(revision \d+ by ann with the key {old.id}\): give all of them the newest"
    with pytest.raises(StoreError, match=said):
        await convert_etcd(options, "stale", encrypting(Sealer(ring(new, old))))
    assert next(numbers) == 100 + STALE_PASSES_MAX
    await server.close()


def _first(old: StoreKey) -> rekey.Convert:
    """Encrypt with an old key what is in plain, as a rotation before this one did."""
    sealer = Sealer(ring(old))

    def convert(value: bytes, *context: str) -> bytes:
        return value if value.startswith(b"\0xds") else sealer.seal(value, *context)

    return convert


async def test_an_encryption_of_etcd_that_is_interrupted_can_be_run_again(etcd: Etcd) -> None:
    options, key = await options_of(etcd), new_key()
    store = await EtcdStore.open(options, "cut")
    await fill_etcd(store)
    before = await whole(store)
    await store.close()
    interruptions = 0
    while True:
        try:
            await convert_etcd(options, "cut", interrupted(encrypting(Sealer(ring(key))), after=7))
            break
        except Interrupted:
            interruptions += 1
        mixed = sealed(await EtcdStore.open(options, "cut"), key)
        assert await whole(mixed) == before
        await mixed.close()
    assert interruptions > 2
    assert not any(MARKER[:12] in value for value in await values(options, "cut"))
    again = sealed(await EtcdStore.open(options, "cut"), key)
    assert await whole(again) == before
    await again.close()
