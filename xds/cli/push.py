"""``xds apply``, ``delete`` and ``rollback``: make changes over the push API."""

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from xds.cli.completion import complete_resource
from xds.cli.files import StrictYaml
from xds.cli.judging import ValidateWithEnvoyOption, groups_after, judge_groups, judge_of
from xds.cli.output import (
    EXIT_FAILED,
    EXIT_USAGE,
    SIGNS,
    count,
    counted,
    fail,
    print_problems,
    say,
    say_change,
)
from xds.cli.progress import progress_bar
from xds.cli.talk import DEFAULT_API, Api, ApiCa, Group, Output, TokenFile, examples_of, print_as, talk
from xds.cli.targets import WrongTargetError, targets_of
from xds.cli.wait import (
    WAIT_CODES,
    MaxRejected,
    Of,
    Patience,
    Quorum,
    Timeout,
    Wait,
    WhichNodes,
    converged,
    convergence_json,
    finish,
)

if TYPE_CHECKING:
    from xds.client import About, Applied, AppliedResource, Client, Convergence, GroupChanges
    from xds.model.resource import Resource
    from xds.sources.directory import DirectoryReader
    from xds.validation.judge import Judge

APPLY_EPILOG = examples_of(
    "xds apply -f cluster.yaml --message 'two more endpoints'",
    "xds apply -f snapshots/multi-group --dry-run",
    "xds apply -f snapshots/quickstart --prune",
    "kustomize build . | xds apply -f - --group canary --create-group",
    "xds apply -f cluster.yaml --wait --timeout 2m --quorum 99%",
)
APPLY_EPILOG += WAIT_CODES
DELETE_EPILOG = examples_of("xds delete clusters web --wait", "xds delete clusters/web endpoints/web --group canary")
DELETE_EPILOG += WAIT_CODES
ROLLBACK_EPILOG = examples_of("xds rollback 41 --message 'the canary returns 500s'", "xds rollback 41 --wait")
ROLLBACK_EPILOG += WAIT_CODES

