"""Render ``docs/reliability.md`` from the results of the fault matrix: ``python -m bench.reliability``.

Each part of a row is a file in ``bench/results/faults``, written by a full run of the row (``make fault ROW=3``).
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "faults"
PAGE = ROOT / "docs" / "reliability.md"

ROWS = {
    1: ("Slow and dead readers", "test_row1_slow_readers.py"),
    2: ("Attacks beside good streams", "test_row2_attacks.py"),
    3: ("The engine of the store away", "test_row3_engine_away.py"),
    4: ("Malformed input, and peers that fall silent", "test_row4_hostile_peers.py"),
    5: ("A storm of NACKs", "test_row5_nack_storm.py"),
    6: ("Clocks, signals, and lost workers", "test_row6_clock_and_workers.py"),
    7: ("Certificates, tokens, and identities", "test_row7_identities.py"),
    8: ("Hostile directories", "test_row8_hostile_directory.py"),
    9: ("Soak", "test_row9_soak.py"),
}
"""The title of each row, and its module in tests/faults."""

INTRODUCTION = (
    "# Reliability\n\n"
    "What happens on a bad day, measured. Each row is a fault or a family of faults, run against the real `xds serve` "
    "over loopback by one command, `make fault ROW=N`; `make fault-matrix` runs all of them. `make soak` is the last "
    "one, which can be stopped and goes on where it was. A short version of each row is part of every test run. This "
    "page is written from the results of the full runs (`bench/results/faults`) by the same commands; do not edit it."
    "\n\n"
    "*Bound* is what must hold. It was set before the first run and is not changed to fit a result. A bound that was "
    "missed says so. Servers, streams and faults share the cores of one machine; *load* is how many programs wanted "
    "a core at the end of a part.\n"
)
OTHERS = """\
## More faults

| run | what it shows |
|---|---|
| `make simulate` | seeded runs of simulated Envoys, changes and faults ([last run](../bench/results/simulation.txt)) |
| `make faults` | servers, replicas and etcd's leaders killed ([last run](../bench/results/faults.txt)) |
| `make attacks` | the attacks of row 2, with every figure ([earlier runs](../bench/results/attacks.txt)) |
| `make fuzz` | random frames at the HTTP/2 connection |
| `make h2spec` | the conformance suite for HTTP/2 servers |
"""


def results(directory: Path) -> list[dict[str, Any]]:
    """Return the results of all parts, in order of row and name."""
    found = [json.loads(path.read_text()) for path in directory.glob("*.json")]
    return sorted(found, key=lambda each: (each["row"], each["part"]))


def render(found: list[dict[str, Any]]) -> str:
    """Return the page."""
    lines = [INTRODUCTION, "| row | fault | bounds held | measured |", "|---|---|---|---|"]
    for row, (title, _) in ROWS.items():
        mine = [each for each in found if each["row"] == row]
        lines.append(f"| {row} | [{title}](#{_anchor(title)}) | {_score(mine)} | {_dates(mine)} |")
    lines.append("")
    for row, (title, module) in ROWS.items():
        lines += [f"## {title}", ""]
        lines += [f"Row {row}: `make fault ROW={row}`, [{module}](../tests/faults/{module}).", ""]
        for each in found:
            if each["row"] == row:
                lines += _part(each)
        if not any(each["row"] == row for each in found):
            lines += ["Not measured yet at full size; every test run has the short version.", ""]
    return "\n".join([*lines, OTHERS])


def _part(result: dict[str, Any]) -> Iterator[str]:
    how = f"{result['date']}, {result['machine']}, load {result['load']:g}, commit {result['commit']}"
    yield f"**{result['what']}** ({how}, {result['took_s']:,.0f} s)"
    yield ""
    yield "| | bound | measured | |"
    yield "|---|---|---|---|"
    for check in result["checks"]:
        held = "held" if check["held"] else "**missed**"
        yield f"| {_cell(check['what'])} | {_cell(check['bound'])} | {_cell(check['measured'])} | {held} |"
    yield ""
    if result["notes"]:
        yield " ".join(result["notes"])
        yield ""


def _score(mine: list[dict[str, Any]]) -> str:
    checks = [check for each in mine for check in each["checks"]]
    return f"{sum(check['held'] for check in checks)} of {len(checks)}" if checks else "–"


def _dates(mine: list[dict[str, Any]]) -> str:
    return ", ".join(sorted({each["date"] for each in mine})) or "not yet"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _anchor(title: str) -> str:
    return "".join(each for each in title.lower() if each.isalnum() or each in " -").replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(render(results(RESULTS)))
    sys.exit(0)
