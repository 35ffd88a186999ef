"""A store in one SQLite file, for one process at a time. Every entry is synced to disk when ``append`` returns.

SQLite runs on a thread of its own, so that neither a disk sync nor a large read delays streams.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from xds.process.background import Background
from xds.store.copying import copy_database
from xds.store.database_file import open_database, store_error
from xds.store.entries import (
    Entry,
    EntrySummary,
    FoundEntry,
    GroupCounts,
    Key,
    State,
    Store,
    Stored,
    check,
    must_be_kept,
)
from xds.store.errors import (
    ConflictError,
    IdReusedError,
    NotYetError,
    OutcomeUnknownError,
    StoreError,
    UnavailableError,
)
from xds.store.place import Place, PlaceContent, other_file_message, write_again
from xds.store.recent import RecentEntries
from xds.store.revision_notifier import RevisionNotifier

log = logging.getLogger("xds")
T = TypeVar("T")

ERASE_AT_ONCE = 100
"""Entries that one transaction of ``compact`` removes: appends can run in between."""
LOOK_EVERY_S = 1.0
"""How often to check that the files are in place, besides before and after every commit."""


class SqliteStore(Store):
    """Create it with ``open``."""

    epoch: str = ""
    away: str = ""
    path: Path = Path()
    refusing: str = ""

    def __init__(self, path: Path, database: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self.path = path
        self.refusing = ""
        self._database = database
        self._place = Place(path)
        self._thread = thread
        self._looking: asyncio.Task[None] | None = None
        self._notifier = RevisionNotifier(_present(database)[0])
        self._recent = RecentEntries()
        self.epoch = str(database.execute("SELECT epoch FROM present").fetchone()[0])

    @classmethod
    async def open(cls, path: Path, *, background: Background | None = None) -> "SqliteStore":
        """Open or create the file. Raises UnavailableError, and NotAStoreError, which leaves the file unchanged."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        loop = asyncio.get_running_loop()
        try:
            database = await loop.run_in_executor(thread, open_database, path)
            store = await loop.run_in_executor(thread, cls, path, database, thread)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        store._looking = (background or Background()).keep("look after the store's file", store._look_after)
        return store

    async def append(self, entry: Entry, expected_revision: int | None = None) -> int:
        check(entry)
        return await self._append([entry], expected_revision, lambda: _append(self._database, entry, expected_revision))

    async def append_all(self, entries: Sequence[Entry], expected_revision: int) -> int:
        for entry in entries:
            check(entry)
        return await self._append(
            entries, expected_revision, lambda: _append_all(self._database, entries, expected_revision)
        )

    async def _append(
        self, entries: Sequence[Entry], expected_revision: int | None, work: Callable[[], tuple[int, bool]]
    ) -> int:
        try:
            revision, _ = await self._run(
                lambda: self._committed(entries[0].id, work), lambda appended: self._tell(entries, appended)
            )
        except ConflictError as error:
            self._see(error.revision)
            raise
        except OutcomeUnknownError:
            with suppress(StoreError):  # the next read finds out
                await self.newest()
            raise
        return revision

    def _see(self, revision: int) -> None:
        """Notify the watches of a revision in the database: an append whose outcome was unknown was committed."""
        if revision > self._notifier.revision:
            self._notifier.tell(revision)

    async def find(self, ids: Iterable[str]) -> Mapping[str, FoundEntry]:
        wanted = tuple(ids)
        newest, found = await self._run(lambda: self._find_kept(wanted))
        self._see(newest)
        return found

    async def newest(self) -> int:
        return (await self.kept())[1]

    async def kept(self) -> tuple[int, int]:
        newest, oldest, _ = await self._run(lambda: _present(self._database))
        self._see(newest)
        return oldest, newest

    async def summaries(self, after: int, limit: int = 100) -> list[EntrySummary]:
        return await self._run(lambda: _summaries(self._database, after, limit))

    async def state(self, revision: int | None = None) -> State:
        return await self._run(lambda: _state(self._database, revision))

    async def entries(self, after: int, limit: int = 100) -> list[Stored]:
        newest = self._notifier.revision
        # An entry whose outcome was unknown at first may be committed and yet missing in ``_recent``.
        if self._recent.newest == newest and after <= newest and not self._notifier.is_closed():
            recent = self._recent.after(after, limit)
            if recent is not None:
                return recent
        return await self._run(lambda: _entries(self._database, after, limit))

    def watch(self, after: int) -> AsyncIterator[Stored]:
        return self._notifier.follow(after, self.entries)

    async def compact(self, revision: int) -> int:
        while True:
            oldest = await self._run(lambda: self._write(lambda: _forget(self._database, revision)))
            self._recent.forget(oldest)
            if oldest >= revision:
                return oldest

    async def backup(self, path: Path) -> int:
        def copy() -> int:
            self._keep_in_place()
            copy_database(self._database, path)
            return _present(self._database)[0]

        try:
            return await self._run(copy)
        except OSError as error:
            raise UnavailableError(f"{path}: {error.strerror}") from error

    async def close(self) -> None:
        if self._notifier.is_closed():
            return
        self._notifier.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        with suppress(StoreError, sqlite3.Error):
            self._keep_in_place()
        self._database.close()  # SQLite does not touch another file that is now at the path

    async def _run(self, work: Callable[[], T], then: "Callable[[asyncio.Future[T]], None] | None" = None) -> T:
        """Run ``work`` on the store's thread, then ``then``, both even if the caller is cancelled meanwhile."""
        if self._notifier.is_closed():
            raise UnavailableError("the store is closed")
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)
        if then is not None:
            future.add_done_callback(then)
        return await asyncio.shield(future)

    def _tell(self, entries: Sequence[Entry], appended: "asyncio.Future[tuple[int, bool]]") -> None:
        if appended.cancelled() or appended.exception() is not None:
            return
        revision, is_new = appended.result()
        if is_new:
            first = revision - len(entries) + 1
            self._recent.add(Stored(first + number, entry) for number, entry in enumerate(entries))
        self._see(revision)

    def _find_kept(self, ids: tuple[str, ...]) -> tuple[int, dict[str, FoundEntry]]:
        """Return the newest revision, and the entries that were found."""
        self._keep_in_place()  # an entry in a deleted file would be lost with the process
        return _present(self._database)[0], _find(self._database, ids)

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.Error as error:
            raise store_error(error, self.path) from error

    def _committed(self, entry_id: str, work: Callable[[], T]) -> T:
        self._keep_in_place()
        try:
            done = self._write(work)
        except _CommitError as error:
            raise OutcomeUnknownError(entry_id, str(error)) from error
        try:
            self._keep_in_place()
        except UnavailableError as error:
            raise OutcomeUnknownError(entry_id, str(error)) from error
        return done

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            with suppress(StoreError):  # it has been logged, and changes are refused with it
                await self._run(self._keep_in_place)

    def _keep_in_place(self) -> None:
        """Check that the store's files are at their paths, and write them again if they are missing.

        Raises UnavailableError if that fails, or if another file is there.
        """
        found = self._place.look()
        if found is PlaceContent.OURS:
            self.refusing = ""
            return
        try:
            if found is PlaceContent.OTHER:
                raise UnavailableError(other_file_message(self.path))
            former, self._database = self._database, write_again(self._database, self._place)
        except StoreError as error:
            if self.refusing != str(error):
                log.error("the store is not in its place; changes are refused", extra={"problem": str(error)})
            self.refusing = str(error)
            raise UnavailableError(str(error)) from error
        former.close()
        self._place, self.refusing = Place(self.path), ""
        log.error("the store was gone from its place and was written again", extra={"path": str(self.path)})

    def _write(self, work: Callable[[], T]) -> T:
        """Run ``work`` in one transaction, and roll it back if it fails."""
        database = self._database
        self._roll_back()  # what a disk that failed left open
        database.execute("BEGIN IMMEDIATE")
        try:
            done = work()
        except BaseException:
            self._roll_back()
            raise
        try:
            database.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):  # its error would say that nothing was kept
                self._roll_back()
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR:
                raise _CommitError(str(error)) from error
            raise
        return done

    def _roll_back(self) -> None:
        if self._database.in_transaction:  # after some errors SQLite has rolled back already
            self._database.execute("ROLLBACK")


