"""Only the owner can read the files of a store, from their creation on."""

import asyncio
import logging
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import resources as r
from support.server import XDS, XdsServer
from support.waiting import wait_until

from xds.client import Client
from xds.store import cache, copying, database_file
from xds.store.cache import StateCache
from xds.store.copying import copy_store
from xds.store.entries import Entry, Key, State
from xds.store.opening import open_store
from xds.store.sqlite import SqliteStore

A = Key("default", "type", "a")


@pytest.fixture(params=[0o022, 0o000], ids=["umask 022", "umask 000"], autouse=True)
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(root: Path) -> dict[str, int]:
    """Return the modes of all files and directories below a directory, by relative path."""
    return {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in sorted(root.rglob("*"))}


def wide(root: Path) -> dict[str, str]:
    """Return the paths to which others than the owner have any access."""
    return {name: f"{mode:04o}" for name, mode in modes(root).items() if mode & 0o077}


async def filled(path: Path) -> SqliteStore:
    store = await SqliteStore.open(path)
    await store.append(Entry(id="1", operations={A: b"key"}))
    return store


async def test_a_store_and_what_is_beside_it_is_its_owners(tmp_path: Path) -> None:
    store = await filled(tmp_path / "new" / "deep" / "store.db")
    assert modes(tmp_path) == {
        "new": 0o700,
        "new/deep": 0o700,
        "new/deep/store.db": 0o600,
        "new/deep/store.db-wal": 0o600,
    }
    await store.close()


async def test_no_database_is_opened_before_it_has_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite creates missing files itself, with the mode that the umask leaves."""
    seen: dict[str, int] = {}

    def connect(path: Path, **options: Any) -> sqlite3.Connection:
        seen[path.name.split(".")[0]] = stat.S_IMODE(path.stat().st_mode)
        return sqlite3.connect(path, **options)

    for module in (database_file, copying):
        monkeypatch.setattr(module, "sqlite3", _With(sqlite3, connect=connect))
    await (await filled(tmp_path / "store.db")).close()
    copy_store(tmp_path / "store.db", tmp_path / "backup.db", new_epoch=False)
    assert seen == {"store": 0o600, "backup": 0o600}


class _With:
    def __init__(self, module: Any, **others: Any) -> None:
        self._module = module
        self.__dict__.update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


async def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    given.chmod(0o755)
    await (await filled(given / "store.db")).close()
    assert modes(tmp_path)["given"] == 0o755


async def test_the_wide_mode_of_an_older_store_is_narrowed_and_that_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "store.db"
    store = await filled(path)
    for name in ("store.db", "store.db-wal"):
        (tmp_path / f"copy-{name}").write_bytes(
            (tmp_path / name).read_bytes()
        )  # the files as a killed process leaves them
    await store.close()
    for name in ("store.db", "store.db-wal"):
        (tmp_path / f"copy-{name}").replace(tmp_path / name)
        (tmp_path / name).chmod(0o664)
    with caplog.at_level(logging.WARNING, "xds"):
        store = await SqliteStore.open(path)
    assert wide(tmp_path) == {}
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}{end} could be read by others (mode 0664): its mode is 0600 now" for end in ("", "-wal")
    ]
    assert (await store.state()).resources == {A: b"key"}
    await store.close()


async def test_a_file_of_others_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.write_bytes(b"not a store" * 100)
    path.chmod(0o644)
    with pytest.raises(Exception, match="not a store"):
        await SqliteStore.open(path)
    assert modes(tmp_path) == {"theirs": 0o644}


async def test_backups_and_restored_stores_are_their_owners(tmp_path: Path) -> None:
    store, backup = tmp_path / "store.db", tmp_path / "backups" / "b.db"
    await (await filled(store)).close()
    copy_store(store, backup, new_epoch=False)
    assert modes(tmp_path) == {"backups": 0o700, "backups/b.db": 0o600, "store.db": 0o600}
    for path in (store, backup):
        path.chmod(0o644)
    copy_store(backup, store, new_epoch=True, force=True)
    copy_store(backup, tmp_path / "other" / "store.db", new_epoch=True)
    assert wide(tmp_path) == {}
    assert {"store.db", "store.db.before", "other/store.db"} <= modes(tmp_path).keys()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_root_restores_a_store_that_its_server_can_read(tmp_path: Path) -> None:
    store, backup = tmp_path / "store.db", tmp_path / "backup.db"
    await (await filled(store)).close()
    copy_store(store, backup, new_epoch=False)
    os.chown(store, 65_534, 65_534)
    copy_store(backup, store, new_epoch=True, force=True)
    assert (store.stat().st_uid, store.stat().st_gid, store.stat().st_mode & 0o777) == (65_534, 65_534, 0o600)


@pytest.mark.parametrize("left", [False, True], ids=["new", "left by a process that was killed"])
async def test_the_local_copy_of_etcds_state_is_its_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    path = tmp_path / "made" / "etcd.cache"
    if left:
        path.parent.mkdir(mode=0o700)
        path.with_name("etcd.cache.new").write_bytes(b"half")
    replaced: list[int] = []
    monkeypatch.setattr(cache.os, "fsync", lambda number: replaced.append(stat.S_IMODE(os.fstat(number).st_mode)))
    copy = StateCache(path)
    copy.begin(lambda: ("e" * 32, State(3, {A: b"key"}, None)))
    await wait_until(path.exists)
    await copy.end()
    assert set(replaced) == {0o600}
    assert modes(tmp_path) == {"made": 0o700, "made/etcd.cache": 0o600}
    path.chmod(0o644)
    assert StateCache(path).read() == ("e" * 32, State(3, {A: b"key"}, None))
    assert wide(tmp_path) == {}


async def test_the_state_directory_that_an_earlier_version_made_is_closed_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "xds").mkdir()
    (tmp_path / "xds").chmod(0o755)
    store = await open_store("")
    assert modes(tmp_path)["xds"] == 0o700
    await store.close()


async def test_what_a_running_server_and_the_commands_write_is_its_owners(tmp_path: Path) -> None:
    async with XdsServer(None) as server:
        state = Path(server.env["XDG_STATE_HOME"])
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}") as client:
            await client.apply(upsert=[r.static_cluster("a", 1)])
            files = ("store.db", "store.db-wal", *(f"store.db.nodes{suffix}" for suffix in ("", "-shm", "-wal")))
            assert modes(state) == {"xds": 0o700} | {f"xds/{name}": 0o600 for name in files}
            await asyncio.to_thread(server.stop)
    for arguments in (("backup", "copies/b.db"), ("restore", "copies/b.db", "--force")):
        done = await asyncio.create_subprocess_exec(XDS, "store", *arguments, cwd=tmp_path, env=server.env)
        assert await done.wait() == 0
    assert modes(tmp_path / "copies") == {"b.db": 0o600}
    files = ("store.db", "store.db.before", "store.db.nodes")
    assert modes(state) == {"xds": 0o700} | {f"xds/{name}": 0o600 for name in files}
