"""Exchanges whole frames with the HTTP/2 connection, without sockets."""

import hpack
from hyperframe import frame as hf

from support import native_peer as p
from support.native_fuzz import Application, header_block
from support.native_peer import PREFACE, frame, message, request_fields, settings_frame
from xds.transport.http2.limits import Http2Limits

REQUEST = header_block(0)


class Talk:
    """A connection, and its output."""

    def __init__(self, *settings: tuple[int, int], limits: Http2Limits | None = None) -> None:
        self.server = Application(limits or Http2Limits())
        self.encoder = hpack.Encoder()
        self.say(PREFACE, settings_frame(settings))

    def say(self, *frames: bytes) -> list[hf.Frame]:
        """Send frames and return those of the answer."""
        self.server.receive(b"".join(frames))
        return self.heard()

    def heard(self) -> list[hf.Frame]:
        """Return the frames written since the last call."""
        out, found = memoryview(bytes(self.server.out)), []
        self.server.out.clear()
        while out:
            one, length = hf.Frame.parse_frame_header(out[:9])
            one.parse_body(out[9 : 9 + length])
            found.append(one)
            out = out[9 + length :]
        return found

    def open(self, stream_id: int, *, ask_bytes: int | None = None) -> list[hf.Frame]:
        """Open a stream, and request an answer of ``ask_bytes``."""
        return self.say(frame(p.HEADERS, p.END_HEADERS, stream_id, REQUEST), *(asks(stream_id, ask_bytes)))

    def head(self, stream_id: int, *fields: tuple[str, str]) -> bytes:
        """Return the frames of a request's headers with additional fields."""
        block = self.encoder.encode([*request_fields(), *fields], huffman=False)
        first, rest = block[: p.FRAME_BYTES_MAX], block[p.FRAME_BYTES_MAX :]
        if not rest:
            return frame(p.HEADERS, p.END_HEADERS, stream_id, first)
        return frame(p.HEADERS, 0, stream_id, first) + frame(p.CONTINUATION, p.END_HEADERS, stream_id, rest)


def asks(stream_id: int, ask_bytes: int | None) -> list[bytes]:
    return [] if ask_bytes is None else [frame(p.DATA, 0, stream_id, message(ask_bytes.to_bytes(2, "big")))]


def said(frames: list[hf.Frame]) -> list[tuple[str, int, int]]:
    """Return the frames' kinds, streams and sizes."""
    return [(type(one).__name__.removesuffix("Frame"), one.stream_id, one.body_len) for one in frames]


def codes(frames: list[hf.Frame]) -> list[tuple[str, int, int]]:
    """Return the kinds, streams and error codes of RST_STREAM and GOAWAY frames."""
    ends = (hf.RstStreamFrame, hf.GoAwayFrame)
    return [
        (type(one).__name__.removesuffix("Frame"), one.stream_id, one.error_code)
        for one in frames
        if isinstance(one, ends)
    ]
