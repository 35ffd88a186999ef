"""Read a JSON file into plain values, with the line of any path.

The standard library's parser is six times faster than any YAML parser, but records no positions. So the outer object
and its lists are parsed here; the C scanner decodes each list item, whose offset is recorded. Lines of deeper values
are found by the YAML reader (JSON is valid YAML), in the one item that has a problem.

Envoy's parser takes more than JSON: text in single quotes, keys without quotes, a comma after the last item, control
characters within text. A file that isn't JSON is rewritten as JSON, line by line, and parsed again.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from xds.model.problem import ChangesetRejectedError, Problem
from xds.sources.yaml_reader import PathKeys, YamlDocument, YamlLimits, checked_utf8, read_yaml, without_secrets

_SPACE = re.compile(r"[ \t\r\n]*")
_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+)"
    r"""|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"
    r"|[0-9.:+\-\]}]+"
    r"""|[^"']""",
    re.DOTALL,
)
_RESERVED = frozenset(("true", "false", "null"))
_ESCAPE = re.compile(r'\\.|"', re.DOTALL)
_COLON = re.compile(r"[ \t\r\n]*:")
_CLOSING = re.compile(r"[ \t\r\n]*[\]}]")
_DIGITS_MAX = 309
"""Digits of the largest number that Envoy can hold, about 1.8e308."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


class _NotJsonError(Exception):
    """A problem at an offset: ``args`` are what, hint, offset."""


class _CantHoldError(_NotJsonError):
    """A value that is written as JSON and that no document may have: what Envoy's liberties allow is no help."""


class _DuplicateKeyError(Exception):
    """An object has a key twice."""


def read_json(text: bytes, *, file: str, limits: YamlLimits) -> "JsonDocument":
    """Parse one JSON document; the value of an empty file is None. Raises ChangesetRejectedError like ``read_yaml``."""
    text = checked_utf8(text, file=file, limits=limits)
    decoded = text.decode()
    try:
        return _parsed(decoded, file, limits)
    except _NotJsonError as error:
        what, hint, offset = error.args
        line = decoded.count("\n", 0, offset) + 1
        rejected = ChangesetRejectedError([Problem(what=what, hint=hint, file=file, line=line)])
        raise without_secrets(rejected, decoded) from None
    except _DuplicateKeyError as error:
        hint = "keep one of the two; of some types Envoy takes the last one, others it merges"
        try:
            _as_yaml(decoded, file, limits)  # raises with the lines of both keys
        except ChangesetRejectedError as lines:
            raise ChangesetRejectedError([replace(problem, hint=hint) for problem in lines.problems]) from None
        what = f"duplicate key {error.args[0]!r}"
        raise ChangesetRejectedError([Problem(what=what, hint=hint, file=file)]) from None


def _parsed(text: str, file: str, limits: YamlLimits) -> "JsonDocument":
    try:
        return JsonDocument(text, file, limits)
    except _CantHoldError:
        raise
    except _NotJsonError:
        if (rewritten := _as_json(text)) == text:
            raise
        return JsonDocument(rewritten, file, limits)


def _as_json(text: str) -> str:
    """Return a text with the liberties that Envoy allows rewritten as JSON, with the same lines."""
    parts: list[str] = []
    at, before = 0, ""
    while found := _TOKEN.match(text, at):
        part, at = found[0], found.end()
        if found["text"]:
            part = _quoted(part)
        elif found["word"]:
            is_key = before in ("{", ",") and _COLON.match(text, at) is not None and part not in _RESERVED
            part = f'"{part}"' if is_key else part
        elif part == "," and before not in ("", "{", "[", ",") and _CLOSING.match(text, at):
            part = ""
        before = found[0] if not found["space"] else before
        parts.append(part)
    return "".join(parts) + text[at:]


def _quoted(token: str) -> str:
    """Return a text in single or double quotes as JSON."""

    def rewritten(found: re.Match[str]) -> str:
        return {'"': '\\"', "\\'": "'", "\\U": "\\u"}.get(found[0], found[0])

    return f'"{_ESCAPE.sub(rewritten, token[1:-1])}"'


