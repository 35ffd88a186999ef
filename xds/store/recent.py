"""The newest entries of a log in memory, which watches read without waiting for the disk or for etcd."""

from collections import deque
from collections.abc import Iterable

from xds.store.entries import Stored

OPERATIONS_MAX = 10_000
BYTES_MAX = 32 * 1024 * 1024
ENTRY_BYTES = 500
OPERATION_BYTES = 200
"""Approximate bytes of an entry and of an operation, beside the encoded resources."""


class RecentEntries:
    """Entries in order of revision, without gaps: the newest, and those before it within the bounds."""

    __slots__ = ("_bytes", "_entries", "_operations")

    def __init__(self) -> None:
        self._entries: deque[Stored] = deque()
        self._operations = self._bytes = 0

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self._operations = self._bytes = 0

    def add(self, entries: Iterable[Stored]) -> None:
        """Add the entries that follow; those before a gap are removed."""
        for stored in entries:
            if self._entries and self._entries[-1].revision != stored.revision - 1:
                self.clear()
            self._entries.append(stored)
            self._operations += len(stored.entry.operations)
            self._bytes += _bytes_of(stored)
        while len(self._entries) > 1 and (self._operations > OPERATIONS_MAX or self._bytes > BYTES_MAX):
            self._drop_oldest()

    def forget(self, revision: int) -> None:
        """Remove the entries up to a revision."""
        while self._entries and self._entries[0].revision <= revision:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        stored = self._entries.popleft()
        self._operations -= len(stored.entry.operations)
        self._bytes -= _bytes_of(stored)

    @property
    def newest(self) -> int:
        """The revision of the newest entry, 0 if there is none."""
        return self._entries[-1].revision if self._entries else 0

    def after(self, revision: int, limit: int) -> list[Stored] | None:
        """Return at most ``limit`` entries after a revision, None if some of them are no longer in memory."""
        if not self._entries or self._entries[0].revision > revision + 1:
            return None
        first = revision + 1 - self._entries[0].revision
        return [self._entries[at] for at in range(first, min(first + limit, len(self._entries)))]


def _bytes_of(stored: Stored) -> int:
    return ENTRY_BYTES + OPERATION_BYTES * len(stored.entry.operations) + stored.entry.size_bytes
