"""The child processes of the tests: started, watched, ended."""

import signal
import sys

import pytest
from support.ports import free_port, free_ports, is_free
from support.processes import Child, ChildFailedError, Worker, forget_stopped, started
from support.running import runs
from support.waiting import wait_until


def python(code: str) -> Child:
    return Child([sys.executable, "-c", code], name="py")


async def test_a_child_is_ended_by_its_context_and_its_return_code_kept():
    async with python("import signal; print('up', flush=True); signal.pause()") as child:
        await child.wait_log("up")
        assert child.running
    assert child.process.returncode == -signal.SIGTERM


async def test_a_child_that_ignores_sigterm_is_killed():
    code = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    child = python(code).start()
    await child.wait_log("up")
    assert child.stop(timeout_s=0.1) == -signal.SIGKILL


async def test_a_grandchild_goes_with_its_group():
    code = "import signal, subprocess as s; print('up', s.Popen(['sleep', '60']).pid, flush=True); signal.pause()"
    child = python(code).start()
    grandchild = int((await child.wait_log("up")).split()[1])
    child.kill()
    await wait_until(lambda: runs(grandchild), equals=False)


async def test_what_a_child_did_before_it_ended_counts():
    async with python("print('up')") as child:
        await child.wait_ended()
        assert await child.wait_log("up") == "up\n"


async def test_a_wait_for_what_does_not_happen_says_what_was_seen_last_with_the_log():
    async with python("import signal; print('up', flush=True); signal.pause()") as child:
        await wait_until(lambda: "up" in child.log())
        with pytest.raises(ChildFailedError, match=r"(?s)no fever: not as wanted within 0.05 s; last seen: 36.*\nup"):
            await child.wait_for(
                lambda: child.running and 36, lambda seen: seen > 37, otherwise="no fever", timeout_s=0.05
            )


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
    script.write_text("import signal; signal.pause()")
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
