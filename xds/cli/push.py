"""``xds apply``, ``delete`` and ``rollback``: make changes over the push API."""

import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xds.cli.output import EXIT_USAGE, count, fail, print_problems, say
from xds.cli.progress import progress_bar
from xds.cli.talk import DEFAULT_API, Api, ApiCa, Group, Output, TokenFile, examples_of, print_as, talk

if TYPE_CHECKING:
    from xds.client import About, Applied, Client
    from xds.model.resource import Resource

APPLY_EPILOG = examples_of(
    "xds apply -f cluster.yaml --message 'two more endpoints'",
    "xds apply -f snapshots/quickstart --prune --dry-run",
    "kustomize build . | xds apply -f - --group canary",
)
DELETE_EPILOG = examples_of("xds delete clusters web", "xds delete endpoints web api --group canary")
ROLLBACK_EPILOG = examples_of("xds rollback 41 --message 'the canary returns 500s'")

Message = Annotated[str, typer.Option("--message", "-m", help="Why, for the history.")]
Author = Annotated[str, typer.Option(envvar=["XDS_PUSH_AUTHOR", "USER"], help="Who, for the history.")]
Expected = Annotated[
    int | None, typer.Option("--expected-revision", min=0, help="Make it at that revision or not at all.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check it and say what it would change.")]


