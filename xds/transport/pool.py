"""Worker processes that share one port, each replaced when it ends.

The parent keeps every listening socket open: clients that connect while a worker is being replaced wait in its socket's
queue and are served by the next worker.
"""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from xds.process.background import Background
from xds.transport.channel import Channel
from xds.transport.process import Process

FEED_BYTES_MAX = 512 * 1024 * 1024
"""Unread bytes at which a worker counts as stuck; a full state may be tens of megabytes."""
LOOK_EVERY_S = 1.0
SILENT_LOOKS = 5
"""Checks without a message after which a worker counts as silent; each worker sends something every second."""
START_S = 60.0
RESTART_MIN_S, RESTART_MAX_S = 0.2, 30.0
LIVED_S = 10.0
"""The run time from which an ended worker is replaced at once; others are replaced after a growing pause."""
LAST_WORDS_S = 5.0
"""How long to wait for the last messages of a worker that has ended."""
PACKAGE_ROOT = Path(__file__).parents[2]


class WorkerFailedError(Exception):
    """A worker ended, or sent nothing, before it served."""


@dataclass(slots=True, eq=False)
class PooledProcess:
    """One process: its place among the others, and the channel to it.

    ``silent_looks``: checks since its last message. Not seconds: a parent that was itself delayed would find every
    worker's last message old, and newer ones unread.
    """

    number: int
    process: Process
    channel: Channel
    lost: asyncio.Event
    started_at: float
    silent_looks: int = 0
    ready: bool = False

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    @property
    def silent(self) -> bool:
        """Whether it does not answer: stopped, stuck, or busy for seconds."""
        return self.silent_looks >= SILENT_LOOKS

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.pid})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolEvents:
    """Callbacks. ``on_message``: a worker sent a message. ``on_start``: a worker has started and needs the full state.

    ``on_end``: a worker has ended, with its exit code (negative: the signal), and whether it is replaced; all its
    messages were delivered before. ``on_problem``: no worker can be started at present.
    """

    on_start: Callable[[PooledProcess], None]
    on_message: Callable[[PooledProcess, bytes], None]
    on_end: Callable[[PooledProcess, int, bool], None]
    on_problem: Callable[[str], None]


