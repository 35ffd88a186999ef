"""Render ``bench/RESULTS.md`` from the results of ``make bench``: ``python -m bench.report [RESULTS_DIRECTORY]``.

It prints to stdout. It does not measure, and knows of a figure only its name.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.compare.claims import Claim, claims
from bench.compare.results import Measured, RowResult, load
from bench.compare.servers import OURS

DIRECTORY = Path(__file__).parent / "results"
NOTES = "notes.md"
"""What a person wrote about the results, in their directory: why a figure misses its target."""

INTRODUCTION = (
    "Written by `make bench` (`python -m bench.compare`); do not edit. Ours and the peers ran one after the other on "
    "the same machine, driven by the same fleet (`xds fleet`): one TCP connection and one delta ADS stream per "
    "simulated sidecar, every response ACKed, both ends on this machine. CPU is the user and system time of the "
    "server's whole process tree, memory its proportional set size (1 KB is 1,000 bytes). Each figure is the better "
    "of the row's rounds, of memory the larger. Absolute figures vary with the machine; the ratios are what counts."
)

TITLES = {
    "fanout-100x1000": "100 clusters, 100 assignments, 10 routes × 1,000 streams, one endpoint change",
    "fanout-100x4000": "100 clusters, 100 assignments, 10 routes × 4,000 streams, one endpoint change",
    "fanout-5000x500": "5,000 clusters, 5,000 assignments × 500 streams, one endpoint change",
    "memory": "Memory per stream",
    "streams-100000": "100,000 streams at once, one change to all, 100 newcomers meanwhile",
    "reconnect-5000": "5,000 streams reconnect with their versions, content unchanged, 5,000 clusters",
    "one-change": "The cost of one change to 1,000 streams, pure core",
    "slow-readers": "10% of the streams never read, 10% read slowly",
}

TABLES: tuple[dict[str, str], ...] = (
    {
        "back_to_back.cpu_us": "CPU per delivery, back to back",
        "paced.cpu_us": "200 ms apart",
        "back_to_back.p50_ms": "latency p50, back to back",
        "back_to_back.p99_ms": "p99",
        "back_to_back.p999_ms": "p99.9",
        "back_to_back.last_ms": "last stream, median",
        "paced.p50_ms": "p50, 200 ms apart",
        "paced.p99_ms": "p99",
        "paced.p999_ms": "p99.9",
        "paced.last_ms": "last stream, median",
        "back_to_back.fleet_us": "the fleet's own CPU per delivery",
    },
    {
        "connect.cpu_us": "connect, CPU per stream",
        "connect.p50_s": "connect to synced, p50",
        "connect.p99_s": "p99",
        "connect.all_s": "all",
        "connect.missing": "not synced, or differing at the end",
        "memory.kb": "memory per stream",
        "memory.added_kb": "of the last three quarters",
        "memory.after_kb": "after the pushes",
        "memory.total_mb": "in all",
    },
    {
        "push.last_s": "push to all, last stream",
        "newcomers.p50_s": "newcomers synced, p50",
        "newcomers.p99_s": "p99",
        "newcomers.missing": "not synced",
        "reconnect.resources": "resources sent again",
        "reconnect.p50_s": "reconnected, p50",
        "reconnect.p99_s": "p99",
        "reconnect.all_s": "all",
        "reconnect.cpu_us": "CPU per stream",
    },
)
"""The figures that are shown together, in order, with their headings. What is in none comes last, by its own name."""

UNSHOWN = frozenset(("paced.fleet_us",))
UNITS = {"us": "µs", "ms": "ms", "s": "s", "kb": "KB", "mb": "MB"}
RATIO = "back_to_back.cpu_us"


def render(results: Mapping[str, RowResult], notes: str = "", *, quick: bool = False) -> str:
    """Return the whole report as Markdown; that of a quick run judges nothing."""
    parts = ["# Benchmark results", INTRODUCTION]
    if quick:
        parts += ["**A quick run: everything is small, to show that it works. Its figures say nothing.**"]
    else:
        judged = claims(results)
        parts += ["## What must be shown", _summary(judged), "\n".join(_claims_table(judged))]
        parts += [notes.strip()] if notes.strip() else []
    parts += ["## Figures", *_rows(results), "## Machine and versions", *_environments(results)]
    parts += ["## Commands", *_commands(results)]
    return "\n\n".join(parts) + "\n"


def _summary(judged: list[Claim]) -> str:
    counts = Counter(claim.verdict for claim in judged)
    return f"{counts['pass']} of {len(judged)} pass, {counts['MISS']} miss, {counts['not measured']} not measured."


def _claims_table(judged: list[Claim]) -> Iterator[str]:
    yield "| row | what | target | measured | verdict |"
    yield "|---|---|---|---|---|"
    for claim in judged:
        sign = "≤" if claim.at_most else "≥"
        target = f"{sign} {_number(claim.limit)} {claim.unit}".rstrip()
        measured = "–" if claim.measured is None else f"{_number(claim.measured)} {claim.unit}".rstrip()
        detail = f" ({claim.detail})" if claim.detail else ""
        verdict = f"**{claim.verdict}**" if claim.verdict == "MISS" else claim.verdict
        yield f"| {claim.row} | {claim.what} | {target} | {measured}{detail} | {verdict} |"


def _rows(results: Mapping[str, RowResult]) -> Iterator[str]:
    for row in [*TITLES, *sorted(results.keys() - TITLES)]:
        if row in results:
            yield f"### {row}: {TITLES.get(row, row)}"
            yield from _figures_tables(results[row])
            parameters = ", ".join(f"{name} {_number(value)}" for name, value in results[row].parameters.items())
            yield f"{results[row].date}, took {results[row].took_s:.0f} s. {parameters}."


def _figures_tables(result: RowResult) -> Iterator[str]:
    """Yield a table for each group of figures that was measured, and what was not measured."""
    given = dict.fromkeys(name for measured in result.measured.values() for name in measured.figures)
    grouped = {name for group in TABLES for name in group} | UNSHOWN
    for group in (*TABLES, {name: name for name in given if name not in grouped}):
        names = [name for name in group if name in given]
        if names:
            yield "\n".join(_table(result, {name: group[name] for name in names}))
    for server, measured in result.measured.items():
        if measured.not_measured:
            lines = [line.strip() for line in measured.not_measured.splitlines() if line.strip()]
            yield f"{server}: not measured: {' … '.join(dict.fromkeys((lines[0], lines[-1])))}"


def _table(result: RowResult, headings: Mapping[str, str]) -> Iterator[str]:
    ours = result.figure(OURS.name, RATIO) if RATIO in headings else None
    shown = [f"{heading}{_unit(name)}" for name, heading in headings.items()]
    yield f"| | {' | '.join([*shown, *(['CPU × ours'] if ours else [])])} |"
    yield "|---|" + "---|" * (len(headings) + bool(ours))
    for server, measured in result.measured.items():
        cells = [_cell(measured, name) for name in headings]
        if ours:
            figure = measured.figures.get(RATIO)
            cells.append("–" if figure is None else f"{figure / ours:.1f}")
        yield f"| {server} | {' | '.join(cells)} |"


def _cell(measured: Measured, name: str) -> str:
    figure = measured.figures.get(name)
    return "–" if figure is None else _number(figure)


def _unit(name: str) -> str:
    unit = UNITS.get(name.replace(".", "_").rpartition("_")[2])
    return f", {unit}" if unit else ""


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"


def _environments(results: Mapping[str, RowResult]) -> Iterator[str]:
    """Say where the rows were measured, once for those that were measured in the same place."""
    places: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for row, result in results.items():
        places.setdefault((*result.machine.items(), *result.versions.items()), []).append(row)
    for place, rows in places.items():
        lines = [] if len(places) == 1 else [f"{', '.join(rows)}:", ""]
        yield "\n".join([*lines, "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in place)])


def _commands(results: Mapping[str, RowResult]) -> Iterator[str]:
    yield "All of it: `make bench`. One row: `python -m bench.compare --only ROW`, which runs, for each server:"
    for row, result in results.items():
        commands = [command for measured in result.measured.values() for command in measured.commands]
        if commands:
            yield f"{row}:\n\n```\n" + "\n".join(commands) + "\n```"


def main() -> None:
    """Print the report of a directory of results."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY
    print(report_of(directory), end="")


def report_of(directory: Path, *, quick: bool = False) -> str:
    """Return the report of the results and notes in a directory."""
    notes = directory / NOTES
    return render(load(directory), notes.read_text() if notes.exists() else "", quick=quick)


if __name__ == "__main__":
    main()
