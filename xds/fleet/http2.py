"""The client's HTTP/2 bytes: the opening of a stream, and the decoding of header blocks. Without I/O."""

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
"""Bytes that a server may send before this side acknowledges them by a window update: Envoy's default."""
STREAM_ID = 1
_SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
_POST, _HTTP, _HTTPS = b"\x83", b"\x86", b"\x87"
"""Entries of HPACK's static table (RFC 7541, appendix A)."""


def opening(*, authority: str, sotw: bool, tls: bool, window_bytes: int) -> bytes:
    """Return the bytes before a client's first message: preface, settings, window and the request's headers.

    They are equal on all connections: no header enters the compression table (RFC 7541, 6.2.2).
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
    """Return the headers of a connection's last header block. Raises ValueError.

    All blocks of the connection are needed, as each may refer to earlier ones. They are few, and equal on many
    connections, so no sidecar needs its own decoder.
    """
    decoder = Decoder()
    decoded: dict[str, str] = {}
    try:
        for block in blocks:
            decoded = {str(name): str(value) for name, value in decoder.decode(block)}
    except (HPACKError, UnicodeDecodeError) as error:
        raise ValueError(f"headers that can't be decoded: {error}") from None
    return decoded
