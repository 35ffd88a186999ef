"""The servers of the comparison: how each is started, and when it serves. It does not know what is measured on them."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.ladder.rungs import LAST
from bench.peers.build import ToolchainMissingError, build_go, build_java
from xds.config import TransportSettings

ROOT = Path(__file__).parents[2]
READY = "ready"
"""What a server of the comparison prints, in a line of its own, when it serves."""
READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 10
POLL_S = 0.02

JVM_OPTIONS = ("-XX:+UseSerialGC", "-Xms1g", "-Xmx12g")
"""The best of three collectors on 2 cores: CPU per delivery, tuned, 100 clusters × 1,000 streams: serial 25–31 µs,
parallel 31–35, G1 51–74 (which is the default); memory per stream after pushes 190, 570 and 410 KB."""

GOGC = {"snapshot": "100", "tuned": "400", "linear": "400"}
"""100 is the default. 400 takes a fifth off the CPU per delivery, and doubles the memory."""


@dataclass(frozen=True, slots=True)
class Resources:
    """How much a server serves: clusters with as many assignments, route configurations, endpoints an assignment."""

    clusters: int = 100
    routes: int = 10
    endpoints: int = 10

    def arguments(self) -> list[str]:
        """Return the options that every server of the comparison takes."""
        return [f"--{name}={getattr(self, name)}" for name in ("clusters", "routes", "endpoints")]


class WorkersMissingError(ToolchainMissingError):
    """This version of ours has no worker processes, as if what makes them were not here: no fault of the row."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One server of the comparison; ``family`` is ours, go, java or ladder, ``mode`` its own choice within."""

    name: str
    family: str
    mode: str
    workers: int = 0

    def environment(self) -> dict[str, str]:
        """Return what it needs in its environment, beside what is there."""
        return {"GOGC": GOGC[self.mode]} if self.family == "go" else {}

    def command(self) -> list[str]:
        """Return what starts it, without ports and resources. Raises ToolchainMissingError and BuildError."""
        if self.family == "go":
            return [str(build_go()), f"--mode={self.mode}"]
        if self.family == "java":
            return ["java", *JVM_OPTIONS, "-jar", str(build_java()), f"--mode={self.mode}"]
        if self.family == "ladder":
            return [sys.executable, "-m", "bench.ladder.serve", f"--rung={self.mode}"]
        if self.workers and "workers" not in TransportSettings.model_fields:
            raise WorkersMissingError("no workers: this version of ours has no setting `transport.workers`")
        serve = "bench/serve.py"
        return [sys.executable, serve, f"--transport={self.mode}", f"--workers={self.workers}"]


OURS = Kind("ours, native", "ours", "native")
OURS_WORKER = Kind("ours, native, 1 worker", "ours", "native", workers=1)
OURS_GRPCIO = Kind("ours, grpcio", "ours", "grpcio")
GO_SNAPSHOT = Kind("go-control-plane Snapshot", "go", "snapshot")
GO_TUNED = Kind("go-control-plane Snapshot, tuned", "go", "tuned")
GO_LINEAR = Kind("go-control-plane Mux/Linear", "go", "linear")
JAVA_PLAIN = Kind("java-control-plane", "java", "plain")
JAVA_TUNED = Kind("java-control-plane, tuned", "java", "tuned")
LADDER = Kind("the ladder's last rung", "ladder", LAST)
"""It serves by one worker process, as ``OURS_WORKER`` does."""
KINDS = (OURS, OURS_WORKER, OURS_GRPCIO, GO_SNAPSHOT, GO_TUNED, GO_LINEAR, JAVA_PLAIN, JAVA_TUNED, LADDER)


class ServerFailedError(Exception):
    """A server ended or never got ready. The text ends with what it printed."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that serves."""

    kind: Kind
    pid: int
    port: int
    admin_port: int
    command: str
    """What started it, as a shell takes it."""

    @property
    def target(self) -> str:
        """Where it serves xDS."""
        return f"127.0.0.1:{self.port}"

    @property
    def trigger(self) -> str:
        """The URL whose GET makes one push."""
        return f"http://127.0.0.1:{self.admin_port}/push"


@contextlib.contextmanager
def running(kind: Kind, resources: Resources, *options: str) -> Iterator[Running]:
    """Run a server on two free ports until the block ends. Raises ServerFailedError, and what building it raises."""
    port, admin_port = free_ports(2)
    argv = [*kind.command(), *resources.arguments(), f"--port={port}", f"--admin-port={admin_port}", *options]
    with started(kind.name, argv, kind.environment()) as process:
        yield Running(kind, process.pid, port, admin_port, shown(argv, kind.environment()))


@contextlib.contextmanager
def started(
    name: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    is_ready: Callable[[str], bool] = lambda said: READY in said.splitlines(),
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process until the block ends, which begins when what it has said shows that it is ready.

    Raises ServerFailedError.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_ready(name, process, log, is_ready)
            yield process
            if process.poll() is not None:
                raise ServerFailedError(f"{name} ended by itself while it was measured:\n{_tail(log)}")
        finally:
            _stop(process)


def shown(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Return a command as one would type it in the repository's root."""
    words = [str(Path(word).relative_to(ROOT)) if word.startswith(f"{ROOT}/") else word for word in argv]
    return shlex.join([*(f"{name}={value}" for name, value in (environment or {}).items()), *words])


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_ready(name: str, process: "subprocess.Popen[bytes]", log: object, is_ready: Callable[[str], bool]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        said = _tail(log)
        if is_ready(said):
            return
        if process.poll() is not None:
            raise ServerFailedError(f"{name} ended before it served, with code {process.returncode}:\n{said}")
        if time.monotonic() > deadline:
            raise ServerFailedError(f"{name} did not serve within {READY_TIMEOUT_S} s:\n{said}")
        time.sleep(POLL_S)


def _tail(log: object) -> str:
    descriptor = log.fileno()  # type: ignore[attr-defined]
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, 8_000, max(0, size - 8_000)).decode(errors="replace")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server and whatever it started; the group is its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
