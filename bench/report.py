"""Render ``bench/RESULTS.md`` from the results of ``make bench``: ``python -m bench.report [RESULTS_DIRECTORY]``.

It prints to stdout. It does not measure, and knows of a figure only its name.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.compare.claims import Claim, claims
from bench.compare.results import Measured, RowResult, load
from bench.compare.servers import OURS

DIRECTORY = Path(__file__).parent / "results"
PLOT = "streams.svg"
"""The plot of the row scaling, beside the report."""
PUSHING = "push/push.md"
"""What ``bench/push.py`` wrote, in the results' directory."""
NOTES = "notes.md"
"""What a person wrote about the results, in their directory: why a figure misses its target."""

INTRODUCTION = (
    "Written by `make bench` (`python -m bench.compare`); do not edit. Ours and the peers ran one after the other on "
    "the same machine, driven by the same fleet (`xds fleet`): one TCP connection and one delta ADS stream per "
    "simulated sidecar, every response ACKed, every sidecar's resources verified in the end, both ends on one machine. "
    "CPU is the user and system time of the server's whole process tree, memory its proportional set size (1 KB is "
    "1,000 bytes). Each figure is the median of the row's rounds, with the smallest and the largest in brackets. "
    "Percentiles are over all streams and pushes of a round; *last stream* is the median over the pushes of when the "
    "last stream had it. Absolute figures vary with the machine; the ratios are what counts. The floor under every "
    "server's CPU per delivery is one `send()` and one `recv()`, which each row gives for its own machine and hour."
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
    "scaling": "100 clusters, 100 assignments, 10 routes, more and more streams: figures of the last step",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Figures that are shown together: a caption, the columns' headings by figure, and which is shown as a ratio."""

    caption: str
    columns: Mapping[str, str]
    ratio: str = ""
    """The figure of which a last column says how many times ours it is."""


TABLES = (
    Table(
        "CPU per delivery, ACK included",
        {
            "back_to_back.cpu_us": "pushes back to back, µs",
            "back_to_back.workers_us": "of it the worker processes', µs",
            "paced.cpu_us": "200 ms apart, µs",
            "paced.workers_us": "of it the worker processes', µs",
            "back_to_back.fleet_us": "the fleet's own, back to back, µs",
            "paced.fleet_us": "the fleet's own, 200 ms apart, µs",
        },
        ratio="back_to_back.cpu_us",
    ),
    Table(
        "Latency, pushes back to back",
        {
            "back_to_back.p50_ms": "p50, ms",
            "back_to_back.p99_ms": "p99, ms",
            "back_to_back.p999_ms": "p99.9, ms",
            "back_to_back.last_ms": "last stream, ms",
        },
        ratio="back_to_back.last_ms",
    ),
    Table(
        "Latency, pushes 200 ms apart",
        {
            "paced.p50_ms": "p50, ms",
            "paced.p99_ms": "p99, ms",
            "paced.p999_ms": "p99.9, ms",
            "paced.last_ms": "last stream, ms",
        },
        ratio="paced.last_ms",
    ),
    Table(
        "Connecting, from the first SYN to all resources",
        {
            "connect.cpu_us": "server's CPU per stream, µs",
            "connect.workers_us": "of it the worker processes', µs",
            "connect.p50_s": "p50, s",
            "connect.p99_s": "p99, s",
            "connect.all_s": "all, s",
            "connect.missing": "streams not synced, or differing at the end",
        },
        ratio="connect.cpu_us",
    ),
    Table(
        "Memory",
        {
            "memory.kb": "per stream, KB",
            "memory.after_kb": "per stream after the pushes, KB",
            "memory.added_kb": "per stream that was added, KB",
            "memory.added_after_kb": "per stream that was added, after the pushes, KB",
            "memory.total_mb": "server in all, MB",
            "fleet.kb": "the fleet itself, per stream, KB",
        },
        ratio="memory.kb",
    ),
    Table(
        "A push to all while newcomers connect",
        {
            "push.last_s": "last stream has it, s",
            "newcomers.p50_s": "newcomers synced, p50, s",
            "newcomers.p99_s": "p99, s",
            "newcomers.missing": "newcomers not synced",
        },
    ),
    Table(
        "All reconnect at once",
        {
            "reconnect.resources": "resources sent again",
            "reconnect.p50_s": "p50, s",
            "reconnect.p99_s": "p99, s",
            "reconnect.all_s": "all, s",
            "reconnect.cpu_us": "server's CPU per stream, µs",
        },
    ),
)
"""Every figure of the fleet is in one of these; what bench/micro.py prints has names that can be shown."""


def render(results: Mapping[str, RowResult], notes: str = "", *, drawn: str = "", quick: bool = False) -> str:
    """Return the whole report as Markdown; that of a quick run judges nothing."""
    parts = ["# Benchmark results", INTRODUCTION]
    if quick:
        parts += ["**A quick run: everything is small, to show that it works. Its figures say nothing.**"]
    else:
        judged = claims(results)
        parts += ["## What must be shown", _summary(judged), "\n".join(_claims_table(judged))]
        parts += [notes.strip()] if notes.strip() else []
    if drawn:
        parts += ["## Latency and memory against streams", f"![Latency, CPU and memory against streams]({drawn})"]
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
        measured += "" if claim.measured is None or claim.is_sound else ", which can't be"
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
    known = {name for table in TABLES for name in table.columns}
    others = Table("", {name: name for name in given if name not in known})
    for table in (*TABLES, others):
        columns = {name: heading for name, heading in table.columns.items() if name in given}
        if columns:
            yield "\n".join(_table(result, replace(table, columns=columns)))
    for server, measured in result.measured.items():
        if measured.not_measured:
            yield f"{server}: not measured: {_shortened(measured.not_measured)}"
        for problem in measured.failed_rounds:
            yield f"{server}: a round was not measured: {_shortened(problem)}"


def _shortened(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " … ".join(dict.fromkeys((lines[0], lines[-1])))


def _table(result: RowResult, table: Table) -> Iterator[str]:
    ours = result.figure(OURS.name, table.ratio) if len(result.measured) > 1 else None
    ratio = [f"× ours ({table.columns[table.ratio].rpartition(',')[0]})"] if ours else []
    if table.caption:
        yield f"{table.caption}:"
        yield ""
    yield f"| | {' | '.join([*table.columns.values(), *ratio])} |"
    yield "|---|" + "---:|" * (len(table.columns) + len(ratio))
    for server, measured in result.measured.items():
        if not measured.not_measured:
            cells = [_cell(measured, name) for name in table.columns]
            if ours:
                cells.append(f"{measured.figures[table.ratio] / ours:.1f}" if table.ratio in measured.figures else "–")
            yield f"| {server} | {' | '.join(cells)} |"


def _cell(measured: Measured, name: str) -> str:
    figure = measured.figures.get(name)
    if figure is None:
        return "–"
    spread = measured.spread(name)
    shown = _number(figure)
    if spread is None or {_number(value) for value in spread} == {shown}:
        return shown
    return f"{shown} ({_number(spread[0])}–{_number(spread[1])})"


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
    plot = directory.parent / PLOT
    print(report_of(directory, drawn=plot.name if plot.exists() else ""), end="")


def report_of(directory: Path, *, drawn: str = "", quick: bool = False) -> str:
    """Return the report of the results and notes in a directory; ``drawn`` is the plot's path as the report has it."""
    notes, pushing = directory / NOTES, directory / PUSHING
    text = render(load(directory), notes.read_text() if notes.exists() else "", drawn=drawn, quick=quick)
    return f"{text.rstrip()}\n\n{pushing.read_text()}" if pushing.exists() else text


if __name__ == "__main__":
    main()
