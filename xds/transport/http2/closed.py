"""Closed streams of a connection, for which frames may still arrive."""

from enum import IntEnum

from xds.transport.http2.stream import Http2Stream

REMEMBERED = 32
"""Maximum closed streams that are remembered per connection."""


class Fate(IntEnum):
    """How a stream ended (RFC 9113, 5.1)."""

    OVER = 1
    """The peer ended it, or knows that it is closed: any further frame is an error."""
    RESET = 2
    """We reset it, which the peer may not know yet: further frames are ignored."""


class ClosedStreams:
    """The streams closed last, and those that are answered while the peer has not ended its half."""

    __slots__ = ("_answered", "_fates")

    def __init__(self) -> None:
        self._answered: dict[int, Http2Stream] | None = None
        self._fates: dict[int, Fate] | None = None

    def add(self, stream_id: int, fate: Fate) -> None:
        """Remember how a stream ended."""
        if self._answered:
            self._answered.pop(stream_id, None)
        if self._fates is None:
            self._fates = {}
        self._fates[stream_id] = fate
        if len(self._fates) > REMEMBERED:
            del self._fates[next(iter(self._fates))]

    def fate(self, stream_id: int) -> Fate | None:
        """Return how a stream ended, or None if it is open or no longer remembered."""
        return None if self._fates is None else self._fates.get(stream_id)

    def add_answered(self, stream: Http2Stream) -> None:
        """Remember a stream whose response is complete and whose request is not."""
        if self._answered is None:
            self._answered = {}
        self._answered[stream.id] = stream
        if len(self._answered) > REMEMBERED:
            self.add(next(iter(self._answered)), Fate.RESET)

    def answered(self, stream_id: int) -> Http2Stream | None:
        """Return the stream if its response is complete and its request is not, or None."""
        return None if self._answered is None else self._answered.get(stream_id)

    def forget(self) -> None:
        """Drop all of them, as the connection is closed."""
        self._answered = self._fates = None
