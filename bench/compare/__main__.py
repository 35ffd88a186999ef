"""``python -m bench.compare``: run the rows, keep their results, write the report."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.compare.floor import Floor
from bench.compare.results import Measured, RowResult, load, save
from bench.compare.rows import FULL, QUICK, Row, streams_of
from bench.compare.servers import ROOT
from bench.peers.build import BUILDERS, BuildError, ToolchainMissingError, versions
from bench.report import DIRECTORY, PLOT, report_of
from xds.process.descriptors import make_all_room

QUICK_DIRECTORY = ROOT / "build" / "bench-quick"
"""Where a quick run writes; git ignores it."""


def main() -> int:
    """Return 0 if all that could be measured was, whether or not it meets the targets."""
    options = _options()
    report, results = places(quick=options.quick)
    if options.report_only:
        return write_report(report, results, quick=options.quick)
    make_all_room()
    rows = QUICK if options.quick else FULL
    build_peers()
    built_of = {**our_versions(), **versions()}  # once, as the first row's result makes the checkout a changed one
    started_s = time.monotonic()
    failed = False
    for name in options.only or rows:
        result, drawn = run_row(name, rows[name], built_of)
        save(result, results)
        if drawn:
            draw(drawn, results / name, report.parent / PLOT)
        write_report(report, results, quick=options.quick)
        failed |= any(is_failure(measured) for measured in result.measured.values())
    say(f"written to {report.relative_to(ROOT)} after {(time.monotonic() - started_s) / 60:.0f} minutes")
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help=f"small, in a few minutes, into {QUICK_DIRECTORY.relative_to(ROOT)}"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--only", action="append", choices=FULL, metavar="ROW", help=f"run this row; repeatable. {', '.join(FULL)}"
    )
    what.add_argument(
        "--report-only", action="store_true", help="run nothing; write the report again from the saved results"
    )
    return parser.parse_args()


def places(*, quick: bool) -> tuple[Path, Path]:
    """Return where the report goes and the directory of the results; a quick run's replaces nothing of the others."""
    report, results = ROOT / "bench" / "RESULTS.md", DIRECTORY
    if quick:
        report, results = QUICK_DIRECTORY / "RESULTS.md", QUICK_DIRECTORY / "results"
    results.mkdir(parents=True, exist_ok=True)
    return report, results


def write_report(report: Path, results: Path, *, quick: bool) -> int:
    """Write the report of the saved results. Return 1 if there are none, and write nothing."""
    if not load(results):
        say(f"there are no results in {results}")
        return 1
    plot = PLOT if (report.parent / PLOT).exists() else ""
    report.write_text(report_of(results, drawn=plot, quick=quick))
    return 0


def draw(drawn: Mapping[str, Mapping[str, Any]], directory: Path, plot: Path) -> None:
    """Keep results of ``xds fleet`` and have ``xds fleet plot`` draw them into one file."""
    directory.mkdir(exist_ok=True)
    kept = []
    for server, result in drawn.items():
        kept.append(directory / f"{server.replace(', ', '-').replace(' ', '-').replace('/', '-')}.json")
        kept[-1].write_text(json.dumps(result, indent=1) + "\n")
    argv = [str(Path(sys.executable).parent / "xds"), "fleet", "plot", *map(str, kept), "--output", str(plot)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    if ended.returncode:
        say(f"nothing was drawn: {ended.stderr.strip()[-500:]}")


def build_peers() -> None:
    """Build what can be built, so that no row waits for it; what can't be is said now, and in its rows."""
    for language, build in BUILDERS.items():
        say(f"building the {language} peer")
        try:
            build()
        except (ToolchainMissingError, BuildError) as error:
            say(f"without it: {error}")


def run_row(name: str, row: Row, built_of: Mapping[str, str]) -> tuple[RowResult, dict[str, dict[str, Any]]]:
    """Measure one row; return its result, and what of it is to be drawn."""
    started_s = time.monotonic()
    load = os.getloadavg()[0]
    floor = Floor.measured(streams_of(row))
    date = datetime.now(UTC).isoformat(timespec="seconds")
    outcome = row.run(lambda text: say(f"{name}: {text}"))
    for server, measured in outcome.measured.items():
        if measured.not_measured:
            say(f"{name}: {server} was not measured: {measured.not_measured}")
    result = RowResult(
        row=name,
        date=date,
        took_s=round(time.monotonic() - started_s, 1),
        machine=machine(),
        versions=built_of,
        parameters={**outcome.parameters, "load average before": round(load, 2), **floor.parameter()},
        measured=outcome.measured,
    )
    return result, outcome.drawn


def is_failure(measured: Measured) -> bool:
    """Say whether something went wrong, which a toolchain that is not there is not."""
    return bool(measured.not_measured) and not measured.lacks_toolchain


def machine() -> dict[str, str]:
    """Say what this runs on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "CPU": f"{os.cpu_count()} × {model} ({platform.machine()})",
        "memory": f"{memory_gib:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def our_versions() -> dict[str, str]:
    """Say what ours is made of."""
    names = ("xds-control-plane", "grpcio", "protobuf", "uvloop", "immutables", "hpack")
    return {"Python": platform.python_version(), "commit": _commit(), **{name: version(name) for name in names}}


def _commit() -> str:
    ended = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return ended.stdout.strip() or "unknown"


def say(text: str) -> None:
    """Tell what is going on."""
    print(f"{datetime.now().astimezone():%H:%M:%S} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
