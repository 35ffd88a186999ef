"""Triggers pushes and measures when each sidecar receives them."""

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from xds.fleet.calm import wait_calm
from xds.fleet.links import FleetWorkers
from xds.fleet.options import FleetOptions
from xds.fleet.processes import CpuUse, ProcessTree
from xds.fleet.results import Latency, Push, Pushes
from xds.fleet.trigger import Trigger
from xds.fleet.worker import unpacked

OnPhase = Callable[[str, int], None]
OnDone = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Totals:
    """The counters of all workers at one moment."""

    cpu_s: float
    responses: int
    bytes_received: int


class Pusher:
    """Triggers pushes one by one: the next when all counted sidecars have received the last one, or it timed out."""

    def __init__(
        self,
        workers: FleetWorkers,
        trigger: Trigger,
        options: FleetOptions,
        *,
        server: ProcessTree | None,
        on_phase: OnPhase,
        on_done: OnDone,
    ) -> None:
        self._workers, self._trigger, self._options, self._server = workers, trigger, options, server
        self._on_phase, self._on_done = on_phase, on_done

    async def warm_up(self, problems: list[str]) -> None:
        """Do the warm-up pushes, which are not counted."""
        count = self._options.warmup_pushes
        self._on_phase("warming up", count)
        for number in range(count):
            await self.push(problems)
            self._on_done(number + 1)

    async def series(self, gap_ms: float, problems: list[str]) -> Pushes:
        """Do the pushes of the options, with a pause between them. Raises TriggerError."""
        options = self._options
        self._on_phase(f"pushing, {gap_ms:g} ms apart" if gap_ms else "pushing back to back", options.pushes)
        await wait_calm(self._server)
        before, server, started_s = await self._totals(), self._server_cpu(), time.monotonic()
        pushes, samples = list[Push](), array("q")
        for number in range(options.pushes):
            push, latencies_ns = await self.push(problems)
            pushes.append(push)
            samples.extend(latencies_ns)
            self._on_done(number + 1)
            if push.received < push.due:
                break  # each further push would take the whole timeout
            if gap_ms and number + 1 < options.pushes:
                await asyncio.sleep(gap_ms / 1e3)
        wall_s = time.monotonic() - started_s
        await wait_calm(self._server)
        after, server_after = await self._totals(), self._server_cpu()
        responses = after.responses - before.responses
        server_us = workers_us = None
        if server is not None and server_after is not None and responses:
            server_us, workers_us = server_after.each_us(server, responses)
        return Pushes(
            gap_ms=gap_ms,
            pushes=tuple(pushes),
            latency=Latency.of(samples),
            deliveries=len(samples),
            responses=responses,
            bytes_received=after.bytes_received - before.bytes_received,
            wall_s=round(wall_s, 3),
            server_cpu_us_per_delivery=server_us,
            fleet_cpu_us_per_delivery=_each_us(before.cpu_s, after.cpu_s, responses),
            workers_cpu_us_per_delivery=workers_us,
        )

    async def push(
        self, problems: list[str], *, meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> tuple[Push, "array[int]"]:
        """Push once, and start ``meanwhile`` at that moment; return the push and the sidecars' latencies in ns."""
        options = self._options
        await self._trigger.prepare()
        due = sum(answer["due"] for answer in await self._workers.ask("push", responses=options.responses_per_push))
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(self._workers.ask("served", timeout_s=options.timeout_s))
            await asyncio.sleep(0)  # the workers get the command before the trigger
            if meanwhile is not None:
                group.create_task(_run(meanwhile))
                await asyncio.sleep(0)
            started_ns = await self._trigger.pull()
            triggered_ns = time.monotonic_ns()
        answers = waiting.result()
        latencies = array("q", (at - started_ns for answer in answers for at in unpacked(answer["receipts_ns"])))
        excused = due - len(latencies) - sum(answer["due"] for answer in answers)
        if len(latencies) < due - excused:
            problems.append(
                f"a push: {due - excused - len(latencies):,} of {due - excused:,} sidecars did not get it "
                f"within {options.timeout_s:g} s"
            )
        push = Push(
            due=due - excused,
            received=len(latencies),
            trigger_ms=round((triggered_ns - started_ns) / 1e6, 3),
            latency=Latency.of(latencies),
        )
        return push, latencies

    async def _totals(self) -> _Totals:
        stats = await self._workers.ask("stats")
        return _Totals(
            cpu_s=sum(one["cpu_s"] for one in stats) + time.process_time(),
            responses=sum(one["responses"] for one in stats),
            bytes_received=sum(one["bytes_received"] for one in stats),
        )

    def _server_cpu(self) -> CpuUse | None:
        return None if self._server is None else self._server.cpu()


async def _run(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def _each_us(before_s: float, after_s: float, count: int) -> float | None:
    return round((after_s - before_s) * 1e6 / count, 3) if count else None
