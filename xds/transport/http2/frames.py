"""HTTP/2 frames as bytes, and the constants of RFC 9113."""

from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
FRAME_BYTES_MAX = 16_384
"""The largest payload of a frame, both ways: the default, which every peer must accept (RFC 9113, 6.5.2)."""
WINDOW_DEFAULT = 65_535
TABLE_DEFAULT = 4_096
GOAWAY_TEXT_MAX = 256
WINDOW_MAX = 2**31 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR = range(
    7
)
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(7, 12)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    head = (len(payload) << 40 | kind << 32 | flags << 24).to_bytes(8, "big")[:5]
    return head + stream_id.to_bytes(4, "big") + payload


def settings_frame(settings: Iterable[tuple[int, int]]) -> bytes:
    """Return a SETTINGS frame of (identifier, value) pairs."""
    return frame(SETTINGS, 0, 0, b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in settings))


def window_update(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def reset_frame(stream_id: int, code: int) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def goaway_frame(last_stream_id: int, code: int, text: str = "") -> bytes:
    """Return a GOAWAY frame; ``text`` is debug data, and may quote the peer."""
    return frame(
        GOAWAY, 0, 0, last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big") + text.encode()[:GOAWAY_TEXT_MAX]
    )


def without_table(headers: bytes) -> bytes:
    """Return a HEADERS frame with a dynamic table size update to 0 before its block (RFC 7541, 6.3)."""
    return frame(HEADERS, headers[4], int.from_bytes(headers[5:9], "big"), b"\x20" + headers[HEADER_BYTES:])


def data_frames(stream_id: int, data: bytes) -> bytes:
    """Return data as DATA frames of at most ``FRAME_BYTES_MAX`` each."""
    if len(data) <= FRAME_BYTES_MAX:
        return frame(DATA, 0, stream_id, data)
    pieces = (data[at : at + FRAME_BYTES_MAX] for at in range(0, len(data), FRAME_BYTES_MAX))
    return b"".join(frame(DATA, 0, stream_id, piece) for piece in pieces)
