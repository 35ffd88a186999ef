"""A fleet to look at: a real server and simulated sidecars that accept, reject, never answer, or leave."""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from support import resources as r
from support.server import XdsServer
from support.waiting import wait_until
from support.wire import DeltaClient, Response, StreamEnded

HOSTILE = "<img src=x onerror=alert(1)>\u202egpj.evil\u2066\u200b'\"&\n</script><script>alert(2)</script>"
"""A text that would run a script, reorder the text around it, or end the element that it is in."""


@dataclass
class Sidecar:
    """A node that subscribes to clusters and endpoints.

    While ``rejects`` is not empty it NACKs with that message; while ``is_silent`` it does not answer.
    """

    port: int
    node_id: str
    cluster: str
    rejects: str = ""
    is_silent: bool = False
    locality: dict[str, str] = field(default_factory=dict)
    had: int = 0
    """Number of responses that it got."""
    _client: DeltaClient | None = None
    _task: "asyncio.Task[None] | None" = None

    def start(self) -> Self:
        """Connect."""
        self._task = asyncio.create_task(self._follow())
        return self

    async def _follow(self) -> None:
        made = DeltaClient(self.port, node_id=self.node_id, cluster=self.cluster, locality=self.locality)
        with contextlib.suppress(StreamEnded):
            async with made as self._client:
                await self._client.subscribe(r.CLUSTER)
                while True:
                    response = await self._client.next(timeout_s=600)
                    self.had += 1
                    await self._answer(self._client, response)

    async def _answer(self, client: DeltaClient, response: Response) -> None:
        if self.rejects:
            await client.nack(response, self.rejects)
        elif not self.is_silent:
            await client.ack(response)

    async def stop(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class Scene:
    """A server and its sidecars."""

    def __init__(self, server: XdsServer, token: str = "") -> None:
        self.server = server
        self.sidecars: list[Sidecar] = []
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.api = httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.admin_port}", headers=headers, timeout=30)

    @property
    def origin(self) -> str:
        """The origin of the page."""
        return f"http://127.0.0.1:{self.server.admin_port}"

    async def push(self, group: str, *resources: r.Json, author: str = "ann", message: str = "") -> int:
        """Set resources of a group, and return the revision."""
        body = {"upsert": list(resources), "author": author, "message": message}
        answer = await self.api.post(f"/v1/groups/{group}/changesets", json=body)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["revision"])

    def add(self, names: Iterable[str], cluster: str, **about: Any) -> list[Sidecar]:
        """Connect sidecars with these ids."""
        made = [Sidecar(self.server.port, name, cluster, **about).start() for name in names]
        self.sidecars += made
        return made

    async def wait_served(self) -> None:
        """Wait until each sidecar has been sent something."""
        await wait_until(
            lambda: [each.node_id for each in self.sidecars if not each.had],
            lambda lacking: not lacking,
            timeout_s=60,
        )

    async def wait_accepted(self, revision: int) -> None:
        """Wait until nine of ten connected nodes have accepted a revision."""
        path = f"/v1/revisions/{revision}/convergence?quorum=0.9&rejected_max=1000&wait_s=30"
        answer = (await self.api.get(path)).json()
        assert answer["verdict"] == "reached", answer

    async def close(self) -> None:
        """Disconnect all."""
        await asyncio.gather(*(each.stop() for each in self.sidecars))
        await self.api.aclose()
