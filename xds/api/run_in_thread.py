"""Large work on a thread: health checks, pushes and, without worker processes, streams go on meanwhile."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LARGE_BYTES = 64 * 1024
"""What is read or written of a body in about 10 ms; a thread would only delay what is smaller."""


async def run_in_thread(size_bytes: int, work: Callable[[], T]) -> T:
    """Return what ``work``, on so many bytes, returns. It must not touch what the event loop changes."""
    return await asyncio.to_thread(work) if size_bytes > LARGE_BYTES else work()
