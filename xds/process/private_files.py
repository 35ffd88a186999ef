"""Creates files and directories that only their owner can read: stores hold private keys, and reports name nodes.

The mode is set when a file is created, so others can't open it at any moment. The umask can only narrow it.
"""

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

log = logging.getLogger("xds")
FILE_MODE, DIRECTORY_MODE = 0o600, 0o700
_OTHERS = 0o077


def make_directory(path: Path) -> None:
    """Create a directory and its missing parents with mode 0700. Existing ones are not changed. Raises OSError."""
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent)
    try:
        path.mkdir(mode=DIRECTORY_MODE)
    except FileExistsError:
        if not path.is_dir():
            raise


def make_empty(path: Path) -> None:
    """Create an empty file with mode 0600 unless it exists. Raises OSError."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE))


def open_private(path: Path, mode: str = "wb") -> IO[Any]:
    """Open a file for writing; a new one has mode 0600. Raises OSError."""
    encoding = None if "b" in mode else "utf-8"
    return open(path, mode, encoding=encoding, opener=_open)


def open_replacement(path: Path) -> IO[bytes]:
    """Open a new file with mode 0600, replacing one that a killed process left. Raises OSError."""
    path.unlink(missing_ok=True)
    return open(path, "xb", opener=_open)


def make_pipe(path: Path) -> None:
    """Create a named pipe with mode 0600: what is written to it is never on a disk. Raises OSError."""
    os.mkfifo(path, FILE_MODE)


def open_memory(name: str) -> IO[bytes]:
    """Return a file that is only in memory, for the output of a child process. Raises OSError."""
    return os.fdopen(os.memfd_create(name), "w+b")


def tighten(path: Path, mode: int = FILE_MODE) -> None:
    """Remove other users' permissions on a file or directory, and log that, or that it failed."""
    with suppress(OSError):
        found = stat.S_IMODE(path.stat().st_mode)
        if not found & _OTHERS:
            return
        try:
            path.chmod(found & mode)
        except OSError as error:
            log.warning("%s can be read by others (mode %04o), and can't be changed: %s", path, found, error.strerror)
        else:
            log.warning("%s could be read by others (mode %04o): its mode is %04o now", path, found, found & mode)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)
