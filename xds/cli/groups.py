"""``xds groups``: print the groups and the rules that assign nodes to them, or replace the rules."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xds.cli.output import EXIT_USAGE, count, fail, print_problems, print_table, say
from xds.cli.push import Author, Expected, Message
from xds.cli.talk import DEFAULT_API, Api, ApiCa, Output, TokenFile, examples_of, print_as, talk
from xds.reporting.escaping import json_text

if TYPE_CHECKING:
    from xds.client import Client, Group

EPILOG = examples_of(
    "xds groups",
    "xds groups -o yaml > groups.yaml",
    "xds groups --file groups.yaml",
    "xds groups --file groups.yaml --expected-revision 41",
)


def groups(
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", metavar="FILE", help="Take rules, and what extends what, from a groups.yaml."),
    ] = None,
    message: Message = "",
    author: Author = "",
    expected_revision: Expected = None,
    output: Output = "table",
    api: Api = DEFAULT_API,
    token_file: TokenFile = None,
    ca: ApiCa = None,
) -> None:
    """Print the groups and their rules, after replacing the rules by those of a file, if one is given."""
    from xds.client import About

    if file is None and expected_revision is not None:
        fail("--expected-revision: nothing is changed without --file", code=EXIT_USAGE)
    written = None if file is None else _read(file)
    about = About(message=message, author=author, expected_revision=expected_revision)

    async def work(client: "Client") -> "tuple[list[Group], int, dict[str, Any]]":
        if written is not None:
            await client.put_rules(written, about=about)
        return await client.groups(), *await client.rules_at()

    found, revision, rules = talk(api, token_file, ca, work)
    if output != "table":
        print_as(output, rules)
        return
    rows = [
        [each.name, each.extends or "", "directory" if each.kept else "pushes", f"{sum(each.resources.values()):,}"]
        for each in found
    ]
    print_table(["group", "extends", "kept by", "resources"], rows, right=("resources",))
    say("", *map(_rule, rules["rules"]))
    if rules["rules"]:
        say(f"all others: {'refused' if rules['unmatched'] == 'deny' else 'default'}")
    else:
        say("no rules: a node belongs to the group that is named as its cluster, or to default")
    say(f"revision {revision}")


def _rule(rule: dict[str, Any]) -> str:
    match = rule["match"]
    return f"{rule['group']}: nodes with {json_text(match)}" if match else f"{rule['group']}: all"


def _read(file: Path) -> dict[str, Any]:
    from xds.model.problem import ChangesetRejectedError
    from xds.sources.yaml_reader import YamlLimits, read_yaml

    try:
        value = read_yaml(file.read_bytes(), file=str(file), limits=YamlLimits()).value
    except ChangesetRejectedError as error:
        print_problems(error.problems, sys.stderr)
        fail(f"{count(len(error.problems), 'problem')}, above; nothing was sent", code=1)
    except OSError as error:
        fail(f"--file: {file}: {error.strerror}", code=EXIT_USAGE)
    if not isinstance(value, dict):
        fail(f"{file} is not a mapping; it is to look like a groups.yaml", code=EXIT_USAGE)
    return value
