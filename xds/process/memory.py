"""Settings of Python's garbage collector and of the C library's allocator for a process that serves streams.

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
"""Thresholds of the garbage collector. With Python's own (700, 10, 10), a full collection runs whenever the number of
objects has grown by a quarter, and takes 0.2 s with 16,000 streams in a process. Nearly all objects of closed streams
are freed by reference counting, and cycles die young."""

GROWTH_BYTES_MIN = 1024 * 1024
LOOKS_MAX = 12
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
TRIM_BYTES = 128 * 1024
MMAP_BYTES = 32 * 1024


def hold_collection() -> None:
    """Disable garbage collection until ``settle_memory``: nothing that is loaded at the start is garbage."""
    gc.disable()


def settle_memory() -> None:
    """Exempt the present objects from garbage collection, and collect later ones rarely."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *COLLECTIONS_MAX)


def return_holes() -> None:
    """Return free pages inside the heap to the system. Works with the GNU C library; elsewhere it does nothing.

    Takes 0.3 to 5 ms, as it visits all free memory.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class HoleWatch:
    """Calls ``give_back`` when the process has grown by 1 MB and a 64th, and with the next ``LOOKS_MAX`` looks.

    What is in use while a process grows is often freed some seconds later, in pieces. Thousands of clients that
    connected and disconnected left 30 MB of them with a server of 1,000 streams; eight that opened streams with long
    names, 3 MB with each worker, of which a call at the peak alone returned nothing.
    """

    def __init__(self, *, every_s: float = 5.0, give_back: Callable[[], None] = return_holes) -> None:
        self._every_s = every_s
        self._give_back = give_back
        self._least_bytes = resident_bytes()
        self._looks_left = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call ``look`` every ``every_s`` seconds, as long as the loop runs."""

        def again() -> None:
            loop.call_later(self._every_s, again)
            self.look()

        loop.call_later(self._every_s, again)

    def look(self) -> None:
        """Call ``give_back`` if the process has grown, or had a short time ago."""
        size = resident_bytes()
        if size - self._least_bytes > max(GROWTH_BYTES_MIN, size // 64):
            self._looks_left = LOOKS_MAX
        elif self._looks_left:
            self._looks_left -= 1
        else:
            self._least_bytes = min(self._least_bytes, size)
            return
        self._give_back()
        self._least_bytes = resident_bytes()


def resident_bytes() -> int:
    """Return the resident memory of the process in bytes, 0 on systems without Linux's ``/proc``."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def return_large_blocks() -> None:
    """Return large blocks to the system when they are freed. Works with the GNU C library; elsewhere it does nothing.

    By default that library stops returning them after it has freed a few. Requests and responses of hundreds of
    kilobytes then leave holes among small objects: 17 KB per stream, instead of 6, after 4,000 streams connected with
    5,000 clusters each.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
