"""Read a YAML file into plain values, safely and fast, with the line of any path.

PyYAML's ``safe_load`` composes a tree of nodes and then constructs values from it, which takes three times as long
(43 ms against 13 ms for 100 assignments of 10 endpoints, libyaml 0.2.5), expands aliases without bound, silently keeps
the last of two equal keys, and overflows the C stack at some 100,000 levels. So values are built here directly from
libyaml's events. Lines are recorded only for the items of lists under top-level keys; if a problem needs another line,
the file is parsed a second time with all lines recorded.

Values are what Envoy makes of a file (``ValueUtil::loadFromYaml`` with yaml-cpp): booleans are y, yes, on, true and
their opposites, and whole numbers of 32 bits are ints, also ``0x1F`` and ``017``. A larger whole number becomes its
decimal text, and everything else stays text as it is written: ``1.10``, ``1e3``, ``12:30``, ``1_000``, ``.inf``.
``convert`` reads such a text as the field's type. Keys are text; one that has the tag ``!ignore`` is left out, with its
value. docs/directory.md lists where this reader is stricter.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
)

from xds.model.problem import ChangesetRejectedError, Problem
from xds.schema.scrub import hider, secrets_in_text

PathKeys = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlLimits:
    """Limits of a file, and how strictly it is read."""

    file_bytes_max: int = 64 << 20
    depth_max: int = 100
    nodes_max: int = 10_000_000
    """Values, with those that aliases and merge keys add."""
    alias_nodes_max: int = 200_000
    """Values that aliases and merge keys add."""
    strict: bool = True
    """Refuse what Envoy reads although it is likely a mistake: a key twice (the last one counts), and tags (they are
    ignored)."""


class Document(Protocol):
    """A parsed file: its ``value`` (None if empty) and the lines of its parts, counted from 1."""

    value: Any

    def item_line(self, key: str, index: int) -> int:
        """Return the line of an item of the list under a top-level key, "" for a list at the top. Cheap."""
        ...

    def line_of(self, path: PathKeys) -> int:
        """Return the line of the path, or of its nearest ancestor in the file. May parse the file again."""
        ...


class FileDocument(Document, Protocol):
    """A document of a file that may have several."""

    @property
    def line(self) -> int:
        """The line on which the value starts."""
        ...

    def is_anchored(self, key: str) -> bool:
        """Return whether the value of a top-level key has an anchor."""
        ...


def read_yaml(text: bytes, *, file: str, limits: YamlLimits) -> "YamlDocument":
    """Parse one YAML document of dicts, lists, text, ints, booleans and None; the value of an empty file is None.

    Aliases share one object, so the result must not be modified. Raises ChangesetRejectedError with all problems that
    can be found: syntax, not UTF-8, duplicate keys (both lines), more than one document, tags, keys that aren't
    scalars, and exceeded limits.
    """
    first, *rest = read_yaml_documents(text, file=file, limits=limits)
    for second in rest:
        if second.value is not None:
            hint = "keep one document: remove the '---', or split the file"
            raise _rejected("a second YAML document starts here", hint, file, second.line)
    return first


def read_yaml_documents(text: bytes, *, file: str, limits: YamlLimits) -> "list[YamlDocument]":
    """Parse all documents of a file, at least one: like ``read_yaml``."""
    text = _checked_breaks(checked_utf8(text, file=file, limits=limits), file)
    source = _Source(text, file, limits)
    try:
        source.built = source.build(keep_lines=False)
    except ChangesetRejectedError:
        try:
            source.build(keep_lines=True)  # raises with all problems and their lines
        except ChangesetRejectedError as error:
            raise without_secrets(error, text.decode()) from None
        raise
    return [YamlDocument(source, number) for number in range(len(source.built.values))]


class _Source:
    """A file's text, and its values with or without all lines."""

    __slots__ = ("_events", "_file", "_limits", "_text", "built")

    def __init__(self, text: bytes, file: str, limits: YamlLimits) -> None:
        self._text, self._file, self._limits = text, file, limits
        self._events: Callable[[bytes], Callable[[], Any]] = _event_source
        self.built: _Builder

    def build(self, *, keep_lines: bool) -> "_Builder":
        """Parse the text. Raises ChangesetRejectedError."""
        try:
            return self._build(keep_lines=keep_lines)
        except ChangesetRejectedError:
            # libyaml refuses `{name: :method}`, which yaml-cpp reads.
            if self._events is not _event_source or not _FLOW_INDICATOR.search(self._text):
                raise
            self._events = _lenient_event_source
            return self._build(keep_lines=keep_lines)

    def _build(self, *, keep_lines: bool) -> "_Builder":
        events = self._events(self._text)
        return _Builder(events, self._text, self._file, self._limits, keep_lines=keep_lines).documents()


