"""DER that no library writes: certificates and keys of which single items are changed."""

import base64
from collections.abc import Callable

SEQUENCE, SET, INTEGER, OID = 0x30, 0x31, 2, 6
Items = list[tuple[int, bytes]]
"""The tag and the content of each."""


def items(data: bytes) -> Items:
    """Return the items in some bytes."""
    made: Items = []
    at = 0
    while at < len(data):
        size, start = data[at + 1], at + 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[at + 2 : start])
        made.append((data[at], data[start : start + size]))
        at = start + size
    return made


def item(tag: int, content: bytes) -> bytes:
    """Return an item."""
    size = len(content)
    length = bytes([size]) if size < 0x80 else bytes([0x80 + (size.bit_length() + 7) // 8]) + _bytes_of(size)
    return bytes([tag]) + length + content


def joined(parts: Items) -> bytes:
    """Return some items as bytes."""
    return b"".join(item(tag, content) for tag, content in parts)


def number(value: int) -> bytes:
    """Return the content of an integer that is not negative."""
    return value.to_bytes(value.bit_length() // 8 + 1)


def _bytes_of(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8)


def pem(label: str, data: bytes) -> str:
    """Return a block of PEM."""
    return f"-----BEGIN {label}-----\n{base64.encodebytes(data).decode()}-----END {label}-----\n"


def from_pem(text: str) -> bytes:
    """Return what is in the only block of a text."""
    return base64.b64decode("".join(text.strip().splitlines()[1:-1]))


def changed_certificate(text: str, change: Callable[[Items, Items], None]) -> str:
    """Return a certificate in PEM whose items ``change`` has changed: those to be signed, then the outer ones."""
    top = items(items(from_pem(text))[0][1])
    signed = items(top[0][1])
    change(signed, top)
    top[0] = (SEQUENCE, joined(signed))
    return pem("CERTIFICATE", item(SEQUENCE, joined(top)))


def stretched_key(encrypted: str, iterations: int) -> str:
    """Return an encrypted key in PEM that says that its password is stretched so often (PBES2 with PBKDF2)."""
    top = items(items(from_pem(encrypted))[0][1])
    algorithm = items(top[0][1])
    parameters = items(algorithm[1][1])
    derivation = items(parameters[0][1])
    inner = items(derivation[1][1])
    inner[1] = (INTEGER, number(iterations))
    derivation[1] = (SEQUENCE, joined(inner))
    parameters[0] = (SEQUENCE, joined(derivation))
    algorithm[1] = (SEQUENCE, joined(parameters))
    top[0] = (SEQUENCE, joined(algorithm))
    return pem("ENCRYPTED PRIVATE KEY", item(SEQUENCE, joined(top)))
