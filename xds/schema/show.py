"""A resource back in Envoy's JSON form, for people: secrets hidden. It does not know how people look at it."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from xds.model.resource import Resource
from xds.schema import pool
from xds.schema.plan import OPAQUE, REDACTED
from xds.schema.pool import Schema, load_schema
from xds.schema.wrapping import needs_wrapper, wrapped_json

_DATA_SOURCE = "envoy.config.core.v3.DataSource"
_INLINE = ("inline_bytes", "inline_string")


def to_json(resource: Resource, *, redact: bool = True) -> dict[str, Any]:
    """Return a resource as a dict with ``@type`` and snake_case keys, from which ``ingest`` makes the same one.

    What has a TTL, aliases, or a name that its message does not say is in an ``envoy.service.discovery.v3.Resource``.

    With ``redact`` whatever the API marks sensitive (``udpa.annotations.sensitive``: private keys, passwords, generic
    secrets, …) reads ``[redacted]``, and so do messages of unknown types, in which anything may be; file names of
    secrets stay. ``ingest`` refuses a resource with such a placeholder, so a redacted one is never served by mistake.
    """
    schema = load_schema()
    body: Any = schema.message_class(pool.ANY).FromString(resource.body)
    _mark_unknown(schema, body)
    shown = json_format.MessageToDict(body, preserving_proto_field_name=True, descriptor_pool=schema.pool)
    finished: dict[str, Any] = _Finisher(schema, redact).any(shown, hide=False)
    return wrapped_json(resource, finished) if needs_wrapper(resource) else finished


def _mark_unknown(schema: Schema, message: Any) -> None:
    """Turn every Any of an unknown type into one that can be printed: its bytes as BytesValue, its URL marked."""
    if message.DESCRIPTOR.full_name == pool.ANY:
        _mark_any(schema, message)
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if not field.is_repeated:
            _mark_unknown(schema, value)
        elif not field.message_type.GetOptions().map_entry:
            for item in value:
                _mark_unknown(schema, item)
        elif field.message_type.fields_by_name["value"].message_type is not None:
            for key in value:
                _mark_unknown(schema, value[key])


def _mark_any(schema: Schema, message: Any) -> None:
    full_name = message.type_url.rpartition("/")[2]
    if schema.has(full_name):
        inner: Any = schema.message_class(full_name).FromString(message.value)
        _mark_unknown(schema, inner)
        message.value = inner.SerializeToString(deterministic=True)
    elif full_name:
        opaque: Any = schema.message_class(pool.BYTES_VALUE)
        message.value = opaque(value=message.value).SerializeToString()
        message.type_url += OPAQUE


class _Finisher:
    """Go over printed JSON beside its descriptors: take marks off unknown types, and hide what is sensitive."""

    def __init__(self, schema: Schema, redact: bool) -> None:
        self._schema = schema
        self._redact = redact

    def any(self, value: Mapping[str, Any], *, hide: bool) -> dict[str, Any]:
        type_url = value.get("@type", "")
        if type_url.endswith(OPAQUE) and type_url.count("/") > 1:
            content = REDACTED if self._redact else value["value"]
            return {"@type": type_url.removesuffix(OPAQUE), "value": content}
        full_name = type_url.rpartition("/")[2]
        if not full_name:
            return dict(value)
        descriptor = self._schema.descriptor(full_name)
        if full_name in pool.VALUE_IN_ANY:
            return {"@type": type_url, "value": self._message(descriptor, value["value"], hide=hide)}
        body = {key: item for key, item in value.items() if key != "@type"}
        return {"@type": type_url, **self._message(descriptor, body, hide=hide)}

    def _message(self, descriptor: Descriptor, value: Any, *, hide: bool) -> Any:
        if descriptor.full_name == pool.ANY:
            return self.any(value, hide=hide)
        if descriptor.full_name in pool.VALUE_IN_ANY:
            return _hidden(value) if hide else value
        only = _INLINE if descriptor.full_name == _DATA_SOURCE else ()
        return {
            key: self._field(descriptor.fields_by_name[key], item, hide=hide and (not only or key in only))
            for key, item in value.items()
        }

    def _field(self, field: FieldDescriptor, value: Any, *, hide: bool) -> Any:
        hide = hide or (self._redact and self._schema.is_sensitive(field))
        if field.message_type is None:
            return _hidden(value) if hide else value
        if not field.is_repeated:
            return self._message(field.message_type, value, hide=hide)
        if not field.message_type.GetOptions().map_entry:
            return [self._message(field.message_type, item, hide=hide) for item in value]
        content = field.message_type.fields_by_name["value"]
        return {key: self._field(content, item, hide=hide) for key, item in value.items()}


def _hidden(value: Any) -> Any:
    """Hide texts; numbers and truth values say nothing by themselves."""
    if isinstance(value, str):
        return REDACTED
    if isinstance(value, list):
        return [_hidden(item) for item in value]
    if isinstance(value, dict):
        return {key: _hidden(item) for key, item in value.items()}
    return value
