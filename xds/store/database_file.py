"""A SQLite file as a store's: whose it is, told from its header before SQLite opens it, and its tables."""

import sqlite3
from pathlib import Path

from xds.private_files import make_directory, make_empty, tighten
from xds.store.errors import NotAStoreError, UnavailableError

MAGIC = b"SQLite format 3\0"
APPLICATION_ID = 0x78445331
"""At offset 68 of the header: whose file it is (https://sqlite.org/fileformat.html, section 1.3)."""
FORMAT = 1
"""At offset 60 of the header (``user_version``): of which version the tables are."""
HEADER_BYTES = 100
ENDS = ("", "-wal", "-shm", "-journal")
"""What SQLite appends to a database's name for the files beside it; "" is the database itself."""

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
"""``resources`` and ``present`` are the newest state; ``before`` is what an operation replaced, for older states."""


def open_database(path: Path) -> sqlite3.Connection:
    """Open the file, or make it, for this process alone. Raises NotAStoreError and UnavailableError.

    SQLite gives the files that it makes beside it the mode of the database (https://sqlite.org/src/file/src/os_unix.c,
    ``findCreateFileMode``), which is 0600 from its first moment; a file that had a wider mode loses it first.
    """
    is_new = _must_be_ours(path)
    try:
        make_directory(path.parent)
        make_empty(path)
        for end in ENDS:
            tighten(path.with_name(path.name + end))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    except (sqlite3.Error, OSError) as error:
        raise refusal(error, path) from error
    try:
        _prepare(connection, path, is_new=is_new)
    except sqlite3.Error as error:
        connection.close()
        raise refusal(error, path) from error
    except NotAStoreError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, *, is_new: bool) -> None:
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA synchronous = FULL")
    if not is_new:
        _must_be_whole(connection, path)
    if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:  # new, or its maker was killed
        _make(connection)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")  # takes the lock now, and shows that the file can be written
    connection.execute("SELECT revision FROM present").fetchone()
    connection.execute("COMMIT")


def refusal(error: Exception, path: Path) -> UnavailableError | NotAStoreError:
    """Return what to say of an error of SQLite's or the system's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UnavailableError(f"{path} is in use by another process: a store belongs to one control plane")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return NotAStoreError(f"{path} is damaged ({error}): restore a backup of it, or move it away and start anew")
    return UnavailableError(f"{path}: {error.strerror if isinstance(error, OSError) else error}")


def _must_be_ours(path: Path) -> bool:
    """Say whether the file is still to be made; raise NotAStoreError where it is someone else's."""
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
    made_by = int.from_bytes(header[60:64])
    if made_by != FORMAT:
        raise NotAStoreError(f"{path} has format {made_by}, this version reads {FORMAT}: use the version that wrote it")
    return False


def _make(connection: sqlite3.Connection) -> None:
    """Make the tables; until all of that is on disk the header says that the file is nobody's."""
    connection.execute("BEGIN EXCLUSIVE")
    for statement in TABLES.split(";\n"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    connection.execute("COMMIT")


def _must_be_whole(connection: sqlite3.Connection, path: Path) -> None:
    found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        said = "; ".join(found)[:500]
        raise NotAStoreError(f"{path} is damaged ({said}): restore a backup of it, or move it away and start anew")
