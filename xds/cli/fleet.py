"""``xds fleet``: the command line of the load test, from options to printed tables."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xds.cli import client_options as client
from xds.cli.output import EXIT_FAILED, EXIT_USAGE, add_rows, examples, fail, new_table, print_json, say, show
from xds.process.private_files import open_private
from xds.reporting.escaping import json_text

if TYPE_CHECKING:
    from xds.fleet.options import FleetOptions
    from xds.fleet.results import Result
    from xds.fleet.run import OnProgress

EPILOG = examples(
    "xds fleet --server 127.0.0.1:18000 --streams 1000",
    "xds fleet --streams 1000,4000 --server-pid PID --pushes 20 --trigger http://127.0.0.1:18001/push --json r.json",
    "xds fleet --streams 5000 --stuck 10% --slow 10% --reconnect-storm",
    "xds fleet plot r.json --output r.svg",
)

_WHO = "The sidecars"
_MISBEHAVIOUR = "Misbehaviour"
_PUSHES = "Pushes"
_LIMITS = "Limits"
_OUTPUT = "Figures"

app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(epilog=EPILOG)
def fleet(
    context: typer.Context,
    server: client.Server = "127.0.0.1:18000",
    streams: Annotated[
        str, typer.Option(metavar="N[,N...]", help="How many sidecars; of several numbers, step by step.")
    ] = "1000",
    types: Annotated[
        str, typer.Option(metavar="TYPE,...", help="What they subscribe to.", rich_help_panel=_WHO)
    ] = "clusters,endpoints,listeners,routes",
    subscribe: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE=NAME,...", help="Names beside those that resources refer to.", rich_help_panel=_WHO),
    ] = None,
    variant: Annotated[
        Literal["delta", "sotw"], typer.Option(help="The variant of ADS.", rich_help_panel=_WHO)
    ] = "delta",
    node_id_prefix: Annotated[
        str, typer.Option(help="Node ids are this and seven digits.", rich_help_panel=_WHO)
    ] = "fleet-",
    cluster: client.NodeCluster = "fleet",
    region: client.Region = "",
    zone: client.Zone = "",
    sub_zone: client.SubZone = "",
    metadata: client.Metadata = None,
    tls_ca: client.TlsCa = None,
    tls_cert: client.TlsCert = None,
    tls_key: client.TlsKey = None,
    tls_server_name: client.TlsServerName = None,
    source_address: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IP",
            help="Connect from these in turn. Default on loopback: many of 127.0.0.0/8.",
            rich_help_panel=_WHO,
        ),
    ] = None,
    stuck: Annotated[
        str, typer.Option(metavar="SHARE", help="Never read again once synced.", rich_help_panel=_MISBEHAVIOUR)
    ] = "0%",
    slow: Annotated[
        str, typer.Option(metavar="SHARE", help="Read a little now and then.", rich_help_panel=_MISBEHAVIOUR)
    ] = "0%",
    nack: Annotated[
        str, typer.Option(metavar="SHARE", help="Reject what a push sends.", rich_help_panel=_MISBEHAVIOUR)
    ] = "0%",
    slow_interval: Annotated[
        str, typer.Option(metavar="TIME", help="How often the slow ones read.", rich_help_panel=_MISBEHAVIOUR)
    ] = "1s",
    reconnect: Annotated[
        str,
        typer.Option(metavar="N/s", help="So many drop and come back all the time.", rich_help_panel=_MISBEHAVIOUR),
    ] = "0/s",
    reconnect_storm: Annotated[
        bool,
        typer.Option("--reconnect-storm", help="In the end, all reconnect at once.", rich_help_panel=_MISBEHAVIOUR),
    ] = False,
    reconnect_lost: Annotated[
        bool,
        typer.Option("--reconnect-lost", help="Reconnect those that the server dropped.", rich_help_panel=_LIMITS),
    ] = False,
    pushes: Annotated[int, typer.Option(min=0, help="How many pushes, at each gap.", rich_help_panel=_PUSHES)] = 0,
    push_gap_ms: Annotated[
        str,
        typer.Option(
            metavar="MS[,MS...]",
            help="Pauses after all have a push; of several, one after another.",
            rich_help_panel=_PUSHES,
        ),
    ] = "0",
    warmup_pushes: Annotated[
        int, typer.Option(min=0, help="Pushes before any counts, for servers that warm up.", rich_help_panel=_PUSHES)
    ] = 0,
    responses_per_push: Annotated[
        int, typer.Option(min=1, help="With how many responses a sidecar has a push.", rich_help_panel=_PUSHES)
    ] = 1,
    trigger: Annotated[
        str | None,
        typer.Option(metavar="URL", help="GET this to make the server change something.", rich_help_panel=_PUSHES),
    ] = None,
    trigger_command: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Or run this.", rich_help_panel=_PUSHES)
    ] = None,
    newcomers: Annotated[
        int, typer.Option(min=0, help="So many more connect at the moment of a last push.", rich_help_panel=_PUSHES)
    ] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: one for 15,000.", rich_help_panel=_LIMITS)
    ] = None,
    connect_rate: Annotated[
        float | None,
        typer.Option(
            min=0.1, metavar="N", help="New sidecars a second. Default: all at once.", rich_help_panel=_LIMITS
        ),
    ] = None,
    connects_in_flight: Annotated[
        int, typer.Option(min=1, help="Handshakes at once in each process.", rich_help_panel=_LIMITS)
    ] = 512,
    window_bytes: Annotated[
        int, typer.Option(min=1, help="The HTTP/2 window of a sidecar.", rich_help_panel=_LIMITS)
    ] = 16 << 20,
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="How long each phase, and each push, may take.", rich_help_panel=_LIMITS)
    ] = "60s",
    server_pid: Annotated[
        list[int] | None,
        typer.Option(
            metavar="PID", help="The server's process, for its CPU and memory; repeatable.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(help="Compare each sidecar's resources with a newcomer's in the end.", rich_help_panel=_OUTPUT),
    ] = True,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write the result there; - is stdout.", rich_help_panel=_OUTPUT),
    ] = None,
) -> None:
    """Load any xDS server with simulated sidecars, and measure and verify what it does.

    Each sidecar is one TCP connection with one ADS stream that subscribes as an Envoy does and ACKs every response.
    """
    if context.invoked_subcommand is not None:
        return
    tls = client.tls_of(ca=tls_ca, cert=tls_cert, key=tls_key, server_name=tls_server_name)
    node = client.node_of(
        node_id=node_id_prefix, cluster=cluster, region=region, zone=zone, sub_zone=sub_zone, metadata=metadata
    )
    options = _options(
        server=server,
        streams=tuple(_numbers(streams, "--streams", int)),
        types=tuple(_words(types)),
        subscribe=_subscriptions(subscribe or ()),
        sotw=variant == "sotw",
        node=node,
        tls=tls,
        sources=tuple(source_address or ()),
        shares=(_share(stuck, "--stuck"), _share(slow, "--slow"), _share(nack, "--nack")),
        slow_interval_s=client.seconds_of(slow_interval, "--slow-interval"),
        churn_per_s=_per_second(reconnect),
        reconnect_storm=reconnect_storm,
        reconnect_lost=reconnect_lost,
        pushes=pushes,
        push_gaps_ms=tuple(_numbers(push_gap_ms, "--push-gap-ms", float)),
        warmup_pushes=warmup_pushes,
        responses_per_push=responses_per_push,
        trigger=trigger,
        trigger_command=trigger_command,
        newcomers=newcomers,
        workers=workers,
        connect_rate_per_s=connect_rate,
        connects_in_flight_max=connects_in_flight,
        window_bytes=window_bytes,
        timeout_s=client.seconds_of(timeout, "--timeout"),
        server_pids=tuple(server_pid or ()),
        verify=verify,
    )
    _run(options, json_file)


@app.command(
    epilog=examples("xds fleet plot r.json --output r.svg", "xds fleet plot ours.json theirs.json --output both.png")
)
def plot(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Files that --json wrote.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="An .svg or a .png file.")] = Path("fleet.svg"),
) -> None:
    """Draw latency, CPU and memory against streams, of one or several results.

    Needs the optional extra: pip install 'xds-control-plane\\[plot]'.
    """
    from xds.fleet.plot import PlotError, draw

    try:
        draw(results, output)
    except PlotError as error:
        fail(str(error), code=EXIT_FAILED)
    say(f"drawn to {output}")


def _options(*, server: str, node: Any, tls: Any, shares: tuple[float, float, float], **others: Any) -> "FleetOptions":
    from xds.address import Address
    from xds.fleet.behaviour import Mix
    from xds.fleet.config import NodeOptions, Tls
    from xds.fleet.options import FleetOptions
    from xds.process.descriptors import make_room

    place = node.locality
    try:
        options = FleetOptions(
            server=Address.parse(server),
            node=NodeOptions(
                id_prefix=node.id,
                cluster=node.cluster,
                region=place.region,
                zone=place.zone,
                sub_zone=place.sub_zone,
                metadata=dict(node.metadata),
            ),
            tls=None if tls is None else Tls(tls.ca, tls.cert, tls.key, tls.server_name),
            mix=Mix(*shares),
            **others,
        )
        make_room(options.descriptors_per_worker)
    except ValueError as error:
        fail(str(error), code=EXIT_USAGE)
    return options


def _run(options: "FleetOptions", json_file: str | None) -> None:
    import uvloop

    from xds.fleet.run import run

    if json_file not in (None, "-"):
        _must_be_writable(json_file)
    try:
        with _progress() as on_progress:
            result = uvloop.run(run(options, on_progress))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    _print(result, sys.stderr if json_file == "-" else sys.stdout)
    if json_file is not None:
        content = asdict(result) | {"ok": result.ok}
        if json_file == "-":
            print_json(content, indent=1)
        else:
            try:
                with open_private(Path(json_file), "w") as file:
                    file.write(json_text(content, indent=1) + "\n")
            except OSError as error:
                fail(f"the result can't be written to {json_file}: {error.strerror}", code=EXIT_FAILED)
    if not result.ok:
        fail(*result.problems, code=EXIT_FAILED)


def _must_be_writable(path: str) -> None:
    """Exit if a file can't be written, before the run whose result it is to have; what it has stays until then."""
    is_new = not Path(path).exists()
    try:
        open_private(Path(path), "a").close()
        if is_new:
            Path(path).unlink()
    except OSError as error:
        fail(f"--json: {path} can't be written: {error.strerror}", code=EXIT_USAGE)


