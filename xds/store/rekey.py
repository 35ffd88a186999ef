"""Encrypt the values that a store has already, with the newest key, or decrypt them.

Both can be interrupted at any time and run again: each value can be read before and after, and values that are done are
left as they are. A SQLite store must not be open; servers may use etcd meanwhile.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xds.store.database_file import open_database, store_error
from xds.store.sealing import Sealer, key_id_of

ROWS_AT_ONCE = 500
"""Rows that one transaction converts, so that the -wal stays small."""

Convert = Callable[..., bytes]
"""Returns the new form of a value (``convert(value, *context)``), the same object if it has that form already."""


@dataclass(slots=True)
class Progress:
    """How many values and digests were converted, and how many had the wanted form already."""

    converted: int = 0
    left: int = 0
    leftovers: tuple[str, ...] = ()
    """Names of pieces in etcd that no change refers to. A control plane that died left them, or one is writing them."""

    def add(self, other: "Progress") -> None:
        """Add the counts of another part of the store."""
        self.converted += other.converted
        self.left += other.left

    def follow(self, later: "Progress") -> None:
        """Take in the counts of a later pass over the same values."""
        self.converted += later.converted
        self.left = later.left

    def convert(self, by: Convert, value: bytes, *context: str) -> bytes:
        """Return the new form of a value, and count it."""
        found = by(value, *context)
        if found is value:
            self.left += 1
        else:
            self.converted += 1
        return found


def encrypting(sealer: Sealer) -> Convert:
    """Return the conversion that encrypts with the first key of a sealer. It raises UnreadableError."""
    newest = sealer.ring.keys[0].id

    def convert(value: bytes, *context: str) -> bytes:
        return value if key_id_of(value) == newest else sealer.seal(sealer.open(value, *context), *context)

    return convert


def decrypting(sealer: Sealer) -> Convert:
    """Return the conversion that decrypts. It raises UnreadableError."""
    return sealer.open


def convert_sqlite(path: Path, convert: Convert) -> Progress:
    """Convert all values in a SQLite store that no process has open. Raises StoreError.

    Afterwards the file and its -wal have no remains of the earlier values: each is overwritten where it stood
    (https://sqlite.org/pragma.html#pragma_secure_delete), and the file is then written anew (``VACUUM``).
    """
    done = Progress()
    try:
        with closing(open_database(path)) as database:
            database.execute("PRAGMA secure_delete = ON")
            _convert_resources(database, convert, done)
            _convert_operations(database, convert, done)
            _convert_digests(database, convert, done)
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise store_error(error, path) from error
    return done


def _convert_resources(database: sqlite3.Connection, convert: Convert, done: Progress) -> None:
    def work(row: Sequence[Any]) -> tuple[Any, ...] | None:
        *key, encoded = row
        found = done.convert(convert, encoded, "value", *key)
        return None if found is encoded else (found, *key)

    _by_pages(
        database,
        "SELECT scope, type_url, name, encoded FROM resources WHERE (scope, type_url, name) > (?, ?, ?)"
        " ORDER BY scope, type_url, name LIMIT ?",
        ("", "", ""),
        lambda row: tuple(row[:3]),
        work,
        "UPDATE resources SET encoded = ? WHERE scope = ? AND type_url = ? AND name = ?",
    )


def _convert_operations(database: sqlite3.Connection, convert: Convert, done: Progress) -> None:
    def work(row: Sequence[Any]) -> tuple[Any, ...] | None:
        revision, position, *key, encoded, before = row
        found = [None if each is None else done.convert(convert, each, "value", *key) for each in (encoded, before)]
        return None if found[0] is encoded and found[1] is before else (*found, revision, position)

    _by_pages(
        database,
        "SELECT revision, position, scope, type_url, name, encoded, before FROM operations"
        " WHERE (revision, position) > (?, ?) ORDER BY revision, position LIMIT ?",
        (-1, -1),
        lambda row: tuple(row[:2]),
        work,
        "UPDATE operations SET encoded = ?, before = ? WHERE revision = ? AND position = ?",
    )


def _convert_digests(database: sqlite3.Connection, convert: Convert, done: Progress) -> None:
    def work(row: Sequence[Any]) -> tuple[Any, ...] | None:
        revision, entry_id, digest = row
        found = done.convert(convert, digest, "digest", entry_id)
        return None if found is digest else (found, revision)

    _by_pages(
        database,
        "SELECT revision, id, digest FROM entries WHERE revision > ? ORDER BY revision LIMIT ?",
        (-1,),
        lambda row: (row[0],),
        work,
        "UPDATE entries SET digest = ? WHERE revision = ?",
    )


def _by_pages(
    database: sqlite3.Connection,
    select: str,
    after: tuple[Any, ...],
    place_of: Callable[[Sequence[Any]], tuple[Any, ...]],
    work: Callable[[Sequence[Any]], tuple[Any, ...] | None],
    update: str,
) -> None:
    """Update the rows for which ``work`` returns values, a page of rows in each transaction."""
    while rows := database.execute(select, (*after, ROWS_AT_ONCE)).fetchall():
        changed = [values for row in rows if (values := work(row)) is not None]
        if changed:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(update, changed)
            database.execute("COMMIT")
        after = place_of(rows[-1])
