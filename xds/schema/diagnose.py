"""Finds all problems of a value that protobuf's JSON parser refused, each with its place.

The parser stops at the first error, and words it for programmers. It still judges single values; this module descends
into the value and words the problems.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from xds.schema import pool
from xds.schema.decode import unknown_type
from xds.schema.paths import Finding, MapKey, Trail, path_of

JSON_DEPTH_MAX = 100
"""Maximum nesting of messages, as in protobuf's own parsers."""

ENUM_VALUES_SHOWN_MAX = 12

_BAD = object()
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_DURATION_TEXT = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|us|ns|m|h|d|)")
_UNIT_SECONDS = {"": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "m": 60.0, "h": 3600.0, "d": 86400.0}
_INTEGER_RANGE = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FORMS = {
    pool.TIMESTAMP: "a timestamp such as 2026-01-31T12:00:00Z",
    "google.protobuf.FieldMask": "a comma-separated list of field names",
    "google.protobuf.Struct": "a mapping",
    "google.protobuf.ListValue": "a list",
    "google.protobuf.Value": "a JSON value",
}


def diagnose(
    schema: pool.Schema, value: Any, *, full_name: str, allow_unknown_types: bool
) -> tuple[Any, list[Finding]]:
    """Return the valid part of a value, in new dicts and lists, and all problems."""
    doctor = _Doctor(schema, allow_unknown_types)
    sound = doctor.message(schema.descriptor(full_name), value, None, 1)
    return ({} if sound is _BAD else sound), doctor.findings


def is_base64(text: Any) -> bool:
    """Return whether a text is base64 or base64url, padded or not. Python's decoder skips invalid characters."""
    return isinstance(text, str) and _BASE64.fullmatch(text) is not None and len(text.rstrip("=")) % 4 != 1


class _Doctor:
    def __init__(self, schema: pool.Schema, allow_unknown_types: bool) -> None:
        self._schema = schema
        self._allow_unknown_types = allow_unknown_types
        self.findings: list[Finding] = []

    def _refuse(self, trail: Trail, what: str, hint: str = "") -> Any:
        self.findings.append(Finding(path_of(trail), what, hint))
        return _BAD

    def message(self, descriptor: Descriptor, value: Any, trail: Trail, depth: int) -> Any:
        """Return the valid part of a message's JSON, or ``_BAD``."""
        if depth > JSON_DEPTH_MAX:
            return self._refuse(trail, f"is nested more than {JSON_DEPTH_MAX} messages deep")
        name = descriptor.full_name
        if name == pool.ANY:
            return self._any(value, trail, depth)
        if name in pool.WRAPPERS:
            return self._scalar(descriptor.fields_by_name["value"], value, trail)
        if name == pool.DURATION or name in _FORMS:
            return self._well_known(name, value, trail)
        if not isinstance(value, Mapping):
            return self._refuse(trail, f"must be a mapping ({name}), but is {_kind(value)}")
        return self._fields(descriptor, value, trail, depth)

    def _fields(self, descriptor: Descriptor, value: Mapping[Any, Any], trail: Trail, depth: int) -> dict[str, Any]:
        by_name = {field.json_name: field for field in descriptor.fields} | dict(descriptor.fields_by_name)
        sound: dict[str, Any] = {}
        members: dict[str, str] = {}
        for key, item in value.items():
            field = by_name.get(key) if isinstance(key, str) else None
            if field is None:
                self._unknown_field(descriptor, key, trail)
            elif item is None and not _is_null_value(field):
                continue
            elif field.name in sound:
                self._refuse((trail, field.name), f"is given twice, as {field.name} and as {field.json_name}")
            elif field.containing_oneof is not None and field.containing_oneof.name in members:
                other = members[field.containing_oneof.name]
                self._refuse((trail, field.name), f"cannot stand beside {other}: only one of the two may be set")
            else:
                if field.containing_oneof is not None:
                    members[field.containing_oneof.name] = field.name
                cured = self._field(field, item, (trail, field.name), depth)
                if cured is not _BAD:
                    sound[field.name] = cured
        return sound

    def _unknown_field(self, descriptor: Descriptor, key: Any, trail: Trail) -> None:
        if not isinstance(key, str):
            self._refuse(trail, f"has the key {key!r}, which is not text", f'quote it: "{_yaml(key)}"')
            return
        close = difflib.get_close_matches(key, list(descriptor.fields_by_name), n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(close)}?" if close else ""
        self._refuse((trail, key), f"unknown field of {descriptor.full_name}", hint)

    def _field(self, field: FieldDescriptor, value: Any, trail: Trail, depth: int) -> Any:
        if not field.is_repeated:
            return self._single(field, value, trail, depth)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return self._map(field.message_type, value, trail, depth)
        if not isinstance(value, list | tuple):
            return self._refuse(trail, f"must be a list, but is {_kind(value)}", "put a dash before each item in YAML")
        cured = [self._item(field, item, (trail, index), depth) for index, item in enumerate(value)]
        # Without one item the indexes of the others would shift, and their problems would name the wrong place.
        return _BAD if any(item is _BAD for item in cured) else cured

    def _item(self, field: FieldDescriptor, value: Any, trail: Trail, depth: int) -> Any:
        if value is None and not _is_null_value(field):
            return self._refuse(trail, "is null, which a list cannot hold", "remove the item")
        return self._single(field, value, trail, depth)

    def _map(self, entry: Descriptor, value: Any, trail: Trail, depth: int) -> Any:
        if not isinstance(value, Mapping):
            return self._refuse(trail, f"must be a mapping, but is {_kind(value)}")
        sound: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                self._refuse(trail, f"has the key {key!r}, which is not text", f'quote it: "{_yaml(key)}"')
                continue
            here = (trail, MapKey(key))
            if self._scalar(entry.fields_by_name["key"], key, here) is _BAD:
                continue
            if item is None:
                self._refuse(here, "is null, which a map cannot hold", "remove the key, or give it a value")
                continue
            cured = self._single(entry.fields_by_name["value"], item, here, depth)
            if cured is not _BAD:
                sound[key] = cured
        return sound

    def _single(self, field: FieldDescriptor, value: Any, trail: Trail, depth: int) -> Any:
        if field.message_type is not None:
            return self.message(field.message_type, value, trail, depth + 1)
        return self._scalar(field, value, trail)

    def _any(self, value: Any, trail: Trail, depth: int) -> Any:
        if not isinstance(value, Mapping):
            return self._refuse(trail, f'must be a mapping with an "@type", but is {_kind(value)}')
        type_url = value.get("@type")
        if not isinstance(type_url, str) or not type_url:
            return self._refuse(trail, 'has no "@type"', 'say which message it is: "@type": type.googleapis.com/…')
        full_name = type_url.rpartition("/")[2]
        body = {key: item for key, item in value.items() if key != "@type"}
        if not self._schema.has(full_name):
            return self._opaque(type_url, body, trail)
        descriptor = self._schema.descriptor(full_name)
        if full_name not in pool.VALUE_IN_ANY:
            return {"@type": type_url, **self._fields(descriptor, body, trail, depth + 1)}
        if set(body) != {"value"}:
            return self._refuse(trail, f'a {full_name} here has exactly one more key, "value"')
        inner = self.message(descriptor, body["value"], (trail, "value"), depth + 1)
        return _BAD if inner is _BAD else {"@type": type_url, "value": inner}

    def _opaque(self, type_url: str, body: dict[Any, Any], trail: Trail) -> Any:
        if not self._allow_unknown_types:
            return self._refuse((trail, "@type"), *unknown_type(self._schema, type_url.rpartition("/")[2]))
        if set(body) != {"value"} or not is_base64(body["value"]):
            what = "is of an unknown type, so its fields cannot be encoded"
            return self._refuse(trail, what, 'give its encoded bytes as base64 in "value", and nothing else')
        return {"@type": f"{type_url}/{pool.BYTES_VALUE}", "value": body["value"]}

    def _well_known(self, name: str, value: Any, trail: Trail) -> Any:
        try:
            json_format.ParseDict(value, self._schema.message_class(name)())
        except Exception:  # as in convert: the parser raises anything
            if name == pool.DURATION:
                return self._refuse(trail, f"{_kind(value)} is not a duration", _duration_hint(value))
            return self._refuse(trail, f"must be {_FORMS[name]}, but is {_kind(value)}")
        return value

    def _scalar(self, field: FieldDescriptor, value: Any, trail: Trail) -> Any:
        if field.type == FieldDescriptor.TYPE_BYTES:
            if is_base64(value):
                return value
            hint = "text goes into inline_string" if field.name == "inline_bytes" else ""
            return self._refuse(trail, "must be base64 text", hint)  # not shown: it may be a secret
        assert field.containing_type is not None
        owner = field.containing_type.full_name
        sample: Any = value if owner in pool.WRAPPERS else {field.name: [value] if field.is_repeated else value}
        try:
            json_format.ParseDict(sample, self._schema.message_class(owner)())
        except Exception:
            what, hint = _scalar_complaint(field, value)
            secret = field.name == "inline_string" or self._schema.is_sensitive(field)
            return self._refuse(trail, "must be text" if secret else what, "quote it" if secret else hint)
        return value


