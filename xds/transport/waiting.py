"""Bounds the bytes of whole messages that a server keeps until it can handle them.

Messages wait while their client's token is verified, and while earlier answers on their stream are made or are unread.
A whole message has no room in the ``Assembly`` any more. When too many bytes wait, the streams for which most wait end,
until half of the room is free: so a client that fills it does not end the others' streams.
"""

from collections.abc import Callable
from typing import Protocol

from xds.protocol.errors import Status

WAITING_BYTES_MAX = 64 * 1024 * 1024
MESSAGE_OVERHEAD_BYTES = 64
"""What an empty message takes."""


class Waiter(Protocol):
    """A stream whose messages wait."""

    def end(self, status: Status, message: str) -> None:
        """Finish the stream with this status. It then forgets its messages."""


class WaitingMessages:
    """The bytes that wait, by stream. ``on_limit`` is called with the label of the limit for each stream that ends."""

    __slots__ = ("_bytes_max", "_held", "_on_limit", "_used")

    def __init__(
        self, bytes_max: int = WAITING_BYTES_MAX, on_limit: Callable[[str], None] = lambda _limit: None
    ) -> None:
        self._bytes_max = bytes_max
        self._on_limit = on_limit
        self._held: dict[Waiter, int] = {}
        self._used = 0

    @property
    def used(self) -> int:
        """The bytes that wait at present."""
        return self._used

    def hold(self, stream: Waiter, message: bytes) -> None:
        """Note that a message of a stream waits. This may end streams, also this one."""
        size = len(message) + MESSAGE_OVERHEAD_BYTES
        self._held[stream] = self._held.get(stream, 0) + size
        self._used += size
        if self._used > self._bytes_max:
            self._make_room()

    def release(self, stream: Waiter, message: bytes) -> None:
        """Note that a message of a stream no longer waits."""
        held = self._held.get(stream)
        if held is None:
            return  # the stream is forgotten
        size = len(message) + MESSAGE_OVERHEAD_BYTES
        self._used -= size
        if held > size:
            self._held[stream] = held - size
        else:
            del self._held[stream]

    def forget(self, stream: Waiter) -> None:
        """Note that no message of a stream waits any more. Does nothing if none does."""
        self._used -= self._held.pop(stream, 0)

    def _make_room(self) -> None:
        for stream in sorted(self._held, key=self._held.__getitem__, reverse=True):
            if 2 * self._used <= self._bytes_max:
                return
            self._on_limit("waiting_bytes")
            self.forget(stream)
            what = "too many bytes of requests wait for earlier answers, or for tokens to be verified"
            stream.end(Status.UNAVAILABLE, f"{what} (transport.waiting_bytes_max); try again later")
