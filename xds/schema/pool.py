"""The Envoy API as descriptors in a private pool.

The pool is private because ``envoy-data-plane`` and other generated code may register the same messages in the default
one; two registrations of one file in one pool are an error.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.message import DecodeError, Message

from xds.model.closest import NAME_CHARACTERS_MAX, Names, closest, likeness
from xds.schema.secret_fields import SecretFields

ANY = "google.protobuf.Any"
BYTES_VALUE = "google.protobuf.BytesValue"
DURATION = "google.protobuf.Duration"
TIMESTAMP = "google.protobuf.Timestamp"
WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
VALUE_IN_ANY = WRAPPERS | {
    f"google.protobuf.{name}" for name in ("Any", "Duration", "FieldMask", "ListValue", "Struct", "Timestamp", "Value")
}
"""Messages with a special JSON form: in an Any it is under ``value`` (protobuf.dev, "ProtoJSON Format")."""

_NEVER_SUGGESTED = ("google.protobuf.", "validate.", "udpa.annotations.", "xds.annotations.")
_SURE = 0.97
"""Similarity above which one suggestion is enough."""


class Schema:
    """Message classes and options by full name, from a serialized ``FileDescriptorSet``."""

    def __init__(self, descriptor_set: bytes, *, passes_unknown_types: bool = False, is_packaged: bool = False) -> None:
        self.is_packaged = is_packaged
        """Whether this is the packaged Envoy API, of whose Envoy more is known than descriptors say."""
        self.passes_unknown_types = passes_unknown_types
        """Resources and typed configs of types that this schema lacks are accepted unchecked."""
        self.pool = descriptor_pool.DescriptorPool()
        files = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file
        for file in files:
            self.pool.AddSerializedFile(file.SerializeToString())
        self._file_names = tuple(file.name for file in files)
        self._classes: dict[str, type[Message]] = {}
        self._rules = self.pool.FindExtensionByName("validate.rules")
        self._sensitive = self.pool.FindExtensionByName("udpa.annotations.sensitive")
        self._sensitive_fields: dict[str, bool] = {}
        self.secret_fields = SecretFields()
        self._names: tuple[str, ...] = ()
        self._suggested: tuple[Names, dict[str, list[str]]] | None = None

    def has(self, full_name: str) -> bool:
        """Return whether there is a message of this full name (without a type URL's prefix)."""
        if full_name in self._classes:
            return True
        try:
            self.pool.FindMessageTypeByName(full_name)
        except KeyError:
            return False
        return True

    def message_class(self, full_name: str) -> type[Message]:
        """Return the message class of a full name. Raises KeyError if there is none."""
        found = self._classes.get(full_name)
        if found is None:
            found = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(full_name))
            self._classes[full_name] = found
        return found

    def unpack(self, packed: Any) -> Any:
        """Return the message in a ``google.protobuf.Any``, None if its type is unknown or it can't be decoded."""
        full_name = packed.type_url.rpartition("/")[2]
        if not self.has(full_name):
            return None
        try:
            return self.message_class(full_name).FromString(packed.value)
        except DecodeError:
            return None

    def descriptor(self, full_name: str) -> Descriptor:
        """Return the descriptor of a message. Raises KeyError if there is none."""
        found: Descriptor = self.pool.FindMessageTypeByName(full_name)
        return found

    def message_names(self) -> tuple[str, ...]:
        """Return the full names of all messages, including nested ones, without map entries."""
        if not self._names:
            found: list[str] = []
            pending = [
                message
                for name in self._file_names
                for message in self.pool.FindFileByName(name).message_types_by_name.values()
            ]
            while pending:
                message = pending.pop()
                if not message.GetOptions().map_entry:
                    found.append(message.full_name)
                    pending.extend(message.nested_types)
            self._names = tuple(sorted(found))
        return self._names

    def close_names(self, word: str, *, count: int = 3) -> tuple[str, ...]:
        """Return the full names similar to ``word``, the most similar first.

        Messages of the same name in other packages are preferred to similar names.
        """
        wanted = word.rpartition("/")[2]
        if len(wanted) > NAME_CHARACTERS_MAX:
            return ()
        names, by_last = self._suggested or self._names_to_suggest()
        namesakes = by_last.get(_last(wanted), ())
        found = closest(wanted, namesakes, count=count, likeness_min=0.0)
        found = found or closest(wanted, names, count=count, likeness_min=0.85)
        alike = {name: likeness(wanted, name) for name in found}
        best = max(alike.values(), default=0.0)
        return tuple(name for name in found if alike[name] > best - 0.1)[: 1 if best >= _SURE else count]

    def _names_to_suggest(self) -> tuple[Names, dict[str, list[str]]]:
        """Return the names of messages that may be suggested, and those by their last part. Made once."""
        names = [name for name in self.message_names() if not name.startswith(_NEVER_SUGGESTED)]
        by_last: dict[str, list[str]] = {}
        for name in names:
            by_last.setdefault(_last(name), []).append(name)
        self._suggested = Names(names), by_last
        return self._suggested

    def rules(self, field: FieldDescriptor) -> Any:
        """Return the field's ``validate.FieldRules`` message, or None."""
        options = self._options("google.protobuf.FieldOptions", field)
        return options.Extensions[self._rules] if options.HasExtension(self._rules) else None

    def is_sensitive(self, field: FieldDescriptor) -> bool:
        """Return whether the field must not be shown: marked ``udpa.annotations.sensitive``, or one of ours."""
        known = self._sensitive_fields.get(field.full_name)
        if known is None:
            is_marked = bool(self._options("google.protobuf.FieldOptions", field).Extensions[self._sensitive])
            known = is_marked or field.full_name in self.secret_fields.fields
            self._sensitive_fields[field.full_name] = known
        return known

    def hide(self, fields: Sequence[str], headers: Iterable[str]) -> None:
        """Treat further fields (``message.field``), and the values of further headers, as secrets.

        Raises UnknownFieldError.
        """
        for name in fields:
            message, _, field = name.rpartition(".")
            if not self.has(message):
                raise UnknownFieldError(name, f"there is no message {message!r}", self.close_names(message))
            known = self.descriptor(message).fields_by_name
            if field not in known:
                close = closest(field, known, count=3)
                raise UnknownFieldError(
                    name, f"{message} has no field {field!r}", [f"{message}.{each}" for each in close]
                )
        self.secret_fields.add(frozenset(fields), frozenset(header.lower() for header in headers))
        self._sensitive_fields.clear()

    def is_required(self, oneof: OneofDescriptor) -> bool:
        """Return whether ``validate.required`` requires one member of the oneof."""
        extension = self.pool.FindExtensionByName("validate.required")
        return bool(self._options("google.protobuf.OneofOptions", oneof).Extensions[extension])

    def is_unchecked(self, message: Descriptor) -> bool:
        """Return whether ``validate.disabled`` or ``validate.ignored`` excludes the message from validation."""
        options = self._options("google.protobuf.MessageOptions", message)
        names = ("validate.disabled", "validate.ignored")
        return any(options.Extensions[self.pool.FindExtensionByName(name)] for name in names)

    def annotation(self, options: str, described: Any, name: str) -> Any:
        """Return the value of an option of a field or an enum value, None if it is not set or the schema lacks it.

        ``options`` is the full name of the options' message, ``name`` that of the extension.
        """
        if not described.has_options:
            return None
        try:
            extension = self.pool.FindExtensionByName(name)
        except KeyError:
            return None
        found = self._options(options, described)
        return found.Extensions[extension] if found.HasExtension(extension) else None

    def enum_values(self, full_name: str) -> frozenset[str] | None:
        """Return the names of an enum's values, None if the schema lacks the enum."""
        try:
            return frozenset(self.pool.FindEnumTypeByName(full_name).values_by_name)
        except KeyError:
            return None

    def _options(self, full_name: str, described: Any) -> Any:
        # GetOptions() returns a class of the default pool, in which validate.* are unknown fields. Decoded again with
        # the class of this pool, they are extensions.
        return self.message_class(full_name).FromString(described.GetOptions().SerializeToString())


