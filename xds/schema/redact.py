"""Redacts secrets in messages. Only this module decides what a secret is, for every output form.

Secrets are the fields that the API marks sensitive (``udpa.annotations.sensitive``: private keys, passwords, generic
secrets, …), those of ``secret_fields.py``, which it does not mark, those that the settings add, and messages of unknown
types, which may contain anything. In a ``DataSource`` only inline content is secret, not file names; numbers are never
redacted. A typed struct is what its type is; all texts of one that can't be read as its type may be secrets.
"""

from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

from xds.schema import pool
from xds.schema.decode import Findings
from xds.schema.paths import MapKey, Trail
from xds.schema.pool import Schema
from xds.schema.secret_fields import CONDITIONAL
from xds.schema.typed_structs import TYPED_STRUCTS, NotDescribedError, described

REDACTED = "[redacted]"
"""The placeholder for a secret in shown resources. Publishing a resource with it would destroy the secret."""
REDACTED_BYTES = REDACTED.encode()

_DATA_SOURCE = "envoy.config.core.v3.DataSource"
_INLINE = ("inline_bytes", "inline_string")
_TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)

Text = str | bytes
Leaf = Callable[[Any, Trail], Text]
"""Maps a secret, or a possible one, and its place to the text that replaces it."""


def redact(schema: Schema, message: Any) -> bool:
    """Replace each secret in a message by a placeholder; return whether there was any.

    ``ingest`` refuses such a placeholder, so that a redacted resource is never served by mistake.
    """
    return _Walk(schema, _placeholder).message(message, None, hide=False)


def find_placeholders(schema: Schema, message: Any, found: Findings) -> None:
    """Add a problem for every placeholder in the place of a secret."""

    def note(value: Text, trail: Trail) -> Text:
        if value in (REDACTED, REDACTED_BYTES):
            found.add(trail, f"is {REDACTED}, which stands for a secret that was not shown; give the secret itself")
        return value

    _Walk(schema, note, all_sources=True).message(message, None, hide=False)


def secrets_in(schema: Schema, message: Any) -> list[Text]:
    """Return the secrets in a message, which is not changed."""
    found: list[Text] = []

    def note(value: Text, _: Trail) -> Text:
        found.append(value)
        return value

    _Walk(schema, note).message(message, None, hide=False)
    return found


def _placeholder(value: Text, _: Trail) -> Text:
    return REDACTED if isinstance(value, str) else REDACTED_BYTES


class _Walk:
    """Applies ``leaf`` to every secret in a message; with ``all_sources``, to every inline ``DataSource`` too."""

    def __init__(self, schema: Schema, leaf: Leaf, *, all_sources: bool = False) -> None:
        self._schema = schema
        self._leaf = leaf
        self._all_sources = all_sources

    def message(self, message: Any, trail: Trail, *, hide: bool) -> bool:
        """Walk one message, which is all secret if ``hide``; return whether anything was replaced."""
        full_name = message.DESCRIPTOR.full_name
        if full_name == pool.ANY:
            return self._any(message, trail, hide=hide)
        if full_name in TYPED_STRUCTS:
            return self._typed_struct(message, trail, hide=hide)
        is_source, is_changed = full_name == _DATA_SOURCE, False
        is_conditional = full_name in CONDITIONAL
        if is_conditional:
            is_changed = self._keys(self._schema.secret_fields.keys_hidden_in(message, self._schema.unpack), trail)
        for field, value in message.ListFields():
            hidden = hide or (is_source and self._all_sources)
            if is_source and field.name not in _INLINE:
                hidden = False
            hidden = hidden or self._schema.is_sensitive(field)
            if is_conditional and not hidden:
                hidden = self._schema.secret_fields.hides(message, field.name, self._schema.unpack)
            if field.message_type is not None or (hidden and field.type in _TEXTS):
                is_changed |= self._field(message, field, value, (trail, field.name), hidden)
        return is_changed

    def _keys(self, pairs: Any, trail: Trail) -> bool:
        """Replace the keys of a map that are secrets, each by another text: the second by ``[redacted] 2``."""
        if not pairs:
            return False
        replaced = {key: self._leaf(key, (trail, MapKey(key))) for key in sorted(pairs)}
        if all(new == key for key, new in replaced.items()):
            return False
        contents = [pairs[key].SerializeToString(deterministic=True) for key in replaced]
        pairs.clear()
        for number, (new, content) in enumerate(zip(replaced.values(), contents, strict=True), 1):
            pairs[new if number == 1 else f"{new!s} {number}"].ParseFromString(content)
        return True

    def _any(self, message: Any, trail: Trail, *, hide: bool) -> bool:
        full_name = message.type_url.rpartition("/")[2]
        if not full_name:
            return False
        if not self._schema.has(full_name):
            content = self._leaf(message.value, trail)
            is_changed = bool(content != message.value)
            message.value = content
            return is_changed
        inner: Any = self._schema.message_class(full_name).FromString(message.value)
        if not self.message(inner, trail, hide=hide):
            return False
        message.value = inner.SerializeToString(deterministic=True)
        return True

    def _typed_struct(self, message: Any, trail: Trail, *, hide: bool) -> bool:
        """Walk the message that a typed struct describes; all texts of a struct that can't be read may be secrets."""
        inside = (trail, "value")
        try:
            inner = described(self._schema, message, allow_unknown_types=True)
        except NotDescribedError:
            return self._struct(message.value, inside)
        if not self.message(inner, inside, hide=hide):
            return False
        try:
            shown = json_format.MessageToDict(
                inner, preserving_proto_field_name=True, descriptor_pool=self._schema.pool
            )
        except (TypeError, ValueError):  # an Any of an unknown type, or a number that JSON lacks
            return self._struct(message.value, inside)
        message.value.Clear()
        json_format.ParseDict(shown, message.value)
        return True

    def _struct(self, struct: Any, trail: Trail) -> bool:
        """Replace all texts in a struct."""
        return sum(self._value(struct.fields[key], (trail, MapKey(key))) for key in sorted(struct.fields)) > 0

    def _value(self, value: Any, trail: Trail) -> bool:
        match value.WhichOneof("kind"):
            case "struct_value":
                return self._struct(value.struct_value, trail)
            case "list_value":
                return sum(self._value(each, (trail, at)) for at, each in enumerate(value.list_value.values)) > 0
            case "string_value":
                text = value.string_value
                value.string_value = self._leaf(text, trail)
                return bool(value.string_value != text)
        return False

    def _field(self, message: Any, field: FieldDescriptor, value: Any, trail: Trail, hide: bool) -> bool:
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            return self._map(kind.fields_by_name["value"], value, trail, hide)
        if field.is_repeated:
            return sum(self._item(value, at, field, (trail, at), hide) for at in range(len(value))) > 0
        if kind is not None:
            return self.message(value, trail, hide=hide)
        content = self._leaf(value, trail)
        setattr(message, field.name, content)
        return bool(content != value)

    def _map(self, content: FieldDescriptor, pairs: Any, trail: Trail, hide: bool) -> bool:
        if content.message_type is None and not (hide and content.type in _TEXTS):
            return False
        return sum(self._item(pairs, key, content, (trail, MapKey(key)), hide) for key in sorted(pairs)) > 0

    def _item(self, items: Any, key: Any, field: FieldDescriptor, trail: Trail, hide: bool) -> bool:
        if field.message_type is not None:
            return self.message(items[key], trail, hide=hide)
        value = items[key]
        items[key] = self._leaf(value, trail)
        return bool(items[key] != value)
