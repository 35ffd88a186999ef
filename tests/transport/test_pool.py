"""Worker processes: each has its place taken again when it ends or hangs, and none outlives its parent."""

import asyncio
import errno
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.loops import on_both_loops
from support.processes import Worker as ChildWithLines
from support.running import children_of, runs
from support.waiting import TIMEOUT_S, for_a_while, stays, turns, wait_until, wait_until_blocking

from xds.process.background import Background
from xds.transport import pool as pool_module
from xds.transport.pool import Pool, PooledProcess, PoolEvents, WorkerFailedError

SUPPORT = Path(__file__).parents[1] / "support"
SERVE, BEAT, HANG = {"do": "serve"}, {"do": "beat"}, {"do": "hang"}


def pool_parent(*arguments: str) -> ChildWithLines:
    """Return a process that has a pool of its own."""
    return ChildWithLines(SUPPORT / "pool_parent.py", *arguments, name="pool-parent")


class Life:
    """A pool with what became of its workers. ``roles`` are what those started next are told to do; the last stays."""

    def __init__(self, roles: Sequence[dict[str, Any]] = (SERVE,), *, count: int = 2, **options: Any) -> None:
        self.roles = list(roles)
        self.started: list[tuple[float, PooledProcess]] = []
        self.ended: list[tuple[float, PooledProcess, int, bool]] = []
        self.heard: list[tuple[int, dict[str, Any]]] = []
        self.problems: list[str] = []
        self.fails_with: Exception | None = None
        """What taking the next start fails with, once."""
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        events = PoolEvents(
            on_start=self._on_start, on_message=self._on_message, on_end=self._on_end, on_problem=self.problems.append
        )
        self.pool = Pool("support.pool_worker", self.sockets, events, **options)

    def _on_start(self, worker: PooledProcess) -> None:
        self.started.append((asyncio.get_running_loop().time(), worker))
        role = self.roles.pop(0) if len(self.roles) > 1 else self.roles[0]
        worker.channel.send(json.dumps(role).encode())
        if self.fails_with is not None:
            error, self.fails_with = self.fails_with, None
            raise error

    def _on_message(self, worker: PooledProcess, message: bytes) -> None:
        said = json.loads(message)
        self.heard.append((worker.pid, said))
        if said["said"] == "ready":
            self.pool.mark_ready(worker)

    def _on_end(self, worker: PooledProcess, code: int, replaced: bool) -> None:
        self.ended.append((asyncio.get_running_loop().time(), worker, code, replaced))

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self.pool.workers]

    @property
    def ready(self) -> bool:
        return len(self.pool.workers) == len(self.sockets) and all(worker.ready for worker in self.pool.workers)

    def said(self, what: str) -> list[dict[str, Any]]:
        return [said for _, said in self.heard if said["said"] == what]


@asynccontextmanager
async def living(*roles: dict[str, Any], **options: Any) -> AsyncIterator[Life]:
    life = Life(roles or (SERVE,), **options)
    try:
        await life.pool.start()
        yield life
    finally:
        await life.pool.stop()
        for one in life.sockets:
            one.close()
        assert not [worker.pid for _, worker in life.started if runs(worker.pid)]


# --- One life --------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_all_serve_before_the_start_is_over_and_all_hear_what_is_sent():
    async with living(count=3) as life:
        assert life.ready
        assert sorted(said["pid"] for said in life.said("ready")) == sorted(life.pids)
        life.pool.send(b'"one"')
        life.pool.send(b'"two"')
        await wait_until(lambda: len(life.said("heard")), equals=6)
        for pid in life.pids:
            assert [said["what"] for each, said in life.heard if each == pid and said["said"] == "heard"] == [
                "one",
                "two",
            ]


async def test_a_worker_is_in_no_group_that_a_terminal_sends_ctrl_c_to():
    async with living() as life:
        for said in life.said("ready"):
            assert said["sid"] == said["pid"] != os.getsid(0)
            assert os.getpgid(said["pid"]) == said["pid"] != os.getpgid(0)


