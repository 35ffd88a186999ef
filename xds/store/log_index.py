"""Index of log entries: metadata by revision, digests by id, and the newest entries in full."""

from collections import deque
from collections.abc import Iterable

from xds.store.entries import EntrySummary, FoundEntry, Stored, summary_of

RECENT_OPERATIONS_MAX = 20_000


class LogIndex:
    """Entries in order of revision, without gaps. The number of operations in the recent entries is bounded."""

    def __init__(self) -> None:
        self._summaries: deque[EntrySummary] = deque()
        self._recent: deque[Stored] = deque()
        self._recent_operations = 0
        self.ids: dict[str, FoundEntry] = {}

    def clear(self) -> None:
        """Remove all entries."""
        self._summaries.clear()
        self._recent.clear()
        self._recent_operations = 0
        self.ids.clear()

    def add(self, entries: Iterable[Stored]) -> None:
        """Add the entries that follow."""
        for stored in entries:
            self._summaries.append(summary_of(stored))
            self.ids[stored.entry.id] = FoundEntry(stored.revision, stored.entry.digest())
            self._recent.append(stored)
            self._recent_operations += len(stored.entry.operations)
        while len(self._recent) > 1 and self._recent_operations > RECENT_OPERATIONS_MAX:
            self._forget_recent()

    def forget(self, revision: int) -> None:
        """Remove the entries up to a revision."""
        while self._summaries and self._summaries[0].revision <= revision:
            self.ids.pop(self._summaries.popleft().id, None)
        while self._recent and self._recent[0].revision <= revision:
            self._forget_recent()

    def _forget_recent(self) -> None:
        self._recent_operations -= len(self._recent.popleft().entry.operations)

    def summaries(self, after: int, limit: int) -> list[EntrySummary]:
        """Return the metadata of the entries after a revision, which must be in the index."""
        if not self._summaries:
            return []
        first = after + 1 - self._summaries[0].revision
        return [self._summaries[at] for at in range(first, min(first + limit, len(self._summaries)))]

    def recent(self, after: int, limit: int) -> list[Stored] | None:
        """Return the entries after a revision, None if some are no longer in memory."""
        if not self._recent or self._recent[0].revision > after + 1:
            return None
        first = after + 1 - self._recent[0].revision
        return [self._recent[at] for at in range(first, min(first + limit, len(self._recent)))]
