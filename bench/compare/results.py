"""What was measured, as JSON files that later runs add to: one file a row. It does not know how it was measured.

Figures are flat: ``back_to_back.cpu_us`` and ``paced.cpu_us`` are the server's CPU per delivery in both push modes,
``…last_ms`` the median over the pushes of the last stream's latency, ``connect.cpu_us`` the CPU per stream to connect,
``connect.all_s`` until all are synced, ``memory.kb`` the PSS per stream in units of 1,000 bytes. Smaller is better.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

Figures = dict[str, float]

LADDER = "ladder*.json"
"""Files of the directory that are no rows of the comparison: ``python -m bench.ladder`` writes them."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one server showed, or why it was not measured. ``figures`` are the medians of those of the ``rounds``."""

    figures: Figures = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    not_measured: str = ""
    lacks_toolchain: bool = False
    """Whether it was not measured because what builds it is not here: no fault of anything."""
    rounds: tuple[Figures, ...] = ()
    failed_rounds: tuple[str, ...] = ()
    """Why rounds that gave no figures did not, where others did."""

    def spread(self, name: str) -> tuple[float, float] | None:
        """Return the smallest and the largest value of a figure, None where there are not two rounds to tell."""
        values = [figures[name] for figures in self.rounds if name in figures]
        return (min(values), max(values)) if len(values) > 1 else None


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row of one run: when, on what, and each server's figures by the server's name."""

    row: str
    date: str
    took_s: float
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    parameters: Mapping[str, float | str]
    measured: Mapping[str, Measured]

    def figure(self, server: str, name: str) -> float | None:
        """Return a figure of a server, or None if it was not measured."""
        measured = self.measured.get(server)
        return None if measured is None else measured.figures.get(name)


def save(result: RowResult, directory: Path) -> Path:
    """Write a row's result, in place of its earlier one."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result.row}.json"
    path.write_text(json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n")
    return path


def load(directory: Path) -> dict[str, RowResult]:
    """Return the results that are there, by row. Raises ValueError naming the file that is none."""
    found = {}
    for path in sorted(path for path in directory.glob("*.json") if not path.match(LADDER)):
        try:
            said = json.loads(path.read_text())
            measured = {name: Measured(**one) for name, one in said.pop("measured").items()}
            result = RowResult(**said, measured=measured)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a result of this version; remove it, or run its row again ({error})"
            ) from None
        found[result.row] = result
    return found


def merged(rounds: Sequence[Measured]) -> Measured:
    """Return the medians of the rounds that gave figures; without any, why the first gave none."""
    good = [measured for measured in rounds if not measured.not_measured]
    if not good:
        return rounds[0]
    names = dict.fromkeys(name for measured in good for name in measured.figures)
    medians = {
        name: statistics.median(measured.figures[name] for measured in good if name in measured.figures)
        for name in names
    }
    failed = tuple(measured.not_measured for measured in rounds if measured.not_measured)
    return Measured(
        medians, good[-1].commands, rounds=tuple(measured.figures for measured in good), failed_rounds=failed
    )
