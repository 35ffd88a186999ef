"""Restores checked and encoded resources from their bytes, without checking them again."""

import re
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError

from xds._generated import xds_wire_pb2
from xds.model.resource import Reference, Resource
from xds.model.types import ENDPOINTS, RUNTIME, SECRET, TYPE_PREFIX
from xds.schema.decode import Findings
from xds.schema.ingest import load_plans
from xds.schema.plan import REFERENCES
from xds.schema.wire import NANOS_PER_SECOND, encode_resource, is_content_hash

VERSION_TAG, RESOURCE_TAG, VARINT_MORE = 0x0A, 0x12, 0x80
_REFER_TO_NOTHING = frozenset({SECRET, RUNTIME})
_MAY_BE_INTERNAL = re.compile(rb"\x1a[\x02-\xff]\x01?\x0a")
"""Matches encoded endpoints if any is at an internal listener: field 3 of an ``Address``, which begins with field 1.

It matches endpoints with metadata too. All others are restored eight times as fast without a walk.
"""


def restore(type_url: str, encoded: bytes, *, source: str = "") -> Resource:
    """Return the resource with these ``encoded`` bytes. Raises ValueError if they are not a resource's wire form.

    The bytes are trusted: they must come from this process, or another one of the same version. References are
    extracted again.
    """
    try:
        wrapper: Any = xds_wire_pb2.Resource.FromString(encoded)
        body_start, body_end = _body_within(encoded)
    except (DecodeError, IndexError) as error:
        raise ValueError(f"not a resource: {error}") from None
    name, aliases, value = wrapper.name, tuple(wrapper.aliases), wrapper.resource.value
    ttl_nanos = _ttl_nanos(wrapper)
    if wrapper.resource.type_url != type_url or not name:
        raise ValueError(f"{name!r} is not a resource of type {type_url}")
    heartbeat = b""
    if ttl_nanos:
        body = encoded[body_start:body_end]
        heartbeat = encode_resource(body, name, ttl_nanos=ttl_nanos, aliases=aliases, version=wrapper.version).heartbeat
    return Resource(
        type_url=type_url,
        name=name,
        version=wrapper.version,
        encoded=encoded,
        body_start=body_start,
        body_end=body_end,
        ttl_s=ttl_nanos / NANOS_PER_SECOND if ttl_nanos else None,
        heartbeat=heartbeat,
        aliases=aliases,
        references=_references(type_url, value) if _may_refer(type_url, value) else (),
        labelled=not is_content_hash(wrapper.version),
        source=source,
    )


def _body_within(encoded: bytes) -> tuple[int, int]:
    """Return the start and end of a resource's ``Any``, which is the second field, after the version."""
    if encoded[0] != VERSION_TAG:
        raise IndexError("it does not begin with a version")
    at = 2 + encoded[1]  # a version has at most 200 characters, so its length takes one or two bytes
    if encoded[1] >= VARINT_MORE:
        at = 3 + (encoded[1] & 0x7F) + (encoded[2] << 7)
    if encoded[at] != RESOURCE_TAG:
        raise IndexError("its second field is not a resource")
    at, size, shift = at + 1, 0, 0
    while True:
        byte = encoded[at]
        size |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < VARINT_MORE:
            break
    if at + size > len(encoded):
        raise IndexError("it is cut short")
    return at, at + size


def _ttl_nanos(wrapper: Any) -> int:
    return wrapper.ttl.seconds * NANOS_PER_SECOND + wrapper.ttl.nanos if wrapper.HasField("ttl") else 0


def labelled(resource: Resource, version: str) -> Resource:
    """Return the resource with a version that its author chose, instead of the hash of its content.

    Raises ValueError for a version that looks like such a hash.
    """
    if is_content_hash(version):
        raise ValueError(f"{version!r} reads like a content hash")
    return replace(_reencoded(resource, resource.body, version), version=version, labelled=True)


def with_body(resource: Resource, body: bytes) -> Resource:
    """Return the resource with another encoded ``Any`` and the same version."""
    return _reencoded(resource, body, resource.version)


def _reencoded(resource: Resource, body: bytes, version: str) -> Resource:
    ttl_nanos = _ttl_nanos(xds_wire_pb2.Resource.FromString(resource.encoded))
    wire = encode_resource(body, resource.name, ttl_nanos=ttl_nanos, aliases=resource.aliases, version=version)
    return replace(
        resource,
        encoded=wire.encoded,
        body_start=wire.body_start,
        body_end=wire.body_end,
        heartbeat=wire.heartbeat,
    )


def _may_refer(type_url: str, value: bytes) -> bool:
    if type_url == ENDPOINTS:
        return _MAY_BE_INTERNAL.search(value) is not None
    return type_url not in _REFER_TO_NOTHING


def _references(type_url: str, value: bytes) -> tuple[Reference, ...]:
    plans = load_plans()
    full_name = type_url.removeprefix(TYPE_PREFIX)
    if not plans.schema.has(full_name):
        return ()
    found = Findings(allow_unknown_types=True)
    message: Any = plans.schema.message_class(full_name).FromString(value)
    plan = plans.of(message.DESCRIPTOR, REFERENCES)
    if plan is not None:
        plan.run(message, None, found)
    return tuple(found.references.values())
