"""The rows of the comparison: which servers, how much of what, and what of it is kept. It does not know the targets."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.compare.claims import CORE
from bench.compare.fleet import Load, MeasureError, drive
from bench.compare.results import Figures, Measured, better
from bench.compare.servers import (
    GO_LINEAR,
    GO_SNAPSHOT,
    GO_TUNED,
    JAVA_PLAIN,
    JAVA_TUNED,
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

FIRST_ROW_KINDS = (OURS, GO_LINEAR, JAVA_TUNED, OURS_GRPCIO, GO_TUNED, JAVA_PLAIN, GO_SNAPSHOT, OURS_WORKER)
MANY_CLUSTERS_KINDS = (OURS, JAVA_TUNED, GO_LINEAR, OURS_GRPCIO, JAVA_PLAIN, GO_SNAPSHOT)
"""Without go-control-plane Snapshot tuned, which takes two minutes to connect and is far from being the best here."""
QUICK_KINDS = (OURS, GO_LINEAR, JAVA_TUNED, OURS_GRPCIO)
MICRO_TIMEOUT_S = 300

Say = Callable[[str], None]
Parameters = dict[str, float | str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a row came to: each server's figures by its name, and how much of what it was."""

    measured: dict[str, Measured]
    parameters: Parameters


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
    except ToolchainMissingError as error:
        return Measured(not_measured=str(error), lacks_toolchain=True)
    except (BuildError, ServerFailedError, MeasureError) as error:
        return Measured({}, tuple(commands), not_measured=str(error))


@dataclass(frozen=True, slots=True)
class Fanout:
    """Every server in turn serves the same to as many streams, in several rounds of which the better figures count."""

    kinds: tuple[Kind, ...]
    resources: Resources
    load: Load
    warmup_pushes_jvm: int
    rounds: int

    def run(self, say: Say) -> Outcome:
        """Measure all of them."""
        rounds: dict[str, list[Measured]] = {kind.name: [] for kind in self.kinds}
        for number in range(self.rounds):
            for kind in self.kinds:
                say(f"{kind.name}, round {number + 1} of {self.rounds}")
                rounds[kind.name].append(self._one(kind))
        merged = {name: _merged(measured) for name, measured in rounds.items()}
        return Outcome(merged, self.parameters())

    def _one(self, kind: Kind) -> Measured:
        first = None
        if kind.family == "java":
            first = replace(self.load, pushes=10, warmup_pushes=self.warmup_pushes_jvm, paced=False)
        return measure(kind, self.resources, self.load, first=first)

    def parameters(self) -> Parameters:
        """Say how much of what it is."""
        return {
            "streams": self.load.streams,
            "clusters": self.resources.clusters,
            "routes": self.resources.routes,
            "endpoints": self.resources.endpoints,
            "pushes in each mode": self.load.pushes,
            "warm-up pushes": self.load.warmup_pushes,
            "more warm-up pushes of a JVM": self.warmup_pushes_jvm,
            "rounds": self.rounds,
        }


def _merged(rounds: list[Measured]) -> Measured:
    """Return the better figures of the rounds that gave some; without any, why the first gave none."""
    good = [measured for measured in rounds if not measured.not_measured]
    if not good:
        return rounds[0]
    return Measured(better(measured.figures for measured in good), good[-1].commands)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a stream of ours takes: plaintext with few and with many clusters, all subscribed to, and with mTLS."""

    streams: int
    clusters: int

    def run(self, say: Say) -> Outcome:
        """Measure the three."""
        load = Load(streams=self.streams, streams_before=self.streams // 4, pushes=5, paced=False)
        few, many = Resources(), Resources(clusters=self.clusters)
        measured = {}
        for name, resources in (("100 clusters", few), ("5,000 clusters", many)):
            say(f"{OURS.name}, {resources.clusters:,} clusters")
            measured[name] = measure(OURS, resources, load)
        say(f"{OURS.name}, mTLS")
        with tempfile.TemporaryDirectory(prefix="xds-bench-tls-") as directory:
            server, client = _certificates(Path(directory))
            measured["mTLS"] = measure(OURS, few, replace(load, options=client), options=server)
        return Outcome(measured, {"streams": self.streams, "of them before": load.streams_before})


def _certificates(directory: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
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

    def run(self, say: Say) -> Outcome:
        """Measure it."""
        say(self.kind.name)
        return Outcome(
            {OURS.name: measure(self.kind, self.resources, self.load)},
            {"streams": self.load.streams, "clusters": self.resources.clusters, "workers": self.kind.workers},
        )


@dataclass(frozen=True, slots=True)
class SlowReaders:
    """The same fleet with everyone reading, and with some that don't, in turns; the better of the rounds counts."""

    load: Load
    rounds: int

    def run(self, say: Say) -> Outcome:
        """Measure both."""
        some = replace(self.load, options=("--stuck", "10%", "--slow", "10%"))
        rounds: dict[str, list[Measured]] = {"all read": [], "some do not": []}
        for number in range(self.rounds):
            for name, load in (("all read", self.load), ("some do not", some)):
                say(f"{name}, round {number + 1} of {self.rounds}")
                rounds[name].append(measure(OURS, Resources(), load))
        measured = {name: _merged(all_rounds) for name, all_rounds in rounds.items()}
        return Outcome(measured, {"streams": self.load.streams, "pushes in each mode": self.load.pushes})


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


Row = Fanout | Memory | Alone | SlowReaders | OneChange

_MANY = Resources(clusters=5_000)

FULL: dict[str, Row] = {
    "fanout-100x1000": Fanout(
        FIRST_ROW_KINDS, Resources(), Load(streams=1_000, pushes=40, warmup_pushes=20), warmup_pushes_jvm=300, rounds=2
    ),
    "fanout-100x4000": Fanout(
        FIRST_ROW_KINDS, Resources(), Load(streams=4_000, pushes=15, warmup_pushes=5), warmup_pushes_jvm=100, rounds=2
    ),
    "fanout-5000x500": Fanout(
        MANY_CLUSTERS_KINDS,
        _MANY,
        Load(streams=500, pushes=10, warmup_pushes=3, timeout_s=240),
        warmup_pushes_jvm=100,
        rounds=1,
    ),
    "memory": Memory(streams=4_000, clusters=5_000),
    "streams-100000": Alone(
        replace(OURS, workers=6),
        Resources(),
        Load(streams=100_000, pushes=3, paced=False, newcomers=100, options=("--workers", "8"), timeout_s=300),
    ),
    "reconnect-5000": Alone(
        OURS, _MANY, Load(streams=5_000, options=("--reconnect-storm",), timeout_s=300),
    ),
    "one-change": OneChange((100, 1_000, 10_000, 100_000), streams=1_000),
    "slow-readers": SlowReaders(Load(streams=1_000, pushes=40, warmup_pushes=5), rounds=3),
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
    "memory": Memory(streams=400, clusters=200),
    "streams-100000": Alone(
        replace(OURS, workers=2), Resources(), Load(streams=2_000, pushes=3, paced=False, newcomers=20)
    ),
    "reconnect-5000": Alone(OURS, _FEW, Load(streams=200, options=("--reconnect-storm",))),
    "one-change": OneChange((100, 1_000, 10_000), streams=100),
    "slow-readers": SlowReaders(Load(streams=200, pushes=10, warmup_pushes=5), rounds=1),
}
"""The same rows, small: they show that everything works, and nothing else."""
