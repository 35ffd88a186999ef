"""One process of the fleet: reads commands as JSON lines on stdin, and answers on stdout.

Each command is a method named ``do_...``: its arguments are the command's fields, its return value is the answer.
"""

import asyncio
import base64
import gc
import json
import os
import random
import resource
import sys
import time
from array import array
from collections.abc import Iterable
from typing import Any

from xds.fleet.behaviour import Behaviour
from xds.fleet.config import WorkerConfig
from xds.fleet.crowd import Crowd
from xds.fleet.fatal import start
from xds.fleet.sidecar import Sidecar
from xds.fleet.verify import differences, equal, summary, waiting_for
from xds.fleet.wire import Outgoing, delta_request
from xds.model.types import ENDPOINTS

LINE_BYTES_MAX = 64 << 20
PROGRESS_INTERVAL_S = 0.25
PROBE_TIMEOUT_S = 2.0
QUIET_S = 1.0
POLL_S = 0.05
EXAMPLES_MAX = 5
_COMPARED = (Behaviour.WELL, Behaviour.SLOW)


class FleetWorker:
    """The commands of one process."""

    def __init__(self, config: WorkerConfig) -> None:
        self.crowd = Crowd(config, probe=f"xds-fleet-probe-{os.getpid()}-{random.getrandbits(32):08x}")
        self._tasks: set[asyncio.Task[None]] = set()
        self._churning: asyncio.Task[None] | None = None
        self._sipping: asyncio.Task[None] | None = None

    async def do_survey(self, timeout_s: float) -> dict[str, Any]:
        """Connect one sidecar alone; return the server's resources and whether it answers probes."""
        crowd = self.crowd
        observer = Sidecar(crowd, -1)
        await crowd.connect([observer])
        await self._wait_calm(timeout_s)
        if observer.left:
            return {"problem": _example(crowd)}
        if not observer.synced:
            observer.leave()
            return {
                "problem": f"not synced after {timeout_s:g} s: {waiting_for(crowd.sessions.plan, observer.session)}"
            }
        found = summary(crowd.sessions.plan, observer.session)
        probed = await self._probe(observer)
        crowd.drop(observer)
        return {"problem": None, "types": found, "answers_probe": probed}

    async def _probe(self, observer: Sidecar) -> bool:
        """Return whether the server answers at once that an assignment does not exist."""
        crowd = self.crowd
        index = crowd.sessions.plan.index.get(ENDPOINTS)
        if crowd.sessions.plan.sotw or index is None or not observer.session.types[index].asked:
            return False
        observer.await_probe()
        observer.send(Outgoing.of([delta_request(ENDPOINTS, subscribe=[crowd.probe])]))
        await self._wait_calm(PROBE_TIMEOUT_S)
        return not observer.probing

    async def do_begin(self, probes: bool) -> dict[str, Any]:
        """Set whether reconnecting sidecars end their burst with a probe; if not, a ping replaces it."""
        if not probes:
            self.crowd.probe = ""
        return {}

    async def do_connect(self, count: int, rate_per_s: float | None, timeout_s: float) -> dict[str, Any]:
        """Add sidecars and wait until all are synced."""
        crowd = self.crowd
        added = crowd.create(count)
        started_ns = time.monotonic_ns()
        deadline_s = time.monotonic() + timeout_s
        reporting = start(self._tasks, "progress", self._report_progress(added))
        await crowd.connect(added, rate_per_s=rate_per_s)
        await self._wait_calm(deadline_s - time.monotonic())
        reporting.cancel()
        answer = self._connected(added, started_ns)
        gc.collect()
        gc.freeze()
        return answer

    def _connected(self, sidecars: Iterable[Sidecar], started_ns: int) -> dict[str, Any]:
        plan = self.crowd.sessions.plan
        synced, waiting = array("q"), list[str]()
        last_ns = started_ns
        for sidecar in sidecars:
            if sidecar.synced:
                synced.append(sidecar.synced_ns - sidecar.started_ns)
                last_ns = max(last_ns, sidecar.synced_ns)
            elif not sidecar.left and len(waiting) < EXAMPLES_MAX:
                waiting.append(f"{sidecar.node_id}: {waiting_for(plan, sidecar.session)}")
        return {
            "synced": len(synced),
            "latencies_ns": _packed(synced),
            "first_ns": started_ns,
            "last_ns": last_ns,
            "waiting": waiting,
        }

    async def _report_progress(self, sidecars: list[Sidecar]) -> None:
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL_S)
            say({"event": "progress", "done": sum(sidecar.synced for sidecar in sidecars)})

    async def do_misbehave(self) -> dict[str, Any]:
        """Start the misbehaviour of sidecars that read slowly or never, or reject; return the counts by behaviour."""
        for sidecar in self.crowd.sidecars:
            if sidecar.synced:
                sidecar.misbehave()
        if self._sipping is None and self.crowd.config.mix.slow:
            self._sipping = start(self._tasks, "slow reading", self._sip(self.crowd.config.slow_interval_s))
        counts = [sidecar.behaviour for sidecar in self.crowd.sidecars]
        return {behaviour.name.lower(): counts.count(behaviour) for behaviour in Behaviour}

    async def _sip(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            for sidecar in self.crowd.sidecars:
                if sidecar.misbehaving and sidecar.behaviour is Behaviour.SLOW:
                    sidecar.sip()

    async def do_push(self, responses: int) -> dict[str, Any]:
        """Prepare for a push: responses received from now on are counted."""
        return {"due": self.crowd.begin_push(responses)}

    async def do_served(self, timeout_s: float) -> dict[str, Any]:
        """Wait until every counted sidecar is served; return the times at which they were."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.crowd.all_served.wait()
        except TimeoutError:
            pass
        return {"receipts_ns": _packed(self.crowd.receipts), "due": self.crowd.due}

    async def do_churn(self, rate_per_s: float) -> dict[str, Any]:
        """Start to drop and reconnect ``rate_per_s`` sidecars a second; only the first such command has an effect."""
        if self._churning is None and self.crowd.sidecars:
            self._churning = start(self._tasks, "churn", self._churn(rate_per_s))
        return {}

    async def _churn(self, rate_per_s: float) -> None:
        crowd = self.crowd
        due_s = time.monotonic()
        while True:
            due_s += 1 / rate_per_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            sidecar = random.choice(crowd.sidecars)  # noqa: S311 (no secret)
            if sidecar.synced and sidecar.behaviour is Behaviour.WELL:
                crowd.churned += 1
                self._start(crowd.connect(crowd.reconnect([sidecar], probing=True)))

    async def do_stop_churn(self, timeout_s: float) -> dict[str, Any]:
        """Stop the churn, and wait until the dropped sidecars are synced again."""
        if self._churning is not None:
            self._churning.cancel()
        await self._wait_calm(timeout_s)
        return {}

    async def do_storm(self, timeout_s: float) -> dict[str, Any]:
        """Drop all well-behaved sidecars at once and reconnect them with their sessions."""
        crowd = self.crowd
        targets = [s for s in crowd.sidecars if s.behaviour is Behaviour.WELL and not s.left]
        crowd.resent, responses = 0, crowd.responses
        deadline_s = time.monotonic() + timeout_s
        started_ns = time.monotonic_ns()
        successors = crowd.reconnect(targets, probing=True)
        await asyncio.sleep(0)  # old connections close before new ones are opened
        await crowd.connect(successors)
        await self._wait_calm(deadline_s - time.monotonic())
        if not crowd.probe:
            await self._wait_quiet(deadline_s)
        answer = self._connected(successors, started_ns)
        answer["since_start_ns"] = _packed(array("q", (s.synced_ns - started_ns for s in successors if s.synced)))
        return answer | {
            "count": len(successors),
            "resources": crowd.resent,
            "responses": crowd.responses - responses,
        }

    async def do_verify(self, timeout_s: float) -> dict[str, Any]:
        """Compare every sidecar with an observer that connects now."""
        crowd = self.crowd
        plan = crowd.sessions.plan
        if self._sipping is not None:
            self._sipping.cancel()
        for sidecar in crowd.sidecars:
            if sidecar.behaviour is Behaviour.SLOW:
                sidecar.drink()
        deadline_s = time.monotonic() + timeout_s
        await self._wait_calm(timeout_s)
        observer = Sidecar(crowd, -1)
        await crowd.connect([observer])
        compared = [sidecar for sidecar in crowd.sidecars if sidecar.behaviour in _COMPARED and not sidecar.left]
        different = compared
        while not observer.left:
            different = [sidecar for sidecar in compared if not equal(sidecar.session, observer.session)]
            if (observer.synced and not different) or time.monotonic() > deadline_s:
                break
            await asyncio.sleep(POLL_S)
        if not observer.synced:
            return {"problem": _example(crowd) if observer.left else waiting_for(plan, observer.session)}
        examples = [
            f"{sidecar.node_id}: {difference}"
            for sidecar in different[:EXAMPLES_MAX]
            for difference in differences(plan, sidecar.session, observer.session)
        ]
        crowd.drop(observer)
        return {
            "problem": None,
            "compared": len(compared),
            "different": len(different),
            "excluded": _excluded(crowd),
            "examples": examples,
            "state": summary(plan, observer.session),
        }

    async def do_stats(self) -> dict[str, Any]:
        """Return the counters."""
        crowd = self.crowd
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "bytes_received": crowd.shared.bytes_received,
            "responses": crowd.responses,
            "resources": crowd.resources,
            "rejected": crowd.rejected,
            "churned": crowd.churned,
            "lost": crowd.lost_count,
            "losses": dict(crowd.losses),
            "examples": crowd.examples,
            "streams": sum(not sidecar.left for sidecar in crowd.sidecars),
        }

    async def _wait_calm(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self.crowd.calm.wait()
        except TimeoutError:
            return False
        return True

    async def _wait_quiet(self, deadline_s: float) -> None:
        """Wait until nothing is received for ``QUIET_S``, at most until the deadline."""
        seen, since_s = self.crowd.responses, time.monotonic()
        while time.monotonic() < min(since_s + QUIET_S, deadline_s):
            await asyncio.sleep(POLL_S)
            if self.crowd.responses != seen:
                seen, since_s = self.crowd.responses, time.monotonic()

    def _start(self, work: Any) -> None:
        start(self._tasks, "a reconnect", work)


def _excluded(crowd: Crowd) -> dict[str, int]:
    """Return the number of sidecars that are not compared, by reason."""
    reasons = ["lost" if sidecar.left else sidecar.behaviour.name.lower() for sidecar in crowd.sidecars]
    return {reason: reasons.count(reason) for reason in ("stuck", "nacking", "lost") if reason in reasons}


def say(answer: dict[str, Any]) -> None:
    """Write one line to the parent process."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _packed(numbers: "array[int]") -> str:
    return base64.b64encode(numbers.tobytes()).decode()


def unpacked(text: str) -> "array[int]":
    """Unpack the numbers of an answer."""
    numbers = array("q")
    numbers.frombytes(base64.b64decode(text))
    return numbers


def _example(crowd: Crowd) -> str:
    return next(iter(crowd.examples.values()), "the connection was lost")


async def _answer(worker: FleetWorker, command: dict[str, Any]) -> None:
    number, name = command.pop("id"), command.pop("do")
    try:
        say({"id": number, "answer": await getattr(worker, f"do_{name}")(**command)})
    except Exception as error:
        say({"id": number, "error": f"{name}: {error!r}"})
        raise


async def serve() -> None:
    """Read the config, then commands, until stdin ends. An error in a command is reported and ends the process."""
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    worker = FleetWorker(WorkerConfig.from_json((await reader.readline()).decode()))
    say({"event": "ready"})
    async with asyncio.TaskGroup() as group:
        while line := await reader.readline():
            command = json.loads(line)
            if command["do"] == "end":
                os._exit(0)  # ends all running work, without closing each connection
            group.create_task(_answer(worker, command))
        os._exit(0)


def main() -> None:
    """Run a worker process."""
    import uvloop

    gc.disable()  # objects live for the whole run; few cycles arise
    uvloop.run(serve())


if __name__ == "__main__":
    main()