def apply(
    files: Annotated[
        list[Path], typer.Option("--file", "-f", metavar="FILE|DIR|-", help="YAML or JSON; - reads standard input.")
    ],
    group: Group = "default",
    prune: Annotated[bool, typer.Option("--prune", help="Remove what the group has beside it.")] = False,
    dry_run: DryRun = False,
    message: Message = "",
    author: Author = "",
    change_id: Annotated[str, typer.Option("--id", help="The same id twice is one change.")] = "",
    expected_revision: Expected = None,
    version: Annotated[str, typer.Option(help="Their version on the wire, instead of a hash of the content.")] = "",
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Set the resources of files, all or none.

    A file holds one resource with @type, a list of them, or `resources:` with one. A directory is read as `xds serve`
    would: each directory in it is a group, which extends what groups.yaml says, and each group is one change. Rules in
    groups.yaml replace those of the server, last of all.
    """
    from xds.client import About

    read, rules = _read(files, group)
    if change_id and len(read) > 1:
        fail("--id: several groups are several changes; apply them one by one", code=EXIT_USAGE)
    about = About(
        id=change_id,
        message=message,
        author=author,
        expected_revision=expected_revision,
        version=version,
        dry_run=dry_run,
    )
    _print_applied(
        talk(api, token_file, ca, lambda client: _apply(client, read, rules, about, prune=prune)),
        output,
        dry_run=dry_run,
    )


async def _apply(
    client: "Client",
    read: "Mapping[str, tuple[Resource, ...]]",
    rules: "Mapping[str, Any]",
    about: "About",
    *,
    prune: bool,
) -> "dict[str, Applied]":
    """Make the changes in order. If a revision is expected, each change expects the revision of the one before."""
    about_rules = replace(about, id="", version="")
    if not about.dry_run and (first := _needed_first(rules, read)):
        made = await client.update_rules(first, about=about_rules)
        about = _after(about, made)
    applied: dict[str, Applied] = {}
    for name, resources in read.items():
        applied[name] = await _push(client, name, resources, about, prune=prune)
        if not about.dry_run:
            about = _after(about, applied[name])
    last = {key: value for key, value in rules.items() if key != "groups"}
    if not about.dry_run and last:
        await client.update_rules(last, about=replace(about, id="", version=""))
    return applied


def _after(about: "About", made: "Applied") -> "About":
    return about if about.expected_revision is None else replace(about, expected_revision=made.revision)


def _needed_first(rules: "Mapping[str, Any]", pushed: "Collection[str]") -> dict[str, Any]:
    """Return the part of groups.yaml that resources may refer to: the group inheritance and external names."""
    groups: dict[str, Any] = dict(rules.get("groups", {}))
    bases = {each["extends"] for each in groups.values()}
    groups |= {name: {} for name in pushed if name in bases and name not in groups}
    first = {"groups": groups, "add_external": rules.get("external")}
    return {key: value for key, value in first.items() if value}


async def _push(
    client: "Client", group: str, resources: "tuple[Resource, ...]", about: "About", *, prune: bool
) -> "Applied":
    if prune:
        return await client.replace(resources, group=group, about=about)
    return await client.apply(upsert=resources, group=group, about=about)


def _read(files: list[Path], group: str) -> "tuple[Mapping[str, tuple[Resource, ...]], dict[str, Any]]":
    """Return the resources of all files and directories by group, and groups.yaml; exit with every problem.

    With the key ``groups`` alone, there are no rules to replace.
    """
    from xds.model.problem import ChangesetRejectedError

    found: dict[str, tuple[Resource, ...]] = {}
    rules: dict[str, Any] = {}
    try:
        with progress_bar() as progress:
            for path in files:
                resources_of, read = _read_one(path, group, progress)
                rules |= read | {"groups": {**rules.get("groups", {}), **read.get("groups", {})}}
                for name, resources in resources_of.items():
                    found[name] = (*found.get(name, ()), *resources)
    except ChangesetRejectedError as error:
        print_problems(error.problems, sys.stderr)
        fail(f"{count(len(error.problems), 'problem')}, above; nothing was sent", code=1)
    except OSError as error:
        fail(f"--file: {error.filename}: {error.strerror}", code=EXIT_USAGE)
    return found, rules


def _read_one(path: Path, group: str, progress: Any) -> "tuple[Mapping[str, tuple[Resource, ...]], dict[str, Any]]":
    from xds.model.groups import GroupTable
    from xds.sources.directory import DirectoryReader
    from xds.sources.groups_file import groups_json
    from xds.sources.inline import read_text

    if path.is_dir():
        changeset = DirectoryReader(path, progress=progress).read()
        table = changeset.groups or GroupTable()
        rules = groups_json(table)
        if not (table.rules or table.external or table.deny_unmatched):
            rules = {"groups": rules["groups"]}
        named = {group if name == "default" else name: resources for name, resources in changeset.upserts.items()}
        given = {name: resources for name, resources in named.items() if resources}
        return given, rules
    text = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    return {group: read_text(text, file="standard input" if str(path) == "-" else str(path))}, {}


def delete(
    type_name: Annotated[str, typer.Argument(metavar="TYPE", help="clusters, endpoints, …, or a type URL.")],
    names: Annotated[list[str], typer.Argument(metavar="NAME…")],
    group: Group = "default",
    dry_run: DryRun = False,
    message: Message = "",
    author: Author = "",
    expected_revision: Expected = None,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Remove resources of a group, all or none; what is not there is no error."""
    from xds.client import About

    about = About(message=message, author=author, expected_revision=expected_revision, dry_run=dry_run)
    remove = [(type_name, name) for name in names]
    applied = talk(api, token_file, ca, lambda client: client.apply(remove=remove, group=group, about=about))
    _print_applied({group: applied}, output, dry_run=dry_run)


def rollback(
    revision: Annotated[int, typer.Argument(min=0, help="The revision to go back to.")],
    group: Group = "default",
    dry_run: DryRun = False,
    message: Message = "",
    author: Author = "",
    expected_revision: Expected = None,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Make a group as it was at a revision. That is a new change, which can be rolled back too."""
    from xds.client import About

    about = About(
        message=message or f"roll back to {revision}",
        author=author,
        expected_revision=expected_revision,
        dry_run=dry_run,
    )
    applied = talk(api, token_file, ca, lambda client: client.rollback(revision, group=group, about=about))
    _print_applied({group: applied}, output, dry_run=dry_run)


def _print_applied(applied: "Mapping[str, Applied]", output: str, *, dry_run: bool) -> None:
    if output != "table":
        print_as(output, [{"group": group, **_plain(asdict(each))} for group, each in applied.items()])
        return
    for group, each in applied.items():
        said = "would change" if dry_run else "already made" if each.again else "changed"
        for name in each.changed:
            say(f"  {name.type}/{name.name}")
        what = f"{len(each.changed)} {said}, {len(each.unchanged)} as they were"
        say(f"{group}: revision {each.revision}, {what}")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
