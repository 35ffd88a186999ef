"""The forms in which resources leave the push API: each redacts secrets unless they are requested."""

from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from xds.model.resource import Resource
from xds.schema.show import redacted, to_json
from xds.schema.wrapping import as_any


def resource_json(resource: Resource, *, secrets: bool) -> dict[str, Any]:
    """Return a resource in Envoy's JSON form."""
    return to_json(_shown(resource, secrets))


def resource_any(resource: Resource, *, secrets: bool) -> AnyMessage:
    """Return a resource as a ``google.protobuf.Any``, in its wrapper where it needs one."""
    return as_any(_shown(resource, secrets))


def resource_body(resource: Resource, *, secrets: bool) -> bytes:
    """Return a resource's encoded ``google.protobuf.Any``, without a wrapper."""
    return _shown(resource, secrets).body


def has_secrets(resource: Resource) -> bool:
    """Return whether a resource has secrets, which are redacted unless they are requested."""
    return redacted(resource) is not resource


def _shown(resource: Resource, secrets: bool) -> Resource:
    return resource if secrets else redacted(resource)
