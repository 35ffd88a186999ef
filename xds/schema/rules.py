"""Compiles the ``validate.rules`` of one value to a function that returns what is wrong with it.

Semantics are those of protoc-gen-validate's C++ output, which is what Envoy runs (templates/cc of
bufbuild/protoc-gen-validate): patterns match the whole text, ``len`` counts code points, an upper bound below the lower
one excludes what lies between. Not enforced: ``lt_now``, ``gt_now`` and ``within`` of timestamps, which need a clock
(no Envoy message uses them), and ``no_sparse``, which cannot be broken on the wire.
"""

import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor

from xds.schema import formats

Check: TypeAlias = Callable[[Any], str | None]
"""Return what is wrong with a value, or None."""

Clause: TypeAlias = tuple[Callable[[Any], bool], str]
"""A predicate, and its text after "must"."""

SHOWN_LENGTH_MAX = 60
NANOS_PER_SECOND = 1_000_000_000
ENVOY_DURATION_SECONDS_MAX = 9_223_372_035
"""The longest duration Envoy accepts anywhere, found by bisection with Envoy 1.40."""

_NUMBERS = frozenset(
    {
        *("float", "double", "int32", "int64", "uint32", "uint64", "sint32", "sint64"),
        *("fixed32", "fixed64", "sfixed32", "sfixed64"),
    }
)
_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "gt": (operator.gt, "greater than"),
    "gte": (operator.ge, "at least"),
    "lt": (operator.lt, "less than"),
    "lte": (operator.le, "at most"),
}
_HEADER_NAME, _HEADER_VALUE = 1, 2  # validate.KnownRegex
_TEXT_FORMATS: dict[str, Clause] = {
    "email": (formats.is_email, "be an email address"),
    "hostname": (formats.is_hostname, "be a host name"),
    "ip": (formats.is_ip, "be an IP address"),
    "ipv4": (lambda text: formats.is_ip(text, version=4), "be an IPv4 address"),
    "ipv6": (lambda text: formats.is_ip(text, version=6), "be an IPv6 address"),
    "uri": (formats.is_uri, "be an absolute URI"),
    "uri_ref": (formats.is_uri_reference, "be a URI"),
    "address": (formats.is_address, "be a host name or an IP address"),
    "uuid": (formats.is_uuid, "be a UUID"),
}
_BYTES_FORMATS: dict[str, Clause] = {
    "ip": (lambda data: len(data) in (4, 16), "be an IP address of 4 or 16 bytes"),
    "ipv4": (lambda data: len(data) == 4, "be an IPv4 address of 4 bytes"),
    "ipv6": (lambda data: len(data) == 16, "be an IPv6 address of 16 bytes"),
}


def value_check(rules: Any, field: FieldDescriptor) -> Check | None:
    """Compile the rules of one value: a field, a list's item, a map's key or value, a wrapper's content.

    ``rules`` is a ``validate.FieldRules``. Returns None without rules for a value that is set; the caller checks
    presence, lists and maps.
    """
    kind = rules.WhichOneof("type")
    if kind in _NUMBERS:
        return _number_check(getattr(rules, kind))
    if kind == "string":
        return _string_check(rules.string)
    if kind == "bytes":
        return _bytes_check(rules.bytes)
    if kind == "bool":
        return _all_of(_const(rules.bool, str), show=str)
    if kind == "enum":
        return _enum_check(rules.enum, field)
    if kind == "duration":
        return duration_check(rules.duration)
    if kind == "timestamp":
        return _all_of([*_const(rules.timestamp, _iso, _nanos), *_range(rules.timestamp, _iso, _nanos)], _iso, _nanos)
    if kind == "any":
        return _any_check(rules.any)
    return None


def requires_presence(rules: Any) -> bool:
    """Return whether a message field must be set: ``required`` of message, any, duration or timestamp rules."""
    kind = rules.WhichOneof("type")
    return bool(rules.message.required or (kind in ("any", "duration", "timestamp") and getattr(rules, kind).required))


def size_check(limits: Any, word: str) -> Check | None:
    """Compile ``min_items``/``max_items`` or ``min_pairs``/``max_pairs``; ``word`` is ``item`` or ``pair``."""
    low: int = getattr(limits, f"min_{word}s")
    high: int | None = getattr(limits, f"max_{word}s") if limits.HasField(f"max_{word}s") else None
    ignore_empty: bool = limits.ignore_empty
    if not low and high is None:
        return None

    def check(values: Any) -> str | None:
        size = len(values)
        if ignore_empty and not size:
            return None
        if size < low:
            return f"must have at least {_count(low, word)}, but has {size}"
        if high is not None and size > high:
            return f"must have at most {_count(high, word)}, but has {size}"
        return None

    return check


