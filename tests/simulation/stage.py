"""A simulated etcd with processes that use it, for tests of the store alone: ``with stage(seed) as on: ...``."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from simulation.clock import Clock
from simulation.engines import ETCD, Engine, simulated
from simulation.process import Process

from xds.store.entries import Store

T = TypeVar("T")
STEPS_MAX = 100_000
PATIENCE_S = 120.0


@dataclass
class Stage:
    """The engine, and the processes by name."""

    engine: Engine
    clock: Clock
    chance: Random
    processes: list[Process] = field(default_factory=list)

    def process(self) -> Process:
        """Return a new process."""
        made = Process(self.clock, Random(self.chance.random()), f"process {len(self.processes)}")
        self.processes.append(made)
        return made

    def open(self) -> tuple[Process, Store]:
        """Open the store in a new process."""
        process = self.process()
        return process, self.do(process, self._open())

    async def _open(self) -> Store:
        return await self.engine.open(len(self.processes))

    def start(self, process: Process, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Start work in a process."""
        return process.create_task(work)

    def wait(self, *tasks: "asyncio.Task[Any]") -> list[Any]:
        """Let time pass until work is done; return the results. Raises what the first that failed raised."""
        until = self.clock.now + PATIENCE_S
        while not all(task.done() for task in tasks):
            assert self.clock.now < until, "it is never done"
            self.clock.run(self.clock.now + 0.01, STEPS_MAX)
        return [task.result() for task in tasks]

    def do(self, process: Process, work: Coroutine[Any, Any, T]) -> T:
        """Do work in a process while time passes; return its result."""
        found: T = self.wait(self.start(process, work))[0]
        return found


@contextmanager
def stage(seed: int, *, kind: str = ETCD) -> Iterator[Stage]:
    """Set up an engine."""
    clock, chance = Clock(), Random(f"stage {seed}")
    engine = Engine(kind, clock, Random(chance.random()), caches=False)
    made = Stage(engine, clock, chance)
    with simulated(engine, Random(chance.random())):
        try:
            yield made
        finally:
            for process in made.processes:
                process.kill()
            engine.end()
