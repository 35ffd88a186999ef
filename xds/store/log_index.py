"""Index of log entries: metadata by revision, digests by id, and the newest entries in full."""

from collections import deque
from collections.abc import Sequence

from xds.store.entries import EntrySummary, FoundEntry, Stored, summary_of
from xds.store.recent import RecentEntries


class LogIndex:
    """Entries in order of revision, without gaps. ``recent`` are the newest."""

    def __init__(self) -> None:
        self._summaries: deque[EntrySummary] = deque()
        self.recent = RecentEntries()
        self.ids: dict[str, FoundEntry] = {}

    def clear(self) -> None:
        """Remove all entries."""
        self._summaries.clear()
        self.recent.clear()
        self.ids.clear()

    def add(self, entries: Sequence[Stored]) -> None:
        """Add the entries that follow."""
        for stored in entries:
            self._summaries.append(summary_of(stored))
            self.ids[stored.entry.id] = FoundEntry(stored.revision, stored.entry.digest())
        self.recent.add(entries)

    def forget(self, revision: int) -> None:
        """Remove the entries up to a revision."""
        while self._summaries and self._summaries[0].revision <= revision:
            self.ids.pop(self._summaries.popleft().id, None)
        self.recent.forget(revision)

    def summaries(self, after: int, limit: int) -> list[EntrySummary]:
        """Return the metadata of the entries after a revision, which must be in the index."""
        if not self._summaries:
            return []
        first = after + 1 - self._summaries[0].revision
        return [self._summaries[at] for at in range(first, min(first + limit, len(self._summaries)))]
