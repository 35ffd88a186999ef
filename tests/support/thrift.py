"""Thrift over framed transport and binary protocol, as much as a load needs: upstreams that answer, clients that call.

A call is ``who()``, which an upstream answers with its name. A failure is an exception, a lost connection or no answer.
"""

import asyncio
import contextlib
import struct
import time
from collections import Counter
from functools import partial
from typing import Self

from support.traffic import Failure, TrafficReport
from support.waiting import until_due, wait_until

CALL, REPLY, EXCEPTION = 1, 2, 3
VERSION = 0x80010000
METHOD = b"who"
STRING, STOP = 11, 0


def frame(kind: int, sequence: int, body: bytes) -> bytes:
    """Return a framed message of the method ``who``."""
    message = struct.pack(">II", VERSION | kind, len(METHOD)) + METHOD + struct.pack(">I", sequence) + body
    return struct.pack(">I", len(message)) + message


def answer(name: bytes) -> bytes:
    """Return a result struct with one string: field 0."""
    return struct.pack(">BhI", STRING, 0, len(name)) + name + bytes([STOP])


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    """Read a message; return its kind, sequence number and body."""
    (size,) = struct.unpack(">I", await reader.readexactly(4))
    message = await reader.readexactly(size)
    version, length = struct.unpack_from(">II", message)
    (sequence,) = struct.unpack_from(">I", message, 8 + length)
    return version & 0xFF, sequence, message[12 + length :]


class ThriftUpstreams:
    """Upstreams by name in this process: ``async with ThriftUpstreams("a", "b") as up: up.ports["a"]``."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self.ports: dict[str, int] = {}

    async def _serve(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                _, sequence, _ = await read_frame(reader)
                writer.write(frame(REPLY, sequence, answer(name.encode())))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    async def __aenter__(self) -> Self:
        for name in self._names:
            server = await asyncio.start_server(partial(self._serve, name), "127.0.0.1", 0)
            self._servers.append(server)
            self.ports[name] = server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)


class ThriftTraffic:
    """A load of calls on a local port, as ``support.traffic.Traffic`` is one of HTTP requests."""

    def __init__(self, port: int, *, rate: float = 400.0, connections: int = 4, timeout_s: float = 5.0) -> None:
        self._port, self._every_s, self._timeout_s = port, connections / rate, timeout_s
        self._connections = connections
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: Counter[str] = Counter()
        self._served: Counter[str] = Counter()
        self._samples: list[Failure] = []
        self._latencies_ms: list[float] = []
        self._stopping = False
        self._began = 0.0

    async def call(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sequence: int) -> str:
        """Make one call and return the name of the upstream that answered. Raises RuntimeError for an exception."""
        writer.write(frame(CALL, sequence, bytes([STOP])))
        async with asyncio.timeout(self._timeout_s):
            kind, answered, body = await read_frame(reader)
        assert answered == sequence
        if kind != REPLY:
            raise RuntimeError(body[7:].decode(errors="replace"))
        return body[7:-1].decode()

    async def _client(self, index: int) -> None:
        due, sequence = self._began + self._every_s * index / self._connections, 0
        stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._stopping:
            await until_due(due)
            due += self._every_s
            sequence += 1
            if stream is not None and stream[0].at_eof():
                stream = await _closed(stream)
            began = time.monotonic()
            try:
                stream = stream or await asyncio.open_connection("127.0.0.1", self._port)
                self._served[await self.call(*stream, sequence)] += 1
                self._latencies_ms.append((time.monotonic() - began) * 1000)
            except RuntimeError as error:
                self._fail("exception", str(error))
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                self._fail("lost", repr(error))
                stream = await _closed(stream)
        await _closed(stream)

    def _fail(self, kind: str, detail: str) -> None:
        self._failed[kind] += 1
        self._samples.append(Failure(time.time(), kind, detail[:200]))

    async def report(self) -> TrafficReport:
        """Return the figures so far; the load goes on."""
        latencies = sorted(self._latencies_ms) or [0.0]
        failed, ok = self._failed.total(), self._served.total()
        return TrafficReport(
            requests=ok + failed,
            ok=ok,
            failed=dict(self._failed),
            served=dict(self._served),
            samples=self._samples[:50],
            duration_s=time.monotonic() - self._began,
            latency_p50_ms=latencies[len(latencies) // 2],
            latency_p99_ms=latencies[len(latencies) * 99 // 100],
            latency_max_ms=latencies[-1],
            ran_out=False,
        )

    async def wait_requests(self, count: int, *, timeout_s: float = 20.0) -> TrafficReport:
        """Wait until ``count`` more calls have been made."""
        goal = (await self.report()).requests + count
        return await wait_until(self.report, lambda report: report.requests >= goal, timeout_s=timeout_s)

    async def stop(self) -> TrafficReport:
        """End the load, after answers still due, and return the final figures."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        return await self.report()

    async def __aenter__(self) -> Self:
        self._began = time.monotonic()
        self._tasks = [asyncio.create_task(self._client(index)) for index in range(self._connections)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


async def _closed(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
    if stream is not None:
        stream[1].close()
        with contextlib.suppress(OSError):
            await stream[1].wait_closed()
