"""Text in PEM, read as BoringSSL reads it, and the outer form of what is in it. All of it in one pass."""

import base64
import binascii
from collections.abc import Iterator
from typing import NamedTuple

CERTIFICATES = ("CERTIFICATE", "X509 CERTIFICATE")
TRUSTED = "TRUSTED CERTIFICATE"
"""OpenSSL's own form of a certificate."""
ENCRYPTED = "ENCRYPTED PRIVATE KEY"
KEYS = ("PRIVATE KEY", ENCRYPTED, "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY")
"""The labels of private keys that BoringSSL reads. It passes over others, such as those of OpenSSH."""
STRETCHED_MAX = 400_000
"""Iterations in all the encrypted keys of one change, some 0.3 s: the keys beyond are left to Envoy."""
ITERATIONS_MAX = 100_000
"""Passwords that are stretched further are left to Envoy: it may take minutes."""
SCRYPT_COST_MAX = 1 << 18
ENCRYPTED_BYTES_MAX = 3_000
"""Encrypted keys that are larger are left to Envoy: what is inside may take seconds to compute."""
_BEGIN, _END, _DASHES = "-----BEGIN ", "\n-----END ", "-----"
_BLANK = "".join(map(chr, range(33)))
_SEQUENCE, _INTEGER, _OID = 0x30, 2, 6
_DEPTH_MAX = 8
_SCRYPT = bytes.fromhex("2b06010401da47040b")
_COMPUTED = tuple(
    bytes.fromhex(each) for each in ("06072a8648ce380401", "06092a864886f70d010301", "06072a8648ce3e0201")
)
"""The algorithms (DSA, and two forms of DH) of keys whose public part has to be computed, at any size."""


class Block(NamedTuple):
    """A block: its label, the text between its lines, and all of it."""

    label: str
    body: str
    text: str


def read_pem(text: str) -> tuple[list[Block], bool]:
    """Return the blocks of a text, and whether they all end as they begin. None is read after one that does not."""
    blocks: list[Block] = []
    at = 0
    while True:
        start = 0 if at == 0 and text.startswith(_BEGIN) else text.find("\n" + _BEGIN, at) + 1
        if start == 0 and (at or not text.startswith(_BEGIN)):
            return blocks, True
        line_end = text.find("\n", start)
        line = (text[start:] if line_end < 0 else text[start:line_end]).rstrip(_BLANK)
        if line_end < 0:
            return blocks, not line.endswith(_DASHES)
        if not line.endswith(_DASHES):
            at = line_end
            continue
        label = line[len(_BEGIN) : -len(_DASHES)]
        end = text.find(_END, line_end)
        after = -1 if end < 0 else text.find("\n", end + 1)
        after = len(text) if after < 0 else after
        if end < 0 or text[end:after].rstrip(_BLANK) != f"{_END}{label}{_DASHES}":
            return blocks, False
        blocks.append(Block(label, text[line_end + 1 : end], text[start:after]))
        at = after


def decoded(body: str) -> bytes | None:
    """Return what the body of a block encodes, None if it is not base64."""
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def is_whole(der: bytes | None, *, may_have_more: bool = False) -> bool:
    """Return whether bytes are one DER sequence of the length that it states, and nothing else unless that may be."""
    if der is None or len(der) < 2 or der[0] != _SEQUENCE:
        return False
    end = _content(der, 0)[1]
    return end <= len(der) if may_have_more else end == len(der)


def _content(der: bytes, at: int) -> tuple[int, int]:
    """Return where the content of the item at a place begins and ends."""
    size, start = der[at + 1], at + 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[at + 2 : start], "big")
    return start, start + size


def _items(der: bytes, depth: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the content of each item in some bytes, and in the sequences of them."""
    at = 0
    while at + 2 <= len(der):
        start, end = _content(der, at)
        content = der[start:end]
        yield der[at], content
        if der[at] == _SEQUENCE and depth < _DEPTH_MAX:
            yield from _items(content, depth + 1)
        at = max(end, at + 2)


def takes_long(label: str, der: bytes) -> bool:
    """Return whether to read a private key may take longer than an instant, which its outer form says."""
    return iterations_of(label, der) is None


def iterations_of(label: str, der: bytes) -> int | None:
    """Return how often the password of a private key is hashed, or the cost of scrypt; None if it may take long."""
    if label != ENCRYPTED:
        is_computed = label == "DSA PRIVATE KEY" or any(each in der[:_HEAD_BYTES] for each in _COMPUTED)
        return None if is_computed else 0
    if len(der) > ENCRYPTED_BYTES_MAX:
        return None
    start, end = _content(der, 0)
    algorithm = der[start:end][: _content(der, start)[1] - start] if start < len(der) - 1 else b""
    numbers = [1]
    is_scrypt = False
    for tag, content in _items(algorithm):
        is_scrypt = is_scrypt or (tag == _OID and content == _SCRYPT)
        if tag == _INTEGER:
            numbers.append(int.from_bytes(content, "big"))
    if not is_scrypt:
        return max(numbers) if max(numbers) <= ITERATIONS_MAX else None
    cost = 1
    for number in numbers:
        cost *= min(max(number, 1), SCRYPT_COST_MAX + 1)
    return cost if cost <= SCRYPT_COST_MAX else None


_HEAD_BYTES = 40
"""The algorithm of a key that is not encrypted stands within so many bytes."""
