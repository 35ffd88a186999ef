"""What is claimed of the figures, and whether they bear it out. It does not know how claims are shown."""

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

Results = Mapping[str, RowResult]


@dataclass(frozen=True, slots=True)
class Claim:
    """One target. ``measured`` is None where there is no figure for it; ``detail`` says what a ratio is made of."""

    row: str
    what: str
    limit: float
    unit: str
    measured: float | None
    at_most: bool = True
    detail: str = ""

    @property
    def verdict(self) -> Literal["pass", "MISS", "not measured"]:
        """Whether the figure is within the limit."""
        if self.measured is None:
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
        yield _times_less(results, row, name, GO, f"CPU × less than go-control-plane at its best, {shown}", 10)
        yield _times_less(
            results, row, name, (JAVA_TUNED.name,), f"CPU × less than java-control-plane tuned, {shown}", 5
        )
        yield _times_less(
            results, row, f"{mode}.last_ms", PEERS, f"last stream × sooner than the best peer's, {shown}", 4
        )


def _many_clusters(results: Results, row: str) -> Iterator[Claim]:
    for mode, shown in MODES.items():
        name = f"{mode}.cpu_us"
        yield _at_most(results, row, OURS.name, name, f"CPU per delivery, {shown}", 15, "µs")
        peers = (GO_SNAPSHOT.name, GO_LINEAR.name, *JAVA)
        yield _times_less(results, row, name, peers, f"CPU × less than the best peer, {shown}", 20)
        yield _times_less(
            results, row, name, (GO_SNAPSHOT.name,), f"CPU × less than go-control-plane SnapshotCache, {shown}", 250
        )


def _memory(results: Results) -> Iterator[Claim]:
    few, many, mutual = (_stream_kb(results, "memory", name) for name in ("100 clusters", "5,000 clusters", "mTLS"))
    first = _stream_kb(results, "fanout-100x1000", OURS.name)
    plaintext = None if first is None or few is None else max(first, few)
    yield Claim("memory", "memory per stream, plaintext", 6, "KB", plaintext)
    yield Claim("memory", "memory per stream, mTLS", 35, "KB", mutual)
    growth = None if few is None or many is None else many / few
    yield Claim("memory", "memory per stream, 100 → 5,000 clusters", 1.2, "×", growth)


def _stream_kb(results: Results, row: str, server: str) -> float | None:
    """Return the largest of the figures for the memory of a stream: connected, further ones, after the pushes."""
    figures = (_figure(results, row, server, f"memory.{name}") for name in ("kb", "added_kb", "after_kb"))
    return max((figure for figure in figures if figure is not None), default=None)


def _connect(results: Results, row: str) -> Iterator[Claim]:
    yield _at_most(results, row, OURS.name, "connect.cpu_us", "connect 4,000, CPU per stream", 150, "µs")
    yield _times_less(results, row, "connect.cpu_us", PEERS, "connect 4,000, CPU × less than the best peer", 4)


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
    alone, beside = (_figure(results, row, server, "paced.p99_ms") for server in ("all read", "some do not"))
    ratio = None if alone is None or beside is None else beside / alone
    yield Claim(row, "the others' p99, to the run without", 1.2, "×", ratio)


def _grpcio(results: Results, row: str) -> Iterator[Claim]:
    for mode, shown in MODES.items():
        yield _at_most(results, row, OURS_GRPCIO.name, f"{mode}.cpu_us", f"grpcio, CPU per delivery, {shown}", 50, "µs")
    memory_kb = _stream_kb(results, row, OURS_GRPCIO.name)
    yield Claim(row, "grpcio, memory per stream", 45, "KB", memory_kb)


def _figure(results: Results, row: str, server: str, name: str) -> float | None:
    return results[row].figure(server, name) if row in results else None


def _at_most(results: Results, row: str, server: str, name: str, what: str, limit: float, unit: str) -> Claim:
    return Claim(row, what, limit, unit, _figure(results, row, server, name))


def _times_less(results: Results, row: str, name: str, peers: tuple[str, ...], what: str, times: float) -> Claim:
    """Claim that our figure is so many times less than the best of the peers'."""
    ours = _figure(results, row, OURS.name, name)
    theirs = {peer: figure for peer in peers if (figure := _figure(results, row, peer, name)) is not None}
    if ours is None or not theirs:
        return Claim(row, what, times, "×", None, at_most=False)
    best = min(theirs, key=theirs.__getitem__)
    missing = [peer for peer in peers if peer not in theirs]
    detail = f"{best}: {theirs[best]:.4g}, ours: {ours:.4g}" + (f"; without {', '.join(missing)}" if missing else "")
    return Claim(row, what, times, "×", theirs[best] / ours, at_most=False, detail=detail)
