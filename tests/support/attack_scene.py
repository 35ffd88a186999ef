"""A server with streams that receive pushes, an attacker beside them, and measurements of all three."""

import asyncio
import base64
import contextlib
import os
import statistics
import time
from array import array
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support import resources as r
from support.fetch import fetch
from support.processes import ChildFailedError, Worker
from support.running import children_of
from support.server import XdsServer
from support.waiting import NotMetError, for_a_while, until_due, wait_until
from xds.client import Client
from xds.fleet.processes import ProcessGoneError, ProcessTree

HERE = Path(__file__).parent
NAMES = 20
BIG = 5_000
TOKEN = "let-me-in"
SAMPLE_S = 0.1
HEALTH_INTERVAL_S = 0.25
WARM_S = 2.0
LATE_S = 40.0
BACK_S = 30.0
TURNS_TIMES_MAX = 2
DOUBT = (0.3, 0.9)
RSS_MAX = 6 << 30
"""An attack that makes the server use more than this is stopped, and counts as successful."""


def assignment(number: int) -> r.Json:
    """Return the assignment that push ``number`` sets."""
    made = r.assignment(f"c{number % NAMES}", 8_080)
    made["endpoints"][0]["lb_endpoints"][0]["endpoint"]["hostname"] = f"push-{number}."
    return made


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile by nearest rank, NaN without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


@dataclass(slots=True)
class Window:
    """Measurements of one window of time. A latency is from sending a push to its receipt by a stream, in seconds."""

    began: float
    ended: float = 0.0
    pushes: list[int] = field(default_factory=list)
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    lost: int = 0
    health: list[tuple[float, int]] = field(default_factory=list)
    cpu_s: float = 0.0
    waited_s: float = 0.0
    log_bytes: int = 0
    peak_bytes: int = 0

    @property
    def p50_s(self) -> float:
        """The median latency."""
        return percentile(self.latencies, 0.5)

    @property
    def p99_s(self) -> float:
        """The latency that one receipt in a hundred exceeds."""
        return percentile(self.latencies, 0.99)

    @property
    def cpu_share(self) -> float:
        """The server's CPU time per second."""
        return self.cpu_s / (self.ended - self.began)