@on_both_loops
async def test_stopping_ends_all_and_replaces_none():
    async with living() as life:
        pids = life.pids
        await life.pool.stop()
        assert not [pid for pid in pids if runs(pid)]
        assert (len(life.started), life.pool.workers) == (2, [])


# --- Replaced --------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_a_killed_worker_is_replaced_in_its_place_and_the_other_is_left_alone():
    async with living() as life:
        victim, other = life.pool.workers
        os.kill(victim.pid, signal.SIGKILL)
        await wait_until(lambda: life.ended and life.ready)
        assert [(worker.pid, code, replaced) for _, worker, code, replaced in life.ended] == [(victim.pid, -9, True)]
        assert sorted(worker.number for worker in life.pool.workers) == sorted([victim.number, other.number])
        assert other in life.pool.workers
        assert len(life.started) == 3


async def test_one_that_ends_by_itself_is_replaced_with_its_exit_code_told():
    async with living(SERVE, {"do": "exit", "code": 7}, SERVE, count=1) as life:
        os.kill(life.pids[0], signal.SIGTERM)
        await wait_until(lambda: (len(life.ended), life.ready), equals=(2, True))
        assert [code for _, _, code, _ in life.ended] == [-15, 7]


async def test_after_a_long_life_it_is_replaced_at_once_and_after_a_short_one_with_a_growing_pause(monkeypatch):
    """Time to spawn is in no pause: a pause is from an end to just before the next begins, at the least."""
    monkeypatch.setattr(pool_module, "RESTART_MIN_S", 0.1)
    crash = {"do": "exit", "code": 1}
    async with living(SERVE, crash, crash, crash, SERVE, count=1) as life:
        os.kill(life.pids[0], signal.SIGKILL)
        await wait_until(lambda: (len(life.ended), life.ready), equals=(4, True))
        ends, begins = [at for at, *_ in life.ended], [at for at, _ in life.started[1:]]
        pauses = [begin - end for end, begin in zip(ends, begins, strict=True)]
        for pause_s, least_s in zip(pauses, (0.1, 0.2, 0.4, 0.8), strict=True):
            assert pause_s >= least_s
        monkeypatch.setattr(pool_module, "LIVED_S", 0.0)
        monkeypatch.setattr(pool_module, "RESTART_MIN_S", 600.0)
        os.kill(life.pids[0], signal.SIGKILL)
        await wait_until(lambda: (len(life.ended), life.ready), equals=(5, True))


async def test_the_pause_has_a_bound(monkeypatch):
    monkeypatch.setattr(pool_module, "RESTART_MIN_S", 0.05)
    monkeypatch.setattr(pool_module, "RESTART_MAX_S", 0.05)
    crash = {"do": "exit", "code": 1}
    async with living(SERVE, *[crash] * 8, SERVE, count=1) as life:
        os.kill(life.pids[0], signal.SIGKILL)
        await wait_until(lambda: (len(life.ended), life.ready), equals=(9, True))


@on_both_loops
async def test_what_a_worker_said_before_it_died_is_heard_before_its_end_is_told():
    async with living({"do": "last-words"}, count=1) as life:
        dying = life.pids[0]
        os.kill(dying, signal.SIGUSR1)
        # It dies while we are busy: its death and its words are there to be noticed at the same time.
        wait_until_blocking(lambda: runs(dying), equals=False)
        await wait_until(lambda: life.ended)
        assert [said["number"] for said in life.said("word")] == list(range(100))


async def test_a_machine_that_can_start_no_process_for_a_while_has_all_workers_again_later(monkeypatch):
    monkeypatch.setattr(pool_module, "RESTART_MIN_S", 0.05)
    async with living(count=2) as life:
        tried = []

        def refused(*_: object, **__: object) -> None:
            tried.append(1)
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

        with monkeypatch.context() as lacking:
            lacking.setattr(pool_module.Process, "start", refused)
            os.kill(life.pids[0], signal.SIGKILL)
            await wait_until(lambda: len(tried), lambda count: count >= 2)
        await wait_until(lambda: life.ready)
        assert len(life.started) == 3
        assert life.problems[0] == "a worker can't be started: [Errno 11] Resource temporarily unavailable"


