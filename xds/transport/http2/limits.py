"""Limits on what one client may use of a connection."""

from dataclasses import dataclass

from xds.transport.http2 import frames as h2
from xds.transport.http2.headers import HEADER_BLOCK_BYTES_MAX, HEADER_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Http2Limits:
    """Limits of one client's connection. Sizes are in bytes."""

    streams_max: int = 10_000
    message_bytes_max: int = 16 * 1024 * 1024
    stream_window: int = 64 * 1024
    connection_window: int = 1024 * 1024
    header_block_bytes_max: int = HEADER_BLOCK_BYTES_MAX
    chores: int = 2_000
    """Maximum chores at once, twice that on a new connection.

    A chore is a frame that makes work and moves nothing: pings, settings, resets, empty data, priorities. A refused
    request counts as ``CHORES_PER_MALFORMED``. See CVE-2019-9511 to 9518, CVE-2023-44487, CVE-2024-27316.
    """
    chores_per_s: int = 200
    """Maximum chores per second, on average."""
    unread_bytes_max: int = 2 * 1024 * 1024
    """Maximum bytes of answers, other than data, queued for a client that does not read."""

    def hello(self) -> bytes:
        """Return the server's first frames: SETTINGS, and a WINDOW_UPDATE to the connection's larger window."""
        settings = h2.settings_frame(
            [
                (h2.MAX_CONCURRENT_STREAMS, self.streams_max),
                (h2.INITIAL_WINDOW_SIZE, self.stream_window),
                (h2.MAX_HEADER_LIST_SIZE, HEADER_BYTES_MAX),
            ]
        )
        return settings + h2.window_update(0, self.connection_window - h2.WINDOW_DEFAULT)

    def chores_earned(self, over_s: float) -> float:
        """Return how many chores a client earns back in ``over_s`` seconds."""
        return min(self.chores, over_s * self.chores_per_s)