class Pool:
    """The processes. ``module`` is run as a program; its arguments are the descriptors of its channel and socket."""

    def __init__(
        self,
        module: str,
        sockets: Sequence[socket.socket],
        events: PoolEvents,
        *,
        silent_s_max: float = 30.0,
        background: Background | None = None,
    ) -> None:
        self._background = background or Background()
        self._module = module
        self._sockets = sockets
        self._events = events
        self._silent_s_max = silent_s_max
        self._workers: dict[int, PooledProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._looker: asyncio.Task[None] | None = None
        self._ending = asyncio.Event()
        self._unlaunched = set(range(len(sockets)))
        self._launched = asyncio.Event()
        self._begun = asyncio.Event()
        self._all_ready = asyncio.Event()
        self._failed: WorkerFailedError | None = None

    @property
    def workers(self) -> list[PooledProcess]:
        """The running workers."""
        return list(self._workers.values())

    def launch(self) -> None:
        """Start the processes in advance, as that takes a while; they get no messages before ``start``."""
        if not self._keepers:
            self._keepers = [
                self._background.keep(f"keep worker {number}", partial(self._keep, number), may_end=lambda: True)
                for number in range(len(self._sockets))
            ]

    async def start(self) -> None:
        """Start every worker and wait until all are ``ready``. Raises WorkerFailedError, then leaving none."""
        self.launch()
        self._begun.set()
        self._looker = self._background.keep("look after the workers", self._look_after)
        try:
            async with asyncio.timeout(START_S):
                await self._all_ready.wait()
            if self._failed is not None:
                raise self._failed
        except TimeoutError:
            await self.stop()
            raise WorkerFailedError(f"a worker did not begin to serve within {START_S:g} s") from None
        except BaseException:
            await self.stop()
            raise

    def mark_ready(self, worker: PooledProcess) -> None:
        """Note that a worker serves."""
        worker.ready = True
        if len(self._workers) == len(self._sockets) and all(each.ready for each in self._workers.values()):
            self._all_ready.set()

    def send(self, message: bytes) -> None:
        """Send a message to every worker."""
        for worker in self._workers.values():
            worker.channel.send(message)

    async def wait_ended(self, within_s: float) -> None:
        """Replace no worker from now on; return once all have ended, or after ``within_s`` seconds."""
        self._ending.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asyncio.gather(*(worker.process.wait() for worker in self.workers))

    async def stop(self) -> None:
        """End every worker now."""
        self._ending.set()
        self._begun.set()
        for worker in self.workers:
            _kill(worker)
        await asyncio.gather(*self._keepers)
        self._keepers = []
        if self._looker is not None:
            self._looker.cancel()
            self._looker = None

    # --- One place -------------------------------------------------------------------------------------------------

    async def _keep(self, number: int) -> None:
        """Keep a worker running in this place for as long as the pool lives."""
        pause_s, loop = RESTART_MIN_S, asyncio.get_running_loop()
        if (left := self._workers.get(number)) is not None:  # by one that died before
            _kill(left)
            await self._outlive(left)
        while not self._ending.is_set():
            worker = await self._try_to_spawn(number)
            self._unlaunched.discard(number)
            if not self._unlaunched:
                self._launched.set()
            await self._launched.wait()  # all start loading before the first is sent its state
            await self._begun.wait()
            if worker is not None:
                self._workers[number] = worker
                self._events.on_start(worker)
                await self._outlive(worker)
            if not self._all_ready.is_set():
                self._all_ready.set()
                return
            if worker is not None and loop.time() - worker.started_at >= LIVED_S:
                pause_s = RESTART_MIN_S
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._ending.wait()
            pause_s = min(2 * pause_s, RESTART_MAX_S)

    async def _outlive(self, worker: PooledProcess) -> None:
        """Wait for a worker's end and deliver its last messages."""
        if self._ending.is_set():
            _kill(worker)  # it was started while the others were ending
        code = await worker.process.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await worker.lost.wait()
        self._workers.pop(worker.number, None)
        worker.channel.close()
        if self._all_ready.is_set():
            self._events.on_end(worker, code, not self._ending.is_set())
        else:
            self._failed = self._failed or WorkerFailedError(f"a worker ended with {code} before it served")

    async def _try_to_spawn(self, number: int) -> PooledProcess | None:
        try:
            return await self._spawn(number)
        except OSError as error:  # no memory, no descriptors, too many processes: that may pass
            problem = f"a worker can't be started: {error}"
        if self._all_ready.is_set():
            self._events.on_problem(problem)
        else:
            self._failed = self._failed or WorkerFailedError(problem)
        return None

    async def _spawn(self, number: int) -> PooledProcess:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        listening = self._sockets[number]
        try:
            # In a process group of its own: Ctrl-C in a terminal goes to the parent, which then drains the workers.
            process = Process.start(
                # -P: files in the working directory are not imported as modules.
                [sys.executable, "-P", "-m", self._module, str(theirs.fileno()), str(listening.fileno())],
                pass_fds=(theirs.fileno(), listening.fileno()),
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE_ROOT), *sys.path])},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        lost = asyncio.Event()
        channel = Channel(lambda message: self._hear(worker, message), lost.set)
        worker = PooledProcess(number, process, channel, lost, asyncio.get_running_loop().time())
        try:
            await channel.attach(ours)
        except BaseException:  # nobody would know of it
            ours.close()
            _kill(worker)
            await process.wait()
            raise
        return worker

    def _hear(self, worker: PooledProcess, message: bytes) -> None:
        worker.silent_looks = 0
        self._events.on_message(worker, message)

    async def _look_after(self) -> None:
        """Kill the workers that hang: they neither send nor read."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for worker in self.workers:
                worker.silent_looks += 1
                silent_s_max = self._silent_s_max if worker.ready else START_S
                silent = worker.silent_looks * LOOK_EVERY_S > silent_s_max
                if silent or worker.channel.unsent_bytes > FEED_BYTES_MAX:
                    _kill(worker)


def _kill(worker: PooledProcess) -> None:
    with contextlib.suppress(ProcessLookupError):
        worker.process.kill()
