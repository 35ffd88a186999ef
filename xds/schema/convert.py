"""Converts Envoy's JSON form, as plain values, to messages, as Envoy's own parser does.

Envoy parses with protobuf's lenient C++ parser, which takes more than Python's ``json_format`` (enums in any case,
quoted booleans, a single item for a list, null items, durations and wrappers as mappings, an empty Any) and refuses
other texts (``+1s``, ``1_000``). ``docs/directory.md`` lists where this module is stricter on purpose.

A reader is compiled for each message type when it is first used: a dict from each spelling of a field to the function
that sets it. An assignment of 10 endpoints is ingested in 150 µs; with ``json_format.ParseDict`` it took 360
(``bench/reading.py``).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from xds.schema import pool, scalars
from xds.schema.decode import FINDINGS_MAX, finding_at, unknown_type
from xds.schema.diagnose import KEY_HINT, NO_TYPE_HINT, kind_of, scalar_complaint, text_complaint, unknown_field_hint
from xds.schema.paths import Finding, MapKey, Trail
from xds.schema.pool import VALUE_IN_ANY, Schema
from xds.schema.scalars import BAD

DEPTH_MAX = 100
"""Maximum nesting of messages that Envoy decodes, as in protobuf's own parsers. A Struct's levels count three each."""

Fill: TypeAlias = Callable[[Any, Any, Trail, "_Reading"], Any]
"""Sets a field of a message, or fills a message, from a plain value; returns ``BAD`` if nothing of it can be used."""
Read: TypeAlias = Callable[[Any], Any]
"""Returns the value of a scalar, or ``BAD``."""


class ConversionError(Exception):
    """A value does not fit its message type. ``findings`` lists all problems.

    ``partial`` is the message without the faulty parts, so that the rest can be checked too; None if nothing is left.
    """

    def __init__(self, findings: list[Finding], partial: Message | None) -> None:
        self.findings = findings
        self.partial = partial
        super().__init__("; ".join(finding.what for finding in findings))


def message_from_json(
    schema: Schema,
    value: Mapping[str, Any],
    *,
    full_name: str,
    allow_unknown_types: bool = False,
) -> Message:
    """Return the message of a known type that ``value`` describes in Envoy's JSON form (snake_case or camelCase).

    An ``@type`` at the top is ignored. Raises ConversionError with *all* problems. With ``allow_unknown_types`` a typed
    config of an unknown type may be ``{"@type": …, "value": <base64>}``. ``value`` is not changed.
    """
    message = schema.message_class(full_name)()
    reading = _Reading(schema, allow_unknown_types)
    _readers(schema).typed(message, value, None, reading)
    if reading.findings:
        raise ConversionError(reading.findings, message)
    return message


class _Reading:
    """One conversion: its problems so far, and the depth it has reached."""

    __slots__ = ("allow_unknown_types", "depth", "findings", "schema")

    def __init__(self, schema: Schema, allow_unknown_types: bool) -> None:
        self.schema = schema
        self.allow_unknown_types = allow_unknown_types
        self.depth = 0
        self.findings: list[Finding] = []

    def refuse(self, trail: Trail, what: str, hint: str = "") -> Any:
        if not self.is_full:
            self.findings.append(finding_at(trail, what, hint))
        return BAD

    @property
    def is_full(self) -> bool:
        """Whether further problems are not kept, so that their words need not be found."""
        return len(self.findings) > FINDINGS_MAX

    def refuse_scalar(self, field: FieldDescriptor, value: Any, trail: Trail) -> Any:
        hidden = field.name == "inline_string" or self.schema.is_sensitive(field)
        words = ("", "") if self.is_full else scalar_complaint(field, value, hidden=hidden)
        return self.refuse(trail, *words)

    def is_too_deep(self, trail: Trail, levels: int) -> bool:
        """Go down so many levels; return whether that is too deep."""
        self.depth += levels
        if self.depth <= DEPTH_MAX:
            return False
        self.refuse(trail, f"is nested more than {DEPTH_MAX} messages deep")
        return True


@lru_cache(maxsize=4)
def _readers(schema: Schema) -> "_Readers":
    return _Readers(schema)


class _Entry(NamedTuple):
    """How a key of a mapping is read: the field, and the keys that must not stand beside it."""

    fill: Fill
    name: str
    twin: str | None
    """The field's own name, if the key is another spelling of it."""
    rivals: frozenset[str] | None
    """The keys of the other members of its oneof."""
    takes_null: bool


