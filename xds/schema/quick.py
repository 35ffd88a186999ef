"""Fast path of ``ingest`` for resources in canonical encoding, as endpoints are pushed by the thousand.

Its results equal those of ``ingest``, which handles resources that are invalid, wrapped or encoded differently.
"""

from functools import cache
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from xds.model.resource import Resource
from xds.model.types import TYPE_PREFIX
from xds.model.xdstp import canonical
from xds.schema.decode import Findings
from xds.schema.ingest import READ_BYTES_MAX, ingest, load_plans
from xds.schema.names import NAMED_INSIDE, name_field
from xds.schema.plan import MessagePlan, mode_of
from xds.schema.redact import REDACTED_BYTES
from xds.schema.wire import encode_any, encode_resource


class _Type(NamedTuple):
    message_class: Any
    plan: MessagePlan
    name_field: str


def ingest_encoded(type_url: str, value: bytes) -> Resource:
    """Return ``ingest((type_url, value))``. Raises ChangesetRejectedError like ``ingest``."""
    resource = _ingest_canonical(type_url, value) if type_url in NAMED_INSIDE else None
    return ingest((type_url, value)) if resource is None else resource


def _ingest_canonical(type_url: str, value: bytes) -> Resource | None:
    if len(value) > READ_BYTES_MAX or REDACTED_BYTES in value:
        return None
    kind = _type(type_url)
    try:
        message = kind.message_class.FromString(value)
    except DecodeError:
        return None
    message.DiscardUnknownFields()
    found = Findings()
    kind.plan.run(message, None, found)
    if found.problems or message.SerializeToString(deterministic=True) != value:
        return None
    name = getattr(message, kind.name_field)
    body = encode_any(type_url, value)
    if not name or name != canonical(name) or len(body) > READ_BYTES_MAX:
        return None
    wire = encode_resource(body, name)
    return Resource(
        type_url=type_url,
        name=name,
        version=wire.version,
        encoded=wire.encoded,
        body_start=wire.body_start,
        body_end=wire.body_end,
        references=tuple(found.references.values()),
    )


@cache
def _type(type_url: str) -> _Type:
    plans = load_plans()
    full_name = type_url.removeprefix(TYPE_PREFIX)
    message_class: Any = plans.schema.message_class(full_name)
    plan = plans.of(message_class.DESCRIPTOR, mode_of(full_name))
    assert plan is not None, "each of these types has rules"
    return _Type(message_class, plan, name_field(type_url))
