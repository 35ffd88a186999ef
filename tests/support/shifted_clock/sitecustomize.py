"""Shift the wall clock of a Python process by the seconds that a file has, as an operator or NTP would set a system's.

Python imports this module at its start where its directory is in ``PYTHONPATH``, in child processes too. The file is
that of ``TEST_CLOCK_FILE``; it is read again ten times a second at most. The monotonic clock is not shifted, as that of
a system is not. Native code that reads the wall clock by itself sees the true one.
"""

import datetime
import os
import time

READ_EVERY_S = 0.1


class Clock:
    """The clocks as they were, and the present shift."""

    time, time_ns, monotonic = time.time, time.time_ns, time.monotonic

    def __init__(self, file: str) -> None:
        self._file, self._shift_s, self._read_at = file, 0, float("-inf")

    def shift_s(self) -> int:
        """Return by how many seconds the wall clock is ahead."""
        now = Clock.monotonic()
        if now - self._read_at >= READ_EVERY_S:
            self._read_at = now
            with open(self._file) as opened:
                self._shift_s = int(opened.read() or 0)
        return self._shift_s


class ShiftedDatetime(datetime.datetime):
    """``datetime.datetime`` by the shifted clock."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> "ShiftedDatetime":
        """Return the shifted time."""
        return cls.fromtimestamp(time.time(), tz)


def shift(clock: Clock) -> None:
    """Replace the wall clock of this process."""
    time.time = lambda: Clock.time() + clock.shift_s()
    time.time_ns = lambda: Clock.time_ns() + clock.shift_s() * 1_000_000_000
    datetime.datetime = ShiftedDatetime  # type: ignore[misc]


if os.environ.get("TEST_CLOCK_FILE"):
    shift(Clock(os.environ["TEST_CLOCK_FILE"]))
