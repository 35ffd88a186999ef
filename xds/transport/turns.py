"""Large requests are handled in turns: one in a turn of the event loop, with pauses while changes go out.

A request of megabytes takes the event loop tens of milliseconds. Without turns those of twenty clients, which arrive
together, would follow each other, and a change would wait for all of them.
"""

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Protocol

LIGHT_BYTES_MAX = 512 * 1024
"""Requests up to this size and larger ones take every other turn, if there are both."""
LOOK_S = 0.005
"""A pause is looked at so often: it ends as soon as what it is for has ended."""


class Taker(Protocol):
    """Who waits for a turn."""

    def take_turn(self) -> None:
        """Handle the large request."""


class Scheduler(Protocol):
    """The part of an event loop that is used here."""

    def call_soon(self, callback: Callable[[], None], /) -> object:
        """Call back in the next turn of the event loop."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> object:
        """Call back after ``delay`` seconds."""


class Turns:
    """Who waits for a turn, in order of asking, those with a light request beside those with a heavy one.

    ``pause_after`` returns how long to wait, as things are now, after a turn that took so many seconds.
    """

    __slots__ = ("_clock", "_ended", "_is_scheduled", "_loop", "_next", "_others", "_pause_after", "_took_s")

    def __init__(
        self, loop: Scheduler, pause_after: Callable[[float], float], *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._loop = loop
        self._pause_after = pause_after
        self._clock = clock
        self._next: deque[tuple[Taker, bool]] = deque()
        self._others: deque[tuple[Taker, bool]] = deque()
        self._is_scheduled = False
        self._ended = self._took_s = 0.0

    def __len__(self) -> int:
        return len(self._next) + len(self._others)

    def add(self, taker: Taker, size: int) -> None:
        """Have ``taker.take_turn`` called once, in its turn, for a request of ``size`` bytes."""
        is_light = size <= LIGHT_BYTES_MAX
        queue = self._next if not self._next or self._next[0][1] is is_light else self._others
        queue.append((taker, is_light))
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled and len(self):
            self._is_scheduled = True
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        pause_s = self._ended + self._pause_after(self._took_s) - self._clock()
        if pause_s > 0:
            self._loop.call_later(min(pause_s, LOOK_S), self._go_on)
            return
        self._is_scheduled = False
        taker, _ = self._next.popleft()
        if self._others:
            self._next, self._others = self._others, self._next
        began = self._clock()
        try:
            taker.take_turn()
        finally:
            self._ended = self._clock()
            self._took_s = self._ended - began
            self._schedule()
