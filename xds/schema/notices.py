"""What is valid but deserves a warning: deprecated fields, and what this Envoy or others of the fleet lack.

Notices are looked up after a resource was checked, in a walk of their own: reading a resource costs nothing for them.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from xds.schema import pool
from xds.schema.origin import built_with, files_not_in_envoy
from xds.schema.paths import MapKey, Path, Trail, path_of
from xds.schema.pool import Schema
from xds.schema.semantics.defaults import refused_default
from xds.schema.successors import SUCCESSORS

_SINCE, _DISALLOWED = "envoy.annotations.deprecated_at_minor_version", "envoy.annotations.disallowed_by_default"
_API_VERSION = re.compile(r"([2-9])\.0")
"""A version of the API in an annotation, which has no other word for it: there is no Envoy 3.0."""
IGNORED = "that Envoy ignores it, or rejects the resource"


class Notice(NamedTuple):
    """A warning about one place of a resource. ``lacking`` is the version of Envoy that lacks the field, or ""."""

    path: Path
    what: str
    lacking: str = ""
    hint: str = IGNORED
    """What to do about it, or what it leads to."""


class _Word(NamedTuple):
    """A notice without its place."""

    what: str
    lacking: str = ""
    hint: str = IGNORED

    def at(self, trail: Trail) -> Notice:
        return Notice(path_of(trail), *self)


class _Plan(NamedTuple):
    """What to look at in one message type, by field number."""

    fields: Mapping[int, tuple[_Word, ...]]
    """Of fields that deserve a notice when they are set."""
    unset: Mapping[str, _Word]
    """Of fields that deserve a notice when they are not set, by name."""
    values: Mapping[int, Mapping[int, tuple[_Word, ...]]]
    """Of enum values."""
    nested: Mapping[int, FieldDescriptor]
    """Fields in whose messages there may be more, in the order of their numbers."""
    nested_alone: bool
    """There is nothing to look at but nested fields."""


class Notices:
    """Finds the notices of resources. ``others``: schemas of other Envoys of the fleet, by their versions."""

    def __init__(self, schema: Schema, others: Mapping[str, Schema] | None = None) -> None:
        self._schema = schema
        self._others = dict(others or {})
        self._plans: dict[str, _Plan | None] = {}

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions of the other Envoys."""
        return tuple(self._others)

    def of(self, full_name: str, value: bytes) -> list[Notice]:
        """Return the notices of an encoded message, in the order of its fields; [] if the schema lacks its type."""
        if not self._schema.has(full_name):
            return []
        found: list[Notice] = []
        self._type_notices(full_name, None, found)
        if self._plan(self._schema.descriptor(full_name)) is not None:
            self._walk(self._schema.message_class(full_name).FromString(value), None, found)
        return found

    def _type_notices(self, full_name: str, trail: Trail, found: list[Notice]) -> None:
        if self._schema.is_packaged and self._schema.descriptor(full_name).file.name in files_not_in_envoy():
            what = f"is of type {full_name}, which Envoy {built_with()} lacks: it is only in xds-protos"
            found.append(Notice(path_of(trail), what))
        for version, other in self._others.items():
            if not other.has(full_name):
                found.append(Notice(path_of(trail), f"is of type {full_name}, which Envoy {version} lacks", version))

    def _walk(self, message: Any, trail: Trail, found: list[Notice]) -> None:
        descriptor = message.DESCRIPTOR
        if descriptor.full_name == pool.ANY:
            self._walk_any(message, trail, found)
            return
        plan = self._plan(descriptor)
        if plan is None:
            return
        if plan.nested_alone:  # most messages: each of a thousand endpoints is looked at for its metadata
            for field in plan.nested.values():
                if field.is_repeated:
                    if value := getattr(message, field.name):
                        self._walk_field(field, value, (trail, field.name), found)
                elif message.HasField(field.name):
                    self._walk(getattr(message, field.name), (trail, field.name), found)
            return
        for field, value in message.ListFields():
            number, here = field.number, (trail, field.name)
            found += (word.at(here) for word in plan.fields.get(number, ()))
            values = plan.values.get(number)
            if values is not None:
                for each in value if field.is_repeated else (value,):
                    found += (word.at(here) for word in values.get(each, ()))
            if number in plan.nested:
                self._walk_field(field, value, here, found)
        found += (word.at((trail, name)) for name, word in plan.unset.items() if not getattr(message, name))

    def _walk_field(self, field: FieldDescriptor, value: Any, here: Trail, found: list[Notice]) -> None:
        assert field.message_type is not None
        if not field.is_repeated:
            self._walk(value, here, found)
        elif field.message_type.GetOptions().map_entry:
            for key in sorted(value):
                self._walk(value[key], (here, MapKey(key)), found)
        else:
            for index, each in enumerate(value):
                self._walk(each, (here, index), found)

    def _walk_any(self, value: Any, trail: Trail, found: list[Notice]) -> None:
        full_name = value.type_url.rpartition("/")[2]
        if not full_name or not self._schema.has(full_name):
            return
        self._type_notices(full_name, trail, found)
        inner = self._schema.message_class(full_name).FromString(value.value)
        self._walk(inner, trail, found)

    def _plan(self, descriptor: Descriptor) -> _Plan | None:
        """Return the plan of a message type, None if neither it nor any type in it has anything to notice."""
        name = descriptor.full_name
        if name not in self._plans:
            self._compile(descriptor)
        return self._plans[name]

    def _compile(self, root: Descriptor) -> None:
        """Compile the plans of a type and of all types within it."""
        reached: dict[str, Descriptor] = {}
        pending = [root]
        while pending:
            descriptor = pending.pop()
            if descriptor.full_name not in reached:
                reached[descriptor.full_name] = descriptor
                pending += (field.message_type for field in descriptor.fields if field.message_type is not None)
        own = {name: self._own(descriptor) for name, descriptor in reached.items()}
        interesting = {name for name, parts in own.items() if any(parts) or name == pool.ANY}
        grown = True
        while grown:
            more = {
                name
                for name, descriptor in reached.items()
                if name not in interesting and any(_message_name(field) in interesting for field in descriptor.fields)
            }
            grown = bool(more)
            interesting |= more
        for name, descriptor in reached.items():
            nested = {
                field.number: field
                for field in sorted(descriptor.fields, key=lambda each: each.number)
                if _inner_name(field) in interesting
            }
            self._plans[name] = _Plan(*own[name], nested, not any(own[name])) if name in interesting else None

    def _own(self, descriptor: Descriptor) -> tuple[dict[int, Any], dict[str, _Word], dict[int, Any]]:
        fields: dict[int, Any] = {}
        unset: dict[str, _Word] = {}
        values: dict[int, Any] = {}
        for field in descriptor.fields:
            words = [*_deprecation(self._schema, field), *self._lacking(descriptor, field)]
            if words:
                fields[field.number] = tuple(words)
            if field.enum_type is not None:
                of_values = self._of_values(field.enum_type)
                if of_values:
                    values[field.number] = of_values
                default = refused_default(self._schema, field)
                if default is not None:
                    what = f"is not set, and its default, {default.name}, {_REFUSED}"
                    unset[field.name] = _Word(what, hint="set it")
        return fields, unset, values

    def _lacking(self, descriptor: Descriptor, field: FieldDescriptor) -> list[_Word]:
        lacking = []
        for version, other in self._others.items():
            # A whole type that is missing is noticed where it is used.
            if (
                other.has(descriptor.full_name)
                and field.name not in other.descriptor(descriptor.full_name).fields_by_name
            ):
                lacking.append(_Word(f"is a field that Envoy {version} lacks", version))
        return lacking

    def _of_values(self, enum: EnumDescriptor) -> dict[int, tuple[_Word, ...]]:
        found: dict[int, tuple[_Word, ...]] = {}
        for value in enum.values:
            notices = list(_deprecation(self._schema, value))
            for version, other in self._others.items():
                known = other.enum_values(enum.full_name)
                if known is not None and value.name not in known:
                    notices.append(_Word(f"is {value.name}, which Envoy {version} lacks", version))
            if notices:
                found[value.number] = tuple(notices)
        return found


