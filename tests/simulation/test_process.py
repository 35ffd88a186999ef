"""Simulated processes: real asyncio code in an order that only a seed decides."""

import asyncio
from random import Random

from simulation.clock import Clock
from simulation.process import Process

STEPS_MAX = 10_000


def a_process(seed: int = 1) -> tuple[Clock, Process]:
    clock = Clock()
    return clock, Process(clock, Random(seed), "process")


def test_time_passes_only_on_the_simulated_clock() -> None:
    clock, process = a_process()
    done: list[tuple[str, float]] = []

    async def wait(name: str, seconds: float) -> None:
        try:
            async with asyncio.timeout(3_600):
                await asyncio.sleep(seconds)
            done.append((name, round(process.time() - 1_000)))
        except TimeoutError:
            done.append((f"{name} timed out", round(process.time() - 1_000)))

    for name, seconds in (("long", 7_200.0), ("hour", 1_800.0), ("second", 1.0)):
        process.create_task(wait(name, seconds))
    clock.run(10_000.0, STEPS_MAX)
    assert done == [("second", 1), ("hour", 1_800), ("long timed out", 3_600)]
    process.kill()


def test_two_processes_interleave_by_the_seed_and_equally_each_time() -> None:
    def order(seed: int) -> str:
        clock = Clock()
        found: list[str] = []

        async def count(name: str) -> None:
            for _ in range(5):
                found.append(name)
                await asyncio.sleep(0)

        processes = [Process(clock, Random(f"{seed} {name}"), name) for name in "ab"]
        for process in processes:
            process.create_task(count(process.name))
        clock.run(2_000.0, STEPS_MAX)
        for process in processes:
            process.kill()
        return "".join(found)

    orders = [order(seed) for seed in range(20)]
    assert orders == [order(seed) for seed in range(20)]
    assert len(set(orders)) > 5


def test_a_frozen_process_does_what_is_due_once_it_goes_on() -> None:
    clock, process = a_process()
    at: list[float] = []
    process.call_later(1.0, lambda: at.append(clock.now))
    process.freeze(10.0)
    clock.run(2_000.0, STEPS_MAX)
    assert [round(each, 2) for each in at] == [1_010.0]
    process.kill()


def test_a_clock_that_leaps_ends_waits_early_and_the_wall_clock_ends_none() -> None:
    clock, process = a_process()
    at: list[float] = []
    process.call_later(60.0, lambda: at.append(clock.now))
    process.set_wall(-86_400.0)
    clock.run(1_010.0, STEPS_MAX)
    assert at == []
    process.leap(55.0)
    clock.run(1_011.0, STEPS_MAX)
    assert [round(each, 2) for each in at] == [1_010.0]
    process.kill()


def test_nothing_of_a_killed_process_runs_any_more() -> None:
    clock, process = a_process()
    did: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1.0)
            did.append("went on")
        finally:
            did.append("cleaned up")

    process.create_task(work())
    clock.run(1_000.5, STEPS_MAX)
    process.kill()
    process.call_soon(did.append, "called")
    clock.run(2_000.0, STEPS_MAX)
    assert did == []
