"""`xds serve --workers 2` with stopped workers: requests to all workers are answered without those."""

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from support import quick_xds
from support import resources as r
from support.fetch import fetch
from support.running import children_of
from support.server import XdsServer
from support.waiting import wait_until
from support.worker_fleet import Fleet, shares

from xds.api.csds import SERVICE
from xds.client import Client, UnavailableError
from xds.schema.pool import load_schema
from xds.serving.workers_state import WorkersState

STREAMS = 24
BOUND_S = 5.0
"""Maximum time of an answer while a worker does not answer; that worker is killed after 30 s."""


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[tuple[XdsServer, Fleet]]:
    """Serve from two workers, each of which has streams."""
    r.write_directory(directory, [r.static_cluster("a", 1)])
    settings = {"transport.kind": "native", "csds": True}
    async with XdsServer(directory, "--workers", "2", settings=settings) as server:
        await server.wait_ready()
        async with Fleet(server.port, STREAMS, r.CLUSTER) as fleet:
            await fleet.wait_served()
            assert min(shares(children_of(server.pid), server.port).values()) > 0
            yield server, fleet


async def nodes_json(server: XdsServer) -> dict[str, Any]:
    answer = await fetch(server.admin_port, "/v1/nodes", timeout_s=BOUND_S)
    assert answer.status == 200, answer.text
    return answer.json()


