"""Runs large work on a thread, so that health checks, pushes and, without worker processes, streams go on."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LARGE_BYTES = 64 * 1024
"""Bytes of a body that are parsed or written in about 10 ms; for less, a thread only adds delay."""


async def run_in_thread(size_bytes: int, work: Callable[[], T]) -> T:
    """Return the result of ``work`` on ``size_bytes`` of data. It must not touch what the event loop changes."""
    return await asyncio.to_thread(work) if size_bytes > LARGE_BYTES else work()
