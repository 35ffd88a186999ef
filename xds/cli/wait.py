"""``xds wait``: wait until the connected nodes have accepted a revision."""

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xds.cli.completion import complete_group
from xds.cli.output import EXIT_USAGE, count, fail, say, warn
from xds.cli.talk import DEFAULT_API, Api, ApiCa, Output, TokenFile, examples_of, print_as, talk

if TYPE_CHECKING:
    from xds.client import Client, Convergence

EXIT_TIMED_OUT = 7
EXIT_NODES_REJECTED = 8

EPILOG = examples_of(
    "xds wait --revision 42 --timeout 2m",
    "xds wait --group canary --quorum 99% --max-rejected 2",
    "xds apply -f cluster.yaml && xds wait",
) + (
    " And of this command: 7 the time is over, and not enough nodes have accepted it; 8 more nodes than --max-rejected "
    "reject it. Nodes that are not connected are not counted."
)
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds_of(text: str) -> float:
    """Return a time like ``90``, ``90s``, ``2m`` or ``1h`` in seconds. Raises typer.BadParameter."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        found = float(number) * UNITS[unit]
    except ValueError:
        found = -1.0
    if not 0 <= found <= 86_400:
        raise typer.BadParameter(f"{text!r} is no time up to a day: write 90s, 2m or 1h")
    return found


def share_of(text: str) -> float:
    """Return a share like ``99%`` or ``0.99``. Raises typer.BadParameter."""
    try:
        found = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        found = -1.0
    if not 0 < found <= 1:
        raise typer.BadParameter(f"{text!r} is no share: write 99% or 0.99, more than 0 and at most 100%")
    return found


def wait(
    revision: Annotated[
        int | None, typer.Option("--revision", "-r", min=0, help="The revision. Default: the one that is served.")
    ] = None,
    group: Annotated[
        str, typer.Option("--group", "-g", help="Only nodes of this group.", autocompletion=complete_group)
    ] = "",
    quorum: Annotated[
        str, typer.Option(metavar="SHARE", help="The share of the connected nodes that is enough.")
    ] = "100%",
    max_rejected: Annotated[int, typer.Option(min=0, help="How many nodes may reject it.")] = 0,
    timeout: Annotated[str, typer.Option(metavar="TIME", help="How long to wait: 90s, 2m, 1h.")] = "60s",
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Wait until the connected nodes have accepted a revision: everything of it that concerns them, removals included.

    A node has accepted it once it has ACKed all that the revision demands of it, of every type that it subscribes to. A
    change that does not concern a node is accepted by it at once.
    """
    try:
        share, timeout_s = share_of(quorum), seconds_of(timeout)
    except typer.BadParameter as error:
        fail(str(error), code=EXIT_USAGE)

    async def work(client: "Client") -> "Convergence":
        wanted = await client.revision() if revision is None else revision
        found: Convergence | None = None
        with _Line(output == "table") as line:
            async for found in client.converge(
                wanted, group=group, quorum=share, rejected_max=max_rejected, timeout_s=timeout_s
            ):
                line.show(found)
        assert found is not None, "the first answer comes at once"
        return found

    _finish(talk(api, token_file, ca, work), output)


class _Line:
    """A line on a terminal that shows how far a revision is, and is gone in the end."""

    def __init__(self, wanted: bool) -> None:
        self._shown = wanted and sys.stderr.isatty()
        self._since = time.monotonic()
        self._live: Any = None

    def __enter__(self) -> "_Line":
        if self._shown:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def show(self, found: "Convergence") -> None:
        """Show an answer."""
        if self._live is not None:
            self._live.update(f"{_words(found)} ({time.monotonic() - self._since:.0f} s)")

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()


def _words(found: "Convergence") -> str:
    nodes = found.accepted + found.pending + found.rejected
    text = f"revision {found.revision}: {found.accepted:,} of {count(nodes, 'node')} accepted it"
    return text + "".join(
        f", {number:,} {word}" for number, word in ((found.pending, "pending"), (found.rejected, "rejected")) if number
    )


def _finish(found: "Convergence", output: str) -> None:
    """Print the last answer and exit with its code."""
    for worker in found.missing_workers:
        warn(f"{worker} of the server did not answer: its nodes are missing")
    if output != "table":
        print_as(output, _json(found))
    else:
        say(_words(found))
        if found.published < found.revision:
            say(f"revision {found.revision} is not served yet: revision {found.published} is")
        for each in found.lacking:
            say(f"  {each.id} ({each.group}): {each.state} since revision {each.since}; {each.reason}".rstrip("; "))
        left = found.pending + found.rejected - len(found.lacking)
        if found.lacking and left > 0:
            say(f"  and {left:,} more")
    code = {"reached": 0, "pending": EXIT_TIMED_OUT, "rejected": EXIT_NODES_REJECTED}[found.verdict]
    if code:
        raise typer.Exit(code)


def _json(found: "Convergence") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(found)
