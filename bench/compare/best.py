"""What the report begins with: ours beside the best that each peer showed, and beside the floor and the ladder."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.compare.claims import GO, JAVA
from bench.compare.floor import Floor
from bench.compare.results import Figures, RowResult
from bench.compare.servers import LADDER, OURS, OURS_WORKER
from bench.ladder.participants import PRODUCT
from bench.ladder.rungs import LAST

Results = Mapping[str, RowResult]
LadderRun = Mapping[str, Any]
"""What ``python -m bench.ladder`` kept of a run."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a row. Of several ``names`` the largest counts.

    ``floor_us``: the factor by which the figure is in µs, where it has a floor; ``per_stream``: the floor is as many
    of ``send()`` and ``recv()`` as the row has streams, one after the other.
    """

    what: str
    unit: str
    names: tuple[str, ...]
    floor_us: float | None = None
    per_stream: bool = False

    def of(self, result: RowResult, server: str) -> float | None:
        """Return it for a server, None if it was not measured."""
        return self.among(result.measured[server].figures) if server in result.measured else None

    def among(self, figures: Mapping[str, float]) -> float | None:
        """Return the largest of its names among figures, None without any.

        A figure that is not above 0 can't be and counts as none: memory that was freed hides what the streams took.
        """
        return max((figures[name] for name in self.names if figures.get(name, 0) > 0), default=None)

    def over_floor(self, result: RowResult, value: float) -> float | None:
        """Return how many times the floor a value is, None where it has no floor."""
        floor = Floor.of(result)
        if floor is None or self.floor_us is None:
            return None
        times = float(result.parameters.get("streams", 0)) if self.per_stream else 1.0
        return value * self.floor_us / (floor.us * times) if times else None


MOST_STREAMS = "fanout-100x4000"
"""The row in which the peers have most streams."""
MEMORY = Figure("memory per stream", "KB", ("memory.kb", "memory.after_kb"))
FANOUT = (
    Figure("CPU per delivery, pushes back to back", "µs", ("back_to_back.cpu_us",), 1),
    Figure("CPU per delivery, 200 ms apart", "µs", ("paced.cpu_us",), 1),
    Figure("last stream, pushes back to back", "ms", ("back_to_back.last_ms",), 1e3, per_stream=True),
    Figure("last stream, 200 ms apart", "ms", ("paced.last_ms",), 1e3, per_stream=True),
    Figure("CPU per stream to connect", "µs", ("connect.cpu_us",), 1),
    MEMORY,
)
HEADLINES: Mapping[str, tuple[Figure, ...]] = {
    "fanout-100x1000": FANOUT,
    "fanout-100x4000": FANOUT,
    "fanout-5000x500": FANOUT,
    "streams-100000": (
        Figure("CPU per delivery, pushes back to back", "µs", ("back_to_back.cpu_us",), 1),
        Figure("one change to all, last stream", "s", ("push.last_s",), 1e6, per_stream=True),
        Figure("CPU per stream to connect", "µs", ("connect.cpu_us",), 1),
        Figure("memory of the server in all", "MB", ("memory.total_mb",)),
    ),
    "reconnect-5000": (
        Figure("CPU per stream to reconnect", "µs", ("reconnect.cpu_us",), 1),
        Figure("all synced again", "s", ("reconnect.all_s",)),
    ),
}
"""The figures that count most, by row."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best figure of several servers, and whose it is."""

    server: str
    value: float

    @classmethod
    def of(cls, result: RowResult, figure: Figure, servers: Sequence[str]) -> "Best | None":
        """Return it, None if none of them was measured."""
        found = [cls(server, value) for server in servers if (value := figure.of(result, server)) is not None]
        return min(found, key=lambda best: best.value, default=None)


@dataclass(frozen=True, slots=True)
class Beside:
    """A figure of ours beside the best of go-control-plane's and of java-control-plane's; None: not measured."""

    row: str
    figure: Figure
    ours: float | None
    go: Best | None
    java: Best | None

    @property
    def ratio(self) -> float | None:
        """Ours to the best peer: below 1 where ours takes less."""
        peers = [best.value for best in (self.go, self.java) if best is not None]
        return self.ours / min(peers) if self.ours is not None and peers else None


def beside_peers(results: Results) -> Iterator[Beside]:
    """Yield every figure that counts most, of the rows that are there."""
    for row, figures in HEADLINES.items():
        if row in results:
            for figure in figures:
                go, java = (Best.of(results[row], figure, peers) for peers in (GO, JAVA))
                yield Beside(row, figure, figure.of(results[row], OURS.name), go, java)


@dataclass(frozen=True, slots=True)
class Rung:
    """Ours with one worker beside the ladder's last rung, both of the same run.

    ``run`` is the ladder's own run that they are of, whose ratio is the median of the rounds'; None: it is the row's.
    """

    ours: float
    rung: float
    ratio: float
    run: LadderRun | None


@dataclass(frozen=True, slots=True)
class Above:
    """A figure of ours, how many times the floor it is, and the ladder's last rung; None: not measured."""

    row: str
    figure: Figure
    ours: float
    over_floor: float | None
    rung: Rung | None


def above_floor(results: Results, ladder_runs: Sequence[LadderRun]) -> Iterator[Above]:
    """Yield every figure of ours that counts most, of the rows that are there."""
    for row, figures in HEADLINES.items():
        for figure in figures if row in results else ():
            ours = figure.of(results[row], OURS.name)
            if ours is not None:
                over = figure.over_floor(results[row], ours)
                yield Above(row, figure, ours, over, _rung(results[row], figure, ladder_runs))


def _rung(result: RowResult, figure: Figure, runs: Sequence[LadderRun]) -> Rung | None:
    """Return the rung of the row's own run, or of the ladder's newest that has it."""
    ours, rung = (figure.of(result, kind.name) for kind in (OURS_WORKER, LADDER))
    if ours is not None and rung is not None:
        return Rung(ours, rung, ours / rung, None)
    name = result.row.removeprefix("fanout-")
    for run in sorted(runs, key=lambda run: str(run["date"]), reverse=True):
        pairs = list(_pairs(figure, run["rows"].get(name, {}).get("rounds", ())))
        if pairs:
            ours_median, rung_median = (statistics.median(each) for each in zip(*pairs, strict=True))
            return Rung(ours_median, rung_median, statistics.median(one / other for one, other in pairs), run)
    return None


def _pairs(figure: Figure, rounds: Iterable[Mapping[str, Figures]]) -> Iterator[tuple[float, float]]:
    """Yield the product's figure and the last rung's of each round that has both."""
    for each in rounds:
        ours, rung = (figure.among(each.get(name, {})) for name in (PRODUCT, LAST))
        if ours is not None and rung:
            yield ours, rung


def without_peers(results: Results) -> list[str]:
    """Return the rows in which no peer was measured."""
    lines = list(beside_peers(results))
    measured = {line.row for line in lines if line.go is not None or line.java is not None}
    return [row for row in dict.fromkeys(line.row for line in lines) if row not in measured]


def peers_need_gb(results: Results, streams: int) -> tuple[Best, float] | None:
    """Return the peer with the least memory per stream in ``MOST_STREAMS``, and the GB of so many such streams."""
    result = results.get(MOST_STREAMS)
    best = Best.of(result, MEMORY, (*GO, *JAVA)) if result is not None else None
    return None if best is None else (best, best.value * streams / 1e6)
