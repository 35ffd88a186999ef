"""``xds status``: how the fleet and its server stand, once or live."""

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xds.cli.nodes import when
from xds.cli.output import count, counted, print_json, print_table, say, warn
from xds.cli.talk import DEFAULT_API, Api, ApiCa, Output, TokenFile, examples_of, print_as, talk

if TYPE_CHECKING:
    from xds.client import Client

EPILOG = examples_of("xds status", "xds status --watch", "xds status -o json | jq .groups")
EVERY_S = 1.0
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
SOON_S = 30 * 86_400
"""Certificates that expire within this time are shown."""
Json = dict[str, Any]


def status(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on: live on a terminal, else a line every second.")
    ] = False,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print how the fleet stands: each group's nodes by state, the oldest change not accepted by all, the server.

    `xds nodes` lists the nodes, `xds node ID` shows one, `xds explain` says why one has a resource, or not.
    """
    if watch:
        talk(api, token_file, ca, lambda client: _watch(client, output))
        return
    found = talk(api, token_file, ca, lambda client: client.status())
    for each in found["missing_workers"]:
        warn(f"{each} of the server did not answer: its nodes are not counted")
    for each in found["missing_replicas"]:
        warn(f"the nodes of a replica are not counted: {each}")
    if output != "table":
        print_as(output, found)
        return
    print_table(*_groups(found), right=COUNTS)
    say("", *_lines(found))
    for problem in found["problems"]:
        warn(f"the server serves, but {problem}")


async def _watch(client: "Client", output: str) -> None:
    import asyncio

    if output == "table" and sys.stdout.isatty():
        from rich.live import Live

        with Live(auto_refresh=False) as live:
            while True:
                live.update(_screen(await client.status()), refresh=True)
                await asyncio.sleep(EVERY_S)
    while True:
        found = await client.status()
        if output == "json":
            print_json(found, indent=None)
        elif output == "yaml":
            say("---")
            print_as(output, found)
        else:
            say(f"{when(round(time.time() * 1_000))}  {_in_a_line(found)}")
        await asyncio.sleep(EVERY_S)


def _screen(found: Json) -> Any:
    from rich.console import Group
    from rich.text import Text

    from xds.cli.output import add_rows, new_table
    from xds.reporting.escaping import visible

    columns, rows = _groups(found)
    table = new_table()
    for name in columns:
        table.add_column(name, justify="right" if name in COUNTS else "left")
    add_rows(table, rows)
    problems = [Text(visible(problem), style="yellow") for problem in found["problems"]]
    return Group(table, Text(""), *(Text(visible(line)) for line in _lines(found)), *problems)


COUNTS = ("nodes", "accepted", "pending", "rejected", "gone", "revision")


def _groups(found: Json) -> tuple[list[str], list[list[str]]]:
    columns = ["group", "revision", "nodes", "accepted", "pending", "rejected", "gone", "oldest change not accepted"]
    rows = [
        [
            each["name"],
            str(each["revision"] or "removed"),
            *(f"{each[key]:,}" for key in COUNTS[:-1]),
            _oldest(each["oldest_unaccepted"], each["revision"]),
        ]
        for each in found["groups"]
    ]
    return columns, rows


def _oldest(unaccepted: Json | None, last: int) -> str:
    if unaccepted is None:
        return "–"
    nothing = "a node has accepted nothing yet"
    if unaccepted["is_everything"] and unaccepted["revision"] == last:
        return nothing
    at_ms = unaccepted["at_ms"]
    age = "" if at_ms is None else f", {duration(time.time() - at_ms / 1_000)} ago"
    return f"revision {unaccepted['revision']}{age}" + (f"; {nothing}" if unaccepted["is_everything"] else "")


def _in_a_line(found: Json) -> str:
    total = {key: sum(each[key] for each in found["groups"]) for key in COUNTS[:-1]}
    states = counted(((total[key], key) for key in COUNTS[1:-1]), none="no nodes")
    return f"revision {found['revision']}: {count(total['nodes'], 'node')}, {states}"


def _lines(found: Json) -> Iterator[str]:
    server, store, workers = found["server"], found["store"], found["workers"]
    up = duration(time.time() - server["started_at_ms"] / 1_000)
    yield f"server     xds {server['version']} for {up}, with the API of Envoy {server['schema_of']}"
    yield f"revision   {found['revision']}, store {store['kind']}"
    if workers["serving"] or workers["missing"] or workers["silent"]:
        states = ((workers["serving"], "serve"), (len(workers["silent"]), "silent"), (workers["missing"], "missing"))
        yield f"workers    {counted(states, none='none')}"
    for each in found["replicas"]:
        about = each["problem"] or f"{count(each['streams'], 'stream')}, revision {each['revision']}"
        at = f" at {each['api']}" if each["api"] else ""
        yield f"replica    {each['name']}{at} ({each['state']}): {about}"
    if (source := found["directory"]) is not None:
        yield f"directory  {source['path']}: {source['problem'] or 'served since ' + when(source['applied_at_ms'])}"
    if found["limits"]:
        yield f"limits     {counted(((hits, label) for label, hits in found['limits'].items()), none='')}"
    for each in found["certificates"]:
        left_s = each["expires_at_ms"] / 1_000 - time.time()
        if left_s < SOON_S:
            ends = f"expires in {duration(left_s)}" if left_s > 0 else "has expired"
            yield f"expires    {each['subject']} in {each['file']} {ends}"


def duration(seconds: float) -> str:
    """Return a time as ``3 d 4 h``, ``5 min 2 s`` or ``0 s``."""
    left, parts = max(0, int(seconds)), []
    for size, unit in UNITS:
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2]) or "0 s"