def checked_utf8(text: bytes, *, file: str, limits: YamlLimits) -> bytes:
    """Return the text without its byte order mark. Raises ChangesetRejectedError if it is too big or not UTF-8."""
    if len(text) > limits.file_bytes_max:
        what = f"the file has {len(text):,} bytes, more than the {limits.file_bytes_max:,} allowed"
        raise _rejected(what, "split it into several files", file, 0)
    text = text.removeprefix(b"\xef\xbb\xbf")
    if (nul := text.find(0)) >= 0:
        raise _rejected("a NUL byte; is this a text file?", "save it as UTF-8 text", file, _line_at(text, nul))
    try:
        text.decode()
    except UnicodeDecodeError as error:
        what = f"not UTF-8: byte 0x{text[error.start]:02x} ({error.reason})"
        raise _rejected(what, "save the file as UTF-8", file, _line_at(text, error.start)) from None
    return text


_REORDERS = re.compile(rb"\xe2\x80[\xaa-\xae]|\xe2\x81[\xa6-\xa9]")
"""U+202A to U+202E and U+2066 to U+2069 in UTF-8: text that a reviewer sees in another order (CVE-2021-42574)."""


def refuse_reordered(text: bytes, *, file: str) -> None:
    """Raise ChangesetRejectedError if a text of a file has characters that reorder what its reviewer sees."""
    if found := _REORDERS.search(text):
        code = f"{ord(found[0].decode()):04x}"
        what = f"U+{code.upper()}, which makes the text around it look like something else"
        raise _rejected(what, f'remove it, or write it as "\\u{code}"', file, _line_at(text, found.start()))


class YamlDocument:
    """A parsed document of a YAML file. See ``Document``."""

    __slots__ = ("_number", "_source", "value")

    def __init__(self, source: _Source, number: int) -> None:
        self.value: Any = source.built.values[number]
        self._source, self._number = source, number

    @property
    def line(self) -> int:
        """The line on which the value starts."""
        return self._source.built.starts[self._number]

    def item_line(self, key: str, index: int) -> int:
        """Return the line of an item of the list under a top-level key, "" for a list at the top."""
        value = self._value()
        is_top = isinstance(value, list)
        lines = self._source.built.item_lines.get(id(value if is_top else value[key]))
        return lines[index] if lines else self.line_of((index,) if is_top else (key, index))

    def line_of(self, path: PathKeys) -> int:
        """Return the line of the path, or of its nearest ancestor in the file."""
        if not self._source.built.keep_lines:
            self._source.built = self._source.build(keep_lines=True)
        return self._source.built.line_of(self._number, path)

    def is_anchored(self, key: str) -> bool:
        """Return whether the value of a top-level key has an anchor."""
        return id(self._value()[key]) in self._source.built.anchored

    def _value(self) -> Any:
        return self._source.built.values[self._number]


_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLS = {
    **{form(word): True for word in ("y", "yes", "on", "true") for form in (str.lower, str.capitalize, str.upper)},
    **{form(word): False for word in ("n", "no", "off", "false") for form in (str.lower, str.capitalize, str.upper)},
}
_WORDS: dict[str, bool | None] = {**dict.fromkeys(_NULLS), **_BOOLS}
_SPECIAL = frozenset(["", *"0123456789-+~nNtTfFyYoO"])  # what a plain scalar that isn't text starts with
_INT = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]{1,30}|0[0-7]{0,30}|[1-9][0-9]{0,30})")
_TAG = "tag:yaml.org,2002:"
_IGNORE = "!ignore"
_FLOW_INDICATOR = re.compile(rb"[\[{,:]\s*:[^\s,\[\]{}]")


def _plain(text: str) -> Any:
    """Return the value of an untagged, unquoted scalar."""
    return _WORDS[text] if text in _WORDS else _whole(text)


def _whole(text: str) -> int | str:
    """Return a whole number of 32 bits as an int, a larger one as its decimal text, and any other text as it is."""
    if _INT.fullmatch(text) is None:
        return text
    digits = text.lstrip("+-")
    base = 16 if digits[1:2] in ("x", "X") else 8 if digits.startswith("0") else 10
    number = int(text, base)
    if -(2**31) <= number < 2**31:
        return number
    return str(number) if -(2**63) <= number < 2**63 else text


