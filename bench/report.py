"""Render ``bench/RESULTS.md`` from the results of ``make bench``: ``python -m bench.report [RESULTS_DIRECTORY]``.

It prints to stdout. It does not measure, and knows of a figure only its name.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.compare.best import (
    MOST_STREAMS,
    Best,
    Figure,
    LadderRun,
    above_floor,
    beside_peers,
    peers_need_gb,
    without_peers,
)
from bench.compare.claims import Claim, claims
from bench.compare.floor import Floor
from bench.compare.results import LADDER, Measured, RowResult, load
from bench.compare.servers import OURS
from bench.h2_cost.table import render as render_h2

DIRECTORY = Path(__file__).parent / "results"
H2_COST = "http2/h2-cost.json"
PLOT = "streams.svg"
"""The plot of the row scaling, beside the report."""
PUSHING = "push/push.md"
"""What ``bench/push.py`` wrote, in the results' directory."""
NOTES = "notes.md"
"""What a person wrote about the results, in their directory: why a figure misses its target."""

INTRODUCTION = (
    "Written by `make bench` (`python -m bench.compare`), and again from the saved results by `make bench-report`; do "
    "not edit. Every server ran on the same machine in turns and was driven by the same fleet (`xds fleet`) on the "
    "same cores: one TCP connection and one delta ADS stream per simulated sidecar, every response ACKed, every "
    "sidecar's resources verified in the end. CPU is the user and system time of the server's whole process tree; "
    "memory is its proportional set size (1 KB is 1,000 bytes). A figure is the median of the row's rounds. The *last "
    "stream* is the time until the last stream had the change, the median over the pushes. Absolute figures vary with "
    "the machine and the hour; ratios within a row vary less."
)
PEERS_INTRODUCTION = (
    "Ours is the native transport, in one process unless workers are named. "
    "In each line a peer is shown by the variant that does best there, named in brackets; all variants are in the "
    "tables by row. The ratio is ours to the better peer: 0.50 means that ours takes half of what that peer takes."
)
FLOOR_INTRODUCTION = (
    "The floor of a delivery is one `send()` and one `recv()`, which every server spends on a delivery and its ACK; "
    "each row measured them just before, on the same machine. The floor of a last stream is as many of both as there "
    "are streams, one after the other. Connecting takes three deliveries and more: its ratio to one `send()` and one "
    "`recv()` only gives the scale. The ladder's last rung is a small server that does what a control plane must do "
    "for one delta ADS stream per connection, and nothing more ([ladder.md](results/ladder.md)). It serves by one "
    "worker process, so it is compared with ours with one worker."
)

ROWS_INTRODUCTION = (
    "Each figure is the median of the row's rounds, with the smallest and the largest in brackets. Percentiles are "
    "over all streams and pushes of a round. *× ours* says how many times ours a figure is, *× the floor* how many "
    "times one `send()` and one `recv()`."
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
MANY_STREAMS = 100_000
SHORT_TITLES = {
    "fanout-100x1000": "100 clusters × 1,000 streams",
    "fanout-100x4000": "100 clusters × 4,000 streams",
    "fanout-5000x500": "5,000 clusters × 500 streams",
    "streams-100000": "100 clusters × 100,000 streams",
    "reconnect-5000": "5,000 clusters × 5,000 streams that reconnect",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Figures that are shown together: a caption, the columns' headings by figure, and which are shown as ratios."""

    caption: str
    columns: Mapping[str, str]
    ratio: str = ""
    """The figure of which a further column says how many times ours it is."""
    floors: tuple[str, ...] = ()
    """The figures, in µs, of which further columns say how many times the floor they are."""


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
        floors=("back_to_back.cpu_us", "paced.cpu_us"),
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
        floors=("connect.cpu_us",),
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
        floors=("reconnect.cpu_us",),
    ),
)
"""Every figure of the fleet is in one of these; what bench/micro.py prints has names that can be shown."""


