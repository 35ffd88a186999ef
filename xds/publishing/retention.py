"""Compacts the history in the store, by count and by age."""

import asyncio
import contextlib
import time
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

    ``most`` revisions stay readable, except those older than ``longest_s`` seconds; the newest state always does.
    """

    def __init__(
        self,
        store: Store,
        *,
        most: int,
        longest_s: float,
        every_s: float = EVERY_S,
        background: Background | None = None,
    ) -> None:
        self._background = background or Background()
        self._store = store
        self._most = most
        self._longest_s = longest_s
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
        until = max(oldest, newest - self._most)
        before_ms = int((time.time() - self._longest_s) * 1000)
        while until < newest:
            try:
                summaries = await self._store.summaries(until, PAGE)
            except CompactedError:
                return  # another replica was faster
            old = [summary.revision for summary in summaries if summary.at_ms < before_ms]
            until = max([until, *old])
            if len(old) < len(summaries) or not summaries:
                break
        if until - oldest >= max(1, int(self._most * SLACK)) or (until > oldest and until == newest):
            await self._store.compact(until)
