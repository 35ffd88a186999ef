"""``xds nodes``, ``node`` and ``explain``: what the nodes have, what they should have, and why."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xds.cli.completion import complete_group, complete_node
from xds.cli.output import EXIT_USAGE, fail, print_table, say, say_change, warn
from xds.cli.talk import (
    DEFAULT_API,
    EXIT_UNAVAILABLE,
    Api,
    ApiCa,
    Output,
    TokenFile,
    examples_of,
    print_as,
    talk,
)
from xds.cli.targets import WrongTargetError, targets_of
from xds.reporting.escaping import json_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xds.client import Client, NodeProgress, Nodes, TypeProgress

NODES_EPILOG = examples_of(
    "xds nodes --state rejected",
    "xds nodes --group web --search 1.39. --sort since",
    "xds nodes --of known --state gone",
    "xds nodes --limit 100 -o json | jq -r .next",
)
NODE_EPILOG = examples_of(
    "xds node sidecar-17", "xds node sidecar-17 --diff", "xds node sidecar-17 --type routes -o json"
)
EXPLAIN_EPILOG = examples_of("xds explain sidecar-17 routes/web", "xds explain sidecar-17 cds/api -o json")
PAGE = 1_000
STATES = ("accepted", "pending", "rejected", "gone")
Json = dict[str, Any]
NodeId = Annotated[str, typer.Argument(metavar="ID", help="The node's id.", autocompletion=complete_node)]


def nodes(
    group: Annotated[
        str, typer.Option("--group", "-g", help="Only nodes of this group.", autocompletion=complete_group)
    ] = "",
    state: Annotated[
        Literal["accepted", "pending", "rejected", "gone"] | None, typer.Option(help="Only nodes in this state.")
    ] = None,
    search: Annotated[
        str, typer.Option(help="Only nodes whose id, cluster, address, user agent, identity or locality has this.")
    ] = "",
    sort: Annotated[
        Literal["id", "group", "state", "since", "version"], typer.Option(help="Sort by it, then by id.")
    ] = "id",
    of: Annotated[Literal["connected", "known"], typer.Option(help="known: also nodes that are gone.")] = "connected",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 10_000,
    cursor: Annotated[str, typer.Option(help="Go on where another answer ended: its `next`.")] = "",
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print the nodes, one line for each of their connections: state, revisions, Envoy's version, address.

    accepted: it has ACKed all that the newest revision demands of it. rejected: its last answer to something of it was
    a NACK. pending: something is unsent, held back or not answered. gone: it was seen and is not connected.
    """

    async def read(client: "Client") -> "list[Nodes]":
        pages: list[Nodes] = []
        left, at = limit, cursor
        while left > 0:
            page = await client.nodes(
                group=group,
                state=state or "",
                search=search,
                sort=sort,
                known=of == "known" or state == "gone",
                limit=min(left, PAGE),
                cursor=at,
                types=output != "table",
            )
            pages.append(page)
            left, at = left - len(page.nodes), page.next
            if not at:
                break
        return pages

    pages = talk(api, token_file, ca, read)
    last = joined(pages)
    found = last.nodes
    warn_of_missing(last)
    states = {name: sum(each.state == name for each in found) for name in STATES}
    if output != "table":
        print_as(output, {**nodes_json(last), "states": states})
        return
    columns = ["node", "group", "state", "revision", "accepted", "envoy", "address", "since"]
    print_table(columns, [_row(each) for each in found], right=("revision", "accepted"))
    say("", ", ".join(f"{number:,} {name}" for name, number in states.items() if number or name != "gone"))
    if last.next and len(found) < last.total:
        say(f"{len(found):,} of {last.total:,} are shown; the next: --cursor {last.next}")


def joined(pages: "Sequence[Nodes]") -> "Nodes":
    """Return several pages of a list as one: what is missing of any of them is missing of the list."""
    from dataclasses import replace
    from itertools import chain

    def all_of(texts: "Iterable[Iterable[str]]") -> tuple[str, ...]:
        return tuple(dict.fromkeys(chain.from_iterable(texts)))

    return replace(
        pages[-1],
        nodes=tuple(chain.from_iterable(page.nodes for page in pages)),
        missing_workers=all_of(page.missing_workers for page in pages),
        missing_replicas=all_of(page.missing_replicas for page in pages),
        problems=all_of(page.problems for page in pages),
    )


