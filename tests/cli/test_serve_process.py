"""`xds serve` as an operator runs it: a process of its own, with its signals, its log and its exit code."""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from support.fetch import fetch
from support.processes import Child
from support.server import XdsServer
from support.waiting import wait_until

XDS = str(Path(sys.executable).parent / "xds")
ANY = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--api", "127.0.0.1:0"]
CLUSTER = """\
resources:
- '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: web
  type: STATIC
  connect_timeout: 1s
"""


async def test_serve_tells_where_it_serves_and_ends_with_0_at_sigterm(tmp_path: Path) -> None:
    (tmp_path / "clusters.yaml").write_text(CLUSTER)
    async with Child([XDS, "serve", str(tmp_path), *ANY, "--log-format", "json"], name="serve") as child:
        log = await child.wait_log('"serving"')
        serving = next(event for event in map(json.loads, log.splitlines()) if event["event"] == "serving")
        assert serving["resources"] == {"default": {"clusters": 1}}
        admin_port = int(serving["admin"].rpartition(":")[2])
        assert (await fetch(admin_port, "/readyz")).status == 200
        assert (await fetch(admin_port, "/metrics")).status == 200
        assert child.pid is not None
        os.kill(child.pid, signal.SIGTERM)
        assert await child.wait_ended() == 0
        assert all(json.loads(line) for line in child.log().splitlines())


async def test_the_push_api_is_never_not_found_while_it_is_being_loaded() -> None:
    async with XdsServer(None, "--store", "memory:", "--workers", "0") as server:
        answers = []

        async def ask() -> int:
            answer = await server.admin("/v1/groups")
            answers.append((answer.status, answer.headers.get("retry-after")))
            return answer.status

        await wait_until(ask, equals=200, timeout_s=30, poll_s=0.001, ignoring=OSError)  # it does not listen at first
        assert {*answers} <= {(503, "1"), (200, None)}


@pytest.mark.parametrize("workers", ["0", "2"])
async def test_ready_means_that_the_push_api_is_served_too(workers: str) -> None:
    async with XdsServer(None, "--store", "memory:", "--workers", workers) as server:

        async def first_ready() -> tuple[int, int]:
            """Return the status of ``/readyz``, and that of ``/v1`` which was asked for right after it."""
            ready = (await server.admin("/readyz")).status
            api = (await server.admin("/v1/groups")).status
            assert (ready, api) in ((503, 503), (503, 200), (200, 200))
            return ready, api

        await wait_until(first_ready, equals=(200, 200), timeout_s=30, poll_s=0.001, ignoring=OSError)
        with socket.create_connection(("127.0.0.1", server.api_port)):
            pass


async def test_a_taken_admin_port_ends_it_with_1_and_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with Child([XDS, "serve", str(tmp_path), *ANY, "--admin", address], name="serve") as child:
            assert await child.wait_ended() == 1
            assert child.log().splitlines() == [
                f"xds: the admin address {address} is in use by another process; "
                "stop that one or choose another port (0: any free one)"
            ]


async def test_a_directory_that_can_not_be_served_ends_it_with_1_and_every_problem(tmp_path: Path) -> None:
    (tmp_path / "clusters.yaml").write_text(CLUSTER.replace("connect_timeout", "conect_timeout"))
    async with Child([XDS, "serve", str(tmp_path), *ANY], name="serve") as child:
        assert await child.wait_ended() == 1
        assert "clusters.yaml:5: [default] clusters/web conect_timeout: " in child.log()
        assert f"xds: {tmp_path} can't be served: 1 problem, above" in child.log()
        assert "Traceback" not in child.log()
