"""Copies of a SQLite store, made whole or not at all: backups, and stores made of them."""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from xds.private_files import make_directory, make_empty
from xds.store.database_file import ENDS, open_database, refusal
from xds.store.errors import UnavailableError


def copy_store(source: Path, target: Path, *, new_epoch: bool, force: bool = False) -> int:
    """Copy a store that no process has open, and return its revision. Raises NotAStoreError and UnavailableError.

    The copy is checked and on disk before it gets its name. A target that is there is an error, or, with ``force``,
    becomes ``TARGET.before``. The copy has mode 0600, and the owner of a target that it replaces.
    """
    if not source.exists():
        raise UnavailableError(f"{source} does not exist")
    if target.exists() and not force:
        raise UnavailableError(f"{target} is there already: give another path, or replace it with --force")
    beside = target.with_name(f"{target.name}.{os.getpid()}.new")
    try:
        make_directory(target.parent)
        with closing(open_database(source)) as database:
            revision = write_copy(database, beside, new_epoch=new_epoch)
        if target.exists():
            with closing(open_database(target)):  # nobody has it open
                pass
            _give_owner(beside, of=target)
            target.replace(target.with_name(f"{target.name}.before"))
        beside.rename(target)
        sync(target.parent)
    except sqlite3.Error as error:
        raise refusal(error, source) from error
    except OSError as error:
        raise UnavailableError(f"{target}: {error.strerror}") from error
    finally:
        for end in ENDS:
            with suppress(OSError):
                Path(f"{beside}{end}").unlink()
    return revision


def write_copy(database: sqlite3.Connection, path: Path, *, new_epoch: bool = False) -> int:
    """Write what a store holds into one new file, check it, sync it, and return its revision.

    Raises OSError, sqlite3.Error, NotAStoreError and UnavailableError; what was written is the caller's to remove.
    """
    make_empty(path)
    with closing(sqlite3.connect(path)) as copy:
        database.backup(copy)
    with closing(open_database(path)) as copy:
        if new_epoch:
            copy.execute("UPDATE present SET epoch = lower(hex(randomblob(16)))")
        revision = int(copy.execute("SELECT revision FROM present").fetchone()[0])
        copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sync(path)
    return revision


def _give_owner(path: Path, *, of: Path) -> None:
    """Let the server still read its store after ``root`` restored it."""
    ours, theirs = path.stat(), of.stat()
    if (ours.st_uid, ours.st_gid) != (theirs.st_uid, theirs.st_gid):
        os.chown(path, theirs.st_uid, theirs.st_gid)


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