@dataclass(slots=True)
class Report:
    """The requests of one attack, and its effects on the server, its streams and newcomers."""

    name: str
    streams: int
    before: list[Window]
    during: list[Window]
    attacker: dict[str, Any]
    dropped: dict[str, int]
    open_streams: int
    newcomers_before: list[float | None]
    newcomers_during: list[float | None]
    memory_before: int
    memory_peak: int
    memory_after: int
    memory_back_s: float | None
    workers_replaced: int
    push_errors: list[str]
    called_off: bool

    @property
    def ratio(self) -> float:
        """p99 under attack divided by p99 right before it: the median of the turns."""
        pairs = zip(self.before, self.during, strict=True)
        return statistics.median(during.p99_s / before.p99_s for before, during in pairs)

    @property
    def extra_cpu_s(self) -> float:
        """The server's additional CPU time under attack."""
        share = statistics.mean(window.cpu_share for window in self.before)
        return sum(window.cpu_s - share * (window.ended - window.began) for window in self.during)

    @property
    def log_bytes(self) -> int:
        """The bytes logged during the attack."""
        return sum(window.log_bytes for window in self.during)

    @property
    def unhealthy(self) -> list[tuple[float, int]]:
        """The answers of /healthz that were not 200, each with its time."""
        return [each for window in self.during for each in window.health if each[1] != 200]

    def turns(self) -> str:
        """Return each turn's p99, without and with the attack, and the time that the server waited for a core."""
        pairs = zip(self.before, self.during, strict=True)
        return "; ".join(
            f"{_ms(a.p99_s)} -> {_ms(b.p99_s)} (waited {_ms(a.waited_s)} -> {_ms(b.waited_s)})" for a, b in pairs
        )

    def faults(self, *, p99_floor_s: float) -> list[str]:
        """Return all of the server's failures."""
        found = []
        if self.dropped or self.open_streams != self.streams:
            found.append(f"{self.streams - self.open_streams} of {self.streams} streams dropped: {self.dropped}")
        if lost := sum(window.lost for window in [*self.before, *self.during]):
            found.append(f"{lost} pushes did not come within {LATE_S:g} s")
        if slower(self.before, self.during, p99_floor_s) > 0.5:
            found.append(f"p99 is {self.ratio:.1f} times what it was")
        if not abs(self.memory_after - self.memory_before) <= 0.1 * self.memory_before:
            found.append(
                f"memory {self.memory_before >> 20} MB before, {self.memory_after >> 20} MB {BACK_S:g} s after"
            )
        if self.workers_replaced:
            found.append(f"{self.workers_replaced} workers ended")
        if self.unhealthy:
            found.append(f"/healthz failed {len(self.unhealthy)} times, such as {self.unhealthy[0]}")
        slow = [each for each in self.newcomers_during if each is None or each > 2.0]
        if slow:
            found.append(f"{len(slow)} of {len(self.newcomers_during)} newcomers waited more than 2 s: {slow[:4]}")
        if self.log_bytes > 1 << 20:
            found.append(f"{self.log_bytes / 1e6:.1f} MB of log")
        if self.push_errors:
            found.append(f"{len(self.push_errors)} pushes failed: {self.push_errors[0]}")
        if self.called_off:
            found.append(f"called off at {self.memory_peak >> 20} MB")
        return found

    HEAD = (
        f"{'attack':<16} {'dropped':>7} {'p50 ms':>13} {'p99 ms':>15} {'ratio':>6} {'newcomer ms':>13} "
        f"{'memory MB':>15} {'back s':>6} {'log KB':>7} {'server s':>8} {'its own':>7} {'conns':>7} {'requests':>8} "
        f"{'sent MB':>8}  answers"
    )

    def line(self) -> str:
        """Return the report as a row of the table."""
        before, during = Joined(self.before), Joined(self.during)
        worst = [float("inf") if each is None else each for each in self.newcomers_during]
        back = "-" if self.memory_back_s is None else f"{self.memory_back_s:.1f}"
        memory = f"{self.memory_before >> 20} {self.memory_peak >> 20} {self.memory_after >> 20}"
        answers = ", ".join(f"{what} {count}" for what, count in list(self.attacker["answers"].items())[:4])
        newcomers = f"{_ms(percentile([e for e in self.newcomers_before if e], 0.5))} {_ms(max(worst, default=0))}"
        return (
            f"{self.name:<16} {self.streams - self.open_streams:>7} {_ms(before.p50_s) + ' ' + _ms(during.p50_s):>13} "
            f"{_ms(before.p99_s) + ' ' + _ms(during.p99_s):>15} {self.ratio:>6.2f} {newcomers:>13} {memory:>15} "
            f"{back:>6} {self.log_bytes / 1e3:>7.1f} {self.extra_cpu_s:>8.2f} {self.attacker['cpu_s']:>7.2f} "
            f"{self.attacker['connections']:>7} {self.attacker['requests']:>8} "
            f"{self.attacker['sent_bytes'] / 1e6:>8.1f}  {answers}"
        )


def slower(before: list[Window], during: list[Window], floor_s: float) -> float:
    """Return the share of turns whose p99 under attack exceeds ``floor_s`` and twice the p99 before."""
    pairs = zip(before, during, strict=True)
    return statistics.mean(after.p99_s > max(2 * ahead.p99_s, floor_s) for ahead, after in pairs)


class Joined:
    """Several windows as one."""

    def __init__(self, windows: Iterable[Window]) -> None:
        every = [each for window in windows for each in window.latencies]
        self.p50_s, self.p99_s = percentile(every, 0.5), percentile(every, 0.99)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


