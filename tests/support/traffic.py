"""A load generator in a separate process: keep-alive HTTP/1.1 over raw sockets, which counts every failure.

A failure is any status but 200, a refused connection, a connection lost while an answer is due, an answer that isn't
HTTP, or no answer within the timeout. Closing an idle connection, or announcing ``connection: close``, is no failure.
Loads are always bounded in time and in requests.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from support.waiting import for_a_while, turns, until_due, wait_until

SAMPLES_MAX = 50
RECONNECT_S = 0.01
REPORT_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request: Unix time, kind (a status, ``connect``, ``reset``, ``malformed``, ``timeout``), some text."""

    at: float
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class TrafficReport:
    """The results of the load so far. ``requests`` = ``ok`` + all ``failed``; ``served`` counts by ``x-upstream``."""

    requests: int
    ok: int
    failed: dict[str, int]
    served: dict[str, int]
    samples: list[Failure]
    duration_s: float
    latency_p50_ms: float
    latency_p99_ms: float
    latency_max_ms: float
    ran_out: bool
    """Whether the load ended by itself, before ``stop``."""

    @property
    def failures(self) -> int:
        """The number of failed requests, of all kinds."""
        return sum(self.failed.values())

    def __str__(self) -> str:
        rate = self.requests / self.duration_s if self.duration_s else 0.0
        kinds = ", ".join(f"{count} × {kind}" for kind, count in sorted(self.failed.items())) or "0 failed"
        latency = (
            f"p50 {self.latency_p50_ms:.1f} ms, p99 {self.latency_p99_ms:.1f} ms, max {self.latency_max_ms:.1f} ms"
        )
        return f"{self.requests} requests in {self.duration_s:.1f} s ({rate:.0f}/s): {kinds}; {latency}"


class Traffic:
    """Load on a local port: ``async with Traffic(port) as traffic: …; report = await traffic.stop()``.

    ``rate`` is requests a second over all connections (default: as fast as answers come). The load ends by itself after
    ``seconds_max`` or ``requests_max``.
    """

    def __init__(
        self,
        port: int,
        *,
        path: str = "/",
        host: str = "127.0.0.1",
        connections: int = 8,
        rate: float | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
        seconds_max: float = 3_600.0,
        requests_max: int = 20_000_000,
    ) -> None:
        from support.processes import Worker  # not at the top: the worker runs this file as a script

        lines = {"host": f"{host}:{port}"} | {name.lower(): value for name, value in (headers or {}).items()}
        head = f"GET {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
        load = {"host": host, "port": port, "head": head, "connections": connections, "rate": rate}
        load |= {"timeout_s": timeout_s, "seconds_max": seconds_max, "requests_max": requests_max}
        self.worker = Worker(__file__, json.dumps(load), name="traffic")
        self._last: TrafficReport | None = None

    async def start(self) -> Self:
        """Start the process and the load; return once the load runs."""
        self.worker.start()
        await self.worker.call("start")
        return self

    async def report(self) -> TrafficReport:
        """Return the figures so far; the load goes on."""
        return _report(await self.worker.call("report"))

    async def wait_requests(self, count: int, *, timeout_s: float = 20.0) -> TrafficReport:
        """Wait until ``count`` more requests have been made, so that the load has seen the latest change."""
        goal = (await self.report()).requests + count
        return await wait_until(
            self.report, lambda report: report.requests >= goal, timeout_s=timeout_s, poll_s=REPORT_POLL_S
        )

    async def wait_ran_out(self, *, timeout_s: float = 20.0) -> TrafficReport:
        """Wait until the load has ended by itself."""
        return await wait_until(self.report, lambda report: report.ran_out, timeout_s=timeout_s, poll_s=REPORT_POLL_S)

    async def stop(self) -> TrafficReport:
        """End the load, after answers still due, and the process; return the final figures."""
        if self._last is None:
            self._last = _report(await self.worker.call("stop"))
            await asyncio.to_thread(self.worker.stop)
        return self._last

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.worker.stop)


def _report(said: dict[str, Any]) -> TrafficReport:
    samples = [Failure(**sample) for sample in said.pop("samples")]
    return TrafficReport(**said, samples=samples)


# --- The worker process


