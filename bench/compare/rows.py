"""The rows of the comparison: which servers, how much of what, and what of it is kept. It does not know the targets."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.compare.claims import ALL_READ, CORE, FEW_CLUSTERS, MANY_CLUSTERS, MTLS, SOME_DO_NOT
from bench.compare.fleet import Load, MeasureError, drive, drive_whole, figures_of
from bench.compare.results import Figures, Measured, merged
from bench.compare.servers import (
    GO_LINEAR,
    GO_SNAPSHOT,
    GO_TUNED,
    JAVA_PLAIN,
    JAVA_TUNED,
    LADDER,
    OURS,
    OURS_GRPCIO,
    OURS_WORKER,
    ROOT,
    Kind,
    Resources,
    ServerFailedError,
    running,
    shown,
)
from bench.peers.build import BuildError, ToolchainMissingError

FIRST_ROW_KINDS = (OURS, GO_LINEAR, JAVA_TUNED, OURS_GRPCIO, GO_TUNED, JAVA_PLAIN, GO_SNAPSHOT, OURS_WORKER, LADDER)
MANY_CLUSTERS_KINDS = (OURS, JAVA_TUNED, OURS_GRPCIO, JAVA_PLAIN, OURS_WORKER, LADDER, GO_LINEAR, GO_SNAPSHOT, GO_TUNED)
MANY_CLUSTERS_SLOW = (GO_LINEAR, GO_SNAPSHOT, GO_TUNED)
"""A push takes seconds there, so that one round tells as much as several of the others."""
SCALING_KINDS = (OURS, OURS_GRPCIO, GO_LINEAR, JAVA_TUNED)
QUICK_KINDS = (OURS, GO_LINEAR, JAVA_TUNED, OURS_GRPCIO, OURS_WORKER, LADDER)
MICRO_TIMEOUT_S = 300
NOT_MEASURED = (ToolchainMissingError, BuildError, ServerFailedError, MeasureError)
"""What a row goes on after, saying why a server has no figures."""

Say = Callable[[str], None]
Parameters = dict[str, float | str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a row came to: each server's figures by its name, and how much of what it was."""

    measured: dict[str, Measured]
    parameters: Parameters
    drawn: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What ``xds fleet plot`` is to draw: results of ``xds fleet --json`` by the name of their server."""


def in_rounds(rounds: int, work: Mapping[str, Callable[[], Measured]], say: Say) -> dict[str, Measured]:
    """Measure each in turn, in several rounds, so that what disturbs the machine hits all alike.

    Every other round goes backwards. The medians of the rounds count.
    """
    found: dict[str, list[Measured]] = {name: [] for name in work}
    for number in range(rounds):
        for name in reversed(work) if number % 2 else work:
            say(f"{name}, round {number + 1} of {rounds}")
            found[name].append(work[name]())
    return {name: merged(measured) for name, measured in found.items()}


def measure(
    kind: Kind, resources: Resources, load: Load, *, first: Load | None = None, options: Iterable[str] = ()
) -> Measured:
    """Start a server, drive it, and return its figures, or why there are none.

    With ``first`` another fleet comes and goes before, so that a virtual machine is warm. The memory is then that of
    the first, since a heap that has grown stays grown.
    """
    commands: list[str] = []
    try:
        with running(kind, resources, *options) as server:
            commands.append(server.command)
            cold: Figures = {}
            if first is not None:
                cold, command = drive(first, server, resources)
                commands.append(command)
            figures, command = drive(load, server, resources)
            commands.append(command)
            memory = {name: value for name, value in cold.items() if name.startswith("memory.")}
            return Measured(figures | memory, tuple(commands))
    except NOT_MEASURED as error:
        return _not_measured(error, commands)


def _not_measured(error: Exception, commands: Iterable[str]) -> Measured:
    lacks_toolchain = isinstance(error, ToolchainMissingError)
    return Measured({}, tuple(commands), not_measured=str(error), lacks_toolchain=lacks_toolchain)


@dataclass(frozen=True, slots=True)
class Fanout:
    """Every server in turn serves the same to as many streams, in several rounds; the slow ones in one."""

    kinds: tuple[Kind, ...]
    resources: Resources
    load: Load
    warmup_pushes_jvm: int
    rounds: int
    slow: tuple[Kind, ...] = ()

    def run(self, say: Say) -> Outcome:
        """Measure all of them."""
        work = {kind.name: partial(self._one, kind) for kind in self.kinds}
        once = {name: work.pop(name) for name in [kind.name for kind in self.slow]}
        measured = in_rounds(self.rounds, work, say) | in_rounds(1, once, say)
        return Outcome(measured, self.parameters())

    def _one(self, kind: Kind) -> Measured:
        return measure(kind, self.resources, self.load, first=_jvm_first(kind, self.load, self.warmup_pushes_jvm))

    def parameters(self) -> Parameters:
        """Say how much of what it is."""
        slow = {"rounds of " + kind.name: 1 for kind in self.slow}
        return {
            "streams": self.load.streams,
            "clusters": self.resources.clusters,
            "routes": self.resources.routes,
            "endpoints": self.resources.endpoints,
            "pushes in each mode": self.load.pushes,
            "warm-up pushes": self.load.warmup_pushes,
            "more warm-up pushes of a JVM": self.warmup_pushes_jvm,
            "rounds": self.rounds,
            **slow,
        }


def _jvm_first(kind: Kind, load: Load, warmup_pushes: int) -> Load | None:
    """Return what comes before a load where it is a virtual machine that has to be warm."""
    return replace(load, pushes=10, warmup_pushes=warmup_pushes, paced=False) if kind.family == "java" else None


@dataclass(frozen=True, slots=True)
class Memory:
    """What a stream of ours takes: plaintext with few and with many clusters, all subscribed to, and with mTLS."""

    streams: int
    clusters: int
    rounds: int

    def run(self, say: Say) -> Outcome:
        """Measure the three."""
        load = Load(streams=self.streams, steps_before=(self.streams // 4,), pushes=5, paced=False)
        few, many = Resources(), Resources(clusters=self.clusters)
        with tempfile.TemporaryDirectory(prefix="xds-bench-tls-") as directory:
            server, client = certificates(Path(directory))
            work = {
                FEW_CLUSTERS: partial(measure, OURS, few, load),
                MANY_CLUSTERS: partial(measure, OURS, many, load),
                MTLS: partial(measure, OURS, few, replace(load, options=client), options=server),
            }
            measured = in_rounds(self.rounds, work, say)
        return Outcome(measured, {"streams": self.streams, "of them before": self.streams // 4, "rounds": self.rounds})


def certificates(directory: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Make a CA and certificates of it; return the options of a server and of the fleet."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.pki import Authority

    authority = Authority(directory)
    server = authority.issue("server", dns=["localhost"], ips=["127.0.0.1"])
    client = authority.issue("client")
    ca = str(authority.cert_path)
    return (
        (f"--tls-cert={server.cert_path}", f"--tls-key={server.key_path}", f"--tls-client-ca={ca}"),
        ("--tls-ca", ca, "--tls-cert", str(client.cert_path), "--tls-key", str(client.key_path)),
    )


@dataclass(frozen=True, slots=True)
class Alone:
    """One server of ours by itself."""

    kind: Kind
    resources: Resources
    load: Load
    rounds: int = 1

    def run(self, say: Say) -> Outcome:
        """Measure it."""
        work = {OURS.name: partial(measure, self.kind, self.resources, self.load)}
        parameters: Parameters = {"streams": self.load.streams, "clusters": self.resources.clusters}
        if self.kind.workers:
            parameters["workers"] = self.kind.workers
        return Outcome(in_rounds(self.rounds, work, say), {**parameters, "rounds": self.rounds})


@dataclass(frozen=True, slots=True)
class SlowReaders:
    """The same fleet with everyone reading, and with some that don't, in turns."""

    load: Load
    rounds: int

    def run(self, say: Say) -> Outcome:
        """Measure both."""
        some = replace(self.load, options=("--stuck", "10%", "--slow", "10%"))
        work = {
            ALL_READ: partial(measure, OURS, Resources(), self.load),
            SOME_DO_NOT: partial(measure, OURS, Resources(), some),
        }
        parameters: Parameters = {
            "streams": self.load.streams, "pushes in each mode": self.load.pushes, "rounds": self.rounds,
        }  # fmt: skip
        return Outcome(in_rounds(self.rounds, work, say), parameters)


