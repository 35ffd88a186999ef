"""Fields that not every Envoy's schema has: a server may be given that of an older one (``--schema``)."""

from typing import Any


def optional(message: Any, field: str) -> Any:
    """Return a field's value, None if the schema does not have the field."""
    return getattr(message, field) if field in message.DESCRIPTOR.fields_by_name else None


def is_set(message: Any, field: str) -> bool:
    """Return whether a message field is set; not if the schema does not have it."""
    return field in message.DESCRIPTOR.fields_by_name and bool(message.HasField(field))