@dataclass(frozen=True, slots=True)
class Others:
    """What the report has apart from the rows; what is empty was not measured, or not written."""

    notes: str = ""
    pushing: str = ""
    ladder_runs: Sequence[LadderRun] = ()
    h2_cost: Mapping[str, Any] | None = None


def render(
    results: Mapping[str, RowResult], others: Others | None = None, *, drawn: str = "", quick: bool = False
) -> str:
    """Return the whole report as Markdown; that of a quick run judges nothing."""
    others = others or Others()
    parts = ["# Benchmark results", INTRODUCTION]
    if quick:
        parts += ["**A quick run: everything is small, to show that it works. Its figures say nothing.**"]
    parts += ["## Ours beside go-control-plane and java-control-plane", PEERS_INTRODUCTION]
    parts += ["\n".join(_peers_table(results)), *_of_peers(results)]
    parts += ["## Ours beside the floor and the ladder", FLOOR_INTRODUCTION]
    parts += ["\n".join(_floor_table(results, others.ladder_runs))]
    parts += ["\n".join(f"- {told}" for told in _of_floors(results, others.ladder_runs))]
    parts += ["## By row", ROWS_INTRODUCTION]
    if drawn:
        parts += [f"![Latency, CPU and memory against streams]({drawn})"]
    parts += _rows(results)
    parts += [render_h2(others.h2_cost).strip()]
    if not quick:
        judged = claims(results)
        parts += ["## Targets", _summary(judged), "\n".join(_claims_table(judged))]
        parts += ["### Why figures miss their targets", others.notes.strip()] if others.notes.strip() else []
    parts += [others.pushing.strip()] if others.pushing.strip() else []
    parts += ["## Machine and versions", *_environments(results), "## Commands", *_commands(results)]
    return "\n\n".join(parts) + "\n"


def _peers_table(results: Mapping[str, RowResult]) -> Iterator[str]:
    yield "| | | ours | go-control-plane | java-control-plane | ours : best peer |"
    yield "|---|---|---:|---:|---:|---:|"
    above = ""
    for line in beside_peers(results):
        title = "" if line.row == above else f"**{_short_title(results[line.row])}**"
        above = line.row
        ratio = "–" if line.ratio is None else f"**{_ratio(line.ratio)}**"
        cells = [_best(line.go), _best(line.java), ratio]
        yield f"| {title} | {_what(line.figure)} | {_maybe(line.ours)} | {' | '.join(cells)} |"


def _short_title(result: RowResult) -> str:
    workers = result.parameters.get("workers")
    return SHORT_TITLES[result.row] + (f", {_number(workers)} workers" if workers else "")


def _what(figure: Figure) -> str:
    return f"{figure.what}, {figure.unit}"


def _best(best: Best | None) -> str:
    if best is None:
        return "not measured"
    variant = best.server.partition("control-plane")[2].lstrip(", ") or "as it comes"
    return f"{_number(best.value)} ({variant})"


def _maybe(value: float | None) -> str:
    return "not measured" if value is None else _number(value)


def _of_peers(results: Mapping[str, RowResult]) -> Iterator[str]:
    """Say where the lines are from, and why some have no peer."""
    alone, need = without_peers(results), peers_need_gb(results, MANY_STREAMS)
    if alone:
        told = f"No peer was run in {' and '.join(f'`{row}`' for row in alone)}."
        if "streams-100000" in alone and need is not None:
            told += (
                f" With its memory per stream in `{MOST_STREAMS}`, {need[0].server}, which takes least of them, would "
                f"need {_number(need[1])} GB for {MANY_STREAMS:,} streams."
            )
        yield told
    by_commit: dict[str, list[str]] = {}
    for row in dict.fromkeys(line.row for line in beside_peers(results)):
        result = results[row]
        place = f"{result.date[:10]} on {result.machine['CPU']}, commit {result.versions.get('commit', 'unknown')}"
        by_commit.setdefault(place, []).append(row)
    for place, rows in by_commit.items():
        yield f"Measured {place}: {', '.join(f'`{row}`' for row in rows)}."