def _tagged(text: str) -> Any:
    """Return the value of a scalar with a tag. Envoy ignores the tag, and does not know null then."""
    return _BOOLS[text] if text in _BOOLS else _whole(text)


_MEANT: dict[str, Callable[[Any, str], bool]] = {
    _TAG + "str": lambda value, text: isinstance(value, str) and _INT.fullmatch(text) is None,
    _TAG + "bool": lambda value, _: isinstance(value, bool),
    _TAG + "int": lambda value, text: not isinstance(value, bool) and _INT.fullmatch(text) is not None,
    _TAG + "float": lambda value, _: not isinstance(value, bool),
}
"""Whether a tag says what Envoy, which ignores it, makes of the text."""


class _OpenAnchor:
    """Marks an anchor whose value is not complete yet."""


class _Builder:
    """One pass over a file's events. With ``keep_lines`` it continues after problems if possible, and collects them."""

    def __init__(
        self, events: Callable[[], Any], text: bytes, file: str, limits: YamlLimits, *, keep_lines: bool
    ) -> None:
        self.values: list[Any] = []
        self.keep_lines = keep_lines
        self.item_lines: dict[int, list[int]] = {}
        self.anchored: set[int] = set()
        """The ids of the values of top-level keys that have an anchor."""
        self._lines: dict[int, tuple[int, dict[str | int, int]]] = {}  # id of a container → its line, its parts' lines
        self.starts: list[int] = []
        self._next = events
        self._text, self._file, self._limits = text, file, limits
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._depth = self._count = self._alias_count = 0
        self._problems: list[Problem] = []

    def documents(self) -> "_Builder":
        """Build the documents of the file. Raises ChangesetRejectedError."""
        try:
            self._next()  # StreamStartEvent
            while type(event := self._next()) is DocumentStartEvent:
                self._anchors = {}
                event = self._next()
                self.starts.append(_line(event))
                self.values.append(self._node(event))
                self._next()  # DocumentEndEvent
        except ChangesetRejectedError:
            pass  # its problems are in the list
        except yaml.YAMLError as error:
            self._problems.append(_syntax_problem(error, self._file, self._text))
        if self._problems:
            raise ChangesetRejectedError(self._problems)
        if not self.values:
            self.starts, self.values = [1], [None]
        return self

    def line_of(self, number: int, path: PathKeys) -> int:
        """Return the line of the deepest part of a document's path that exists. Needs ``keep_lines``."""
        value = self.values[number]
        line = self._lines.get(id(value), (self.starts[number], {}))[0]
        for key in path:
            line = self._lines.get(id(value), (line, {}))[1].get(key, line)
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                break
        return line

    def _problem(self, what: str, hint: str, line: int, *, fatal: bool = False) -> None:
        self._problems.append(Problem(what=what, hint=hint, file=self._file, line=line))
        if fatal or not self.keep_lines:
            raise ChangesetRejectedError(self._problems)

    def _node(self, event: Any) -> Any:
        kind = type(event)
        if kind is ScalarEvent:
            return self._scalar(event)
        if kind is AliasEvent:
            return self._alias(event)
        count = self._count
        if event.anchor is not None:
            self._anchors[event.anchor] = (_OpenAnchor, 0)
        if event.tag is not None and self._limits.strict and event.tag not in (_TAG + "map", _TAG + "seq", "!"):
            self._refuse_tag(event)
        self._enter(event)
        value = self._mapping(event) if kind is MappingStartEvent else self._sequence(event)
        self._depth -= 1
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._count - count)
            if self._depth == 1:
                self.anchored.add(id(value))
        return value

    def _enter(self, event: Any) -> None:
        self._depth += 1
        self._count += 1
        if self._depth > self._limits.depth_max:
            what = f"nested deeper than {self._limits.depth_max} levels"
            self._problem(what, "Envoy's API needs no such depth", _line(event), fatal=True)
        if self._count > self._limits.nodes_max:
            what = f"more than {self._limits.nodes_max:,} values in one file"
            self._problem(what, "split it into several files", _line(event), fatal=True)

    def _mapping(self, start: Any) -> dict[str, Any]:
        out: dict[str, Any] = {}
        merges: list[Any] = []
        get = self._next
        lines: dict[str | int, int] | None = None
        if self.keep_lines:
            self._lines[id(out)] = (_line(start), lines := {})
        while type(event := get()) is not MappingEndEvent:
            if type(event) is not ScalarEvent and (event := self._alias_key(event)) is None:
                continue
            key = event.value
            if key == "<<" and event.implicit[0]:
                if self._limits.strict:
                    self._problem("Envoy does not know the merge key '<<'", MERGE_HINT, _line(event))
                merges.append(event)
                merges.append(self._node(get()))
                continue
            if key in _NULLS and event.implicit[0] and event.tag is None:
                key = "null"
            if key in out and self._limits.strict:
                first = f" (first on line {lines[key]})" if lines else ""
                self._problem(f"duplicate key {key!r}{first}", DUPLICATE_HINT, _line(event))
            if event.tag == _IGNORE:
                self._keep_anchor(event, key)
                self._node(get())
                continue
            if lines is not None:
                lines[key] = _line(event)
            self._keep_anchor(event, key)
            event = get()
            if type(event) is ScalarEvent and event.tag is None and event.anchor is None:
                self._count += 1
                text = event.value
                out[key] = _plain(text) if text[:1] in _SPECIAL and event.implicit[0] else text
            else:
                out[key] = self._node(event)
        if merges:
            self._merge(out, merges)
        return out

    def _sequence(self, start: Any) -> list[Any]:
        out: list[Any] = []
        get = self._next
        lines: list[int] | None = None
        if self._depth <= 2 or self.keep_lines:
            lines = self.item_lines[id(out)] = []
        while type(event := get()) is not SequenceEndEvent:
            if lines is not None:
                lines.append(_line(event))
            if type(event) is ScalarEvent and event.tag is None and event.anchor is None:
                self._count += 1
                text = event.value
                out.append(_plain(text) if text[:1] in _SPECIAL and event.implicit[0] else text)
            else:
                out.append(self._node(event))
        if self.keep_lines:
            self._lines[id(out)] = (_line(start), dict(enumerate(lines or ())))
        return out

    def _scalar(self, event: Any) -> Any:
        self._count += 1
        text = event.value
        if event.tag is None:
            value = _plain(text) if event.implicit[0] else text
        elif event.tag == "!":
            value = text
        else:
            value = _tagged(text)
            if self._limits.strict:
                self._check_tag(event, value)
        self._keep_anchor(event, value)
        return value

    def _keep_anchor(self, event: Any, value: Any) -> None:
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1)

    def _check_tag(self, event: Any, value: Any) -> None:
        """Refuse a tag that doesn't say what Envoy makes of the value, which ignores tags."""
        meant = _MEANT.get(event.tag)
        if meant is None:
            self._refuse_tag(event)
        elif not meant(value, event.value):
            reads = json.dumps(value, ensure_ascii=False)
            what = f"Envoy ignores the tag {event.tag.replace(_TAG, '!!')} and reads {event.value!r} as {reads}"
            hint = "put text in quotes, without a tag" if event.tag == _TAG + "str" else "remove the tag"
            self._problem(what, hint, _line(event))

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            hint = f"set the anchor, &{event.anchor}, before its first use"
            self._problem(f"no anchor for the alias *{event.anchor}", hint, _line(event))
            return None
        value, size = self._anchors[event.anchor]
        if value is _OpenAnchor:
            what = f"the alias *{event.anchor} is within its own anchor"
            self._problem(what, "a value can't contain itself", _line(event), fatal=True)
        self._count += size
        self._alias_count += size
        if self._alias_count > self._limits.alias_nodes_max:
            what = f"aliases expand to more than {self._limits.alias_nodes_max:,} values"
            self._problem(what, "write less by alias, or split the file", _line(event), fatal=True)
        return value

    def _merge(self, out: dict[str, Any], merges: list[Any]) -> None:
        """Add the keys of merged mappings that the mapping lacks (https://yaml.org/type/merge.html)."""
        for event, value in zip(merges[::2], merges[1::2], strict=True):
            for part in value if isinstance(value, list) else [value]:
                if not isinstance(part, dict):
                    self._problem("'<<' merges something that isn't a mapping", "use <<: *anchor", _line(event))
                    continue
                for key in part:
                    out.setdefault(key, part[key])
                if self.keep_lines:
                    own, brought = self._lines[id(out)][1], self._lines[id(part)][1]
                    own.update({key: line for key, line in brought.items() if key not in own})

    def _alias_key(self, event: Any) -> Any:
        """Return the key that an alias stands for; None for another key that isn't a scalar, which is a problem."""
        if type(event) is AliasEvent and isinstance(value := self._alias(event), str):
            return ScalarEvent(None, None, (False, False), value, event.start_mark, event.end_mark)
        self._problem("a key must be a plain word", "put it in quotes if it is text", _line(event))
        if type(event) is not AliasEvent:
            self._node(event)
        self._node(self._next())
        return None

    def _refuse_tag(self, event: Any) -> None:
        tag = event.tag.replace(_TAG, "!!")
        self._problem(f"the tag {tag} is not allowed: Envoy ignores it", TAG_HINT, _line(event))


