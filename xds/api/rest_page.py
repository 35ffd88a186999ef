"""The OpenAPI document of the REST API, and the page ``/v1/docs``: the same as HTML, with no scripts and nothing from
other hosts.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from xds.api.run_in_thread import run_in_thread
from xds.reporting.escaping import json_text

Json = dict[str, Any]
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The page's Content-Security-Policy: a browser loads nothing for it."""
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
:root { color-scheme: light dark }
h2 { margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem; font-size: 1.1rem }
table { border-collapse: collapse; margin: 1rem 0; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid #8883 }
code, pre { font-family: ui-monospace, monospace; font-size: .9em }
pre { overflow-x: auto; padding: .5rem; background: #8882 }
"""
_INTRODUCTION = (
    "Bodies are JSON or YAML, and resources and snapshots protobuf too. With a token, send "
    "<code>Authorization: Bearer TOKEN</code>. <a href='openapi.json'>openapi.json</a> describes the same for programs."
)


class Documents:
    """The document and the page. The document is made at the first request, on a thread: that takes 0.2 s."""

    def __init__(self, describe: Callable[[], Json]) -> None:
        self._describe = describe
        self._making = asyncio.Lock()
        self._document: Json = {}
        self._text = b""

    async def text(self) -> bytes:
        """Return the document as JSON."""
        async with self._making:
            if not self._text:
                self._document = await asyncio.to_thread(self._describe)
                self._text = json_text(self._document, separators=(",", ":")).encode()
        return self._text

    async def page(self, base: str) -> str:
        """Return the page. ``base`` is the server's URL, for the examples."""
        size = len(await self.text())
        return await run_in_thread(size, lambda: page(self._document, base))


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Yield the path, the method in capitals and the description of each operation of an OpenAPI document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def in_words(schema: Json, document: Json, code: Callable[[str], str]) -> str:
    """Return the values that a schema allows, in words; ``code`` marks literal text."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return ", ".join(in_words(each, document, code) for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema:
        return ", ".join(map(code, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {in_words(schema['items'], document, code)}"
    true_or_false = f"{code('true')}, {code('false')}"
    kind = {
        "integer": "whole number",
        "number": "number",
        "object": "object",
        "string": "text",
        "boolean": true_or_false,
    }
    shown = kind[schema["type"]]
    if schema.get("maximum", 2**63) < 2**62:
        shown += f", {schema['minimum']:,} to {schema['maximum']:,}"
    default = schema.get("default")
    return shown if default in (None, "", False, []) else f"{shown}; {code(str(default).lower())} if left out"


def page(document: Json, base: str) -> str:
    """Return the page. ``base`` is the server's URL, for the examples."""
    found = list(operations(document))
    title = f"{escape(document['info']['title'])} {escape(document['info']['version'])}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>",
        f"<meta name=viewport content='width=device-width'><h1>{title}</h1><p>{_INTRODUCTION}",
        _table(
            ("operation", "call"),
            (
                (_prose(each["description"]), f"<a href='#{_anchor(method, path)}'>{_code(f'{method} {path}')}</a>")
                for path, method, each in found
            ),
        ),
    ]
    for path, method, operation in found:
        parts += _operation(path, method, operation, document, base)
    return "\n".join(parts)


def _operation(path: str, method: str, operation: Json, document: Json, base: str) -> Iterator[str]:
    yield f"<h2 id='{_anchor(method, path)}'>{_code(f'{method} {path}')}</h2><p>{_prose(operation['description'])}"
    yield f"<pre>{escape(_example(path, method, operation, base))}</pre>"
    parameters = operation.get("parameters", ())
    yield _table(
        ("parameter", "in", "values", "meaning"),
        (
            (
                _code(each["name"]),
                each["in"],
                in_words(each["schema"], document, _code),
                _prose(each.get("description", "")),
            )
            for each in parameters
        ),
    )
    for content, body in list(operation.get("requestBody", {}).get("content", {}).items())[:1]:
        schema, required = body["schema"], body["schema"].get("required", ())
        types = ", ".join(map(_code, operation["requestBody"]["content"])) or _code(content)
        yield f"<p>Body ({types}): {_prose(schema.get('description', ''))}"
        yield _table(
            ("key", "values", "meaning"),
            (
                (
                    _code(name) + (" (required)" if name in required else ""),
                    in_words(each, document, _code),
                    _prose(each.get("description", "")),
                )
                for name, each in schema.get("properties", {}).items()
            ),
        )
    answers = ((status, _prose(each["description"])) for status, each in sorted(operation["responses"].items()))
    yield f"<details><summary>Statuses</summary>{_table(('status', 'meaning'), answers)}</details>"


def _example(path: str, method: str, operation: Json, base: str) -> str:
    shown = re.sub(r"\{(\w+)[^}]*\}", lambda found: found[1].upper(), path)
    needed = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query" and each["required"]]
    query = f"?{'&'.join(f'{name}={name.upper()}' for name in needed)}" if needed else ""
    words = ["curl", *(["-X", method] if method != "GET" else [])]
    if "requestBody" in operation:
        words += ["-H", "'content-type: application/yaml'", "--data-binary", "@BODY.yaml"]
    return " ".join([*words, f"'{base}{shown}{query}'"])


def _table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = ["".join(f"<td>{cell}" for cell in row) for row in rows]
    if not lines:
        return ""
    return f"<table><tr>{''.join(f'<th>{name}' for name in header)}<tr>{'<tr>'.join(lines)}</table>"


def _anchor(method: str, path: str) -> str:
    return re.sub(r"\W+", "-", f"{method} {path}".lower()).strip("-")


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _prose(text: str) -> str:
    return escape(" ".join(text.split()))
