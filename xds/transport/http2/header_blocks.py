"""Assembles header blocks from HEADERS and CONTINUATION frames."""

from xds.transport.http2 import frames as h2
from xds.transport.http2.faults import ConnectionFault, StreamFault
from xds.transport.http2.headers import HeaderDecoder, RequestHead
from xds.transport.http2.payloads import check_priority, unpadded


class HeaderBlocks:
    """A connection's header decoder and its incomplete block. ``open_on``: the block's stream, 0 if there is none."""

    __slots__ = ("_bytes_max", "_data", "_decoder", "_ends", "open_on")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._decoder: HeaderDecoder | None = None
        self._data = b""
        self._ends = False
        self.open_on = 0

    def begin(self, flags: int, stream_id: int, payload: bytes) -> bool:
        """Add a HEADERS frame; return whether the block is complete."""
        if stream_id % 2 == 0:
            raise ConnectionFault(h2.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}, which is not a client's")
        if flags & h2.PADDED:
            payload = unpadded(payload)
        if flags & h2.PRIORITIZED:
            try:
                check_priority(stream_id, payload[:5])
            except StreamFault as fault:  # the block is not decoded, so later ones can't be either
                raise ConnectionFault(fault.code, "HEADERS that depend on their own stream") from None
            payload = payload[5:]
        self._data, self._ends = payload, bool(flags & h2.END_STREAM)
        return self._is_complete(flags, stream_id)

    def go_on(self, flags: int, payload: bytes) -> bool:
        """Add a CONTINUATION frame; return whether the block is complete."""
        if not self.open_on:
            raise ConnectionFault(h2.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._data += payload
        return self._is_complete(flags, self.open_on)

    def _is_complete(self, flags: int, stream_id: int) -> bool:
        if len(self._data) > self._bytes_max:
            text = f"a header block of more than {self._bytes_max} bytes"
            raise ConnectionFault(h2.ENHANCE_YOUR_CALM, text, "headers")
        self.open_on = 0 if flags & h2.END_HEADERS else stream_id
        return not self.open_on

    @property
    def size(self) -> int:
        """The bytes of the block so far."""
        return len(self._data)

    def finish(self) -> tuple[RequestHead, bool]:
        """Return the decoded block, and whether its frame ends the stream."""
        if self._decoder is None:
            self._decoder = HeaderDecoder()
        data, self._data = self._data, b""
        return self._decoder.read(data), self._ends
