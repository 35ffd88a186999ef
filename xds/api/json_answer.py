"""A JSON response that is safe to print: hidden characters are written as JSON escapes."""

from typing import Any

from starlette.responses import JSONResponse

from xds.reporting.escaping import json_text

PIECE = 500
"""Items of a list that are written at a time."""


class JsonAnswer(JSONResponse):
    """A JSONResponse for untrusted content: people read answers in terminals."""

    def render(self, content: Any) -> bytes:
        """Return the body. Long lists in a mapping are written in pieces: each holds the interpreter's lock."""
        if not isinstance(content, dict) or not any(map(_is_long, content.values())):
            return _text(content).encode()
        members = (
            f"{_text(key)}:{_pieces(value) if _is_long(value) else _text(value)}" for key, value in content.items()
        )
        return f"{{{','.join(members)}}}".encode()


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and len(value) > PIECE


def _pieces(items: list[Any]) -> str:
    return f"[{','.join(_text(items[at : at + PIECE])[1:-1] for at in range(0, len(items), PIECE))}]"


def _text(value: Any) -> str:
    return json_text(value, allow_nan=False, separators=(",", ":"))
