"""gRPC over HTTP/2: length-prefixed messages, statuses, timeouts, and which requests are gRPC.

Source: "gRPC over HTTP2" (grpc/grpc, doc/PROTOCOL-HTTP2.md), "PROTOCOL-HTTP2" below.
"""

from functools import lru_cache

from xds.transport.http2 import headers
from xds.transport.http2.frames import END_HEADERS, END_STREAM, HEADERS, data_frames, frame
from xds.transport.http2.headers import RequestHead

PREFIX_BYTES = 5
"""Each message is preceded by a compressed flag and its length in four bytes."""
ACCEPTED = "identity"
TIMEOUT_DIGITS_MAX = 8
TIMEOUT_UNITS_S = {"H": 3_600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
STATUS_TEXT_MAX = 1_024
NOT_GRPC = b"This port speaks gRPC over HTTP/2, and nothing else.\n"

_PLAIN = frozenset(range(0x20, 0x7F)) - {ord("%")}

RESPONSE_BLOCK = headers.encode(
    [(":status", "200"), ("content-type", "application/grpc"), ("grpc-accept-encoding", ACCEPTED)]
)


def prefixed(message: bytes) -> bytes:
    """Return an uncompressed message with its prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


@lru_cache(maxsize=16)
def response_headers(stream_id: int) -> bytes:
    """Return the HEADERS frame that begins a response."""
    return frame(HEADERS, END_HEADERS, stream_id, RESPONSE_BLOCK)


def trailers(stream_id: int, status: int, message: str, *, only: bool) -> bytes:
    """Return the HEADERS frame that ends a response with its status; ``only``: no response headers were sent."""
    block = _status_block(status, message)
    return frame(HEADERS, END_HEADERS | END_STREAM, stream_id, (RESPONSE_BLOCK if only else b"") + block)


@lru_cache(maxsize=32)
def _status_block(status: int, message: str) -> bytes:
    """Return an encoded status: thousands of streams that are shed end alike, and encoding it takes 50 µs."""
    fields = [("grpc-status", str(status))]
    if message:
        fields.append(("grpc-message", percent_encoded(message)))
    return headers.encode(fields)


def percent_encoded(text: str) -> str:
    """Return text as ``grpc-message`` carries it, cut to a length that every client accepts (PROTOCOL-HTTP2)."""
    encoded = [chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in text.encode()]
    while sum(map(len, encoded)) > STATUS_TEXT_MAX:
        del encoded[-max(1, len(encoded) // 8) :]
    return "".join(encoded)


def timeout_s(text: str) -> float | None:
    """Return a ``grpc-timeout`` in seconds, None if it is empty. Raises ValueError if it is malformed."""
    if not text:
        return None
    digits, unit = text[:-1], text[-1]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > TIMEOUT_DIGITS_MAX or unit not in TIMEOUT_UNITS_S:
        raise ValueError(f"grpc-timeout {text[:20]!r} is malformed")
    return int(digits) * TIMEOUT_UNITS_S[unit]


def http_refusal(head: RequestHead) -> int | None:
    """Return the HTTP status for a request that is not gRPC, None for gRPC (PROTOCOL-HTTP2, "Requests")."""
    kind = head.content_type
    if head.method != "POST":
        return 405
    if not (kind == "application/grpc" or kind.startswith(("application/grpc+", "application/grpc;"))):
        return 415
    return None


def http_answer(stream_id: int, status: int) -> tuple[bytes, bytes]:
    """Return the HEADERS frame and the body of the answer to a client that does not speak gRPC."""
    fields = [(":status", str(status)), ("content-type", "text/plain"), ("content-length", str(len(NOT_GRPC)))]
    return frame(HEADERS, END_HEADERS, stream_id, headers.encode(fields)), NOT_GRPC


def framed(stream_id: int, message: bytes) -> bytes:
    """Return a message with its prefix as DATA frames."""
    return data_frames(stream_id, prefixed(message))
