"""The child processes of the tests: started, watched, ended."""

import os
import signal
import sys

import pytest
from support.ports import free_port, free_ports, is_free
from support.processes import Child, ChildFailedError, Worker, forget_stopped, started


def python(code: str) -> Child:
    return Child([sys.executable, "-c", code], name="py")


async def test_a_child_is_ended_by_its_context_and_its_return_code_kept():
    async with python("import time; print('up', flush=True); time.sleep(60)") as child:
        await child.wait_log("up")
        assert child.running
    assert child.process.returncode == -signal.SIGTERM


async def test_a_child_that_ignores_sigterm_is_killed():
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    child = python(code).start()
    await child.wait_log("up")
    assert child.stop(timeout_s=0.1) == -signal.SIGKILL


async def test_a_grandchild_goes_with_its_group():
    code = (
        "import subprocess, time; p = subprocess.Popen(['sleep', '60']); print('up', p.pid, flush=True); time.sleep(60)"
    )
    child = python(code).start()
    grandchild = int((await child.wait_log("up")).split()[1])
    child.kill()
    await child.wait_for(lambda: not _alive(grandchild), "grandchild lives", 5, may_end=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


async def test_a_child_that_ends_too_early_fails_the_wait_with_its_log():
    async with python("import sys; sys.exit('no such thing')") as child:
        with pytest.raises(ChildFailedError, match=r"(?s)ended with 1.*no such thing"):
            await child.wait_log("up")


async def test_a_worker_that_dies_fails_the_call(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text("import sys; print(sys.stdin.readline().strip().upper(), flush=True)")
    async with Worker(script, name="echo") as worker:
        assert await worker.call("x", n=1) == {"COMMAND": "X", "N": 1}
        with pytest.raises(ChildFailedError, match="ended instead of answering"):
            await worker.call("y")


async def test_a_worker_that_hangs_is_killed_at_the_timeout(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text("import time; time.sleep(60)")
    async with Worker(script, name="hang") as worker:
        with pytest.raises(ChildFailedError, match="did not answer"):
            await worker.call("x", timeout_s=0.2)
        assert not worker.running


async def test_forgotten_children_take_their_files_with_them():
    async with python("print('x')") as child:
        await child.wait_ended()
    assert child in started()
    assert child.directory.exists()
    forget_stopped()
    assert child not in started()
    assert not child.directory.exists()


def test_free_ports_are_free_and_different():
    ports = free_ports(20)
    assert len({*ports, free_port()}) == 21
    assert all(is_free(port) for port in ports)
