"""Decodes HPACK header blocks into the request fields that gRPC needs.

The first block of a connection is decoded against an empty table, so equal bytes mean equal requests. The sidecars of a
fleet open their one stream with nearly the same bytes, so decoded heads are cached by the block's bytes, without the
``authorization`` field (``credentials.py``). A connection gets its own decoder only with its second block; that decoder
first decodes the first block again.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.struct import NeverIndexedHeaderTuple

from xds.transport.http2.credentials import AUTHORIZATION, take_out_authorization
from xds.transport.http2.faults import ConnectionFault
from xds.transport.http2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, PROTOCOL_ERROR

HEADER_BYTES_MAX = 16 * 1024
"""Maximum decoded size of a request's headers: names, values and 32 bytes per field (RFC 9113, 6.5.2)."""
HEADER_BLOCK_BYTES_MAX = 8 * HEADER_BYTES_MAX
"""Maximum block that is still decoded: one above ``HEADER_BYTES_MAX`` then fails its stream, not the connection.

See RFC 9113, 10.5.1. grpcio ignores the advertised limit: it sends all of its metadata, which can be 100 KB.
"""
FIELD_BYTES = 32
LENGTH_DIGITS_MAX = 18
"""Maximum digits of ``content-length``: Python refuses to parse numbers of thousands of digits."""
SHARED_BLOCK_BYTES_MAX = 2_048
SHARED_BLOCKS = 2_048
"""Maximum size and number of the first blocks whose decoded heads are cached."""

_PSEUDO = {":method", ":scheme", ":path", ":authority"}
_NEEDED = (":method", ":scheme", ":path")
_CONNECTION_SPECIFIC = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
_BAD_NAME = re.compile(r"[^!#$%&'*+\-.^_`|~0-9a-z]")
_BAD_VALUE = re.compile(r"[\0\r\n]|^[ \t]|[ \t]$")


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The headers of a request that matter to gRPC."""

    method: str = ""
    path: str = ""
    content_type: str = ""
    encoding: str = "identity"
    timeout: str = ""
    content_length: int | None = None
    authorization: str = field(default="", repr=False)
    """The credentials as they were sent; two fields are joined by a comma, as gRPC does it."""
    size: int = 0
    """The size of all fields, as ``HEADER_BYTES_MAX`` counts it."""
    malformed: str = ""
    """What violates RFC 9113, 8.2 and 8.3, "" if nothing does."""
    code: int = PROTOCOL_ERROR
    """The error code for a malformed request."""


class HeaderDecoder:
    """Decodes one connection's header blocks. ``read`` must be called with every block, in order of arrival."""

    __slots__ = ("_decoder", "_first")

    def __init__(self) -> None:
        self._first: bytes | None = None
        self._decoder: Decoder | None = None

    def read(self, block: bytes) -> RequestHead:
        """Return a decoded block. Raises ConnectionFault if it is too large or can't be decoded."""
        if self._decoder is None:
            if self._first is None and len(block) <= HEADER_BYTES_MAX:
                shared = _first_head(block)
                if shared is not None:
                    self._first, head = shared
                    return head
            self._decoder = _new_decoder()
            if self._first is not None:
                _decode(self._decoder, self._first)
                self._first = None
        return head_of(_decode(self._decoder, block))


