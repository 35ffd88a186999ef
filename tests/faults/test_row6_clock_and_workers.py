"""Clocks that jump, servers that end, workers that stop or die: row 6 of docs/reliability.md.

*Clock.* The wall clock of the server and its workers is set forward and back while changes are pushed, by
``tests/support/shifted_clock``. Streams must stay, every change must come, nothing must be sent twice, and the server
must not work more than before.

*SIGTERM.* A server with streams must end with exit code 0, and every stream must be ended in order.

*Workers.* A worker is killed, or stopped, right after a change was pushed, while it sends it. Its streams must be back
at others or at its successor, and nothing that a client has must be sent again.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import resources as r
from support.fault_matrix import FULL, Part, count, part, scaled
from support.fault_scene import FaultScene, fault_scene
from support.running import children_of
from support.waiting import NotMetError, for_a_while, wait_until

CLOCK_DIRECTORY = Path(__file__).parents[1] / "support" / "shifted_clock"
HOUR_S = 3_600
JUMPS = {"1 h forward": HOUR_S, "1 h back": -HOUR_S, "a day back": -24 * HOUR_S, "right again": 0}
STREAMS = count(5_000, 300)
CLOCK_STREAMS = count(1_000, 100)
REPLACED_S = 30.0
"""How long a worker may say nothing before it is replaced."""


@pytest.mark.timeout(600)
async def test_a_wall_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")
    env = {"PYTHONPATH": str(CLOCK_DIRECTORY), "TEST_CLOCK_FILE": str(clock)}
    served = r.write_directory(tmp_path / "served", [r.static_cluster("file", 1)], "files")
    with part(6, "clock", f"{CLOCK_STREAMS:,} streams, the wall clock set while changes are pushed") as found:
        async with fault_scene(CLOCK_STREAMS, str(served), env=env, pushes_per_s=5.0) as on:
            idle = await on.cpu_share(2.0)
            await on.crowd.call("forget_losses")
            lost, logged = 0, []
            for number, (name, shift_s) in enumerate(JUMPS.items(), start=2):
                clock.write_text(str(shift_s))
                window = await on.window(scaled(10.0, 1.5), on.measured)
                lost += window.lost
                r.write_directory(served, [r.static_cluster("file", number)], "files")
                applied = await on.server.wait_event("applied", timeout_s=10.0)
                logged.append(applied[-1]["timestamp"][:13])
                share = await on.cpu_share(2.0)
                found.at_most(f"{name}: CPU of a core more than before", round(share - idle, 2), 0.1, quiet=True)
            await _file_arrived(on, served, len(JUMPS) + 1)
            seen = await on.seen()
            found.equal("pushes that a stream lost", lost, 0)
            found.equal("streams ended", seen["losses"], 0)
            found.equal("resources sent again", seen["again"], 0)
            found.equal("workers replaced", len(on.server.events("a worker ended and is replaced")), 0)
            found.at_least("hours in the log's times (the clock did jump)", len(set(logged)), 3)


async def _file_arrived(on: FaultScene, served: Path, number: int) -> None:
    """Check that the directory is still followed: its last content is what is served."""

    async def port() -> int:
        made = await on.client.get("clusters", "file", group="files")
        endpoint = made["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        return int(endpoint["address"]["socket_address"]["port_value"])

    await wait_until(port, equals=number, timeout_s=10.0)


@pytest.mark.timeout(300)
async def test_sigterm_ends_a_server_with_streams_in_time() -> None:
    with part(6, "sigterm", f"SIGTERM with {STREAMS:,} streams") as found:
        async with fault_scene(STREAMS) as on:
            began = time.monotonic()
            assert on.server.process is not None
            os.kill(on.server.process.pid, signal.SIGTERM)  # as a supervisor does: the process alone, not its group
            code: int | None = None
            with contextlib.suppress(NotMetError):
                await wait_until(lambda: not on.server.running, timeout_s=60.0)
                code = on.server.process.returncode
            found.equal("exit code", code, 0)
            found.at_most("ended after", time.monotonic() - began, 30.0, " s")
            state = await on.wait_seen(lambda told: told["losses"] >= STREAMS, timeout_s=10.0)
            ends = {why for why in state["dropped"] if not why.startswith("trailers")}
            found.equal("streams that were cut off without a status", sorted(ends), [])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["kill", "stop"] if FULL else ["kill"])  # a silent worker is replaced after 30 s
async def test_a_worker_that_dies_or_stops_in_mid_fan_out_costs_a_reconnect(name: str) -> None:
    kill = {"kill": _kill, "stop": _stop}[name]
    verb = {"kill": "killed with -9", "stop": "stopped for good with SIGSTOP"}[name]
    with part(6, f"worker-{name}", f"one of two workers with {STREAMS:,} streams {verb} in mid-fan-out") as found:
        async with fault_scene(STREAMS) as on:
            await on.crowd.call("come_back", wanted=True)
            await on.crowd.call("forget_losses")
            await _lose_a_worker(on, kill, found, replaced_s=0.0 if name == "kill" else REPLACED_S)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


async def _lose_a_worker(on: FaultScene, end: Callable[[int], None], found: Part, *, replaced_s: float) -> None:
    victim = children_of(on.server.pid)[0]
    number = await on.push_once()
    await for_a_while(scaled(0.015, 0.003), "the fan-out has begun")
    end(victim)
    got = (await on.crowd.call("counts", pushes=[number]))["counts"][0]
    found.note(f"{got:,} of {on.measured:,} streams had the change when the worker was lost.")
    await on.wait_seen(lambda told: told["losses"] > 0, timeout_s=replaced_s + 20.0)
    lost = time.monotonic()
    await on.wait_seen(lambda told: told["synced"] == on.measured, timeout_s=60.0)
    found.at_most("its streams are back after", time.monotonic() - lost, 5.0, " s", quiet=True)
    await on.push_once()
    told = await wait_until(on.states, lambda each: len(each["states"]) == 1, timeout_s=60.0, poll_s=0.1)
    seen = await on.seen()
    found.equal("distinct states of the streams at the end", len(told["states"]), 1)
    found.at_least("streams that had to return", seen["losses"], 1)
    found.equal("resources sent again to a client that has them", seen["again"], 0)
    found.equal("workers replaced", len(on.server.events("a worker ended and is replaced")), 1)