class _Readers:
    """The readers of one schema, compiled on first use. Thread-safe: compiling one twice is harmless."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._tables: dict[str, dict[str, _Entry]] = {}
        self._special: dict[str, Fill] = {
            pool.ANY: self._any,
            pool.DURATION: self._text_or_fields(pool.DURATION, scalars.fill_duration),
            pool.TIMESTAMP: self._text_or_fields(pool.TIMESTAMP, scalars.fill_timestamp),
            "google.protobuf.FieldMask": self._text_or_fields("google.protobuf.FieldMask", scalars.fill_field_mask),
            "google.protobuf.Struct": _fill_struct,
            "google.protobuf.ListValue": _fill_list,
            "google.protobuf.Value": _fill_value,
            **{name: self._wrapper(name) for name in pool.WRAPPERS},
        }

    def of(self, descriptor: Descriptor) -> Fill:
        """Return the function that fills a message of this type."""
        special = self._special.get(descriptor.full_name)
        return special if special is not None else self._plain(descriptor)

    def typed(self, message: Any, value: Mapping[str, Any], trail: Trail, reading: _Reading) -> None:
        """Fill the message of a mapping that has an ``@type``."""
        descriptor = message.DESCRIPTOR
        if descriptor.full_name not in VALUE_IN_ANY:
            self._fields(descriptor, message, value, trail, reading, is_typed=True)
            return
        for key in value:
            if key not in ("@type", "value"):
                what = f'has the key {key!r}, but a {descriptor.full_name} here has only one more key, "value"'
                reading.refuse(trail, what)
        inner = value.get("value")
        if descriptor.full_name == "google.protobuf.Value" and "value" not in value:
            reading.refuse(trail, 'has no "value"', "a google.protobuf.Value without one can't be shown")
        elif inner is not None or descriptor.full_name == "google.protobuf.Value":
            self.of(descriptor)(message, inner, (trail, "value"), reading)

    def _plain(self, descriptor: Descriptor) -> Fill:
        full_name = descriptor.full_name

        def fill(message: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
            if isinstance(value, Mapping):
                return self._fields(descriptor, message, value, trail, reading)
            return reading.refuse(trail, f"must be a mapping ({full_name}), but is {kind_of(value)}")

        return fill

    def _fields(
        self,
        descriptor: Descriptor,
        message: Any,
        value: Mapping[Any, Any],
        trail: Trail,
        reading: _Reading,
        *,
        is_typed: bool = False,
    ) -> Any:
        table = self._tables.get(descriptor.full_name)
        if table is None:
            table = self._compile(descriptor)
        if reading.is_too_deep(trail, 1):
            reading.depth -= 1
            return BAD
        for key, item in value.items():
            entry = table.get(key)
            if entry is None:
                if not (is_typed and key == "@type"):
                    _refuse_unknown(descriptor, key, trail, reading)
                continue
            fill, name, twin, rivals, takes_null = entry
            if item is None and not takes_null:
                continue
            here = (trail, name)
            if twin is not None and value.get(twin) is not None:
                reading.refuse(here, f"is given twice, as {name} and as {key}", "keep one of the two")
            elif rivals is not None and (other := _rival(value, key, rivals)):
                reading.refuse(here, f"cannot stand beside {other}: only one of the two may be set")
            else:
                fill(message, item, here, reading)
        reading.depth -= 1
        return None

    def _compile(self, descriptor: Descriptor) -> dict[str, _Entry]:
        table: dict[str, _Entry] = {}
        for field in descriptor.fields:
            fill, oneof = self._field(field), field.containing_oneof
            rivals = None
            if oneof is not None and len(oneof.fields) > 1:
                others = [other for other in oneof.fields if other is not field]
                rivals = frozenset(name for other in others for name in (other.name, other.json_name))
            takes_null = not field.is_repeated and _takes_null(field)
            table[field.name] = _Entry(fill, field.name, None, rivals, takes_null)
            for key in {field.json_name, field.camelcase_name} - {field.name}:
                table[key] = _Entry(fill, field.name, field.name, rivals, takes_null)
        self._tables[descriptor.full_name] = table
        return table

    def _field(self, field: FieldDescriptor) -> Fill:
        if field.is_repeated:
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                return self._map(field)
            return self._list(field)
        name = field.name
        if field.message_type is None:
            return _scalar_setter(field)
        fill_part = self.of(field.message_type)

        def fill(message: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
            part = getattr(message, name)
            part.SetInParent()
            if fill_part(part, value, trail, reading) is BAD:
                message.ClearField(name)

        return fill

    def _list(self, field: FieldDescriptor) -> Fill:
        name = field.name
        append = self._appender(field)
        keeps_lists = field.message_type is not None and field.message_type.full_name in _LIST_FORMS

        def fill(message: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
            items = getattr(message, name)
            # Envoy takes a single item for a list of one.
            add = append_all if isinstance(value, list | tuple) else append
            if add(items, value, trail, reading) is BAD:
                # Without one item the indexes of the others would shift, and their problems would name a wrong place.
                message.ClearField(name)

        def append_all(items: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
            outcome = None
            for index, item in enumerate(value):
                # protobuf's parser takes the items of a list within a list for items of the outer one
                is_nested = isinstance(item, list | tuple) and not keeps_lists
                if (append_all if is_nested else append)(items, item, (trail, index), reading) is BAD:
                    outcome = BAD
            return outcome

        return fill

    def _appender(self, field: FieldDescriptor) -> Fill:
        if field.message_type is not None:
            takes_null, fill_part = _takes_null(field), self.of(field.message_type)

            def append_message(items: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
                part = items.add()
                return fill_part(part, value, trail, reading) if value is not None or takes_null else None

            return append_message
        read, default = scalars.reader(field), scalars.default(field)

        def append_scalar(items: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
            found = default if value is None else read(value)
            if found is BAD:
                return reading.refuse_scalar(field, value, trail)
            return _try(items.append, found, trail, reading)

        return append_scalar

    def _map(self, field: FieldDescriptor) -> Fill:
        name = field.name
        assert field.message_type is not None
        entry = field.message_type.fields_by_name
        read_key, put = scalars.key_reader(entry["key"]), self._putter(entry["value"])

        def fill(message: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
            if not isinstance(value, Mapping):
                return reading.refuse(trail, f"must be a mapping, but is {kind_of(value)}")
            pairs = getattr(message, name)
            for written, item in value.items():
                if not isinstance(written, str):
                    reading.refuse(trail, f"has the key {written!r}, which is not text", KEY_HINT)
                    continue
                here = (trail, MapKey(written))
                key = read_key(written)
                if key is BAD:
                    reading.refuse_scalar(entry["key"], written, here)
                elif key in pairs:
                    reading.refuse(here, "is the same key as another one", "keep one of the two")
                else:
                    put(pairs, (key, item), here, reading)
            return None

        return fill

    def _putter(self, field: FieldDescriptor) -> Fill:
        """Return the function that puts a pair into a map. A null stands for the type's default, as in Envoy."""
        if field.message_type is not None:
            takes_null, fill_part = _takes_null(field), self.of(field.message_type)

            def put_message(pairs: Any, pair: tuple[Any, Any], trail: Trail, reading: _Reading) -> Any:
                key, value = pair
                part = _try(pairs.__getitem__, key, trail, reading)
                if part is BAD:
                    return
                if (value is not None or takes_null) and fill_part(part, value, trail, reading) is BAD:
                    del pairs[key]

            return put_message
        read, default = scalars.reader(field), scalars.default(field)

        def put_scalar(pairs: Any, pair: tuple[Any, Any], trail: Trail, reading: _Reading) -> Any:
            key, value = pair
            found = default if value is None else read(value)
            if found is BAD:
                return reading.refuse_scalar(field, value, trail)
            try:
                pairs[key] = found
            except UnicodeEncodeError:
                return reading.refuse(trail, *_SURROGATE)
            return None

        return put_scalar

    def _wrapper(self, full_name: str) -> Fill:
        descriptor = self._schema.descriptor(full_name)
        field = descriptor.fields_by_name["value"]
        set_value = _scalar_setter(field)

        def fill(message: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
            if isinstance(value, Mapping):
                return self._fields(descriptor, message, value, trail, reading)
            return set_value(message, value, trail, reading)

        return fill

    def _text_or_fields(self, full_name: str, fill_from_text: Callable[[Any, str], bool]) -> Fill:
        """Return the reader of a message whose usual form is a text, but which Envoy also takes as a mapping."""
        descriptor = self._schema.descriptor(full_name)

        def fill(message: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
            if isinstance(value, Mapping):
                return self._fields(descriptor, message, value, trail, reading)
            if isinstance(value, str) and fill_from_text(message, value):
                return None
            return reading.refuse(trail, *text_complaint(full_name, value))

        return fill

    def _any(self, message: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
        if not isinstance(value, Mapping):
            return reading.refuse(trail, f'must be a mapping with an "@type", but is {kind_of(value)}')
        if not value:
            return None  # Envoy takes `config: {}` for an empty Any
        type_url = value.get("@type")
        if not isinstance(type_url, str) or not type_url:
            return reading.refuse(trail, 'has no "@type"', NO_TYPE_HINT)
        prefix, _, full_name = type_url.rpartition("/")
        if not reading.schema.has(full_name):
            return _fill_opaque(message, type_url, value, trail, reading)
        if not prefix:
            what = f"{type_url!r} has no prefix"
            return reading.refuse((trail, "@type"), what, f"write type.googleapis.com/{full_name}")
        if reading.is_too_deep(trail, 1):
            reading.depth -= 1
            return BAD
        inner = reading.schema.message_class(full_name)()
        self.typed(inner, value, trail, reading)
        message.type_url = type_url
        message.value = inner.SerializeToString(deterministic=True)
        reading.depth -= 1
        return None


_LIST_FORMS = frozenset({"google.protobuf.Value", "google.protobuf.ListValue"})


def _takes_null(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name == "google.protobuf.Value"


def _rival(value: Mapping[Any, Any], key: str, rivals: frozenset[str]) -> str:
    """Return the key of another member of the oneof that stands before ``key``, or ""."""
    for other in value:
        if other == key:
            break
        if other in rivals and value[other] is not None:
            return str(other)
    return ""


def _refuse_unknown(descriptor: Descriptor, key: Any, trail: Trail, reading: _Reading) -> Any:
    if not isinstance(key, str):
        reading.refuse(trail, f"has the key {key!r}, which is not text", KEY_HINT)
        return
    what = f"unknown field of {descriptor.full_name}"
    reading.refuse((trail, key), what, "" if reading.is_full else unknown_field_hint(descriptor, key))


def _scalar_setter(field: FieldDescriptor) -> Fill:
    name, read = field.name, scalars.reader(field)
    if field.type == FieldDescriptor.TYPE_STRING:

        def set_text(message: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
            if isinstance(value, str):
                try:
                    setattr(message, name, value)
                except UnicodeEncodeError:
                    return reading.refuse(trail, *_SURROGATE)
                return None
            return reading.refuse_scalar(field, value, trail)

        return set_text

    def set_scalar(message: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
        found = read(value)
        if found is BAD:
            return reading.refuse_scalar(field, value, trail)
        setattr(message, name, found)
        return None

    return set_scalar


_SURROGATE = ("has text with half of a surrogate pair (\\ud800 to \\udfff)", "write both halves")


def _try(put: Callable[[Any], Any], value: Any, trail: Trail, reading: _Reading) -> Any:
    """Return the result of a call with a text that may not be encodable; ``BAD`` if so, which is then a problem."""
    try:
        return put(value)
    except UnicodeEncodeError:
        reading.refuse(trail, *_SURROGATE)
        return BAD


def _fill_opaque(message: Any, type_url: str, value: Mapping[Any, Any], trail: Trail, reading: _Reading) -> Any:
    """Fill an Any of an unknown type with its bytes."""
    if not reading.allow_unknown_types:
        words = ("", "") if reading.is_full else unknown_type(reading.schema, type_url.rpartition("/")[2])
        return reading.refuse((trail, "@type"), *words)
    data = scalars.read_bytes(value.get("value")) if set(value) == {"@type", "value"} else BAD
    if data is BAD:
        what = "is of an unknown type, so its fields cannot be encoded"
        return reading.refuse(trail, what, 'give its encoded bytes as base64 in "value", and nothing else')
    message.type_url, message.value = type_url, data
    return None


def _fill_struct(message: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
    if not isinstance(value, Mapping):
        return reading.refuse(trail, f"must be a mapping, but is {kind_of(value)}")
    if not reading.is_too_deep(trail, 3):
        fields = message.fields
        for key, item in value.items():
            if not isinstance(key, str):
                reading.refuse(trail, f"has the key {key!r}, which is not text", KEY_HINT)
                continue
            here = (trail, MapKey(key))
            part = _try(fields.__getitem__, key, here, reading)
            if part is not BAD:
                _fill_value(part, item, here, reading)
    reading.depth -= 3
    return None


def _fill_list(message: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
    if not isinstance(value, list | tuple):
        return reading.refuse(trail, f"must be a list, but is {kind_of(value)}")
    if not reading.is_too_deep(trail, 2):
        add = message.values.add
        for index, item in enumerate(value):
            _fill_value(add(), item, (trail, index), reading)
    reading.depth -= 2
    return None


def _fill_value(message: Any, value: Any, trail: Trail, reading: _Reading) -> Any:
    if isinstance(value, str):
        try:
            message.string_value = value
        except UnicodeEncodeError:
            return reading.refuse(trail, *_SURROGATE)
    elif value is None:
        message.null_value = 0
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int | float) and (number := scalars.finite(value)) is not BAD:
        message.number_value = number
    elif isinstance(value, Mapping):
        message.struct_value.SetInParent()
        return _fill_struct(message.struct_value, value, trail, reading)
    elif isinstance(value, list | tuple):
        message.list_value.SetInParent()
        return _fill_list(message.list_value, value, trail, reading)
    else:
        return reading.refuse(trail, f"must be a JSON value, but is {kind_of(value)}")
    return None
