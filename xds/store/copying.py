"""Copy a SQLite store, completely or not at all: for backup and restore."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from xds.process.private_files import make_directory, make_empty
from xds.store.database_file import SUFFIXES, open_database, store_error
from xds.store.errors import UnavailableError


def copy_store(source: Path, target: Path, *, new_epoch: bool, force: bool = False) -> int:
    """Copy a store that no process has open, and return its revision. Raises NotAStoreError and UnavailableError.

    The copy is checked and synced before it is renamed to ``target``. An existing target is an error, or, with
    ``force``, is renamed to ``TARGET.before``. The copy has mode 0600, and the owner of the target that it replaces.
    """
    if not source.exists():
        raise UnavailableError(f"{source} does not exist")

    def write(beside: Path) -> int:
        try:
            with closing(open_database(source)) as database:
                return write_copy(database, beside, new_epoch=new_epoch)
        except sqlite3.Error as error:
            raise store_error(error, source) from error

    return place_copy(target, write, force=force)


def place_copy(target: Path, write: Callable[[Path], int], *, force: bool = False) -> int:
    """Have ``write`` make a checked and synced copy in a file beside ``target``, rename it, and return its revision.

    An existing target is an error, or, with ``force``, is renamed to ``TARGET.before``. Raises the errors of ``write``,
    NotAStoreError and UnavailableError; the target is then as before.
    """
    if target.exists() and not force:
        raise UnavailableError(f"{target} exists already: give another path, or replace it with --force")
    beside = target.with_name(f"{target.name}.{os.getpid()}.new")
    try:
        make_directory(target.parent)
        revision = write(beside)
        if target.exists():
            with closing(open_database(target)):  # fails if a process has it open
                pass
            _give_owner(beside, of=target)
            target.replace(target.with_name(f"{target.name}.before"))
        beside.rename(target)
        sync(target.parent)
    except OSError as error:
        raise UnavailableError(f"{target}: {error.strerror}") from error
    finally:
        for suffix in SUFFIXES:
            with suppress(OSError):
                Path(f"{beside}{suffix}").unlink()
    return revision


def write_copy(database: sqlite3.Connection, path: Path, *, new_epoch: bool = False) -> int:
    """Copy a store into one new file, check and sync it, and return its revision.

    Raises OSError, sqlite3.Error, NotAStoreError and UnavailableError; the caller then removes the incomplete file.
    """
    copy_database(database, path)
    return finish_copy(path, new_epoch=new_epoch)


def copy_database(database: sqlite3.Connection, path: Path) -> None:
    """Copy a store into one new file, which is not synced. Raises OSError and sqlite3.Error."""
    make_empty(path)
    with closing(sqlite3.connect(path)) as copy:
        database.backup(copy)


def finish_copy(path: Path, *, new_epoch: bool = False) -> int:
    """Check and sync a copy, and return its revision.

    Raises OSError, sqlite3.Error, NotAStoreError and UnavailableError.
    """
    with closing(open_database(path)) as copy:
        if new_epoch:
            copy.execute("UPDATE present SET epoch = lower(hex(randomblob(16)))")
        revision = int(copy.execute("SELECT revision FROM present").fetchone()[0])
        copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sync(path)
    return revision


def _give_owner(path: Path, *, of: Path) -> None:
    """Give a file the owner of another one, so that the server can read a store that ``root`` restored."""
    ours, theirs = path.stat(), of.stat()
    if (ours.st_uid, ours.st_gid) != (theirs.st_uid, theirs.st_gid):
        os.chown(path, theirs.st_uid, theirs.st_gid)


def sync(path: Path) -> None:
    """Sync a file, or a directory's entries, to disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