def field_rows(schema: Schema, full_name: str) -> list[dict[str, Any]]:
    """Return the fields of a message for people: ``field``, ``type``, ``number`` and ``notes`` of each."""
    rows = []
    for field in schema.descriptor(full_name).fields:
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            kind = f"map<{_kind(inner.fields_by_name['key'])}, {_kind(inner.fields_by_name['value'])}>"
        else:
            kind = ("repeated " if field.is_repeated else "") + _kind(field)
        notes = [word.what.removeprefix("is ") for word in _deprecation(schema, field)]
        if field.containing_oneof is not None:
            notes.append(f"one of {field.containing_oneof.name}")
        rows.append({"field": field.name, "type": kind, "number": field.number, "notes": "; ".join(notes)})
    return rows


_SCALARS = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}


def _kind(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return str(field.message_type.full_name)
    return str(field.enum_type.full_name) if field.enum_type is not None else _SCALARS[field.type]


def _message_name(field: FieldDescriptor) -> str:
    return field.message_type.full_name if field.message_type is not None else ""


def _inner_name(field: FieldDescriptor) -> str:
    """Return the name of the message type in a field; for a map that of its values, "" for scalars."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _message_name(field.message_type.fields_by_name["value"])
    return _message_name(field)


_REFUSED = "is refused by Envoy unless its runtime allows deprecated features"


def _deprecation(schema: Schema, described: Any) -> list[_Word]:
    """Return what Envoy's annotations say of a field or an enum value."""
    is_value = not isinstance(described, FieldDescriptor)
    suffix, options_name = ("_enum", "EnumValueOptions") if is_value else ("", "FieldOptions")
    since, disallowed = (
        schema.annotation(f"google.protobuf.{options_name}", described, name + suffix) for name in (_SINCE, _DISALLOWED)
    )
    if not since and not disallowed:
        return []
    subject = f"is {described.name}, which is " if is_value else "is "
    when = _when(since) if since else ""
    hint = "use another value" if is_value else _successor(described)
    if disallowed:
        refused = _REFUSED.removeprefix("is ")
        return [_Word(f"{subject}{refused}{f' (deprecated {when})' if when else ''}", hint=hint)]
    return [_Word(f"{subject}deprecated {when}", hint=hint)]


def _when(since: str) -> str:
    api = _API_VERSION.fullmatch(since)
    return f"in the v{api[1]} API" if api else f"since Envoy {since}"


def _successor(field: FieldDescriptor) -> str:
    """Return what to do about a deprecated field."""
    name = SUCCESSORS.get(field.full_name)
    if name is None:
        return "see the API reference for its successor"
    if not name:
        return "it has no effect: leave it out"
    message, _, last = name.rpartition(".")
    inside = field.containing_type
    return f"use {last if inside is not None and message == inside.full_name else name}"
