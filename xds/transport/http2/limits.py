"""What one client may take of a connection. It does not know how that is counted."""

from dataclasses import dataclass

from xds.transport.http2 import frames as h2
from xds.transport.http2.headers import HEADER_BLOCK_BYTES_MAX, HEADER_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Http2Limits:
    """What one client may take. Sizes in bytes.

    ``chores`` bounds the frames that make work and move nothing (pings, settings, resets, empty data, priorities), and
    requests that are refused, each of which counts for several (``CHORES_PER_MALFORMED``): so many at once (twice on a
    new connection), and ``chores_per_s`` on the average (CVE-2019-9511 to 9518, CVE-2023-44487, CVE-2024-27316).
    ``unread_bytes_max`` bounds the answers that wait for a client that does not read, data aside.
    """

    streams_max: int = 10_000
    message_bytes_max: int = 16 * 1024 * 1024
    stream_window: int = 64 * 1024
    connection_window: int = 1024 * 1024
    header_block_bytes_max: int = HEADER_BLOCK_BYTES_MAX
    chores: int = 2_000
    chores_per_s: int = 200
    unread_bytes_max: int = 2 * 1024 * 1024

    def hello(self) -> bytes:
        """Return what a server says first: its SETTINGS, and the connection's larger window."""
        settings = h2.settings_frame(
            [
                (h2.MAX_CONCURRENT_STREAMS, self.streams_max),
                (h2.INITIAL_WINDOW_SIZE, self.stream_window),
                (h2.MAX_HEADER_LIST_SIZE, HEADER_BYTES_MAX),
            ]
        )
        return settings + h2.window_update(0, self.connection_window - h2.WINDOW_DEFAULT)

    def chores_earned(self, over_s: float) -> int:
        """Return how many more chores a client may make after so many seconds."""
        return min(self.chores, int(over_s * self.chores_per_s))