class Scene:
    """The server, its streams and the pushes during an attack."""

    def __init__(
        self, server: XdsServer, crowd: Worker, attacker: Worker, client: Client, *, pushes_per_s: float
    ) -> None:
        self.server, self.crowd, self.attacker, self.client = server, crowd, attacker, client
        self.pushes_per_s = pushes_per_s
        self.tree = ProcessTree([server.pid])
        self.pushed_at: dict[int, float] = {}
        self.number = 2 * NAMES - 1
        self.push_errors: list[str] = []
        self.health: list[tuple[float, int, float]] = []
        self.memory_bytes = self.peak_bytes = 0
        self.called_off = False

    def anonymous_bytes(self) -> int:
        """Return the memory of the server and all its workers that is not mapped from files."""
        total = 0
        for pid in [self.server.pid, *children_of(self.server.pid)]:
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/status").read_text()
                found = text.partition("RssAnon:")[2].split()
                total += int(found[0]) << 10 if found else 0
        return total

    def waited_s(self) -> float:
        """Return the time that the server's processes waited for a core (schedstat of proc(5))."""
        total = 0
        for pid in [self.server.pid, *children_of(self.server.pid)]:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    total += int((task / "schedstat").read_text().split()[1])
        return total / 1e9

    async def sample(self) -> None:
        """Record the memory ten times a second, and stop the attack before it exhausts the machine's."""
        while True:
            with contextlib.suppress(OSError):
                self.memory_bytes = self.anonymous_bytes()
            self.peak_bytes = max(self.peak_bytes, self.memory_bytes)
            if self.memory_bytes > RSS_MAX and not self.called_off:
                self.called_off = True
                self.attacker.kill()
            await for_a_while(SAMPLE_S, "the interval of the samples")

    async def probe(self) -> None:
        """Request /healthz four times a second, each time on a new connection."""

        async def once(began: float) -> None:
            status = 0
            with contextlib.suppress(OSError, TimeoutError):
                status = (await fetch(self.server.admin_port, "/healthz", timeout_s=5.0)).status
            self.health.append((began, status, time.monotonic() - began))

        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(once(time.monotonic()))
                await for_a_while(HEALTH_INTERVAL_S, "the interval of the probes")

    async def push(self, seconds: float) -> Window:
        """Push at the steady rate for ``seconds``, without waiting for receipts."""
        window = Window(time.monotonic(), cpu_s=-self.tree.cpu_s(), log_bytes=-self.server.log_path.stat().st_size)
        self.peak_bytes = self.memory_bytes
        window.waited_s -= self.waited_s()
        due, waiting = window.began, []
        async with self.client.pushing_endpoints() as push:
            while due < window.began + seconds:
                await until_due(due)
                self.number += 1
                self.pushed_at[self.number] = time.monotonic()
                window.pushes.append(self.number)
                waiting.append(await push(assignment(self.number)))
                due += 1 / self.pushes_per_s
            window.ended = time.monotonic()
            with contextlib.suppress(ProcessGoneError):
                window.cpu_s += self.tree.cpu_s()
                window.waited_s += self.waited_s()
            window.log_bytes += self.server.log_path.stat().st_size
            window.peak_bytes = self.peak_bytes
            _, late = await asyncio.wait(waiting, timeout=LATE_S)
            self.push_errors += [f"not acknowledged within {LATE_S:g} s" for _ in late]
            self.push_errors += [repr(each.exception()) for each in waiting if each.done() and each.exception()]
        return window

    async def window(self, seconds: float, streams: int) -> Window:
        """Push for ``seconds``, and return the measurements."""
        return await self.settle(await self.push(seconds), streams)

    async def settle(self, window: Window, streams: int) -> Window:
        """Wait until all streams have received all of a window's pushes, and add the latencies; late ones are lost."""

        async def least() -> int:
            return min((await self.crowd.call("counts", pushes=window.pushes, timeout_s=60.0))["counts"])

        with contextlib.suppress(NotMetError):
            await wait_until(least, lambda count: count >= streams, timeout_s=LATE_S, poll_s=0.05)
        found = (await self.crowd.call("receipts", pushes=window.pushes, timeout_s=60.0))["receipts"]
        for number in window.pushes:
            times = array("d")
            times.frombytes(base64.b64decode(found[str(number)]))
            window.latencies.extend(at - self.pushed_at[number] for at in times)
        window.lost = streams * len(window.pushes) - len(window.latencies)
        window.health = [
            (round(began - window.began, 2), status)
            for began, status, _ in self.health
            if window.began <= began <= window.ended
        ]
        return window

    async def _attack(self, name: str, seconds: float) -> dict[str, Any]:
        try:
            return await self.attacker.call("run", name=name, seconds=seconds, timeout_s=seconds + 60.0)
        except ChildFailedError:
            if not self.called_off:
                raise
            nothing = {"connections": 0, "requests": 0, "sent_bytes": 0, "received_bytes": 0, "cpu_s": 0.0, "wall_s": 0}
            return nothing | {"answers": {"called off": 1}}

    async def suffer(
        self, name: str, *, streams: int, turns: int, seconds: float, p99_floor_s: float, first_turn: int = 0
    ) -> Report:
        """Attack in turns, with windows without attack between them, and return the report.

        ``first_turn``: the turn from which on memory is compared.
        """
        ports = {"xds": self.server.port, "admin": self.server.admin_port, "api": self.server.api_port}
        scale = min(1.0, streams / 1_000)
        await self.attacker.call("prepare", name=name, ports=ports, token=TOKEN, scale=scale, timeout_s=120.0)
        before: list[Window] = []
        during: list[Window] = []
        attacks: list[dict[str, Any]] = []
        await self.crowd.call("newcomers_begin")
        background = [asyncio.create_task(self.sample()), asyncio.create_task(self.probe())]
        try:
            await self.window(WARM_S, streams)
            memory_before = 0
            for turn in range(TURNS_TIMES_MAX * turns):
                # If a turn or two of noise could decide, there are more turns.
                if turn >= turns and not DOUBT[0] < slower(before, during, p99_floor_s) < DOUBT[1]:
                    break
                before.append(await self.window(seconds, streams))
                if turn >= first_turn:
                    memory_before = memory_before or self.anonymous_bytes()
                attacking = asyncio.create_task(self._attack(name, seconds))
                during.append(await self.push(seconds))
                attacks.append(await attacking)
                await self.settle(during[-1], streams)
                during[-1].peak_bytes = max(during[-1].peak_bytes, self.peak_bytes)
            if not self.called_off:
                await self.attacker.call("clean", name=name, timeout_s=120.0)
            back_s = await self._back(memory_before)
            newcomers = (await self.crowd.call("newcomers_end", timeout_s=60.0))["newcomers"]
            state = await self.crowd.call("state")
        finally:
            for each in background:
                each.cancel()
            await asyncio.gather(*background, return_exceptions=True)
        return Report(
            name=name,
            streams=streams,
            before=before,
            during=during,
            attacker=_summed(attacks),
            dropped=state["dropped"],
            open_streams=state["open"],
            newcomers_before=_within(before, newcomers),
            newcomers_during=_within(during, newcomers),
            memory_before=memory_before,
            memory_peak=max(window.peak_bytes for window in during),
            memory_after=self.anonymous_bytes(),
            memory_back_s=back_s,
            workers_replaced=len(self.server.events("a worker ended and is replaced")),
            push_errors=self.push_errors,
            called_off=self.called_off,
        )

    async def _back(self, before: int) -> float | None:
        """Wait until the memory is back to within a tenth of ``before``; return the time it took, None if it is not."""
        started = time.monotonic()
        try:
            await wait_until(
                self.anonymous_bytes, lambda now: abs(now - before) <= 0.1 * before, timeout_s=BACK_S, poll_s=0.1
            )
        except NotMetError:
            return None
        return time.monotonic() - started


