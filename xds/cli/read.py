"""``xds get``, ``diff``, ``history``, ``show`` and ``watch``: read over the push API."""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xds.cli.completion import complete_group, complete_resource
from xds.cli.output import EXIT_USAGE, count, counted, fail, print_json, print_table, say, say_change
from xds.cli.talk import (
    DEFAULT_API,
    EXIT_NOT_FOUND,
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
from xds.cli.targets import Target, WrongTargetError, targets_of
from xds.reporting.escaping import json_text
from xds.schema.fields import Field, field_changes

if TYPE_CHECKING:
    from xds.client import Client, Difference, Event, Revision, RevisionDetails

GET_EPILOG = examples_of(
    "xds get",
    "xds get clusters --all-groups",
    "xds get clusters web api -o yaml",
    "xds get cds/web eds/web --group canary",
    "xds get -o json --revision 41",
)
DIFF_EPILOG = examples_of("xds diff 41", "xds diff 41 42 --group canary")
HISTORY_EPILOG = examples_of("xds history --limit 20", "xds history --group canary")
SHOW_EPILOG = examples_of("xds show 42", "xds show 42 -o json | jq .differences")
WATCH_EPILOG = examples_of("xds watch", "xds watch --group canary", "xds watch --from 41 -o json | jq .revision")
GROUPS_SHOWN_MAX = 3
"""Groups whose counts a line of the history has."""
OnlyGroup = Annotated[
    str,
    typer.Option("--group", "-g", help="Only changes of this group's own resources.", autocompletion=complete_group),
]
Json = dict[str, Any]


def get(
    resources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TYPE[/NAME] [NAME]",
            help="clusters, endpoints, …, also in the singular, as cds, eds, …, or as a type URL. Default: all.",
            autocompletion=complete_resource,
        ),
    ] = None,
    group: Group = "default",
    all_groups: Annotated[bool, typer.Option("--all-groups", "-A", help="Of every group.")] = False,
    revision: Annotated[int | None, typer.Option(min=0, help="As it was at that revision.")] = None,
    show_secrets: ShowSecrets = False,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print resources that a group has itself: a table of their names, or with names the resources.

    With -o json or yaml, an object with group, revision, changed_at and resources for each group: a JSON document or a
    YAML document each. `xds apply -f` takes it.
    """
    try:
        targets = targets_of(resources or [])
    except WrongTargetError as error:
        fail(str(error), code=EXIT_USAGE)
    if all_groups and group != "default":
        fail(f"--all-groups reads every group, --group {group} one: give one of them", code=EXIT_USAGE)
    names_resources = any(name for _, name in targets)

    async def read(client: "Client") -> "tuple[list[Json], list[str]]":
        missing: list[str] = []
        names_only = output == "table" and not names_resources
        if not all_groups:
            return [await _read_group(client, group, targets, revision, missing, names_only=names_only)], missing
        found = await _read_all(client, targets, revision, missing, names_only=names_only)
        return found, missing

    found, missing = talk(api, token_file, ca, read, redact=not show_secrets)
    found_any = any(each["resources"] for each in found)
    if missing and not found_any:
        fail(*missing, code=EXIT_NOT_FOUND)
    if output != "table":
        for each in found:
            if not all_groups or each["resources"]:
                _print_document(output, each, several=all_groups)
    elif names_resources:
        _print_resources(found)
    else:
        _print_names(found, all_groups=all_groups)
    if missing and not all_groups:
        fail(*missing, code=EXIT_NOT_FOUND)


async def _read_all(
    client: "Client", targets: "list[Target]", revision: int | None, missing: list[str], *, names_only: bool
) -> list[Json]:
    """Return what every group has, of those that existed at the revision."""
    from xds.client import NotFoundError

    found: list[Json] = []
    for each in await client.groups():
        try:
            found.append(await _read_group(client, each.name, targets, revision, missing, names_only=names_only))
        except NotFoundError:
            if revision is None:
                raise
    return found


async def _read_group(
    client: "Client", group: str, targets: "list[Target]", revision: int | None, missing: list[str], *, names_only: bool
) -> Json:
    if names_only:
        return await _names(client, group, targets, revision)
    return await _resources(client, group, targets, revision, missing)


async def _names(client: "Client", group: str, targets: "list[Target]", revision: int | None) -> Json:
    lists = [await client.list_resources(group, revision=revision, type=word) for word, _ in targets or [("", "")]]
    rows = [(each.name.type, each.name.name, each.version) for found in lists for each in found.resources]
    return {"group": group, "revision": lists[-1].revision, "resources": rows}


async def _resources(
    client: "Client", group: str, targets: "list[Target]", revision: int | None, missing: list[str]
) -> Json:
    """Return the resources of one group, and add the errors for those that it lacks to ``missing``."""
    from xds.client import NotFoundError

    about = await client.list_resources(group, revision=revision, limit=1)
    content: Json = {"group": group, "revision": about.revision, "changed_at": about.changed_at, "resources": []}
    for word, name in targets or [("", "")]:
        if not name:
            found = await client.snapshot(group, revision=revision, type=word)
            content |= {"revision": found.revision, "changed_at": found.changed_at}
            content["resources"] += found.resources
            continue
        try:
            content["resources"].append(await client.get(word, name, group=group, revision=revision))
        except NotFoundError as error:
            missing.append(str(error))
    return content


def _print_document(output: str, content: Json, *, several: bool) -> None:
    if several and output == "yaml":
        say("---")
    print_as(output, content)


def _print_resources(found: list[Json]) -> None:
    """Print resources as YAML documents, each below a comment with its group if there are several."""
    shown = [(each["group"], resource) for each in found for resource in each["resources"]]
    for group, resource in shown:
        if len(shown) > 1:
            say("---", *([f"# group {group}"] if len(found) > 1 else []))
        print_as("yaml", resource)


def _print_names(found: list[Json], *, all_groups: bool) -> None:
    rows = [[*([each["group"]] if all_groups else []), *row] for each in found for row in each["resources"]]
    print_table([*(["group"] if all_groups else []), "type", "name", "version"], rows)
    where = count(len(found), "group") if all_groups else found[0]["group"]
    say("", f"{where}: revision {found[-1]['revision'] if found else 0}, {count(len(rows), 'resource')}")
    if not rows and not all_groups:
        say("--group chooses another group, --all-groups shows all of them")


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
    """Print what a group's resources differ in between two revisions: + added, - removed, ~ changed, field by field."""
    found = talk(api, token_file, ca, lambda client: client.diff(before, after, group=group), redact=not show_secrets)
    if output != "table":
        differences = [_difference_json(each) for each in found]
        print_as(output, {"group": group, "from": before, "to": after, "differences": differences})
        return
    _print_differences(found)
    say(f"{group}: {_totals(each.change for each in found)}")


