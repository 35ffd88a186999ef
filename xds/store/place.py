"""Whether the files of an open SQLite store are still where a restart looks for them, and writing them there again.

A file that was deleted, or moved away, still takes commits through its descriptor, and loses them with the process.
"""

import os
import sqlite3
from contextlib import suppress
from enum import Enum
from pathlib import Path

from xds.private_files import make_directory
from xds.store.copying import sync, write_copy
from xds.store.database_file import ENDS, open_database, refusal
from xds.store.errors import UnavailableError

_Inode = tuple[int, int]


class PlaceContent(Enum):
    """What is at the paths of an open store."""

    OURS = "its files"
    NOTHING = "nothing, in the place of one of them at least"
    OTHER = "another file"


class Place:
    """The paths of a store that was just opened, and the inodes of its files. They can't be reused while it is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wal = path.with_name(f"{path.name}-wal")
        self.device = path.parent.stat().st_dev
        self._inodes = {each: _inode(each) for each in (path, self.wal)}

    def look(self) -> PlaceContent:
        """Say what is there now. Costs two calls of stat."""
        found = {each: _inode(each) for each in self._inodes}
        if found == self._inodes:
            return PlaceContent.OURS
        other = any(inode not in (None, self._inodes[each]) for each, inode in found.items())
        return PlaceContent.OTHER if other else PlaceContent.NOTHING

    def has(self, path: Path) -> bool:
        """Say whether the store's own file is at one of its paths."""
        return _inode(path) is not None and _inode(path) == self._inodes[path]


def write_again(database: sqlite3.Connection, place: Place) -> sqlite3.Connection:
    """Write all that a store holds to its path, where one of its files is gone, and return it, opened there.

    A file that somebody else put there meanwhile is left as it is. Raises UnavailableError; ``database`` is open still.
    """
    path = place.path
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        if _device(path.parent) != place.device:
            raise UnavailableError(f"{path} is gone with its file system: mount that again")
        make_directory(path.parent)
        write_copy(database, beside)
        if place.has(path):
            beside.replace(path)  # only the -wal was gone
        else:
            if place.has(place.wal):  # SQLite would take it for the new file's
                place.wal.unlink()
            os.link(beside, path)
        sync(path.parent)
        return open_database(path)
    except FileExistsError:
        raise UnavailableError(another(path)) from None
    except sqlite3.Error as error:
        raise refusal(error, path) from error
    except OSError as error:
        raise UnavailableError(f"{path} is gone and can't be written again: {error.strerror}") from error
    finally:
        for end in ENDS:
            with suppress(OSError):
                Path(f"{beside}{end}").unlink()


def another(path: Path) -> str:
    """Return what to say where another file is in a store's place."""
    return (
        f"{path} is another file now. Move it away, with its -wal, and what is served is written there again; "
        "or restart, and what is in it is served"
    )


def _inode(path: Path) -> _Inode | None:
    try:
        status = os.stat(path)  # half the price of Path's
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _device(directory: Path) -> int:
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return directory.stat().st_dev