STRICT_SETTING = "strict_yaml"
"""The setting for ``YamlLimits.strict``."""
DUPLICATE_HINT = f"keep one of the two; Envoy takes the last one, and so do we with {STRICT_SETTING}: false"
MERGE_HINT = f"write the fields out, or have them merged with {STRICT_SETTING}: false"
TAG_HINT = f"remove it, or ignore tags as Envoy does with {STRICT_SETTING}: false"


def without_secrets(error: ChangesetRejectedError, text: str) -> ChangesetRejectedError:
    """Return the error with what may be secrets in the file's text hidden: an alias or a tag may be one."""
    hide = hider(secrets_in_text(text))
    return ChangesetRejectedError(
        [replace(problem, what=hide(problem.what), hint=hide(problem.hint)) for problem in error.problems]
    )


def _event_source(text: bytes) -> Callable[[], Any]:
    try:
        parser: Any = import_module("yaml.cyaml").CParser(text)
    except ImportError:  # PyYAML without libyaml: the same events, ten times slower
        parser = yaml.SafeLoader(text)
    get_event: Callable[[], Any] = parser.get_event
    return get_event


_SPACE = "\0 \t\r\n\x85\u2028\u2029"
_FLOW = ",[]{}"


class _LenientLoader(yaml.SafeLoader):
    """PyYAML's own parser, with plain scalars that begin with ``:`` within ``{}`` and ``[]``, as in YAML 1.2."""

    def check_plain(self) -> bool:
        """Return whether a plain scalar begins here."""
        if not self.flow_level or self.peek() != ":":
            return bool(super().check_plain())
        return self.peek(1) not in _SPACE + _FLOW

    def check_value(self) -> bool:
        """Return whether a ``:`` here is an indicator. Within ``{}`` and ``[]`` it is also one right after a quote."""
        if not self.flow_level or self.peek(1) in _SPACE + _FLOW:
            return bool(super().check_value())
        return self.pointer > 0 and self.buffer[self.pointer - 1] in "\"']}"


