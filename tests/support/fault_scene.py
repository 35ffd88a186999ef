"""A server with workers, thousands of streams that misbehave as they are told, and a client that pushes."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from support import resources as r
from support.attack_scene import HERE, NAMES, Scene, assignment
from support.processes import Worker
from support.server import XdsServer
from support.waiting import for_a_while, wait_until
from xds.client import Client

CONNECT_S = 300.0


class FaultScene(Scene):
    """The server, its streams (``crowd``) and the pushes. ``measured`` streams keep the times of their receipts."""

    def __init__(self, server: XdsServer, crowd: Worker, client: Client, *, pushes_per_s: float, measured: int) -> None:
        super().__init__(server, crowd, crowd, client, pushes_per_s=pushes_per_s)
        self.measured = measured

    async def seen(self, **options: Any) -> dict[str, Any]:
        """Return what the crowd has seen since it began to count."""
        found: dict[str, Any] = await self.crowd.call("seen", timeout_s=60.0, **options)
        return found

    async def wait_seen(self, done: Any, *, timeout_s: float, **options: Any) -> dict[str, Any]:
        """Wait until what the crowd has seen meets a condition."""
        found: dict[str, Any] = await wait_until(lambda: self.seen(**options), done, timeout_s=timeout_s, poll_s=0.05)
        return found

    async def cpu_share(self, seconds: float = 0.5) -> float:
        """Return how much of a core the server and its workers use now."""
        before = self.tree.cpu_s()
        await for_a_while(seconds, "the interval over which the CPU time is counted")
        return (self.tree.cpu_s() - before) / seconds

    async def push_once(self) -> int:
        """Push one endpoint change, and return its number."""
        self.number += 1
        await self.client.apply(upsert=[assignment(self.number)])
        return self.number

    async def states(self) -> dict[str, Any]:
        """Return the distinct states of the streams."""
        found: dict[str, Any] = await self.crowd.call("states", timeout_s=60.0)
        return found


@contextlib.asynccontextmanager
async def fault_scene(
    streams: int,
    *options: str,
    settings: Mapping[str, Any] | None = None,
    pushes_per_s: float = 5.0,
    unmeasured: int = 0,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[FaultScene]:
    """Start a server with two workers and ``streams`` streams in a process of their own."""
    server = XdsServer(None, "--workers", "2", *options, settings=settings)
    server.env |= dict(env or {})
    crowd = Worker(HERE / "faulty_streams.py", name="streams")
    async with server, crowd:
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}", patience_s=60.0) as client:
            clusters = [r.cluster(f"c{number}") for number in range(NAMES)]
            await client.apply(upsert=[*clusters, *map(assignment, range(NAMES, 2 * NAMES))])
            await crowd.call(
                "connect", port=server.port, count=streams, names=NAMES, unmeasured=unmeasured, timeout_s=CONNECT_S
            )
            measured = streams - unmeasured
            yield FaultScene(server, crowd, client, pushes_per_s=pushes_per_s, measured=measured)
