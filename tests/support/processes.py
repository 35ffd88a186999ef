"""Child processes that never outlive the tests: own process group, output in a file, ended by pid.

``Child`` runs any command. ``Worker`` runs one of our Python scripts that exchanges JSON lines over stdin and stdout
and ends when its stdin does, so that it ends even if the test run is killed.
"""

import asyncio
import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from support.waiting import POLL_S, NotMetError, wait_until

LOG_TAIL_CHARS = 6_000

_children: list["Child"] = []


def started() -> tuple["Child", ...]:
    """Return all children of this process, running or not, except forgotten ones."""
    return tuple(_children)


def forget_stopped() -> None:
    """Forget the children that have ended, and remove their logs."""
    for child in [child for child in _children if not child.running]:
        _children.remove(child)
        shutil.rmtree(child.directory, ignore_errors=True)


def stop_all() -> None:
    """End every child that still runs and remove their logs."""
    for child in started():
        child.stop()
    forget_stopped()


atexit.register(stop_all)


class ChildFailedError(Exception):
    """A child ended, or did not become ready in time. The text ends with its log."""

    def __init__(self, child: "Child", what: str) -> None:
        super().__init__(f"{child.name} (pid {child.pid}) {what}\n{child.log_tail()}")


class Child:
    """One command as a child process; ``start`` and ``stop`` may be called from any thread.

    Its stdout and stderr go to ``log_path``, in a private ``directory`` that is removed when the child is forgotten.
    """

    def __init__(self, argv: Sequence[str], *, name: str, env: Mapping[str, str] | None = None) -> None:
        self.argv = list(argv)
        self.name = name
        self.directory = Path(tempfile.mkdtemp(prefix=f"xds-test-{name}-"))
        # Its own store, which survives a restart of the child.
        self.env = {**os.environ, "XDG_STATE_HOME": str(self.directory / "state"), **(env or {})}
        self.log_path = self.directory / "log"
        self.started_at = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None before ``start``."""
        return self.process.pid if self.process else None

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> Self:
        """Start the process and return at once. ``started_at`` is the monotonic time just before."""
        self._spawn(stdout=None)
        return self

    def _spawn(self, *, stdout: int | None) -> subprocess.Popen[bytes]:
        assert not self.running, f"{self.name} already runs"
        with self.log_path.open("ab") as log:
            self.started_at = time.monotonic()
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.PIPE if stdout is not None else subprocess.DEVNULL,
                stdout=stdout if stdout is not None else log,
                stderr=log,
                env=self.env,
                start_new_session=True,
            )
        if self not in _children:
            _children.append(self)
        return self.process

    def stop(self, *, timeout_s: float = 10.0) -> int:
        """End the process with SIGTERM, after ``timeout_s`` with SIGKILL, and return its return code."""
        if self.process is None:
            return 0
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close_pipes()
        return self.process.returncode

    def kill(self) -> None:
        """End the process and its group with SIGKILL, as a crash would."""
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self._close_pipes()

    def signal(self, number: int) -> None:
        """Send a signal to the process's own group, if it still runs."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def log(self) -> str:
        """Return all it has written to stderr (and to stdout, unless that is a pipe)."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self) -> str:
        """Return the end of its log, for error messages."""
        return self.log()[-LOG_TAIL_CHARS:]

    async def wait_ended(self, timeout_s: float = 10.0) -> int:
        """Wait for the process to end by itself and return its return code."""
        await self.wait_for(lambda: not self.running, otherwise="did not end", timeout_s=timeout_s, may_end=True)
        return self.process.returncode

    async def wait_log(self, text: str, timeout_s: float = 10.0) -> str:
        """Wait until the log holds ``text`` and return the log."""
        await self.wait_for(lambda: text in self.log(), otherwise=f"never logged {text!r}", timeout_s=timeout_s)
        return self.log()

    async def wait_for(
        self,
        look: Callable[[], Any],
        is_met_by: Callable[[Any], object] = bool,
        *,
        otherwise: str,
        timeout_s: float,
        poll_s: float = POLL_S,
        may_end: bool = False,
    ) -> Any:
        """Wait as ``wait_until`` does. Raises ChildFailedError on timeout, or at once if the process ends."""
        runs = True

        def watched() -> Any:
            nonlocal runs
            runs = may_end or self.running  # checked before ``look``: the process's last actions count
            return look()

        def is_over(seen: Any) -> object:
            met = is_met_by(seen)
            if not met and not runs:
                raise ChildFailedError(self, f"ended with {self.process and self.process.returncode}")
            return met

        try:
            return await wait_until(watched, is_over, timeout_s=timeout_s, poll_s=poll_s)
        except NotMetError as missed:
            raise ChildFailedError(self, f"{otherwise}: {missed}") from None
        except OSError as error:  # the process can't be reached
            if may_end or self.running:
                raise
            raise ChildFailedError(self, f"ended with {self.process and self.process.returncode}") from error

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)


class Worker(Child):
    """One of our own scripts in a new Python, answering each JSON line on its stdin with one on its stdout."""

    def __init__(self, script: str | Path, *args: str, name: str) -> None:
        # -P: the script's own directory must not hide packages. Coverage is not measured in these processes.
        super().__init__([sys.executable, "-P", str(script), *args], name=name)
        self.env.pop("COVERAGE_PROCESS_START", None)
        self.env["PYTHONPATH"] = str(Path(__file__).parents[1])
        self._turn = asyncio.Lock()

    def start(self) -> Self:
        self._spawn(stdout=subprocess.PIPE)
        return self

    async def call(self, command: str, *, timeout_s: float = 15.0, **arguments: Any) -> Any:
        """Send one command and return its answer. Raises ChildFailedError if none comes in time."""
        async with self._turn:
            return await self._exchange(json.dumps({"command": command, **arguments}) + "\n", timeout_s)

    async def read(self, *, timeout_s: float = 15.0) -> Any:
        """Return the next line that the worker writes unprompted, such as its greeting."""
        async with self._turn:
            return await self._exchange("", timeout_s)

    async def _exchange(self, line: str, timeout_s: float) -> Any:
        assert self.process is not None, f"{self.name} was not started"
        reading = asyncio.create_task(asyncio.to_thread(_say_and_hear, self.process.stdin, self.process.stdout, line))
        done, _ = await asyncio.wait({reading}, timeout=timeout_s)
        if not done:
            self.kill()  # ends the reading thread too
            await asyncio.gather(reading, return_exceptions=True)
            raise ChildFailedError(self, f"did not answer {line.strip()!r} within {timeout_s} s")
        answer = reading.result()
        if not answer:
            raise ChildFailedError(self, f"ended instead of answering {line.strip()!r}")
        return json.loads(answer)


def _say_and_hear(stdin: IO[bytes], stdout: IO[bytes], line: str) -> bytes:
    try:
        if line:
            stdin.write(line.encode())
            stdin.flush()
        return stdout.readline()
    except (BrokenPipeError, ValueError):
        return b""