@dataclass(frozen=True, slots=True)
class Scaling:
    """Some of the servers with more and more streams, for the plot of latency and memory against streams."""

    kinds: tuple[Kind, ...]
    load: Load
    warmup_pushes_jvm: int

    def run(self, say: Say) -> Outcome:
        """Measure each once."""
        measured, drawn = {}, {}
        for kind in self.kinds:
            say(kind.name)
            measured[kind.name], result = self._one(kind)
            if result is not None:
                drawn[kind.name] = result
        steps = ", ".join(f"{size:,}" for size in (*self.load.steps_before, self.load.streams))
        parameters: Parameters = {
            "streams": steps,
            "pushes in each step": self.load.pushes,
            "warm-up pushes in each step": self.load.warmup_pushes,
            "of a JVM": self.warmup_pushes_jvm,
            "rounds": 1,
        }
        return Outcome(measured, parameters, drawn)

    def _one(self, kind: Kind) -> tuple[Measured, dict[str, Any] | None]:
        load = self.load
        if kind.family == "java":  # no fleet before, whose heap would hide what the streams of this one take
            load = replace(load, warmup_pushes=self.warmup_pushes_jvm)
        commands: list[str] = []
        try:
            with running(kind, Resources()) as server:
                commands.append(server.command)
                result, command = drive_whole(load, server, Resources())
                commands.append(command)
        except NOT_MEASURED as error:
            return _not_measured(error, commands), None
        return Measured(figures_of(result), tuple(commands)), result


