"""Resources for display: with secrets redacted, and in Envoy's JSON form."""

import math
import struct
from base64 import b64encode
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from xds.model.resource import Resource
from xds.schema import pool
from xds.schema.pool import Schema, load_schema
from xds.schema.redact import REDACTED, REDACTED_BYTES, redact
from xds.schema.restore import with_body
from xds.schema.scalars import FLOAT_OVERFLOW
from xds.schema.wrapping import needs_wrapper, wrapped_json

_TEXT_FORMS = frozenset({pool.DURATION, pool.TIMESTAMP, "google.protobuf.FieldMask"})
_64_BITS = frozenset({FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64})
_FLOATS = frozenset({FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT})


def redacted(resource: Resource) -> Resource:
    """Return the resource with ``[redacted]`` for each secret, and with its original version.

    ``xds.schema.redact`` defines secrets. ``ingest`` refuses the placeholder.
    """
    schema = load_schema()
    body: Any = schema.message_class(pool.ANY).FromString(resource.body)
    return with_body(resource, body.SerializeToString(deterministic=True)) if redact(schema, body) else resource


def to_json(resource: Resource) -> dict[str, Any]:
    """Return a resource as a dict with ``@type`` and snake_case keys, from which ``ingest`` makes the same resource.

    A resource with a TTL, aliases, or a name that is not in its message is wrapped in an
    ``envoy.service.discovery.v3.Resource``.
    """
    schema = load_schema()
    body: Any = schema.message_class(pool.ANY).FromString(resource.body)
    shown = _any(schema, body)
    return wrapped_json(resource, shown) if needs_wrapper(resource) else shown


def any_json(type_url: str, value: bytes) -> dict[str, Any]:
    """Return the message in a ``google.protobuf.Any`` as a dict; see ``to_json``. Its content is not checked."""
    schema = load_schema()
    return _any(schema, schema.message_class(pool.ANY)(type_url=type_url, value=value))


def _any(schema: Schema, message: Any) -> dict[str, Any]:
    """Return an Any in its JSON form. The content of one of an unknown type is its bytes, in ``value``."""
    if not message.type_url:
        return {}
    full_name = message.type_url.rpartition("/")[2]
    if not schema.has(full_name):
        return {"@type": message.type_url, "value": _bytes(message.value)}
    shown = _message(schema, schema.message_class(full_name).FromString(message.value))
    inside = {"value": shown} if full_name in pool.VALUE_IN_ANY else shown
    return {"@type": message.type_url, **inside}


def _message(schema: Schema, message: Any) -> Any:
    full_name = message.DESCRIPTOR.full_name
    if full_name == pool.ANY:
        return _any(schema, message)
    if full_name in pool.WRAPPERS:
        return _scalar(message.DESCRIPTOR.fields_by_name["value"], message.value)
    if full_name == "google.protobuf.Struct":
        return {key: _value(message.fields[key]) for key in message.fields}
    if full_name == "google.protobuf.ListValue":
        return [_value(item) for item in message.values]
    if full_name == "google.protobuf.Value":
        return _value(message)
    if full_name in _TEXT_FORMS and (text := _text_form(message)):
        return text
    return {field.name: _field(schema, field, value) for field, value in message.ListFields()}


def _text_form(message: Any) -> str:
    """Return the text of a duration, timestamp or field mask, "" if its value has none, as nanos out of range."""
    try:
        return str(message.ToJsonString())
    except ValueError:
        return ""


def _field(schema: Schema, field: FieldDescriptor, value: Any) -> Any:
    if not field.is_repeated:
        return _single(schema, field, value)
    if field.message_type is None or not field.message_type.GetOptions().map_entry:
        return [_single(schema, field, item) for item in value]
    key_field, content = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    is_text = key_field.type == FieldDescriptor.TYPE_STRING
    return {key if is_text else _key(key): _single(schema, content, value[key]) for key in value}


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _single(schema: Schema, field: FieldDescriptor, value: Any) -> Any:
    return _message(schema, value) if field.message_type is not None else _scalar(field, value)


def _scalar(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return named.name if named is not None else value
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes(value)
    if field.cpp_type in _64_BITS:
        return str(value)
    if field.cpp_type not in _FLOATS:
        return value
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return _shortest(value) if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else value


def _shortest(value: float) -> float:
    """Return the number with the fewest digits that is the same as a 32-bit float: 0.1, not 0.10000000149011612."""
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        if abs(short) < FLOAT_OVERFLOW and struct.unpack("f", struct.pack("f", short))[0] == value:
            return short
    return value


def _value(message: Any) -> Any:
    kind = message.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    if kind == "struct_value":
        return {key: _value(message.struct_value.fields[key]) for key in message.struct_value.fields}
    if kind == "list_value":
        return [_value(item) for item in message.list_value.values]
    value = getattr(message, kind)
    return _number(value) if kind == "number_value" else value


def _number(value: float) -> float:
    """Return a number as an int if it is one that a JSON reader takes back exactly; ``-0.0`` stays what it is."""
    is_exact = value.is_integer() and abs(value) < 2**53 and (value != 0 or math.copysign(1, value) > 0)
    return int(value) if is_exact else value


def _bytes(value: bytes) -> str:
    return REDACTED if value == REDACTED_BYTES else b64encode(value).decode()