Message = Annotated[str, typer.Option("--message", "-m", help="Why, for the history.")]
Author = Annotated[str, typer.Option(envvar=["XDS_PUSH_AUTHOR", "USER"], help="Who, for the history.")]
Expected = Annotated[
    int | None,
    typer.Option("--expected-revision", min=0, help="Refuse it if the group was changed after that revision."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check it and say what it would change.")]


def apply(
    files: Annotated[
        list[Path], typer.Option("--file", "-f", metavar="FILE|DIR|-", help="YAML or JSON; - reads standard input.")
    ],
    group: Group = "default",
    create_group: Annotated[
        bool, typer.Option("--create-group", help="Create the --group if it is not there.")
    ] = False,
    strict_yaml: StrictYaml = True,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what the group has beside it.")] = False,
    dry_run: DryRun = False,
    envoy: ValidateWithEnvoyOption = None,
    message: Message = "",
    author: Author = "",
    change_id: Annotated[str, typer.Option("--id", help="The same id twice is one change.")] = "",
    expected_revision: Expected = None,
    version: Annotated[str, typer.Option(help="Their version on the wire, instead of a hash of the content.")] = "",
    wait: Wait = False,
    quorum: Quorum = "100%",
    of: WhichNodes = "known",
    max_rejected: MaxRejected = 0,
    timeout: Timeout = "60s",
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Set the resources of files, all or none: at one revision.

    A file holds one resource with @type, a list of them, or `resources:` with one; a YAML file may have several such
    documents. A directory is read as `xds serve` would: each directory in it is a group, which is created if it is not
    there, and the files beside them are for --group. What groups.yaml says of groups holds after the change, and its
    rules replace those of the server.

    With --validate-with-envoy, the groups are read from the server, secrets included, and an Envoy on this machine
    judges them as they would be after the change. What it refuses is not sent.
    """
    from xds.client import About

    patience = _patience(wait, dry_run, quorum, max_rejected, timeout)
    wanted = _read(files, group, prune=prune, strict_yaml=strict_yaml)
    judge = None if envoy is None else judge_of(envoy)
    about = About(
        id=change_id,
        message=message,
        author=author,
        expected_revision=expected_revision,
        version=version,
        dry_run=dry_run,
        existing_groups_only=not create_group and group in wanted.changes and not wanted.creates_groups,
    )
    applied = talk(
        api,
        token_file,
        ca,
        lambda client: _apply(client, wanted, about, judge),
        redact=judge is None,
        changes=True,
        not_found_hint="" if create_group else "to create the group, give --create-group",
    )
    server = _Server(api, token_file, ca)
    _conclude(applied, output, server, patience, of=of, groups=wanted.changes, dry_run=dry_run)


async def _apply(client: "Client", wanted: "_Wanted", about: "About", judge: "Judge | None") -> "Applied":
    if judge is not None:
        import asyncio

        groups = await groups_after(client, wanted.changes, wanted.rules)
        judgement = await asyncio.to_thread(judge_groups, judge, groups)
        print_problems(judgement.warnings, sys.stderr, kind="warning")
        if judgement.problems:
            found = count(len(judgement.problems), "problem")
            fail(f"refused by Envoy, nothing was sent: {found}", code=EXIT_FAILED, problems=judgement.problems)
    return await client.apply_groups(wanted.changes, rules=wanted.rules or None, about=about)


@dataclass(slots=True)
class _Wanted:
    """The content of all files and directories: changes by group, and parts of groups.yaml."""

    strict_yaml: bool
    changes: "dict[str, GroupChanges]" = field(default_factory=dict)
    rules: dict[str, Any] = field(default_factory=dict)
    creates_groups: bool = False
    """Whether a directory without a groups.yaml names groups: they are created if they are not there."""


def _read(files: list[Path], group: str, *, prune: bool, strict_yaml: bool) -> _Wanted:
    """Read all files and directories; exit with every problem."""
    from xds.client import GroupChanges
    from xds.model.problem import ChangesetRejectedError, Problem

    wanted = _Wanted(strict_yaml=strict_yaml)
    found: dict[str, tuple[Resource, ...]] = {}
    problems: list[Problem] = []
    try:
        with progress_bar() as progress:
            for path in files:
                try:
                    resources_of = _read_one(path, group, progress, wanted)
                except ChangesetRejectedError as error:
                    problems += error.problems
                    continue
                for name, resources in resources_of.items():
                    found[name] = (*found.get(name, ()), *resources)
    except OSError as error:
        fail(f"--file: {error.filename}: {error.strerror}", code=EXIT_USAGE)
    if problems:
        fail(f"{count(len(problems), 'problem')}; nothing was sent", code=1, problems=problems)
    wanted.changes = {
        name: GroupChanges(upsert=resources, replace=prune) for name, resources in found.items() if resources or prune
    }
    if not wanted.changes and not wanted.rules:
        fail(f"--file: no resources in {', '.join(map(str, files))}; nothing was sent", code=EXIT_USAGE)
    return wanted


def _read_one(path: Path, group: str, progress: Any, wanted: _Wanted) -> "dict[str, tuple[Resource, ...]]":
    """Return the resources of a file or directory by group, and add the rules of a directory to ``wanted``."""
    from xds.model.groups import DEFAULT_GROUP
    from xds.sources.directory import DirectoryLimits, DirectoryReader
    from xds.sources.inline import read_text
    from xds.sources.tree import TreeLimits
    from xds.sources.yaml_reader import YamlLimits

    if not path.is_dir():
        text = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        place = "standard input" if str(path) == "-" else str(path)
        return {group: read_text(text, file=place, strict=wanted.strict_yaml)}
    # The user's own process reads with the user's own rights: symlinks are followed as by any other command.
    limits = DirectoryLimits(tree=TreeLimits(links_outside=True), file=YamlLimits(strict=wanted.strict_yaml))
    reader = DirectoryReader(path, limits=limits, progress=progress)
    upserts = dict(reader.read().upserts)
    assert reader.last is not None
    if not upserts[DEFAULT_GROUP]:
        del upserts[DEFAULT_GROUP]
    if reader.last.tree.group_file is not None:
        _add_rules(reader, upserts, wanted)
    elif upserts.keys() - {DEFAULT_GROUP}:
        wanted.creates_groups = True
    return {group if name == DEFAULT_GROUP else name: resources for name, resources in upserts.items()}


def _add_rules(reader: "DirectoryReader", groups: "Iterable[str]", wanted: _Wanted) -> None:
    """Add what a directory's groups.yaml says: of every group of the directory, and the rules if it has any."""
    from xds.model.groups import DEFAULT_GROUP, GroupTable
    from xds.sources.groups_file import groups_json

    assert reader.last is not None
    assert reader.last.changeset is not None
    table = reader.last.changeset.groups or GroupTable()
    rules = groups_json(table)
    named = {name: {} for name in groups if name != DEFAULT_GROUP} | rules.pop("groups")
    wanted.rules["groups"] = wanted.rules.get("groups", {}) | named
    if table.rules or table.external or table.deny_unmatched:
        wanted.rules |= rules


def delete(
    resources: Annotated[
        list[str],
        typer.Argument(
            metavar="TYPE NAME|TYPE/NAME",
            help="clusters, endpoints, …, or a type URL; and names.",
            autocompletion=complete_resource,
        ),
    ],
    group: Group = "default",
    dry_run: DryRun = False,
    message: Message = "",
    author: Author = "",
    expected_revision: Expected = None,
    wait: Wait = False,
    quorum: Quorum = "100%",
    of: WhichNodes = "known",
    max_rejected: MaxRejected = 0,
    timeout: Timeout = "60s",
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Remove resources of a group, all or none; what is not there is no error. See `xds groups delete` for groups."""
    from xds.client import About

    patience = _patience(wait, dry_run, quorum, max_rejected, timeout)
    about = About(message=message, author=author, expected_revision=expected_revision, dry_run=dry_run)
    try:
        remove = targets_of(resources)
    except WrongTargetError as error:
        fail(str(error), code=EXIT_USAGE)
    if nameless := [word for word, name in remove if not name]:
        fail(f"{nameless[0]!r} has no name: write TYPE NAME…, or TYPE/NAME", code=EXIT_USAGE)
    applied = talk(
        api, token_file, ca, lambda client: client.apply(remove=remove, group=group, about=about), changes=True
    )
    server = _Server(api, token_file, ca)
    _conclude(applied, output, server, patience, of=of, groups=[group], dry_run=dry_run, unchanged="not there")


def rollback(
    revision: Annotated[int, typer.Argument(min=0, help="The revision to go back to.")],
    group: Group = "default",
    dry_run: DryRun = False,
    message: Message = "",
    author: Author = "",
    expected_revision: Expected = None,
    wait: Wait = False,
    quorum: Quorum = "100%",
    of: WhichNodes = "known",
    max_rejected: MaxRejected = 0,
    timeout: Timeout = "60s",
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Make a group as it was at a revision. That is a new change, which can be rolled back too."""
    from xds.client import About

    patience = _patience(wait, dry_run, quorum, max_rejected, timeout)
    about = About(
        message=message or f"roll back to {revision}",
        author=author,
        expected_revision=expected_revision,
        dry_run=dry_run,
    )
    applied = talk(
        api, token_file, ca, lambda client: client.rollback(revision, group=group, about=about), changes=True
    )
    _conclude(applied, output, _Server(api, token_file, ca), patience, of=of, groups=[group], dry_run=dry_run)


class _Server(NamedTuple):
    """The options that say which server is meant."""

    api: str
    token_file: Path | None
    ca: Path | None


def _patience(wait: bool, dry_run: bool, quorum: str, max_rejected: int, timeout: str) -> Patience | None:
    """Return what --wait and its options say, None without it; exit if they are wrong."""
    if wait and dry_run:
        fail("--dry-run changes nothing that --wait could wait for: leave one of them out", code=EXIT_USAGE)
    return Patience.of(quorum, max_rejected, timeout) if wait else None


def _conclude(
    applied: "Applied",
    output: str,
    server: _Server,
    patience: Patience | None,
    *,
    of: Of,
    groups: "Iterable[str]",
    dry_run: bool,
    unchanged: str = "as they were",
) -> None:
    """Print the outcome of a change, and with ``patience`` wait for the nodes; exit with its code.

    JSON and YAML are one object, so it is printed after the wait, with ``convergence``: null if that is not known.
    """
    groups = list(groups)
    if patience is None or output == "table":
        print_applied(applied, output, groups=groups, dry_run=dry_run, unchanged=unchanged)
    if patience is None:
        return

    async def work(client: "Client") -> "Convergence":
        group = await _only_group(client, applied, groups)
        return await converged(client, applied.revision, patience, group=group, of=of, shows_line=output == "table")

    found: Convergence | None = None
    try:
        found = talk(*server, work)
    finally:  # the change is made, whatever becomes of the wait
        if output != "table":
            made = applied_json(applied, _by_group(applied, groups), dry_run=dry_run)
            print_as(output, made | {"convergence": None if found is None else convergence_json(found)})
    finish(found, is_printed=output != "table")


async def _only_group(client: "Client", applied: "Applied", groups: Iterable[str]) -> str:
    """Return the group if a change concerns the nodes of one alone, "" if it may concern those of others too."""
    concerned = {*groups, *(each.group for each in applied.resources)}
    if applied.rules_changed or len(concerned) != 1:
        return ""
    bases = {each.extends for each in await client.groups()}
    (group,) = concerned
    return "" if group in bases else group


def print_applied(
    applied: "Applied",
    output: str,
    *,
    groups: "Iterable[str]",
    dry_run: bool,
    unchanged: str = "as they were",
    done: str = "changed",
) -> None:
    """Print the outcome of a change of ``groups``.

    ``unchanged`` says what is true of resources that it left, ``done`` what it did with groups and rules.
    """
    by_group = _by_group(applied, groups)
    if output != "table":
        print_as(output, applied_json(applied, by_group, dry_run=dry_run))
        return
    if applied.again:
        say(f"revision {applied.revision}: this change was made before, with the same id")
        return
    for group, resources in by_group.items():
        for each in resources:
            if each.change != "unchanged":
                say_change(each.change, f"{each.name.type}/{each.name.name}", indent="  ")
        kinds = [each.change for each in resources]
        parts = [(kinds.count(kind), kind) for kind in SIGNS if kind != "unchanged"]
        would = " would change:" if dry_run and len(kinds) > kinds.count("unchanged") else ""
        said = counted([*parts, (kinds.count("unchanged"), unchanged)], none="no resources to change")
        say(f"{group}: revision {applied.revision},{would} {said}")
    if applied.rules_changed:
        what = "groups and rules" if done == "changed" else " ".join(by_group)
        say(f"{what} {'would be ' if dry_run else ''}{done}")
    print_problems(applied.warnings, sys.stderr, kind="warning")


def _by_group(applied: "Applied", groups: "Iterable[str]") -> "dict[str, list[AppliedResource]]":
    by_group: dict[str, list[AppliedResource]] = {group: [] for group in groups}
    for each in applied.resources:
        by_group.setdefault(each.group, []).append(each)
    return by_group


def applied_json(applied: "Applied", by_group: "dict[str, list[AppliedResource]]", *, dry_run: bool) -> dict[str, Any]:
    """Return the outcome of a change as the commands that change something print it."""
    return {
        "revision": applied.revision,
        "dry_run": dry_run,
        "again": applied.again,
        "rules_changed": applied.rules_changed,
        "warnings": [asdict(warning) for warning in applied.warnings],
        "groups": [
            {
                "group": group,
                "changed": [
                    {"type": each.name.type, "name": each.name.name, "change": each.change}
                    for each in resources
                    if each.change != "unchanged"
                ],
                "unchanged": [
                    {"type": each.name.type, "name": each.name.name} for each in resources if each.change == "unchanged"
                ],
            }
            for group, resources in by_group.items()
        ],
    }
