"""New clients that wait for their first answers. Connections take turns: one with many streams delays no others."""

from xds.protocol.sessions import Stream


class Newcomers:
    """The streams that wait. ``take`` returns one of each connection in turn, of one connection the oldest."""

    __slots__ = ("_by_connection", "_since")

    def __init__(self) -> None:
        self._since: dict[Stream, float] = {}
        self._by_connection: dict[str, dict[Stream, None]] = {}
        """The connection whose turn is next comes first."""

    def __len__(self) -> int:
        return len(self._since)

    def __contains__(self, stream: Stream) -> bool:
        return stream in self._since

    @property
    def since(self) -> float:
        """Since when the stream has waited that waits longest; 0 if none does."""
        return next(iter(self._since.values()), 0.0)

    def add(self, stream: Stream, now: float) -> None:
        """Let a stream wait."""
        self._since[stream] = now
        self._by_connection.setdefault(stream.connection, {})[stream] = None

    def take(self) -> Stream:
        """Return the stream whose turn it is, which waits no more."""
        connection, streams = next(iter(self._by_connection.items()))
        stream = next(iter(streams))
        self.discard(stream)
        if streams:
            self._by_connection[connection] = self._by_connection.pop(connection)
        return stream

    def discard(self, stream: Stream) -> None:
        """Let a stream wait no more, if it does."""
        if self._since.pop(stream, None) is None:
            return
        streams = self._by_connection[stream.connection]
        del streams[stream]
        if not streams:
            del self._by_connection[stream.connection]

    def clear(self) -> None:
        """Let none wait."""
        self._since.clear()
        self._by_connection.clear()
