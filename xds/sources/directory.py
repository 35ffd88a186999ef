"""Read a directory of resources into one changeset, or report all of its problems.

See ``documents`` for the format of a file, ``tree`` for which files are read and ``groups_file`` for the rules.
"""

import dataclasses
import marshal
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from xds.model.changeset import Changeset
from xds.model.groups import DEFAULT_GROUP
from xds.model.names import hidden_character
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.model.types import short_name
from xds.schema.ingest import ingest
from xds.sources.documents import Item, items_of
from xds.sources.groups_file import GroupsFile, parse_groups
from xds.sources.json_reader import read_json
from xds.sources.tree import FoundFile, Stamp, Tree, TreeLimits, scan_tree
from xds.sources.yaml_reader import Document, FileDocument, YamlLimits, read_yaml, read_yaml_documents, refuse_reordered

Progress = Callable[[int, int], None]
_ATTEMPTS_MAX = 10
BAD_FILES_MAX = 1_000
"""Files with problems in one reading. Nothing is served of it, so the files after them are not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryLimits:
    """Limits of a directory, and of each file in it."""

    tree: TreeLimits = field(default_factory=TreeLimits)
    file: YamlLimits = field(default_factory=YamlLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileContent:
    """One file as last read."""

    stamp: Stamp
    is_settled: bool
    digest: bytes
    is_blank: bool = False
    """Whether the file has only white space, for example while it is being rewritten."""
    resources: tuple[Resource, ...] = ()
    by_digest: Mapping[bytes, Resource] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The result of reading one sweep's files: a changeset, or problems in order of place."""

    tree: Tree
    contents: Mapping[str, FileContent]
    served: Mapping[str, Mapping[tuple[str, str], Resource]]
    """The resources of every file without problems, by group, and by type URL and name."""
    groups_are_blank: bool
    is_torn: bool
    """Whether a file had changed since the sweep."""
    problems: tuple[Problem, ...] = ()
    changeset: Changeset | None = None

    def outcome(self) -> Changeset | ChangesetRejectedError:
        """Return the changeset, or the error with the problems."""
        return self.changeset if self.changeset is not None else ChangesetRejectedError(self.problems)


