"""Notifies a store's watches of new revisions. The watches read the entries from the store."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from xds.store.entries import Stored
from xds.store.errors import EpochChangedError, UnavailableError

PAGE = 100
"""Entries that a watch reads at a time: the most that it holds for a slow reader."""


class RevisionNotifier:
    """Wakes the tasks that wait for a later revision."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self._closed = False
        self._generation = 0
        self._changed = asyncio.Event()

    def tell(self, revision: int) -> None:
        """Set the newest revision, and wake all waiting tasks."""
        self.revision = revision
        self._changed.set()
        self._changed = asyncio.Event()

    async def reach(self, revision: int) -> None:
        """Wait until the newest revision is ``revision`` or later, or the store is closed."""
        while self.revision < revision and not self._closed:
            await self._changed.wait()

    def reset(self, revision: int) -> None:
        """End every watch with EpochChangedError: the log was replaced by another one."""
        self._generation += 1
        self.tell(revision)

    def is_closed(self) -> bool:
        """Return whether the store is closed."""
        return self._closed

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        self._changed.set()

    async def follow(self, after: int, read: Callable[[int, int], Awaitable[list[Stored]]]) -> AsyncIterator[Stored]:
        """Yield the entries that ``read(after, limit)`` returns, in order, until closed. Raises EpochChangedError."""
        generation = self._generation
        while not self.is_closed():
            changed = self._changed
            try:
                if generation != self._generation:
                    raise EpochChangedError
                page = await read(after, PAGE)
            except UnavailableError:
                if self.is_closed():
                    return
                raise
            if generation != self._generation:
                raise EpochChangedError
            for stored in page:
                yield stored
                after = stored.revision
            if not page:
                await changed.wait()