# --- Hanging ---------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_one_that_hangs_is_killed_and_replaced_and_others_that_speak_are_not():
    async with living(BEAT, silent_s_max=2.0) as life:
        victim, other = life.pool.workers
        os.kill(victim.pid, signal.SIGSTOP)
        await wait_until(lambda: life.ended and life.ready)
        assert [(worker.pid, code) for _, worker, code, _ in life.ended] == [(victim.pid, -9)]
        assert other in life.pool.workers


async def test_one_that_hangs_before_it_ever_serves_is_killed_and_replaced(monkeypatch):
    async with living(BEAT, BEAT, HANG, BEAT) as life:
        monkeypatch.setattr(pool_module, "START_S", 2.0)
        os.kill(life.pids[0], signal.SIGKILL)
        await wait_until(lambda: (len(life.ended), life.ready), equals=(2, True))
        assert [code for _, _, code, _ in life.ended] == [-9, -9]


async def test_one_that_leaves_too_much_untaken_is_killed_and_replaced(monkeypatch):
    monkeypatch.setattr(pool_module, "FEED_BYTES_MAX", 1024 * 1024)
    async with living() as life:
        victim, other = life.pool.workers
        os.kill(victim.pid, signal.SIGSTOP)
        victim.channel.send(json.dumps("x" * 4 * 1024 * 1024).encode())
        await wait_until(lambda: life.ended and life.ready)
        assert [worker.pid for _, worker, _, _ in life.ended] == [victim.pid]
        assert other in life.pool.workers


async def test_a_parent_that_was_itself_held_up_kills_nobody_for_it():
    """A laptop asleep, a debugger, a long computation: what workers said meanwhile was only not heard yet."""
    async with pool_parent("2.0") as parent:
        pids = (await parent.read(timeout_s=TIMEOUT_S))["pids"]
        parent.signal(signal.SIGSTOP)
        await for_a_while(3.0, "workers that are silent for 2 s are killed")
        parent.signal(signal.SIGCONT)
        said = await parent.call("pids", timeout_s=TIMEOUT_S)
        assert said == {"pids": pids}
        assert all(map(runs, pids))


# --- Beginnings that fail, and ends -----------------------------------------------------------------------------------


@on_both_loops
async def test_launched_ones_are_told_nothing_before_the_start():
    life = Life(count=2)
    before = children_of(os.getpid())
    life.pool.launch()
    await wait_until(lambda: len(children_of(os.getpid())), equals=len(before) + 2)
    await stays(lambda: (life.started, life.pool.workers), equals=([], []), for_s=0.1)
    launched = [pid for pid in children_of(os.getpid()) if pid not in before]
    await life.pool.start()
    assert (life.ready, sorted(life.pids)) == (True, sorted(launched))
    await life.pool.stop()
    for one in life.sockets:
        one.close()


async def test_one_that_ends_between_launch_and_start_fails_the_start():
    life = Life(count=2)
    before = children_of(os.getpid())
    life.pool.launch()
    await wait_until(lambda: len(children_of(os.getpid())), equals=len(before) + 2)
    os.kill(next(pid for pid in children_of(os.getpid()) if pid not in before), signal.SIGKILL)
    with pytest.raises(WorkerFailedError, match="a worker ended with -9 before it served"):
        await life.pool.start()
    assert children_of(os.getpid()) == before
    for one in life.sockets:
        one.close()


@on_both_loops
async def test_where_one_fails_to_start_none_is_left(monkeypatch):
    life = Life((SERVE, {"do": "exit", "code": 3}), count=3)
    with pytest.raises(WorkerFailedError, match="a worker ended with 3 before it served"):
        await life.pool.start()
    for one in life.sockets:
        one.close()
    assert not [worker.pid for _, worker in life.started if runs(worker.pid)]
    assert life.pool.workers == []


