"""The metrics of a server with four workers are the sums of what its clients did and saw, exactly."""

import asyncio
import os
import random
import signal
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from support import resources as r
from support.control_planes import app_of, port_of
from support.fetch import fetch
from support.metrics import buckets_of, metrics_of, samples
from support.waiting import for_a_while, wait_until
from support.wire import DeltaClient, Response

from xds.embed import ControlPlane
from xds.telemetry.histogram import BOUNDS_S

WORKERS, CLIENTS, ROUNDS = 4, 24, 5
GROUPS = ("blue", "red")
TYPES = {r.CLUSTER: "clusters", r.ENDPOINTS: "endpoints", r.RUNTIME: "runtimes"}
WAITS_S = (0.0, 0.03, 0.15, 0.7)
BUCKETS = len(BOUNDS_S) + 1


class Counting:
    """A client that counts what it sends and receives, and measures how long changes take. Some it rejects."""

    def __init__(self, client: DeltaClient, group: str, seed: int) -> None:
        self.client, self.group = client, group
        self.totals: Counter[tuple[str, str, str]] = Counter()
        """By metric, group and type."""
        self.times_s: list[tuple[float, float]] = []
        """From each change until it was accepted, or from the first of several where earlier ones were rejected: the
        least and the most that a right measure can be, however long either process waited for a core."""
        self._owed_since_s: tuple[float, float] | None = None
        self._asked = 0
        self._random = random.Random(seed)

    def _add(self, type_url: str, **counts: int) -> None:
        for name, count in counts.items():
            if count:
                self.totals[f"xds_{name}_total", self.group, TYPES[type_url]] += count

    async def subscribe(self) -> None:
        for type_url, name in ((r.CLUSTER, "*"), (r.ENDPOINTS, "a")):
            self._add(type_url, requests=1)
            await self.client.subscribe(type_url, name)
            await self.accept(await self.receive())

    async def receive(self) -> Response:
        response = await self.client.next(timeout_s=20)
        self._add(response.type_url, responses=1, response_bytes=response.size)
        self._add(response.type_url, resources_sent=len(response.resources), removals_sent=len(response.removed))
        return response

    async def accept(self, response: Response) -> None:
        self._add(response.type_url, requests=1, acks=1)
        await self.client.ack(response)

    async def ask(self) -> None:
        """Ask for a name that there is not, and take the answer: the server has read all that was sent before."""
        self._asked += 1
        self._add(r.RUNTIME, requests=1)
        await self.client.subscribe(r.RUNTIME, f"none-{self._asked}")
        response = await self.receive()
        assert response.type_url == r.RUNTIME
        await self.accept(response)

    async def follow(self, committed_s: tuple[float, float]) -> None:
        """Take a change that was committed between these times: wait for some time, then accept it, or reject it."""
        if self._owed_since_s is None:
            self._owed_since_s = committed_s
        response = await self.receive()
        await for_a_while(self._random.choice(WAITS_S), "clients answer after some time")
        if self._random.random() < 0.2:
            self._add(response.type_url, requests=1, nacks=1)
            await self.client.nack(response, "no")
            return
        accepts_s = time.monotonic()
        await self.accept(response)
        await self.ask()
        earliest_s, latest_s = self._owed_since_s
        self.times_s.append((accepts_s - latest_s, time.monotonic() - earliest_s))
        self._owed_since_s = None


def counted(clients: list[Counting]) -> dict[tuple[str, str, str], int]:
    total: Counter[tuple[str, str, str]] = Counter()
    for client in clients:
        total.update(client.totals)
    return dict(total)


def said(text: str) -> dict[tuple[str, str, str], int]:
    """Return the metrics by group and type that are not 0."""
    found = [(name, labels, int(value)) for name, labels, value in samples(text) if {"group", "type"} <= labels.keys()]
    return {(name, labels["group"], labels["type"]): value for name, labels, value in found if value}


async def test_metrics_of_four_workers_are_the_sums_of_what_clients_counted(serving: Callable[..., Any]) -> None:
    groups = {group: [r.static_cluster("s", 1), r.assignment("a", 8000)] for group in GROUPS}
    async with AsyncExitStack() as stack:
        control_plane = await stack.enter_async_context(serving(groups, workers=WORKERS))
        admin = app_of(control_plane).admin_address
        assert admin is not None

        async def text() -> str:
            return (await fetch(admin.port, "/metrics", timeout_s=10.0)).text

        clients = []
        for number in range(CLIENTS):
            group = GROUPS[number % 2]
            client = DeltaClient(port_of(control_plane), node_id=f"n{number}", cluster=group)
            clients.append(Counting(await stack.enter_async_context(client), group, number))
            await clients[-1].subscribe()
        for number in range(1, ROUNDS + 1):
            before_s = time.monotonic()
            for group in GROUPS:
                control_plane.apply(upsert=[r.assignment("a", 8000 + number)], group=group)
            committed_s = before_s, time.monotonic()
            await asyncio.gather(*(client.follow(committed_s) for client in clients))
        expected = counted(clients)
        assert {name for name, _, _ in expected} >= {"xds_nacks_total", "xds_acks_total", "xds_resources_sent_total"}
        found = await wait_until(text, lambda now: said(now) == expected, timeout_s=20)
        assert_times_agree(found, clients)
        assert metrics_of(found)["xds_nodes"] == CLIENTS
        await a_worker_is_replaced(control_plane, text, expected)


def assert_times_agree(text: str, clients: list[Counting]) -> None:
    """Assert that the histogram of times to accept is that of the clients' own times, each within a bucket."""
    ours = buckets_of(text, "xds_commit_to_accepted_seconds")
    assert len(ours) == BUCKETS
    in_order = [bucket for bucket, count in enumerate(ours) for _ in range(count)]
    least, most = (
        sorted(bounds_s) for bounds_s in zip(*(time_s for each in clients for time_s in each.times_s), strict=True)
    )
    assert len(in_order) == len(least), "each acceptance was measured once"
    for bucket, least_s, most_s in zip(in_order, least, most, strict=True):
        assert bisect_left(BOUNDS_S, least_s) - 1 <= bucket <= bisect_left(BOUNDS_S, most_s) + 1
    sent = buckets_of(text, "xds_commit_to_sent_seconds")
    assert sum(sent) == ROUNDS * CLIENTS
    assert sum(buckets_of(text, "xds_process_commit_to_accepted_seconds")) == len(least)


async def a_worker_is_replaced(
    control_plane: ControlPlane, text: Callable[[], Awaitable[str]], expected: dict[tuple[str, str, str], int]
) -> None:
    """Kill a worker: nothing that was counted is lost, and the replacement is counted."""
    os.kill(app_of(control_plane).worker_pids[0], signal.SIGKILL)
    found = await wait_until(
        text, lambda now: metrics_of(now)["xds_worker_restarts_total"] == 1 and "worker 1" in now, timeout_s=20
    )
    assert said(found) == expected
