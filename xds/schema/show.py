"""Resources for display: with secrets redacted, and in Envoy's JSON form."""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from xds.model.resource import Resource
from xds.schema import pool
from xds.schema.plan import OPAQUE
from xds.schema.pool import Schema, load_schema
from xds.schema.redact import REDACTED, REDACTED_BYTES, redact
from xds.schema.restore import with_body
from xds.schema.wrapping import needs_wrapper, wrapped_json

_PLACEHOLDER = b64encode(REDACTED_BYTES).decode()


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
    _mark_unknown(schema, body)
    shown = json_format.MessageToDict(body, preserving_proto_field_name=True, descriptor_pool=schema.pool)
    finished: dict[str, Any] = _Finisher(schema).any(shown)
    return wrapped_json(resource, finished) if needs_wrapper(resource) else finished


def _mark_unknown(schema: Schema, message: Any) -> None:
    """Make every Any of an unknown type printable: its bytes as BytesValue, its type URL marked."""
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
    """Walks printed JSON with its descriptors: removes the marks of unknown types, decodes placeholders in bytes."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def any(self, value: Mapping[str, Any]) -> dict[str, Any]:
        type_url = value.get("@type", "")
        if type_url.endswith(OPAQUE) and type_url.count("/") > 1:
            return {"@type": type_url.removesuffix(OPAQUE), "value": _spelt(value["value"])}
        full_name = type_url.rpartition("/")[2]
        if not full_name:
            return dict(value)
        descriptor = self._schema.descriptor(full_name)
        if full_name in pool.VALUE_IN_ANY:
            return {"@type": type_url, "value": self._message(descriptor, value["value"])}
        body = {key: item for key, item in value.items() if key != "@type"}
        return {"@type": type_url, **self._message(descriptor, body)}

    def _message(self, descriptor: Descriptor, value: Any) -> Any:
        if descriptor.full_name == pool.ANY:
            return self.any(value)
        if descriptor.full_name == pool.BYTES_VALUE:
            return _spelt(value)
        if descriptor.full_name in pool.VALUE_IN_ANY:
            return value
        return {key: self._field(descriptor.fields_by_name[key], item) for key, item in value.items()}

    def _field(self, field: FieldDescriptor, value: Any) -> Any:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return [_spelt(item) for item in value] if field.is_repeated else _spelt(value)
        if field.message_type is None:
            return value
        if not field.is_repeated:
            return self._message(field.message_type, value)
        if not field.message_type.GetOptions().map_entry:
            return [self._message(field.message_type, item) for item in value]
        content = field.message_type.fields_by_name["value"]
        return {key: self._field(content, item) for key, item in value.items()}


def _spelt(base64: str) -> str:
    return REDACTED if base64 == _PLACEHOLDER else base64
