"""Configures logging: one line per event on stderr, as text or as JSON.

Everything goes through ``logging``, so that uvicorn, watchfiles and asyncio log in the same format. The logger ``xds``
has the configured level, the others ``warning``, or ``info`` if that level is ``debug``.
"""

import logging
import os
import sys
from functools import partial
from typing import Any, Literal, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.types import EventDict, Processor

from xds.reporting.escaping import bounded, json_text, visible

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

VALUE_CHARACTERS_MAX, LINE_CHARACTERS_MAX = 4_000, 16_000
TRACE_CHARACTERS_MAX = 12_000
"""A longer traceback loses its beginning, as the error is at its end."""

_QUOTED = " \t=\r\n\"'"
"""structlog shows values with one of these as Python literals, which are escaped."""
_TRACES = {"exception", "stack"}


def is_json(form: Format, stream: TextIO | None = None) -> bool:
    """Return whether this format means JSON lines on the stream (default: stderr)."""
    return form == "json" or (form == "auto" and not _is_terminal(stream or sys.stderr))


def configure_logging(*, level: Level = "info", form: Format = "auto", stream: TextIO | None = None) -> None:
    """Set up structlog and ``logging`` for the whole process, replacing any previous setup.

    ``stream`` is stderr by default. Colours are used on a terminal unless ``NO_COLOR`` is set.
    """

    stream = stream or sys.stderr
    json = is_json(form, stream)
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso" if json else "%H:%M:%S", utc=json),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *before, ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    colors = _is_terminal(stream) and not os.environ.get("NO_COLOR")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[ProcessorFormatter.remove_processors_meta, _bound, *_renderers(json=json, colors=colors)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if level == "debug" else logging.WARNING)
    logging.getLogger("xds").setLevel(level.upper())
    logging.captureWarnings(True)


def _renderers(*, json: bool, colors: bool) -> list[Processor]:
    if json:
        return [structlog.processors.JSONRenderer(serializer=partial(json_text, ascii_only=True), default=str)]
    return [_escape, structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0)]


def _bound(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Limit the length of a line, whatever a peer sends, for readers and log shippers."""
    traces = {key: event.pop(key)[-TRACE_CHARACTERS_MAX:] for key in _TRACES & event.keys()}
    shown = bounded(event, value_characters_max=VALUE_CHARACTERS_MAX, line_characters_max=LINE_CHARACTERS_MAX)
    return shown | traces


def _escape(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Keep text of a peer, such as a NACK's message, from starting new lines or controlling the terminal."""
    for key, value in event.items():
        quoted = key != "event" and isinstance(value, str) and not set(value).isdisjoint(_QUOTED)
        if key in _TRACES:
            event[key] = "\n".join(f"    {visible(line)}" for line in value.split("\n"))
        elif isinstance(value, str) and not quoted:
            event[key] = visible(value)
    return event


def _is_terminal(stream: TextIO) -> bool:
    return not stream.closed and stream.isatty()
