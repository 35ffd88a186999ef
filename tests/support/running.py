"""Which processes run, and waiting for what they do."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT_S = 30.0


def runs(pid: int) -> bool:
    """Say whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid: int | None) -> list[int]:
    """Return the processes that a process has started and that run."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split() if runs(int(each))]


async def until(done: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> None:
    """Wait until ``done()`` is true. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not done():
            await asyncio.sleep(0.005)
