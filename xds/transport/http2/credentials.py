"""Takes the ``authorization`` field out of a connection's first header block, without decoding the others (RFC 7541).

Without it, the blocks of a fleet's streams are equal again, so that their decoded heads are shared; and no cache ever
has a token. Envoy and gRPC's C++ clients send the field so that no table keeps it (6.2.2, 6.2.3). A client that puts it
into the table of its connection (6.2.1) has its block decoded by hpack as a whole.
"""

from functools import cache

from hpack import Encoder

from xds.transport.http2.huffman import HuffmanDecoder

AUTHORIZATION = "authorization"
_STATIC_INDEX = 23
"""Of ``authorization`` in the static table (RFC 7541, appendix A)."""
_INTEGER_BYTES_MAX = 4


@cache
def _names() -> tuple[bytes, bytes]:
    """Return the field's name as a string literal: plain, and in Huffman code."""
    plain = AUTHORIZATION.encode()
    encoded = Encoder().huffman_coder.encode(plain)
    return bytes([len(plain)]) + plain, bytes([0x80 | len(encoded)]) + encoded


@cache
def _huffman() -> HuffmanDecoder:
    return HuffmanDecoder()


def take_out_authorization(block: bytes) -> tuple[bytes, str] | None:
    """Return a first block without its ``authorization`` field, and that field's value.

    None if there is no such field, if it is in the table or there twice, or if anything is unusual: then the block has
    to be decoded as a whole, which also finds what is wrong with it.
    """
    # The two forms by index; then those by name.
    if b"\x1f\x08" not in block and b"\x0f\x08" not in block and not any(name in block for name in _names()):
        return None
    try:
        return _take_out(block)
    except (IndexError, ValueError):
        return None


def _take_out(block: bytes) -> tuple[bytes, str] | None:
    at, found, begun = 0, None, False
    while at < len(block):
        start, first = at, block[at]
        if first & 0x80:
            begun = True
            index, at = _integer(block, at, 0x7F)
            if index == _STATIC_INDEX:
                return None
            continue
        if first & 0xE0 == 0x20:  # a size of the table (6.3), which nothing but another one may precede
            if begun:
                return None
            _, at = _integer(block, at, 0x1F)
            continue
        begun = True
        index, at = _integer(block, at, 0x3F if first & 0x40 else 0x0F)
        named = index == _STATIC_INDEX
        if index == 0:
            name_at = at
            _, at = _span(block, at)
            named = block[name_at:at] in _names()
        value_at, at = _span(block, at)
        if named:
            if first & 0x40 or found is not None:
                return None
            found = (start, value_at, at)
    if found is None:
        return None
    start, value_at, end = found
    length_at = _length_at(block, start)
    value = block[value_at:end]
    if block[length_at] & 0x80:
        value = _huffman().decode(value)
    return block[:start] + block[end:], value.decode("ascii")


def _length_at(block: bytes, start: int) -> int:
    """Return where the length of a literal's value begins."""
    index, at = _integer(block, start, 0x0F)
    return _span(block, at)[1] if index == 0 else at


def _span(block: bytes, at: int) -> tuple[int, int]:
    """Return where a string literal (5.2) begins and ends."""
    length, at = _integer(block, at, 0x7F)
    if at + length > len(block):
        raise ValueError("a string is longer than its block")
    return at, at + length


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Return an integer (5.1), and where it ends."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in range(0, 7 * _INTEGER_BYTES_MAX, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a large integer")
