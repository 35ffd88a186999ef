"""The store's interface and data: entries in order of revision, and the state that results from them."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, Protocol

from xds.store.errors import CompactedError, NoBackupError, NotYetError, TooLargeError

OPERATIONS_MAX = 250_000
"""Operations in one entry."""
ENTRY_BYTES_MAX = 256 * 1024 * 1024
ID_CHARACTERS_MAX = 128
TEXT_CHARACTERS_MAX = 4_096


class Key(NamedTuple):
    """Identifies a resource in the store."""

    group: str
    type_url: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One atomic change of resources and group rules."""

    id: str
    """Unique among all changes, so that a retry does not apply the change twice."""
    operations: dict[Key, bytes | None] = field(default_factory=dict)
    """The new value of each resource in wire form; None removes it."""
    groups: bytes | None = None
    """The new group rules, None to leave them."""
    author: str = ""
    message: str = ""
    at_ms: int = 0
    """Unix milliseconds by the author's clock. Entries are ordered by revision only."""
    request: bytes = field(default=b"", compare=False)
    """Digest of the request, which may ask for more than the operations that had to be done."""
    added: frozenset[Key] = field(default=frozenset(), compare=False)
    """The operations that set a resource which did not exist before."""

    @property
    def size_bytes(self) -> int:
        """Total size of the resources that the entry sets."""
        return sum(len(encoded) for encoded in self.operations.values() if encoded is not None)

    def digest(self) -> bytes:
        """Return a digest of the content, equal for equal changes by any author at any time."""
        if self.request:
            return self.request
        digest = blake2b(digest_size=16)
        for key, encoded in sorted(self.operations.items()):
            for part in (*key, "" if encoded is None else "="):
                digest.update(f"{len(part)}:{part}".encode())
            digest.update(b"%d:" % len(encoded or b"") + (encoded or b""))
        digest.update(b"-" if self.groups is None else b"=" + self.groups)
        return digest.digest()


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry and its revision."""

    revision: int
    entry: Entry

    def without_values(self) -> "Stored":
        """Return it with empty resources and rules: what changed, and not to what."""
        entry = self.entry
        operations = {key: None if value is None else b"" for key, value in entry.operations.items()}
        groups = None if entry.groups is None else b""
        return Stored(self.revision, replace(entry, operations=operations, groups=groups))


class GroupCounts(NamedTuple):
    """How many resources of a group an entry adds, changes and removes."""

    group: str
    added: int
    changed: int
    removed: int


@dataclass(frozen=True, slots=True)
class EntrySummary:
    """An entry's metadata, for lists. ``operations`` is their number."""

    revision: int
    id: str
    author: str
    message: str
    at_ms: int
    operations: int
    groups: tuple[GroupCounts, ...] = ()
    """Counts for each group whose resources the entry sets or removes, in order of name."""
    rules_changed: bool = False
    """Whether the entry sets the groups and rules."""
    size_bytes: int = 0
    """Bytes of the values and the rules that the entry sets, and of the names that it sets or removes."""


class FoundEntry(NamedTuple):
    """The revision and digest of an entry that was found by its id."""

    revision: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class State:
    """All resources and the group rules at a revision. ``groups`` is None if rules were never set."""

    revision: int
    resources: dict[Key, bytes]
    groups: bytes | None = None


