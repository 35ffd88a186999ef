"""``python -m bench.ladder``: drive all rungs, and the product, in turns; write what each costs."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import loopback
from bench.compare.__main__ import machine, our_versions, say
from bench.compare.fleet import MeasureError
from bench.compare.results import Figures
from bench.compare.servers import ROOT, ServerFailedError
from bench.in_turns.ratios import in_order
from bench.in_turns.rows import FANOUTS, Fanout
from bench.ladder.participants import Participant, ladder, products, way
from bench.ladder.rungs import RUNGS
from bench.ladder.table import ALONE, render
from xds.process.descriptors import make_all_room

RESULT = ROOT / "bench" / "results" / "ladder.json"
ROUNDS = 6
ALONE_STREAMS, ALONE_PUSHES = 1_000, 200
ALONE_TIMEOUT_S = 120


def main() -> int:
    """Return 0 if every row was measured."""
    options = _options()
    if options.render:
        print(render(json.loads(options.output.read_text())), end="")
        return 0
    make_all_room()
    participants = [each for each in everyone() if not options.only or each.name in options.only]
    kept: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": our_versions(),
        "rows": {},
    }
    for number in range(options.rounds):
        for name in options.rows:
            row = FANOUTS[name].scaled(options.scale) if name != ALONE else None
            what = f"connections that write nowhere, {ALONE_STREAMS:,} streams" if row is None else row.shown()
            told = kept["rows"].setdefault(name, {"what": what, "rounds": [], "send_recv_us": [], "load": []})
            load = os.getloadavg()[0]
            floor_us = 0.0 if row is None else sum(loopback.measure(row.load.streams))
            found = one_round(row, in_turns(row, participants, ways=options.ways), number, name)
            if found is not None:
                told["rounds"].append(found)
                told["send_recv_us"].append(floor_us)
                told["load"].append(load)
                write(kept, options.output)
    say(f"written to {options.output}")
    return int(any(not row["rounds"] for row in kept["rows"].values()))


def everyone() -> list[Participant]:
    """Return who takes turns: the rungs, with their other ways beside them, and the product."""
    found = []
    for rung, participant in zip(RUNGS, ladder(), strict=True):
        found.append(participant)
        found += [way(rung, other) for other in rung.ways]
    return [*found, *products()]


def in_turns(row: Fanout | None, participants: Sequence[Participant], *, ways: bool) -> dict[str, Participant]:
    """Return who is measured in a row: in that of Python's share alone, what has neither another process nor TLS.

    Other ways than the kept ones are measured there, where small differences show; under a fleet if wanted, or where
    that is the only place.
    """
    not_alone = {rung.name for rung in RUNGS if rung.switch in ("WORKERS", "TLS")} | {""}
    if row is None:
        return {each.name: each for each in participants if each.rung not in not_alone}
    return {each.name: each for each in participants if ways or not each.way or each.rung in not_alone}


def one_round(
    row: Fanout | None, participants: Mapping[str, Participant], number: int, name: str
) -> dict[str, Figures] | None:
    """Measure everyone once; None, which counts for nobody, where one of them fails."""
    found: dict[str, Figures] = {}
    for label in in_order(list(participants), number):
        try:
            found[label] = measure(row, participants[label])
        except (ServerFailedError, MeasureError) as error:
            say(f"{name}, round {number + 1}: {label}: {error}")
            return None
        shown = found[label].get("back_to_back.cpu_us") or found[label].get("alone.cpu_us") or 0.0
        say(f"{name}, round {number + 1}: {label}: {shown:.2f} µs a delivery")
    return {label: found[label] for label in participants}


def measure(row: Fanout | None, participant: Participant) -> Figures:
    """Return the figures of one server. Raises ServerFailedError and MeasureError."""
    if row is None:
        return alone(participant)
    with participant.serving(row.resources) as (server, options):
        return row.drive(server, options)


def alone(participant: Participant) -> Figures:
    """Run ``bench.ladder.alone`` for a rung. Raises MeasureError."""
    words = [f"--rung={participant.rung}", f"--way={participant.way}"]
    words += [f"--streams={ALONE_STREAMS}", f"--pushes={ALONE_PUSHES}"]
    argv = [sys.executable, "-m", "bench.ladder.alone", *words]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=ALONE_TIMEOUT_S)
    try:
        figures: Figures = json.loads(ended.stdout)
    except ValueError:
        raise MeasureError(f"bench.ladder.alone failed: {ended.stderr[-1_000:]}") from None
    return figures


def write(kept: Mapping[str, Any], path: Path) -> None:
    """Keep the results, and the report beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    path.with_suffix(".md").write_text(render(kept))


def _options() -> argparse.Namespace:
    rows = [ALONE, *FANOUTS]
    parser = argparse.ArgumentParser(prog="python -m bench.ladder", description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows, metavar="ROW", help=", ".join(rows))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}, the least that tells anything")
    parser.add_argument("--scale", type=float, default=1.0, help="0.1: a tenth of the streams")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these rungs alone")
    parser.add_argument("--ways", action="store_true", help="all dearer ways of the rungs under fleets too")
    parser.add_argument("--output", type=Path, default=RESULT, metavar="FILE", help="and the same as .md beside it")
    parser.add_argument("--render", action="store_true", help="print the report of what was kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
