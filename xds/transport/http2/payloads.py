"""Parses and checks the payloads of frames other than DATA."""

from collections.abc import Iterator

from xds.transport.http2 import frames as h2
from xds.transport.http2.faults import ConnectionFault, StreamFault


def settings_of(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield the (identifier, value) pairs of SETTINGS, each checked (RFC 9113, 6.5.2)."""
    if len(payload) % 6:
        raise ConnectionFault(h2.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
    for at in range(0, len(payload), 6):
        key = int.from_bytes(payload[at : at + 2], "big")
        value = int.from_bytes(payload[at + 2 : at + 6], "big")
        if key == h2.INITIAL_WINDOW_SIZE and value > h2.WINDOW_MAX:
            raise ConnectionFault(h2.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE beyond 2^31-1")
        if key == h2.ENABLE_PUSH and value > 1:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        if key == h2.MAX_FRAME_SIZE and not h2.FRAME_BYTES_MAX <= value < 1 << 24:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of range")
        yield key, value


def unpadded(payload: bytes) -> bytes:
    """Return a payload without its padding."""
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(h2.PROTOCOL_ERROR, "padding exceeds the frame")
    return payload[1 : len(payload) - payload[0]]


def check_priority(stream_id: int, payload: bytes) -> None:
    """Raise a fault if a priority is malformed; a valid one is ignored (RFC 9113, 5.3.2)."""
    if len(payload) != 5:
        raise ConnectionFault(h2.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
    if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream_id:
        raise StreamFault(stream_id, h2.PROTOCOL_ERROR, "a stream that depends on itself")


def number_of(payload: bytes, what: str) -> int:
    """Return the 32-bit number that is a frame's whole payload; ``what`` names the frame in errors."""
    if len(payload) != 4:
        raise ConnectionFault(h2.FRAME_SIZE_ERROR, f"{what} of a wrong size")
    return int.from_bytes(payload, "big")
