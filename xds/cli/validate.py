"""``xds validate``: read a directory as ``xds serve`` would, and print every problem."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xds.cli.files import LinksOutside, ResourceBytesMax, StrictYaml
from xds.cli.judging import EnvoyOption, judge_groups, judge_of
from xds.cli.output import EXIT_FAILED, count, examples, print_json, print_problems, resource_table, say, show
from xds.cli.progress import Progress, progress_bar
from xds.cli.schema import SchemaOption, choose_schemas, schema_paths
from xds.model.sizes import RESOURCE_BYTES_MAX

if TYPE_CHECKING:
    from xds.model.catalog import Catalog
    from xds.model.problem import Problem
    from xds.model.snapshot import Snapshot

EPILOG = examples(
    "xds validate snapshots/quickstart",
    "xds validate DIR --envoy",
    "xds validate DIR --format json | jq '.problems[].file'",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The content of a directory, or its problems. ``resources``: group → short type name → count."""

    directory: Path
    resources: Mapping[str, Mapping[str, int]]
    problems: "tuple[Problem, ...]"
    elapsed_s: float
    warnings: "tuple[Problem, ...]" = ()

    def as_json(self) -> dict[str, Any]:
        """Return the report as ``--format json`` prints it."""
        return {
            "ok": not self.problems,
            "directory": str(self.directory),
            "groups": {group: dict(counts) for group, counts in self.resources.items()},
            "problems": [asdict(problem) for problem in self.problems],
            "warnings": [asdict(warning) for warning in self.warnings],
            "elapsed_s": round(self.elapsed_s, 3),
        }


def validate(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="The directory of resources.")
    ],
    schema: SchemaOption = None,
    strict_yaml: StrictYaml = True,
    links_outside: LinksOutside = False,
    resource_bytes_max: ResourceBytesMax = RESOURCE_BYTES_MAX,
    envoy: EnvoyOption = None,
    form: Annotated[Literal["text", "json"], typer.Option("--format", help="How to print what is found.")] = "text",
) -> None:
    """Check a directory of resources: every problem at once, with its place and what would be right.

    Everything is checked that `xds serve` checks: YAML and JSON, unknown and misspelt fields, values out of range,
    duplicate names, and references to what does not exist.

    Deprecated fields and values are warned of, and what an older one of several --schema lacks. Warnings do not change
    the exit code.

    With --envoy, a real Envoy judges each group as its nodes would get it: it listens on nothing and connects to
    nothing. Files on the disks of nodes are not read: something else stands for them, which is a warning.

    With --format json, one object: ok (boolean), directory, groups (group → type → count, when ok), elapsed_s, and
    problems and warnings, lists of objects with file, line (0 if unknown), group, resource, field, what and hint.
    """
    choose_schemas(schema)
    with progress_bar() as progress:
        report = check(
            directory,
            progress,
            schemas=schema_paths(schema),
            strict_yaml=strict_yaml,
            links_outside=links_outside,
            resource_bytes_max=resource_bytes_max,
            envoy=envoy,
        )
    if form == "json":
        print_json(report.as_json())
    else:
        _print_text(report)
    raise typer.Exit(EXIT_FAILED if report.problems else 0)


def check(
    directory: Path,
    progress: Progress | None = None,
    *,
    schemas: Sequence[Path] = (),
    strict_yaml: bool = True,
    links_outside: bool = False,
    resource_bytes_max: int = RESOURCE_BYTES_MAX,
    envoy: str | None = None,
) -> Report:
    """Read the directory and apply it to an empty catalog. Raises OSError if the directory can't be read.

    ``schemas``: the files of ``--schema``, of which older Envoys' are looked at for warnings. ``envoy``: the value of
    ``--envoy``, for a real Envoy to judge the groups too.
    """
    from xds.model.catalog import Catalog
    from xds.model.problem import ChangesetRejectedError
    from xds.model.sizes import check_sizes
    from xds.sources.directory import DirectoryLimits, DirectoryReader
    from xds.sources.tree import TreeLimits
    from xds.sources.yaml_reader import YamlLimits

    limits = DirectoryLimits(tree=TreeLimits(links_outside=links_outside), file=YamlLimits(strict=strict_yaml))
    started_s = time.monotonic()
    catalog = Catalog()
    problems: tuple[Problem, ...] = ()
    try:
        changeset = DirectoryReader(directory, limits=limits, progress=progress).read()
        check_sizes(changeset.upserts, resource_bytes_max)
        catalog.apply(changeset)
    except ChangesetRejectedError as error:
        problems = error.problems
    warnings = () if problems else tuple(sorted(_warnings(catalog, schemas), key=lambda each: (each.file, each.line)))
    if envoy is not None and not problems:
        judgement = judge_groups(
            judge_of(envoy), {group: each.resources() for group, each in catalog.snapshots.items()}
        )
        problems, warnings = judgement.problems, (*warnings, *judgement.warnings)
    resources = {} if problems else resource_counts(catalog.snapshots)
    elapsed_s = time.monotonic() - started_s
    return Report(directory=directory, resources=resources, problems=problems, elapsed_s=elapsed_s, warnings=warnings)


def _warnings(catalog: "Catalog", schemas: Sequence[Path]) -> "Iterator[Problem]":
    from xds.model.sizes import large
    from xds.schema.notices import Notices
    from xds.schema.pool import load_schema
    from xds.schema.warnings import warnings_of
    from xds.schema_files import older_schemas

    notices = Notices(load_schema(), older_schemas(schemas))
    seen: set[int] = set()  # groups that extend another one share its resources
    for group, snapshot in sorted(catalog.snapshots.items()):
        for view in snapshot.views.values():
            fresh = [resource for resource in map(view.get, sorted(view)) if resource and id(resource) not in seen]
            seen.update(map(id, fresh))
            yield from large(fresh, group)
            yield from warnings_of(fresh, notices, group=group)


def resource_counts(snapshots: "Mapping[str, Snapshot]") -> dict[str, dict[str, int]]:
    """Return group → short type name → count of the resources that each group's nodes see."""
    from xds.model.types import short_name

    return {
        group: {short_name(type_url): len(view) for type_url, view in snapshot.views.items() if len(view)}
        for group, snapshot in sorted(snapshots.items())
    }


def _print_text(report: Report) -> None:
    if report.problems:
        print_problems(report.problems, sys.stdout)
        if report.warnings:
            print_problems(report.warnings, sys.stdout, kind="warning")
        files = len({problem.file for problem in report.problems if problem.file})
        where = f" in {count(files, 'file')}" if files else ""
        say("", f"{count(len(report.problems), 'problem')}{where}")
        return
    total = sum(sum(counts.values()) for counts in report.resources.values())
    if total == 0:
        say(f"{report.directory} holds no resources: no *.yaml, *.yml or *.json with a `resources` list")
        return
    show(resource_table(report.resources), soft_wrap=False)
    if report.warnings:
        say("")
        print_problems(report.warnings, sys.stdout, kind="warning")
    say("", f"{report.directory} is fine ({report.elapsed_s:.2f} s)")
