"""A JSON response that is safe to print: hidden characters in it are JSON's own escapes."""

from typing import Any

from starlette.responses import JSONResponse

from xds.escaping import json_text


class JsonAnswer(JSONResponse):
    """Use it in place of JSONResponse: people read answers in terminals, and what is in them is of others."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json_text(content, allow_nan=False, separators=(",", ":")).encode()