class _CommitError(sqlite3.DatabaseError):
    """Writing a commit failed. After a crash SQLite may still find it in the -wal and apply it."""


def _append(database: sqlite3.Connection, entry: Entry, expected_revision: int | None) -> tuple[int, bool]:
    """Return the entry's revision, and whether it is new."""
    kept = _find(database, (entry.id,)).get(entry.id)
    if kept is not None:
        if kept.digest != entry.digest():
            raise IdReusedError(entry.id, kept.revision)
        return kept.revision, False
    newest, _, rules = _present(database)
    if expected_revision is not None and expected_revision != newest:
        raise ConflictError(expected_revision, newest)
    _insert(database, entry, newest + 1, rules)
    return newest + 1, True


def _append_all(database: sqlite3.Connection, entries: Sequence[Entry], expected_revision: int) -> tuple[int, bool]:
    for entry_id, kept in _find(database, tuple(entry.id for entry in entries)).items():
        raise IdReusedError(entry_id, kept.revision)
    newest, _, rules = _present(database)
    if expected_revision != newest:
        raise ConflictError(expected_revision, newest)
    for entry in entries:
        newest += 1
        _insert(database, entry, newest, rules)
        rules = rules if entry.groups is None else entry.groups
    return newest, True


def _insert(database: sqlite3.Connection, entry: Entry, revision: int, rules: bytes | None) -> None:
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
        (revision, entry.id, entry.digest(), entry.author, entry.message, entry.at_ms, entry.groups, rules),
    )
    database.execute("UPDATE present SET revision = ?, rules = coalesce(?, rules)", (revision, entry.groups))


