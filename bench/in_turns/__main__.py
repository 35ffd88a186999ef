"""``python -m bench.in_turns --before REV``: what changed between two revisions, in CPU, memory and latency."""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import loopback
from bench.compare.__main__ import machine, say
from bench.compare.fleet import MeasureError
from bench.compare.results import Figures
from bench.compare.servers import ServerFailedError
from bench.in_turns.ratios import LIMIT, Ratio, in_order
from bench.in_turns.revisions import WORKING_TREE, Revision, RevisionError, prepare, same_requirements
from bench.in_turns.rows import ROWS, Row
from xds.process.descriptors import make_all_room

ROUNDS = 10
FLOOR = "before, again"

FIGURES = {
    "back_to_back.cpu_us": "CPU per delivery, µs",
    "back_to_back.parent_us": "– of it the server's own process",
    "back_to_back.workers_us": "– of it the workers",
    "connect.cpu_us": "CPU per connect, µs",
    "connect.parent_us": "– of it the server's own process",
    "connect.workers_us": "– of it the workers",
    "memory.kb": "memory per stream, KB",
    "memory.after_kb": "memory per stream after the pushes, KB",
    "back_to_back.last_ms": "last stream has it, ms",
    "change_us": "pure core, a change to one stream, µs",
    "unlike.subscriptions_us": "other subscriptions, a message, µs",
    "unlike.versions_us": "other versions at first, a connect, µs",
    "unlike.delays_us": "late answers, a message, µs",
    "unlike.rejections_us": "rejections, a message, µs",
    "push_ms": "a push, ms",
    "push.cpu_us": "CPU per push, µs",
    "load_s": "loading, s",
}
EXPLAINING = (
    *("back_to_back.parent_us", "back_to_back.workers_us", "connect.parent_us", "connect.workers_us"),
    *("memory.after_kb", "back_to_back.last_ms"),
)
"""Figures that say where others come from."""
JUDGED = tuple(figure for figure in FIGURES if figure not in EXPLAINING)
"""What the verdict at a row's end is about."""


def main() -> int:
    """Return 0 if every row was measured, 1 if not, and 2 where a revision can't be installed."""
    options = _options()
    make_all_room()
    names = {"before": options.before, **dict(_numbered(options.after or [WORKING_TREE]))}
    try:
        revisions = {label: prepare(name) for label, name in names.items()}
    except RevisionError as error:
        print(error, file=sys.stderr)
        return 2
    if not same_requirements(list(revisions.values())):
        say("the revisions lock other versions of libraries; all run with those that are installed here")
    if options.floor:
        revisions[FLOOR] = revisions["before"]
    for label, revision in revisions.items():
        say(f"{label}: {revision.name} ({revision.commit[:12]})")
    kept: dict[str, Any] = {"machine": machine(), "revisions": {k: r.commit for k, r in revisions.items()}, "rows": {}}
    for name in options.rows:
        row = ROWS[name].scaled(options.scale)
        floor_us = sum(loopback.measure(loopback.PAIRS_MAX))
        rounds = run(row, name, revisions, options.rounds, options.workers)
        print("\n".join(report(name, row, rounds, floor_us)), flush=True)
        kept["rows"][name] = {"what": row.shown(), "send_recv_us": floor_us, "rounds": rounds, "ratios": ratios(rounds)}
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1, default=asdict, ensure_ascii=False) + "\n")
    return int(any(not row["rounds"] for row in kept["rows"].values()))


def run(row: Row, name: str, revisions: Mapping[str, Revision], rounds: int, workers: int) -> list[dict[str, Figures]]:
    """Measure all revisions in each round; a round in which one gave no figures counts for none of them."""
    found = []
    for number in range(rounds):
        this: dict[str, Figures] = {}
        for label in in_order(list(revisions), number):
            try:
                this[label] = row.measure(revisions[label], workers)
            except (ServerFailedError, MeasureError) as error:
                say(f"{name}: {label}: round {number + 1} gives no figures: {error}")
                break
        else:
            main_figure = next(figure for figure in FIGURES if figure in this["before"])
            told = ", ".join(f"{label} {figures[main_figure]:.2f}" for label, figures in this.items())
            say(f"{name}: round {number + 1} of {rounds}: {FIGURES[main_figure]}: {told}")
            found.append(this)
    return found


