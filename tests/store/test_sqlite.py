"""The file of a SQLite store: crashes, full disks, foreign files."""

import asyncio
import random
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.waiting import for_a_while, turns

from tests.store.crashing_writer import WIDTH
from xds.store.entries import Entry, Key, State
from xds.store.errors import NotAStoreError, OutcomeUnknownError, UnavailableError
from xds.store.sqlite import SqliteStore

A = Key("default", "type", "a")
KILLS = 12
WRITER = Path(__file__).with_name("crashing_writer.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "store.db"


class Database(sqlite3.Connection):
    """A database whose disk can be made to fail at some statements."""

    fails_at: tuple[str, ...] = ()
    fails_after: tuple[str, ...] = ()

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        done = None if sql in self.fails_at else super().execute(sql, *arguments)
        if done is None or sql in self.fails_after:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return done


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Database]:
    """The databases that stores have opened."""
    made: list[Database] = []
    connect = sqlite3.connect

    def note(*arguments: Any, **options: Any) -> Database:
        made.append(connect(*arguments, factory=Database, **options))
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", note)
    return made


async def test_what_was_appended_is_there_after_a_restart(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.append(Entry(id="1", operations={A: b"a"}, groups=b"rules"))
    await store.close()
    store = await SqliteStore.open(path)
    assert await store.state() == State(1, {A: b"a"}, b"rules")
    assert await store.append(Entry(id="1", operations={A: b"a"}, groups=b"rules")) == 1
    await store.close()


async def test_kill_9_loses_nothing_that_was_acknowledged_and_tears_nothing(path: Path) -> None:
    chance = random.Random(5)
    acknowledged = 0
    for _ in range(KILLS):
        with subprocess.Popen([sys.executable, str(WRITER), str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            first = int(writer.stdout.readline())
            assert first > acknowledged
            await for_a_while(chance.uniform(0, 0.05), "the kill comes at any moment")
            writer.kill()
            rest = writer.stdout.read().split(b"\n")[:-1]
        acknowledged = int(rest[-1]) if rest else first
        store = await SqliteStore.open(path)
        state = await store.state()
        assert acknowledged <= state.revision <= acknowledged + 1
        assert state.resources == {Key("g", "t", str(n)): b"%d" % state.revision for n in range(WIDTH)}
        kept = await store.entries(0, limit=100_000)
        assert [(stored.revision, stored.entry.id) for stored in kept] == [
            (n, f"id-{n}") for n in range(1, state.revision + 1)
        ]
        await store.close()


async def test_a_store_belongs_to_one_process(path: Path) -> None:
    store = await SqliteStore.open(path)
    with pytest.raises(UnavailableError, match="in use by another process"):
        await SqliteStore.open(path)
    await store.append(Entry(id="1", operations={A: b"a"}))
    await store.close()


async def test_a_full_disk_fails_only_the_write_and_writing_resumes(path: Path, opened: list[Database]) -> None:
    store = await SqliteStore.open(path)
    await store.append(Entry(id="1", operations={A: b"a"}))
    (database,) = opened
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    large = Entry(id="2", operations={A: b"x" * 100_000})
    with pytest.raises(UnavailableError, match="full"):
        await store.append(large)
    assert await store.state() == State(1, {A: b"a"})
    database.execute(f"PRAGMA max_page_count = {pages + 1_000}")
    assert await store.append(large) == 2
    await store.close()


@pytest.mark.parametrize("content", [b"not a database\n" * 40, b"x", b"SQLite format 3\0" + bytes(200)])
async def test_a_file_of_others_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(NotAStoreError, match="not a store of this control plane"):
        await SqliteStore.open(path)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


async def test_a_database_of_others_is_refused_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (a)")
    other.close()
    content = path.read_bytes()
    with pytest.raises(NotAStoreError, match="not a store"):
        await SqliteStore.open(path)
    assert path.read_bytes() == content


async def test_a_later_format_is_refused(path: Path) -> None:
    await (await SqliteStore.open(path)).close()
    content = bytearray(path.read_bytes())
    content[60:64] = (99).to_bytes(4)
    path.write_bytes(content)
    with pytest.raises(NotAStoreError, match="format 99, this version reads 1"):
        await SqliteStore.open(path)
    assert path.read_bytes() == content


async def test_a_damaged_file_is_refused_with_what_to_do(path: Path) -> None:
    store = await SqliteStore.open(path)
    for number in range(50):
        await store.append(Entry(id=f"{number}", operations={Key("g", "t", f"{number}"): b"x" * 3_000}))
    await store.close()
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 12] = b"\xa5" * (4096 * 10)
    path.write_bytes(content)
    with pytest.raises(NotAStoreError, match="restore a backup"):
        await SqliteStore.open(path)
    assert path.read_bytes() == content


async def test_a_path_that_cannot_be_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="file"):
        await SqliteStore.open(tmp_path / "file" / "store.db")
    with pytest.raises(UnavailableError):
        await SqliteStore.open(tmp_path)


async def test_a_cancelled_append_is_made_and_seen_by_watches(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.append(Entry(id="1", operations={A: b"a"}))
    watch = store.watch(0)
    assert (await anext(watch)).revision == 1
    told = asyncio.ensure_future(anext(watch))
    appending = asyncio.create_task(store.append(Entry(id="2", operations={A: b"b"})))
    await turns()  # it is asked for, and not made yet
    appending.cancel()
    assert (await asyncio.wait_for(told, 10)).revision == 2
    with pytest.raises(asyncio.CancelledError):
        await appending
    await store.close()


@pytest.mark.parametrize("statements", [("COMMIT",), ("COMMIT", "ROLLBACK")], ids=" ".join)
async def test_a_commit_that_the_disk_failed_has_an_unknown_outcome_and_can_be_tried_again(
    path: Path, opened: list[Database], statements: tuple[str, ...]
) -> None:
    store = await SqliteStore.open(path)
    (database,) = opened
    database.fails_at = statements
    entry = Entry(id="mine", operations={A: b"a"})
    with pytest.raises(OutcomeUnknownError, match="mine") as unknown:
        await store.append(entry)
    assert unknown.value.entry_id == "mine"
    database.fails_at = ()
    assert await store.append(entry) == 1
    assert await store.append(entry) == 1
    await store.close()


@pytest.mark.parametrize("then", ["nothing", "find", "newest", "kept"])
async def test_an_entry_that_was_committed_though_the_disk_failed_is_watched(
    path: Path, opened: list[Database], then: str
) -> None:
    store = await SqliteStore.open(path)
    (database,) = opened
    watching = asyncio.ensure_future(anext(aiter(store.watch(0))))
    await turns()
    database.fails_after = ("COMMIT",)
    if then != "nothing":  # the disk can't be read either, until another call

        def fail_from_now(sql: str) -> None:
            if sql == "COMMIT":
                database.fails_at = ("SELECT revision, oldest, rules FROM present",)

        database.set_trace_callback(fail_from_now)
    with pytest.raises(OutcomeUnknownError):
        await store.append_all([Entry(id="mine", operations={A: b"a"})], 0)
    database.set_trace_callback(None)
    database.fails_at = database.fails_after = ()
    if then != "nothing":
        assert not watching.done()
        await {"find": lambda: store.find(["mine"]), "newest": store.newest, "kept": store.kept}[then]()
    async with asyncio.timeout(5):
        assert (await watching).entry.id == "mine"
    await store.close()


async def test_an_error_names_missing_tables(path: Path) -> None:
    await (await SqliteStore.open(path)).close()
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE present")
    database.close()
    with pytest.raises(UnavailableError, match="present"):
        await SqliteStore.open(path)


@pytest.mark.parametrize("moment", range(4))
async def test_a_watch_that_is_reading_when_its_store_is_closed_ends(path: Path, moment: int) -> None:
    store = await SqliteStore.open(path)

    async def follow() -> list[int]:
        return [stored.revision async for stored in store.watch(0)]

    following = asyncio.create_task(follow())
    await turns(moment)
    await store.close()
    assert await asyncio.wait_for(following, 10) == []
