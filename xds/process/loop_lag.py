"""How late an event loop is: a timer is due several times a second, and its delay is counted."""

import asyncio
from time import monotonic

from xds.telemetry.histogram import Histogram

EVERY_S = 0.2


class LoopLag:
    """Measures the running event loop between ``start`` and ``stop``."""

    def __init__(self) -> None:
        self.times = Histogram()
        """By how much the timer was late, each time."""
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begin to measure."""
        self._due = monotonic() + EVERY_S
        self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._look)

    def _look(self) -> None:
        self.times.observe(monotonic() - self._due)
        self.start()

    def stop(self) -> None:
        """End measuring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