def ratios(rounds: Sequence[Mapping[str, Figures]]) -> dict[str, dict[str, Ratio]]:
    """Return, for each participant but ``before``, the ratio of each figure to ``before``'s."""
    found: dict[str, dict[str, Ratio]] = {}
    for label in rounds[0] if rounds else ():
        if label != "before":
            found[label] = {
                figure: Ratio.of(before, after)
                for figure in FIGURES
                if (before := values(rounds, "before", figure)) and (after := values(rounds, label, figure))
                if len(before) == len(after) and min(before) > 0
            }
    return found


def values(rounds: Sequence[Mapping[str, Figures]], label: str, figure: str) -> list[float]:
    """Return a figure of a participant in each round that has it."""
    return [each[label][figure] for each in rounds if figure in each[label]]


def report(name: str, row: Row, rounds: Sequence[Mapping[str, Figures]], floor_us: float) -> Iterator[str]:
    """Yield the table of a row, and the verdict."""
    yield f"\n{name}: {row.shown()}; {len(rounds)} rounds; one send and one recv took {floor_us:.1f} µs before"
    if not rounds:
        yield "not measured"
        return
    found = ratios(rounds)
    yield f"{'least / median / most':38} {'before':>22}" + "".join(
        f" {label:>22} {'ratio (95% interval)':>24}" for label in found
    )
    for figure, heading in FIGURES.items():
        if before := values(rounds, "before", figure):
            cells = [f"{heading:38} {_spread(before):>22}"]
            for label, ratio in found.items():
                cells.append(f"{_spread(values(rounds, label, figure)):>22} {_ratio(ratio.get(figure)):>24}")
            yield " ".join(cells)
    for figure in JUDGED:
        for label, ratio in found.items():
            if figure in ratio and label != FLOOR:
                yield _judged(label, FIGURES[figure], ratio[figure], found.get(FLOOR, {}).get(figure))


def _judged(label: str, heading: str, ratio: Ratio, floor: Ratio | None) -> str:
    text = f"{label}: {heading.rpartition(',')[0]}: {ratio.verdict()} {LIMIT:.0%} of before"
    if ratio.resolution is not None:
        text += f" (median {ratio.median - 1:+.1%}, told to ± {ratio.resolution:.1%}"
        text += f"; before against itself {floor.median - 1:+.1%})" if floor is not None else ")"
    return text


def _spread(found: Sequence[float]) -> str:
    return f"{min(found):.2f} / {statistics.median(found):.2f} / {max(found):.2f}"


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return "–"
    if ratio.low is None or ratio.high is None:
        return f"{ratio.median:.3f} [{ratio.least:.3f}–{ratio.most:.3f}]"
    return f"{ratio.median:.3f} ({ratio.low:.3f}–{ratio.high:.3f})"


def _numbered(after: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, name in enumerate(after):
        yield ("after" if len(after) == 1 else f"after {number + 1}"), name


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.in_turns", description=__doc__)
    parser.add_argument("--before", required=True, metavar="REV", help="anything that names a commit to git")
    parser.add_argument(
        "--after", action="append", metavar="REV", help=f"repeatable; {WORKING_TREE}, as it is now, without any"
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}; six at least, to tell anything")
    parser.add_argument("--scale", type=float, default=1.0, help="0.1: a tenth of the streams")
    parser.add_argument("--workers", type=int, default=1, help="of xds serve; default 1")
    parser.add_argument(
        "--no-floor", dest="floor", action="store_false", help="don't measure before against itself in the same rounds"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every round's figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
