"""What is claimed of the figures, and whether they bear it out. It does not know how claims are shown."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from bench.compare.results import RowResult
from bench.compare.servers import GO_LINEAR, GO_SNAPSHOT, GO_TUNED, JAVA_PLAIN, JAVA_TUNED, OURS, OURS_GRPCIO

GO = (GO_SNAPSHOT.name, GO_TUNED.name, GO_LINEAR.name)
JAVA = (JAVA_PLAIN.name, JAVA_TUNED.name)
PEERS = GO + JAVA
MODES = {"back_to_back": "back to back", "paced": "200 ms apart"}

CORE = "pure core"
"""The name in results of what has no server: bench/micro.py."""

FEW_CLUSTERS, MANY_CLUSTERS, MTLS = "100 clusters", "5,000 clusters", "mTLS"
ALL_READ, SOME_DO_NOT = "all read", "some do not"
"""The names of what is compared in the rows memory and slow-readers."""

STREAM_KB_MIN = 0.5
"""No stream takes less: its objects alone don't. A smaller figure means that the growth was hidden by free memory."""

Results = Mapping[str, RowResult]


@dataclass(frozen=True, slots=True)
class Claim:
    """One target. ``measured`` is None where there is no figure for it; ``detail`` says what a ratio is made of.

    A figure below ``least`` can't be: it shows that the measuring failed, and counts as none.
    """

    row: str
    what: str
    limit: float
    unit: str
    measured: float | None
    at_most: bool = True
    detail: str = ""
    least: float | None = None

    @property
    def is_sound(self) -> bool:
        """Whether the figure can be: a number, counts not negative, and all that has a unit more than nothing."""
        value = self.measured
        if value is None or not math.isfinite(value):
            return False
        if self.least is not None:
            return value >= self.least
        return value > 0 if self.unit else value >= 0

    @property
    def verdict(self) -> Literal["pass", "MISS", "not measured"]:
        """Whether the figure is within the limit."""
        if self.measured is None or not self.is_sound:
            return "not measured"
        within = self.measured <= self.limit if self.at_most else self.measured >= self.limit
        return "pass" if within else "MISS"


def claims(results: Results) -> list[Claim]:
    """Return every target of the comparison with what was measured for it."""
    return [
        *_fanout(results, "fanout-100x1000"),
        *_fanout(results, "fanout-100x4000"),
        *_many_clusters(results, "fanout-5000x500"),
        *_memory(results),
        *_connect(results, "fanout-100x4000"),
        *_hundred_thousand(results, "streams-100000"),
        *_reconnect(results, "reconnect-5000"),
        _at_most(
            results,
            "one-change",
            CORE,
            "slowest / fastest",
            "the cost of one change, 100 → 100,000 resources",
            1.5,
            "×",
        ),
        *_slow_readers(results, "slow-readers"),
        *_grpcio(results, "fanout-100x1000"),
    ]


def _fanout(results: Results, row: str) -> Iterator[Claim]:
    for mode, shown in MODES.items():
        name = f"{mode}.cpu_us"
        yield _at_most(results, row, OURS.name, name, f"CPU per delivery, {shown}", 10, "µs")
        yield _times_less(results, row, name, GO, f"CPU per delivery, go-control-plane at its best : ours, {shown}", 10)
        yield _times_less(
            results, row, name, (JAVA_TUNED.name,), f"CPU per delivery, java-control-plane tuned : ours, {shown}", 5
        )
        yield _times_less(results, row, f"{mode}.last_ms", PEERS, f"last stream, best peer : ours, {shown}", 4)


def _many_clusters(results: Results, row: str) -> Iterator[Claim]:
    for mode, shown in MODES.items():
        name = f"{mode}.cpu_us"
        yield _at_most(results, row, OURS.name, name, f"CPU per delivery, {shown}", 15, "µs")
        yield _times_less(results, row, name, PEERS, f"CPU per delivery, best peer : ours, {shown}", 20)
        yield _times_less(
            results,
            row,
            name,
            (GO_SNAPSHOT.name,),
            f"CPU per delivery, go-control-plane SnapshotCache : ours, {shown}",
            250,
        )


def _memory(results: Results) -> Iterator[Claim]:
    few, many, mutual = (_added_kb(results, name) for name in (FEW_CLUSTERS, MANY_CLUSTERS, MTLS))
    yield _stream_memory("memory", "memory per stream, plaintext", 6, few)
    yield _stream_memory("memory", "memory per stream, mTLS", 35, mutual)
    growth = None
    if few is not None and many is not None and min(few, many) >= STREAM_KB_MIN:
        growth = many / few
    yield Claim("memory", "memory per stream, 100 → 5,000 clusters", 1.2, "×", growth)


