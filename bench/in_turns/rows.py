"""What is measured in turns: servers under a fan-out and under pushes, loading a directory, and the pure core.

It does not know how results are judged.
"""

import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace

from bench.compare.fleet import Load, MeasureError, drive
from bench.compare.results import Figures
from bench.compare.rows import MICRO_TIMEOUT_S, micro_figures
from bench.compare.servers import Resources, Running
from bench.in_turns.product import pushed_to, serving
from bench.in_turns.revisions import Revision
from bench.unlike import FLEETS
from xds.fleet.processes import ProcessTree

LOAD_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Fanout:
    """Streams that are pushed to back to back by ``xds serve``."""

    resources: Resources
    load: Load

    def scaled(self, scale: float) -> "Fanout":
        """Return the same with so much less of clusters above a hundred, and of streams."""
        clusters = max(min(self.resources.clusters, 100), round(self.resources.clusters * scale))
        streams = max(10, round(self.load.streams * scale))
        return Fanout(replace(self.resources, clusters=clusters), replace(self.load, streams=streams))

    def measure(self, revision: Revision, workers: int) -> Figures:
        """Start a server, drive it, return its figures. Raises ServerFailedError and MeasureError."""
        with serving(revision, self.resources, workers=workers) as server:
            return self.drive(server)

    def drive(self, server: Running, options: tuple[str, ...] = ()) -> Figures:
        """Have a fleet load a server that serves; return the figures. Raises MeasureError."""
        figures, _ = drive(self.load.beside(options), server, self.resources)
        for name in ("back_to_back", "connect"):
            figures[f"{name}.parent_us"] = figures[f"{name}.cpu_us"] - figures.get(f"{name}.workers_us", 0.0)
        return figures

    def shown(self) -> str:
        """Say what it is."""
        load = self.load
        return f"{self.resources.clusters:,} clusters, {load.streams:,} streams, {load.pushes} pushes a round"


@dataclass(frozen=True, slots=True)
class Unlike:
    """``bench/unlike.py``, each revision's own: the pure core with fleets whose clients are not alike."""

    streams: int

    def scaled(self, scale: float) -> "Unlike":
        """Return the same with fewer streams."""
        return Unlike(max(10, round(self.streams * scale)))

    def measure(self, revision: Revision, _workers: int) -> Figures:
        """Run it; return what a message and its answer cost. Raises MeasureError."""
        said = _run_own(revision, "unlike.py", (f"--streams={self.streams}",), MICRO_TIMEOUT_S)
        found = {f"unlike.{name}_us": float(us) for name, us in re.findall(r"^(\w+) ([0-9.]+)$", said, re.MULTILINE)}
        if len(found) != len(FLEETS):
            raise MeasureError(f"unlike.py does not say what each fleet costs: {said[-1_000:]}")
        return found

    def shown(self) -> str:
        """Say what it is."""
        return f"the pure core, {self.streams:,} streams that are not alike"


