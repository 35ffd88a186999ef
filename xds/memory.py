"""Memory of a process that serves streams: the garbage collector and the C library's allocator. It knows no streams.

Figures: ARCHITECTURE.md, "Memory".
"""

import contextlib
import ctypes
import gc

YOUNG_MAX = 10_000
COLLECTIONS_MAX = (20, 100)
"""Python's own limits (700, 10, 10) look through everything each time that a quarter more has come: with 16,000 streams
in a process that stops it for 0.2 s. What streams leave behind is nearly all freed by its last reference, and cycles
die young."""

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
