"""Formats a result as tables of text."""

from collections.abc import Iterator
from dataclasses import dataclass

from xds.fleet.results import Latency, Pushes, Result, RunStep

NONE = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """A title, column headings, and rows of as many cells; the first column is text, the others figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(result: Result) -> Iterator[Table]:
    """Yield a run's figures, one table for each kind."""
    steps = result.steps
    if steps:
        yield Table(
            "connect to synced",
            ("streams", "added", "synced", "p50 ms", "p99 ms", "last ms", "all s", "server µs each", "fleet µs each"),
            tuple(_connect_row(step) for step in steps),
        )
    if any(step.memory for step in steps):
        yield Table(
            "server memory (PSS)",
            ("streams", "before MB", "connected MB", "KB per stream", "KB per added stream", "after pushes MB"),
            tuple(_memory_row(step) for step in steps if step.memory),
        )
    if any(step.pushes for step in steps):
        yield Table(
            "push to received",
            ("streams", "gap ms", "pushes", "deliveries", *_LATENCY, "server µs each", "fleet µs each", "B each"),
            tuple(_pushes_row(step, series) for step in steps for series in step.pushes),
        )
    if result.newcomers is not None:
        came = result.newcomers
        yield Table(
            "newcomers during a push",
            ("", "sidecars", "done", *_LATENCY),
            (
                ("connect to synced", f"{came.sidecars:,}", f"{came.synced:,}", *_latency(came.connect_to_synced)),
                ("push to the others", f"{came.push.due:,}", f"{came.push.received:,}", *_latency(came.push.latency)),
            ),
        )
    if result.storm is not None:
        storm = result.storm
        cells = (f"{storm.sidecars:,}", f"{storm.synced:,}", *_latency(storm.reconnect_to_synced))
        sent, each = f"{storm.resources_sent_again:,}", _figure(storm.server_cpu_us_per_sidecar)
        yield Table(
            "reconnect storm",
            ("", "sidecars", "synced", *_LATENCY, "all s", "resources sent again", "server µs each"),
            (("all at once", *cells, f"{storm.all_synced_s:.3f}", sent, each),),
        )


_LATENCY = ("p50 ms", "p99 ms", "p99.9 ms", "last ms")


def _latency(latency: Latency | None) -> tuple[str, ...]:
    if latency is None:
        return (NONE,) * 4
    return tuple(f"{value:,.1f}" for value in (latency.p50_ms, latency.p99_ms, latency.p999_ms, latency.last_ms))


def _figure(value: float | None, digits: int = 1) -> str:
    return NONE if value is None else f"{value:,.{digits}f}"


def _connect_row(step: RunStep) -> tuple[str, ...]:
    connect = step.connect
    p50, p99, _, last = _latency(connect.connect_to_synced)
    return (
        f"{step.streams:,}",
        f"{connect.sidecars:,}",
        f"{connect.synced:,}",
        p50,
        p99,
        last,
        f"{connect.all_synced_s:.2f}",
        _figure(connect.server_cpu_us_per_sidecar),
        _figure(connect.fleet_cpu_us_per_sidecar),
    )


def _memory_row(step: RunStep) -> tuple[str, ...]:
    memory = step.memory
    assert memory is not None, "rows are made of steps that have it"
    after = NONE if memory.after_pushes_bytes is None else f"{memory.after_pushes_bytes / 1e6:,.1f}"
    return (
        f"{step.streams:,}",
        f"{memory.before_bytes / 1e6:,.1f}",
        f"{memory.connected_bytes / 1e6:,.1f}",
        f"{memory.bytes_per_stream / 1e3:,.2f}",
        NONE if memory.bytes_per_added_stream is None else f"{memory.bytes_per_added_stream / 1e3:,.2f}",
        after,
    )


def _pushes_row(step: RunStep, series: Pushes) -> tuple[str, ...]:
    each = series.bytes_received / series.responses if series.responses else None
    return (
        f"{step.streams:,}",
        f"{series.gap_ms:g}",
        f"{len(series.pushes):,}",
        f"{series.deliveries:,}",
        *_latency(series.latency),
        _figure(series.server_cpu_us_per_delivery),
        _figure(series.fleet_cpu_us_per_delivery),
        _figure(each, 0),
    )


def remarks(result: Result) -> Iterator[str]:
    """Yield remarks for below the tables: resources served, sidecars verified, streams lost, and problems."""
    if result.resources:
        yield "served: " + ", ".join(f"{count:,} {name}" for name, count in result.resources.items())
    odd = {name: count for name, count in result.behaviours.items() if count and name != "well"}
    if odd:
        yield "misbehaving: " + ", ".join(f"{count:,} {name}" for name, count in odd.items())
    if result.rejected:
        yield f"responses rejected on purpose: {result.rejected:,}"
    if result.churned:
        yield f"reconnects on purpose: {result.churned:,}"
    if result.storm is not None:
        yield f"in the reconnect storm a sidecar's burst ended with {result.storm.probe}"
    if result.verify is not None:
        verify = result.verify
        excluded = "".join(f", {count:,} {name} left out" for name, count in verify.excluded.items())
        yield f"verified: {verify.compared - verify.different:,} of {verify.compared:,} sidecars equal{excluded}"
        yield from (f"  {example}" for example in verify.examples)
    for kind, count in result.losses.items():
        yield f"lost: {count:,} × {result.examples.get(kind, kind)}"
