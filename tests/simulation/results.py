"""The results of many seeds, run one after the other or by several processes."""

import gc
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context

from simulation.known import known_fault
from simulation.plan import plan
from simulation.runs import run
from simulation.shrink import kind_of
from simulation.world import Failure

PART = 20
"""The seeds that a process runs before it reports: as many are run again after an interruption."""


@dataclass
class Done:
    """The results of the seeds before ``next``."""

    first: int
    next: int
    sockets: bool = False
    failed: dict[str, str] = field(default_factory=dict)
    known: dict[str, list[int]] = field(default_factory=dict)
    took_s: float = 0.0
    events: int = 0
    responses: int = 0
    nacks: int = 0

    def take(self, seed: int) -> None:
        """Run a seed and record its result."""
        started = time.monotonic()
        try:
            world = run(plan(seed))
            self.events += world.clock.steps
            self.responses += world.responses
            self.nacks += world.nacks
        except Failure as failure:
            self.note(seed, failure)
        self.next = seed + 1
        self.took_s += time.monotonic() - started

    def note(self, seed: int, failure: Failure) -> None:
        """Record how a seed failed."""
        if known := known_fault(failure):
            self.known.setdefault(known.what, []).append(seed)
        else:
            self.failed[str(seed)] = failure.message

    def add(self, later: "Done") -> None:
        """Add the results of the seeds that follow, and print their failures."""
        for seed, message in later.failed.items():
            print(f"seed {seed}: {message}\n  again: {replay(int(seed), sockets=self.sockets)}", flush=True)
        for known, seeds in later.known.items():
            self.known.setdefault(known, []).extend(seeds)
        self.failed |= later.failed
        self.next = later.next
        self.took_s += later.took_s
        self.events += later.events
        self.responses += later.responses
        self.nacks += later.nacks

    def lines(self) -> Iterable[str]:
        """Print the results."""
        where = ", over sockets" if self.sockets else ""
        yield f"simulation{where}: seeds {self.first} to {self.next - 1}, Python {platform.python_version()}"
        seconds = f"{self.took_s:.0f} s" + ("" if self.sockets else " of one core")
        yield f"{self.next - self.first} runs, {len(self.failed)} failed; {seconds}"
        if not self.sockets:
            yield f"{self.events} events, {self.responses} responses, {self.nacks} of them rejected"
        kinds: dict[str, list[str]] = {}
        for seed, message in self.failed.items():
            kinds.setdefault(kind_of(message), []).append(seed)
        yield from listed("failed", kinds)
        yield from listed("known (tests/simulation/known.py)", self.known)


def listed(what: str, kinds: Mapping[str, list]) -> Iterable[str]:
    """Describe how often each fault was found, and by which seeds first."""
    for kind, seeds in sorted(kinds.items(), key=lambda item: -len(item[1])):
        yield f"{what}: {len(seeds)} × {kind} (seeds {', '.join(map(str, seeds[:6]))})"


def replay(seed: int, *, sockets: bool) -> str:
    """Return the command that repeats a seed."""
    how = "--sockets" if sockets else "--shrink"
    return f"PYTHONPATH=tests .venv/bin/python -m simulation --seed {seed} {how}"


def run_part(first: int, count: int) -> Done:
    """Run some seeds in turn."""
    done = Done(first, first)
    for seed in range(first, first + count):
        done.take(seed)
    return done


@contextmanager
def processes(jobs: int) -> Iterator[Callable[..., Iterable[Done]]]:
    """Provide a ``map`` over processes, whose results come in order."""
    if jobs == 1:
        yield map
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=gc.freeze) as pool:
        yield pool.map
        pool.shutdown(cancel_futures=True)
