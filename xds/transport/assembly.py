"""Room for large requests: how many bytes of messages that have not arrived whole a server keeps at once.

A sidecar that comes back names all it has, which is megabytes, and after a restart all come back at once. Each may send
what its window holds anyway; credit for the rest is given out in order of asking, as room becomes free. It does not
know frames.
"""

from collections import deque
from collections.abc import Callable

from xds.transport.http2.stream import Stream

ASSEMBLY_BYTES_MAX = 64 * 1024 * 1024
STALLED_S = 30
EMPTIED_BYTES_MIN = 1024 * 1024
RESOURCE_EXHAUSTED = 8


class Assembly:
    """The room, who has some of it, and who waits. ``tick`` below is in seconds, on the server's coarse clock.

    ``on_empty`` is called when the last of those who had room has given it back, after ``EMPTIED_BYTES_MIN`` in all:
    some clients send even small messages in two frames.
    """

    __slots__ = ("_bytes_max", "_granted", "_on_empty", "_returned", "_used", "_waiting")

    def __init__(self, *, bytes_max: int = ASSEMBLY_BYTES_MAX, on_empty: Callable[[], None] = lambda: None) -> None:
        self._bytes_max = bytes_max
        self._on_empty = on_empty
        self._used = self._returned = 0
        self._granted: dict[Stream, tuple[int, int]] = {}
        self._waiting: deque[tuple[Stream, int]] = deque()

    def ask(self, stream: Stream, more: int, tick: int) -> None:
        """Give the stream credit for ``more`` bytes, now or when there is room. At least one always has it."""
        stream.granted = True  # asked for once
        self._waiting.append((stream, more))
        self.share_out(tick)

    def release(self, stream: Stream) -> None:
        """Take back the room of a message that has arrived, or never will."""
        size, tick = self._granted.pop(stream, (0, 0))
        if size:
            self._used -= size
            self.share_out(tick)
            self._returned += size
            if not self._used and self._returned >= EMPTIED_BYTES_MIN:
                self._returned = 0
                self._on_empty()

    def share_out(self, tick: int) -> None:
        """Give room to who waits longest, as far as there is some."""
        while self._waiting:
            stream, more = self._waiting[0]
            if self._granted and self._used + more > self._bytes_max:
                return
            self._waiting.popleft()
            if stream.local_closed or not stream.granted:
                continue
            self._used += more
            self._granted[stream] = (more, tick)
            stream.connection.grant(stream, more)

    def expire(self, tick: int) -> None:
        """End the streams that were given room and do not use it."""
        for stream, (_, since) in list(self._granted.items()):
            if tick - since > STALLED_S:
                stream.cut(RESOURCE_EXHAUSTED, f"a message did not arrive within {STALLED_S} s")
        self.share_out(tick)

    @property
    def used(self) -> int:
        """The bytes that are given out."""
        return self._used
