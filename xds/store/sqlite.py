"""A store in one SQLite file: every entry is on disk when ``append`` returns. One process at a time.

All of SQLite runs on a thread of its own, so that neither a disk that syncs nor a large read delays a stream.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from xds.store.database_file import open_database, refusal
from xds.store.entries import Entry, Key, State, Store, Stored, check, must_be_kept
from xds.store.errors import (
    ConflictError,
    IdReusedError,
    NotYetError,
    OutcomeUnknownError,
    UnavailableError,
)
from xds.store.news import News

T = TypeVar("T")

ERASE_AT_ONCE = 100
"""Entries that one transaction of ``compact`` forgets: appends get their turn in between."""


class SqliteStore(Store):
    """Get one from ``open``."""

    def __init__(self, path: Path, database: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self.path = path
        self._database = database
        self._thread = thread
        self._news = News(_present(database)[0])

    @classmethod
    async def open(cls, path: Path) -> "SqliteStore":
        """Open the file, or make it. Raises NotAStoreError, which leaves it as it is, and UnavailableError."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        loop = asyncio.get_running_loop()
        try:
            database = await loop.run_in_executor(thread, open_database, path)
            return await loop.run_in_executor(thread, cls, path, database, thread)
        except BaseException:
            thread.shutdown(wait=False)
            raise

    async def append(self, entry: Entry, expected_revision: int | None = None) -> int:
        check(entry)
        return await self._run(lambda: self._append(entry, expected_revision), self._tell)

    async def state(self, revision: int | None = None) -> State:
        return await self._run(lambda: _state(self._database, revision))

    async def entries(self, after: int, limit: int = 100) -> list[Stored]:
        return await self._run(lambda: _entries(self._database, after, limit))

    def watch(self, after: int) -> AsyncIterator[Stored]:
        return self._news.follow(after, self.entries)

    async def compact(self, revision: int) -> int:
        while True:
            oldest = await self._run(lambda: self._write(lambda: _forget(self._database, revision)))
            if oldest >= revision:
                return oldest

    async def close(self) -> None:
        if self._news.is_closed():
            return
        self._news.close()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._database.close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], T], then: "Callable[[asyncio.Future[T]], None] | None" = None) -> T:
        """Do the work on the store's thread, and ``then`` even where whoever waited for it has gone."""
        if self._news.is_closed():
            raise UnavailableError("the store is closed")
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)
        if then is not None:
            future.add_done_callback(then)
        return await asyncio.shield(future)

    def _tell(self, appended: "asyncio.Future[int]") -> None:
        if not appended.cancelled() and appended.exception() is None and appended.result() > self._news.revision:
            self._news.tell(appended.result())

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.Error as error:
            raise refusal(error, self.path) from error

    def _append(self, entry: Entry, expected_revision: int | None) -> int:
        try:
            return self._write(lambda: _append(self._database, entry, expected_revision))
        except _CommitError as error:
            raise OutcomeUnknownError(entry.id, str(error)) from error

    def _write(self, work: Callable[[], T]) -> T:
        """Do the work in one transaction, which leaves nothing if it fails."""
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        try:
            done = work()
        except BaseException:
            self._roll_back()
            raise
        try:
            database.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR:
                raise _CommitError(str(error)) from error
            raise
        return done

    def _roll_back(self) -> None:
        if self._database.in_transaction:  # some errors have done it already
            self._database.execute("ROLLBACK")


class _CommitError(sqlite3.DatabaseError):
    """A commit failed while it was written: a crash before the next one could bring it to light."""


def _append(database: sqlite3.Connection, entry: Entry, expected_revision: int | None) -> int:
    digest = entry.digest()
    kept = database.execute("SELECT revision, digest FROM entries WHERE id = ?", (entry.id,)).fetchone()
    if kept is not None:
        if kept[1] != digest:
            raise IdReusedError(entry.id, kept[0])
        return int(kept[0])
    newest, _, rules = _present(database)
    if expected_revision is not None and expected_revision != newest:
        raise ConflictError(expected_revision, newest)
    revision = newest + 1
    rows = ((revision, at, *key, encoded, *key) for at, (key, encoded) in enumerate(entry.operations.items()))
    database.executemany(
        "INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?,"
        " (SELECT encoded FROM resources WHERE scope = ? AND type_url = ? AND name = ?))",
        rows,
    )
    upserts = [(*key, encoded) for key, encoded in entry.operations.items() if encoded is not None]
    removals = [key for key, encoded in entry.operations.items() if encoded is None]
    database.executemany("INSERT OR REPLACE INTO resources VALUES (?, ?, ?, ?)", upserts)
    database.executemany("DELETE FROM resources WHERE scope = ? AND type_url = ? AND name = ?", removals)
    database.execute(
        "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (revision, entry.id, digest, entry.author, entry.message, entry.at_ms, entry.groups, rules),
    )
    database.execute("UPDATE present SET revision = ?, rules = coalesce(?, rules)", (revision, entry.groups))
    return revision


def _state(database: sqlite3.Connection, revision: int | None) -> State:
    newest, oldest, rules = _present(database)
    revision = newest if revision is None else revision
    must_be_kept(revision, oldest=oldest, newest=newest)
    resources = {Key(*row[:3]): row[3] for row in database.execute("SELECT * FROM resources")}
    undo = "SELECT scope, type_url, name, before FROM operations WHERE revision > ? ORDER BY revision DESC"
    for scope, type_url, name, before in database.execute(undo, (revision,)):
        if before is None:
            resources.pop(Key(scope, type_url, name), None)
        else:
            resources[Key(scope, type_url, name)] = before
    undo = "SELECT rules_before FROM entries WHERE revision > ? ORDER BY revision DESC"
    for (before,) in database.execute(undo, (revision,)):
        rules = before
    return State(revision, resources, rules)


def _entries(database: sqlite3.Connection, after: int, limit: int) -> list[Stored]:
    newest, oldest, _ = _present(database)
    must_be_kept(after, oldest=oldest, newest=newest)
    found = database.execute(
        "SELECT revision, id, author, message, at_ms, rules FROM entries WHERE revision > ? ORDER BY revision LIMIT ?",
        (after, limit),
    )
    return [
        Stored(
            revision,
            Entry(
                id=entry_id,
                operations=_operations(database, revision),
                groups=rules,
                author=author,
                message=message,
                at_ms=at_ms,
            ),
        )
        for revision, entry_id, author, message, at_ms, rules in found.fetchall()
    ]


def _operations(database: sqlite3.Connection, revision: int) -> dict[Key, bytes | None]:
    query = "SELECT scope, type_url, name, encoded FROM operations WHERE revision = ? ORDER BY position"
    return {Key(*row[:3]): row[3] for row in database.execute(query, (revision,))}


def _forget(database: sqlite3.Connection, revision: int) -> int:
    """Forget some of the entries up to a revision; return the oldest one whose state is kept then."""
    newest, oldest, _ = _present(database)
    if revision > newest:
        raise NotYetError(revision, newest)
    if revision <= oldest:
        return oldest
    until = min(revision, oldest + ERASE_AT_ONCE)
    database.execute("DELETE FROM operations WHERE revision <= ?", (until,))
    database.execute("DELETE FROM entries WHERE revision <= ?", (until,))
    database.execute("UPDATE present SET oldest = ?", (until,))
    return until


def _present(database: sqlite3.Connection) -> tuple[int, int, bytes | None]:
    """Return the newest revision, the oldest whose state is kept, and the group rules."""
    revision, oldest, rules = database.execute("SELECT revision, oldest, rules FROM present").fetchone()
    return revision, oldest, rules
