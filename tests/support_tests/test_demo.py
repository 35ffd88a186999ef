"""``make demo``, as a user runs it: the real command, real Envoys, and nothing left over however it ends."""

import os
import random
import signal
import sys
import uuid
from pathlib import Path

import pytest
from support.processes import Child
from support.waiting import for_a_while

DEMO = Path(__file__).parents[2] / "snapshots" / "demo.py"
MARK = "XDS_TEST_DEMO_RUN"

pytestmark = pytest.mark.envoy


def demo(*arguments: str) -> Child:
    """Return the demo; all that it starts carries a mark in its environment."""
    return Child([sys.executable, str(DEMO), *arguments], name="demo", env={MARK: uuid.uuid4().hex})


def left_over(child: Child) -> list[int]:
    """Return the pids of processes that carry the demo's mark and still run."""
    mark = f"{MARK}={child.env[MARK]}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return found


async def test_the_demo_shows_a_change_through_two_envoys_and_ends_by_itself():
    async with demo("--once") as child:
        assert await child.wait_ended(60) == 0, child.log()
        assert left_over(child) == []
    said = child.log()
    before, after = said.split("Now endpoints.yaml changes")
    assert before.count("LIVE") == 2
    assert (before.count("\nservice-a\n"), before.count("\nservice-b\n")) == (2, 2)
    assert after.count("\nservice-b   # ") == 2
    assert said.endswith("all parts have ended\n")


async def test_ctrl_c_ends_the_demo_with_all_its_parts():
    async with demo() as child:
        await child.wait_log("Your turn", 60)
        # Itself, upstreams, control plane with a worker for each core, and twice Envoy with its command.
        assert len(left_over(child)) == 7 + len(os.sched_getaffinity(0))
        child.signal(signal.SIGINT)
        assert await child.wait_ended(30) == 0, child.log()
        assert left_over(child) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_at_any_moment_leaves_nothing_behind(number):
    seed = int(os.environ.get("XDS_TEST_SEED", random.randrange(1 << 30)))
    delay_s = random.Random(seed).uniform(0.1, 1.5)
    async with demo() as child:
        await for_a_while(delay_s, "the signal comes at any moment of its start")
        child.signal(number)
        assert await child.wait_ended(30) in (0, -number), f"seed {seed}\n{child.log()}"
        assert left_over(child) == [], f"seed {seed}"
