"""``xds top``: what it shows on a terminal, in a pipe and once, of servers that answer and of others."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from cli.conftest import XDS, Run
from support import resources as r
from support.ports import free_port
from support.server import XdsServer
from support.waiting import wait_until_blocking
from support.wire import DeltaClient

from xds.cli.scrape import ProcessReading, Reading, ScrapeError, rates, reading_of
from xds.client import Client

COLUMNS, LINES = 150, 30


@pytest.fixture
async def server() -> AsyncIterator[XdsServer]:
    async with XdsServer(None, "--workers", "2") as server:
        await server.wait_ready()
        yield server


@contextmanager
def on_a_terminal(*arguments: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Run ``xds`` on a terminal of its own; yield the process and the terminal's other end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    os.set_blocking(ours, False)
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    process = subprocess.Popen(
        [XDS, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read(terminal: int) -> str:
    """Return what has been written to the terminal since the last call."""
    found = b""
    try:
        while data := os.read(terminal, 1 << 16):
            found += data
    except (BlockingIOError, OSError):  # nothing more yet, or the program has ended
        pass
    return found.decode()


async def test_a_snapshot_says_what_each_process_does(xds: Run, server: XdsServer) -> None:
    async with (
        Client(f"127.0.0.1:{server.api_port}") as client,
        DeltaClient(server.port, node_id="n1") as one,
        DeltaClient(server.port, node_id="n2") as two,
    ):
        for node in (one, two):
            await node.subscribe(r.CLUSTER)
        await client.apply(upsert=[r.static_cluster("a", 1)])
        running = asyncio.to_thread(xds, "top", "--admin", f"127.0.0.1:{server.admin_port}", "--once", "--every", "3s")
        told = asyncio.create_task(running)
        for node in (one, two):
            await node.take_until(lambda node=node: "a" in node.view.get(r.CLUSTER, {}))
        for port in (2, 3, 4, 5):
            await client.apply(upsert=[r.static_cluster("a", port)])
            await one.take()
            await two.nack(await two.next(), "no")
        done = await told
    assert done.returncode == 0, done.stderr
    head = next(line for line in done.stdout.splitlines() if f"127.0.0.1:{server.admin_port}" in line)
    assert re.search(r"│ 1/0/1/0 │|│ +1/0/1/0 +│", head), done.stdout
    assert re.search(r"│ +2 +│", head)
    assert all(name in done.stdout for name in ("parent", "worker 0", "worker 1", "MiB", "p99"))
    assert " ms " in done.stdout


async def test_a_terminal_shows_a_screen_that_goes_on_until_ctrl_c(server: XdsServer) -> None:
    def look() -> None:
        with on_a_terminal("top", "--admin", f"127.0.0.1:{server.admin_port}", "--every", "0.2s") as (
            process,
            terminal,
        ):
            said: list[str] = []

            def screens() -> int:
                said.append(read(terminal))
                return "".join(said).count("xds top  ")

            wait_until_blocking(screens, lambda count: count >= 3, timeout_s=30)
            assert "\x1b[?1049h" in "".join(said), "the alternate screen"
            assert "worker 1" in "".join(said)
            process.send_signal(signal.SIGINT)
            wait_until_blocking(lambda: (said.append(read(terminal)), process.poll())[1], equals=0, timeout_s=30)
            said.append(read(terminal))
            assert "\x1b[?1049l" in "".join(said), "the terminal is as it was"

    await asyncio.to_thread(look)


async def test_a_silent_replica_is_named_and_the_others_are_shown(xds: Run, server: XdsServer) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    both = ("--admin", nobody, "--admin", f"127.0.0.1:{server.admin_port}")
    done = await asyncio.to_thread(xds, "top", *both, "--once", "--every", "0.2s")
    assert done.returncode == 0
    assert f"{nobody} does not answer: " in " ".join(done.stdout.split())
    assert "worker 1" in done.stdout
    for column in ("p50", "p99", "NACKs", "CPU", "memory", "lag p99"):
        assert column in done.stdout, "the reason takes no room of the columns"


async def test_the_push_api_is_no_admin_port(xds: Run, server: XdsServer) -> None:
    done = await asyncio.to_thread(xds, "top", "--admin", f"127.0.0.1:{server.api_port}", "--once", "--every", "0.2s")
    assert (done.returncode, "give the address of its admin port" in done.stderr) == (5, True)


def test_no_server_at_all_is_an_error(xds: Run) -> None:
    done = xds("top", "--admin", f"127.0.0.1:{free_port()}", "--once")
    assert done.returncode == 5
    assert "does not answer" in done.stderr


@pytest.mark.parametrize("admin", ["ftp://x:1", "http://"])
def test_an_address_that_is_none_is_refused(xds: Run, admin: str) -> None:
    done = xds("top", "--admin", admin, "--once")
    assert done.returncode == 2
    assert "not the address of an admin port" in " ".join(done.stderr.replace("│", " ").split())


def test_metrics_of_something_else_are_refused() -> None:
    with pytest.raises(ScrapeError, match="no metrics of an xds server"):
        reading_of("# TYPE a counter\na_total 1\n", 0.0)


def test_a_process_that_was_replaced_began_at_nothing() -> None:
    before, now = Reading(10.0, version="1"), Reading(12.0, version="1", revision=4)
    before.processes["worker 1"] = ProcessReading(responses=100, nacks=3, cpu_s=9.0)
    now.processes["worker 1"] = ProcessReading(responses=8, nacks=1, cpu_s=0.5)
    found = rates(before, now).processes[0]
    assert (found.responses_per_s, found.nacks, found.cpu) == (4.0, 1, 0.25)
    assert rates(before, now).changes_per_s == 2.0
