"""Typed structs: messages that are written as a type's name and a struct."""

from typing import Any

from google.protobuf import json_format

from xds.schema.convert import ConversionError, message_from_json
from xds.schema.pool import Schema


class NotDescribedError(Exception):
    """A typed struct does not describe a message that the schema has."""


def described(schema: Schema, typed: Any) -> Any:
    """Return the message that a typed struct of either package describes, as Envoy reads it. Raises NotDescribedError.

    The struct is not read further: a typed struct may describe another one.
    """
    named = typed.type_url.rpartition("/")[2]
    if not schema.has(named):
        raise NotDescribedError(f"the type {named!r} of its struct is not known")
    try:
        return message_from_json(schema, json_format.MessageToDict(typed.value), full_name=named)
    except (ConversionError, json_format.SerializeToJsonError) as error:
        raise NotDescribedError(f"its struct is not a {named}") from error
