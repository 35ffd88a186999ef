"""Reads the descriptors of the Envoy API out of an Envoy binary.

Envoy is linked with protobuf's full runtime, so each ``FileDescriptorProto`` that it was built with stands in its
read-only data, uncompressed, with the rules of protoc-gen-validate among its options. Each begins with its own file
name, and ends before the first tag that is not a field of ``FileDescriptorProto``.

Imports nothing of this project: the build hook loads this file by its path.
"""

import re
from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError

_NAME_FIELD = 1
_LENGTH_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 12})
_VARINT_FIELDS = frozenset({10, 11, 14})
_VARINT, _LENGTH_DELIMITED = 0, 2
_MORE = 0x80

# A file name (field 1, its length in one or two bytes), and after it the tag of any field but the name.
_START = re.compile(
    rb"\x0a([\x08-\xff])(\x01?)([A-Za-z][a-zA-Z0-9_./-]+?\.proto)(?=[\x12\x1a\x22\x2a\x32\x3a\x42\x62\x50\x58\x70])"
)


def descriptors_in(data: Any) -> list[descriptor_pb2.FileDescriptorProto]:
    """Return the files whose descriptors stand in a binary, each after its imports; [] if there are none.

    ``data`` is the binary as bytes or as a memory map. Of several copies of a file the longest is returned. A file
    whose imports are not all there is left out, with the files that import it.
    """
    found: dict[str, bytes] = {}
    for match in _START.finditer(data):
        low, high, name = match.groups()
        size = low[0] & ~_MORE | _MORE if high else low[0]
        if size != len(name):
            continue
        encoded = data[match.start() : _end_of(data, match.start())]
        if len(encoded) > len(found.get(name.decode(), b"")):
            found[name.decode()] = encoded
    return in_import_order(_decoded(found.values()))


def in_import_order(
    files: Iterable[descriptor_pb2.FileDescriptorProto],
) -> list[descriptor_pb2.FileDescriptorProto]:
    """Return the files so that each stands after its imports, otherwise by name; without those whose imports lack."""
    by_name = {file.name: file for file in files}
    complete: dict[str, bool] = {}
    order: list[descriptor_pb2.FileDescriptorProto] = []

    def add(name: str) -> bool:
        if name not in complete:
            complete[name] = False  # two files that import each other are both left out
            file = by_name.get(name)
            complete[name] = file is not None and all(map(add, file.dependency))
            if file is not None and complete[name]:
                order.append(file)
        return complete[name]

    for name in sorted(by_name):
        add(name)
    return order


def _decoded(encoded: Iterable[bytes]) -> list[descriptor_pb2.FileDescriptorProto]:
    files = []
    for data in encoded:
        try:
            files.append(descriptor_pb2.FileDescriptorProto.FromString(data))
        except DecodeError:
            continue  # text that only looked like the start of a descriptor
    return files


def _end_of(data: Any, start: int) -> int:
    """Return where the descriptor that begins at ``start`` ends."""
    at, named = start, False
    while at < len(data):
        tag, after = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _LENGTH_DELIMITED and number in _LENGTH_FIELDS and not (number == _NAME_FIELD and named):
            named = True
            size, after = _varint(data, after)
            if after + size > len(data):
                return at
            at = after + size
        elif kind == _VARINT and number in _VARINT_FIELDS:
            at = _varint(data, after)[1]
        else:
            return at
    return at


def _varint(data: Any, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & ~_MORE) << shift
        if byte < _MORE:
            return value, at
        shift += 7
    return 0, at
