"""Escapes untrusted text for display: characters that control a terminal, or that hide or reorder text.

Node ids, authors, error texts and file names are untrusted. ESC moves the cursor, U+202E reverses what follows, a line
feed starts a line that looks like ours. Stored and sent text is not changed. Tables, logs and pages use this, and JSON
and YAML output, where the escapes are the format's own and decode to the same text.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

_HIDDEN_CLASS = (
    r"\x00-\x1f\x7f-\x9f"  # C0 and C1 control characters
    r"\u2028\u2029\ud800-\udfff"  # line and paragraph separators; surrogates by themselves
    # Format characters: zero width, bidirectional controls, tags (Unicode's category Cf).
    r"\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e0fff"
    r"\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # letters and marks that are invisible
)
HIDDEN = re.compile(f"[{_HIDDEN_CLASS}]")
_HIDDEN_BUT_LINE_FEED = re.compile(f"(?!\n)[{_HIDDEN_CLASS}]")
_READ_OTHERWISE = re.compile(r"[yYnN]|[-+]?0X[0-9a-fA-F]+")
"""Text that PyYAML writes plainly, but that Envoy reads as a boolean or a number."""
_HIDDEN_IN_YAML = re.compile(f"(?![\n\t])[{_HIDDEN_CLASS}]")


def visible(text: str) -> str:
    r"""Return the text on one line, with hidden characters as Python escapes: ``\x1b``, ``\u202e``, ``\n``.

    A backslash is not doubled, so that plain text is shown as it is.
    """
    return HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def visible_lines(text: str) -> str:
    """Return a text of several lines, such as a traceback, with hidden characters other than line feeds escaped."""
    return "\n".join(map(visible, text.split("\n")))


def json_text(value: Any, *, indent: int | None = None, ascii_only: bool = False, **options: Any) -> str:
    """Return JSON that decodes to the same value, with hidden characters as JSON escapes."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only, **options)
    if text.isascii():  # DEL is all that JSON leaves as it is; a search for the others takes 25 times as long
        return text.replace("\x7f", "\\u007f")
    return _HIDDEN_BUT_LINE_FEED.sub(_json_escape, text)


def yaml_text(value: Any) -> str:
    """Return YAML that decodes to the same value, with hidden characters as YAML escapes.

    Text stays text when Envoy reads it. A number with a fraction is text for Envoy, which counts only in a Struct.
    """
    import yaml

    base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

    class Dumper(base):  # type: ignore[misc]
        pass

    Dumper.add_representer(str, _represent_text)
    try:
        text = str(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True))
    except UnicodeEncodeError:  # surrogates by themselves
        text = "\x00"
    if _HIDDEN_IN_YAML.search(text):
        text = str(yaml.dump(value, Dumper=escaping_dumper(), sort_keys=False, allow_unicode=True))
    return text


def escaping_dumper() -> Any:
    """Return a PyYAML dumper that quotes and escapes text with hidden characters. Slower than the C dumper."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def write_double_quoted(self, text: str, split: bool = True) -> None:
            allowed, self.allow_unicode = self.allow_unicode, not _HIDDEN_IN_YAML.search(text)
            super().write_double_quoted(text, split)
            self.allow_unicode = allowed

    def represent(dumper: Any, text: str) -> Any:
        if not _HIDDEN_IN_YAML.search(text):
            return _represent_text(dumper, text)
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')

    Dumper.add_representer(str, represent)
    return Dumper


def _represent_text(dumper: Any, text: str) -> Any:
    style = "'" if _READ_OTHERWISE.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def cut(text: str, characters_max: int) -> str:
    """Return a text, or if it is longer than ``characters_max``, its beginning and its length."""
    if len(text) <= characters_max:
        return text
    return f"{text[:characters_max]}… ({len(text):,} characters)"


def bounded(fields: Mapping[str, Any], *, value_characters_max: int, line_characters_max: int) -> dict[str, Any]:
    """Return an event's fields cut to the maximum characters of each value and, about, of the line.

    A value that is too long and not text is replaced by the beginning of its JSON.
    """
    shown = {key: _bounded(value, value_characters_max) for key, value in fields.items()}
    if sum(len(_as_text(value)) for value in shown.values()) > line_characters_max:
        shown = {key: _bounded(value, line_characters_max // len(fields)) for key, value in fields.items()}
    return shown


def _bounded(value: Any, characters_max: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = _as_text(value)
    return value if len(text) <= characters_max else cut(text, characters_max)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False, skipkeys=True)


def _json_escape(found: "re.Match[str]") -> str:
    return json.dumps(found[0])[1:-1] if found[0] != "\x7f" else "\\u007f"
