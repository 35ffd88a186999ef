"""Typed structs: messages that are written as a type's name and a struct."""

from typing import Any

from google.protobuf import json_format

from xds.schema.convert import ConversionError, message_from_json
from xds.schema.paths import Finding
from xds.schema.pool import Schema

TYPED_STRUCTS = ("xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct")


class NotDescribedError(Exception):
    """A typed struct does not describe a message that the schema has. ``findings``: what is wrong with its struct."""

    def __init__(self, text: str, findings: tuple[Finding, ...] = ()) -> None:
        super().__init__(text)
        self.findings = findings


def described(schema: Schema, typed: Any, *, allow_unknown_types: bool = False) -> Any:
    """Return the message that a typed struct of either package describes, as Envoy reads it. Raises NotDescribedError.

    The struct is not read further: a typed struct may describe another one.
    """
    named = typed.type_url.rpartition("/")[2]
    if not schema.has(named):
        raise NotDescribedError(f"the type {named!r} of its struct is not known")
    try:
        content = json_format.MessageToDict(typed.value)
        return message_from_json(schema, content, full_name=named, allow_unknown_types=allow_unknown_types)
    except json_format.SerializeToJsonError as error:  # a number that JSON lacks
        raise NotDescribedError(f"its struct is not a {named}") from error
    except ConversionError as error:
        raise NotDescribedError(f"its struct is not a {named}", tuple(error.findings)) from error
