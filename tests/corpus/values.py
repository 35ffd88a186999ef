"""Values of resources in one form, so that what Envoy shows and what the product serves can be compared."""

import re
from collections.abc import Iterator
from typing import Any

from corpus import descriptors
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Json = dict[str, Any]
REDACTED = "[redacted]"
TYPED_STRUCTS = {"udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"}


def shown(message: Message) -> Json:
    """Return a message's value as Envoy's config dump shows it: Anys expanded, sensitive fields redacted."""
    _redact(message, sensitive=False)
    return dict(
        json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=descriptors.pool())
    )


def of_dump(full_name: str, value: Json) -> Json:
    """Return the value of a resource in Envoy's config dump."""
    message = descriptors.new(full_name)
    without_type = {key: each for key, each in value.items() if key != "@type"}
    json_format.ParseDict(without_type, message, descriptor_pool=descriptors.pool())
    return shown(message)


def of_bytes(full_name: str, data: bytes) -> Json:
    """Return the value of an encoded resource."""
    return shown(descriptors.new(full_name, data))


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Yield each place at which two values differ, with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from differences(ours.get(key), theirs.get(key), f"{path}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif ours != theirs:
        yield f"{path.lstrip('.')}: served {ours!r}, Envoy has {theirs!r}"


def _redact(message: Message, *, sensitive: bool) -> None:
    if message.DESCRIPTOR.full_name == "google.protobuf.Any":
        _redact_any(message, sensitive=sensitive)
        return
    for field, value in message.ListFields():
        hidden = sensitive or descriptors.is_sensitive(field)
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            _redact_map(field, value, hidden=hidden)
        elif field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                _redact(each, sensitive=hidden)
        elif hidden:
            _redact_scalar(message, field)


def _redact_any(message: Any, *, sensitive: bool) -> None:
    if not message.type_url:
        return
    inner = descriptors.new(message.type_url.rpartition("/")[2], message.value)
    _redact(inner, sensitive=sensitive)
    message.value = inner.SerializeToString(deterministic=True)


def _redact_map(field: FieldDescriptor, value: Any, *, hidden: bool) -> None:
    of_value = field.message_type.fields_by_name["value"]
    if of_value.message_type is not None:
        for each in value.values():
            _redact(each, sensitive=hidden)
    elif hidden and of_value.type == FieldDescriptor.TYPE_STRING:
        for key in list(value):
            value[key] = REDACTED


def _redact_scalar(message: Message, field: FieldDescriptor) -> None:
    hidden: Any = {FieldDescriptor.TYPE_STRING: REDACTED, FieldDescriptor.TYPE_BYTES: REDACTED.encode()}.get(field.type)
    if hidden is None:
        message.ClearField(field.name)
    elif field.is_repeated:
        values = getattr(message, field.name)
        values[:] = [hidden] * len(values)
    else:
        setattr(message, field.name, hidden)


def without_ports(text: str) -> str:
    """Return the text of a listener with port 0 everywhere, so that any number of them can be bound."""
    return re.sub(r"""(port_value["']?\s*:\s*)\d+""", r"\g<1>0", text)