def _totals(changes: Iterable[str]) -> str:
    """Return ``2 resources differ: 1 added, 1 changed``."""
    listed = list(changes)
    kinds = counted(((listed.count(kind), kind) for kind in ("added", "changed", "removed")), none="")
    differ = f"{count(len(listed), 'resource')} {'differs' if len(listed) == 1 else 'differ'}"
    return f"{differ}: {kinds}" if listed else "no resource differs"


def _print_differences(found: "Iterable[Difference]", *, with_group: bool = False) -> None:
    for each in found:
        say_change(each.change, each.group if with_group else "", f"{each.name.type}/{each.name.name}")
        for field in _fields(each) if each.change == "changed" else ():
            _print_field(field)


def _difference_json(each: "Difference") -> Json:
    fields = [field.as_json() for field in _fields(each)]
    return {
        "group": each.group,
        "type": each.name.type,
        "name": each.name.name,
        "change": each.change,
        "fields": fields,
    }


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
    group: OnlyGroup = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="So many at most.")] = 20,
    before: Annotated[int | None, typer.Option(min=0, help="Only those before that revision.")] = None,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print the changes that are kept, newest first: + added, ~ changed, - removed. `xds show REVISION` has details."""
    found = talk(api, token_file, ca, lambda client: client.history(limit=limit, before=before, group=group))
    if output != "table":
        print_as(output, {"revisions": [_revision_json(each) for each in found]})
        return
    rows = [[str(each.revision), _when(each.at), each.author, _counts(each), each.message] for each in found]
    print_table(["revision", "when", "author", "changes", "message"], rows, right=("revision",))


def _counts(revision: "Revision") -> str:
    """Return ``web +1 ~2, base -1``."""
    parts = []
    for each in revision.groups[:GROUPS_SHOWN_MAX]:
        numbers = (("+", each.added), ("~", each.changed), ("-", each.removed))
        parts.append(" ".join([each.group, *(f"{sign}{number:,}" for sign, number in numbers if number)]))
    if len(revision.groups) > GROUPS_SHOWN_MAX:
        parts.append(count(len(revision.groups) - GROUPS_SHOWN_MAX, "more group"))
    return ", ".join([*parts, *(["rules"] if revision.rules_changed else [])])


def show(
    revision: Annotated[int, typer.Argument(min=1, help="The revision that the change made.")],
    show_secrets: ShowSecrets = False,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print one change of the history in full: who made it and why, and what it changed, field by field."""
    found = talk(api, token_file, ca, lambda client: client.show(revision), redact=not show_secrets)
    rules = field_changes(found.rules_before or {}, found.rules_after or {})
    if output != "table":
        content = _revision_json(found.revision)
        content["differences"] = [_difference_json(each) for each in found.differences]
        content["rules"] = [each.as_json() for each in rules]
        print_as(output, content)
        return
    _print_details(found, rules)