class DirectoryReader:
    """Reads a directory repeatedly, each time only the changed files. For one thread at a time.

    ``read`` returns a consistent state: the content of all files at one instant between its two sweeps. A file is
    opened again if its stamp (mtime, ctime, size, inode, device) has changed, or if its times were less than 50 ms old
    when it was last read, since a write within one tick of the file system's clock may not change them; it is then
    parsed again if the hash of its content has changed. A resource with unchanged text keeps its ``Resource`` object;
    if only its line changed, it is a copy with the new ``source`` that shares the encoded bytes. These guarantees are
    weaker on file systems that don't maintain the times themselves (some FUSE and network mounts).

    ``progress`` is called with the bytes parsed so far and in total. With ``allow_empty`` off, a directory without
    resources is a problem.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        limits: DirectoryLimits | None = None,
        progress: Progress | None = None,
        allow_empty: bool = True,
        allow_unknown_types: bool = False,
    ) -> None:
        self.root = Path(root)
        self._limits = limits or DirectoryLimits()
        self._progress = progress
        self._allow_empty = allow_empty
        self._allow_unknown_types = allow_unknown_types
        self._contents: dict[str, FileContent] = {}
        self.last: Reading | None = None
        """The reading whose outcome ``read`` last returned or raised."""

    def read(self) -> Changeset:
        """Return the content of the directory, as a changeset that replaces everything.

        Raises ChangesetRejectedError with the problems of all files, in order of place, or if the directory keeps
        changing.
        """
        for _ in range(_ATTEMPTS_MAX):
            reading = self.load(self.scan())
            if not reading.is_torn and self.scan() == reading.tree:
                self.last = reading
                outcome = reading.outcome()
                if isinstance(outcome, ChangesetRejectedError):
                    raise outcome
                return outcome
        what = f"changed {_ATTEMPTS_MAX} times while it was read"
        raise ChangesetRejectedError([Problem(what=what, hint="try again", file=str(self.root))])

    def distrust(self) -> None:
        """Make the next reading open every file again, and parse those whose content has changed."""
        self._contents = {
            path: dataclasses.replace(content, is_settled=False) for path, content in self._contents.items()
        }

    def scan(self) -> Tree:
        """Sweep the directory without opening a file."""
        return scan_tree(self.root, self._limits.tree)

    def load(self, tree: Tree) -> Reading:
        """Read a sweep's files, or take their cached content. The reading is consistent if a later sweep is equal."""
        pending = sum(file.stamp.size_bytes for file in tree.files if not self._is_current(file))
        contents: dict[str, FileContent] = {}
        unread: tuple[Problem, ...] = ()
        done, is_torn, bad = 0, False, 0
        for file in tree.files:
            content: FileContent | None
            if bad >= BAD_FILES_MAX:
                what = f"this file and those after it were not read, since {bad:,} files before it have problems"
                unread = (Problem(what=what, hint="mend those first", file=file.path),)
                break
            if self._is_current(file):
                content = self._contents[file.path]
            else:
                content = self._read(file, self._contents.get(file.path))
                done += file.stamp.size_bytes
                if self._progress is not None:
                    self._progress(done, pending)
            if content is None:
                is_torn = True
            else:
                contents[file.path] = content
                bad += bool(content.problems)
        reading = self._assemble(tree, contents, is_torn=is_torn, unread=unread)
        # Files that are missing while there are problems are likely to come back, as when the directory is recreated.
        self._contents = contents if reading.changeset is not None else self._contents | contents
        return reading

    def _is_current(self, file: FoundFile) -> bool:
        content = self._contents.get(file.path)
        return content is not None and content.is_settled and content.stamp == file.stamp

    def _assemble(
        self, tree: Tree, contents: Mapping[str, FileContent], *, is_torn: bool, unread: tuple[Problem, ...]
    ) -> Reading:
        rules, groups_are_blank = self._group_rules(tree)
        problems = [*tree.problems, *unread, *(rules.problems if rules else ())]
        served: dict[str, dict[tuple[str, str], Resource]] = {
            group: {} for group in sorted({DEFAULT_GROUP, *tree.groups, *(rules.declared if rules else ())})
        }
        for file in tree.files:
            if (content := contents.get(file.path)) is not None:
                problems += content.problems
                problems += _add(served[file.group], content.resources, file)
        if not problems and not self._allow_empty and not any(served.values()):
            hint = "add files with a list of `resources:`, directly or in a directory per group"
            problems.append(Problem(what="holds no resources", hint=hint, file=str(self.root)))
        changeset = None
        if not problems and rules is not None and not is_torn:
            upserts = {group: tuple(resources.values()) for group, resources in served.items()}
            changeset = Changeset(upserts=upserts, groups=rules.table, replace=True)
        return Reading(
            tree=tree,
            contents=contents,
            served=served,
            groups_are_blank=groups_are_blank,
            is_torn=is_torn or rules is None,
            problems=tuple(sorted(problems, key=_place)),
            changeset=changeset,
        )

    def _group_rules(self, tree: Tree) -> tuple[GroupsFile | None, bool]:
        """Return the content of groups.yaml (None if it changed since the sweep), and whether the file is blank."""
        file = tree.group_file
        if file is None:
            return GroupsFile(), False
        try:
            text = self._text(file)
            if text is None:
                return None, False
            return parse_groups(self._parse(file, text), file=file.path, directories=tree.groups), not text.strip()
        except ChangesetRejectedError as error:
            return GroupsFile(problems=error.problems), False

    def _read(self, file: FoundFile, known: FileContent | None) -> FileContent | None:
        """Return the file's content, None if the file changed since the sweep."""
        is_settled = file.stamp.is_settled(time.time_ns())
        try:
            text = self._text(file)
        except ChangesetRejectedError as error:
            return FileContent(stamp=file.stamp, is_settled=False, digest=b"", problems=error.problems)
        if text is None:
            return None
        digest = blake2b(text, digest_size=16).digest()
        if known is not None and known.digest == digest:
            return dataclasses.replace(known, stamp=file.stamp, is_settled=is_settled)
        content = FileContent(stamp=file.stamp, is_settled=is_settled, digest=digest, is_blank=not text.strip())
        try:
            documents = self._documents(file, text)
            by_digest = known.by_digest if known is not None else {}
            resources, digests, problems = self._resources(file, documents, by_digest)
        except ChangesetRejectedError as error:
            return dataclasses.replace(content, problems=_in_group(error.problems, file.group))
        return dataclasses.replace(
            content,
            resources=tuple(resources),
            by_digest=dict(zip(digests, resources, strict=True)),
            problems=_in_group(problems, file.group),
        )

    def _text(self, file: FoundFile) -> bytes | None:
        if file.stamp.size_bytes > self._limits.file.file_bytes_max:
            size, most = file.stamp.size_bytes, self._limits.file.file_bytes_max
            what = f"the file has {size:,} bytes, more than the {most:,} allowed"
            raise ChangesetRejectedError([Problem(what=what, hint="split it into several files", file=file.path)])
        try:
            descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block us
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            hint = "give this process the right to read it" if isinstance(error, PermissionError) else ""
            problem = Problem(what=f"can't be read: {error.strerror}", hint=hint, file=file.path)
            raise ChangesetRejectedError([problem]) from None
        with open(descriptor, "rb") as opened:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or Stamp.of(status) != file.stamp:
                return None
            text = opened.read(file.stamp.size_bytes + 1)
            return text if Stamp.of(os.fstat(descriptor)) == file.stamp else None

    def _parse(self, file: FoundFile, text: bytes) -> Document:
        refuse_reordered(text, file=file.path)
        if file.path.lower().endswith(".json"):
            return read_json(text, file=file.path, limits=self._limits.file)
        return read_yaml(text, file=file.path, limits=self._limits.file)

    def _documents(self, file: FoundFile, text: bytes) -> Sequence[FileDocument]:
        refuse_reordered(text, file=file.path)
        if file.path.lower().endswith(".json"):
            return (read_json(text, file=file.path, limits=self._limits.file),)
        return read_yaml_documents(text, file=file.path, limits=self._limits.file)

    def _resources(
        self, file: FoundFile, documents: Sequence[FileDocument], by_digest: Mapping[bytes, Resource]
    ) -> tuple[list[Resource], list[bytes], list[Problem]]:
        items, problems = items_of(documents, file=file.path, takes_lists=False)
        resources: list[Resource] = []
        digests: list[bytes] = []
        for item in items:
            if not isinstance(item.value, dict):
                what, hint = "a resource must be a mapping", 'begin it with "@type": type.googleapis.com/…'
                problems.append(Problem(what=what, hint=hint, file=file.path, line=item.line, field=item.place))
                continue
            digest = _digest(item.value)
            try:
                resource = by_digest.get(digest) or self._ingest(item, file.path)
            except ChangesetRejectedError as error:
                problems += error.problems
                continue
            if hidden := hidden_character(resource.name):
                what = f"the name {resource.name!r} has {hidden}, which is not seen where it is shown"
                hint = "remove it; a name that Envoy asks for by itself can be pushed"
                problems.append(Problem(what=what, hint=hint, file=file.path, line=item.line, field=item.place))
                continue
            source = f"{file.path}:{item.line}"
            resources.append(resource if resource.source == source else dataclasses.replace(resource, source=source))
            digests.append(digest)
        return resources, digests, problems

    def _ingest(self, item: Item, path: str) -> Resource:
        return ingest(item.value, source=path, line_of=item.line_at, allow_unknown_types=self._allow_unknown_types)


def _digest(item: Any) -> bytes:
    return blake2b(marshal.dumps(item, 2), digest_size=16).digest()  # version 2 has no references: equal if equal


def _add(group: dict[tuple[str, str], Resource], resources: Iterable[Resource], file: FoundFile) -> Iterable[Problem]:
    for resource in resources:
        first = group.setdefault((resource.type_url, resource.name), resource)
        if first is not resource:
            path, _, line = resource.source.rpartition(":")
            yield Problem(
                what=f"defined twice in this group, first at {first.source}",
                hint="remove or rename one of the two",
                file=path,
                line=int(line),
                group=file.group,
                resource=f"{short_name(resource.type_url)}/{resource.name}",
            )


def _in_group(problems: Iterable[Problem], group: str) -> tuple[Problem, ...]:
    return tuple(dataclasses.replace(problem, group=group) for problem in problems)


def _place(problem: Problem) -> tuple[str, int, str, str]:
    return problem.file, problem.line, problem.field, problem.what
