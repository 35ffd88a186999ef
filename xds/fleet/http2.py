"""The client's side of HTTP/2 as bytes: how a stream is opened, and what a header block says. It does no I/O."""

from collections.abc import Sequence
from functools import lru_cache

from hpack import Decoder
from hpack.exceptions import HPACKError

from xds.transport.http2.frames import (
    ENABLE_PUSH,
    END_HEADERS,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PREFACE,
    WINDOW_DEFAULT,
    frame,
    settings_frame,
    window_update,
)

WINDOW_BYTES = 16 << 20
"""How much a server may send before this side has said that it read it: an Envoy's default."""
STREAM_ID = 1
_SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
_POST, _HTTP, _HTTPS = b"\x83", b"\x86", b"\x87"
"""Entries of HPACK's static table (RFC 7541, appendix A)."""


def opening(*, authority: str, sotw: bool, tls: bool, window_bytes: int) -> bytes:
    """Return what a client sends before its first message: preface, settings, window and the request's headers.

    Nothing in it depends on the connection: no header enters the compression table (RFC 7541, 6.2.2).
    """
    block = _POST + (_HTTPS if tls else _HTTP)
    for name, value in (
        (":path", _SERVICE + ("StreamAggregatedResources" if sotw else "DeltaAggregatedResources")),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "xds-fleet"),
    ):
        block += b"\0" + _string(name) + _string(value)
    settings = settings_frame(((ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, window_bytes)))
    update = window_update(0, window_bytes - WINDOW_DEFAULT) if window_bytes > WINDOW_DEFAULT else b""
    return PREFACE + settings + update + frame(HEADERS, END_HEADERS, STREAM_ID, block)


def _string(value: str) -> bytes:
    encoded = value.encode()
    size = len(encoded)
    if size < 127:
        return bytes((size,)) + encoded
    out, size = bytearray((127,)), size - 127  # RFC 7541, 5.1
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out) + encoded


@lru_cache(maxsize=1_024)
def headers(blocks: Sequence[bytes]) -> dict[str, str]:
    """Return the headers of the last of a connection's header blocks. Raises ValueError.

    All blocks since the connection began are needed, as each may refer to those before. They are few, and equal on
    many connections, so no sidecar has a decoder of its own.
    """
    decoder = Decoder()
    decoded: dict[str, str] = {}
    try:
        for block in blocks:
            decoded = {str(name): str(value) for name, value in decoder.decode(block)}
    except (HPACKError, UnicodeDecodeError) as error:
        raise ValueError(f"headers that can't be decoded: {error}") from None
    return decoded