def _print_details(found: "RevisionDetails", rules: list[Field]) -> None:
    about = found.revision
    say(
        f"revision {about.revision}",
        f"when      {_when(about.at)}",
        f"author    {about.author}",
        f"id        {about.id}",
    )
    say(f"message   {about.message}", "")
    _print_differences(found.differences, with_group=True)
    if about.rules_changed:
        say_change("changed", "groups and rules")
        for each in rules:
            _print_field(each)
    say("", _totals(each.change for each in found.differences))


def watch(
    group: OnlyGroup = "",
    after: Annotated[int | None, typer.Option("--from", min=0, help="Begin after that revision. Default: now.")] = None,
    show_secrets: ShowSecrets = False,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print every change as it is made, until interrupted: + added, - removed, ~ changed. With -o json, a line each."""

    async def follow(client: "Client") -> None:
        if group:
            await client.history(limit=1, group=group)  # raises NotFoundError for a misspelt group
        begin = (await client.rules_at())[0] if after is None else after
        async for event in client.watch(begin):
            if not group or any(each.group == group for each in event.operations):
                _print_event(event, output)

    talk(api, token_file, ca, follow, redact=not show_secrets)


def _print_event(event: "Event", output: str) -> None:
    if output == "table":
        revision = event.revision
        say("  ".join(filter(None, (str(revision.revision), _when(revision.at), revision.author, revision.message))))
        for each in event.operations:
            say_change(each.change, each.group, f"{each.name.type}/{each.name.name}", indent="    ")
        if revision.rules_changed:
            say_change("changed", "groups and rules", indent="    ")
    else:
        operations = [
            {
                "group": each.group,
                "type": each.name.type,
                "name": each.name.name,
                "change": each.change,
                "set": each.set,
            }
            for each in event.operations
        ]
        content = {**_revision_json(event.revision), "operations": operations}
        if output == "json":
            print_json(content, indent=None)
        else:
            say("---")
            print_as("yaml", content)


def _revision_json(revision: "Revision") -> dict[str, Any]:
    return {
        "revision": revision.revision,
        "id": revision.id,
        "author": revision.author,
        "message": revision.message,
        "at": revision.at.isoformat(),
        "operations": revision.operations,
        "groups": [each._asdict() for each in revision.groups],
        "rules_changed": revision.rules_changed,
    }


def _when(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
