"""Names of resources: inside the message, or in the wrapper around it."""

from typing import Any

from xds.model import types
from xds.model.xdstp import XDSTP, canonical
from xds.schema.pool import Schema

_NAME_FIELDS = {types.ENDPOINTS: "cluster_name"}

NAMED_INSIDE = frozenset(
    {
        types.CLUSTER,
        types.ENDPOINTS,
        types.LISTENER,
        types.ROUTE,
        types.SCOPED_ROUTE,
        types.SECRET,
        types.RUNTIME,
        types.EXTENSION_CONFIG,
        types.THRIFT_ROUTE,
        types.DUBBO_ROUTE,
        types.GENERIC_ROUTE,
    }
)
"""Types that Envoy identifies by the name inside. With another name around it, removals would not match."""


def name_field(type_url: str) -> str:
    """Return the name field of a type; the message may lack it."""
    return _NAME_FIELDS.get(type_url, "name")


def name_inside(message: Any, type_url: str) -> str:
    """Return the name inside a message, "" if it has none."""
    field = message.DESCRIPTOR.fields_by_name.get(name_field(type_url))
    value = getattr(message, field.name) if field is not None and not field.is_repeated else ""
    return value if isinstance(value, str) else ""


def make_name_canonical(message: Any, type_url: str) -> None:
    """Write the name inside a message in its canonical form, if it is an ``xdstp://`` name."""
    name = name_inside(message, type_url)
    if name.startswith(XDSTP):
        setattr(message, name_field(type_url), canonical(name))


def has_name_inside(schema: Schema, type_url: str, name: str, value: bytes) -> bool:
    """Return whether an encoded message has this name without a wrapper."""
    if type_url in NAMED_INSIDE:
        return True
    full_name = type_url.removeprefix(types.TYPE_PREFIX)
    return schema.has(full_name) and name_inside(schema.message_class(full_name).FromString(value), type_url) == name
