"""What a store keeps: entries in order of their revision, and the state that they lead to. Pure data."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple, Protocol

from xds.store.errors import CompactedError, NotYetError, TooLargeError

OPERATIONS_MAX = 250_000
"""Of one entry."""
ENTRY_BYTES_MAX = 256 * 1024 * 1024
ID_CHARACTERS_MAX = 128
TEXT_CHARACTERS_MAX = 4_096


class Key(NamedTuple):
    """Where a resource is."""

    group: str
    type_url: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One change, all of it or none: resources set, in wire form, or removed (None); and new group rules, or None.

    ``id`` tells it from every other change, so that trying again does not make it twice. ``at_ms`` is when it was
    made, in Unix milliseconds by its author's clock; order is by revision alone. ``request`` is a digest of what was
    asked for, where that may be more than what had to be done for it.
    """

    id: str
    operations: dict[Key, bytes | None] = field(default_factory=dict)
    groups: bytes | None = None
    author: str = ""
    message: str = ""
    at_ms: int = 0
    request: bytes = field(default=b"", compare=False)

    @property
    def size_bytes(self) -> int:
        """How large the resources that it sets are in all."""
        return sum(len(encoded) for encoded in self.operations.values() if encoded is not None)

    def digest(self) -> bytes:
        """Return what is equal for entries that do the same, whoever made them and when."""
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
    """An entry, and the revision that it made."""

    revision: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class Head:
    """What is told of an entry in a list: all but what it does, of which only how many operations there are."""

    revision: int
    id: str
    author: str
    message: str
    at_ms: int
    operations: int


class FoundEntry(NamedTuple):
    """The entry that has an id: its revision, and what it did."""

    revision: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class State:
    """All there is at a revision. ``groups`` are the rules last given, None if there never were any."""

    revision: int
    resources: dict[Key, bytes]
    groups: bytes | None = None


class Store(Protocol):
    """The log. Revisions grow by one with every entry, from 1; revision 0 is the empty state.

    ``epoch`` names this log: after a restore it is another one, and revisions of before mean nothing.
    Any method raises UnavailableError where the store can't be read or written now.
    """

    epoch: str
    away: str = ""
    """Why what is on another machine can't be reached just now, "" if it can: reads are of what is known here."""
    refusing: str = ""
    """Why changes are refused although all that was acknowledged is known here, and what to do; "" if they are not."""

    async def append_all(self, entries: Sequence[Entry], expected_revision: int) -> int:
        """Keep all entries or none, in order, and return the revision of the last once none can be lost any more.

        Each id must be a new one. Raises as ``append`` does.
        """
        ...

    async def find(self, ids: Iterable[str]) -> Mapping[str, FoundEntry]:
        """Return those of the entries with these ids that are kept, by id."""
        ...

    async def newest(self) -> int:
        """Return the newest revision there is, whoever made it: at least that of every append that has returned.

        What this process knows of may be older, where others write too: ``watch`` tells it soon.
        """
        ...

    async def kept(self) -> tuple[int, int]:
        """Return the oldest revision whose state can be read, and the newest."""
        ...

    async def heads(self, after: int, limit: int = 100) -> list[Head]:
        """Return what is told of the entries after a revision, oldest first. Raises CompactedError, NotYetError."""
        ...

    async def append(self, entry: Entry, expected_revision: int | None = None) -> int:
        """Keep the entry, and return the revision it made once it can't be lost any more.

        An entry whose id is kept already makes nothing new: its revision is returned, whatever was expected.
        Raises ConflictError, IdReusedError, TooLargeError, OutcomeUnknownError.
        """
        ...

    async def state(self, revision: int | None = None) -> State:
        """Return all there is, now or as of a kept revision. Raises CompactedError, NotYetError."""
        ...

    async def entries(self, after: int, limit: int = 100) -> list[Stored]:
        """Return the entries after a revision, oldest first, so many at most. Raises CompactedError, NotYetError."""
        ...

    def watch(self, after: int) -> AsyncIterator[Stored]:
        """Yield every entry after a revision, each once and in order, for as long as it is iterated.

        Raises CompactedError where the reader fell behind what is kept: it then has to read the whole state.
        """
        ...

    async def compact(self, revision: int) -> int:
        """Forget the entries up to a revision, whose state stays readable; return the oldest kept one."""
        ...

    async def close(self) -> None:
        """End all watches, and let go of everything."""
        ...


def replay(state: State, entries: Iterable[Stored]) -> State:
    """Return the state that entries lead to. It takes over the former one's resources, and changes them."""
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


def head_of(stored: Stored) -> Head:
    """Return what is told of an entry in a list."""
    entry = stored.entry
    return Head(stored.revision, entry.id, entry.author, entry.message, entry.at_ms, len(entry.operations))


def check(entry: Entry) -> None:
    """Raise TooLargeError where an entry is larger than a store takes, ValueError where it says nothing."""
    if not entry.id or len(entry.id) > ID_CHARACTERS_MAX:
        raise ValueError(f"an entry has an id of 1 to {ID_CHARACTERS_MAX} characters")
    if not entry.operations and entry.groups is None:
        raise ValueError("an entry changes something")
    for what, text in (("author", entry.author), ("message", entry.message)):
        if len(text) > TEXT_CHARACTERS_MAX:
            raise TooLargeError(f"the {what} has {len(text):,} characters: at most {TEXT_CHARACTERS_MAX:,} are kept")
    if len(entry.operations) > OPERATIONS_MAX:
        raise TooLargeError(f"{len(entry.operations):,} operations in one change: at most {OPERATIONS_MAX:,} are taken")
    size = sum(len(encoded or b"") for encoded in entry.operations.values()) + len(entry.groups or b"")
    if size > ENTRY_BYTES_MAX:
        raise TooLargeError(f"{size:,} bytes in one change: at most {ENTRY_BYTES_MAX:,} are taken")


def must_be_kept(revision: int, *, oldest: int, newest: int) -> None:
    """Raise CompactedError or NotYetError where a store that keeps these revisions lacks that one."""
    if revision < oldest:
        raise CompactedError(revision, oldest)
    if revision > newest:
        raise NotYetError(revision, newest)
