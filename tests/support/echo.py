"""gRPC upstreams that answer with their name, and a client that resolves them by ``xds:///``, each a process.

The client is grpcio's own xDS implementation, in a new process since it reads its bootstrap once. It makes one call
after the other all the time, and counts every failure.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Self

from support.waiting import for_a_while, wait_until

METHOD = "/echo.Echo/Say"
SAMPLES_MAX = 20
PAUSE_S = 0.001
CALL_TIMEOUT_S = 5.0


class EchoUpstreams:
    """Upstreams by name in one process: ``async with EchoUpstreams("a", "b") as up: up.ports["a"]``."""

    def __init__(self, *names: str) -> None:
        from support.processes import Worker  # not at the top: the worker itself runs this file as a script

        self.ports: dict[str, int] = {}
        self.worker = Worker(__file__, "serve", json.dumps(names), name="echo")

    async def __aenter__(self) -> Self:
        self.worker.start()
        self.ports = await self.worker.read()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.worker.stop)


@dataclass(frozen=True, slots=True)
class CallReport:
    """The results of the calls so far: answers by upstream, failures with their status, time of the first answer.

    ``last`` is the upstream that answered last; ``first_ms`` counts from the creation of the channel.
    """

    served: dict[str, int]
    failed: dict[str, int]
    samples: list[str]
    last: str | None
    first_ms: float | None

    @property
    def calls(self) -> int:
        """The number of calls that have ended, answered or failed."""
        return sum(self.served.values()) + sum(self.failed.values())


class EchoClient:
    """A client of ``target`` (``xds:///NAME``) with the JSON bootstrap of grpc's xDS clients."""

    def __init__(self, target: str, bootstrap: str) -> None:
        from support.processes import Worker

        self.worker = Worker(__file__, "call", target, name="grpc-client")
        self.worker.env |= {"GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap}

    async def report(self) -> CallReport:
        """Return the results of the calls so far; they go on."""
        return CallReport(**await self.worker.call("report"))

    async def wait_served_by(self, names: set[str], calls: int = 20, *, timeout_s: float = 10.0) -> CallReport:
        """Wait until ``calls`` calls in a row were answered by exactly these upstreams."""

        async def next_calls() -> tuple[CallReport, CallReport]:
            before = await self.report()
            goal = before.calls + calls
            return before, await wait_until(self.report, lambda after: after.calls >= goal, timeout_s=timeout_s)

        def are_served(reports: tuple[CallReport, CallReport]) -> bool:
            before, after = reports
            grown = Counter(after.served) - Counter(before.served)
            return set(grown) == names and after.failed == before.failed

        _, after = await wait_until(next_calls, are_served, timeout_s=timeout_s)
        return after

    async def __aenter__(self) -> Self:
        self.worker.start()
        await self.worker.call("start")
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.worker.stop)


# ---- below: the worker processes


async def _serve(names: list[str]) -> None:
    import grpc

    service, method = METHOD.strip("/").split("/")
    servers, ports = [], {}
    for name in names:

        async def say(_: bytes, __: object, name: str = name) -> bytes:
            return name.encode()

        handlers = {method: grpc.unary_unary_rpc_method_handler(say)}
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        ports[name] = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
    print(json.dumps(ports), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for server in servers:
        await server.stop(0)


class _Calls:
    def __init__(self, target: str) -> None:
        self.target = target
        self.served: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.samples: list[str] = []
        self.last: str | None = None
        self.first_ms: float | None = None

    async def run(self) -> None:
        import grpc

        began = time.monotonic()
        async with grpc.aio.insecure_channel(self.target) as channel:
            say = channel.unary_unary(METHOD)
            while True:
                try:
                    # Not wait_for_ready: a call without a connection has failed.
                    answer = await say(b"", timeout=CALL_TIMEOUT_S)
                except grpc.aio.AioRpcError as error:
                    self.failed[error.code().name] += 1
                    self.samples = [*self.samples, f"{error.code().name}: {error.details()}"][:SAMPLES_MAX]
                else:
                    self.last = answer.decode()
                    self.served[self.last] += 1
                    self.first_ms = self.first_ms or (time.monotonic() - began) * 1000
                await for_a_while(PAUSE_S, "the pace of the calls")

    def report(self) -> dict[str, object]:
        fields = ("served", "failed", "samples", "last", "first_ms")
        return {name: getattr(self, name) for name in fields}


async def _call(target: str) -> None:
    calls = _Calls(target)
    running: asyncio.Task[None] | None = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        if json.loads(line)["command"] == "start":
            running = asyncio.create_task(calls.run())
        print(json.dumps(calls.report()), flush=True)
        if running is not None and running.done():
            running.result()
    if running is not None:
        running.cancel()


if __name__ == "__main__":
    os.environ["GRPC_VERBOSITY"] = "ERROR"
    if sys.argv[1] == "serve":
        asyncio.run(_serve(json.loads(sys.argv[2])))
    else:
        asyncio.run(_call(sys.argv[2]))
