"""Compacts the history in the store, by count, bytes and age."""

import asyncio
import contextlib
import time
from collections import deque
from types import TracebackType
from typing import Self

import structlog

from xds.process.background import Background
from xds.store.entries import Store
from xds.store.errors import CompactedError, StoreError

log = structlog.get_logger("xds")
EVERY_S = 10.0
PAGE = 1_000
SLACK = 0.1
"""Fraction of the limit that may be exceeded, so that stores for which compaction is expensive compact rarely."""


class Retention:
    """Compacts a store's history at intervals, between ``__aenter__`` and ``__aexit__``.

    ``most`` revisions of ``bytes_max`` bytes in all stay readable, except those older than ``longest_s`` seconds; the
    newest state always does.
    """

    def __init__(
        self,
        store: Store,
        *,
        most: int,
        longest_s: float,
        bytes_max: int,
        every_s: float = EVERY_S,
        background: Background | None = None,
    ) -> None:
        self._background = background or Background()
        self._store = store
        self._most = most
        self._longest_s = longest_s
        self._bytes_max = bytes_max
        self._sizes: deque[tuple[int, int]] = deque()
        """The revisions that were looked at and are kept, oldest first, and their bytes."""
        self._bytes = 0
        self._epoch = ""
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = self._background.keep("shorten the history", self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            try:
                await self.tidy()
            except StoreError as error:
                log.warning("history could not be shortened, trying again", problem=str(error))
            await asyncio.sleep(self._every_s)

    async def tidy(self) -> None:
        """Compact the history if it exceeds the limits."""
        oldest, newest = await self._store.kept()
        try:
            until = max(oldest, newest - self._most, await self._first_within_bytes(oldest, newest))
            until = await self._first_young(until, newest)
        except CompactedError:
            return  # another replica was faster
        exceeds = until - oldest >= max(1, int(self._most * SLACK)) or self._bytes > self._bytes_max
        if exceeds or (until > oldest and until == newest):
            await self._store.compact(until)

    async def _first_within_bytes(self, oldest: int, newest: int) -> int:
        """Return the first revision whose successors have no more bytes than the limit, less the slack once over it."""
        seen = self._sizes[-1][0] if self._sizes else oldest
        if self._store.epoch != self._epoch or seen < oldest:  # it was restored, or others have compacted all of these
            self._epoch = self._store.epoch
            self._sizes.clear()
            self._bytes, seen = 0, oldest
        while seen < newest:
            summaries = await self._store.summaries(seen, PAGE)
            if not summaries:
                break
            self._sizes.extend((summary.revision, summary.size_bytes) for summary in summaries)
            self._bytes += sum(summary.size_bytes for summary in summaries)
            seen = summaries[-1].revision
        while self._sizes and self._sizes[0][0] <= oldest:
            self._bytes -= self._sizes.popleft()[1]
        left = self._bytes
        if left <= self._bytes_max:
            return oldest
        for revision, size in self._sizes:
            left -= size
            if left <= self._bytes_max * (1 - SLACK):
                return revision
        return newest

    async def _first_young(self, until: int, newest: int) -> int:
        """Return the last revision that is too old, or ``until`` if it is later."""
        before_ms = int((time.time() - self._longest_s) * 1000)
        while until < newest:
            summaries = await self._store.summaries(until, PAGE)
            old = [summary.revision for summary in summaries if summary.at_ms < before_ms]
            until = max([until, *old])
            if len(old) < len(summaries) or not summaries:
                break
        return until
