"""Encodes a discovery ``Resource``, and computes its version.

It is encoded by hand, because senders need the position of the ``Any`` in it, the only part that SotW sends.
"""

import re
from hashlib import blake2b
from typing import NamedTuple

_VARINT_MORE = 0x80
_ONE_BYTE = tuple(bytes([number]) for number in range(_VARINT_MORE))
_ANY_TYPE_URL, _ANY_VALUE = b"\x0a", b"\x12"
_VERSION, _RESOURCE, _NAME, _ALIAS, _TTL = b"\x0a", b"\x12", b"\x1a", b"\x22", b"\x32"
_VERSION_LENGTH = 16
_CONTENT_HASH = re.compile("[0-9a-f]{16}")
NANOS_PER_SECOND = 1_000_000_000


class Encoded(NamedTuple):
    """The wire form of one resource; ``encoded[body_start:body_end]`` is its ``google.protobuf.Any``."""

    version: str
    encoded: bytes
    body_start: int
    body_end: int
    heartbeat: bytes


def encode_any(type_url: str, value: bytes) -> bytes:
    """Encode a ``google.protobuf.Any``."""
    return _text(_ANY_TYPE_URL, type_url) + (_bytes(_ANY_VALUE, value) if value else b"")


def any_value(body: bytes, type_url: str) -> bytes:
    """Return the value of what ``encode_any`` made with a type URL."""
    at = len(_text(_ANY_TYPE_URL, type_url))
    if at == len(body):
        return b""
    at += len(_ANY_VALUE)
    while body[at] >= _VARINT_MORE:
        at += 1
    return body[at + 1 :]


def encode_resource(
    body: bytes, name: str, *, ttl_nanos: int = 0, aliases: tuple[str, ...] = (), version: str = ""
) -> Encoded:
    """Encode ``envoy.service.discovery.v3.Resource`` around an encoded Any; ``ttl_nanos`` 0 means no TTL.

    The version is a hash of body, TTL and aliases, unless one is given. The heartbeat is the resource without its body,
    which renews the TTL (xDS protocol, "TTL"); it is empty without a TTL.
    """
    tail = b"".join(_text(_ALIAS, alias) for alias in aliases)
    if ttl_nanos:
        tail += _bytes(_TTL, _duration(ttl_nanos))
    head = _text(_VERSION, version := version or _hash(body, tail))
    rest = _text(_NAME, name) + tail
    start = len(head) + len(_RESOURCE) + len(_varint(len(body)))
    encoded = head + _bytes(_RESOURCE, body) + rest
    return Encoded(version, encoded, start, start + len(body), head + rest if ttl_nanos else b"")


def is_content_hash(version: str) -> bool:
    """Return whether a version looks like a content hash of this module."""
    return _CONTENT_HASH.fullmatch(version) is not None


def _hash(body: bytes, tail: bytes) -> str:
    digest = blake2b(body)
    digest.update(tail)
    digest.update(len(body).to_bytes(8, "big"))  # so that bytes can't move between body and aliases
    return digest.hexdigest()[:_VERSION_LENGTH]


def _duration(nanos: int) -> bytes:
    seconds, part = divmod(nanos, NANOS_PER_SECOND)
    return (b"\x08" + _varint(seconds) if seconds else b"") + (b"\x10" + _varint(part) if part else b"")


def _text(tag: bytes, text: str) -> bytes:
    return _bytes(tag, text.encode())


def _bytes(tag: bytes, data: bytes) -> bytes:
    return tag + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    assert number >= 0
    if number < _VARINT_MORE:
        return _ONE_BYTE[number]
    out = bytearray()
    while number >= _VARINT_MORE:
        out.append(number & 0x7F | _VARINT_MORE)
        number >>= 7
    out.append(number)
    return bytes(out)