def _last(name: str) -> str:
    return name.rpartition(".")[2].casefold()


class UnknownFieldError(ValueError):
    """A field that is to be hidden is not part of the schema."""

    def __init__(self, name: str, why: str, close: Sequence[str]) -> None:
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        super().__init__(f"{name!r} can't be hidden: {why}{hint}")


class SchemaInUseError(Exception):
    """Another Envoy API is in use in this process already."""


def packaged_schema() -> bytes:
    """Return the packaged FileDescriptorSet: the Envoy API that this package was built with."""
    return resources.files("xds._generated").joinpath("envoy.binpb").read_bytes()


class _Choice:
    """The Envoy API that this process uses: the packaged one, until another one is chosen."""

    def __init__(self) -> None:
        self.key: object = None
        self.load: Callable[[], bytes] = packaged_schema
        self.loaded: bytes | None = None
        """The descriptor set of a chosen API, once it is in use."""
        self.passes_unknown_types = False


_choice = _Choice()


def choose_schema(key: object, load: Callable[[], bytes] | None, *, passes_unknown_types: bool = False) -> None:
    """Choose the Envoy API of this process before it is first used.

    ``load`` returns its FileDescriptorSet and is called when the API is first used; None: the packaged one. ``key`` is
    equal for equal choices; the choice that is in use may be made again. With ``passes_unknown_types`` resources and
    typed configs of types that the API lacks are accepted unchecked. Raises SchemaInUseError.
    """
    wanted = (key, passes_unknown_types)
    if wanted == (_choice.key, _choice.passes_unknown_types):
        return
    if load_schema.cache_info().currsize:
        raise SchemaInUseError("this process has loaded another schema already: give all control planes the same one")
    _choice.key, _choice.load, _choice.passes_unknown_types = key, load or packaged_schema, passes_unknown_types


def chosen_schema() -> bytes | None:
    """Return the descriptor set that this process uses if it is not the packaged one, for its worker processes."""
    load_schema()
    return _choice.loaded


@cache
def load_schema() -> Schema:
    """Return the Envoy API of this process, the packaged one unless another was chosen; loaded once (0.1 s)."""
    descriptor_set = _choice.load()
    _choice.loaded = descriptor_set if _choice.key is not None else None
    return Schema(descriptor_set, passes_unknown_types=_choice.passes_unknown_types, is_packaged=_choice.key is None)
