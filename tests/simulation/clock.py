"""Time that passes only as fast as what happens in it: events in order of their times, the earlier said first."""

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Clock:
    """What is to happen, and when. Times are in seconds."""

    def __init__(self, start: float = 1_000.0) -> None:
        self.now = start
        self.steps = 0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()

    def at(self, time: float, what: Callable[..., None], *arguments: Any) -> None:
        """Have something happen at a time; now, if that is past."""
        heapq.heappush(self._events, (max(time, self.now), next(self._numbers), what, arguments))

    def later(self, seconds: float, what: Callable[..., None], *arguments: Any) -> None:
        """Have something happen after a while."""
        self.at(self.now + seconds, what, *arguments)

    def run(self, until: float, steps_max: int) -> None:
        """Let happen what is due by ``until``. Raises AssertionError after ``steps_max`` events in all."""
        while self._events and self._events[0][0] <= until:
            self.now, _, what, arguments = heapq.heappop(self._events)
            self.steps += 1
            assert self.steps < steps_max, "never quiet"
            what(*arguments)
        self.now = until

    def clear(self) -> None:
        """Forget what is yet to happen."""
        self._events.clear()
