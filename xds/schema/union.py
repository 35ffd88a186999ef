"""One Envoy API made of several: of Envoy binaries of several versions, and of descriptor sets of one's own filters."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError

from xds.schema.binary import descriptors_in, in_import_order

File = descriptor_pb2.FileDescriptorProto

API_FILES = ("envoy/config/bootstrap/v3/bootstrap.proto", "envoy/service/discovery/v3/discovery.proto")
"""A source with these files is a whole Envoy API, another one has additions to it."""
_VERSION_TAG = b"\xfa\xff\x07"  # field 16383, of type string: FileDescriptorSet has no field for a version
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


class SchemaError(Exception):
    """A schema cannot be used. The message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class SchemaSource:
    """The descriptors of one Envoy binary or one descriptor set."""

    name: str
    """What messages call it, such as its path."""
    files: tuple[File, ...]
    """Each after its imports."""
    envoy: str = ""
    """The version of Envoy, such as ``1.40.0``; "" if unknown."""

    @property
    def is_api(self) -> bool:
        """Whether this is a whole Envoy API."""
        return {file.name for file in self.files}.issuperset(API_FILES)


def read_source(name: str, data: object, *, envoy: str = "") -> SchemaSource:
    """Return the descriptors in an Envoy binary (as bytes or a memory map) or a serialized ``FileDescriptorSet``.

    ``envoy`` is the version, unless the set has it (``encode_set``). Raises SchemaError if there are no descriptors.
    """
    if bytes(data[:4]) == b"\x7fELF" or bytes(data[:4]) in _MACHO:  # type: ignore[index]
        files = descriptors_in(data)
        if not files:
            raise SchemaError(f"{name} is a program without descriptors of Envoy's API: is it an Envoy?")
        return SchemaSource(name, tuple(files), envoy)
    try:
        descriptor_set = descriptor_pb2.FileDescriptorSet.FromString(bytes(data[:]))  # type: ignore[index]
    except DecodeError:
        descriptor_set = descriptor_pb2.FileDescriptorSet()
    if not descriptor_set.file:
        hint = "protoc --include_imports --descriptor_set_out=FILE writes one"
        raise SchemaError(f"{name} is neither an Envoy binary nor a FileDescriptorSet ({hint})")
    return SchemaSource(name, tuple(descriptor_set.file), envoy or _version_in(bytes(data[-40:])))  # type: ignore[index]


_MACHO = frozenset({b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe"})


def encode_set(files: Iterable[File], envoy: str = "") -> bytes:
    """Return a serialized ``FileDescriptorSet``, with the version of Envoy in a field that protobuf ignores."""
    encoded = descriptor_pb2.FileDescriptorSet(file=files).SerializeToString(deterministic=True)
    return encoded + (_VERSION_TAG + bytes([len(envoy)]) + envoy.encode() if envoy else b"")


def _version_in(end: bytes) -> str:
    _, tag, text = end.rpartition(_VERSION_TAG)
    if not tag or not text or text[0] != len(text) - 1:
        return ""
    version = text[1:].decode("ascii", "replace")
    return version if _VERSION.match(version) else ""


def version_key(version: str) -> tuple[int, int, int]:
    """Return what versions of Envoy are ordered by; (0, 0, 0) for an unknown one."""
    match = _VERSION.match(version)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)


def united(packaged: SchemaSource, sources: Sequence[SchemaSource]) -> SchemaSource:
    """Return one schema: of the given Envoy APIs, or the packaged one if there are none, and of the other sources.

    A file that several APIs have is that of the newest Envoy. A file that an API has is never taken from a source that
    only adds files; of those, the later one counts. Raises SchemaError if a file's imports lack or files contradict.
    """
    apis = [source for source in sources if source.is_api] or [packaged]
    additions = [source for source in sources if not source.is_api]
    newest = max(apis, key=lambda source: version_key(source.envoy))
    files: dict[str, tuple[File, str]] = {}
    for source in [*additions, *sorted(apis, key=lambda source: version_key(source.envoy))]:
        files |= {file.name: (file, source.name) for file in source.files}
    order = in_import_order(file for file, _ in files.values())
    complete = {file.name for file in order}
    for name, (file, origin) in files.items():
        lacking = [each for each in file.dependency if each not in files]
        if lacking:
            hint = "write the set with protoc --include_imports"
            raise SchemaError(f"{origin}: {name} imports {', '.join(lacking)}, which no schema has; {hint}")
        if name not in complete and not any(each not in complete for each in file.dependency):
            raise SchemaError(f"{origin}: {name} imports itself through others")
    pool = descriptor_pool.DescriptorPool()
    for file in order:
        try:
            pool.AddSerializedFile(file.SerializeToString())
        except TypeError as error:
            raise SchemaError(f"{files[file.name][1]}: {file.name} does not fit the other files: {error}") from None
    return SchemaSource(", ".join(source.name for source in [*apis, *additions]), tuple(order), newest.envoy)


class Difference:
    """What two schemas differ in, as lines that begin with ``+``, ``-`` or ``~``, in order of the names."""

    def __init__(self, before: SchemaSource, after: SchemaSource) -> None:
        old, new = _members(before), _members(after)
        self.added = sorted(new.keys() - old.keys())
        self.removed = sorted(old.keys() - new.keys())
        self.changed = sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
        self._old, self._new = old, new

    @property
    def lines(self) -> list[str]:
        """The differences. What is in an added or removed message is left out."""
        marked = [("+", name, self._new[name]) for name in _outermost(self.added)]
        marked += [("-", name, self._old[name]) for name in _outermost(self.removed)]
        changes = [("~", name, f"{self._old[name]} → {self._new[name]}") for name in self.changed]
        return [f"{mark} {name}  {what}" for mark, name, what in sorted([*marked, *changes], key=lambda each: each[1])]


def _outermost(names: list[str]) -> list[str]:
    have = set(names)
    return [name for name in names if name.rpartition(".")[0] not in have]


def _members(source: SchemaSource) -> dict[str, str]:
    """Return the full names of messages, fields, enums and enum values, each with what it is."""
    found: dict[str, str] = {}

    def add_enum(enum: descriptor_pb2.EnumDescriptorProto, prefix: str) -> None:
        found[f"{prefix}{enum.name}"] = "enum"
        found.update({f"{prefix}{enum.name}.{value.name}": f"value {value.number}" for value in enum.value})

    def add(message: descriptor_pb2.DescriptorProto, prefix: str) -> None:
        if message.options.map_entry:
            return
        full_name = f"{prefix}{message.name}"
        found[full_name] = "message"
        for field in message.field:
            found[f"{full_name}.{field.name}"] = _field_text(field)
        for enum in message.enum_type:
            add_enum(enum, f"{full_name}.")
        for nested in message.nested_type:
            add(nested, f"{full_name}.")

    for file in source.files:
        prefix = f"{file.package}." if file.package else ""
        for message in file.message_type:
            add(message, prefix)
        for enum in file.enum_type:
            add_enum(enum, prefix)
    return found


_TYPE_PREFIX = "TYPE_"


def _field_text(field: descriptor_pb2.FieldDescriptorProto) -> str:
    kind = field.type_name.removeprefix(".") or field.Type.Name(field.type).removeprefix(_TYPE_PREFIX).lower()
    repeated = "repeated " if field.label == field.LABEL_REPEATED else ""
    return f"{repeated}{kind} = {field.number}"
