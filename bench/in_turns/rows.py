"""What is measured in turns: servers under a fan-out, and the pure core. It does not know how results are judged."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace

from bench.compare.fleet import Load, MeasureError, drive
from bench.compare.results import Figures
from bench.compare.rows import MICRO_TIMEOUT_S, micro_figures
from bench.compare.servers import Resources, Running
from bench.in_turns.product import serving
from bench.in_turns.revisions import Revision


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
class Core:
    """``bench/micro.py``, each revision's own: the pure core without sockets."""

    streams: int
    changes: int

    def scaled(self, scale: float) -> "Core":
        """Return the same with fewer streams."""
        return replace(self, streams=max(10, round(self.streams * scale)))

    def measure(self, revision: Revision, _workers: int) -> Figures:
        """Run it; return what a change costs, for each stream. Raises MeasureError."""
        options = ["--resources=100", f"--streams={self.streams}", f"--changes={self.changes}"]
        argv = [sys.executable, str(revision.source / "bench" / "micro.py"), *options]
        environment = {**os.environ, **revision.environment}
        ended = subprocess.run(
            argv, cwd=revision.source, env=environment, capture_output=True, text=True, check=False,
            timeout=MICRO_TIMEOUT_S,
        )  # fmt: skip
        try:
            change_us = micro_figures(ended.stdout, (100,))["a change at 100 resources, µs"]
        except ValueError as error:
            raise MeasureError(f"{error}: {ended.stderr[-1_000:]}") from None
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
Row = Fanout | Core
ROWS: dict[str, Row] = {**FANOUTS, "core": Core(streams=1_000, changes=100)}
