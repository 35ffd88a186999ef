"""Runs large work on a thread, so that health checks, pushes and, without worker processes, streams go on.

Threads share one interpreter lock, so more of them do no more work: they only keep the event loop waiting. So few run
at once, and one of each caller: a caller with many requests waits for itself, and others have their turns between.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import TypeVar
from weakref import WeakKeyDictionary

from xds.model.work import CostlyError, quick_work

T = TypeVar("T")

LARGE_BYTES = 64 * 1024
"""Bytes of a body that are parsed or written in about 10 ms; for less, a thread only adds delay."""
SHORT_BYTES = 4 * 1024
"""Bytes of a body that are read at once, if nothing in them is costly: more can be written to cost the most."""
HUGE_BYTES = 1024 * 1024
"""Work on more than this has turns of its own, so that other work need not wait for seconds."""
AT_ONCE_MAX = 2
"""Callers whose work runs at once, huge or not."""
CALLER: ContextVar[str] = ContextVar("xds_caller", default="")
"""Who shares the turns of the present call: ``Call.source``."""


class ThreadTurns:
    """Grants turns to callers, one after the other: ``AT_ONCE_MAX`` at a time, and one to each caller."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """Who waits, by caller; the caller whose turn is next comes first."""

    async def take(self, caller: str) -> None:
        """Return once it is the caller's turn, which lasts until ``give_back``."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(caller)
            raise

    def give_back(self, caller: str) -> None:
        """End the caller's turn."""
        self._running.discard(caller)
        self._grant()

    def _grant(self) -> None:
        for caller in list(self._waiting):
            if len(self._running) >= AT_ONCE_MAX:
                return
            turns = self._waiting[caller]
            while turns and turns[0].done():  # its call was cancelled
                turns.popleft()
            if turns and caller in self._running:
                continue
            del self._waiting[caller]
            if turns:
                self._running.add(caller)
                turns.popleft().set_result(None)
            if turns:
                self._waiting[caller] = turns


_turns: "WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[ThreadTurns, ...]]" = WeakKeyDictionary()
"""The turns of small, of large and of huge work, by event loop."""


async def run_in_thread(size_bytes: int, work: Callable[[], T]) -> T:
    """Return the result of ``work`` on ``size_bytes`` of data. It must not touch what the event loop changes."""
    return work() if size_bytes <= LARGE_BYTES else await _in_turn(size_bytes, work)


async def _in_turn(size_bytes: int, work: Callable[[], T]) -> T:
    loop, caller = asyncio.get_running_loop(), CALLER.get()
    if loop not in _turns:
        _turns[loop] = ThreadTurns(), ThreadTurns(), ThreadTurns()
    turns = _turns[loop][(size_bytes > LARGE_BYTES) + (size_bytes > HUGE_BYTES)]
    await turns.take(caller)
    running = loop.run_in_executor(None, copy_context().run, work)
    running.add_done_callback(lambda _: turns.give_back(caller))
    try:
        return await asyncio.shield(running)  # the thread goes on where the call is cancelled, and keeps its turn
    finally:
        del running, work  # else an error, its traceback and this frame hold each other, and the data


async def read_in_thread(size_bytes: int, read: Callable[[], T], *, at_once_bytes: int = SHORT_BYTES) -> T:
    """Return what ``read`` makes of a body, on a thread if it is larger than ``at_once_bytes`` or has something costly.

    ``read`` may be called twice, and must not touch what the event loop changes.
    """
    if size_bytes <= at_once_bytes:
        with suppress(CostlyError), quick_work():
            return read()
    return await _in_turn(size_bytes, read)