def _stream_memory(row: str, what: str, limit_kb: float, measured_kb: float | None) -> Claim:
    return Claim(row, what, limit_kb, "KB", measured_kb, least=STREAM_KB_MIN)


def _added_kb(results: Results, server: str) -> float | None:
    """Return what a further stream takes: the larger of connected and after the pushes."""
    return _largest(results, "memory", server, ("memory.added_kb", "memory.added_after_kb"))


def _stream_kb(results: Results, row: str, server: str) -> float | None:
    """Return what a stream takes, with what all of them take together: the larger of connected and after the pushes."""
    return _largest(results, row, server, ("memory.kb", "memory.after_kb"))


def _largest(results: Results, row: str, server: str, names: tuple[str, ...]) -> float | None:
    figures = (_figure(results, row, server, name) for name in names)
    return max((figure for figure in figures if figure is not None), default=None)


def _connect(results: Results, row: str) -> Iterator[Claim]:
    yield _at_most(results, row, OURS.name, "connect.cpu_us", "CPU per stream to connect 4,000", 150, "µs")
    yield _times_less(results, row, "connect.cpu_us", PEERS, "CPU per stream to connect 4,000, best peer : ours", 4)


def _hundred_thousand(results: Results, row: str) -> Iterator[Claim]:
    unsynced = _figure(results, row, OURS.name, "connect.missing")
    yield Claim(row, "streams that are not synced, or differ at the end", 0, "", unsynced)
    yield _at_most(results, row, OURS.name, "memory.total_mb", "server memory in all", 1000, "MB")
    yield _at_most(results, row, OURS.name, "push.last_s", "one change to all, last stream", 2.5, "s")
    yield _at_most(results, row, OURS.name, "newcomers.p99_s", "100 newcomers meanwhile, synced p99", 1, "s")


def _reconnect(results: Results, row: str) -> Iterator[Claim]:
    yield _at_most(results, row, OURS.name, "reconnect.resources", "resources sent again", 0, "")
    yield _at_most(results, row, OURS.name, "reconnect.all_s", "all 5,000 synced", 3, "s")


def _slow_readers(results: Results, row: str) -> Iterator[Claim]:
    alone, beside = (_figure(results, row, server, "paced.p99_ms") for server in (ALL_READ, SOME_DO_NOT))
    ratio = beside / alone if alone and beside else None
    yield Claim(row, "p99 of the streams that read : p99 where all read", 1.2, "×", ratio)
    # A stream that does not read holds one response a type at most, whose bytes it shares: no more than any stream.
    bound_kb = _stream_kb(results, row, SOME_DO_NOT)
    yield _stream_memory(row, "memory per stream after the pushes, those that do not read included", 6, bound_kb)


def _grpcio(results: Results, row: str) -> Iterator[Claim]:
    for mode, shown in MODES.items():
        yield _at_most(results, row, OURS_GRPCIO.name, f"{mode}.cpu_us", f"grpcio, CPU per delivery, {shown}", 50, "µs")
    yield _stream_memory(row, "grpcio, memory per stream", 45, _stream_kb(results, row, OURS_GRPCIO.name))


def _figure(results: Results, row: str, server: str, name: str) -> float | None:
    return results[row].figure(server, name) if row in results else None


def _at_most(results: Results, row: str, server: str, name: str, what: str, limit: float, unit: str) -> Claim:
    return Claim(row, what, limit, unit, _figure(results, row, server, name))


def _times_less(results: Results, row: str, name: str, peers: tuple[str, ...], what: str, times: float) -> Claim:
    """Claim that our figure is so many times less than the best of the peers'."""
    ours = _figure(results, row, OURS.name, name)
    theirs = {peer: figure for peer in peers if (figure := _figure(results, row, peer, name)) is not None}
    if not ours or ours < 0 or not theirs:
        return Claim(row, what, times, "×", None, at_most=False)
    best = min(theirs, key=theirs.__getitem__)
    missing = [peer for peer in peers if peer not in theirs]
    detail = f"{best}: {theirs[best]:.4g}, ours: {ours:.4g}" + (f"; without {', '.join(missing)}" if missing else "")
    return Claim(row, what, times, "×", theirs[best] / ours, at_most=False, detail=detail)