class Store(Protocol):
    """The log. Revisions start at 1 and grow by one with every entry; revision 0 is the empty state.

    Every method raises UnavailableError if the store can't be read or written at present.
    """

    @property
    def epoch(self) -> str:
        """Identifies this log. It changes with a restore, after which earlier revisions are meaningless."""
        ...

    @property
    def away(self) -> str:
        """Why a remote store can't be reached, "" if it can. Reads then return the last known state."""
        ...

    @property
    def path(self) -> Path | None:
        """The store's file, None if it has none."""
        ...

    @property
    def refusing(self) -> str:
        """Why changes are refused, and what to do, "" if they are accepted. Acknowledged changes stay readable."""
        ...

    async def append_all(self, entries: Sequence[Entry], expected_revision: int) -> int:
        """Commit all entries in order, or none; return the revision of the last once all are durable.

        Every id must be new. Raises ConflictError, IdReusedError, TooLargeError, OutcomeUnknownError.
        """
        ...

    async def find(self, ids: Iterable[str]) -> Mapping[str, FoundEntry]:
        """Return the stored entries with these ids, by id."""
        ...

    async def newest(self) -> int:
        """Return the newest revision by any writer: at least that of every append that has returned.

        This process may not have read entries of other writers yet: ``watch`` yields them soon.
        """
        ...

    async def kept(self) -> tuple[int, int]:
        """Return the oldest revision whose state can be read, and the newest."""
        ...

    async def summaries(self, after: int, limit: int = 100) -> list[EntrySummary]:
        """Return the metadata of the entries after a revision, oldest first. Raises CompactedError, NotYetError."""
        ...

    async def append(self, entry: Entry, expected_revision: int | None = None) -> int:
        """Commit the entry; return its revision once it is durable.

        If an entry with this id and content is stored already, return its revision and ignore ``expected_revision``.
        Raises ConflictError, IdReusedError, TooLargeError, OutcomeUnknownError.
        """
        ...

    async def state(self, revision: int | None = None) -> State:
        """Return the newest state, or that at a revision. Raises CompactedError, NotYetError."""
        ...

    async def entries(self, after: int, limit: int = 100) -> list[Stored]:
        """Return up to ``limit`` entries after a revision, oldest first. Raises CompactedError, NotYetError."""
        ...

    def watch(self, after: int) -> AsyncIterator[Stored]:
        """Yield every entry after a revision, once and in order, without end.

        Raises CompactedError if the reader's next entry was compacted: it must then read the whole state.
        """
        ...

    async def compact(self, revision: int) -> int:
        """Remove the entries up to a revision, whose state stays readable; return the oldest readable revision."""
        ...

    async def backup(self, path: Path) -> int:
        """Write a consistent copy of the store, history included, to a new file; return its revision.

        Changes wait meanwhile. Raises NoBackupError if the store has no file.
        """
        raise NoBackupError

    async def close(self) -> None:
        """End all watches and release all resources."""
        ...


def replay(state: State, entries: Iterable[Stored]) -> State:
    """Return the state after applying entries. Modifies the resources of ``state`` in place."""
    resources, groups, revision = state.resources, state.groups, state.revision
    for stored in entries:
        revision = stored.revision
        groups = groups if stored.entry.groups is None else stored.entry.groups
        for key, encoded in stored.entry.operations.items():
            if encoded is None:
                resources.pop(key, None)
            else:
                resources[key] = encoded
    return State(revision, resources, groups)


def summary_of(stored: Stored) -> EntrySummary:
    """Return an entry's metadata."""
    entry = stored.entry
    return EntrySummary(
        stored.revision,
        entry.id,
        entry.author,
        entry.message,
        entry.at_ms,
        len(entry.operations),
        counts_of(entry),
        entry.groups is not None,
        sum(len(key.name.encode()) for key in entry.operations) + entry.size_bytes + len(entry.groups or b""),
    )


def kind_in(entry: Entry, key: Key) -> str:
    """Return what an entry does with a resource: ``added``, ``changed`` or ``removed``."""
    return "removed" if entry.operations[key] is None else "added" if key in entry.added else "changed"


def counts_of(entry: Entry) -> tuple[GroupCounts, ...]:
    """Return how many resources of each group an entry adds, changes and removes."""
    counts: dict[str, list[int]] = {}
    for key, encoded in entry.operations.items():
        counts.setdefault(key.group, [0, 0, 0])[2 if encoded is None else 0 if key in entry.added else 1] += 1
    return tuple(GroupCounts(group, *numbers) for group, numbers in sorted(counts.items()))


def check(entry: Entry) -> None:
    """Raise TooLargeError if an entry exceeds the limits, ValueError if it has no valid id or changes nothing."""
    if not entry.id or len(entry.id) > ID_CHARACTERS_MAX:
        raise ValueError(f"an entry needs an id of 1 to {ID_CHARACTERS_MAX} characters")
    if not entry.operations and entry.groups is None:
        raise ValueError("an entry must change something")
    for what, text in (("author", entry.author), ("message", entry.message)):
        if len(text) > TEXT_CHARACTERS_MAX:
            raise TooLargeError(f"the {what} has {len(text):,} characters: at most {TEXT_CHARACTERS_MAX:,} are allowed")
    if len(entry.operations) > OPERATIONS_MAX:
        count = len(entry.operations)
        raise TooLargeError(f"{count:,} operations in one change: at most {OPERATIONS_MAX:,} are allowed")
    size = sum(len(encoded or b"") for encoded in entry.operations.values()) + len(entry.groups or b"")
    if size > ENTRY_BYTES_MAX:
        raise TooLargeError(f"{size:,} bytes in one change: at most {ENTRY_BYTES_MAX:,} are allowed")


def must_be_kept(revision: int, *, oldest: int, newest: int) -> None:
    """Raise CompactedError or NotYetError if a revision is outside of the readable range."""
    if revision < oldest:
        raise CompactedError(revision, oldest)
    if revision > newest:
        raise NotYetError(revision, newest)
