"""Run the simulation: ``PYTHONPATH=tests python -m simulation --seeds 300``, or repeat one run: ``--seed 17``.

With ``--sockets`` the clients are on real streams to ``xds serve``.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from simulation.known import known_fault
from simulation.mutations import NEEDS, mutated
from simulation.plan import Plan, plan
from simulation.results import PART, Done, processes, run_part
from simulation.runs import run
from simulation.shrink import failure_of, shrink
from simulation.world import Failure

ENVIRONMENT = {"PYTHONHASHSEED": "0", "GRPC_ENABLE_FORK_SUPPORT": "0"}
"""The first fixes the order of sets, so that runs are repeatable. The second allows starting a server while there are
gRPC channels."""
PROGRESS_EVERY = 500


def run_one(seed: int, *, smaller: bool) -> int:
    """Run a seed and print its transcript, or that of a smaller run with the same failure."""
    drawn = plan(seed)
    failure = failure_of(drawn, transcript=True)
    if failure is None:
        print("\n".join([*about(drawn), *(run(drawn, transcript=True).transcript or ()), "", "all holds"]))
        return 0
    if smaller:
        drawn = shrink(failure)
        failure = failure_of(drawn, transcript=True) or failure
    print("\n".join([*about(drawn), *(failure.transcript or ()), "", failure.message]))
    if known := known_fault(failure):
        print(f"known: {known.what}")
    return 1


def about(drawn: Plan) -> list[str]:
    """Describe a plan."""
    hubs = f"{drawn.servers} hubs"
    if drawn.replicas:
        workers = [f"one with {count} workers" if count else "one without workers" for count in drawn.replicas]
        hubs = f"{drawn.store}, replicas: {', '.join(workers)}; {drawn.kept} revisions are kept"
    elif drawn.share_memory and drawn.servers > 1:
        hubs += ", which tell each other of nodes"
    more = [", small responses" if drawn.small else "", ", streams overtake each other" if drawn.reorders else ""]
    lines = [f"seed {drawn.seed}: {hubs}{''.join(more)}; {len(drawn.events)} events"]
    for number in drawn.clients:
        habits = drawn.habits[number]
        lines.append(f"n{number}: {habits.variant.value}, {'per type' if habits.per_type else 'ADS'}")
    return lines


def run_many(first: int, count: int, output: Path | None, failures_max: int, jobs: int) -> int:
    """Run seeds, starting where the last call was interrupted; print a summary, and optionally save it."""
    progress = output.with_suffix(".progress") if output is not None else None
    done = Done(first, first)
    if progress is not None and progress.exists():
        kept = Done(**json.loads(progress.read_text()))
        if kept.first == first and kept.next < first + count:
            done = kept
            print(f"goes on with seed {done.next}")
    parts = [(at, min(PART, first + count - at)) for at in range(done.next, first + count, PART)]
    with processes(jobs) as run_all:
        for part in run_all(run_part, *zip(*parts, strict=True)):
            done.add(part)
            if (done.next - first) % PROGRESS_EVERY < PART:
                print(
                    f"{done.next - first} of {count} runs, {len(done.failed)} failed, {done.took_s:.0f} s", flush=True
                )
            if progress is not None:
                progress.write_text(json.dumps(asdict(done)))
            if len(done.failed) >= failures_max:
                break
    lines = list(done.lines())
    print("\n".join(lines))
    if output is not None and progress is not None and done.next == first + count:
        output.write_text("\n".join(lines) + "\n")
        progress.unlink(missing_ok=True)
    return 1 if done.failed else 0


def run_on_sockets(
    first: int, count: int, output: Path | None, failures_max: int, *, transcripts: bool, mutation: str
) -> int:
    """Run seeds over real sockets, several at a time; print a summary, and optionally save it."""
    from simulation.sockets import run_seeds  # gRPC is needed only here

    done = Done(first, first + count, sockets=True)
    started = time.monotonic()
    ran = 0

    def took(seed: int, failure: Failure | None, transcript: list[str] | None) -> bool:
        nonlocal ran
        ran += 1
        if transcripts:
            print("\n".join(transcript or ()))
        if failure is not None:
            one = Done(seed, seed)
            one.note(seed, failure)
            done.add(one)
        if ran % (PROGRESS_EVERY // 10) == 0 and ran < count:
            print(f"{ran} of {count} runs, {len(done.failed)} failed, {time.monotonic() - started:.0f} s", flush=True)
        return len(done.failed) < failures_max

    asyncio.run(run_seeds(range(first, first + count), took, transcript=transcripts, mutation=mutation))
    done.took_s, done.next = time.monotonic() - started, first + ran
    lines = list(done.lines())
    print("\n".join(lines))
    if output is not None:
        output.write_text("\n".join(lines) + "\n")
    return 1 if done.failed else 0


def find(mutation: str, first: int, count: int) -> int:
    """Find a seed whose run passes on the unchanged core and fails with a fault in it."""
    for seed in range(first, first + count):
        drawn = plan(seed)
        if mutation in NEEDS and not NEEDS[mutation](drawn):
            continue
        with mutated(mutation):
            failure = failure_of(drawn)
        if failure is not None and failure_of(drawn) is None:
            print(f"{mutation}: seed {seed}: {failure.message}")
            return 0
    print(f"{mutation}: not found by seeds {first} to {first + count - 1}")
    return 1


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one alone, and tell of all that happens in it")
    parser.add_argument("--shrink", action="store_true", help="with --seed: make a failing run smaller first")
    parser.add_argument("--sockets", action="store_true", help="clients are on real streams to xds serve")
    parser.add_argument("--mutation", help="put this fault in, and say which seed finds it first")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=300, help="how many seeds")
    parser.add_argument("--output", type=Path, help="where the summary goes; how far it got is kept beside it")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes run seeds at the same time")
    parser.add_argument("--failures", type=int, default=20, help="stop after so many")
    chosen = parser.parse_args(arguments)
    gc.freeze()  # keeps imported objects out of the garbage collection after each run
    if chosen.sockets:
        one = chosen.seed is not None
        first, count = (chosen.seed, 1) if one else (chosen.first, chosen.seeds)
        mutation = chosen.mutation or ""
        return run_on_sockets(first, count, chosen.output, chosen.failures, transcripts=one, mutation=mutation)
    if chosen.mutation is not None:
        return find(chosen.mutation, chosen.first, chosen.seeds)
    if chosen.seed is not None:
        return run_one(chosen.seed, smaller=chosen.shrink)
    return run_many(chosen.first, chosen.seeds, chosen.output, chosen.failures, chosen.jobs)


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        command = [sys.executable, "-m", "simulation", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **ENVIRONMENT})
    sys.exit(main(sys.argv[1:]))
