"""The progress bar for reading a large directory."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all)."""

DELAY_S = 0.5


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """Yield a callback (done, total) in bytes that draws a bar on a terminal, if it takes long; elsewhere None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Bar(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("reading", total=None)
    started_s = time.monotonic()
    shown = False

    def advance(done: int, total: int) -> None:
        nonlocal shown
        bar.update(task, completed=done, total=total)
        if not shown and time.monotonic() - started_s > DELAY_S:
            shown = True
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()
