"""Memory of a process that serves streams: the garbage collector and the C library's allocator. It knows no streams.

Figures: ARCHITECTURE.md, "Memory".
"""

import asyncio
import contextlib
import ctypes
import gc
import resource
from collections.abc import Callable
from pathlib import Path

YOUNG_MAX = 10_000
COLLECTIONS_MAX = (20, 100)
"""Python's own limits (700, 10, 10) look through everything each time that a quarter more has come: with 16,000 streams
in a process that stops it for 0.2 s. What streams leave behind is nearly all freed by its last reference, and cycles
die young."""

GROWTH_BYTES_MIN = 4 * 1024 * 1024
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
TRIM_BYTES = 128 * 1024
MMAP_BYTES = 32 * 1024


def hold_collection() -> None:
    """Look for no garbage until memory is settled: nothing of what is read at the start is any."""
    gc.disable()


def settle_memory() -> None:
    """Leave alone what is there to stay, and have what comes later looked through seldom."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *COLLECTIONS_MAX)


def return_holes() -> None:
    """Give back to the system what is free between what is not, pages of it. Of the GNU C library, as below.

    It looks through all that is free: 0.3 to 5 ms.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class HoleWatch:
    """Gives holes back once the process has grown since that was done last. It looks rarely.

    Thousands of clients that come and go leave their memory free in pieces: 30 MB of it stayed with a server of 1,000
    streams. A fleet that grows is looked through once for each sixteenth that it grows by.
    """

    def __init__(self, *, every_s: float = 10.0, give_back: Callable[[], None] = return_holes) -> None:
        self._every_s = every_s
        self._give_back = give_back
        self._least_bytes = resident_bytes()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look from now on, for as long as the loop runs."""

        def again() -> None:
            loop.call_later(self._every_s, again)
            self.look()

        loop.call_later(self._every_s, again)

    def look(self) -> None:
        """Give holes back if there may be some."""
        size = resident_bytes()
        if size - self._least_bytes > max(GROWTH_BYTES_MIN, size // 16):
            self._give_back()
            self._least_bytes = resident_bytes()
        else:
            self._least_bytes = min(self._least_bytes, size)


def resident_bytes() -> int:
    """Return how much memory of the process is resident; 0 where the system does not tell (it is Linux's ``/proc``)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def return_large_blocks() -> None:
    """Have large blocks given back to the system when they are freed. Of the GNU C library; elsewhere it does nothing.

    That library stops doing so once it has freed a few, and requests and responses of hundreds of kilobytes then leave
    holes between what is small and stays: 17 KB a stream after 4,000 of them came with 5,000 clusters, instead of 6.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
