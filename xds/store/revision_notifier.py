"""How the watches of a store that one process holds learn that there is more. They read it from the store itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from xds.store.entries import Stored
from xds.store.errors import EpochChangedError, UnavailableError

PAGE = 100
"""Entries that a watch reads at once, and so all that it holds however slow its reader is."""


class RevisionNotifier:
    """Wakes whoever waits for a revision later than one it has."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self._closed = False
        self._generation = 0
        self._changed = asyncio.Event()

    def tell(self, revision: int) -> None:
        """Wake everyone: this is the newest revision."""
        self.revision = revision
        self._changed.set()
        self._changed = asyncio.Event()

    async def reach(self, revision: int) -> None:
        """Wait until that revision, or a later one, was told, or the store is closed."""
        while self.revision < revision and not self._closed:
            await self._changed.wait()

    def reset(self, revision: int) -> None:
        """End every watch with EpochChangedError: revisions count another log now."""
        self._generation += 1
        self.tell(revision)

    def is_closed(self) -> bool:
        """Say whether the store is closed."""
        return self._closed

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        self._changed.set()

    async def follow(self, after: int, read: Callable[[int, int], Awaitable[list[Stored]]]) -> AsyncIterator[Stored]:
        """Yield what ``read(after, limit)`` gives, in order and without end. Raises EpochChangedError."""
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
