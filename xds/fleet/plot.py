"""Plots results: latency, CPU and memory against streams, of one or several runs."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xds.fleet.results import FORMAT
from xds.process.private_files import open_private

KINDS = (".svg", ".png")
LOGARITHMIC_FROM = 30
"""The ratio of the largest to the smallest value from which the vertical axis is logarithmic."""
_DASHES = ("-", "--", ":", "-.")
_Point = tuple[float, float]


class PlotError(Exception):
    """The plot can't be drawn. The text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel: its label, (streams, value) points, its result's number, and its number in that result."""

    label: str
    points: tuple[_Point, ...]
    result: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram: its title, the unit of its vertical axis, and its lines."""

    title: str
    unit: str
    lines: tuple[Line, ...]


def draw(results: Sequence[Path], output: Path) -> None:
    """Draw the results' figures into a file. Raises PlotError."""
    if output.suffix not in KINDS:
        raise PlotError(f"{output} is neither {' nor '.join(KINDS)}; name the file so")
    shown = panels([(path.stem, _read(path)) for path in results])
    if not shown:
        raise PlotError("the results have no figures to draw; measure with --pushes or --server-pid")
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: F401 (what PNG needs)
        from matplotlib.figure import Figure
    except ImportError:
        raise PlotError("drawing needs matplotlib: pip install 'xds-control-plane[plot]'") from None
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(7.5 * columns, 4.8 * rows), layout="constrained")
    for number, panel in enumerate(shown, start=1):
        _draw_panel(figure.add_subplot(rows, columns, number), panel)
    try:
        metadata = {"Date": None} if output.suffix == ".svg" else None
        # A fixed salt, and no date: the same figures make the same file.
        with rc_context({"svg.hashsalt": "xds fleet", "svg.fonttype": "none"}), open_private(output) as file:
            figure.savefig(file, format=output.suffix[1:], dpi=150, metadata=metadata)
    except OSError as error:
        raise PlotError(f"{output} can't be written: {error.strerror}") from None


def panels(results: Sequence[tuple[str, dict[str, Any]]]) -> list[Panel]:
    """Return the panels of (label, result) pairs; panels without points are left out."""
    made = (
        _panel("push to received", "ms", results, _latencies),
        _panel("server CPU per delivery", "µs", results, _delivery_cpu),
        _panel("server memory per stream", "KB", results, _memory),
        _panel("all connected and synced", "s", results, _connects),
    )
    return [panel for panel in made if panel.lines]


_Values = Callable[[dict[str, Any]], dict[str, float | None]]


def _panel(title: str, unit: str, results: Sequence[tuple[str, dict[str, Any]]], values: _Values) -> Panel:
    lines = []
    for at, (label, result) in enumerate(results):
        points: dict[str, list[_Point]] = {}
        for step in result["steps"]:
            for name, value in values(step).items():
                if value is not None:
                    points.setdefault(name, []).append((step["streams"], value))
        own = f"{label}: " if len(results) > 1 else ""
        lines += [
            Line(f"{own}{name}".strip(": "), tuple(line), at, number)
            for number, (name, line) in enumerate(points.items())
        ]
    return Panel(title, unit, tuple(lines))


def _latencies(step: dict[str, Any]) -> dict[str, float | None]:
    return {
        f"{word}{_gap(series)}": series["latency"][key]
        for series in step["pushes"]
        if series["latency"] is not None
        for word, key in (("p50", "p50_ms"), ("p99", "p99_ms"), ("last", "last_ms"))
    }


def _delivery_cpu(step: dict[str, Any]) -> dict[str, float | None]:
    return {f"per delivery{_gap(series)}": series["server_cpu_us_per_delivery"] for series in step["pushes"]}


def _memory(step: dict[str, Any]) -> dict[str, float | None]:
    return {"PSS": None if step["memory"] is None else step["memory"]["bytes_per_stream"] / 1e3}


def _connects(step: dict[str, Any]) -> dict[str, float | None]:
    return {"added in this step": step["connect"]["all_synced_s"]}


def _gap(series: dict[str, Any]) -> str:
    return f", {series['gap_ms']:g} ms apart" if series["gap_ms"] else ""


def _draw_panel(axes: Any, panel: Panel) -> None:
    """Draw a panel: with several results, colours are results and dashes figures; with one, colours are figures."""
    is_alone = not any(line.result for line in panel.lines)
    for line in panel.lines:
        colour, dash = (line.number, 0) if is_alone else (line.result, line.number)
        style = {"color": f"C{colour % 10}", "linestyle": _DASHES[dash % len(_DASHES)]}
        axes.plot(*zip(*line.points, strict=True), marker=".", label=line.label, **style)
    axes.set_title(panel.title)
    axes.set_xlabel("streams")
    axes.set_ylabel(panel.unit)
    axes.set_xlim(left=0)
    values = [value for line in panel.lines for _, value in line.points]
    if min(values) > 0 and max(values) > LOGARITHMIC_FROM * min(values):
        axes.set_yscale("log")
    elif min(values) >= 0:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=min(len(panel.lines), 3))


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlotError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        result = None
    if not isinstance(result, dict) or result.get("format") != FORMAT or "steps" not in result:
        raise PlotError(f"{path} is no result of `xds fleet --json`, or of another version")
    return result