def _lenient_event_source(text: bytes) -> Callable[[], Any]:
    get_event: Callable[[], Any] = _LenientLoader(text).get_event
    return get_event


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _checked_breaks(text: bytes, file: str) -> bytes:
    """Refuse the line breaks of YAML 1.1, which libyaml folds to a space and yaml-cpp keeps."""
    for char in ("\x85", "\u2028", "\u2029"):
        if (at := text.find(char.encode())) >= 0:
            code = f"{ord(char):04x}"
            what = f"a line break U+{code.upper()}, which YAML parsers read differently"
            raise _rejected(what, f'write it as "\\u{code}"', file, _line_at(text, at))
    return text


def _line_at(text: bytes, offset: int) -> int:
    return text.count(b"\n", 0, offset) + 1


def _rejected(what: str, hint: str, file: str, line: int) -> ChangesetRejectedError:
    return ChangesetRejectedError([Problem(what=what, hint=hint, file=file, line=line)])


def _syntax_problem(error: yaml.YAMLError, file: str, text: bytes) -> Problem:
    mark, context_mark = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    why = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    hint = getattr(error, "context", None) or ""
    if hint and context_mark is not None:
        hint += f" that starts on line {context_mark.line + 1}"
    if "cannot start any token" in why:
        hint = "indent with spaces, not tabs, and quote text that starts with a special character"
    if mark is not None:
        return Problem(
            what=f"not valid YAML: {why} (column {mark.column + 1})", hint=hint, file=file, line=mark.line + 1
        )
    line = _line_at(text, getattr(error, "position", None) or 0)
    return Problem(what=f"not valid YAML: {why}", hint=hint or "save it as plain text", file=file, line=line)
