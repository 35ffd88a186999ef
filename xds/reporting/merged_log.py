"""A rate-limited log for events that clients can cause at will: similar lines are merged and counted.

The first lines of a kind within a window are logged at once. The others are counted; at the end of the window the last
one is logged with ``count``, the number of lines that it stands for. An event of a flood costs one dictionary look-up,
and the log grows by a bounded number of lines per minute.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import structlog

WINDOW_S = 60.0
LINES_MAX = 10
KINDS_MAX = 1_000


@dataclass(slots=True)
class _Window:
    """The lines of one kind since ``began_at``: how many were logged and counted, and the last one counted."""

    event: str
    level: str
    began_at: float
    logged: int = 0
    counted: int = 0
    last: dict[str, Any] = field(default_factory=dict)


class MergedLog:
    """Logs to ``log``, a structlog logger, at most ``lines_max`` + 1 lines of a kind within ``window_s``.

    If there are more than ``kinds_max`` kinds, the oldest window ends early.
    """

    def __init__(
        self,
        log: Any,
        *,
        window_s: float = WINDOW_S,
        lines_max: int = LINES_MAX,
        kinds_max: int = KINDS_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._window_s = window_s
        self._lines_max = lines_max
        self._kinds_max = kinds_max
        self._clock = clock
        self._windows: OrderedDict[Hashable, _Window] = OrderedDict()

    def warning(self, event: str, *, kind: Hashable = (), **fields: Any) -> None:
        """Log a warning. Lines with equal ``event`` and ``kind`` are merged; both must have few distinct values."""
        self._take("warning", event, kind, fields)

    def info(self, event: str, *, kind: Hashable = (), **fields: Any) -> None:
        """Log for information; see ``warning``."""
        self._take("info", event, kind, fields)

    def error(self, event: str, *, kind: Hashable = (), **fields: Any) -> None:
        """Log an error; see ``warning``."""
        self._take("error", event, kind, fields)

    def flush(self) -> None:
        """End every window now; call it before an exit."""
        while self._windows:
            self._end(next(iter(self._windows)))

    def _take(self, level: str, event: str, kind: Hashable, fields: dict[str, Any]) -> None:
        key = (event, kind)
        now = self._clock()
        window = self._windows.get(key)
        if window is not None and now - window.began_at >= self._window_s:
            self._end(key)
            window = None
        if window is None:
            window = self._windows[key] = _Window(event, level, now)
            if len(self._windows) > self._kinds_max:
                self._end(next(iter(self._windows)))
        if window.logged < self._lines_max:
            window.logged += 1
            getattr(self._log, level)(event, **fields)
            return
        window.counted += 1
        window.last = fields
        if window.counted == 1:
            self._end_later(key, window)

    def _end_later(self, key: Hashable, window: _Window) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # the next line of the kind ends the window, or ``flush``
        loop.call_later(window.began_at + self._window_s - self._clock(), self._end_if, key, window)

    def _end_if(self, key: Hashable, window: _Window) -> None:
        if self._windows.get(key) is window:
            self._end(key)

    def _end(self, key: Hashable) -> None:
        window = self._windows.pop(key)
        if window.counted:
            getattr(self._log, window.level)(window.event, **window.last, count=window.counted)


peers_log = MergedLog(structlog.get_logger("xds"))
"""The log for all events that a peer can cause at will."""