@dataclass(frozen=True, slots=True)
class Pushes:
    """Changes of one assignment each, one after the other, to a server without streams.

    By the REST API with a store in memory, or (``grpc``) by the push API with a store in a SQLite file.
    """

    changes: int
    resources: Resources = field(default_factory=Resources)
    grpc: bool = False

    def scaled(self, scale: float) -> "Pushes":
        """Return the same with fewer changes."""
        return replace(self, changes=max(10, round(self.changes * scale)))

    def measure(self, revision: Revision, workers: int) -> Figures:
        """Start a server, push to it; return what a change takes. Raises ServerFailedError."""
        with pushed_to(revision, self.resources, workers=workers, grpc=self.grpc) as (server, pusher):
            for _ in range(self.changes // 4):  # its caches fill
                pusher.push()
            tree, taken_ms = ProcessTree([server.pid]), []
            before_s = tree.cpu_s()
            for _ in range(self.changes):
                began = time.perf_counter()
                pusher.push()
                taken_ms.append((time.perf_counter() - began) * 1_000)
            cpu_us = (tree.cpu_s() - before_s) * 1_000_000 / self.changes
        return {"push_ms": statistics.median(taken_ms), "push.cpu_us": cpu_us}

    def shown(self) -> str:
        """Say what it is."""
        how = "by gRPC, SQLite" if self.grpc else "by REST, in memory"
        return f"{self.changes:,} changes a round, {how}, one after the other, {self.resources.clusters:,} clusters"


@dataclass(frozen=True, slots=True)
class Loading:
    """``bench/load_directory.py``, each revision's own: clusters and as many assignments of ten endpoints from YAML."""

    clusters: int

    def scaled(self, scale: float) -> "Loading":
        """Return the same with fewer resources."""
        return Loading(max(100, round(self.clusters * scale)))

    def measure(self, revision: Revision, _workers: int) -> Figures:
        """Run it; return the seconds of the first loading. Raises MeasureError."""
        said = _run_own(revision, "load_directory.py", (f"--clusters={self.clusters}",), LOAD_TIMEOUT_S)
        found = re.search(r"^cold: ([0-9.]+) s$", said, re.MULTILINE)
        if found is None:
            raise MeasureError(f"load_directory.py says no time: {said[-1_000:]}")
        return {"load_s": float(found[1])}

    def shown(self) -> str:
        """Say what it is."""
        return f"{self.clusters:,} clusters and {self.clusters:,} assignments from YAML"


def _run_own(revision: Revision, program: str, options: tuple[str, ...], timeout_s: float) -> str:
    """Run a program of a revision's ``bench``; return what it prints, errors last."""
    argv = [sys.executable, str(revision.source / "bench" / program), *options]
    ended = subprocess.run(
        argv, cwd=revision.source, env={**os.environ, **revision.environment}, capture_output=True, text=True,
        check=False, timeout=timeout_s,
    )  # fmt: skip
    return ended.stdout + ended.stderr


@dataclass(frozen=True, slots=True)
class Core:
    """``bench/micro.py``, each revision's own: the pure core without sockets."""

    streams: int
    changes: int

    def scaled(self, scale: float) -> "Core":
        """Return the same with fewer streams."""
        return replace(self, streams=max(10, round(self.streams * scale)))

    def measure(self, revision: Revision, _workers: int) -> Figures:
        """Run it; return what a change costs, for each stream. Raises MeasureError."""
        options = ("--resources=100", f"--streams={self.streams}", f"--changes={self.changes}")
        said = _run_own(revision, "micro.py", options, MICRO_TIMEOUT_S)
        try:
            change_us = micro_figures(said, (100,))["a change at 100 resources, µs"]
        except ValueError as error:
            raise MeasureError(f"{error}: {said[-1_000:]}") from None
        return {"change_us": change_us / self.streams}

    def shown(self) -> str:
        """Say what it is."""
        return f"the pure core, 100 clusters, {self.streams:,} streams, {self.changes} changes a round"


FANOUTS: dict[str, Fanout] = {
    "100x1000": Fanout(Resources(), Load(streams=1_000, pushes=60, warmup_pushes=10, paced=False)),
    "100x4000": Fanout(Resources(), Load(streams=4_000, pushes=20, warmup_pushes=5, paced=False)),
    "5000x500": Fanout(
        Resources(clusters=5_000), Load(streams=500, pushes=60, warmup_pushes=10, paced=False, timeout_s=300)
    ),
}
Row = Fanout | Core | Unlike | Pushes | Loading
ROWS: dict[str, Row] = {
    **FANOUTS,
    "core": Core(streams=1_000, changes=100),
    "unlike": Unlike(streams=500),
    "push": Pushes(changes=400),
    "push-grpc": Pushes(changes=400, grpc=True),
    "load": Loading(clusters=10_000),
}
