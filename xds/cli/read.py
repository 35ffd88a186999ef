"""``xds get``, ``diff``, ``history``, ``watch``, ``status`` and ``node``: read over the push API."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xds.cli.fields import Field, field_changes
from xds.cli.output import fail, print_json, print_table, say, warn
from xds.cli.talk import (
    DEFAULT_API,
    EXIT_NOT_FOUND,
    EXIT_UNAVAILABLE,
    Api,
    ApiCa,
    Group,
    Output,
    ShowSecrets,
    TokenFile,
    examples_of,
    print_as,
    talk,
)
from xds.reporting.escaping import json_text

if TYPE_CHECKING:
    from xds.client import Client, Difference, Event, NodeProgress, Nodes, Revision

GET_EPILOG = examples_of("xds get", "xds get clusters", "xds get clusters web -o yaml", "xds get -o json --revision 41")
DIFF_EPILOG = examples_of("xds diff 41", "xds diff 41 42 --group canary")
HISTORY_EPILOG = examples_of("xds history --limit 20")
WATCH_EPILOG = examples_of("xds watch", "xds watch --from 41 -o json | jq .revision")
STATUS_EPILOG = examples_of("xds status", "xds status --state rejected")
NODE_EPILOG = examples_of("xds node sidecar-17", "xds node sidecar-17 -o json")


def get(
    type_name: Annotated[str, typer.Argument(metavar="[TYPE]", help="clusters, endpoints, … Default: all.")] = "",
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One resource.")] = "",
    group: Group = "default",
    revision: Annotated[int | None, typer.Option(min=0, help="As it was at that revision.")] = None,
    show_secrets: ShowSecrets = False,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print resources that a group has itself."""
    if name:
        one = talk(
            api,
            token_file,
            ca,
            lambda client: client.get(type_name, name, group=group, revision=revision),
            redact=not show_secrets,
        )
        print_as("yaml" if output == "table" else output, one)
        return
    from xds.client import unwrapped

    snapshot = talk(
        api,
        token_file,
        ca,
        lambda client: client.snapshot(group, revision=revision, type=type_name),
        redact=not show_secrets,
    )
    if output != "table":
        content = {"revision": snapshot.revision, "group": group, "resources": list(snapshot.resources)}
        print_as(output, content)
        return
    rows = [_row(*unwrapped(each)) for each in snapshot.resources]
    print_table(["type", "name"], rows)
    say("", f"{group}: revision {snapshot.revision}, {len(rows):,} resources")


def _row(message: dict[str, Any], around: dict[str, Any]) -> list[str]:
    return [_short(message["@type"]), str(around.get("name") or message.get("name") or message.get("cluster_name", ""))]


def diff(
    before: Annotated[int, typer.Argument(metavar="FROM", min=0, help="The older revision.")],
    after: Annotated[int | None, typer.Argument(metavar="[TO]", min=0, help="The newer one. Default: now.")] = None,
    group: Group = "default",
    show_secrets: ShowSecrets = False,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print what a group's resources differ in between two revisions, field by field."""
    found = talk(api, token_file, ca, lambda client: client.diff(before, after, group=group), redact=not show_secrets)
    changes = [(each.name, _fields(each)) for each in found]
    if output != "table":
        print_as(
            output,
            [
                {"type": name.type, "name": name.name, "fields": [each.as_json() for each in fields]}
                for name, fields in changes
            ],
        )
        return
    for (name, fields), difference in zip(changes, found, strict=True):
        sign, style = (
            ("+", "green")
            if difference.before is None
            else ("-", "red")
            if difference.after is None
            else ("~", "yellow")
        )
        say(f"{sign} {name.type}/{name.name}", style=f"bold {style}")
        for each in fields if sign == "~" else ():
            _print_field(each)
    say(f"{len(found):,} resources differ")


def _fields(difference: "Difference") -> list[Field]:
    """Return the fields that differ: those of the resource by their paths, those of its wrapper under ``(wrapper)``."""
    from xds.client import unwrapped

    before, after = difference.before, difference.after
    if before is None or after is None:
        return field_changes(before, after)
    (old, around_old), (new, around_new) = unwrapped(before), unwrapped(after)
    return [*field_changes({"(wrapper)": around_old}, {"(wrapper)": around_new}), *field_changes(old, new)]


def _print_field(field: Field) -> None:
    for sign, style, value in (("-", "red", field.before), ("+", "green", field.after)):
        if value is not None:
            say(f"    {sign} {field.path}: {json_text(value)}", style=style)


def history(
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="So many at most.")] = 20,
    before: Annotated[int | None, typer.Option(min=0, help="Only those before that revision.")] = None,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print the changes that are kept, newest first."""
    found = talk(api, token_file, ca, lambda client: client.history(limit=limit, before=before))
    if output != "table":
        print_as(output, [_revision_json(each) for each in found])
        return
    rows = [[str(each.revision), _when(each.at), each.author, f"{each.operations:,}", each.message] for each in found]
    print_table(["revision", "when", "author", "operations", "message"], rows, right=("revision", "operations"))


def watch(
    after: Annotated[int | None, typer.Option("--from", min=0, help="Begin after that revision. Default: now.")] = None,
    show_secrets: ShowSecrets = False,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print every change as it is made, until interrupted; with -o json, one object a line."""

    async def follow(client: "Client") -> None:
        begin = await client.revision() if after is None else after
        async for event in client.watch(begin):
            _print_event(event, output)

    talk(api, token_file, ca, follow, redact=not show_secrets)