def duration_check(rules: Any | None) -> Check:
    """Compile duration rules, including those that Envoy applies to every duration in any resource.

    Source: ``validateDurationFields`` in Envoy's protobuf/utility.cc: neither part negative, less than 2^63 ns.
    """
    clauses = [] if rules is None else [*_const(rules, _seconds, _nanos), *_range(rules, _seconds, _nanos)]
    if rules is not None:
        clauses += _lists(rules, _seconds, _nanos)
    ruled = _all_of(clauses, _seconds, _nanos)

    def check(value: Any) -> str | None:
        if value.seconds < 0 or value.nanos < 0:
            return f"must not be negative, but is {_seconds(_nanos(value))}"
        if value.seconds > ENVOY_DURATION_SECONDS_MAX or value.nanos >= NANOS_PER_SECOND:
            return f"must be at most {ENVOY_DURATION_SECONDS_MAX}s, but is {_seconds(_nanos(value))}"
        return ruled(value) if ruled is not None else None

    return check


def _number_check(rules: Any) -> Check | None:
    return _all_of([*_const(rules, str), *_range(rules, str), *_lists(rules, str)], str, None, rules.ignore_empty)


def _enum_check(rules: Any, field: FieldDescriptor) -> Check | None:
    enum = field.enum_type
    assert enum is not None, f"enum rules on {field.full_name}"
    names = {value.number: value.name for value in enum.values}

    def show(number: int) -> str:
        return names.get(number, str(number))

    clauses = [*_const(rules, show), *_lists(rules, show)]
    if rules.defined_only:
        clauses.append((names.__contains__, f"be a value of {enum.full_name}"))
    return _all_of(clauses, show)


def _any_check(rules: Any) -> Check | None:
    return _all_of(_lists(rules, str), str, lambda value: value.type_url)


def _string_check(rules: Any) -> Check | None:
    clauses = [*_const(rules, repr), *_lists(rules, repr), *_lengths(rules, len, "character")]
    for name, wanted in (("len_bytes", "=="), ("min_bytes", ">="), ("max_bytes", "<=")):
        if rules.HasField(name):
            clauses.append(_length(lambda text: len(text.encode()), wanted, getattr(rules, name), "byte"))
    clauses += _affixes(rules)
    if rules.HasField("pattern"):
        clauses.append(_pattern(rules.pattern, f"match {rules.pattern}"))
    if rules.well_known_regex == _HEADER_NAME:
        clauses.append(
            _pattern(formats.HEADER_NAME if rules.strict else formats.HEADER_LENIENT, "be an HTTP header name")
        )
    elif rules.well_known_regex == _HEADER_VALUE:
        lenient = formats.HEADER_VALUE if rules.strict else formats.HEADER_LENIENT
        clauses.append(_pattern(lenient, "be an HTTP header value"))
    clauses += _format(rules, _TEXT_FORMATS)
    return _all_of(clauses, repr, None, rules.ignore_empty)


def _bytes_check(rules: Any) -> Check | None:
    clauses = [*_const(rules, repr), *_lists(rules, repr), *_lengths(rules, len, "byte"), *_affixes(rules)]
    if rules.HasField("pattern"):
        holds, text = _pattern(rules.pattern, f"match {rules.pattern}")
        # RE2 runs on the raw bytes; Latin-1 gives Python one character for each.
        clauses.append((lambda data: holds(data.decode("latin-1")), text))
    clauses += _format(rules, _BYTES_FORMATS)
    return _all_of(clauses, lambda data: f"{len(data)} bytes", None, rules.ignore_empty)


def _const(rules: Any, show: Callable[[Any], str], key: Callable[[Any], Any] | None = None) -> list[Clause]:
    if not rules.HasField("const"):
        return []
    wanted = key(rules.const) if key else rules.const
    return [(lambda value: bool(value == wanted), f"be {show(wanted)}")]


def _lists(rules: Any, show: Callable[[Any], str], key: Callable[[Any], Any] | None = None) -> list[Clause]:
    clauses: list[Clause] = []
    allowed, denied = ([key(item) if key else item for item in getattr(rules, name)] for name in ("in", "not_in"))
    if allowed:
        clauses.append((frozenset(allowed).__contains__, f"be one of {', '.join(map(show, allowed))}"))
    if denied:
        refused = frozenset(denied)
        clauses.append((lambda value: value not in refused, f"not be {' or '.join(map(show, denied))}"))
    return clauses


