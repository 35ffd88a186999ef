"""Stores that stand on one log, as those of several control planes do. Each may learn late what others write."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from xds.store.entries import Entry, Stored
from xds.store.memory import MemoryStore


class Log:
    """One log that several stores stand on, each of which may learn late what others write."""

    def __init__(self) -> None:
        self.kept = MemoryStore()
        self.before_append: list[Exception] = []


class Behind(MemoryStore):
    """A store that shares a log with others. While ``told`` is not set, its watch tells nothing.

    It is set soon after the store is asked for something, unless ``tells_once_asked`` is false.
    """

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log
        self.epoch = log.kept.epoch
        self.told = asyncio.Event()
        self.told.set()
        self.tells_once_asked = True
        self.asked = 0
        self.before_append: Callable[[], Awaitable[None]] | None = None

    def __getattribute__(self, name: str) -> object:
        if name in ("state", "entries", "find", "kept", "summaries", "append"):
            return getattr(object.__getattribute__(self, "_log").kept, name)
        return object.__getattribute__(self, name)

    async def append_all(self, entries: Sequence[Entry], expected_revision: int) -> int:
        self._tell_soon()
        if self.before_append is not None:
            before, self.before_append = self.before_append, None
            await before()
        if self._log.before_append:
            raise self._log.before_append.pop()
        return await self._log.kept.append_all(entries, expected_revision)

    async def newest(self) -> int:
        self.asked += 1
        self._tell_soon()
        return await self._log.kept.newest()

    def _tell_soon(self) -> None:
        if self.tells_once_asked:
            asyncio.get_running_loop().call_later(0.01, self.told.set)

    async def watch(self, after: int) -> AsyncIterator[Stored]:
        async for stored in self._log.kept.watch(after):
            await self.told.wait()
            yield stored
