"""Which streams to look at when a resource changes: from names to the streams that subscribe to them.

A change costs O(names that changed + streams that want them), never O(streams).
"""

from collections.abc import Iterable, Iterator

from xds.protocol.interest import Interest
from xds.protocol.stream import Stream

IDLE_MAX = 32
IDLE_BYTES_MAX = 2 * 1024 * 1024
"""What the names of idle subscriptions to one type of one group may take."""


class Watchers:
    """The streams by what they subscribe to, with streams of equal subscription under one key.

    A subscription that the last stream left is kept for a while, ``IDLE_MAX`` of them and the names of
    ``IDLE_BYTES_MAX``: streams that connect one after the other all go through the same ones, and to take in thousands
    of names for each stream would cost too much.
    """

    __slots__ = ("_by_name", "_idle", "_idle_bytes", "_open_ended", "_streams")

    def __init__(self) -> None:
        self._streams: dict[Interest, set[Stream]] = {}
        self._idle: dict[Interest, None] = {}
        self._idle_bytes = 0
        self._by_name: dict[str, set[Interest]] = {}
        self._open_ended: set[Interest] = set()

    def add(self, interest: Interest, stream: Stream) -> None:
        """Have the stream found by what it subscribes to."""
        streams = self._streams.get(interest)
        if streams is not None:
            if not streams:
                del self._idle[interest]
                self._idle_bytes -= interest.names_bytes
            streams.add(stream)
            return
        self._streams[interest] = {stream}
        if interest.open_ended:
            self._open_ended.add(interest)
        for name in interest.names:
            self._by_name.setdefault(name, set()).add(interest)

    def discard(self, interest: Interest, stream: Stream) -> None:
        """Forget the stream, and some time after the last of its streams the subscription."""
        streams = self._streams[interest]
        streams.discard(stream)
        if not streams:
            self._idle[interest] = None
            self._idle_bytes += interest.names_bytes
            while len(self._idle) > IDLE_MAX or self._idle_bytes > IDLE_BYTES_MAX:
                self._forget(next(iter(self._idle)))

    def _forget(self, interest: Interest) -> None:
        del self._idle[interest], self._streams[interest]
        self._idle_bytes -= interest.names_bytes
        self._open_ended.discard(interest)
        for name in interest.names:
            interests = self._by_name[name]
            interests.discard(interest)
            if not interests:
                del self._by_name[name]

    def affected(self, names: Iterable[str]) -> Iterator[Stream]:
        """Iterate over the streams that subscribe to any of the names, each once."""
        interests: set[Interest] = set()
        for name in names:
            interests |= self._by_name.get(name, set())
            interests.update(interest for interest in self._open_ended if interest.wants(name))
        for interest in interests:
            yield from self._streams[interest]

    def __bool__(self) -> bool:
        return len(self._streams) > len(self._idle)


class WatchTable:
    """The watchers of every group and type that has any."""

    __slots__ = ("_watchers",)

    def __init__(self) -> None:
        self._watchers: dict[tuple[str, str], Watchers] = {}

    def add(self, group: str, type_url: str, interest: Interest, stream: Stream) -> None:
        """Have the stream found by what it subscribes to of a group's type."""
        watchers = self._watchers.get((group, type_url))
        if watchers is None:
            watchers = self._watchers[group, type_url] = Watchers()
        watchers.add(interest, stream)

    def discard(self, group: str, type_url: str, interest: Interest, stream: Stream) -> None:
        """Forget the stream, and what only it kept."""
        watchers = self._watchers[group, type_url]
        watchers.discard(interest, stream)
        if not watchers:
            del self._watchers[group, type_url]

    def affected(self, group: str, type_url: str, names: Iterable[str]) -> Iterable[Stream]:
        """Return the streams that subscribe to any of the names, each once."""
        watchers = self._watchers.get((group, type_url))
        return watchers.affected(names) if watchers is not None else ()
