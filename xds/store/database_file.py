"""The SQLite file of a store: its tables, and the check of its header before SQLite opens it."""

import sqlite3
from pathlib import Path

from xds.process.private_files import make_directory, make_empty, tighten
from xds.store.errors import InUseError, NotAStoreError, UnavailableError

MAGIC = b"SQLite format 3\0"
APPLICATION_ID = 0x78445331
"""Marks the file as this product's, at offset 68 of the header (https://sqlite.org/fileformat.html, section 1.3)."""
FORMAT = 1
"""The version of the tables, at offset 60 of the header (``user_version``)."""
HEADER_BYTES = 100
SUFFIXES = ("", "-wal", "-shm", "-journal")
"""The suffixes of the files that SQLite makes beside a database; "" is the database itself."""

TABLES = """
CREATE TABLE entries (
    revision INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, digest BLOB NOT NULL,
    author TEXT NOT NULL, message TEXT NOT NULL, at_ms INTEGER NOT NULL, rules BLOB, rules_before BLOB
) STRICT;
CREATE TABLE operations (
    revision INTEGER NOT NULL, position INTEGER NOT NULL,
    scope TEXT NOT NULL, type_url TEXT NOT NULL, name TEXT NOT NULL, encoded BLOB, before BLOB,
    PRIMARY KEY (revision, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE resources (
    scope TEXT NOT NULL, type_url TEXT NOT NULL, name TEXT NOT NULL, encoded BLOB NOT NULL,
    PRIMARY KEY (scope, type_url, name)
) STRICT;
CREATE TABLE present (
    one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL, oldest INTEGER NOT NULL, rules BLOB,
    epoch TEXT NOT NULL
) STRICT;
INSERT INTO present VALUES (1, 0, 0, NULL, lower(hex(randomblob(16))));
"""
"""``resources`` and ``present`` hold the newest state. ``before`` is the value that an operation replaced: older states
are computed from it."""


def open_database(path: Path) -> sqlite3.Connection:
    """Open the file, or create it, locked by this process. Raises NotAStoreError and UnavailableError.

    The database is created with mode 0600. SQLite gives the files that it makes beside it the same mode
    (https://sqlite.org/src/file/src/os_unix.c, ``findCreateFileMode``); wider modes of existing files are narrowed
    first.
    """
    is_new = _must_be_ours(path)
    try:
        make_directory(path.parent)
        make_empty(path)
        for suffix in SUFFIXES:
            tighten(path.with_name(path.name + suffix))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    except (sqlite3.Error, OSError) as error:
        raise store_error(error, path) from error
    try:
        _prepare(connection, path, is_new=is_new)
    except sqlite3.Error as error:
        connection.close()
        raise store_error(error, path) from error
    except NotAStoreError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, *, is_new: bool) -> None:
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA synchronous = FULL")
    if not is_new:
        _must_be_whole(connection, path)
    if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:  # new, or creating it was cut short
        _make_tables(connection)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")  # takes the lock, and fails if the file can't be written
    connection.execute("SELECT revision FROM present").fetchone()
    connection.execute("COMMIT")


def store_error(error: Exception, path: Path) -> UnavailableError | NotAStoreError:
    """Return the store's error for an error of SQLite or the system."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return InUseError(f"{path} is in use by another process: only one control plane can open a store")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return NotAStoreError(f"{path} is damaged ({error}): restore a backup, or move the file away and start empty")
    return UnavailableError(f"{path}: {error.strerror if isinstance(error, OSError) else error}")


def _must_be_ours(path: Path) -> bool:
    """Return whether the file is missing or empty. Raises NotAStoreError if it is not a store of this format."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror}") from error
    if not header:
        return True
    if not header.startswith(MAGIC) or int.from_bytes(header[68:72]) != APPLICATION_ID:
        raise NotAStoreError(f"{path} is not a store of this control plane: give another path, or move it away")
    found = int.from_bytes(header[60:64])
    if found != FORMAT:
        raise NotAStoreError(f"{path} has format {found}, this version reads {FORMAT}: use the version that wrote it")
    return False


def _make_tables(connection: sqlite3.Connection) -> None:
    """Create the tables. The header marks the file as a store in the same transaction."""
    connection.execute("BEGIN EXCLUSIVE")
    for statement in TABLES.split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")


def _must_be_whole(connection: sqlite3.Connection, path: Path) -> None:
    found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        why = "; ".join(found)[:500]
        raise NotAStoreError(f"{path} is damaged ({why}): restore a backup, or move the file away and start empty")