class JsonDocument:
    """A parsed JSON file. See ``xds.sources.yaml_reader.Document``."""

    __slots__ = ("_decoder", "_file", "_keys", "_limits", "_lines", "_offsets", "_text", "value")

    def __init__(self, text: str, file: str, limits: YamlLimits) -> None:
        self._text, self._file, self._limits = text, file, limits
        self._offsets: dict[str, list[int]] = {}
        self._lines: dict[str, list[int]] = {}
        self._keys: dict[str, tuple[int, int]] = {}
        """The offsets of each top-level key and of its value."""
        self._decoder = json.JSONDecoder(
            strict=False,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_bounded_int,
            parse_float=_finite,
        )
        self.value: Any = self._document()

    @property
    def line(self) -> int:
        """The line on which the value starts."""
        return self._line_at(self._skip(0))

    def is_anchored(self, key: str) -> bool:
        """Return whether the value of a top-level key has an anchor, which JSON doesn't have."""
        return False

    def item_line(self, key: str, index: int) -> int:
        """Return the line of an item of the list under a top-level key, "" for a list at the top."""
        if key not in self._lines:
            self._lines[key] = list(_lines_at(self._text, self._offsets[key]))
        return self._lines[key][index]

    def line_of(self, path: PathKeys) -> int:
        """Return the line of the path, or of its nearest ancestor in the file."""
        if isinstance(self.value, list):
            path = ("", *path)
        match path:
            case (str(key), int(index), *rest) if index < len(self._offsets.get(key, ())):
                return self._line_within(self._offsets[key][index], self.item_line(key, index), tuple(rest))
            case (str(key), *rest) if key in self._keys:
                at, start = self._keys[key]
                within = self.value[key]
                if not (rest and isinstance(within, dict) and rest[0] in within):
                    return self._line_at(at)
                return self._line_within(start, self._line_at(start), tuple(rest))
            case () | (str(), *_) if isinstance(self.value, dict):
                return self.line
        try:
            whole = path[1:] if isinstance(self.value, list) else path
            return _as_yaml(self._text, self._file, self._limits).line_of(whole)
        except ChangesetRejectedError:
            return 1

    def _line_at(self, offset: int) -> int:
        return self._text.count("\n", 0, offset) + 1

    def _line_within(self, start: int, first: int, path: PathKeys) -> int:
        """Return the line of a path within the value that starts at an offset, on the line ``first``."""
        if not path:
            return first
        end: int = self._decoder.raw_decode(self._text, start)[1]
        if self._text.find("\n", start, end) < 0:
            return first
        try:
            return first + _as_yaml(self._text[start:end], self._file, self._limits).line_of(path) - 1
        except ChangesetRejectedError:
            return first

    def _document(self) -> Any:
        at = self._skip(0)
        if at == len(self._text):
            return None
        value: Any
        if self._text[at] == "{":
            value, at = self._object(at)
        elif self._text[at] == "[":
            value, at = self._list("", at)
        else:
            value, at = self._value(at)
        if (at := self._skip(at)) != len(self._text):
            raise _NotJsonError("not valid JSON: more text after the end", "keep one document per file", at)
        return value

    def _object(self, at: int) -> tuple[dict[str, Any], int]:
        out: dict[str, Any] = {}
        at = self._skip(at + 1)
        while not self._text.startswith("}", at):
            if out:
                at = self._expect(",", at)
            if not self._text.startswith('"', at):
                raise _NotJsonError("not valid JSON: a key in double quotes expected", "", at)
            start = at
            key, at = self._value(at)
            at = self._expect(":", self._skip(at))
            if key in out:
                raise _DuplicateKeyError(key)
            self._keys[key] = start, at
            if self._text.startswith("[", at):
                out[key], at = self._list(key, at)
            else:
                out[key], at = self._value(at)
            at = self._skip(at)
        return out, at + 1

    def _list(self, key: str, at: int) -> tuple[list[Any], int]:
        out: list[Any] = []
        offsets = self._offsets[key] = []
        at = self._skip(at + 1)
        while not self._text.startswith("]", at):
            if out:
                at = self._expect(",", at)
            offsets.append(at)
            value, at = self._value(at)
            out.append(value)
            at = self._skip(at)
        return out, at + 1

    def _value(self, at: int) -> tuple[Any, int]:
        try:
            value, end = self._decoder.raw_decode(self._text, at)
        except json.JSONDecodeError as error:
            raise _NotJsonError(f"not valid JSON: {error.msg} (column {error.colno})", "", error.pos) from None
        except RecursionError:
            raise self._too_deep(at) from None
        except ValueError as error:
            raise _CantHoldError(f"not valid JSON: {error}", "", at) from None
        surrogates = _SURROGATE.search(self._text, at, end) is not None
        if surrogates or isinstance(value, dict | list):
            self._check(value, at, surrogates=surrogates)
        return value, end

    def _check(self, value: Any, at: int, *, surrogates: bool) -> None:
        level: list[Any] = [[value]]
        for _ in range(self._limits.depth_max + 1):
            parts = [part for box in level for part in (box.values() if isinstance(box, dict) else box)]
            if surrogates:
                texts = parts + [key for box in level if isinstance(box, dict) for key in box]
                if not all(_encodable(text) for text in texts if isinstance(text, str)):
                    what = "text with half of a surrogate pair (\\ud800 to \\udfff)"
                    raise _CantHoldError(what, "write both halves", at)
            if not (level := [part for part in parts if isinstance(part, dict | list)]):
                return
        raise self._too_deep(at)

    def _too_deep(self, at: int) -> _CantHoldError:
        return _CantHoldError(
            f"nested deeper than {self._limits.depth_max} levels", "Envoy's API needs no such depth", at
        )

    def _skip(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        return found.end() if found else at

    def _expect(self, char: str, at: int) -> int:
        if not self._text.startswith(char, at):
            raise _NotJsonError(f"not valid JSON: {char!r} expected", "", at)
        return self._skip(at + 1)


def _lines_at(text: str, offsets: list[int]) -> Iterator[int]:
    line, last = 1, 0
    for offset in offsets:
        line, last = line + text.count("\n", last, offset), offset
        yield line


def _as_yaml(text: str, file: str, limits: YamlLimits) -> YamlDocument:
    """Parse JSON with the YAML reader, for the lines only. Surrogate pairs, which YAML lacks, are replaced."""
    return read_yaml(_SURROGATE.sub(r"\\ufffd", text).encode(), file=file, limits=limits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        raise _DuplicateKeyError(next(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return out


def _no_constant(word: str) -> Any:
    raise ValueError(f'{word} is not a JSON number; write "{word}"')


def _bounded_int(digits: str) -> float:
    if len(digits) > _DIGITS_MAX + 1:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits) if digits != "-0" else -0.0


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:40]} is out of range")
    return number


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