def _print_event(event: "Event", output: str) -> None:
    if output == "table":
        revision = event.revision
        say(f"{revision.revision}  {_when(revision.at)}  {revision.author}  {revision.message}")
        for each in event.operations:
            sign = "-" if each.set is None else "+"
            say(f"    {sign} {each.group}  {each.name.type}/{each.name.name}")
    else:
        operations = [
            {"group": each.group, "type": each.name.type, "name": each.name.name, "set": each.set}
            for each in event.operations
        ]
        content = {**_revision_json(event.revision), "operations": operations}
        if output == "json":
            print_json(content, indent=None)
        else:
            say("---")
            print_as("yaml", content)


def status(
    group: Annotated[str, typer.Option("--group", "-g", help="Only nodes of this group.")] = "",
    state: Annotated[str, typer.Option(help="Only nodes that are synced, pending or rejected.")] = "",
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print how far each connected node is: what it has, accepted, rejected and waits for. At most 1,000 nodes."""
    answer = talk(api, token_file, ca, lambda client: client.nodes(group=group, state=state))
    found = answer.nodes
    _warn_of_missing(answer)
    if output != "table":
        print_as(output, [_node_json(each) for each in found])
        return
    rows = [
        [
            each.id,
            each.group,
            each.state,
            str(each.revision),
            f"{sum(t.sent for t in each.types):,}",
            f"{sum(t.acked for t in each.types):,}",
            f"{sum(len(t.nacked) for t in each.types):,}",
            f"{sum(t.pending for t in each.types):,}",
            f"{each.connected_s:,.0f}",
        ]
        for each in found
    ]
    columns = ["node", "group", "state", "revision", "sent", "acked", "nacked", "pending", "connected, s"]
    print_table(columns, rows, right=tuple(columns[3:]))
    states = {name: sum(each.state == name for each in found) for name in ("synced", "pending", "rejected")}
    say("", ", ".join(f"{number:,} {name}" for name, number in states.items()))


def node(
    node_id: Annotated[str, typer.Argument(metavar="ID", help="The node's id.")],
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print how far one node is, type by type, with what it said of what it rejected."""
    answer = talk(api, token_file, ca, lambda client: client.nodes(id=node_id))
    found = answer.nodes
    _warn_of_missing(answer)
    if not found and answer.missing_workers:
        fail(f"node {node_id!r} is on no worker that answers", code=EXIT_UNAVAILABLE)
    if not found:
        fail(f"no node {node_id!r} is connected", code=EXIT_NOT_FOUND)
    if output != "table":
        print_as(output, [_node_json(each) for each in found])
        return
    for each in found:
        where = f"cluster {each.cluster}, group {each.group}, revision {each.revision}"
        say(f"{each.id}: {each.state}; {where}, connected for {each.connected_s:,.0f} s")
        rows = [
            [t.type, f"{t.subscribed:,}", f"{t.sent:,}", f"{t.acked:,}", f"{len(t.nacked):,}", f"{t.pending:,}"]
            for t in each.types
        ]
        columns = ["type", "subscribed", "sent", "acked", "nacked", "pending"]
        print_table(columns, rows, right=tuple(columns[1:]))
        for t in each.types:
            if t.nacked:
                say(f"rejected {t.type} {', '.join(t.nacked)}: {t.error}")


def _warn_of_missing(answer: "Nodes") -> None:
    for worker in answer.missing_workers:
        warn(f"{worker} of the server did not answer: its nodes are missing")
    for problem in answer.problems:
        warn(f"the server serves, but {problem}")


def _node_json(node: "NodeProgress") -> dict[str, Any]:
    from dataclasses import asdict

    told = asdict(node)
    told["types"] = [{**each, "nacked": list(each["nacked"])} for each in told["types"]]
    return told


def _revision_json(revision: "Revision") -> dict[str, Any]:
    return {
        "revision": revision.revision,
        "id": revision.id,
        "author": revision.author,
        "message": revision.message,
        "at": revision.at.isoformat(),
        "operations": revision.operations,
    }


def _when(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _short(type_url: str) -> str:
    from xds.model.types import short_name

    return short_name(type_url)
