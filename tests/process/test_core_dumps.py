"""A crash leaves no core dump with the secrets of the server or a worker, unless that is wanted."""

import signal
from pathlib import Path

import pytest
from support.server import XdsServer

from xds.config import Settings
from xds.process.core_dumps import forbid_core_dumps


def core_limits(pids: list[int]) -> set[tuple[str, str]]:
    """Return the soft and hard limits of core dumps of processes."""
    found = set()
    for pid in pids:
        (line,) = [each for each in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core file" in each]
        found.add((line.split()[4], line.split()[5]))
    return found


def with_children(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


@pytest.mark.parametrize("are_allowed", [False, True])
async def test_core_dumps_are_written_only_if_they_are_allowed(tmp_path: Path, are_allowed: bool) -> None:
    (mine,) = core_limits([pid_of_this_process()])
    settings = {"core_dumps": are_allowed, "transport.workers": 1, "transport.kind": "native"}
    async with XdsServer(None, settings=settings) as server:
        await server.wait_ready()
        assert server.pid is not None
        pids = with_children(server.pid)
        assert len(pids) >= 2
        (found,) = core_limits(pids)
        if are_allowed:
            assert found == mine
        else:
            assert set(found) <= {"0", "1"}
            server.signal(signal.SIGABRT)
            assert await server.wait_ended() == -signal.SIGABRT
            assert not list(Path.cwd().glob("core*"))


def pid_of_this_process() -> int:
    return int(Path("/proc/self").readlink().name)


@pytest.mark.parametrize("hard", [0, 1, 4096])
@pytest.mark.parametrize("may_raise", [False, True])
def test_a_hard_limit_of_0_is_raised_where_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch, hard: int, may_raise: bool
) -> None:
    """With 0 a program that core dumps are piped to gets them all the same (core(5))."""
    limits = [(0, hard)]

    def set_limits(_: int, wanted: tuple[int, int]) -> None:
        if wanted[1] > limits[-1][1] and not may_raise:
            raise ValueError("not allowed to raise maximum limit")
        limits.append(wanted)

    monkeypatch.setattr("xds.process.core_dumps.resource.getrlimit", lambda _: limits[-1])
    monkeypatch.setattr("xds.process.core_dumps.resource.setrlimit", set_limits)
    forbid_core_dumps()
    assert limits[-1] == ((1, 1) if hard or may_raise else (0, 0))


def test_they_are_not_allowed_by_default() -> None:
    assert not Settings().core_dumps