@dataclass(frozen=True, slots=True)
class OneChange:
    """The micro-benchmark of the pure core."""

    resources: tuple[int, ...]
    streams: int

    def run(self, say: Say) -> Outcome:
        """Run bench/micro.py and read its table."""
        counts = [str(count) for count in self.resources]
        argv = [sys.executable, "bench/micro.py", "--streams", str(self.streams), "--resources", *counts]
        say(shown(argv))
        parameters: Parameters = {"streams": self.streams}
        try:
            ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=MICRO_TIMEOUT_S, check=False)
            measured = Measured(micro_figures(ended.stdout, self.resources), (shown(argv),))
        except subprocess.TimeoutExpired:
            measured = Measured(not_measured=f"bench/micro.py took longer than {MICRO_TIMEOUT_S} s")
        except ValueError as error:
            measured = Measured(not_measured=f"{error}: {ended.stdout[-500:]}{ended.stderr[-2_000:]}")
        return Outcome({CORE: measured}, parameters)


def micro_figures(printed: str, resources: Iterable[int]) -> Figures:
    """Read the table of bench/micro.py: µs for a change to all streams, by the number of resources, and their ratio.

    Raises ValueError where the table lacks a number of resources.
    """
    found = {
        int(count.replace(",", "")): float(change_ms) * 1000
        for count, change_ms in re.findall(r"^ *([\d,]+) +([\d.]+) ms", printed, re.MULTILINE)
    }
    if missing := [count for count in resources if count not in found]:
        raise ValueError(f"bench/micro.py printed no row for {missing[0]:,} resources")
    figures = {f"a change at {count:,} resources, µs": found[count] for count in resources}
    return figures | {"slowest / fastest": max(figures.values()) / min(figures.values())}


Row = Fanout | Memory | Alone | SlowReaders | OneChange | Scaling


def streams_of(row: Row) -> int:
    """Return how many streams a row has in the end."""
    return row.streams if isinstance(row, Memory | OneChange) else row.load.streams


_MANY = Resources(clusters=5_000)

FULL: dict[str, Row] = {
    "fanout-100x1000": Fanout(
        FIRST_ROW_KINDS, Resources(), Load(streams=1_000, pushes=30, warmup_pushes=10), warmup_pushes_jvm=300, rounds=3
    ),
    "fanout-100x4000": Fanout(
        FIRST_ROW_KINDS, Resources(), Load(streams=4_000, pushes=10, warmup_pushes=5), warmup_pushes_jvm=100, rounds=3
    ),
    "fanout-5000x500": Fanout(
        MANY_CLUSTERS_KINDS,
        _MANY,
        Load(streams=500, pushes=10, warmup_pushes=3, timeout_s=300),
        warmup_pushes_jvm=100,
        rounds=3,
        slow=MANY_CLUSTERS_SLOW,
    ),
    "memory": Memory(streams=4_000, clusters=5_000, rounds=2),
    "streams-100000": Alone(
        replace(OURS, workers=6),
        Resources(),
        Load(streams=100_000, pushes=3, paced=False, newcomers=100, options=("--workers", "8"), timeout_s=300),
    ),
    "reconnect-5000": Alone(
        OURS, _MANY, Load(streams=5_000, options=("--reconnect-storm",), timeout_s=300),
    ),
    "one-change": OneChange((100, 1_000, 10_000, 100_000), streams=1_000),
    "slow-readers": SlowReaders(Load(streams=1_000, pushes=30, warmup_pushes=5), rounds=3),
    "scaling": Scaling(
        SCALING_KINDS,
        Load(streams=4_000, steps_before=(500, 1_000, 2_000), pushes=10, warmup_pushes=5, paced=False),
        warmup_pushes_jvm=100,
    ),
}  # fmt: skip
"""Every row by its name, as it is measured for bench/RESULTS.md."""

_FEW = Resources(clusters=200)

QUICK: dict[str, Row] = {
    "fanout-100x1000": Fanout(
        QUICK_KINDS, Resources(), Load(streams=200, pushes=10, warmup_pushes=5), warmup_pushes_jvm=50, rounds=1
    ),
    "fanout-100x4000": Fanout(
        QUICK_KINDS, Resources(), Load(streams=400, pushes=5, warmup_pushes=5), warmup_pushes_jvm=20, rounds=1
    ),
    "fanout-5000x500": Fanout(
        QUICK_KINDS, _FEW, Load(streams=100, pushes=5, warmup_pushes=5), warmup_pushes_jvm=20, rounds=1
    ),
    "memory": Memory(streams=400, clusters=200, rounds=1),
    "streams-100000": Alone(
        replace(OURS, workers=2), Resources(), Load(streams=2_000, pushes=3, paced=False, newcomers=20)
    ),
    "reconnect-5000": Alone(OURS, _FEW, Load(streams=200, options=("--reconnect-storm",))),
    "one-change": OneChange((100, 1_000, 10_000), streams=100),
    "slow-readers": SlowReaders(Load(streams=200, pushes=10, warmup_pushes=5), rounds=2),
    "scaling": Scaling(
        SCALING_KINDS,
        Load(streams=200, steps_before=(100,), pushes=5, warmup_pushes=5, paced=False),
        warmup_pushes_jvm=20,
    ),
}
"""The same rows, small: they show that everything works, and nothing else."""
