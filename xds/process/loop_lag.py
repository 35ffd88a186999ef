"""How late an event loop is: a timer is due several times a second, and its delay is counted."""

import asyncio
from collections.abc import Callable
from time import monotonic

from xds.telemetry.histogram import Histogram

EVERY_S = 0.2
STILL_S = 1.0
"""A loop that is later than this stood still, as when its process is stopped or its machine is suspended."""


class LoopLag:
    """Measures the running event loop between ``start`` and ``stop``.

    ``on_still`` is called after the loop stood still; uvloop calls it before it reads what arrived meanwhile.
    """

    def __init__(self, on_still: Callable[[], None] = lambda: None) -> None:
        self._on_still = on_still
        self.times = Histogram()
        """By how much the timer was late, each time."""
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begin to measure."""
        self._due = monotonic() + EVERY_S
        self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._look)

    def _look(self) -> None:
        late_s = monotonic() - self._due
        self.times.observe(late_s)
        if late_s > STILL_S:
            self._on_still()
        self.start()

    def stop(self) -> None:
        """End measuring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