def _range(rules: Any, show: Callable[[Any], str], key: Callable[[Any], Any] | None = None) -> list[Clause]:
    bounds: list[Any] = []
    clauses: list[Clause] = []
    for names in (("gt", "gte"), ("lt", "lte")):
        name = next((name for name in names if rules.HasField(name)), None)
        if name is not None:
            bound = key(getattr(rules, name)) if key else getattr(rules, name)
            bounds.append(bound)
            clauses.append(_bound(name, bound, show))
    if len(clauses) == 2 and not bounds[1] > bounds[0]:
        (above, above_text), (below, below_text) = clauses
        return [(lambda value: above(value) or below(value), f"{below_text} or {above_text}")]
    return clauses


def _bound(name: str, bound: Any, show: Callable[[Any], str]) -> Clause:
    compare, words = _BOUNDS[name]
    return (lambda value: compare(value, bound), f"be {words} {show(bound)}")


def _lengths(rules: Any, measure: Callable[[Any], int], word: str) -> list[Clause]:
    wanted = (("len", "=="), ("min_len", ">="), ("max_len", "<="))
    return [_length(measure, how, getattr(rules, name), word) for name, how in wanted if rules.HasField(name)]


def _length(measure: Callable[[Any], int], how: str, bound: int, word: str) -> Clause:
    if how == "==":
        return (lambda value: measure(value) == bound, f"have exactly {_count(bound, word)}")
    if how == "<=":
        return (lambda value: measure(value) <= bound, f"have at most {_count(bound, word)}")
    return (
        lambda value: measure(value) >= bound,
        "not be empty" if bound == 1 else f"have at least {_count(bound, word)}",
    )


def _affixes(rules: Any) -> list[Clause]:
    clauses: list[Clause] = []
    if rules.HasField("prefix"):
        prefix = rules.prefix
        clauses.append((lambda value: bool(value.startswith(prefix)), f"start with {prefix!r}"))
    if rules.HasField("suffix"):
        suffix = rules.suffix
        clauses.append((lambda value: bool(value.endswith(suffix)), f"end with {suffix!r}"))
    if rules.HasField("contains"):
        part = rules.contains
        clauses.append((lambda value: part in value, f"contain {part!r}"))
    if "not_contains" in rules.DESCRIPTOR.fields_by_name and rules.HasField("not_contains"):
        banned = rules.not_contains
        clauses.append((lambda value: banned not in value, f"not contain {banned!r}"))
    return clauses


def _pattern(re2: str, text: str) -> Clause:
    matches = formats.python_pattern(re2).fullmatch
    return (lambda value: matches(value) is not None, text)


def _format(rules: Any, known: dict[str, Clause]) -> Iterable[Clause]:
    name = rules.WhichOneof("well_known")
    return [known[name]] if name in known and getattr(rules, name) else []


def _all_of(
    clauses: Iterable[Clause],
    show: Callable[[Any], str],
    key: Callable[[Any], Any] | None = None,
    ignore_empty: bool = False,
) -> Check | None:
    """Join clauses to one check, which reports the first violated clause and the value."""
    every = tuple(clauses)
    if not every:
        return None

    def check(value: Any) -> str | None:
        if key is not None:
            value = key(value)
        for holds, text in every:
            if not holds(value) and not (ignore_empty and not value):
                return f"must {text}" if text == "not be empty" else f"must {text}, but is {_shown(value, show)}"
        return None

    return check


def _shown(value: Any, show: Callable[[Any], str]) -> str:
    if isinstance(value, str | bytes) and not value:
        return "empty"
    return cut(show(value))


def first_repeated(values: Iterable[Any]) -> tuple[int, Any] | None:
    """Return the first value that equals one before it, with its index; None if all differ."""
    seen: set[Any] = set()
    for index, value in enumerate(values):
        if value in seen:
            return index, value
        seen.add(value)
    return None


def shown(text: str) -> str:
    """Return a text in quotes, shortened as the values of rules are, however long it is."""
    return cut(repr(text[:SHOWN_LENGTH_MAX]))


def cut(text: str) -> str:
    """Return a text, shortened as the values of rules are."""
    return text if len(text) <= SHOWN_LENGTH_MAX else text[: SHOWN_LENGTH_MAX - 1] + "…"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _nanos(value: Any) -> int:
    return int(value.seconds) * NANOS_PER_SECOND + int(value.nanos)


def _seconds(nanos: int) -> str:
    sign = "-" if nanos < 0 else ""
    whole, part = divmod(abs(nanos), NANOS_PER_SECOND)
    return f"{sign}{whole}.{part:09d}".rstrip("0").rstrip(".") + "s"


def _iso(nanos: int) -> str:
    return f"{_seconds(nanos)} since 1970"