def _floor_table(results: Mapping[str, RowResult], runs: Sequence[LadderRun]) -> Iterator[str]:
    yield "| | | ours | floor | ours : floor | ours, 1 worker | the ladder's last rung | ours, 1 worker : last rung |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    above = ""
    for line in above_floor(results, runs):
        title = "" if line.row == above else f"**{_short_title(results[line.row])}**"
        above = line.row
        over, rung = line.over_floor, line.rung
        cells = [_number(line.ours)]
        cells += ["–", "–"] if over is None else [_number(line.ours / over), f"**{_ratio(over)}**"]
        if rung is None:
            cells += ["not measured", "not measured", "–"]
        else:
            star = "" if rung.run is None else "\\*"
            cells += [f"{_number(rung.ours)}{star}", f"{_number(rung.rung)}{star}", f"**{_ratio(rung.ratio)}**"]
        yield f"| {title} | {_what(line.figure)} | {' | '.join(cells)} |"


def _of_floors(results: Mapping[str, RowResult], runs: Sequence[LadderRun]) -> Iterator[str]:
    """Say how the floors were measured, and which runs of the ladder are compared."""
    lines = list(above_floor(results, runs))
    for row in dict.fromkeys(line.row for line in lines):
        floor = Floor.of(results[row])
        if floor is None:
            yield f"`{row}`: the floor was not measured."
            continue
        told = f"`{row}`: `send()` {_number(floor.send_us)} µs, `recv()` {_number(floor.receive_us)} µs"
        told += f", over {floor.connections:,} connections in turn"
        streams = results[row].parameters.get("streams", 0)
        if isinstance(streams, int | float) and streams < floor.connections:
            told += f"; over {streams:,.0f}, as many as the row has, they take less, so its ratios are too small"
        yield f"{told}."
    starred = {
        str(line.rung.run["date"]): line for line in lines if line.rung is not None and line.rung.run is not None
    }
    for date, line in starred.items():
        assert line.rung is not None
        assert line.rung.run is not None
        yield (
            f"\\*: of the ladder's own run (`make bench-ladder`) of {date[:10]}, commit "
            f"{line.rung.run['versions']['commit']}, with both in turns, since the row's run has no rung; the ratio is "
            "the median of the rounds'."
        )


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
    floor = Floor.of(result)
    floors = [name for name in table.floors if name in table.columns] if floor else []
    ratio = [f"× ours ({table.columns[table.ratio].rpartition(',')[0]})"] if ours else []
    ratio += [f"× the floor ({table.columns[name].rpartition(',')[0]})" for name in floors]
    if table.caption:
        yield f"{table.caption}:"
        yield ""
    yield f"| | {' | '.join([*table.columns.values(), *ratio])} |"
    yield "|---|" + "---:|" * (len(table.columns) + len(ratio))
    for server, measured in result.measured.items():
        if not measured.not_measured:
            cells = [_cell(measured, name) for name in table.columns]
            if ours:
                cells.append(_times(measured, table.ratio, ours))
            cells += [_times(measured, name, floor.us) for name in floors if floor]
            yield f"| {server} | {' | '.join(cells)} |"


def _times(measured: Measured, name: str, of: float) -> str:
    return f"{measured.figures[name] / of:.1f}" if name in measured.figures else "–"


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


def _ratio(value: float) -> str:
    """Return it with two places, as many as two digits where it is below 0.1."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


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
    """Return the report of what is in a directory of results; ``drawn`` is the plot's path as the report has it."""
    h2_cost = _read(directory / H2_COST)
    others = Others(
        notes=_read(directory / NOTES),
        pushing=_read(directory / PUSHING),
        ladder_runs=[json.loads(path.read_text()) for path in sorted(directory.glob(LADDER))],
        h2_cost=json.loads(h2_cost) if h2_cost else None,
    )
    return render(load(directory), others, drawn=drawn, quick=quick)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    main()
