"""Strict decoding of messages, in which unknown fields are problems, and the findings of a walk."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from xds.model.resource import Reference
from xds.schema.paths import Finding, MapKey, Trail, path_of
from xds.schema.pool import Schema

UNKNOWN_FIELDS_SHOWN_MAX = 20
FINDINGS_MAX = 500
"""Problems of one resource that are told. One more is kept, which says that there are more."""
TEXT_CHARACTERS_MAX = 4_000
"""The longest text of a problem or a hint: rules name values of any length, and lists of them."""


class Findings:
    """The findings of one walk."""

    __slots__ = ("added", "allow_redacted", "allow_unknown_types", "problems", "references")

    def __init__(self, *, allow_unknown_types: bool = False, allow_redacted: bool = False) -> None:
        self.allow_redacted = allow_redacted
        self.allow_unknown_types = allow_unknown_types
        self.added = 0
        """How many problems were found, those that are not kept included."""
        self.problems: list[Finding] = []
        self.references: dict[tuple[str, str], Reference] = {}

    def add(self, trail: Trail, what: str, hint: str = "") -> None:
        """Add a problem at a place."""
        self.added += 1
        if not self.is_full:
            self.problems.append(finding_at(trail, what, hint))

    @property
    def is_full(self) -> bool:
        """Whether further problems are not kept, so that their words need not be found."""
        return len(self.problems) > FINDINGS_MAX

    def drop(self, trail: Trail) -> None:
        """Leave out what was found inside a place, by the rule of the message around it: Envoy does not look there.

        What was found inside the message is at the end of the problems.
        """
        place = path_of(trail)
        above, end = place[:-1], len(self.problems)
        while end and self.problems[end - 1].path[: len(above)] == above:
            end -= 1
        self.problems[end:] = [each for each in self.problems[end:] if each.path[: len(place)] != place]

    def take(self, others: "Findings") -> None:
        """Add the findings of another walk."""
        self.added += others.added
        self.problems += others.problems[: FINDINGS_MAX + 1 - len(self.problems)]
        self.references = others.references | self.references


def finding_at(trail: Trail, what: str, hint: str = "") -> Finding:
    """Return a problem, whose texts are shortened if they are very long."""
    return Finding(path_of(trail), _cut(what), _cut(hint))


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS_MAX else text[: TEXT_CHARACTERS_MAX - 1] + "…"


def decode(schema: Schema, full_name: str, data: bytes, trail: Trail, found: Findings) -> Message | None:
    """Decode bytes as a known message type; return None and add a problem if they can't be decoded.

    An unknown field is a problem too: it would be sent unchecked to an Envoy that may know it.
    """
    message_class = schema.message_class(full_name)
    try:
        message = message_class.FromString(data)
    except DecodeError as error:
        found.add(trail, f"its bytes do not encode {full_name}", str(error))
        return None
    size = message.ByteSize()
    message.DiscardUnknownFields()
    if message.ByteSize() != size:
        places = list(dict.fromkeys(_unknown_fields(message_class.FromString(data), trail)))
        for place, number, name in places[:UNKNOWN_FIELDS_SHOWN_MAX]:
            hint = "written with a newer or another version of the Envoy API?"
            found.add(place, f"has a field number {number}, unknown to {name}", hint)
    return message


def unknown_type(schema: Schema, full_name: str) -> tuple[str, str]:
    """Return the problem and the hint for an unknown message type."""
    close = schema.close_names(full_name)
    hint = f"did you mean {' or '.join(close)}?" if close else "add its descriptors with --schema"
    return f"unknown type {full_name}", hint


def _unknown_fields(message: Any, trail: Trail) -> Iterator[tuple[Trail, int, str]]:
    unknown_fields: Any = UnknownFieldSet(message)
    for unknown in unknown_fields:
        yield trail, unknown.field_number, message.DESCRIPTOR.full_name
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        here = (trail, field.name)
        if not field.is_repeated:
            yield from _unknown_fields(value, here)
        elif not field.message_type.GetOptions().map_entry:
            for index, item in enumerate(value):
                yield from _unknown_fields(item, (here, index))
        elif field.message_type.fields_by_name["value"].message_type is not None:
            for key in sorted(value):
                yield from _unknown_fields(value[key], (here, MapKey(key)))