async def xds(server: XdsServer, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return await asyncio.to_thread(
        subprocess.run,
        [quick_xds.program(), *arguments, "--api", f"127.0.0.1:{server.api_port}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def csds(port: int) -> list[tuple[str, str]]:
    """Return the node id and scope of each CSDS entry, over a connection to a worker that answers."""
    schema = load_schema()
    request = schema.message_class("envoy.service.status.v3.ClientStatusRequest")()
    response_class: Any = schema.message_class("envoy.service.status.v3.ClientStatusResponse")

    async def ask() -> Any:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/FetchClientStatus",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=response_class.FromString,
            )
            return await call(request, timeout=2 * BOUND_S)

    asking = [asyncio.create_task(ask()) for _ in range(24)]
    try:
        done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED, timeout=2 * BOUND_S)
        answer = done.pop().result()
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return [(config.node.id, config.client_scope) for config in answer.config]


async def wait_readyz(server: XdsServer, wanted: tuple[int, str]) -> None:
    async def readyz() -> tuple[int, str]:
        answer = await server.admin("/readyz")
        return answer.status, re.sub(r"pid \d+", "pid N", answer.text)

    await wait_until(readyz, equals=wanted, timeout_s=20, poll_s=0.02)


async def test_whoever_asks_while_a_worker_is_stopped_is_answered_by_the_others_and_told_which_is_missing(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (server, fleet):
        everybody = sorted(follower.node_id for follower in fleet.followers)
        whole = await nodes_json(server)
        assert (sorted(each["id"] for each in whole["nodes"]), whole["missing_workers"]) == (everybody, [])
        assert (await xds(server, "status")).stderr == ""
        victim, other = children_of(server.pid)
        share = shares([other], server.port)[other]
        os.kill(victim, signal.SIGSTOP)
        started = time.monotonic()

        found = await nodes_json(server)
        (worker,) = found["missing_workers"]
        assert re.sub(r"worker [01]", "worker", worker) == f"worker (pid {victim})"
        present = sorted(each["id"] for each in found["nodes"])
        assert len(present) == share
        absent = next(node for node in everybody if node not in present)

        async with Client(f"127.0.0.1:{server.api_port}") as client, asyncio.timeout(BOUND_S):
            told = await client.nodes()
        assert (sorted(each.id for each in told.nodes), told.missing_workers) == (present, (worker,))

        warning = f"xds: {worker} of the server did not answer: its nodes are missing\n"
        shown = await xds(server, "nodes", "-o", "json")
        assert (shown.returncode, json.loads(shown.stderr.splitlines()[0])) == (
            0,
            {"warning": warning.strip().removeprefix("xds: ")},
        )
        told_json = json.loads(shown.stdout)
        assert sorted(each["id"] for each in told_json["nodes"]) == present
        assert told_json["missing_workers"] == [worker]
        assert (await xds(server, "node", present[0])).returncode == 0
        lost = await xds(server, "node", absent)
        assert (lost.returncode, lost.stderr) == (
            5,
            f"{warning}xds: node {absent!r} is on no worker that answers\n",
        )
        explained = await xds(server, "explain", absent, "clusters/none")
        assert explained.returncode == 0, explained.stderr
        assert worker in explained.stdout
        with pytest.raises(UnavailableError) as refusal:
            async with Client(f"127.0.0.1:{server.api_port}") as client:
                await client.inspect(absent)
        assert refusal.value.is_answered
        assert (await fetch(server.admin_port, f"/v1/nodes/{present[0]}", timeout_s=BOUND_S)).status == 200
        refused = await fetch(server.admin_port, f"/v1/nodes/{absent}", timeout_s=BOUND_S)
        assert (refused.status, refused.json()) == (
            503,
            {"error": f"{worker} did not answer, and may have the node {absent!r}"},
        )

        entries = await csds(server.port)
        assert sorted(node for node, _ in entries if node) == present
        assert [scope for node, scope in entries if not node] == [f"{worker} did not answer: its nodes are missing"]

        await wait_readyz(server, (200, f"ready, but {re.sub('pid .*', 'pid N)', worker)} does not answer"))
        figures = await server.metrics()
        assert (figures["xds_workers"], figures["xds_workers_silent"], figures["xds_workers_missing"]) == (1, 1, 0)
        assert time.monotonic() - started < 29, "it was about to be killed: too slow a machine to tell"

        os.kill(victim, signal.SIGCONT)
        await wait_readyz(server, (200, "ready"))
        whole = await nodes_json(server)
        assert (sorted(each["id"] for each in whole["nodes"]), whole["missing_workers"]) == (everybody, [])


async def test_where_no_worker_answers_the_server_is_not_ready_and_says_so_in_time(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _):
        for pid in children_of(server.pid):
            os.kill(pid, signal.SIGSTOP)
        answer = await fetch(server.admin_port, "/v1/nodes", timeout_s=BOUND_S)
        assert (answer.status, answer.json()) == (503, {"error": "a process of this server did not answer in time"})
        async with Client(f"127.0.0.1:{server.api_port}") as client:
            with pytest.raises(UnavailableError, match="a process of this server did not answer in time"):
                await asyncio.wait_for(client.nodes(), BOUND_S)
        both = "worker 0 (pid N), worker 1 (pid N) do not answer"
        await wait_readyz(server, (503, f"no worker serves: {both}"))
        assert (await server.admin("/healthz")).status == 200
        assert (await server.metrics())["xds_workers"] == 0
        for pid in children_of(server.pid):
            os.kill(pid, signal.SIGCONT)
        await wait_readyz(server, (200, "ready"))


async def test_readiness_knows_of_workers_that_are_being_replaced(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, _):
        for pid in children_of(server.pid):
            os.kill(pid, signal.SIGKILL)
        await wait_readyz(server, (503, "no worker serves: 2 of 2 workers are being replaced"))
        await wait_readyz(server, (200, "ready"))


def test_what_is_wrong_with_workers_is_said_in_words() -> None:
    assert (WorkersState().usable, WorkersState().problem) == (True, "")
    assert (WorkersState(2).usable, WorkersState(2).problem) == (True, "")
    state = WorkersState(1, ("worker 1 (pid 7)",), 1)
    assert (state.usable, state.problem) == (
        True,
        "worker 1 (pid 7) does not answer; 1 of 3 workers is being replaced",
    )
    assert not WorkersState(0, ("worker 1 (pid 7)",)).usable
    assert not WorkersState(0, (), 1).usable