@dataclass
class _Load:
    host: str
    port: int
    head: str
    connections: int
    rate: float | None
    timeout_s: float
    seconds_max: float
    requests_max: int
    begun: float = 0.0
    ended: float = 0.0
    stopping: bool = False
    ran_out: bool = False
    requests: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, Any]] = field(default_factory=list)
    latencies: Counter[int] = field(default_factory=Counter)  # in tenths of a millisecond

    @property
    def over(self) -> bool:
        spent = time.monotonic() - self.begun > self.seconds_max
        return self.stopping or spent or self.requests >= self.requests_max

    def fail(self, kind: str, detail: object) -> None:
        self.requests += 1
        self.failed[kind] += 1
        if len(self.samples) < SAMPLES_MAX:
            self.samples.append({"at": time.time(), "kind": kind, "detail": str(detail)[:200]})

    def count(self, status: bytes, head: bytes, body: bytes, seconds: float) -> None:
        self.latencies[round(seconds * 10_000)] += 1
        if status != b"200":
            self.fail(status.decode(), body.decode(errors="replace"))
            return
        self.requests += 1
        self.served[_header(head, b"x-upstream") or ""] += 1

    def report(self) -> dict[str, Any]:
        failures = sum(self.failed.values())
        figures = {"requests": self.requests, "ok": self.requests - failures, "failed": self.failed}
        figures |= {"served": self.served, "samples": self.samples, "ran_out": self.ran_out}
        figures["duration_s"] = (self.ended or time.monotonic()) - self.begun
        ranks = {"latency_p50_ms": 0.5, "latency_p99_ms": 0.99, "latency_max_ms": 1.0}
        return figures | {name: _quantile(self.latencies, rank) for name, rank in ranks.items()}


def _quantile(latencies: Counter[int], rank: float) -> float:
    left = rank * latencies.total()
    for tenths in sorted(latencies):
        left -= latencies[tenths]
        if left <= 0:
            return tenths / 10
    return 0.0


def _header(head: bytes, name: bytes) -> str | None:
    start = head.find(b"\r\n" + name + b": ")
    if start < 0:
        return None
    start += len(name) + 4
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else None].decode()


async def _client(load: _Load, index: int) -> None:
    """Make requests one after the other, on one connection while it is open."""
    request = load.head.encode()
    every_s = load.connections / load.rate if load.rate else 0.0
    due = load.begun + every_s * index / load.connections
    stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while not load.over:
        if every_s:
            await until_due(due)
            due += every_s
        if stream is not None and stream[0].at_eof():
            stream = _closed(stream)
        if stream is None:
            stream = await _connected(load)
        if stream is not None and not await _one_request(load, request, *stream):
            stream = _closed(stream)
    _closed(stream)


def _closed(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
    if stream is not None:
        stream[1].transport.abort()


async def _connected(load: _Load) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    try:
        async with asyncio.timeout(load.timeout_s):
            return await asyncio.open_connection(load.host, load.port)
    except (OSError, TimeoutError) as error:
        load.fail("connect", error)
        await for_a_while(RECONNECT_S, "a closed port is not to be counted as thousands of failures a second")
        return None


async def _one_request(load: _Load, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Make one request, count it, and return whether the connection can be used again."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(load.timeout_s):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(int(_header(head, b"content-length") or "x"))
    except TimeoutError:
        load.fail("timeout", f"no answer within {load.timeout_s} s")
    except (OSError, asyncio.IncompleteReadError) as error:
        load.fail("reset", repr(error))
    except (ValueError, asyncio.LimitOverrunError) as error:
        load.fail("malformed", repr(error))
    else:
        load.count(head[9:12], head, body, time.monotonic() - began)
        return b"\r\nconnection: close\r\n" not in head
    return False


async def _run(load: _Load) -> None:
    load.begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for index in range(load.connections):
            group.create_task(_client(load, index))
    load.ended, load.ran_out = time.monotonic(), not load.stopping


async def _main(load: _Load) -> None:
    running: asyncio.Task[None] | None = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)["command"]
        if command == "start" and running is None:
            running = asyncio.create_task(_run(load))
            await turns()
        if command == "stop" and running is not None:
            load.stopping = True
            await running
        print(json.dumps(load.report()), flush=True)
    load.stopping = True


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main(_Load(**json.loads(sys.argv[1]))))
