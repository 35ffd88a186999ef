"""A simulated clock that runs events in the order of their times, then in the order in which they were added."""

import heapq
import itertools
from collections.abc import Callable
from typing import Any


class Clock:
    """The scheduled events. Times are in seconds."""

    def __init__(self, start: float = 1_000.0) -> None:
        self.now = start
        self.steps = 0
        self.failure = ""
        """A failure that an event noticed and could not raise."""
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()

    def at(self, time: float, what: Callable[..., None], *arguments: Any) -> None:
        """Schedule an event at a time, or now if the time has passed."""
        heapq.heappush(self._events, (max(time, self.now), next(self._numbers), what, arguments))

    def later(self, seconds: float, what: Callable[..., None], *arguments: Any) -> None:
        """Schedule an event after a delay."""
        self.at(self.now + seconds, what, *arguments)

    def run(self, until: float, steps_max: int) -> None:
        """Run the events that are due by ``until``. Raises AssertionError after ``steps_max`` events in all."""
        while self._events and self._events[0][0] <= until:
            self.now, _, what, arguments = heapq.heappop(self._events)
            self.steps += 1
            assert self.steps < steps_max, "never quiet"
            what(*arguments)
            assert not self.failure, self.failure
        self.now = until

    def clear(self) -> None:
        """Remove all scheduled events."""
        self._events.clear()
