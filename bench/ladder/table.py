"""The ladder's results as Markdown, from what ``python -m bench.ladder`` kept. It measures nothing."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.compare.results import Figures
from bench.in_turns.ratios import Difference
from bench.ladder.participants import PRODUCT, PRODUCT_TLS
from bench.ladder.rungs import LAST, RUNGS

Rounds = Sequence[Mapping[str, Figures]]

ALONE = "alone"
"""The row of Python's share alone."""
WORKERS, TLS = "workers", "TLS"

INTRODUCTION = (
    "Written by `python -m bench.ladder`; do not edit. One small server, each rung of which really does one thing more "
    "than the one below; all rungs, and the product with one worker, in turns in one run, driven by `xds fleet`, which "
    "verified what each sidecar had in the end. Each figure is the median of the rounds, with the smallest and the "
    "largest in brackets. What a rung adds is the median of the differences to the rung below in the same round, with "
    "the interval that holds it 19 times in 20: where that holds 0, nothing was seen."
)


def render(kept: Mapping[str, Any]) -> str:
    """Return the report of a run."""
    return "\n\n".join(_sections(kept)) + "\n"


def _sections(kept: Mapping[str, Any]) -> Iterator[str]:
    yield "# The ladder"
    yield INTRODUCTION
    for name, row in kept["rows"].items():
        rounds = row["rounds"]
        if not rounds:
            continue
        yield f"## {name}: {row['what']}; {len(rounds)} rounds"
        if name == ALONE:
            yield "\n".join(_alone(rounds))
        else:
            floor = row["send_recv_us"]
            yield (
                f"One `send` and one `recv` alone, over as many connections, before each round: {_spread(floor)} µs. "
                f"Load average before each round: {_spread(row['load'])}."
            )
            yield "\n".join(_fanout(rounds))
            yield "\n".join(_beside(rounds, floor))
        if ways := "\n".join(_ways(rounds, "alone.cpu_us" if name == ALONE else "back_to_back.cpu_us")):
            yield "Other ways of a rung, less the kept one:\n\n" + ways
    yield "## What each rung does"
    yield "\n".join(f"- **{rung.name}**: {rung.does}" for rung in RUNGS)
    yield ", ".join(f"{name} {value}" for name, value in {**kept["machine"], **kept["versions"]}.items())


def _fanout(rounds: Rounds) -> Iterator[str]:
    yield (
        "| rung | CPU per delivery, µs | of it the worker's | the rung adds | CPU per connect, µs | the rung adds "
        "| KB per stream | last stream, ms |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    before = ""
    for name in _present(rounds, [rung.name for rung in RUNGS] + [PRODUCT, PRODUCT_TLS]):
        is_rung = name not in (PRODUCT, PRODUCT_TLS)
        adds = [
            _added(rounds, before, name, figure) if before and is_rung else ""
            for figure in ("back_to_back.cpu_us", "connect.cpu_us")
        ]
        cells = [
            f"**{name}**" if not is_rung else name,
            _spread(_values(rounds, name, "back_to_back.cpu_us")),
            _spread(_values(rounds, name, "back_to_back.workers_us")),
            adds[0],
            _spread(_values(rounds, name, "connect.cpu_us")),
            adds[1],
            _spread(_values(rounds, name, "memory.kb")),
            _spread(_values(rounds, name, "back_to_back.last_ms")),
        ]
        yield f"| {' | '.join(cells)} |"
        before = name


def _alone(rounds: Rounds) -> Iterator[str]:
    yield "| rung | a delivery and its ACK, µs | the rung adds | sending | the ACK | connecting | the rung adds |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    before = ""
    for name in _present(rounds, [rung.name for rung in RUNGS]):
        adds = [
            _added(rounds, before, name, figure) if before else "" for figure in ("alone.cpu_us", "alone.connect_us")
        ]
        spreads = [_spread(_values(rounds, name, f"alone.{what}_us")) for what in ("cpu", "send", "ack", "connect")]
        yield f"| {name} | {spreads[0]} | {adds[0]} | {spreads[1]} | {spreads[2]} | {spreads[3]} | {adds[1]} |"
        before = name


def _beside(rounds: Rounds, floor_us: Sequence[float]) -> Iterator[str]:
    """Yield what the product takes beside the last rungs, in plaintext and with TLS, and these beside the kernel."""
    for product, rung in ((PRODUCT, LAST), (PRODUCT_TLS, TLS)):
        for figure, what in (("back_to_back.cpu_us", "a delivery"), ("connect.cpu_us", "a connect")):
            ours, theirs = _values(rounds, product, figure), _values(rounds, rung, figure)
            if ours and theirs:
                ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
                yield f"- {product}: {what} takes {_spread(ratios)} × what the rung `{rung}` takes"
    if last := _values(rounds, LAST, "back_to_back.cpu_us"):
        ratios = [one / other for one, other in zip(last, floor_us, strict=True)]
        yield f"- the rung `{LAST}`: {_spread(ratios)} × one `send` and one `recv`"


def _ways(rounds: Rounds, figure: str) -> Iterator[str]:
    for rung in RUNGS:
        for way in rung.ways:
            name = f"{rung.name}: {way.name}"
            if _values(rounds, name, figure):
                yield f"- {name} ({way.does}): {_added(rounds, rung.name, name, figure)} µs a delivery"


def _added(rounds: Rounds, before: str, after: str, figure: str) -> str:
    found = Difference.of(_values(rounds, before, figure), _values(rounds, after, figure))
    if found.low is None or found.high is None:
        return f"{_number(found.median, signed=True)}"
    low, high = (_number(value, signed=True) for value in (found.low, found.high))
    return f"{_number(found.median, signed=True)} ({low} to {high})"


def _present(rounds: Rounds, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in rounds[0]]


def _values(rounds: Rounds, name: str, figure: str) -> list[float]:
    return [each[name][figure] for each in rounds if name in each and figure in each[name]]


def _spread(found: Sequence[float]) -> str:
    if not found:
        return "–"
    return f"{_number(statistics.median(found))} ({_number(min(found))}–{_number(max(found))})"


def _number(value: float, *, signed: bool = False) -> str:
    places = 0 if abs(value) >= 100 else 1 if abs(value) >= 20 else 2
    return f"{value:+.{places}f}" if signed else f"{value:.{places}f}"
