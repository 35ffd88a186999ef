"""A crash leaves no core dump with the secrets of the server or a worker, unless that is wanted."""

import signal
from pathlib import Path

import pytest
from support.server import XdsServer

from xds.config import Settings


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


def test_they_are_not_allowed_by_default() -> None:
    assert not Settings().core_dumps
