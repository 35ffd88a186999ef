"""Bounds the bytes of incomplete request messages that a server buffers at once.

A reconnecting sidecar reports everything it has, which may be megabytes, and after a restart all sidecars reconnect at
once. Each stream may send as much as its window allows; credit for more is granted in order of asking, as room becomes
free. Half of the room is reserved for messages of up to ``SMALL_BYTES_MAX``, and an eighth for those of up to
``LIGHT_BYTES_MAX``, so that large ones do not delay the others. A message has its room until it is handled. A stream
that does not use the room that it was granted, while others wait, no longer holds it: its grant is
set aside. It keeps it, since a sidecar may be busy for seconds with what it was sent. It is ended if more grants than
``ASIDE_FACTOR`` times the room would be set aside, or if its message has not arrived after ``STALLED_S``.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from xds.transport.http2.stream import Http2Stream

ASSEMBLY_BYTES_MAX = 64 * 1024 * 1024
SMALL_BYTES_MAX = 4 * 1024 * 1024
LIGHT_BYTES_MAX = 512 * 1024
STALLED_S = 30
PACE_BYTES_PER_S = 64 * 1024
SLOW_S = 3
"""Seconds in a row below ``PACE_BYTES_PER_S`` after which the grant of a stream is set aside, if others wait."""
ASIDE_FACTOR = 3
EMPTIED_BYTES_MIN = 1024 * 1024
UNAVAILABLE = 14
"""The client may try again: its message was not too large, but came too slowly while others waited."""


@dataclass(slots=True)
class _Grant:
    """The room granted to a stream: since when, the bytes received at the last check, and how long it was slow.

    ``is_aside``: it is set aside.
    """

    size: int
    since: int
    arrived: int
    slow_s: int = 0
    is_aside: bool = False


@dataclass(slots=True)
class _Room:
    """A share of the room: which streams have some of it, and which wait."""

    bytes_max: int
    used: int = 0
    aside: int = 0
    granted: dict[Http2Stream, _Grant] = field(default_factory=dict)
    waiting: deque[tuple[Http2Stream, int]] = field(default_factory=deque)

    def share_out(self, tick: int) -> None:
        """Grant room to the streams that wait longest, as far as it goes. At least one stream always has some."""
        while self.waiting:
            stream, more = self.waiting[0]
            if self.used and self.used + more > self.bytes_max:
                return
            self.waiting.popleft()
            if stream.local_closed or not stream.granted:
                continue
            self.used += more
            self.granted[stream] = _Grant(more, tick, stream.arrived)
            stream.connection.grant(stream, more)

    def expire(self, tick: int) -> None:
        """Set aside the grants of streams that do not use them, or end the streams."""
        for stream, grant in list(self.granted.items()):
            if stream.is_whole:
                continue  # it waits for its turn
            came, grant.arrived = stream.arrived - grant.arrived, stream.arrived
            grant.slow_s = grant.slow_s + 1 if came < PACE_BYTES_PER_S else 0
            slow = bool(self.waiting) and grant.slow_s >= SLOW_S and not grant.is_aside
            if slow and self.aside + grant.size <= ASIDE_FACTOR * self.bytes_max:
                grant.is_aside = True
                self.used -= grant.size
                self.aside += grant.size
                self.share_out(tick)
            elif slow or tick - grant.since > STALLED_S:
                waited_s = grant.slow_s if slow else STALLED_S
                stream.connection.on_limit("assembly")
                stream.cut(UNAVAILABLE, f"a message of which too little arrived within {waited_s} s")
        self.share_out(tick)

    def release(self, stream: Http2Stream) -> int:
        """Release the room of a stream; return its size."""
        grant = self.granted.pop(stream, None)
        if grant is None:
            return 0
        if grant.is_aside:
            self.aside -= grant.size
        else:
            self.used -= grant.size
        self.share_out(grant.since)
        return grant.size


class Assembly:
    """The room for messages. ``tick`` below is in seconds, on the server's coarse clock.

    ``on_empty`` is called when all granted room has been released, if at least ``EMPTIED_BYTES_MIN`` was granted since
    the last call: some clients send even small messages in two frames.
    """

    __slots__ = ("_on_empty", "_returned", "_rooms")

    def __init__(self, *, bytes_max: int = ASSEMBLY_BYTES_MAX, on_empty: Callable[[], None] = lambda: None) -> None:
        self._on_empty = on_empty
        self._returned = 0
        half, eighth = bytes_max // 2, bytes_max // 8
        self._rooms = {LIGHT_BYTES_MAX: _Room(eighth), SMALL_BYTES_MAX: _Room(half), 0: _Room(half - eighth)}
        """By the maximum of a message in it; 0: any."""

    def ask(self, stream: Http2Stream, more: int, tick: int) -> None:
        """Grant the stream credit for ``more`` bytes, now or when there is room."""
        stream.granted = True  # asked for once
        room = next(room for most, room in self._rooms.items() if more <= most or not most)
        room.waiting.append((stream, more))
        room.share_out(tick)

    def release(self, stream: Http2Stream) -> None:
        """Release the room of a message that has arrived, or never will."""
        released = sum([room.release(stream) for room in self._rooms.values()])
        self._returned += released
        if released and not self.used and self._returned >= EMPTIED_BYTES_MIN:
            self._returned = 0
            self._on_empty()

    def expire(self, tick: int) -> None:
        """Set aside the grants of streams that do not use them, or end the streams."""
        for room in self._rooms.values():
            room.expire(tick)

    @property
    def used(self) -> int:
        """The bytes granted at present."""
        return sum(room.used + room.aside for room in self._rooms.values())
