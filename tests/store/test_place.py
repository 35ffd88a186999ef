"""A SQLite store whose file is deleted, moved or replaced while it is open: nothing acknowledged is lost."""

import asyncio
import errno
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from support.waiting import wait_until

from xds.store import place, sqlite
from xds.store.cache import StateCache
from xds.store.entries import Entry, Key, State
from xds.store.errors import OutcomeUnknownError, UnavailableError
from xds.store.sqlite import SqliteStore

A, B = Key("default", "type", "a"), Key("default", "type", "b")
ONE = Entry(id="1", operations={A: b"one"})
TWO = Entry(id="2", operations={B: b"two"})
BOTH = State(2, {A: b"one", B: b"two"}, None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(path)
    await opened.append(ONE)
    yield opened
    await opened.close()


async def after_a_kill(path: Path) -> State:
    """Return the state that a server started now would read, from a copy of the files."""
    for file in path.parent.glob(f"{path.name}*"):
        there = path.parent.parent / "restart" / file.name
        there.parent.mkdir(exist_ok=True)
        shutil.copy(file, there)
    restarted = await SqliteStore.open(path.parent.parent / "restart" / path.name)
    try:
        return await restarted.state()
    finally:
        await restarted.close()
        shutil.rmtree(path.parent.parent / "restart")


def delete_all(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def delete_file(path: Path) -> None:
    path.unlink()


def delete_wal(path: Path) -> None:
    path.with_name("store.db-wal").unlink()


def delete_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


def move_away(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def move_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def move_all_and_back_without_wal(path: Path) -> None:
    """Simulate an operator who moves the store away and back by hand."""
    moved = path.with_name("moved.db")
    path.rename(moved)
    path.with_name("store.db-wal").unlink()
    moved.rename(path)


GONE = [
    delete_all,
    delete_file,
    delete_wal,
    delete_directory,
    move_away,
    move_directory,
    move_all_and_back_without_wal,
]


@pytest.mark.parametrize("lose", GONE)
async def test_what_is_acknowledged_after_the_file_is_gone_is_there_after_a_restart(
    store: SqliteStore, path: Path, lose: Callable[[Path], None]
) -> None:
    lose(path)
    assert await store.append(TWO) == 2
    assert await after_a_kill(path) == BOTH
    assert await store.append(Entry(id="3", operations={A: None})) == 3
    assert await after_a_kill(path) == State(3, {B: b"two"}, None)
    assert [stored.entry.id for stored in await store.entries(0)] == ["1", "2", "3"]
    assert sorted(file.name for file in path.parent.glob("store.db*")) == ["store.db", "store.db-wal"]


@pytest.mark.parametrize("lose", GONE)
async def test_a_missing_file_is_noticed_without_a_change(
    store: SqliteStore, path: Path, lose: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    epoch = store.epoch
    lose(path)
    await wait_until(lambda: caplog.text, lambda text: "written again" in text)
    assert await after_a_kill(path) == State(1, {A: b"one"}, None)
    assert (store.epoch, store.refusing) == (epoch, "")
    with pytest.raises(UnavailableError, match="in use by another process"):
        await SqliteStore.open(path)


@pytest.mark.parametrize("lose", GONE)
async def test_a_server_that_ends_at_once_writes_the_file_again(path: Path, lose: Callable[[Path], None]) -> None:
    store = await SqliteStore.open(path)
    await store.append(ONE)
    lose(path)
    await store.close()
    assert await after_a_kill(path) == State(1, {A: b"one"}, None)


@pytest.mark.parametrize("lose", GONE)
async def test_a_file_that_goes_while_a_change_is_committed_costs_nothing(
    store: SqliteStore, path: Path, lose: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite._append

    def append(*arguments: object) -> tuple[int, bool]:
        lose(path)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite, "_append", append)
    assert await store.append(TWO) == 2
    assert await after_a_kill(path) == BOTH


@pytest.fixture
async def other(tmp_path: Path) -> Path:
    """Another complete store, to be moved to the path."""
    made = await SqliteStore.open(tmp_path / "other.db")
    await made.append(Entry(id="theirs", operations={A: b"theirs"}))
    await made.close()
    return tmp_path / "other.db"


async def test_another_file_in_its_place_is_left_alone_and_changes_are_refused_until_it_is_gone(
    store: SqliteStore, path: Path, other: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = other.read_bytes()
    other.rename(path)
    with pytest.raises(UnavailableError, match=f"{path} is another file now. Move it away"):
        await store.append(TWO)
    with pytest.raises(UnavailableError, match="another file"):
        await store.find(["1"])
    assert "another file" in store.refusing
    assert (await store.state()).resources == {A: b"one"}
    assert path.read_bytes() == content
    assert "the store is not in its place; changes are refused" in caplog.text
    path.unlink()
    await wait_until(lambda: store.refusing, equals="")
    assert await store.append(TWO) == 2
    assert await after_a_kill(path) == BOTH


async def test_another_file_is_left_alone_by_a_server_that_ends(path: Path, other: Path) -> None:
    store = await SqliteStore.open(path)
    await store.append(ONE)
    delete_all(path)
    content = other.read_bytes()
    other.rename(path)
    path.with_name("store.db-wal").write_bytes(b"")
    await store.close()
    assert (path.read_bytes(), path.with_name("store.db-wal").read_bytes()) == (content, b"")
    assert (await after_a_kill(path)).resources == {A: b"theirs"}


async def test_another_file_that_comes_during_a_commit_leaves_its_outcome_open(
    store: SqliteStore, path: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite._append

    def append(*arguments: object) -> tuple[int, bool]:
        if other.exists():
            other.rename(path)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sqlite, "_append", append)
    watch = store.watch(1)
    told = asyncio.ensure_future(anext(watch))
    with pytest.raises(OutcomeUnknownError, match="another file"):
        await store.append(TWO)
    assert not told.done()
    path.unlink()
    assert await store.append(TWO) == 2
    assert (await asyncio.wait_for(told, 10)).entry.id == "2"
    assert await after_a_kill(path) == BOTH


async def test_a_file_that_can_not_be_written_again_refuses_changes_until_it_can(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(place, "write_copy", full)
    delete_all(path)
    with pytest.raises(UnavailableError, match=f"{path} is gone and can't be written again: No space left"):
        await store.append(TWO)
    assert list(path.parent.iterdir()) == []
    monkeypatch.undo()
    assert await store.append(TWO) == 2
    assert await after_a_kill(path) == BOTH


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of its own."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mounted)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("file systems can't be mounted here")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=False, capture_output=True)


async def test_a_file_system_that_is_gone_is_not_taken_for_an_empty_directory(disk: Path) -> None:
    """Files written below the mount point would be hidden by the next mount."""
    store = await SqliteStore.open(disk / "made" / "store.db")
    await store.append(ONE)
    done = await asyncio.create_subprocess_exec("umount", "--lazy", str(disk))
    await done.wait()
    with pytest.raises(UnavailableError, match="gone with its file system: mount the file system again"):
        await store.append(TWO)
    assert list(disk.iterdir()) == []
    await store.close()


@pytest.mark.parametrize("lose", [delete_file, delete_directory, move_away])
async def test_the_local_copy_of_etcds_state_is_written_again_too(path: Path, lose: Callable[[Path], None]) -> None:
    kept = ("e" * 32, State(3, {A: b"a"}, None))
    copy = StateCache(path)
    copy.begin(lambda: kept)
    await wait_until(path.exists)
    lose(path)
    await wait_until(path.exists)
    assert StateCache(path).read() == kept
    await copy.end()
