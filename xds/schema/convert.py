"""Converts Envoy's JSON form, as Python dicts, to messages."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from xds.schema.diagnose import JSON_DEPTH_MAX, diagnose
from xds.schema.paths import Finding
from xds.schema.pool import VALUE_IN_ANY, Schema


class ConversionError(Exception):
    """A value does not fit its message type. ``findings`` lists all problems.

    ``partial`` is the message without the faulty parts, so that the rest can be checked too; None if nothing is left.
    """

    def __init__(self, findings: list[Finding], partial: Message | None) -> None:
        self.findings = findings
        self.partial = partial
        super().__init__("; ".join(finding.what for finding in findings))


def message_from_json(
    schema: Schema,
    value: Mapping[str, Any],
    *,
    full_name: str,
    allow_unknown_types: bool = False,
) -> Message:
    """Return the message of a known type that ``value`` describes in Envoy's JSON form (snake_case or camelCase).

    An ``@type`` at the top is ignored. Raises ConversionError with *all* problems; the value is examined key by key
    only if protobuf's own parser refuses it. With ``allow_unknown_types`` a typed config of an unknown type may be
    ``{"@type": …, "value": <base64>}``; ``plan.OPAQUE`` is then appended to the type URL of its Any, and the walk of
    ``plan`` removes it again.

    ``value`` is not changed, except that the ``@type`` of nested typed configs may move to the end of their keys.
    """
    body = {key: item for key, item in value.items() if key != "@type"}
    content = body.get("value", {}) if full_name in VALUE_IN_ANY else body
    message = schema.message_class(full_name)()
    try:
        json_format.ParseDict(content, message, descriptor_pool=schema.pool, max_recursion_depth=JSON_DEPTH_MAX)
    except Exception as error:  # the parser raises anything from KeyError to OverflowError
        return _parse_sound_part(schema, content, full_name, allow_unknown_types, error)
    return message


def _parse_sound_part(
    schema: Schema, content: Any, full_name: str, allow_unknown_types: bool, error: Exception
) -> Message:
    sound, findings = diagnose(schema, content, full_name=full_name, allow_unknown_types=allow_unknown_types)
    message = schema.message_class(full_name)()
    partial: Message | None = message
    try:
        json_format.ParseDict(sound, message, descriptor_pool=schema.pool, max_recursion_depth=JSON_DEPTH_MAX)
    except Exception:
        partial = None
    if not findings and partial is not None:
        return partial
    raise ConversionError(findings or [Finding((), str(error))], partial)
