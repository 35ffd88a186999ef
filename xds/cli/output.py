"""What every command prints alike: errors on stderr, tables on stdout. It does not know the commands."""

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from xds.model.problem import Problem

EXIT_FAILED = 1
EXIT_USAGE = 2

EXIT_CODES = "Exit codes: 0 done; 1 failed, or problems were found; 2 a wrong option or setting."

Resources = Mapping[str, Mapping[str, int]]
"""Group → short type name → count."""


def fail(*lines: str, code: int) -> NoReturn:
    """Print the lines as errors and exit with the code."""
    for line in lines:
        sys.stderr.write(f"xds: {line}\n")
    raise typer.Exit(code)


def examples(*lines: str) -> str:
    """Return an epilog that shows command lines, each as it is typed."""
    return "\n\n".join(["[bold]Examples[/bold]", *(line.replace("[", "\\[") for line in lines), EXIT_CODES])


def problem_lines(problems: Iterable["Problem"]) -> str:
    """Return problems as text: ``file:line: [group] resource field: what``, and below it what would be right."""
    parts = []
    for problem in problems:
        place = f"{problem.file}:{problem.line}" if problem.file and problem.line else problem.file
        group = f"[{problem.group}]" if problem.group else ""
        subject = " ".join(part for part in (group, problem.resource, problem.field) if part)
        parts.append(": ".join(part for part in (place, subject, problem.what) if part) + "\n")
        if problem.hint:
            parts.append(f"    {problem.hint}\n")
    return "".join(parts)


def resource_table(resources: Resources, *, groups_max: int | None = None) -> "Table":
    """Return a table of groups × types; of many groups, the first ``groups_max`` and how many more there are."""
    from rich.table import Table
    from rich.text import Text

    shown = shown_groups(resources)
    types = sorted({name for counts in shown.values() for name in counts}, key=_order_of)
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("group")
    for name in types:
        table.add_column(Text(name), justify="right")
    groups = sorted(shown)
    for group in groups[:groups_max]:
        table.add_row(Text(group), *(str(shown[group].get(name, "–")) for name in types))
    if groups_max is not None and len(groups) > groups_max:
        table.add_row(Text(f"and {len(groups) - groups_max} more", style="dim"))
    return table


def shown_groups(resources: Resources) -> dict[str, dict[str, int]]:
    """Return the groups and types that have resources; all groups if none has any."""
    counted = {group: {name: n for name, n in counts.items() if n} for group, counts in resources.items()}
    return {group: counts for group, counts in counted.items() if counts} or counted


def count(number: int, thing: str) -> str:
    """Return ``1 group``, ``2 groups``, ``1,000 groups``."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _order_of(name: str) -> tuple[int, str]:
    from xds.model.types import SHORT_NAMES

    known = list(SHORT_NAMES)
    return (known.index(name) if name in known else len(known), name)