def _row(each: "NodeProgress") -> list[str]:
    since_ms = each.last_seen_ms if each.state == "gone" else each.last_seen_ms - round(each.connected_s * 1_000)
    return [
        each.id,
        each.group,
        each.state,
        str(each.revision),
        str(each.accepted_revision),
        each.envoy_version or each.user_agent or "–",
        each.address or "–",
        when(since_ms),
    ]


def when(at_ms: int) -> str:
    """Return a time in Unix milliseconds in the local zone."""
    return datetime.fromtimestamp(at_ms / 1_000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def warn_of_missing(answer: "Nodes") -> None:
    """Warn of workers and replicas that did not answer, and of the server's problems."""
    for worker in answer.missing_workers:
        warn(f"{worker} of the server did not answer: its nodes are missing")
    for replica in answer.missing_replicas:
        warn(f"the nodes of a replica are missing: {replica}")
    for problem in answer.problems:
        warn(f"the server serves, but {problem}")


def nodes_json(answer: "Nodes") -> Json:
    """Return nodes as JSON."""
    return {
        "nodes": [_node_json(each) for each in answer.nodes],
        "next": answer.next,
        "total": answer.total,
        "missing_workers": list(answer.missing_workers),
        "missing_replicas": list(answer.missing_replicas),
        "problems": list(answer.problems),
    }


def _node_json(node: "NodeProgress") -> Json:
    types = [{**_fields_of(each), "nacked": list(each.nacked), "blamed": list(each.blamed)} for each in node.types]
    return {**_fields_of(node), "types": types, "identity": list(node.identity)}


def _fields_of(value: "NodeProgress | TypeProgress") -> Json:
    """Return the fields as they are: ``asdict``, which copies each, took more time than the server for 10,000 nodes."""
    return {name: getattr(value, name) for name in value.__slots__}


def node(
    node_id: NodeId,
    type: Annotated[str, typer.Option("--type", "-t", help="Only resources of this type.")] = "",  # noqa: A002
    diff: Annotated[bool, typer.Option("--diff", help="Print what it has in another version than it should.")] = False,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print one node: each resource with the version that was sent, that it accepted and that it should have.

    Below it is what it rejected last, and what it said. --diff compares what it has with what it should have, field by
    field; secrets are hidden.
    """

    async def read(client: "Client") -> "tuple[Nodes, Json]":
        answer = await client.nodes(id=node_id, known=True)
        if not answer.nodes and (answer.missing_workers or answer.missing_replicas):
            warn_of_missing(answer)
            fail(f"node {node_id!r} is on no worker that answers", code=EXIT_UNAVAILABLE)
        return answer, await client.inspect(node_id, type=type, differs=diff)

    answer, found = talk(api, token_file, ca, read)
    warn_of_missing(answer)
    if output != "table":
        print_as(output, {**nodes_json(answer), **found})
        return
    for each in answer.nodes:
        if each.state == "gone":
            _say_gone(each)
    for connection in found["connections"]:
        _say_connection(connection)
        if diff:
            _say_differences(connection)
        else:
            _say_resources(connection)
    for each in answer.nodes:
        for progress in each.types:
            if progress.nacked and type in ("", progress.type):
                say(f"rejects {progress.type} {_blame_text(progress)}: {progress.error}")
    _say_nacks(found["nacks"])


def _blame_text(progress: "TypeProgress") -> str:
    """Return what a node rejects, and how it is known."""
    how = {"client": "the node names it", "only": "there was no other", "judge": "an Envoy that was asked refuses it"}
    if progress.blamed:
        return f"{', '.join(progress.blamed)} ({how.get(progress.blamed_by, progress.blamed_by)})"
    return ", ".join(progress.nacked) + (" (which of them is not known)" if len(progress.nacked) > 1 else "")


def _say_gone(each: "NodeProgress") -> None:
    why = f": {each.left_because}" if each.left_because else ""
    say(f"{each.id}: gone since {when(each.last_seen_ms)}{why}")
    say(f"  group {each.group}, cluster {each.cluster or '–'}, {each.user_agent or '–'}, from {each.address or '–'}")
    say(f"  first seen {when(each.first_seen_ms)}, had accepted revision {each.accepted_revision}")


def _say_connection(each: Json) -> None:
    say(f"{each['id']}: {each['state']}, revision {each['revision']}, has accepted {each['accepted_revision']}")
    say(
        f"  group {each['group']}, cluster {each['cluster'] or '–'}, {each['user_agent'] or '–'}, from "
        f"{each['address'] or '–'}, connected for {each['connected_s']:,.0f} s"
        f"{', ' + each['worker'] if each['worker'] else ''}"
    )
    if not each["gets_secrets"]:
        say("  secrets are withheld from it (secrets.require)")


def _say_resources(connection: Json) -> None:
    columns = ["type", "resource", "sent", "accepted", "wanted", "progress"]
    rows = []
    for each in connection["resources"]:
        accepted = "?" if each["accepted"] is None else each["accepted"]
        waits = "; ".join(_words_of(waiting) for waiting in each["waits"])
        versions = [version or "–" for version in (each["sent"], accepted, each["wanted"])]
        rows.append([each["type"], each["name"], *versions, waits or each["progress"]])
    print_table(columns, rows)
    if connection["more"]:
        say(f"and {connection['more']:,} more: --type chooses a type")


def _words_of(waiting: Json) -> str:
    names = f" ({', '.join(waiting['for'])})" if waiting["for"] else ""
    left = f", {waiting['left_s']:.0f} s at most" if waiting["left_s"] else ""
    return f"{waiting['why']}{names}{left}"


def _say_differences(connection: Json) -> None:
    found = connection["differences"]
    for each in found:
        say_change(each["change"], f"{each['type']}/{each['name']}", f"{each['has'] or '–'} → {each['wanted'] or '–'}")
        if each["note"]:
            say(f"    {each['note']}")
        for field in each["fields"] or ():
            for sign, style, key in (("-", "red", "before"), ("+", "green", "after")):
                if key in field:
                    say(f"    {sign} {field['path']}: {json_text(field[key])}", style=style)
    if connection["more"]:
        say(f"and {connection['more']:,} more: --type chooses a type")
    if not found:
        say("it has what it should have")


def _say_nacks(nacks: list[Json]) -> None:
    for each in nacks:
        shown = ", ".join(each["names"])
        more = f" and {each['count'] - len(each['names']):,} more" if each["count"] > len(each["names"]) else ""
        say(f"rejected {each['type']} {shown}{more} at {when(each['at_ms'])}: {each['message']}")


def explain(
    node_id: Annotated[str, typer.Argument(metavar="NODE", help="The node's id.", autocompletion=complete_node)],
    resource: Annotated[str, typer.Argument(metavar="TYPE/NAME", help="As in routes/web, eds/web.")],
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Say why a node has a resource, or not: its rule, its group, its subscription, what waits, what it rejected.

    Each step that stands in the way comes with what to do. A node that is gone is told what it would get.
    """
    try:
        ((word, name),) = targets_of([resource])
    except (WrongTargetError, ValueError) as error:
        fail(str(error), code=EXIT_USAGE)
    if not word or not name:
        fail(f"{resource!r} names no resource: write TYPE/NAME, as routes/web", code=EXIT_USAGE)
    found = talk(api, token_file, ca, lambda client: client.explain(node_id, word, name))
    if output != "table":
        print_as(output, found)
        return
    for each in found["explanations"]:
        where = ", ".join(filter(None, (each["replica"], each["worker"])))
        say(f"{found['id']}, {found['type']}/{found['name']}: {each['says']}{f' ({where})' if where else ''}")
        for step in each["steps"]:
            say(f"  {'✓' if step['well'] else '✗'} {step['what']}", style="" if step["well"] else "yellow")
            if step["do"] and not step["well"]:
                say(f"      → {step['do']}")
