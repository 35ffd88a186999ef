"""Matchers of texts, headers, query parameters and cookies, as Envoy evaluates them.

A matcher's verdict is yes, no, or unknown: what depends on more than the request and the resources is not guessed.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import re2

from xds.routing.fields import optional
from xds.routing.request import Request
from xds.schema.formats import ascii_lower

_HIDDEN = "it carries credentials, so what it must be is hidden"
_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.encoding = re2.Options.Encoding.LATIN1  # as in Envoy, to which expressions and texts are bytes


class Verdict(NamedTuple):
    """Whether something matches, None if that is not known, and why it does not or is not known."""

    is_match: bool | None
    why: str = ""


YES = Verdict(True)


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Return no if any verdict is no, else unknown if any is unknown, else yes."""
    unknown: Verdict | None = None
    for each in verdicts:
        if each.is_match is False:
            return each
        if each.is_match is None and unknown is None:
            unknown = each
    return unknown or YES


def full_match(regex: str, text: str) -> bool:
    """Return whether a regular expression of RE2 matches a whole text."""
    return re2.fullmatch(regex.encode(), text.encode(), options=_OPTIONS) is not None


def match_string(matcher: Any, text: str) -> bool | None:
    """Return whether a StringMatcher (of Envoy or of xDS) matches, None if it is a custom one."""
    kind = matcher.WhichOneof("match_pattern")
    if kind == "safe_regex":
        return full_match(matcher.safe_regex.regex, text)
    if kind not in ("exact", "prefix", "suffix", "contains"):
        return None
    wanted = getattr(matcher, kind)
    if matcher.ignore_case:
        wanted, text = ascii_lower(wanted), ascii_lower(text)
    return _TEXT_MATCHES[kind](text, wanted)


_TEXT_MATCHES: dict[str, Callable[[str, str], bool]] = {
    "exact": str.__eq__,
    "prefix": str.startswith,
    "suffix": str.endswith,
    "contains": str.__contains__,
}


def said(matcher: Any) -> str:
    """Return a StringMatcher in words."""
    kind = matcher.WhichOneof("match_pattern")
    if kind == "custom":
        return "a custom matcher"
    text = matcher.safe_regex.regex if kind == "safe_regex" else getattr(matcher, kind or "exact")
    words = {"exact": "", "prefix": "begins with ", "suffix": "ends with ", "contains": "contains "}
    ignoring = " (ignoring case)" if matcher.ignore_case else ""
    return f"{words.get(kind or 'exact', 'matches ')}{text!r}{ignoring}"


def match_header(matcher: Any, request: Request, is_hidden: bool = False) -> Verdict:
    """Return the verdict of a HeaderMatcher: whether any value of the header fits.

    A missing header matches only where its presence is what is asked for, unless ``treat_missing_header_as_empty``
    makes it the empty text. ``is_hidden``: what the matcher wants is a secret.
    """
    name = matcher.name.lower()
    values = request.values(name)
    kind = matcher.WhichOneof("header_match_specifier") or "present_match"
    if name in request.unsure:
        return Verdict(None, f"header {name}: Envoy may set, change or remove it")
    wants_presence = matcher.present_match if matcher.HasField("present_match") else True
    is_compared = bool(values) or bool(optional(matcher, "treat_missing_header_as_empty"))
    if (is_hidden or name in request.hidden) and kind != "present_match" and is_compared:
        return Verdict(None, f"header {name}: {_HIDDEN}")
    if not is_compared:
        if kind == "present_match" and wants_presence == matcher.invert_match:
            return YES
        return Verdict(False, f"header {name} is missing")
    if kind == "present_match":
        is_match: bool | None = wants_presence
    else:
        matches = [_match_value(matcher, kind, text) for text in values or [""]]
        if None in matches:
            return Verdict(None, f"header {name}: a custom matcher")
        is_match = any(matches)
    if is_match != matcher.invert_match:
        return YES
    shown = (
        f"header {name} is {', '.join(map(repr, values))}" if values else f"header {name} is missing, taken as empty"
    )
    return Verdict(False, f"{shown}; wanted: {'not ' * matcher.invert_match}{_wanted(matcher, kind)}")


