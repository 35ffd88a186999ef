"""A rate-limited log for events that clients can cause at will: similar lines are merged and counted.

The first lines of a kind within a window are logged at once. The others are counted; at the end of the window the last
one is logged with ``count``, the number of lines that it stands for. An event of a flood costs one dictionary look-up,
and the log grows by a bounded number of lines per minute.

Where clients choose what makes a kind, such as the id of a node, a line has a ``source``: whose address or identity it
is. One source's kinds do not end those of others: beyond ``SOURCE_KINDS_MAX`` of them, or its share of
``characters_max``, its lines are counted in one line of its own, with ``of_more_kinds``.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

WINDOW_S = 60.0
LINES_MAX = 10
KINDS_MAX = 1_000
SOURCES_MAX = 100
SOURCE_KINDS_MAX = 20
CHARACTERS_MAX = 256 * 1024
SOURCE_SHARE = 1 / 16
"""The share of ``characters_max`` that one source may fill."""
EXAMPLES_MAX = 5
"""Maximum values of a field that a merged line names."""
EXAMPLE_CHARACTERS_MAX = 200
OTHERS = object()
"""The kind of the lines beyond all limits."""


@dataclass(slots=True)
class _Lines:
    """The lines of one kind within a window: how many were logged and counted, and the last one counted."""

    event: str
    level: str
    logged: int = 0
    counted: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def count(self, fields: dict[str, Any], examples: Mapping[str, str]) -> None:
        self.counted += 1
        self.last = fields
        for name, value in examples.items():
            known = self.examples.setdefault(name, [])
            text = value[:EXAMPLE_CHARACTERS_MAX]
            if text and len(known) < EXAMPLES_MAX and text not in known:
                known.append(text)


@dataclass(slots=True)
class _Window:
    """The lines of a source, or of a kind without source, since ``began_at``."""

    began_at: float
    kinds: dict[Hashable, _Lines] = field(default_factory=dict)
    characters: int = 0
    is_timed: bool = False


class MergedLog:
    """Logs to ``log``, a structlog logger, at most ``lines_max`` + 1 lines of a kind within ``window_s``.

    There are at most ``kinds_max`` kinds without source, and as many of all sources, ``source_kinds_max`` of each. The
    lines of sources that are logged at once have at most ``characters_max`` characters within ``window_s``. There are
    at most ``sources_max`` sources; the lines of further ones are merged, as are those of further kinds.
    """

    def __init__(
        self,
        log: Any,
        *,
        window_s: float = WINDOW_S,
        lines_max: int = LINES_MAX,
        kinds_max: int = KINDS_MAX,
        sources_max: int = SOURCES_MAX,
        source_kinds_max: int = SOURCE_KINDS_MAX,
        characters_max: int = CHARACTERS_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._window_s = window_s
        self._lines_max = lines_max
        self._kinds_max, self._sources_max, self._source_kinds_max = kinds_max, sources_max, source_kinds_max
        self._characters_max = characters_max
        self._clock = clock
        self._kinds: OrderedDict[Hashable, _Window] = OrderedDict()
        """The windows of kinds without source, by event and kind, oldest first."""
        self._sources: OrderedDict[Hashable, _Window] = OrderedDict()
        """The windows of sources, by event and source, oldest first."""
        self._others: OrderedDict[Hashable, _Window] = OrderedDict()
        """By event, what goes beyond ``kinds_max`` and ``sources_max``."""
        self._source_kinds = 0
        self._characters = 0
        self._characters_since = 0.0

    def warning(
        self,
        event: str,
        *,
        kind: Hashable = (),
        source: str = "",
        examples: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        """Log a warning. Lines with equal ``event``, ``source`` and ``kind`` are merged.

        Without ``source``, ``kind`` must have few distinct values. ``examples`` are texts of which a merged line names
        several, each as a list under its key.
        """
        self._take("warning", event, kind, source, examples or {}, fields)

    def info(self, event: str, *, kind: Hashable = (), **fields: Any) -> None:
        """Log for information; see ``warning``."""
        self._take("info", event, kind, "", {}, fields)

    def error(self, event: str, *, kind: Hashable = (), **fields: Any) -> None:
        """Log an error; see ``warning``."""
        self._take("error", event, kind, "", {}, fields)

    def flush(self) -> None:
        """End every window now; call it before an exit."""
        for windows in (self._kinds, self._sources, self._others):
            while windows:
                self._end(windows, next(iter(windows)))

    def _take(
        self,
        level: str,
        event: str,
        kind: Hashable,
        source: str,
        examples: Mapping[str, str],
        fields: dict[str, Any],
    ) -> None:
        now = self._clock()
        windows, key, window = self._window(event, kind, source, now)
        lines = window.kinds.get(kind)
        if lines is None:
            if windows is self._others or (source and not self._has_room(window)):
                kind = OTHERS
            lines = window.kinds.get(kind)
            if lines is None:
                lines = window.kinds[kind] = _Lines(event, level)
                self._source_kinds += bool(source and kind is not OTHERS)
        if kind is not OTHERS and lines.logged < self._lines_max and (not source or self._fits(window, fields, now)):
            lines.logged += 1
            getattr(self._log, level)(event, **fields)
            return
        lines.count(fields, examples)
        if not window.is_timed:
            window.is_timed = True
            self._end_later(windows, key, window)

    def _window(
        self, event: str, kind: Hashable, source: str, now: float
    ) -> tuple[OrderedDict[Hashable, _Window], Hashable, _Window]:
        """Return the window for a line, and where it is kept."""
        windows, most = (self._sources, self._sources_max) if source else (self._kinds, self._kinds_max)
        key: Hashable = (event, source or kind)
        for each, its_key in ((windows, key), (self._others, event)):
            window = each.get(its_key)
            if window is not None and now - window.began_at >= self._window_s:
                self._end(each, its_key)
                window = None
            if window is not None:
                return each, its_key, window
            if each is windows:
                self._end_old(each, now)
                if len(each) >= most:
                    continue
            window = each[its_key] = _Window(now)
            return each, its_key, window
        raise AssertionError

    def _has_room(self, window: _Window) -> bool:
        """Return whether a source may have one more kind."""
        return len(window.kinds) < self._source_kinds_max and self._source_kinds < self._kinds_max

    def _fits(self, window: _Window, fields: dict[str, Any], now: float) -> bool:
        """Return whether a source's line may be logged at once, and count its characters."""
        if now - self._characters_since >= self._window_s:
            self._characters, self._characters_since = 0, now
        size = sum(len(name) + len(str(value)) for name, value in fields.items())
        if self._characters + size > self._characters_max:
            return False
        if window.characters + size > self._characters_max * SOURCE_SHARE:
            return False
        window.characters += size
        self._characters += size
        return True

    def _end_old(self, windows: OrderedDict[Hashable, _Window], now: float) -> None:
        while windows:
            key, window = next(iter(windows.items()))
            if now - window.began_at < self._window_s:
                return
            self._end(windows, key)

    def _end_later(self, windows: OrderedDict[Hashable, _Window], key: Hashable, window: _Window) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # a later line ends the window, or ``flush``
        loop.call_later(window.began_at + self._window_s - self._clock(), self._end_if, windows, key, window)

    def _end_if(self, windows: OrderedDict[Hashable, _Window], key: Hashable, window: _Window) -> None:
        if windows.get(key) is window:
            self._end(windows, key)

    def _end(self, windows: OrderedDict[Hashable, _Window], key: Hashable) -> None:
        window = windows.pop(key)
        if windows is self._sources:
            self._source_kinds -= sum(kind is not OTHERS for kind in window.kinds)
        for kind, lines in window.kinds.items():
            if lines.counted:
                told = lines.last | {name: values for name, values in lines.examples.items() if values}
                if kind is OTHERS:
                    told["of_more_kinds"] = True
                getattr(self._log, lines.level)(lines.event, **told, count=lines.counted)


peers_log = MergedLog(structlog.get_logger("xds"))
"""The log for all events that a peer can cause at will."""
