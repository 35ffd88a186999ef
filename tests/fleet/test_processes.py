import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from xds.fleet.processes import CpuUse, ProcessGoneError, ProcessTree

PARENT = """
import subprocess, sys
burn = "import time\\nend = time.process_time() + 0.3\\nwhile time.process_time() < end: pass"
memory = "import sys; held = bytearray(b'x') * (40 << 20); print('held', flush=True); sys.stdin.read()"
for line in sys.stdin:
    if line == "burn\\n":
        subprocess.run([sys.executable, "-c", burn], check=True)
        print("burnt", flush=True)
    if line == "hold\\n":
        child = subprocess.Popen([sys.executable, "-c", memory], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
        print("held", flush=True)
"""
Parent = "subprocess.Popen[str]"


@pytest.fixture
def parent() -> Iterator[Parent]:
    """Run a process whose children use CPU or memory on command."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        process.kill()


def tell(process: Parent, word: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()
    assert process.stdout.readline()


def test_the_cpu_of_a_child_that_has_ended_counts(parent: Parent) -> None:
    tree = ProcessTree([parent.pid])
    before_s = tree.cpu_s()
    tell(parent, "burn")
    assert tree.living() == [parent.pid]
    assert 0.25 < tree.cpu_s() - before_s < 2


def test_the_cpu_of_children_is_told_apart_from_that_of_the_process_that_was_named(parent: Parent) -> None:
    tree = ProcessTree([parent.pid])
    before = tree.cpu()
    tell(parent, "burn")
    after = tree.cpu()
    assert after.named_s - before.named_s < 0.25 < after.below_s - before.below_s
    assert after.total_s == after.named_s + after.below_s


def test_cpu_of_each_of_so_many_things_is_in_all_and_below() -> None:
    assert CpuUse(3.0, 2.5).each_us(CpuUse(1.0, 1.5), 1000) == (3000.0, 1000.0)


def test_the_memory_of_children_counts(parent: Parent) -> None:
    tree = ProcessTree([parent.pid])
    before = tree.memory()
    tell(parent, "hold")
    assert len(tree.living()) == 2
    after = tree.memory()
    assert after.own_bytes - before.own_bytes > 40 << 20
    assert 0 < after.own_bytes < after.pss_bytes


def test_cpu_is_finer_than_a_clock_tick() -> None:
    tree = ProcessTree([os.getpid()])
    before_s = tree.cpu_s()
    found_s = {tree.cpu_s() - before_s for _ in range(5)}
    assert len(found_s) == 5


def test_a_process_that_has_ended_is_said_to_have(parent: Parent) -> None:
    tree = ProcessTree([parent.pid])
    parent.kill()
    parent.wait()
    with pytest.raises(ProcessGoneError, match=f"process {parent.pid} has ended"):
        tree.cpu_s()
    with pytest.raises(ProcessGoneError, match=f"no process {parent.pid}"):
        ProcessTree([parent.pid])
