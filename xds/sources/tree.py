"""Find the files of a directory of resources, with their stamps, without opening them.

A file's path determines its group: ``DIR/<group>/**/*.{yaml,yml,json}``; files directly in DIR belong to the group
``default``. Ignored are hidden names, editors' temporary and backup files, and other extensions. A ConfigMap's
``..data`` and ``..2026_…`` are hidden; its files are found by the visible symlinks to them.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from xds.model.groups import DEFAULT_GROUP
from xds.model.problem import Problem

EXTENSIONS = (".yaml", ".yml", ".json")
GROUP_FILES = tuple("groups" + extension for extension in EXTENSIONS)
LINKS_SETTING = "links_outside"
"""The setting for ``TreeLimits.links_outside``."""
AHEAD_NS_MAX = 60_000_000_000
"""How far the clock of a file server may be ahead of ours."""
_GROUP_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeLimits:
    """Limits of a directory's size."""

    files_max: int = 50_000
    bytes_max: int = 2 << 30
    entries_max: int = 1_000_000
    """Directory entries, ignored ones included."""
    depth_max: int = 32
    links_outside: bool = False
    """Whether symlinks may lead out of the directory."""


class Stamp(NamedTuple):
    """A file's metadata, which changes whenever its content does, except within a tick of the file system's clock (see
    ``is_settled``)."""

    mtime_ns: int
    ctime_ns: int
    size_bytes: int
    inode: int
    device: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Return the stamp in a stat result."""
        return cls(status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)

    def is_settled(self, now_ns: int, *, tick_ns: int = 50_000_000) -> bool:
        """Return whether any later write changes the stamp: the file's times are more than a tick ago.

        Times far ahead of the clock are those of before it was set back: a later write sets earlier ones.
        """
        newest_ns = max(self.mtime_ns, self.ctime_ns)
        return newest_ns + tick_ns < now_ns or newest_ns > now_ns + AHEAD_NS_MAX


class FoundFile(NamedTuple):
    """A file of resources: its visible path, its group by path, and its stamp."""

    path: str
    group: str
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Tree:
    """One sweep of a directory. Equal trees have the same files with the same stamps."""

    root: tuple[int, int] | None = None
    """Device and inode of the directory itself, None if it does not exist."""
    files: tuple[FoundFile, ...] = ()
    """In order of path."""
    group_file: FoundFile | None = None
    groups: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    directories: frozenset[str] = field(default=frozenset(), compare=False)
    """Directories outside of the root that symlinks lead to, which must be watched too."""


def scan_tree(root: Path, limits: TreeLimits) -> Tree:
    """Sweep the directory, following symlinks. Problems are in the result, not raised."""
    return _Scan(root, limits).tree()


class _TooMuchError(Exception):
    """A limit was exceeded, which ends the sweep."""


class _Scan:
    def __init__(self, root: Path, limits: TreeLimits) -> None:
        self._root, self._limits = root, limits
        self._real_root = os.path.realpath(root)
        self._files: list[FoundFile] = []
        self._group_files: list[FoundFile] = []
        self._groups: set[str] = set()
        self._problems: list[Problem] = []
        self._directories: set[str] = set()
        self._entries = self._bytes = 0

    def tree(self) -> Tree:
        try:
            status = os.stat(self._root)
        except OSError as error:
            return Tree(problems=(self._no_root(error),))
        root = (status.st_dev, status.st_ino)
        if not stat.S_ISDIR(status.st_mode):
            hint = f"give the directory that holds it: {self._root.parent}"
            return Tree(root=root, problems=(Problem(what="is not a directory", hint=hint, file=str(self._root)),))
        try:
            self._walk(str(self._root), DEFAULT_GROUP, (root,))
        except _TooMuchError as error:
            what, hint = error.args
            # Nothing is served of a directory that is too large, so none of its files is opened.
            self._files, self._group_files, self._groups = [], [], set()
            self._problems.append(Problem(what=what, hint=hint, file=str(self._root)))
        return self._result(root)

    def _result(self, root: tuple[int, int]) -> Tree:
        for extra in self._group_files[1:]:
            what = f"the groups' rules are in {os.path.basename(self._group_files[0].path)} already"
            self._problems.append(Problem(what=what, hint="keep one of the two files", file=extra.path))
        return Tree(
            root=root,
            files=tuple(sorted(self._files)),
            group_file=self._group_files[0] if self._group_files else None,
            groups=tuple(sorted(self._groups)),
            problems=tuple(sorted(self._problems, key=lambda problem: (problem.file, problem.what))),
            directories=frozenset(self._directories),
        )

    def _no_root(self, error: OSError) -> Problem:
        if isinstance(error, FileNotFoundError):
            hint = "create it, or name another directory"
            return Problem(what="the directory does not exist", hint=hint, file=str(self._root))
        return Problem(what=f"can't be read: {error.strerror}", hint="", file=str(self._root))

    def _walk(self, directory: str, group: str, above: tuple[tuple[int, int], ...]) -> None:
        for entry in self._listing(directory):
            if entry.is_symlink() and self._leads_outside(entry):
                continue
            try:
                status = os.stat(entry.path)  # entry.stat() would keep half a kilobyte an entry
            except OSError as error:
                if entry.name.lower().endswith(EXTENSIONS) or entry.is_symlink():
                    self._unreachable(entry, error)
                continue
            if stat.S_ISDIR(status.st_mode):
                self._enter(entry, status, group, above)
            elif entry.name.lower().endswith(EXTENSIONS):
                self._take(entry, status, group, is_root=len(above) == 1)

    def _leads_outside(self, entry: os.DirEntry[str]) -> bool:
        if self._limits.links_outside:
            return False
        real = os.path.realpath(entry.path)
        if real == self._real_root or real.startswith(self._real_root.rstrip("/") + "/"):
            return False
        what = f"a symlink to {_target(entry.path)}, which is outside of the served directory"
        hint = f"put the files into the directory, or allow such symlinks with {LINKS_SETTING}: true"
        self._problems.append(Problem(what=what, hint=hint, file=entry.path))
        return True

    def _listing(self, directory: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(directory) as entries:
                found = list(self._counted(entries))
        except OSError as error:
            if not isinstance(error, FileNotFoundError):  # else it was removed meanwhile; the next sweep notices
                self._problems.append(_unreadable(directory, error))
            return iter(())
        return iter(sorted(found, key=lambda entry: entry.name))

    def _counted(self, entries: Iterable[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        """Yield what is not ignored; end the sweep as soon as there is too much, before anything of it is kept."""
        files = len(self._files)
        for entry in entries:
            if _is_ignored(entry.name):
                continue
            self._entries += 1
            if self._entries > self._limits.entries_max:
                what = f"more than {self._limits.entries_max:,} directory entries, symlinked ones included"
                raise _TooMuchError(what, "does a symlink lead to something large?")
            files += entry.name.lower().endswith(EXTENSIONS) and not entry.is_dir(follow_symlinks=False)
            if files > self._limits.files_max + len(GROUP_FILES):
                raise self._too_many_files()
            yield entry

    def _too_many_files(self) -> _TooMuchError:
        return _TooMuchError(f"more than {self._limits.files_max:,} files of resources", "merge some, or serve less")

    def _enter(
        self, entry: os.DirEntry[str], status: os.stat_result, group: str, above: tuple[tuple[int, int], ...]
    ) -> None:
        here = (status.st_dev, status.st_ino)
        if here in above:
            what = "a symlink loop: this leads to a directory that it is in"
            self._problems.append(Problem(what=what, hint="remove the symlink", file=entry.path))
            return
        if len(above) > self._limits.depth_max:
            what = f"directories are nested deeper than {self._limits.depth_max}"
            self._problems.append(Problem(what=what, hint="move the files up", file=entry.path))
            return
        if len(above) == 1:
            group = entry.name
            if not _GROUP_NAME.fullmatch(group):
                hint = "a directory's name is a group's name: letters, digits, '.', '_' and '-'"
                self._problems.append(Problem(what=f"{group!r} can't name a group", hint=hint, file=entry.path))
                return
            self._groups.add(group)
        if entry.is_symlink():
            self._directories.add(os.path.realpath(entry.path))
        self._walk(entry.path, group, (*above, here))

    def _take(self, entry: os.DirEntry[str], status: os.stat_result, group: str, *, is_root: bool) -> None:
        if not stat.S_ISREG(status.st_mode):
            what = "is not a regular file"
            self._problems.append(Problem(what=what, hint="remove it, or give it another name", file=entry.path))
            return
        if entry.is_symlink():
            self._directories.add(os.path.dirname(os.path.realpath(entry.path)))
        found = FoundFile(entry.path, group, Stamp.of(status))
        (self._group_files if is_root and entry.name.lower() in GROUP_FILES else self._files).append(found)
        self._bytes += status.st_size
        if len(self._files) > self._limits.files_max:
            raise self._too_many_files()
        if self._bytes > self._limits.bytes_max:
            raise _TooMuchError(f"more than {self._limits.bytes_max:,} bytes of files", "serve less")

    def _unreachable(self, entry: os.DirEntry[str], error: OSError) -> None:
        if entry.is_symlink() and isinstance(error, FileNotFoundError):
            what = f"a symlink to {_target(entry.path)}, which does not exist"
            self._problems.append(Problem(what=what, hint="mend or remove the symlink", file=entry.path))
        elif not isinstance(error, FileNotFoundError):
            self._problems.append(_unreadable(entry.path, error))


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.endswith(("~", ".tmp", ".swp", ".swo")) or name == "lost+found"


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:  # it changed meanwhile; the next sweep notices
        return "something"


def _unreadable(path: str, error: OSError) -> Problem:
    hint = "give this process the right to read it" if isinstance(error, PermissionError) else ""
    return Problem(what=f"can't be read: {error.strerror}", hint=hint, file=path)
