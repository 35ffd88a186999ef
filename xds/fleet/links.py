"""Starts, commands and ends the worker processes."""

import asyncio
import contextlib
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from xds.fleet.config import WorkerConfig
from xds.fleet.worker import LINE_BYTES_MAX
from xds.process.background import Background

END_TIMEOUT_S = 5.0
LOG_LINES_MAX = 20

OnProgress = Callable[[int, int], None]
"""Called with a worker's number and its progress: the sidecars that are done."""


class WorkerDiedError(Exception):
    """A worker process ended, or a command failed in it. The text ends with its last output."""


class WorkerLink:
    """One worker process."""

    def __init__(self, number: int, on_progress: OnProgress) -> None:
        self.number = number
        self._on_progress = on_progress
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ready: asyncio.Future[None] | None = None
        self._next_id = 0
        self._log: deque[str] = deque(maxlen=LOG_LINES_MAX)
        self._readers: list[asyncio.Task[None]] = []
        self._dead: WorkerDiedError | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None, "started"
        return self._process.pid

    async def start(self, config: WorkerConfig) -> None:
        """Start the process; return when it accepts commands. Raises WorkerDiedError."""
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "xds.fleet.worker", stdin=pipe, stdout=pipe, stderr=pipe, limit=LINE_BYTES_MAX
        )
        self._ready = asyncio.get_running_loop().create_future()
        run = Background().run
        self._readers = [
            run("hear a load process", self._hear(), on_death=self._bury),
            run("note what a load process logs", self._note(), on_death=self._bury),
        ]
        self._tell(config.to_json())
        await self._ready

    async def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Send a command and return its answer. Raises WorkerDiedError, also if the process never started."""
        if self._process is None:
            raise WorkerDiedError(f"worker process {self.number} was not started")
        if self._dead is not None:
            raise self._dead
        self._next_id += 1
        number = self._next_id
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._tell(json.dumps({"id": number, "do": do, **fields}))
        return await answer

    async def end(self) -> None:
        """End the process, by force if it does not end by itself."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._tell(json.dumps({"do": "end"}))
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                process.kill()
            await process.wait()
        await asyncio.gather(*self._readers, return_exceptions=True)

    def _tell(self, line: str) -> None:
        assert self._process is not None, "started"
        assert self._process.stdin is not None, "a pipe"
        self._process.stdin.write(line.encode() + b"\n")

    async def _hear(self) -> None:
        assert self._process is not None, "started"
        assert self._process.stdout is not None, "a pipe"
        assert self._ready is not None, "started"
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            if said.get("event") == "ready":
                self._ready.set_result(None)
            elif said.get("event") == "progress":
                self._on_progress(self.number, said["done"])
            elif "error" in said:
                self._log.append(said["error"])
            else:
                self._waiting.pop(said["id"]).set_result(said["answer"])
        code = await self._process.wait()
        await asyncio.sleep(0)
        self._bury(f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}")

    async def _note(self) -> None:
        assert self._process is not None, "started"
        assert self._process.stderr is not None, "a pipe"
        while line := await self._process.stderr.readline():
            self._log.append(line.decode(errors="replace").rstrip())

    def _bury(self, how: str) -> None:
        """Fail all pending and later commands with WorkerDiedError."""
        log = "".join(f"\n  {line}" for line in self._log)
        self._dead = WorkerDiedError(f"worker process {self.number} (pid {self.pid}) {how}{log}")
        assert self._ready is not None, "started"
        if not self._ready.done():
            self._ready.set_exception(self._dead)
        for waiting in self._waiting.values():
            waiting.set_exception(self._dead)
        self._waiting.clear()


class FleetWorkers:
    """All worker processes, asked together."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self.links: list[WorkerLink] = []

    async def start(self, configs: Iterable[WorkerConfig]) -> None:
        """Start a process for each config. Raises WorkerDiedError."""
        configs = list(configs)
        self.links = [WorkerLink(number, self._on_progress) for number in range(len(configs))]
        await _together(link.start(config) for link, config in zip(self.links, configs, strict=True))

    async def ask(self, do: str, **fields: Any) -> list[dict[str, Any]]:
        """Send all the same command; return their answers in order. Raises the first failure's WorkerDiedError."""
        return await _together(link.ask(do, **fields) for link in self.links)

    async def ask_each(self, do: str, fields: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Send each its own command; return their answers in order. Raises the first failure's WorkerDiedError."""
        return await _together(link.ask(do, **own) for link, own in zip(self.links, fields, strict=True))

    async def end(self) -> None:
        """End all processes."""
        await asyncio.gather(*(link.end() for link in self.links))


async def _together(works: Iterable[Any]) -> list[Any]:
    """Run coroutines concurrently; the first failure cancels the others and is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
