"""Free pages inside the heap are returned to the system, and only after the process has grown."""

import asyncio

import pytest

from xds.process import memory
from xds.process.memory import GROWTH_BYTES_MIN, LOOKS_MAX, HoleWatch, resident_bytes, return_holes


class Process:
    """A process's resident memory, and the effect of returning free pages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size, self.floor, self.given_back = 100 * GROWTH_BYTES_MIN, 100 * GROWTH_BYTES_MIN, 0
        monkeypatch.setattr(memory, "resident_bytes", lambda: self.size)

    def give_back(self) -> None:
        self.size, self.given_back = self.floor, self.given_back + 1


def test_holes_are_given_back_once_a_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch)
    watch = HoleWatch(give_back=process.give_back)
    watch.look()
    process.size += GROWTH_BYTES_MIN
    watch.look()
    assert process.given_back == 0
    process.size += 10 * GROWTH_BYTES_MIN
    watch.look()
    assert (process.given_back, process.size) == (1, process.floor)


def test_memory_in_use_is_examined_for_a_while_after_each_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch)
    watch = HoleWatch(give_back=process.give_back)
    process.size = process.floor = 200 * GROWTH_BYTES_MIN
    for _ in range(2 * LOOKS_MAX):
        watch.look()
    assert process.given_back == 1 + LOOKS_MAX
    process.size = process.floor = 100 * GROWTH_BYTES_MIN  # it shrank without a call
    watch.look()
    assert process.given_back == 1 + LOOKS_MAX
    process.size = 150 * GROWTH_BYTES_MIN
    watch.look()
    assert process.given_back == 2 + LOOKS_MAX


def test_what_is_freed_after_a_growth_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's memory stays as it is when objects in it are freed, so that nothing shows it."""
    process = Process(monkeypatch)
    watch = HoleWatch(give_back=process.give_back)
    process.size = process.floor = 200 * GROWTH_BYTES_MIN
    watch.look()
    assert process.size == 200 * GROWTH_BYTES_MIN
    process.floor = 100 * GROWTH_BYTES_MIN  # freed, and not returned yet
    watch.look()
    assert process.size == 100 * GROWTH_BYTES_MIN


def test_resident_memory_is_read_from_the_system() -> None:
    before = resident_bytes()
    held = bytearray(64 * 1024 * 1024)
    assert resident_bytes() - before > 32 * 1024 * 1024
    del held
    return_holes()
    assert resident_bytes() - before < 32 * 1024 * 1024


async def test_memory_is_checked_as_long_as_the_loop_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = asyncio.Event()
    process = Process(monkeypatch)
    watch = HoleWatch(every_s=0.01, give_back=looked.set)
    process.size *= 2
    watch.start(asyncio.get_running_loop())
    await asyncio.wait_for(looked.wait(), 5)
