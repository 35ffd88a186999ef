"""The garbage collector of a process that serves streams. It does not know what they are."""

import gc

YOUNG_MAX = 10_000
COLLECTIONS_MAX = (20, 100)
"""Python's own limits (700, 10, 10) look through everything each time that a quarter more has come: with 16,000 streams
in a process that stops it for 0.2 s, and while they connect costs 60 us for each. What streams leave behind is nearly
all freed by its last reference, and cycles die young. Figures: ARCHITECTURE.md, "Memory"."""


def settle_memory() -> None:
    """Leave alone what is there to stay, and have what comes later looked through seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *COLLECTIONS_MAX)
