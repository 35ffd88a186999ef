"""``xds wait``: wait until the known nodes have accepted a revision."""

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xds.cli.completion import complete_group
from xds.cli.output import EXIT_USAGE, count, fail, say, warn
from xds.cli.talk import DEFAULT_API, Api, ApiCa, Output, TokenFile, examples_of, print_as, talk

if TYPE_CHECKING:
    from xds.client import Client, Convergence

Of = Literal["known", "connected"]
EXIT_TIMED_OUT = 7
EXIT_NODES_REJECTED = 8

EPILOG = examples_of(
    "xds wait --revision 42 --timeout 2m",
    "xds wait --group canary --quorum 99% --max-rejected 2",
    "xds apply -f cluster.yaml && xds wait",
    "xds wait --of connected",
) + (
    " And of this command: 7 the time is over, and not enough nodes have accepted it; 8 more nodes than --max-rejected "
    "reject it. Nodes that were seen in the last hour (fleet.forget_after_s) and are not connected count as gone, and "
    "are waited for; with --of connected they are not."
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


_WAITING = "Waiting"
Wait = Annotated[
    bool,
    typer.Option(
        "--wait",
        help="Wait until the nodes that it concerns have accepted it; else exit with 7 (too late) or 8 (rejected).",
        rich_help_panel=_WAITING,
    ),
]
Quorum = Annotated[
    str,
    typer.Option(metavar="SHARE", help="The share of the nodes that is enough.", rich_help_panel=_WAITING),
]
WhichNodes = Annotated[
    Of,
    typer.Option(
        "--of",
        help="Which nodes count: all that are known, or those that are connected.",
        rich_help_panel=_WAITING,
    ),
]
MaxRejected = Annotated[int, typer.Option(min=0, help="How many nodes may reject it.", rich_help_panel=_WAITING)]
Timeout = Annotated[str, typer.Option(metavar="TIME", help="How long to wait: 90s, 2m, 1h.", rich_help_panel=_WAITING)]
WAIT_CODES = (
    " And with --wait: 7 the time is over, and not enough nodes have accepted it; 8 more nodes than --max-rejected "
    "reject it. The change is made all the same."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long is waited, and for what share of the nodes (1.0 for all)."""

    quorum: float
    rejected_max: int
    timeout_s: float

    @classmethod
    def of(cls, quorum: str, max_rejected: int, timeout: str) -> "Patience":
        """Return what the options say; exit if they are wrong."""
        try:
            return cls(quorum=share_of(quorum), rejected_max=max_rejected, timeout_s=seconds_of(timeout))
        except typer.BadParameter as error:
            fail(str(error), code=EXIT_USAGE)


def wait(
    revision: Annotated[
        int | None, typer.Option("--revision", "-r", min=0, help="The revision. Default: the one that is served.")
    ] = None,
    group: Annotated[
        str, typer.Option("--group", "-g", help="Only nodes of this group.", autocompletion=complete_group)
    ] = "",
    quorum: Quorum = "100%",
    of: WhichNodes = "known",
    max_rejected: MaxRejected = 0,
    timeout: Timeout = "60s",
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Wait until the known nodes have accepted a revision: everything of it that concerns them, removals included.

    A node has accepted it once it has ACKed all that the revision demands of it, of every type that it subscribes to. A
    change that does not concern a node is accepted by it at once.
    """
    patience = Patience.of(quorum, max_rejected, timeout)

    async def work(client: "Client") -> "Convergence":
        wanted = await client.revision() if revision is None else revision
        return await converged(client, wanted, patience, group=group, of=of, shows_line=output == "table")

    found = talk(api, token_file, ca, work)
    if output != "table":
        print_as(output, convergence_json(found))
    finish(found, is_printed=output != "table")


async def converged(
    client: "Client", revision: int, patience: Patience, *, group: str = "", of: Of = "known", shows_line: bool
) -> "Convergence":
    """Wait for a revision, with a line on a terminal meanwhile, and return the last answer."""
    found: Convergence | None = None
    with _Line(shows_line) as line:
        async for found in client.converge(
            revision,
            group=group,
            quorum=patience.quorum,
            rejected_max=patience.rejected_max,
            timeout_s=patience.timeout_s,
            of=of,
        ):
            line.show(found)
    assert found is not None, "the first answer comes at once"
    return found


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
    text = f"revision {found.revision}: {found.accepted:,} of {count(found.nodes, 'node')} accepted it"
    gone = found.gone if found.of == "known" else 0
    states = ((found.pending, "pending"), (found.rejected, "rejected"), (gone, "gone"))
    return text + "".join(f", {number:,} {word}" for number, word in states if number)


def finish(found: "Convergence", *, is_printed: bool) -> None:
    """Print the last answer, unless it is printed already, and exit with its code unless the revision was reached."""
    for worker in found.missing_workers:
        warn(f"{worker} of the server did not answer: its nodes are missing")
    for replica in found.missing_replicas:
        warn(f"the nodes of a replica are missing: {replica}")
    if not is_printed:
        _print(found)
    code = {"reached": 0, "pending": EXIT_TIMED_OUT, "rejected": EXIT_NODES_REJECTED}[found.verdict]
    if code:
        raise typer.Exit(code)


def _print(found: "Convergence") -> None:
    say(_words(found))
    if found.published < found.revision:
        say(f"revision {found.revision} is not served yet: revision {found.published} is")
    for each in found.lacking:
        since = f" since revision {each.since}" if each.since else ""
        say(f"  {each.id} ({each.group}): {each.state}{since}; {each.reason}".rstrip("; "))
    left = found.nodes - found.accepted - len(found.lacking)
    if found.lacking and left > 0:
        say(f"  and {left:,} more")


def convergence_json(found: "Convergence") -> dict[str, Any]:
    """Return an answer as the commands print it."""
    from dataclasses import asdict

    return asdict(found)