def _within(windows: list[Window], newcomers: list[list[float | None]]) -> list[float | None]:
    return [took for began, took in newcomers if any(w.began <= (began or 0) <= w.ended for w in windows)]


def _summed(attacks: list[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {"answers": {}}
    for each in attacks:
        for key, value in each.items():
            if key == "answers":
                for what, count in value.items():
                    total["answers"][what] = total["answers"].get(what, 0) + count
            else:
                total[key] = total.get(key, 0) + value
    total["answers"] = dict(sorted(total["answers"].items(), key=lambda pair: -pair[1]))
    return total


@contextlib.asynccontextmanager
async def scene(streams: int, directory: Path, *, pushes_per_s: float, big: bool) -> AsyncIterator[Scene]:
    """Start a server with two workers, its streams in a process of their own, and an idle attacker.

    With ``big`` there is also a group of 5,000 clusters, for nodes of the cluster ``big``.
    """
    token_file = directory / "token"
    token_file.write_text(TOKEN)
    options = ("--workers", "2", "--api-token-file", str(token_file))
    crowd = Worker(HERE / "steady_streams.py", name="streams")
    attacker = Worker(HERE / "attackers.py", name="attacker")
    async with XdsServer(None, *options) as server, crowd, attacker:
        await server.wait_ready()
        async with Client(f"127.0.0.1:{server.api_port}", token=TOKEN) as client:
            clusters = [r.cluster(f"c{number}") for number in range(NAMES)]
            await client.apply(upsert=[*clusters, *map(assignment, range(NAMES, 2 * NAMES))])
            await client.put_group("big")
            await client.put_rules({"groups": {"big": {}}, "rules": [{"group": "big", "match": {"cluster": "big"}}]})
            if big:
                # Names of 100 characters, as in service meshes.
                many = [r.static_cluster(f"cluster-{number}-".ljust(100, "x"), 1) for number in range(BIG)]
                await client.apply(upsert=many, group="big")
            await crowd.call("connect", port=server.port, count=streams, names=NAMES, timeout_s=60.0)
            yield Scene(server, crowd, attacker, client, pushes_per_s=pushes_per_s)


def machine() -> str:
    """Return a description of the machine."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "?",
    )
    return f"{os.cpu_count()} cores of {model}"
