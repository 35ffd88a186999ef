"""The fleet against one running server: its command, and the figures in what it reports. It does not know rows."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.compare.results import Figures
from bench.compare.servers import ROOT, Resources, Running, shown

PROCESS_TIMEOUT_S = 900
BACK_TO_BACK = "back_to_back"
PACED = "paced"
PACED_GAP_MS = 200


class MeasureError(Exception):
    """The fleet found something wrong, so that its figures count for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the fleet does: how many streams, how many pushes in each mode, and what else."""

    streams: int
    steps_before: tuple[int, ...] = ()
    """Smaller numbers of streams that come first, each with all pushes: what a stream takes is then seen by growth."""
    pushes: int = 0
    warmup_pushes: int = 0
    paced: bool = True
    newcomers: int = 0
    options: tuple[str, ...] = ()
    timeout_s: int = 120

    def beside(self, options: tuple[str, ...]) -> "Load":
        """Return the same with further options."""
        return replace(self, options=(*self.options, *options))

    def arguments(self, server: Running, resources: Resources) -> list[str]:
        """Return the command line, but for where the result goes."""
        routes = ",".join(f"route-{number}" for number in range(resources.routes))
        gaps = f"0,{PACED_GAP_MS}" if self.paced else "0"
        pushing = ["--pushes", self.pushes, "--warmup-pushes", self.warmup_pushes, "--push-gap-ms", gaps]
        words: list[str | int] = [str(Path(sys.executable).parent / "xds"), "fleet", "--server", server.target]
        steps = ",".join(str(size) for size in (*self.steps_before, self.streams))
        words += ["--streams", steps, "--types", "clusters,endpoints,routes", "--subscribe", f"routes={routes}"]
        words += ["--server-pid", server.pid, "--trigger", server.trigger, "--timeout", f"{self.timeout_s}s"]
        words += [*(pushing if self.pushes else []), *(["--newcomers", self.newcomers] if self.newcomers else [])]
        return [*map(str, words), *self.options]


def drive(load: Load, server: Running, resources: Resources) -> tuple[Figures, str]:
    """Run the fleet to its end; return the figures and the command. Raises MeasureError."""
    result, command = drive_whole(load, server, resources)
    return figures_of(result), command


def drive_whole(load: Load, server: Running, resources: Resources) -> tuple[dict[str, Any], str]:
    """Run the fleet to its end; return all that ``xds fleet --json`` wrote, and the command. Raises MeasureError."""
    argv = load.arguments(server, resources)
    with tempfile.TemporaryDirectory(prefix="xds-bench-") as directory:
        path = Path(directory) / "result.json"
        try:
            ended = subprocess.run(
                [*argv, "--json", str(path)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=PROCESS_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise MeasureError(f"the fleet took longer than {PROCESS_TIMEOUT_S} s: {shown(argv)}") from None
        said = ended.stdout.decode(errors="replace")[-3_000:]
        if not path.exists():
            raise MeasureError(f"the fleet gave no result, with exit code {ended.returncode}:\n{said}")
        result: dict[str, Any] = json.loads(path.read_text())
    if result["problems"]:
        raise MeasureError(f"the fleet found: {'; '.join(result['problems'])}")
    return result, shown(argv)


def figures_of(result: Mapping[str, Any]) -> Figures:
    """Return the figures in the JSON of ``xds fleet``, of its last step, and the memory a stream between the steps."""
    *earlier, step = result["steps"]
    figures = _connect(step["connect"], result["verify"])
    if step["memory"] is not None:
        figures |= _memory(step["memory"], step["streams"])
        if earlier:
            figures |= _growth(earlier[-1], step)
    for series in step["pushes"]:
        figures |= _pushes(PACED if series["gap_ms"] else BACK_TO_BACK, series)
    if result["newcomers"] is not None:
        figures |= _newcomers(result["newcomers"])
    if result["storm"] is not None:
        figures |= _storm(result["storm"])
    if result.get("fleet_memory_bytes"):
        figures["fleet.kb"] = result["fleet_memory_bytes"] / step["streams"] / 1000
    return figures


def _growth(before: Mapping[str, Any], step: Mapping[str, Any]) -> Figures:
    """Return what each stream of the last step added to what the step before left, connected and after the pushes."""
    added, memory = step["streams"] - before["streams"], step["memory"]
    figures = {"memory.added_kb": memory["bytes_per_added_stream"] / 1000}
    after_bytes, earlier_bytes = (one["memory"]["after_pushes_bytes"] for one in (step, before))
    if after_bytes is not None and earlier_bytes is not None:
        figures["memory.added_after_kb"] = (after_bytes - earlier_bytes) / added / 1000
    return figures


def _connect(connect: Mapping[str, Any], verify: Mapping[str, Any] | None) -> Figures:
    latency = connect["connect_to_synced"]
    workers_us = connect.get("workers_cpu_us_per_sidecar")
    return {
        "connect.cpu_us": connect["server_cpu_us_per_sidecar"],
        **({"connect.workers_us": workers_us} if workers_us else {}),
        "connect.p50_s": latency["p50_ms"] / 1000,
        "connect.p99_s": latency["p99_ms"] / 1000,
        "connect.all_s": connect["all_synced_s"],
        "connect.missing": connect["sidecars"] - connect["synced"] + (verify["different"] if verify else 0),
    }


def _memory(memory: Mapping[str, Any], streams: int) -> Figures:
    figures = {
        "memory.kb": memory["bytes_per_stream"] / 1000,
        "memory.total_mb": memory["connected_bytes"] / 1e6,
    }
    if memory["after_pushes_bytes"] is not None:
        figures["memory.after_kb"] = (memory["after_pushes_bytes"] - memory["before_bytes"]) / streams / 1000
        figures["memory.total_mb"] = max(figures["memory.total_mb"], memory["after_pushes_bytes"] / 1e6)
    return figures


def _pushes(mode: str, series: Mapping[str, Any]) -> Figures:
    latency = series["latency"]
    last_ms = [push["latency"]["last_ms"] for push in series["pushes"]]
    workers_us = series.get("workers_cpu_us_per_delivery")
    return {
        f"{mode}.cpu_us": series["server_cpu_us_per_delivery"],
        **({f"{mode}.workers_us": workers_us} if workers_us else {}),
        f"{mode}.p50_ms": latency["p50_ms"],
        f"{mode}.p99_ms": latency["p99_ms"],
        f"{mode}.p999_ms": latency["p999_ms"],
        f"{mode}.last_ms": statistics.median(last_ms),
        f"{mode}.fleet_us": series["fleet_cpu_us_per_delivery"],
    }


def _newcomers(newcomers: Mapping[str, Any]) -> Figures:
    latency = newcomers["connect_to_synced"]
    return {
        "push.last_s": newcomers["push"]["latency"]["last_ms"] / 1000,
        "newcomers.p50_s": latency["p50_ms"] / 1000,
        "newcomers.p99_s": latency["p99_ms"] / 1000,
        "newcomers.missing": newcomers["sidecars"] - newcomers["synced"],
    }


def _storm(storm: Mapping[str, Any]) -> Figures:
    latency = storm["reconnect_to_synced"]
    return {
        "reconnect.resources": storm["resources_sent_again"],
        "reconnect.p50_s": latency["p50_ms"] / 1000,
        "reconnect.p99_s": latency["p99_ms"] / 1000,
        "reconnect.all_s": storm["all_synced_s"],
        "reconnect.cpu_us": storm["server_cpu_us_per_sidecar"],
    }