def _match_value(matcher: Any, kind: str, text: str) -> bool | None:
    if kind == "string_match":
        return match_string(matcher.string_match, text)
    if kind == "safe_regex_match":
        return full_match(matcher.safe_regex_match.regex, text)
    if kind == "range_match":
        try:
            number = int(text.strip()) if text.isascii() and text.strip().lstrip("+-").isdecimal() else None
        except ValueError:
            number = None
        return number is not None and matcher.range_match.start <= number < matcher.range_match.end
    wanted = getattr(matcher, kind)
    if kind == "exact_match" and not wanted:
        return True
    return _TEXT_MATCHES[kind.removesuffix("_match")](text, wanted)


def _wanted(matcher: Any, kind: str) -> str:
    if kind == "string_match":
        return said(matcher.string_match)
    if kind == "safe_regex_match":
        return f"matches {matcher.safe_regex_match.regex!r}"
    if kind == "range_match":
        return f"{matcher.range_match.start} to {matcher.range_match.end - 1}"
    if kind == "present_match":
        return "present" if getattr(matcher, kind) or not matcher.HasField(kind) else "absent"
    return f"{kind.removesuffix('_match')} {getattr(matcher, kind)!r}"


def query_parameters(path: str) -> list[tuple[str, str]]:
    """Return the parameters of a path's query as they are, not decoded."""
    _, mark, query = path.partition("?")
    if not mark:
        return []
    pairs = (part.partition("=") for part in query.partition("#")[0].split("&"))
    return [(key, value) for key, _, value in pairs]


def match_query(matcher: Any, request: Request, is_hidden: bool = False) -> Verdict:
    """Return the verdict of a QueryParameterMatcher: it looks at the first parameter of the name."""
    values = [value for key, value in query_parameters(request.path) if key == matcher.name]
    kind = matcher.WhichOneof("query_parameter_match_specifier") or "present_match"
    name = f"query parameter {matcher.name!r}"
    if kind == "present_match":
        wanted = matcher.present_match if matcher.HasField("present_match") else True
        is_there = bool(values)
        return YES if is_there == wanted else Verdict(False, f"{name} is {'there' if is_there else 'missing'}")
    if not values:
        return Verdict(False, f"{name} is missing")
    if is_hidden or matcher.name.lower() in request.hidden_parameters:
        return Verdict(None, f"{name}: {_HIDDEN}")
    is_match = match_string(matcher.string_match, values[0])
    if is_match is None:
        return Verdict(None, f"{name}: a custom matcher")
    return YES if is_match else Verdict(False, f"{name} is {values[0]!r}; wanted: {said(matcher.string_match)}")


def match_cookie(matcher: Any, request: Request, is_hidden: bool = False) -> Verdict:
    """Return the verdict of a CookieMatcher."""
    found: dict[str, str] = {}
    for text in (request.header("cookie") or "").split(";"):
        key, equals, value = text.strip().partition("=")
        if equals:
            found.setdefault(key, value.strip('"'))
    name = f"cookie {matcher.name!r}"
    value_of = found.get(matcher.name)
    if value_of is None:
        return YES if matcher.invert_match else Verdict(False, f"{name} is missing")
    if is_hidden or "cookie" in request.hidden:
        return Verdict(None, f"{name}: {_HIDDEN}")
    is_match = match_string(matcher.string_match, value_of)
    if is_match is None:
        return Verdict(None, f"{name}: a custom matcher")
    if is_match != matcher.invert_match:
        return YES
    wanted = f"{'not ' * matcher.invert_match}{said(matcher.string_match)}"
    return Verdict(False, f"{name} is {value_of!r}; wanted: {wanted}")
