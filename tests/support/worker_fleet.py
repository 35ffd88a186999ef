"""Many raw delta streams to one server with worker processes, and their distribution over the processes.

Each follower is a faithful client of one type: it ACKs and records all responses, and reconnects with its resources.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from support.fetch import fetch
from support.metrics import metrics_of
from support.waiting import TIMEOUT_S, wait_until
from support.wire import DeltaClient, Response, StreamEnded


class Follower:
    """One node that follows one type, and reconnects whenever its stream ends.

    ``responses`` has a list of responses for each of its streams. ``repeated`` are resources that it was sent although
    it had them; ``ends`` are the statuses of its streams, each with the loop's time.
    """

    def __init__(self, port: int, node_id: str, type_url: str, *, cluster: str = "c1", options: Any = None) -> None:
        self.port = port
        self.node_id = node_id
        self.type_url = type_url
        self.cluster = cluster
        self.options = dict(options or {})
        self.client: DeltaClient | None = None
        self.versions: dict[str, str] = {}
        self.responses: list[list[Response]] = []
        self.repeated: list[tuple[str, str]] = []
        self.ends: list[tuple[float, StreamEnded]] = []
        self.returning = True
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Open the first stream."""
        self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            made = DeltaClient(self.port, node_id=self.node_id, cluster=self.cluster, **self.options)
            self.responses.append([])
            async with made as self.client:
                try:
                    await self.client.subscribe(self.type_url, initial=self.versions)
                    while True:
                        response = await self.client.next(timeout_s=3_600)
                        self._take(response)
                        await self.client.ack(response)
                except StreamEnded as end:
                    self.ends.append((asyncio.get_running_loop().time(), end))
            if not self.returning:
                return

    def _take(self, response: Response) -> None:
        self.responses[-1].append(response)
        for name, received in response.resources.items():
            if self.versions.get(name) == received.version:
                self.repeated.append((name, received.version))
            self.versions[name] = received.version
        for name in response.removed:
            self.versions.pop(name, None)

    @property
    def streams(self) -> int:
        """The number of its streams, including the present one."""
        return len(self.responses)

    @property
    def sent(self) -> list[tuple[str, str]]:
        """The name and version of every resource sent on its last stream, in order."""
        return [
            (name, received.version) for response in self.responses[-1] for name, received in response.resources.items()
        ]

    async def stop(self) -> None:
        """End the stream, for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class Fleet:
    """Followers of one server: ``async with Fleet(port, 40, CLUSTER) as fleet``."""

    def __init__(
        self, port: int, count: int, type_url: str, *, clusters: Sequence[str] = ("c1",), **options: Any
    ) -> None:
        self.followers = [
            Follower(port, f"n{number}", type_url, cluster=clusters[number % len(clusters)], options=options)
            for number in range(count)
        ]

    async def __aenter__(self) -> Self:
        for follower in self.followers:
            follower.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(follower.stop() for follower in self.followers))

    @property
    def streams(self) -> int:
        """The number of streams of all followers, including the present ones."""
        return sum(follower.streams for follower in self.followers)

    async def wait_versions(self, versions: dict[str, str], *, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until all have exactly these resources."""
        await wait_followed(self.followers, versions, timeout_s=timeout_s)

    async def wait_served(self, *, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until each has a resource."""
        await wait_until(
            lambda: [each.node_id for each in self.followers if not each.versions], equals=[], timeout_s=timeout_s
        )


async def wait_followed(
    followers: Iterable[Follower], versions: dict[str, str], *, timeout_s: float = TIMEOUT_S
) -> None:
    """Wait until all followers have exactly these resources."""

    def differing() -> list[tuple[str, int, dict[str, str]]]:
        return [(each.node_id, each.streams, each.versions) for each in followers if each.versions != versions]

    await wait_until(differing, equals=[], timeout_s=timeout_s)


def established(pid: int, port: int) -> int:
    """Return the number of a process's connections at a port, from the kernel."""
    inodes = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(entry)
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "01" and int(fields[1].split(":")[1], 16) == port and fields[9] in inodes:
            found += 1
    return found


def shares(pids: Iterable[int], port: int) -> Counter[int]:
    """Return the number of connections of each worker."""
    return Counter({pid: established(pid, port) for pid in pids})


async def metrics(admin_port: int) -> dict[str, float]:
    """Return a server's own metrics, each summed over its labels."""
    return metrics_of((await fetch(admin_port, "/metrics", timeout_s=10.0)).text)