def _find(database: sqlite3.Connection, ids: tuple[str, ...]) -> dict[str, FoundEntry]:
    found = {}
    for entry_id in ids:
        row = database.execute("SELECT revision, digest FROM entries WHERE id = ?", (entry_id,)).fetchone()
        if row is not None:
            found[entry_id] = FoundEntry(*row)
    return found


def _summaries(database: sqlite3.Connection, after: int, limit: int) -> list[EntrySummary]:
    newest, oldest, _ = _present(database)
    must_be_kept(after, oldest=oldest, newest=newest)
    rows = database.execute(
        "SELECT revision, id, author, message, at_ms, rules IS NOT NULL, coalesce(length(rules), 0)"
        " FROM entries WHERE revision > ? ORDER BY revision LIMIT ?",
        (after, limit),
    ).fetchall()
    counts: dict[int, list[GroupCounts]] = {}
    sizes: dict[int, int] = {}
    for revision, size, *numbers in database.execute(
        "SELECT revision, sum(length(CAST(name AS BLOB)) + coalesce(length(encoded), 0)), scope,"
        " sum(before IS NULL AND encoded IS NOT NULL), sum(before IS NOT NULL AND encoded IS NOT NULL),"
        " sum(encoded IS NULL)"
        " FROM operations WHERE revision > ? AND revision <= ? GROUP BY revision, scope ORDER BY revision, scope",
        (after, rows[-1][0] if rows else after),
    ):
        counts.setdefault(revision, []).append(GroupCounts(*numbers))
        sizes[revision] = sizes.get(revision, 0) + size
    return [_summary(row, tuple(counts.get(row[0], ())), sizes.get(row[0], 0)) for row in rows]


def _summary(row: tuple[Any, ...], counts: tuple[GroupCounts, ...], size: int) -> EntrySummary:
    revision, entry_id, author, message, at_ms, has_rules, rules_size = row
    operations = sum(each.added + each.changed + each.removed for each in counts)
    size += rules_size
    return EntrySummary(revision, entry_id, author, message, at_ms, operations, counts, bool(has_rules), size)


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
        "SELECT revision, id, author, message, at_ms, rules, digest"
        " FROM entries WHERE revision > ? ORDER BY revision LIMIT ?",
        (after, limit),
    )
    return [
        Stored(
            revision,
            Entry(
                id=entry_id,
                **_operations(database, revision),
                groups=rules,
                author=author,
                message=message,
                at_ms=at_ms,
                request=digest,
            ),
        )
        for revision, entry_id, author, message, at_ms, rules, digest in found.fetchall()
    ]


def _operations(database: sqlite3.Connection, revision: int) -> dict[str, Any]:
    """Return ``operations`` and ``added`` of an entry."""
    query = (
        "SELECT scope, type_url, name, encoded, before IS NULL AND encoded IS NOT NULL"
        " FROM operations WHERE revision = ? ORDER BY position"
    )
    rows = database.execute(query, (revision,)).fetchall()
    return {
        "operations": {Key(*row[:3]): row[3] for row in rows},
        "added": frozenset(Key(*row[:3]) for row in rows if row[4]),
    }


def _forget(database: sqlite3.Connection, revision: int) -> int:
    """Remove some of the entries up to a revision; return the oldest revision that stays readable."""
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
    """Return the newest revision, the oldest readable one, and the group rules."""
    revision, oldest, rules = database.execute("SELECT revision, oldest, rules FROM present").fetchone()
    return revision, oldest, rules
