"""A real etcd, of one member or three, as child processes on loopback."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import pytest

from support.peer_network import PeerNetwork
from support.ports import free_port
from support.processes import Child
from support.waiting import wait_until
from xds.store.entries import Store
from xds.store.errors import UnavailableError
from xds.store.etcd_client import EtcdClient, EtcdOptions

READY_S = 20.0
ELECTION = ("--pre-vote", "--heartbeat-interval", "50", "--election-timeout", "500")
"""The options that docs/store.md recommends for members in one data centre."""


def etcd_binary() -> str:
    """Return etcd's path. Without one the test is skipped, or fails if ``CI`` is set."""
    found = shutil.which("etcd")
    if found is None:
        why = "there is no etcd: install Debian's etcd-server"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return found


async def wait_answering(options: EtcdOptions) -> None:
    """Wait until etcd, or a majority of its members, answers."""

    async def answers() -> bool:
        client = EtcdClient(options)
        try:
            await client.range(b"x")
            return True
        finally:
            await client.close()

    await wait_until(answers, timeout_s=READY_S, poll_s=0.02, ignoring=UnavailableError)


async def wait_known(store: Store, revision: int) -> None:
    """Wait until a store has seen a revision, which another one may have written."""
    await wait_until(store.kept, lambda kept: kept[1] >= revision, timeout_s=10.0)


class Etcd:
    """A cluster of etcd members: ``async with Etcd(3) as etcd``. A member that is stopped keeps its data.

    The members talk over ``network``, which can cut one off. ``options`` are added to each member's.
    """

    def __init__(self, size: int = 1, *, options: Sequence[str] = ()) -> None:
        self.clients = [free_port() for _ in range(size)]
        self._peers = [free_port() for _ in range(size)]
        self._options = tuple(options)
        self.network = PeerNetwork(self._peers)
        self.members: list[Child] = []
        if size == 1:  # no other member to be cut off from
            self._describe(self._peers)

    def _describe(self, reached: list[int]) -> None:
        binary = etcd_binary()
        cluster = ",".join(f"m{number}=http://127.0.0.1:{port}" for number, port in enumerate(reached))
        for number, (client, peer) in enumerate(zip(self.clients, self._peers, strict=True)):
            child = Child([], name=f"etcd-{number}")
            child.argv = [binary, "--name", f"m{number}", "--data-dir", str(child.directory / "data")]
            child.argv += ["--listen-client-urls", f"http://127.0.0.1:{client}"]
            child.argv += ["--advertise-client-urls", f"http://127.0.0.1:{client}"]
            child.argv += ["--listen-peer-urls", f"http://127.0.0.1:{peer}"]
            child.argv += ["--initial-advertise-peer-urls", f"http://127.0.0.1:{reached[number]}"]
            child.argv += ["--initial-cluster", cluster, "--initial-cluster-token", str(reached[0])]
            child.argv += ["--log-level", "warn", *ELECTION, *self._options]
            self.members.append(child)

    def url(self, prefix: str = "xds") -> str:
        """Return the store's URL."""
        return f"etcd://{','.join(self.endpoints)}/{prefix}"

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The members' client addresses."""
        return tuple(f"127.0.0.1:{port}" for port in self.clients)

    def start(self) -> None:
        """Start every member that does not run."""
        for member in self.members:
            if not member.running:
                member.start()

    async def wait_ready(self) -> None:
        """Wait until a majority answers."""
        await wait_answering(EtcdOptions(endpoints=self.endpoints))

    async def leader(self) -> int:
        """Return the number of the leader, by the first member that reports one."""
        for status in await self._statuses():
            if status["Status"].get("leader") == status["Status"]["header"]["member_id"]:
                return self.endpoints.index(status["Endpoint"].removeprefix("http://"))
        return 0

    async def wait_whole(self) -> None:
        """Wait until every member follows the same leader and has all that any member has now."""
        newest = 0

        def is_whole(told: list[Any]) -> bool:
            nonlocal newest
            statuses = [each["Status"] for each in told]
            if len(statuses) < len(self.members):
                return False
            newest = newest or max(status["raftIndex"] for status in statuses)
            leaders = {status.get("leader", 0) for status in statuses}
            is_even = all(status.get("raftAppliedIndex", 0) >= newest for status in statuses)
            return is_even and len(leaders) == 1 and 0 not in leaders

        await wait_until(self._statuses, is_whole, timeout_s=READY_S, poll_s=0.05)

    async def forget_old_revisions(self) -> None:
        """Compact all that was before now, as ``--auto-compaction-retention`` does in time."""
        revision = max(each["Status"]["header"]["revision"] for each in await self._statuses())
        done = await self._control("compact", str(revision))
        assert done.returncode == 0 or b"has been compacted" in done.stderr, done.stderr

    async def _statuses(self) -> list[Any]:
        done = await self._control("endpoint", "status", "-w", "json")
        statuses: list[Any] = json.loads(done.stdout or b"[]")
        return statuses

    async def _control(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return await asyncio.to_thread(
            subprocess.run,
            ["etcdctl", "--endpoints", ",".join(self.endpoints), *words],
            env={**os.environ, "ETCDCTL_API": "3"},
            capture_output=True,
            check=False,
        )

    async def __aenter__(self) -> Self:
        if not self.members:
            await self.network.__aenter__()
            self._describe(self.network.ports)
        self.start()
        await self.wait_ready()
        if len(self.members) > 1:
            statuses = await wait_until(
                self._statuses, lambda told: len(told) == len(self.members), timeout_s=READY_S, poll_s=0.05
            )
            ids = {each["Endpoint"].removeprefix("http://"): each["Status"]["header"]["member_id"] for each in statuses}
            self.network.know([ids[endpoint] for endpoint in self.endpoints])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members:
            member.kill()
        await self.network.__aexit__(kind, error, trace)
