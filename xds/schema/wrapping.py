"""Resources in the form in which an author pushes them: the message alone, or in a wrapper if it needs one.

The wrapper is ``envoy.service.discovery.v3.Resource``, which ``ingest`` accepts. It carries what the message lacks:
TTL, aliases, and the name of types that are not named inside. ``ingest`` computes the version.
"""

from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from xds.model.resource import Resource
from xds.model.types import WRAPPER_URL
from xds.schema.names import NAMED_INSIDE, has_name_inside
from xds.schema.pool import load_schema


def needs_wrapper(resource: Resource) -> bool:
    """Return whether a resource has a TTL, aliases or a name that its message lacks."""
    if resource.ttl_s is not None or resource.aliases:
        return True
    if resource.type_url in NAMED_INSIDE:
        return False
    value = AnyMessage.FromString(resource.body).value
    return not has_name_inside(load_schema(), resource.type_url, resource.name, value)


def as_any(resource: Resource) -> AnyMessage:
    """Return a ``google.protobuf.Any`` from which ``ingest`` makes the same resource."""
    if needs_wrapper(resource):
        return AnyMessage(type_url=WRAPPER_URL, value=resource.encoded)
    return AnyMessage.FromString(resource.body)


def wrapped_json(resource: Resource, message: dict[str, Any]) -> dict[str, Any]:
    """Return a resource's wrapper around its message, both as JSON."""
    outside: dict[str, Any] = {"@type": WRAPPER_URL, "name": resource.name}
    if resource.aliases:
        outside["aliases"] = list(resource.aliases)
    if resource.ttl_s is not None:
        outside["ttl"] = f"{resource.ttl_s:.9f}".rstrip("0").rstrip(".") + "s"
    return outside | {"resource": message}
