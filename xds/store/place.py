"""Check that the files of an open SQLite store are still at their paths, and write them again if they are gone.

A file that was deleted or moved still accepts commits through its open descriptor, but they are lost when the process
ends.
"""

import os
import sqlite3
from contextlib import suppress
from enum import Enum
from pathlib import Path

from xds.process.private_files import make_directory
from xds.store.copying import sync, write_copy
from xds.store.database_file import SUFFIXES, open_database, store_error
from xds.store.errors import UnavailableError

_Inode = tuple[int, int]


class PlaceContent(Enum):
    """What is at the paths of an open store."""

    OURS = "all of its files"
    NOTHING = "at least one of its files is missing"
    OTHER = "another file"


class Place:
    """The paths of an open store, and the inodes of its files, which the system can't reuse while they are open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wal = path.with_name(f"{path.name}-wal")
        self.device = path.parent.stat().st_dev
        self._inodes = {each: _inode(each) for each in (path, self.wal)}

    def look(self) -> PlaceContent:
        """Return what is at the paths now. Costs two calls of stat."""
        found = {each: _inode(each) for each in self._inodes}
        if found == self._inodes:
            return PlaceContent.OURS
        other = any(inode not in (None, self._inodes[each]) for each, inode in found.items())
        return PlaceContent.OTHER if other else PlaceContent.NOTHING

    def has(self, path: Path) -> bool:
        """Return whether the store's own file is at one of its paths."""
        return _inode(path) is not None and _inode(path) == self._inodes[path]


def write_again(database: sqlite3.Connection, place: Place) -> sqlite3.Connection:
    """Write a store whose files are missing to its path again, and return the new file's connection.

    Another file that appears at the path meanwhile is not modified. Raises UnavailableError, with ``database`` still
    open.
    """
    path = place.path
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        if _device(path.parent) != place.device:
            raise UnavailableError(f"{path} is gone with its file system: mount the file system again")
        make_directory(path.parent)
        write_copy(database, beside)
        if place.has(path):
            beside.replace(path)  # only the -wal is missing
        else:
            if place.has(place.wal):  # SQLite would apply it to the new file
                place.wal.unlink()
            os.link(beside, path)
        sync(path.parent)
        return open_database(path)
    except FileExistsError:
        raise UnavailableError(other_file_message(path)) from None
    except sqlite3.Error as error:
        raise store_error(error, path) from error
    except OSError as error:
        raise UnavailableError(f"{path} is gone and can't be written again: {error.strerror}") from error
    finally:
        for suffix in SUFFIXES:
            with suppress(OSError):
                Path(f"{beside}{suffix}").unlink()


def other_file_message(path: Path) -> str:
    """Return the error message for another file at a store's path."""
    return (
        f"{path} is another file now. Move it away, with its -wal, and what is served is written there again; "
        "or restart, and what is in it is served"
    )


def _inode(path: Path) -> _Inode | None:
    try:
        status = os.stat(path)  # half the cost of Path.stat
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _device(directory: Path) -> int:
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory.stat().st_dev
