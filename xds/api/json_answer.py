"""A JSON response that is safe to print: hidden characters are written as JSON escapes."""

from typing import Any

from starlette.responses import JSONResponse

from xds.reporting.escaping import json_text


class JsonAnswer(JSONResponse):
    """A JSONResponse for untrusted content: people read answers in terminals."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json_text(content, allow_nan=False, separators=(",", ":")).encode()
