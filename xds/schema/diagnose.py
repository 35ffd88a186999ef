"""Words the problems that ``convert`` finds: what a value must be, what it is, and what to write instead."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from xds.model.closest import closest
from xds.schema import pool
from xds.schema.paths import Finding
from xds.schema.scalars import integer_range

ENUM_VALUES_SHOWN_MAX = 12

KEY_HINT = "put it in quotes"
NO_TYPE_HINT = 'say which message it is: "@type": type.googleapis.com/…'
QUOTES_HINT = "put it in quotes as it is written"
"""Not with the text: ``1.10`` and ``0x1F`` have arrived as 1.1 and 31, and quoting that would change the value."""

_DURATION_TEXT = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|us|ns|m|h|d|s|)", re.ASCII)
_UNIT_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "m": 60.0, "h": 3600.0, "d": 86400.0}


def scalar_complaint(field: FieldDescriptor, value: Any, *, hidden: bool = False) -> tuple[str, str]:
    """Return the problem and the hint for a value that a scalar field can't hold; ``hidden`` if it may be a secret."""
    kind = kind_of(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        hint = "text goes into inline_string" if field.name == "inline_bytes" else ""
        return "must be base64 text", hint  # not shown: it may be a secret
    if field.enum_type is not None:
        return f"{_yaml(value)} is not a value of {field.enum_type.full_name}", _enum_hint(field.enum_type, value)
    if field.type == FieldDescriptor.TYPE_STRING:
        return _text_complaint(value, hidden=hidden)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return f"must be true or false, but is {kind}", ""
    if (limits := integer_range(field)) is not None:
        return f"must be a whole number from {limits[0]} to {limits[1]}, but is {kind}", ""
    return f"must be a number, but is {kind}", ""


def _text_complaint(value: Any, *, hidden: bool) -> tuple[str, str]:
    what = "must be text" if hidden else f"must be text, but is {kind_of(value)}"
    if isinstance(value, bool):
        return what, f"{QUOTES_HINT} (YAML reads y, yes, on as true and n, no, off as false)"
    return what, QUOTES_HINT if isinstance(value, int | float) else ""


def text_complaint(full_name: str, value: Any) -> tuple[str, str]:
    """Return the problem and the hint for a value that isn't the text of a duration, timestamp or field mask."""
    if full_name == pool.DURATION:
        return f"{kind_of(value)} is not a duration", _duration_hint(value)
    if full_name == pool.TIMESTAMP:
        return f"must be a timestamp such as 2026-01-31T12:00:00Z, but is {kind_of(value)}", ""
    return f"must be a comma-separated list of field names, but is {kind_of(value)}", ""


def unknown_field_hint(descriptor: Descriptor, key: str) -> str:
    """Return which fields an unknown one may have been meant to be, or ""."""
    close = closest(key, descriptor.fields_by_name, count=3)
    return f"did you mean {' or '.join(close)}?" if close else ""


def _enum_hint(enum: EnumDescriptor, value: Any) -> str:
    names = [item.name for item in enum.values]
    close = closest(str(value).upper(), names, count=2)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = ", …" if len(names) > ENUM_VALUES_SHOWN_MAX else ""
    return "one of " + ", ".join(names[:ENUM_VALUES_SHOWN_MAX]) + more


def _duration_hint(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'write "{value}s"'
    match = _DURATION_TEXT.fullmatch(value.strip().removeprefix("+")) if isinstance(value, str) else None
    if match is None:
        return 'write seconds with an s: "1.5s"'
    seconds = float(match["number"]) * _UNIT_SECONDS[match["unit"]]
    return f'write "{f"{seconds:.9f}".rstrip("0").rstrip(".")}s"'


def kind_of(value: Any) -> str:
    """Return what a value is, for a sentence that ends with it."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool) or value is None:
        return _yaml(value)
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 60 else f"a text of {len(value)} characters"
    return f"a Python {type(value).__name__}"


def _yaml(value: Any) -> str:
    return (
        {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else str(value)
    )


def suppressed(findings: Iterable[Finding], refused: Iterable[Finding]) -> list[Finding]:
    """Return the findings of a walk over the valid part that are not consequences of the ``refused`` ones.

    A field that was refused is not also reported as missing.
    """
    hurt: set[tuple[str | int, ...]] = set()
    for finding in refused:
        path = finding.path
        hurt.update((path[:-1], path[:-2]) if path and isinstance(path[-1], int) else (path[:-1],))
    return [finding for finding in findings if finding.path not in hurt and finding.path[:-1] not in hurt]
