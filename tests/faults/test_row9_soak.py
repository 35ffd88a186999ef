"""Hours of changes and random faults: row 9 of docs/reliability.md, ``make soak``.

Ten changes a second are pushed to streams while faults of the other rows happen at random: workers are killed and
stopped; streams are cut off, read slowly, reject what they are sent, and share the server with attackers; the wall
clock jumps; files are read again. At the end the faults stop, and every stream must have the same resources, those that
the server serves. Memory and open files are sampled all the time: neither may grow.

``XDS_SOAK_S`` is how long it takes (30 s; with ``XDS_FAULTS=full`` two hours). With ``XDS_SOAK_FILE`` a run that is
ended early leaves its samples there, and the next one goes on for the rest of the time; the slope of the memory is that
of the runs of twenty minutes and more. ``XDS_TEST_SEED`` replays the choice of the faults.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import resources as r
from support.attack_scene import HERE, NAMES, assignment
from support.fault_matrix import FULL, count, part, scaled
from support.fault_scene import FaultScene, fault_scene
from support.processes import Worker
from support.running import children_of
from support.waiting import for_a_while, until_due, wait_until

from xds.client import ClientError
from xds.model.types import short_name

TOTAL_S = float(os.environ.get("XDS_SOAK_S", scaled(7_200.0, 30.0)))
FILE = os.environ.get("XDS_SOAK_FILE", "")
STREAMS = count(1_000, 100)
CHANGES_PER_S = 10.0
GAP_S = scaled(15.0, 3.0)
SAMPLE_S = scaled(10.0, 1.0)
WARM_SHARE = 0.1
LEAST_SLOPE_S = 1_200.0
"""A slope over a shorter time says nothing."""
EXTRAS = 40
ATTACKS = ["malformed", "resets", "churn", "headers", "frames", "silent", "unsubscribes", "claims", "rebinding"]
CLOCK_DIRECTORY = Path(__file__).parents[1] / "support" / "shifted_clock"


@dataclass(slots=True)
class Soak:
    """One run: what is pushed, what goes wrong, what is sampled."""

    on: FaultScene
    attacker: Worker
    clock: Path
    chance: random.Random
    done_s: float
    began: float = field(default_factory=time.monotonic)
    faults: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    changes: int = 0
    extras: set[str] = field(default_factory=set)
    """Clusters that come and go."""

    @property
    def left_s(self) -> float:
        """How long this run goes on."""
        return TOTAL_S - self.done_s - (time.monotonic() - self.began)

    async def push(self) -> None:
        """Push changes of endpoints, clusters and removals at the steady rate."""
        due = time.monotonic()
        for number in itertools.count():
            if self.left_s <= 0:
                return
            await until_due(due)
            due = max(due + 1 / CHANGES_PER_S, time.monotonic() - 5.0)
            try:
                await self._change(number)
                self.changes += 1
            except ClientError as error:
                self.refused[type(error).__name__] += 1

    async def _change(self, number: int) -> None:
        extra = f"extra-{self.chance.randrange(EXTRAS)}"
        if number % 5 == 3 and extra in self.extras:
            self.extras.remove(extra)
            await self.on.client.apply(remove=[("clusters", extra)])
        elif number % 5 >= 3:
            self.extras.add(extra)
            await self.on.client.apply(upsert=[r.static_cluster(extra, 1 + number % 60_000)])
        else:
            self.on.number += 1
            await self.on.client.apply(upsert=[assignment(self.on.number)])

    async def go_wrong(self) -> None:
        """Have something go wrong now and then."""
        kinds = [self.kill, self.stop, self.attack, self.cut, self.read_slowly, self.reject, self.jump, self.reload]
        while self.left_s > GAP_S:
            kind = self.chance.choice(kinds)
            await kind()
            self.faults[kind.__name__] += 1
            await for_a_while(self.chance.uniform(0, 2 * GAP_S), "faults come at any moment")

    def _worker(self) -> int:
        return self.chance.choice(children_of(self.on.server.pid))

    async def kill(self) -> None:
        """Kill a worker."""
        os.kill(self._worker(), signal.SIGKILL)

    async def stop(self) -> None:
        """Stop a worker for some seconds."""
        pid = self._worker()
        os.kill(pid, signal.SIGSTOP)
        await for_a_while(self.chance.uniform(1, 8), "the worker stands still")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    async def attack(self) -> None:
        """Let one of the attacks run for some seconds."""
        name = self.chance.choice(ATTACKS)
        ports = {"xds": self.on.server.port, "admin": self.on.server.admin_port, "api": self.on.server.api_port}
        await self.attacker.call("prepare", name=name, ports=ports, token="", scale=0.05, timeout_s=120.0)
        await self.attacker.call("run", name=name, seconds=3.0, timeout_s=120.0)

    async def cut(self) -> None:
        """Cut off a tenth of the streams."""
        await self.on.crowd.call("cut", count=STREAMS // 10, timeout_s=60.0)

    async def read_slowly(self) -> None:
        """Let some read slowly, and some not at all."""
        await self.on.crowd.call("act", dead=STREAMS // 100, slow=STREAMS // 10, timeout_s=60.0)
        await for_a_while(self.chance.uniform(2, GAP_S), "they read slowly")
        await self.on.crowd.call("act", timeout_s=60.0)

    async def reject(self) -> None:
        """Push what a fifth rejects, and take it back."""
        await self.on.crowd.call("reject", prefix="bad", count=STREAMS // 5, timeout_s=60.0)
        with contextlib.suppress(ClientError):
            await self.on.client.apply(upsert=[r.static_cluster("bad", self.chance.randrange(1, 60_000))])
            await for_a_while(1.0, "it is rejected")
            await self.on.client.apply(remove=[("clusters", "bad")])

    async def jump(self) -> None:
        """Set the wall clock."""
        self.clock.write_text(str(self.chance.choice([3_600, -3_600, -86_400, 0])))

    async def reload(self) -> None:
        """Have everything read again."""
        assert self.on.server.process is not None
        os.kill(self.on.server.process.pid, signal.SIGHUP)

    async def sample(self) -> None:
        """Record memory and open files, also to the file of a run that may be cut off."""
        while self.left_s > 0:
            pids = [self.on.server.pid, *children_of(self.on.server.pid)]
            files = 0
            for pid in pids:
                with contextlib.suppress(OSError):
                    files += len(os.listdir(f"/proc/{pid}/fd"))
            now = time.monotonic() - self.began
            self.samples.append((round(now, 1), self.on.anonymous_bytes(), files))
            if FILE:
                Path(FILE).parent.mkdir(parents=True, exist_ok=True)
                with Path(FILE).open("a") as opened:
                    opened.write(json.dumps({"run": int(self.began), "sample": self.samples[-1]}) + "\n")
            await for_a_while(SAMPLE_S, "the interval of the samples")


def earlier_runs() -> list[list[tuple[float, int, int]]]:
    """Return the samples of the runs that were cut off."""
    runs: dict[int, list[tuple[float, int, int]]] = {}
    if FILE and Path(FILE).exists():
        for line in Path(FILE).read_text().splitlines():
            read = json.loads(line)
            runs.setdefault(read["run"], []).append(tuple(read["sample"]))
    return list(runs.values())


def slope_per_hour(runs: list[list[tuple[float, int, int]]]) -> float | None:
    """Return by which share of its mean the memory grows in an hour, None if no run is long enough to tell."""
    slopes, weights = [], []
    for samples in runs:
        kept = samples[int(len(samples) * WARM_SHARE) :]
        if len(kept) < 3 or kept[-1][0] - kept[0][0] < LEAST_SLOPE_S:
            continue
        times, sizes = [each[0] / 3_600 for each in kept], [float(each[1]) for each in kept]
        slopes.append(statistics.linear_regression(times, sizes).slope / statistics.mean(sizes))
        weights.append(times[-1] - times[0])
    return sum(a * b for a, b in zip(slopes, weights, strict=True)) / sum(weights) if slopes else None


@pytest.mark.timeout(TOTAL_S + 600)
async def test_hours_of_changes_and_faults_leave_everything_as_it_should_be(tmp_path: Path) -> None:
    seed = int(os.environ.get("XDS_TEST_SEED", random.randrange(1 << 30)))
    before = earlier_runs()
    done_s = sum(each[-1][0] for each in before)
    clock = tmp_path / "clock"
    clock.write_text("0")
    env = {"PYTHONPATH": str(CLOCK_DIRECTORY), "TEST_CLOCK_FILE": str(clock)}
    what = f"{TOTAL_S:,.0f} s of {CHANGES_PER_S:g} changes a second to {STREAMS:,} streams, with random faults"
    with part(9, "soak", what) as found:
        attacker = Worker(HERE / "attackers.py", name="attacker")
        async with fault_scene(STREAMS, env=env) as on, attacker:
            await on.crowd.call("come_back", wanted=True)
            await on.crowd.call("forget_losses")
            files_before = _files(on)
            soak = Soak(on, attacker, clock, random.Random(seed), done_s)
            async with asyncio.TaskGroup() as group:
                for work in (soak.push(), soak.go_wrong(), soak.sample()):
                    group.create_task(work)
            await on.crowd.call("act", timeout_s=60.0)
            await on.crowd.call("reject", prefix="bad", count=0)
            await _converged(on)
            listed = await on.client.list_resources()
            state = await on.states()
            found.equal("states of the streams at the end", len(state["states"]), 1)
            served = {each.name.name + " " + each.name.type: each.version for each in listed.resources}
            held = {f"{key.split()[1]} {short_name(key.split()[0])}": version for key, version in state["one"].items()}
            differing = sorted(dict(served.items() ^ held.items()))
            found.equal("resources that differ from what is served", differing, [])
            await wait_until(lambda: _files(on), lambda now: now <= files_before + 10, timeout_s=60.0, poll_s=0.5)
            found.at_most("open files more than at the start", _files(on) - files_before, 10)
            slope = slope_per_hour([*before, soak.samples])
            if slope is not None:
                found.at_most("memory grows in an hour by", round(slope * 100, 2), 1.0, " %", quiet=True)
            elif FULL:
                found.at_most("memory grows in an hour by", None, 1.0, " %")
            faults = ", ".join(f"{name} {times}" for name, times in sorted(soak.faults.items()))
            found.note(f"Seed {seed}; {soak.changes:,} changes; faults: {faults}; runs before: {len(before)}.")
            if soak.refused:
                found.note(f"Changes that were refused meanwhile: {dict(soak.refused)}.")
            found.equal("changes that were refused", sum(soak.refused.values()), 0)
    if FILE:
        Path(FILE).unlink(missing_ok=True)


def _files(on: FaultScene) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in [on.server.pid, *children_of(on.server.pid)])


async def _converged(on: FaultScene) -> None:
    """Wait until every stream is open, and all have the same."""
    await on.wait_seen(lambda told: told["synced"] == STREAMS, timeout_s=120.0)
    await on.client.apply(upsert=[assignment(on.number + NAMES)])
    await wait_until(on.states, lambda told: len(told["states"]) == 1, timeout_s=120.0, poll_s=0.2)


def test_a_run_goes_on_where_it_was_cut_off_and_short_ones_say_nothing_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "soak.jsonl"
    monkeypatch.setitem(globals(), "FILE", str(file))
    growing = [(10.0 * number, 100_000_000 + 10_000 * number, 50) for number in range(720)]
    short = [(10.0 * number, 100_000_000 + 10**7 * number, 50) for number in range(20)]
    lines = [{"run": run, "sample": sample} for run, samples in ((1, growing), (2, short)) for sample in samples]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert earlier_runs() == [growing, short]
    slope = slope_per_hour(earlier_runs())
    assert slope is not None
    assert 0.034 < slope < 0.036, "3.6 MB an hour of 104 MB"
    assert slope_per_hour([short]) is None