def _scalar_complaint(field: FieldDescriptor, value: Any) -> tuple[str, str]:
    """Return the problem and the hint for a scalar that the parser refused."""
    kind = _kind(value)
    if field.enum_type is not None:
        return f"{_yaml(value)} is not a value of {field.enum_type.full_name}", _enum_hint(field.enum_type, value)
    if field.type == FieldDescriptor.TYPE_STRING:
        if isinstance(value, bool):
            return (
                f"must be text, but is {kind}",
                f'quote it: "{_yaml(value)}" (YAML reads yes, no, on, off as true, false)',
            )
        if isinstance(value, int | float):
            return f"must be text, but is {kind}", f'quote it: "{value}"'
        return f"must be text, but is {kind}", ""
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        unquoted = value.lower() if isinstance(value, str) else ""
        return f"must be true or false, but is {kind}", f"write {unquoted} without quotes" * (
            unquoted in ("true", "false")
        )
    if field.cpp_type in _INTEGER_RANGE:
        low, high = _INTEGER_RANGE[field.cpp_type]
        return f"must be a whole number from {low} to {high}, but is {kind}", ""
    return f"must be a number, but is {kind}", ""


def _enum_hint(enum: EnumDescriptor, value: Any) -> str:
    names = [item.name for item in enum.values]
    close = difflib.get_close_matches(str(value).upper(), names, n=2, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = ", …" if len(names) > ENUM_VALUES_SHOWN_MAX else ""
    return "one of " + ", ".join(names[:ENUM_VALUES_SHOWN_MAX]) + more


def _duration_hint(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'write "{value}s"'
    match = _DURATION_TEXT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return 'write seconds with an s: "1.5s"'
    seconds = float(match["number"]) * _UNIT_SECONDS[match["unit"]]
    return f'write "{f"{seconds:.9f}".rstrip("0").rstrip(".")}s"'


def _is_null_value(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name == "google.protobuf.Value"


def _kind(value: Any) -> str:
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
