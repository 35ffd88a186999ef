"""``python -m bench.compare``: run the rows, keep their results, write the report."""

import argparse
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.compare.results import Measured, RowResult, save
from bench.compare.rows import FULL, QUICK, Row
from bench.compare.servers import ROOT
from bench.peers.build import BUILDERS, BuildError, ToolchainMissingError, versions
from bench.report import DIRECTORY, report_of


def main() -> int:
    """Return 0 if all that could be measured was, whether or not it meets the targets."""
    options = _options()
    rows = QUICK if options.quick else FULL
    directory = DIRECTORY / "quick" if options.quick else DIRECTORY
    report = directory / "RESULTS.md" if options.quick else ROOT / "bench" / "RESULTS.md"
    build_peers()
    failed = False
    for name in options.only or rows:
        result = run_row(name, rows[name])
        save(result, directory)
        report.write_text(report_of(directory, quick=options.quick))
        failed |= any(is_failure(measured) for measured in result.measured.values())
    say(f"written to {report.relative_to(ROOT)}")
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, in about 3 minutes, into bench/results/quick")
    parser.add_argument(
        "--only", action="append", choices=FULL, metavar="ROW", help=f"run this row; repeatable. {', '.join(FULL)}"
    )
    return parser.parse_args()


def build_peers() -> None:
    """Build what can be built, so that no row waits for it; what can't be is said now, and in its rows."""
    for language, build in BUILDERS.items():
        say(f"building the {language} peer")
        try:
            build()
        except (ToolchainMissingError, BuildError) as error:
            say(f"without it: {error}")


def run_row(name: str, row: Row) -> RowResult:
    """Measure one row."""
    started_s = time.monotonic()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    outcome = row.run(lambda text: say(f"{name}: {text}"))
    for server, measured in outcome.measured.items():
        if measured.not_measured:
            say(f"{name}: {server} was not measured: {measured.not_measured}")
    return RowResult(
        row=name,
        date=date,
        took_s=round(time.monotonic() - started_s, 1),
        machine=machine(),
        versions={**our_versions(), **versions()},
        parameters=outcome.parameters,
        measured=outcome.measured,
    )


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
