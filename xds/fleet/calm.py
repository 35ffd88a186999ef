"""Waits until a server has finished its remaining work, such as reading the last ACKs."""

import asyncio
import time

from xds.fleet.processes import ProcessTree

INTERVAL_S = 0.05
SHARE = 0.1
TIMEOUT_S = 3.0


async def wait_calm(server: ProcessTree | None) -> None:
    """Wait until the server, if there is one, uses less than a tenth of a core; at most ``TIMEOUT_S``."""
    if server is None:
        return
    deadline_s = time.monotonic() + TIMEOUT_S
    before_s = server.cpu_s()
    while time.monotonic() < deadline_s:
        await asyncio.sleep(INTERVAL_S)
        now_s = server.cpu_s()
        if now_s - before_s < SHARE * INTERVAL_S:
            return
        before_s = now_s
