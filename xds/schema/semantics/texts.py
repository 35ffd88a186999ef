"""Regular expressions, and what format strings and the headers of a message must be."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import re2

from xds.schema.decode import Findings
from xds.schema.formats import ascii_lower
from xds.schema.paths import MapKey, Trail
from xds.schema.pool import load_schema
from xds.schema.rules import cut, shown
from xds.schema.semantics.commands import OF_GENERIC_LOGS, OF_HEADERS, format_problem
from xds.schema.semantics.rule import Rule, Walks

REGEXES_CACHED_MAX = 4_096
REGEX_CACHED_BYTES_MAX = 512
"""The longest expression whose verdict is kept."""
PROGRAM_BYTES_MAX = 512 * 1024
"""The memory of the largest program that is made of an expression. Envoy's limit, set in its bootstrap, is higher."""

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False  # else RE2 writes every error to stderr
_OPTIONS.encoding = re2.Options.Encoding.LATIN1  # as in Envoy, to which an expression is bytes
_OPTIONS.max_mem = PROGRAM_BYTES_MAX
_TOO_LARGE = "pattern too large"


def regex_problem(regex: str) -> str:
    """Return why RE2 refuses a regular expression, "" if it takes it, or if it is too large to be tried."""
    data = regex.encode()
    return _cached_problem(data) if len(data) <= REGEX_CACHED_BYTES_MAX else _problem_of(data)


def _problem_of(regex: bytes) -> str:
    try:
        re2.compile(regex, _OPTIONS)
    except re2.error as error:
        why = error.args[0] if error.args else error
        text = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
        return "" if text.startswith(_TOO_LARGE) else text
    finally:
        re2.purge()  # it would keep the programs
    return ""


_cached_problem = lru_cache(REGEXES_CACHED_MAX)(_problem_of)


def _check_regex(matcher: Any, trail: Trail, found: Findings, _: Walks) -> None:
    why = regex_problem(matcher.regex)
    if why:
        hint = "RE2 has no lookaround and no backreferences: https://github.com/google/re2/wiki/Syntax"
        found.add((trail, "regex"), f"is not a regular expression that RE2 takes: {cut(why)}", hint)


def _check_string(matcher: Any, trail: Trail, found: Findings, _: Walks) -> None:
    if matcher.ignore_case and matcher.WhichOneof("match_pattern") == "safe_regex":
        hint = "begin the regular expression with (?i)"
        found.add((trail, "ignore_case"), "must not be set with safe_regex", hint)


def check_format(
    text: str, trail: Trail, found: Findings, *, more: frozenset[str] = OF_GENERIC_LOGS, has_formatters: bool = False
) -> None:
    """Add what is wrong with a format string. Another Envoy than that of the packaged schema may have more commands."""
    if "%" in text:
        is_open = has_formatters or not load_schema().is_packaged
        what, hint = format_problem(text, more=None if is_open else more)
        if what:
            found.add(trail, what, hint)


def check_header(
    header: Any, trail: Trail, found: Findings, *, any_name: bool = False, has_formatters: bool = False
) -> None:
    """Check a header that is added: a name that Envoy does not let be changed, and the format of its value."""
    if not any_name and is_fixed(header.key):
        hint = "use prefix_rewrite, host_rewrite_literal and the like"
        found.add((trail, "key"), f"is {shown(header.key)}, which Envoy does not let be changed", hint)
    check_format(header.value, (trail, "value"), found, more=OF_HEADERS, has_formatters=has_formatters)


def check_header_option(option: Any, trail: Trail, found: Findings, *, has_formatters: bool = False) -> None:
    """Check a header that is added, and how."""
    check_header(option.header, (trail, "header"), found, has_formatters=has_formatters)
    if option.HasField("append") and option.append_action:
        found.add((trail, "append_action"), "excludes append", "leave append out, which is deprecated")


def is_fixed(name: str) -> bool:
    """Return whether Envoy does not let a header be changed."""
    return name.startswith(":") or ascii_lower(name) == "host"


def check_removed_headers(message: Any, fields: Iterable[str], trail: Trail, found: Findings) -> None:
    """Check the names of headers that a message removes."""
    for field in fields:
        for index, key in enumerate(getattr(message, field)):
            if is_fixed(key):
                found.add(((trail, field), index), f"is {shown(key)}, which Envoy does not let be removed")


def struct_texts(struct: Any, trail: Trail) -> Iterator[tuple[str, Trail]]:
    """Yield each text in a ``google.protobuf.Struct``, with its place."""
    for key in sorted(struct.fields):
        yield from _value_texts(struct.fields[key], (trail, MapKey(key)))


def _value_texts(value: Any, trail: Trail) -> Iterator[tuple[str, Trail]]:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        yield value.string_value, trail
    elif kind == "struct_value":
        yield from struct_texts(value.struct_value, trail)
    elif kind == "list_value":
        for index, item in enumerate(value.list_value.values):
            yield from _value_texts(item, (trail, index))


TEXT_RULES: dict[str, Rule] = {
    "envoy.type.matcher.v3.RegexMatcher": _check_regex,
    "envoy.type.matcher.v3.StringMatcher": _check_string,
}
