"""What all streams of a process have in common: how they begin, and which chunks are messages. It does no I/O."""

from xds.fleet.content import BoundedCache, Message, Parser
from xds.transport.http2.frames import FRAME_BYTES_MAX, HEADER_BYTES

_CHUNK_BYTES_MAX = FRAME_BYTES_MAX + HEADER_BYTES


class SharedByStreams:
    """What all streams of a process share; ``bytes_received`` counts those of all.

    ``latest`` is the chunk that a stream received last, if it was one message: in a push the next stream is mostly sent
    the same, and comparing 500 bytes takes a tenth of hashing them.
    """

    __slots__ = ("bytes_received", "chunks", "latest", "latest_message", "opening", "parser", "room_bytes")

    def __init__(self, *, opening: bytes, window_bytes: int, parser: Parser) -> None:
        self.opening, self.parser = opening, parser
        self.room_bytes = window_bytes >> 1  # so much is read before the server is told
        self.chunks = BoundedCache()
        self.bytes_received = 0
        self.latest = b""
        self.latest_message: Message | None = None

    def known(self, data: bytes) -> Message | None:
        """Return the one message that a chunk is, if some stream received an equal chunk before."""
        if data != self.latest:
            self.latest_message = self.chunks.get(data) if len(data) <= _CHUNK_BYTES_MAX else None
            self.latest = data
        return self.latest_message

    def keep(self, data: bytes, message: Message) -> None:
        """Remember the one message that a chunk is."""
        if len(data) <= _CHUNK_BYTES_MAX:
            self.chunks.keep(data, message, len(data))
            self.latest, self.latest_message = data, message
