"""How long one turn of the event loop works on what clients send, however many of them send at once.

Without a limit, hundreds of clients that each open some streams at the same moment would have a turn of a second, and a
change would wait for it. The connections that a turn has no time for are resumed in later ones, in their order.
"""

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Protocol

WORK_S = 0.004
"""Seconds of work per turn of a worker on bytes that have just come, and as many on those of resting connections."""


class Resting(Protocol):
    """Who rests."""

    def go_on(self) -> None:
        """Process more of the received bytes; may call ``LoopShare.rest`` again."""


class LoopShare:
    """The share of an event loop. ``call_soon`` calls back in the loop's next turn."""

    __slots__ = ("_call_soon", "_clock", "_is_begun", "_is_scheduled", "_resting", "_until", "_work_s")

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        *,
        work_s: float = WORK_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._call_soon = call_soon
        self._work_s = work_s
        self._clock = clock
        self._resting: deque[Resting] = deque()
        self._is_begun = self._is_scheduled = False
        self._until = 0.0

    @property
    def is_over(self) -> bool:
        """Whether this turn has worked for its time. The first look at it in a turn begins the time."""
        if self._is_begun:
            return self._clock() > self._until
        self._is_begun = True
        self._until = self._clock() + self._work_s
        self._call_soon(self._end)
        return False

    def _end(self) -> None:
        self._is_begun = False

    def rest(self, connection: Resting) -> None:
        """Have a connection resumed in a later turn, after those that rest already."""
        self._resting.append(connection)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._call_soon(self._go_on)

    def _go_on(self) -> None:
        until = self._clock() + self._work_s
        try:
            for _ in range(len(self._resting)):
                self._resting.popleft().go_on()
                if self._clock() > until:
                    break
        finally:
            self._is_scheduled = bool(self._resting)
            if self._resting:
                self._call_soon(self._go_on)
