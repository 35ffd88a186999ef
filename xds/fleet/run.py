"""Runs the phases of a load test in order, and collects their results."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from xds.fleet.about import UnknownTargetError, machine, resolve, tool_versions
from xds.fleet.calm import wait_calm
from xds.fleet.links import FleetWorkers, WorkerDiedError
from xds.fleet.options import FleetOptions
from xds.fleet.processes import CpuUse, MemoryUse, ProcessGoneError, ProcessTree
from xds.fleet.pushes import Pusher
from xds.fleet.results import Connected, Latency, MemoryFigures, Newcomers, Pushes, Result, RunStep, Storm, Verified
from xds.fleet.trigger import Trigger, TriggerError, trigger_of
from xds.fleet.worker import unpacked

OnProgress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""

EXAMPLES_MAX = 10
SETTLED_S = 1.5
"""Delay after the pushes before memory is measured, to measure what remains, not what a push needed."""


class RunError(Exception):
    """A run can't go on: the target can't be reached, or a worker died. Earlier measurements are kept."""


async def run(options: FleetOptions, on_progress: OnProgress = lambda *_: None) -> Result:
    """Run the load test; return all measurements and problems. All processes it started have ended by then."""
    fleet = Fleet(options, on_progress)
    try:
        await fleet.run()
    except* (RunError, UnknownTargetError, WorkerDiedError, ProcessGoneError, TriggerError) as group:
        fleet.result.problems.append(str(_first_of(group)))
        with contextlib.suppress(WorkerDiedError):  # a worker may be what failed
            await fleet.count_up()
    finally:
        await fleet.workers.end()
    return fleet.result


class Fleet:
    """One run."""

    def __init__(self, options: FleetOptions, on_progress: OnProgress) -> None:
        self.options = options
        self._on_progress = on_progress
        self._phase = ""
        self._done: Counter[int] = Counter()
        self._total = 0
        self.workers = FleetWorkers(self._note_progress)
        self.result = Result(
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            tool=tool_versions(),
            machine=machine(),
            options=options.shown(),
        )
        self._server: ProcessTree | None = None
        self._shares = [0] * options.worker_count
        self._probes = False
        self._last: tuple[int, MemoryUse] | None = None
        """The size of the last step, and the memory then."""

    async def run(self) -> None:
        """Run all phases. Raises RunError, WorkerDiedError, ProcessGoneError or TriggerError."""
        options = self.options
        if options.server_pids:
            self._server = ProcessTree(options.server_pids)
        target = await resolve(options.server)
        self._tell("starting", options.worker_count)
        await self.workers.start(options.configs(target))
        await self._survey()
        trigger = trigger_of(options.trigger, options.trigger_command, timeout_s=options.timeout_s)
        pusher = None if trigger is None else self._pusher(trigger)
        before = await self._memory()
        for size in options.streams:
            await self._step(size, before, pusher)
        if pusher is not None and options.newcomers:
            await self._newcomers(pusher)
        if options.churn_per_s:
            await self.workers.ask("stop_churn", timeout_s=options.timeout_s)
        if options.reconnect_storm:
            await self._storm()
        if options.verify:
            await self._verify()
        await self.count_up()

    # --- Phases --------------------------------------------------------------------------------------------------

    async def _survey(self) -> None:
        """Examine the target with one sidecar before all others connect; this also warms up a cold server."""
        self._tell("looking at the server", 1)
        found = await self.workers.links[0].ask("survey", timeout_s=self.options.timeout_s)
        if found["problem"] is not None:
            raise RunError(f"{self.options.server}: {found['problem']}")
        self._probes = found["answers_probe"]
        self.result.resources = {name: about["resources"] for name, about in found["types"].items()}
        await self.workers.ask("begin", probes=self._probes)

    async def _step(self, size: int, before: MemoryUse | None, pusher: Pusher | None) -> None:
        connected = await self._connect(size)
        self.result.steps.append(RunStep(size, connected, None, ()))  # kept if the rest fails
        after = await self._memory()
        behaviours = Counter[str]()
        for counts in await self.workers.ask("misbehave"):
            behaviours.update(counts)
        self.result.behaviours = dict(behaviours)
        if self.options.churn_per_s:
            await self.workers.ask("churn", rate_per_s=self.options.churn_per_s / len(self._shares))
        series: list[Pushes] = []
        if pusher is not None and self.options.pushes:
            if self.options.warmup_pushes:
                await pusher.warm_up(self.result.problems)
            series = [await pusher.series(gap_ms, self.result.problems) for gap_ms in self.options.push_gaps_ms]
            if after is not None:
                await asyncio.sleep(SETTLED_S)
        memory = None
        if before is not None and after is not None:
            memory = MemoryFigures(
                before_bytes=before.pss_bytes,
                connected_bytes=after.pss_bytes,
                bytes_per_stream=round((after.own_bytes - before.own_bytes) / size, 1),
                bytes_per_added_stream=self._growth_bytes(after, size),
                after_pushes_bytes=pushed.pss_bytes if series and (pushed := await self._memory()) else None,
            )
            self._last = (size, after)
        self.result.steps[-1] = RunStep(size, connected, memory, tuple(series))

    async def _connect(self, size: int) -> Connected:
        commands = self._growing_to(size)
        added = sum(command["count"] for command in commands)
        self._tell(f"connecting {size:,}", added)
        server, fleet_s = self._server_cpu(), await self._fleet_cpu_s()
        answers = await self.workers.ask_each("connect", commands)
        await wait_calm(self._server)
        server_us, workers_us = self._since_us(server, added)
        return Connected(
            sidecars=added,
            synced=self._check_synced(answers, added, "connecting"),
            connect_to_synced=_latency(answers),
            all_synced_s=_wall_s(answers),
            server_cpu_us_per_sidecar=server_us,
            workers_cpu_us_per_sidecar=workers_us,
            fleet_cpu_us_per_sidecar=round((await self._fleet_cpu_s() - fleet_s) * 1e6 / added, 1),
        )

    def _growing_to(self, size: int) -> list[dict[str, Any]]:
        """Return each worker's command to connect its part of the sidecars that are still missing."""
        workers, options = len(self._shares), self.options
        before, self._shares = self._shares, [(size + workers - 1 - at) // workers for at in range(workers)]
        counts = [after - had for after, had in zip(self._shares, before, strict=True)]
        rate = options.connect_rate_per_s
        commands: list[dict[str, Any]] = [
            {"count": count, "rate_per_s": rate and rate * count / sum(counts), "timeout_s": options.timeout_s}
            for count in counts
        ]
        idle = len(self.workers.links) - workers  # the newcomers' process
        return commands + [{"count": 0, "rate_per_s": None, "timeout_s": options.timeout_s}] * idle

    def _pusher(self, trigger: Trigger) -> Pusher:
        return Pusher(
            self.workers,
            trigger,
            self.options,
            server=self._server,
            on_phase=self._tell,
            on_done=lambda done: self._note_progress(0, done),
        )

    async def _newcomers(self, pusher: Pusher) -> None:
        count = self.options.newcomers
        self._tell(f"{count:,} newcomers during a push", count)
        answers: list[dict[str, Any]] = []

        async def come() -> None:
            command = {"count": count, "rate_per_s": None, "timeout_s": self.options.timeout_s}
            answers.append(await self.workers.links[-1].ask("connect", **command))

        push, _ = await pusher.push(self.result.problems, meanwhile=come)
        synced = self._check_synced(answers, count, "newcomers")
        self.result.newcomers = Newcomers(count, synced, _latency(answers), push)

    async def _storm(self) -> None:
        self._tell("reconnect storm", sum(self._shares))
        server = self._server_cpu()
        answers = await self.workers.ask("storm", timeout_s=self.options.timeout_s)
        await wait_calm(self._server)
        count = sum(answer["count"] for answer in answers)
        self.result.storm = Storm(
            sidecars=count,
            synced=self._check_synced(answers, count, "the reconnect storm"),
            reconnect_to_synced=_latency(answers),
            all_synced_s=_wall_s(answers),
            resources_sent_again=sum(answer["resources"] for answer in answers),
            responses=sum(answer["responses"] for answer in answers),
            server_cpu_us_per_sidecar=self._since_us(server, count)[0],
            probe="a missing assignment" if self._probes else "an HTTP/2 ping, then a second of silence",
        )

    async def _verify(self) -> None:
        self._tell("verifying", sum(self._shares))
        answers = await self.workers.ask("verify", timeout_s=min(10.0, self.options.timeout_s))
        problems = self.result.problems
        problems += [f"nothing to verify against: {answer['problem']}" for answer in answers if answer["problem"]]
        answers = [answer for answer in answers if not answer["problem"]]
        if any(answer["state"] != answers[0]["state"] for answer in answers):
            problems.append("observers that connected at the end were not all told the same")
        different = sum(answer["different"] for answer in answers)
        compared = sum(answer["compared"] for answer in answers)
        examples = tuple(example for answer in answers for example in answer["examples"])[:EXAMPLES_MAX]
        excluded = Counter[str]()
        for answer in answers:
            excluded.update(answer["excluded"])
        if different:
            problems.append(f"{different:,} of {compared:,} sidecars differ from a fresh observer; {examples[0]}")
        self.result.verify = Verified(compared, different, dict(excluded), examples)

    async def count_up(self) -> None:
        """Sum the workers' counters, and report losses as a problem."""
        result = self.result
        losses = Counter[str]()
        for stats in await self.workers.ask("stats"):
            result.churned += stats["churned"]
            result.rejected += stats["rejected"]
            result.lost += stats["lost"]
            result.bytes_received += stats["bytes_received"]
            losses.update(stats["losses"])
            result.examples = stats["examples"] | result.examples
        result.losses = dict(losses.most_common())
        if result.lost:
            kind, count = losses.most_common(1)[0]
            result.problems.append(f"{result.lost:,} streams were lost; {count:,} × {result.examples.get(kind, kind)}")
        with contextlib.suppress(ProcessGoneError):  # only a figure about the load generator itself
            result.fleet_memory_bytes = ProcessTree([link.pid for link in self.workers.links]).memory().pss_bytes

    # --- Figures -------------------------------------------------------------------------------------------------

    def _check_synced(self, answers: Sequence[dict[str, Any]], expected: int, phase: str) -> int:
        synced: int = sum(answer["synced"] for answer in answers)
        if synced < expected:
            waiting = [text for answer in answers for text in answer["waiting"]]
            example = f"; {waiting[0]}" if waiting else ""
            self.result.problems.append(
                f"{phase}: {expected - synced:,} of {expected:,} sidecars are not synced "
                f"after {self.options.timeout_s:g} s{example}"
            )
        return synced

    async def _memory(self) -> MemoryUse | None:
        if self._server is None:
            return None
        await wait_calm(self._server)
        return await asyncio.to_thread(self._server.memory)

    def _growth_bytes(self, memory: MemoryUse, size: int) -> float | None:
        """Return the memory growth for each stream added since the last step, None in the first."""
        if self._last is None:
            return None
        earlier, used = self._last
        return round((memory.own_bytes - used.own_bytes) / (size - earlier), 1)

    def _server_cpu(self) -> CpuUse | None:
        return None if self._server is None else self._server.cpu()

    def _since_us(self, before: CpuUse | None, count: int) -> tuple[float, float] | tuple[None, None]:
        """Return the server's CPU time since ``before`` divided by ``count``, in µs: all, and the descendants' part."""
        if self._server is None or before is None or not count:
            return None, None
        return self._server.cpu().each_us(before, count)

    async def _fleet_cpu_s(self) -> float:
        used_s: float = sum(stats["cpu_s"] for stats in await self.workers.ask("stats"))
        return used_s + time.process_time()

    def _tell(self, phase: str, total: int) -> None:
        self._phase, self._total = phase, total
        self._done.clear()
        self._on_progress(phase, 0, total)

    def _note_progress(self, worker: int, done: int) -> None:
        self._done[worker] = done
        self._on_progress(self._phase, min(self._total, self._done.total()), self._total)


def _latency(answers: Sequence[dict[str, Any]]) -> Latency | None:
    return Latency.of([sample for answer in answers for sample in unpacked(answer["latencies_ns"])])


def _wall_s(answers: Sequence[dict[str, Any]]) -> float:
    """Return the time from the first worker's start until the last sidecar was synced."""
    first: int = min(answer["first_ns"] for answer in answers)
    last: int = max(answer["last_ns"] for answer in answers)
    return round((last - first) / 1e9, 4)


def _first_of(group: BaseExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