def _print(result: "Result", stream: Any) -> None:
    from xds.fleet.report import remarks, tables

    for shown in tables(result):
        table = new_table(shown.title)
        for number, column in enumerate(shown.columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=True)
        add_rows(table, shown.rows)
        show(table, stream=stream, width=None if stream.isatty() else 200, soft_wrap=False)
        say("", stream=stream)
    say(*remarks(result), stream=stream)


@contextmanager
def _progress() -> "Iterator[OnProgress]":
    """Yield a callback (phase, done, total) that draws a bar on a terminal, or else prints each phase to stderr."""
    if not sys.stderr.isatty():
        last = ""

        def tell(phase: str, done: int, total: int) -> None:
            nonlocal last
            if phase != last:
                last = phase
                say(f"xds fleet: {phase}", stream=sys.stderr)

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("starting")

        def draw(phase: str, done: int, total: int) -> None:
            bar.update(task, description=phase, completed=done, total=total)

        yield draw


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str, option: str, kind: type[int] | type[float]) -> list[Any]:
    try:
        return [kind(word.replace("_", "")) for word in _words(text)]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not numbers with commas between", param_hint=option) from None


def _subscriptions(texts: Any) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for text in texts:
        word, equals, listed = text.partition("=")
        if not equals or not word or not _words(listed):
            raise typer.BadParameter(f"{text!r} is not TYPE=NAME,NAME as routes=r1,r2", param_hint="--subscribe")
        names[word] = (*names.get(word, ()), *_words(listed))
    return names


def _share(text: str, option: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise typer.BadParameter(f"{text!r} is not a share, as 10% or 0.1", param_hint=option)
    return share


def _per_second(text: str) -> float:
    try:
        rate = float(text.removesuffix("/s"))
    except ValueError:
        rate = -1.0
    if rate < 0:
        raise typer.BadParameter(f"{text!r} is not a rate, as 20/s", param_hint="--reconnect")
    return rate