class _SharedHeads:
    """Decoded first blocks by their bytes, the oldest of which make room. None of them has credentials."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, RequestHead]] = {}

    def of(self, block: bytes) -> tuple[bytes, RequestHead]:
        """Return the block, one object for all connections, and its head."""
        found = self._known.get(block)
        if found is None:
            found = block, head_of(_decode(_new_decoder(), block))
            if not found[1].authorization and not found[1].malformed:
                if len(self._known) >= SHARED_BLOCKS:
                    del self._known[next(iter(self._known))]
                self._known[block] = found
        return found


_shared_heads = _SharedHeads()


def _first_head(block: bytes) -> tuple[bytes, RequestHead] | None:
    """Return a first block as it is to be kept, and its head; None if the block is too large to be kept.

    What is kept changes the connection's table as the block did.
    """
    taken = take_out_authorization(block)
    if taken is not None:
        rest, value = taken
        if len(rest) <= SHARED_BLOCK_BYTES_MAX and not _field_problem(AUTHORIZATION, value):
            kept, head = _shared_heads.of(rest)
            size = head.size + len(AUTHORIZATION) + len(value) + FIELD_BYTES
            if not head.malformed and not head.authorization and size <= HEADER_BYTES_MAX:
                return kept, replace(head, authorization=value, size=size)
    return _shared_heads.of(block) if len(block) <= SHARED_BLOCK_BYTES_MAX else None


def _new_decoder() -> Decoder:
    return Decoder(max_header_list_size=HEADER_BLOCK_BYTES_MAX)


def _decode(decoder: Decoder, block: bytes) -> list[tuple[str, str]]:
    try:
        return [(str(name), str(value)) for name, value in decoder.decode(block)]
    except OversizedHeaderListError:
        text = f"headers of more than {HEADER_BLOCK_BYTES_MAX} bytes"
        raise ConnectionFault(ENHANCE_YOUR_CALM, text, "headers") from None
    except (HPACKError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise ConnectionFault(COMPRESSION_ERROR, f"header block can't be decoded: {error}") from None


def head_of(fields: Iterable[tuple[str, str]]) -> RequestHead:
    """Return the request head of decoded fields."""
    pseudo: dict[str, str] = {}
    regular: dict[str, str] = {}
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + FIELD_BYTES
        if size > HEADER_BYTES_MAX:
            return RequestHead(malformed=f"headers of more than {HEADER_BYTES_MAX} bytes", code=ENHANCE_YOUR_CALM)
        if name.startswith(":"):
            if regular or name in pseudo or name not in _PSEUDO:
                return RequestHead(malformed=f"pseudo-header {name!r} is unknown, repeated or too late")
            pseudo[name] = value
            continue
        wrong = _field_problem(name, value)
        if wrong:
            return RequestHead(malformed=wrong)
        if name == AUTHORIZATION and name in regular:
            value = f"{regular.pop(name)},{value}"
        regular.setdefault(name, value)
    length = regular.get("content-length")
    if length is not None and not (length.isascii() and length.isdigit() and len(length) <= LENGTH_DIGITS_MAX):
        return RequestHead(malformed="content-length is not a number")
    return RequestHead(
        method=pseudo.get(":method", ""),
        path=pseudo.get(":path", ""),
        content_type=regular.get("content-type", ""),
        encoding=regular.get("grpc-encoding", "identity"),
        timeout=regular.get("grpc-timeout", ""),
        content_length=int(length) if length is not None else None,
        authorization=regular.get(AUTHORIZATION, ""),
        size=size,
        malformed="" if all(map(pseudo.get, _NEEDED)) else "a pseudo-header is missing",
    )


def _field_problem(name: str, value: str) -> str:
    if not name or _BAD_NAME.search(name):
        return f"field name {name!r} has a character that names can't have"
    if _BAD_VALUE.search(value):
        return f"field {name!r} has a character that values can't have"
    if name in _CONNECTION_SPECIFIC or (name == "te" and value != "trailers"):
        return f"field {name!r} is for HTTP/1.1 only"
    return ""


def trailing_problem(head: RequestHead) -> str:
    """Return what is wrong with trailers, "" if nothing is; they must not have pseudo-headers (RFC 9113, 8.1)."""
    if head.method or head.path:
        return "pseudo-header in trailers"
    return "" if head.malformed in ("", "a pseudo-header is missing") else head.malformed


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """Encode a block that does not change the dynamic table, so that it is valid on any connection at any time."""
    return bytes(Encoder().encode([NeverIndexedHeaderTuple(name, value) for name, value in fields]))
