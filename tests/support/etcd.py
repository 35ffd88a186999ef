"""A real etcd, of one member or three, as child processes on loopback."""

import asyncio
import os
import shutil
import time
from types import TracebackType
from typing import Self

import pytest

from support.ports import free_port
from support.processes import Child

READY_S = 20.0


def etcd_binary() -> str:
    """Return etcd's path. Without one the test is skipped; where ``CI`` is set, that is a failure."""
    found = shutil.which("etcd")
    if found is None:
        why = "there is no etcd: install Debian's etcd-server"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return found


class Etcd:
    """A cluster of etcd members: ``async with Etcd(3) as etcd``. A member that is stopped keeps its data."""

    def __init__(self, size: int = 1) -> None:
        binary = etcd_binary()
        self.clients = [free_port() for _ in range(size)]
        peers = [free_port() for _ in range(size)]
        cluster = ",".join(f"m{number}=http://127.0.0.1:{port}" for number, port in enumerate(peers))
        self.members: list[Child] = []
        for number, (client, peer) in enumerate(zip(self.clients, peers, strict=True)):
            child = Child([], name=f"etcd-{number}")
            child.argv = [binary, "--name", f"m{number}", "--data-dir", str(child.directory / "data")]
            child.argv += ["--listen-client-urls", f"http://127.0.0.1:{client}"]
            child.argv += ["--advertise-client-urls", f"http://127.0.0.1:{client}"]
            child.argv += ["--listen-peer-urls", f"http://127.0.0.1:{peer}"]
            child.argv += ["--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"]
            child.argv += ["--initial-cluster", cluster, "--initial-cluster-token", str(peers[0])]
            child.argv += ["--log-level", "warn"]
            self.members.append(child)

    def url(self, prefix: str = "xds") -> str:
        """Return the store's URL."""
        return f"etcd://{','.join(self.endpoints)}/{prefix}"

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where the members serve clients."""
        return tuple(f"127.0.0.1:{port}" for port in self.clients)

    def start(self) -> None:
        """Start every member that does not run."""
        for member in self.members:
            if not member.running:
                member.start()

    async def wait_ready(self) -> None:
        """Wait until a majority answers."""
        from xds.store.errors import UnavailableError
        from xds.store.etcd_client import EtcdClient, EtcdOptions

        deadline = time.monotonic() + READY_S
        while True:
            client = EtcdClient(EtcdOptions(endpoints=self.endpoints))
            try:
                await client.range(b"x")
                return
            except UnavailableError:
                if time.monotonic() > deadline:
                    raise
            finally:
                await client.close()
            await asyncio.sleep(0.05)

    async def leader(self) -> int:
        """Return which member leads, by the first that says so."""
        import json
        import subprocess

        done = await asyncio.to_thread(
            subprocess.run,
            ["etcdctl", "--endpoints", ",".join(self.endpoints), "endpoint", "status", "-w", "json"],
            env={**os.environ, "ETCDCTL_API": "3"},
            capture_output=True,
            check=False,
        )
        for status in json.loads(done.stdout or b"[]"):
            if status["Status"].get("leader") == status["Status"]["header"]["member_id"]:
                return self.endpoints.index(status["Endpoint"].removeprefix("http://"))
        return 0

    async def __aenter__(self) -> Self:
        self.start()
        await self.wait_ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members:
            member.kill()
