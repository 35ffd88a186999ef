"""Renders the templates of the page, and holds its assets.

Every value that a template shows goes through ``visible`` and is then escaped, so that names, node ids and NACKs
neither control the page nor reorder the text around them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from xds.page.figures import bar, in_words
from xds.reporting.escaping import HIDDEN, json_text, visible, visible_lines

ROOT = "/page"
MEDIA_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
LONG_CHARACTERS = 4_000
"""Characters of a value or a message that are shown."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that the page loads. ``tag`` changes with its content."""

    data: bytes
    media_type: str
    tag: str


def load_assets() -> dict[str, Asset]:
    """Return the assets by their file names."""
    found = {}
    for file in files("xds.page").joinpath("assets").iterdir():
        kind = file.name.rpartition(".")[2]
        if kind in MEDIA_TYPES:
            data = file.read_bytes()
            found[file.name] = Asset(data, MEDIA_TYPES[kind], hashlib.sha256(data).hexdigest()[:12])
    return found


def address(page: str, /, **state: Any) -> str:
    """Return the URL of a page; its state is in the query. Values that are None or "" are left out."""
    query = urlencode({key: value for key, value in state.items() if value not in (None, "")}, errors="surrogatepass")
    return f"{ROOT}/{page}?{query}" if query else f"{ROOT}/{page}"


def environment(assets: Mapping[str, Asset]) -> Environment:
    """Return the Jinja2 environment of the templates."""
    made = Environment(
        loader=PackageLoader("xds.page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "number": number,
        "time": time_of,
        "value": value_text,
        "text": long_text,
        "lines": lines,
        "age": age,
    }
    made.globals |= {"url": address, "asset": lambda name: _asset_url(assets, name), "bar": bar, "words": in_words}
    return made


def _asset_url(assets: Mapping[str, Asset], name: str) -> str:
    return f"{ROOT}/assets/{name}?v={assets[name].tag}"


def _shown(value: Any) -> Any:
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return visible(value) if HIDDEN.search(value) else value


def number(value: int) -> str:
    """Return a number with separators for thousands."""
    return f"{value:,}"


def long_text(text: str) -> Markup:
    """Return a text of several lines, cut to ``LONG_CHARACTERS``."""
    kept = text[:LONG_CHARACTERS]
    more = f"… ({len(text):,} characters)" if len(text) > LONG_CHARACTERS else ""
    return Markup("{}{}").format(visible_lines(kept), more)


def lines(text: str) -> Markup:
    """Return a text of several lines."""
    return Markup("{}").format(visible_lines(text))


def value_text(value: Any) -> Markup:
    """Return a JSON value for a difference: text in quotes, objects on several lines."""
    is_small = not isinstance(value, dict | list) or len(json.dumps(value)) < 72
    return long_text(json_text(value, indent=None if is_small else 2))


def time_of(at_ms: int | None) -> Markup:
    """Return a time as UTC, which the script shows in the reader's zone."""
    if not at_ms:
        return Markup('<span class="none">unknown</span>')
    try:
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return Markup('<span class="none">unknown</span>')
    return Markup('<time datetime="{}" data-time>{} UTC</time>').format(
        at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), at.strftime("%Y-%m-%d %H:%M:%S")
    )


_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def age(seconds: float | None) -> str:
    """Return a duration with its two largest units: ``3 h 12 min``."""
    if seconds is None:
        return "–"
    parts: list[str] = []
    left = int(max(0.0, seconds))
    for size, unit in _UNITS:
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2])