async def test_where_one_never_serves_none_is_left(monkeypatch):
    monkeypatch.setattr(pool_module, "START_S", 2.0)
    life = Life((SERVE, HANG), count=2)
    with pytest.raises(WorkerFailedError, match="did not begin to serve within 2 s"):
        await life.pool.start()
    for one in life.sockets:
        one.close()
    assert not [worker.pid for _, worker in life.started if runs(worker.pid)]


async def test_where_no_process_can_be_started_the_start_fails_at_once(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    life = Life(count=2)
    async with asyncio.timeout(10):
        with pytest.raises(WorkerFailedError, match=r"can't be started.*/nowhere/python"):
            await life.pool.start()
    for one in life.sockets:
        one.close()


@on_both_loops
async def test_a_process_without_a_channel_does_not_stay(monkeypatch):
    processes = []
    start = pool_module.Process.start

    def started(*given, **named):
        processes.append(start(*given, **named))
        return processes[-1]

    async def failing(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(pool_module.Process, "start", started)
    life = Life(count=1)
    with monkeypatch.context() as lacking:
        lacking.setattr(pool_module.Channel, "attach", failing)
        with pytest.raises(WorkerFailedError, match="Cannot allocate memory"):
            await life.pool.start()
    assert len(processes) == 1
    assert await processes[0].wait() == -signal.SIGKILL
    assert not runs(processes[0].pid)
    for one in life.sockets:
        one.close()


@on_both_loops
async def test_a_start_that_is_given_up_leaves_no_process():
    life = Life((HANG,), count=2)
    starting = asyncio.create_task(life.pool.start())
    await wait_until(lambda: len(life.started), equals=2)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    for one in life.sockets:
        one.close()
    assert not [worker.pid for _, worker in life.started if runs(worker.pid)]


@on_both_loops
async def test_stopping_while_one_is_being_replaced_leaves_no_process():
    """The moment between a process's start and its first message is hit by stopping at many moments."""
    for moment in range(0, 60, 6):
        before = children_of(os.getpid())
        life = Life((SERVE,), count=1)
        await life.pool.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pool_module, "LIVED_S", 0.0)
            os.kill(life.pids[0], signal.SIGKILL)
            await wait_until(lambda: life.ended)  # noqa: B023
            await turns(moment)
            await life.pool.stop()
        for one in life.sockets:
            one.close()
        assert children_of(os.getpid()) == before, moment


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
async def test_no_worker_outlives_its_parent(number):
    async with pool_parent() as parent:
        pids = (await parent.read(timeout_s=TIMEOUT_S))["pids"]
        assert len(pids) == 2
        assert all(map(runs, pids))
        os.kill(parent.pid or 0, number)
        await wait_until(lambda: [pid for pid in pids if runs(pid)], equals=[])


@on_both_loops
async def test_a_place_is_kept_and_workers_are_looked_after_after_a_fault_of_ours(monkeypatch):
    """The worker that nobody would have waited for is replaced too."""
    background = Background()
    async with living(count=2, background=background) as life:
        life.fails_with = ValueError("a bug")
        os.kill(life.pids[0], signal.SIGKILL)
        await wait_until(lambda: (len(life.started), life.ready), equals=(4, True))
        assert sum(background.deaths[f"keep worker {number}"] for number in range(2)) == 1
        _, unlucky = life.started[2]
        assert not runs(unlucky.pid)
        assert "a bug" in background.ailing

        monkeypatch.setattr(pool_module, "LOOK_EVERY_S", "no number")
        await wait_until(lambda: background.deaths["look after the workers"])
        monkeypatch.setattr(pool_module, "LOOK_EVERY_S", 0.01)
        looks = life.pool.workers[0]
        await wait_until(lambda: looks.silent_looks, lambda count: count > 1)
