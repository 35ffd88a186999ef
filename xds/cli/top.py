"""``xds top``: a live screen of what servers do, by replica and process."""

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xds.cli.client_options import seconds_of
from xds.cli.output import fail, print_drawn
from xds.cli.talk import EXIT_UNAVAILABLE, examples_of
from xds.reporting.escaping import visible

if TYPE_CHECKING:
    from rich.table import Table

    from xds.cli.scrape import ProcessRates, Rates, Reading, Scraper

EPILOG = examples_of(
    "xds top",
    "xds top --admin xds-0.example:19000 --admin xds-1.example:19000 --every 5s",
    "xds top --once",
)
PLAIN_WIDTH = 130
REPLICAS_MAX = 64
EVERY_MIN_S = 0.2


def top(
    admin: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="The admin port of a replica, or its URL; repeatable, one each."),
    ] = None,
    every: Annotated[str, typer.Option(metavar="TIME", help="How often to read the metrics.")] = "2s",
    once: Annotated[
        bool, typer.Option("--once", help="Print one snapshot, over the time of --every, and exit.")
    ] = False,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CAs that sign the certificates of the admin ports.")
    ] = None,
) -> None:
    """Show what servers do, live: streams, nodes, responses, times to accept, NACKs, CPU and memory.

    Each replica has a line, and below it a line for each of its processes. Rates and times are those of the last
    interval: how long it took from the commit of a change until nodes had accepted it (p50, p99), responses per second,
    NACKs. It reads /metrics of each admin port, which needs no token. Ctrl-C ends it. Where the output is not a
    terminal, a plain snapshot is printed for each interval.
    """
    from xds.cli.scrape import ScrapeError, Scraper

    every_s = seconds_of(every, "--every")
    if every_s < EVERY_MIN_S:
        raise typer.BadParameter(f"at least {EVERY_MIN_S:g}s", param_hint="--every")
    given = admin or ["127.0.0.1:19000"]
    if len(given) > REPLICAS_MAX:
        raise typer.BadParameter(f"at most {REPLICAS_MAX} replicas", param_hint="--admin")
    try:
        scrapers = [Scraper(url, ca) for url in given]
    except (ScrapeError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="--admin") from None
    watch = _Watch(scrapers)
    watch.look()
    if once and watch.is_all_silent:
        fail("; ".join(watch.problems), code=EXIT_UNAVAILABLE)
    try:
        _show(watch, every_s, once=once)
    except KeyboardInterrupt:
        return


class _Watch:
    """The last two readings of each server."""

    def __init__(self, scrapers: "Sequence[Scraper]") -> None:
        self._scrapers = scrapers
        self._readings: list[Reading | None] = [None] * len(scrapers)
        self._rates: list[Rates | str] = ["not read yet"] * len(scrapers)
        self._threads = ThreadPoolExecutor(len(scrapers))

    def look(self) -> None:
        """Read all servers at once."""
        self._rates = list(self._threads.map(self._look_at, range(len(self._scrapers))))

    def _look_at(self, at: int) -> "Rates | str":
        from xds.cli.scrape import ScrapeError, rates

        before = self._readings[at]
        try:
            now = self._readings[at] = self._scrapers[at].read()
        except ScrapeError as error:
            self._readings[at] = None
            return str(error)
        return rates(before or now, now)

    @property
    def problems(self) -> list[str]:
        """Why servers could not be read."""
        return [each for each in self._rates if isinstance(each, str)]

    @property
    def is_all_silent(self) -> bool:
        """Whether no server could be read."""
        return len(self.problems) == len(self._scrapers)

    def table(self) -> "Table":
        """Return the table of all servers."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"xds top  {time.strftime('%H:%M:%S')}", title_justify="left", expand=True)
        for name in ("replica", "revision", "changes/s", "nodes a/p/r/g", "streams", "responses/s"):
            table.add_column(name, justify="left" if name == "replica" else "right", no_wrap=True)
        for name in ("p50", "p99", "NACKs", "CPU", "memory", "lag p99"):
            table.add_column(name, justify="right", no_wrap=True)
        for scraper, found in zip(self._scrapers, self._rates, strict=True):
            for row, style in _rows(scraper.name, found):
                table.add_row(*row, style=style)
        if self.problems:
            table.caption, table.caption_justify = Text("\n".join(map(visible, self.problems)), style="red"), "left"
        return table


def _rows(name: str, found: "Rates | str") -> "list[tuple[list[Any], str]]":
    from rich.text import Text

    if isinstance(found, str):
        return [([Text(visible(name)), "silent"], "red")]
    nodes = "/".join(str(found.nodes[state]) for state in ("accepted", "pending", "rejected", "gone"))
    head = [Text(visible(name)), str(found.revision), f"{found.changes_per_s:.1f}", nodes, *_cells(found.total)]
    return [
        (head, "bold"),
        *(([Text(f"  {visible(each.name)}"), "", "", "", *_cells(each)], "") for each in found.processes),
    ]


def _cells(rates: "ProcessRates") -> list[str]:
    return [
        f"{rates.streams:,}",
        f"{rates.responses_per_s:,.1f}",
        _time(rates.p50_s),
        _time(rates.p99_s),
        f"{rates.nacks:,}",
        f"{rates.cpu:.0%}",
        f"{rates.resident_bytes / 2**20:,.0f} MiB",
        _time(rates.lag_p99_s),
    ]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _show(watch: _Watch, every_s: float, *, once: bool) -> None:
    from rich.live import Live

    if once or not sys.stdout.isatty():
        _repeat(watch, every_s, lambda: print_drawn(watch.table(), plain_width=PLAIN_WIDTH), once=once)
        return
    with Live(watch.table(), screen=True, auto_refresh=False) as live:
        _repeat(watch, every_s, lambda: live.update(watch.table(), refresh=True), once=False)


def _repeat(watch: _Watch, every_s: float, show: Callable[[], None], *, once: bool) -> None:
    due = time.monotonic()
    while True:
        due = max(due + every_s, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        watch.look()
        show()
        if once:
            return
