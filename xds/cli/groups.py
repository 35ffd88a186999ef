"""``xds groups``: print groups and the rules that assign nodes to them, replace the rules, create and delete groups."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xds.cli.completion import complete_group
from xds.cli.output import EXIT_FAILED, EXIT_USAGE, count, fail, print_table, print_yaml, say
from xds.cli.push import Author, DryRun, Expected, Message, print_applied
from xds.cli.talk import DEFAULT_API, Api, ApiCa, Output, TokenFile, examples_of, print_as, talk
from xds.reporting.escaping import json_text

if TYPE_CHECKING:
    from xds.client import Applied, Client, Group

app = typer.Typer(
    name="groups",
    invoke_without_command=True,
    epilog=examples_of(
        "xds groups",
        "xds groups rules > groups.yaml",
        "xds groups --file groups.yaml",
        "xds groups --file groups.yaml --expected-revision 41",
        "xds groups create canary --extends prod",
        "xds groups delete canary",
    ),
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The group.", autocompletion=complete_group)]


@app.callback()
def groups(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", metavar="FILE", help="Take rules, and what extends what, from a groups.yaml."),
    ] = None,
    message: Message = "",
    author: Author = "",
    expected_revision: Annotated[
        int | None,
        typer.Option(
            "--expected-revision", min=0, help="Refuse it if groups or rules were changed after that revision."
        ),
    ] = None,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print the groups and their rules, after replacing the rules by those of a file, if one is given."""
    from xds.client import About

    if (command := context.invoked_subcommand) is not None:
        _must_have_no_options(context, command)
        return
    if file is None and expected_revision is not None:
        fail("--expected-revision: nothing is changed without --file", code=EXIT_USAGE)
    written = None if file is None else _read(file)
    about = About(message=message, author=author, expected_revision=expected_revision)

    async def work(client: "Client") -> "tuple[list[Group], int, dict[str, Any]]":
        if written is not None:
            await client.put_rules(written, about=about)
        return await client.groups(), *await client.rules_at()

    found, revision, rules = talk(api, token_file, ca, work, changes=file is not None)
    if output != "table":
        listed = [_group_json(each) for each in found]
        print_as(output, {"revision": revision, "groups": listed, "rules": rules})
        return
    rows = [
        [each.name, each.extends or "", _kept_by(each), f"{sum(each.resources.values()):,}", str(each.revision)]
        for each in found
    ]
    print_table(["group", "extends", "kept by", "resources", "changed at"], rows, right=("resources", "changed at"))
    say("", *map(_rule, rules["rules"]))
    if rules["rules"]:
        say(f"all others: {'refused' if rules['unmatched'] == 'deny' else 'default'}")
    else:
        say("no rules: a node belongs to the group that is named as its cluster, or to default")
    say(f"revision {revision}")


@app.command(name="rules", epilog=examples_of("xds groups rules > groups.yaml"))
def print_rules(
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print the rules, and what extends what, as a groups.yaml, which `xds groups --file` takes."""
    print_yaml(talk(api, token_file, ca, lambda client: client.rules()))


@app.command(epilog=examples_of("xds groups create canary --extends prod"))
def create(
    name: Name,
    extends: Annotated[
        str, typer.Option(help="The group whose resources it inherits.", autocompletion=complete_group)
    ] = "",
    dry_run: DryRun = False,
    message: Message = "",
    author: Author = "",
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Create a group; one that is there already is an error."""
    from xds.client import About

    about = About(message=message or f"create the group {name}", author=author, dry_run=dry_run)

    async def work(client: "Client") -> "Applied":
        if any(each.name == name for each in await client.groups()):
            fail(f"the group {name!r} is there already", code=EXIT_FAILED)
        return await client.put_group(name, extends=extends or None, about=about)

    print_applied(talk(api, token_file, ca, work, changes=True), output, groups=[name], dry_run=dry_run, done="created")


@app.command(epilog=examples_of("xds groups delete canary --dry-run", "xds groups delete canary --yes"))
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete its resources too.")] = False,
    dry_run: DryRun = False,
    message: Message = "",
    author: Author = "",
    expected_revision: Expected = None,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Delete a group. With resources, only with --yes; not while another group extends it or a rule names it.

    Its nodes then belong to the group that the rules name, or to default.
    """
    from xds.client import About

    async def work(client: "Client") -> "Applied":
        group = next((each for each in await client.groups() if each.name == name), None)
        expected = expected_revision
        if group is not None and any(group.resources.values()) and not (yes or dry_run):
            await client.delete_group(name, about=About(dry_run=True))  # what is in the way of it comes first
            nodes = (await client.nodes(group=name, limit=1)).total
            fail(*_must_say_yes(group, nodes), code=EXIT_FAILED)
        if group is not None and not yes and expected is None:
            expected = group.revision  # resources that come meanwhile are not deleted
        about = About(
            message=message or f"delete the group {name}", author=author, expected_revision=expected, dry_run=dry_run
        )
        return await client.delete_group(name, about=about)

    print_applied(talk(api, token_file, ca, work, changes=True), output, groups=[name], dry_run=dry_run, done="deleted")


def _must_have_no_options(context: typer.Context, command: str) -> None:
    """Fail if options stand before a subcommand, which would not get them."""
    given = [
        name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        option = given[0].replace("_", "-")
        fail(f"--{option}: write it after {command}: xds groups {command} … --{option} …", code=EXIT_USAGE)


def _must_say_yes(group: "Group", nodes: int) -> tuple[str, str]:
    kinds = ", ".join(count(number, kind.removesuffix("s")) for kind, number in group.resources.items())
    connected = f", and {count(nodes, 'node')} connected" if nodes else ""
    return (
        f"the group {group.name!r} has {kinds}{connected}; nothing was changed",
        "to delete it with these, give --yes",
    )


def _kept_by(group: "Group") -> str:
    return "directory" if group.kept else "pushes"


def _group_json(group: "Group") -> dict[str, Any]:
    return {
        "name": group.name,
        "extends": group.extends,
        "kept_by": _kept_by(group),
        "resources": dict(group.resources),
        "revision": group.revision,
    }


def _rule(rule: dict[str, Any]) -> str:
    match = rule["match"]
    return f"{rule['group']}: nodes with {json_text(match)}" if match else f"{rule['group']}: all"


def _read(file: Path) -> dict[str, Any]:
    """Return the rules in a groups.yaml, or in what ``xds groups`` printed; exit with every problem."""
    from xds.model.problem import ChangesetRejectedError
    from xds.sources.yaml_reader import YamlLimits, read_yaml

    try:
        value = read_yaml(file.read_bytes(), file=str(file), limits=YamlLimits()).value
    except ChangesetRejectedError as error:
        fail(f"{count(len(error.problems), 'problem')}; nothing was sent", code=1, problems=error.problems)
    except OSError as error:
        fail(f"--file: {file}: {error.strerror}", code=EXIT_USAGE)
    if isinstance(value, dict) and isinstance(value.get("rules"), dict):
        value = value["rules"]
    if not isinstance(value, dict):
        fail(f"{file} is not a mapping; it is to look like a groups.yaml", code=EXIT_USAGE)
    return value
