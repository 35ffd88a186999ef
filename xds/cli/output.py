"""Prints the output of all commands: errors on stderr, the rest on stdout.

No other module of the commands writes to a terminal: text from servers, nodes, authors and files is escaped here, so
that it can't control the terminal or imitate other output.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from xds.reporting.escaping import json_text, visible, yaml_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from xds.model.problem import Problem

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_OUTPUT = 9

EXIT_CODES = (
    "Exit codes: 0 done; 1 failed, or problems were found; 2 a wrong option, setting or file; 9 the output can't be"
    " written."
)

RICH_ROWS_MAX = 500
"""Rich takes 0.3 ms for a row, so larger tables are printed without it."""

Resources = Mapping[str, Mapping[str, int]]
"""Group → short type name → count."""


def say(*lines: str, stream: Any = None, style: str = "") -> None:
    """Print each as exactly one line; ``stream`` is stdout by default. ``style`` applies on terminals only."""
    stream = stream or sys.stdout
    if style:
        from rich.text import Text

        console = _console(stream)
        for line in lines:
            console.print(Text(visible(line), style=style))
    else:
        stream.write("".join(f"{visible(line)}\n" for line in lines))
    stream.flush()


def warn(*lines: str) -> None:
    """Print the lines on stderr, prefixed with ``xds:``; with JSON output, an object for each."""
    if wants_json():
        for line in lines:
            _print_json_error({"warning": line})
    else:
        say(*(f"xds: {line}" for line in lines), stream=sys.stderr)


def fail(*lines: str, code: int, problems: Iterable["Problem"] = ()) -> NoReturn:
    """Print problems, then the lines as ``warn`` does, and exit with the code; with JSON output, one object of them."""
    if wants_json():
        from dataclasses import asdict

        _print_json_error(
            {
                "error": lines[0],
                "hints": list(lines[1:]),
                "problems": [asdict(problem) for problem in problems],
                "exit_code": code,
            }
        )
    else:
        print_problems(problems, sys.stderr)
        warn(*lines)
    raise typer.Exit(code)


def wants_json() -> bool:
    """Return whether the command was asked for JSON output."""
    return asks_for_json(sys.argv[1:])


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Return whether a command line, which may be wrong, has ``-o json`` or ``--format json`` in any spelling."""
    for at, argument in enumerate(arguments):
        if argument in ("-ojson", "--output=json", "--format=json"):
            return True
        if argument in ("-o", "--output", "--format") and arguments[at + 1 : at + 2] == ["json"]:
            return True
    return False


def fail_as_json(message: str, *, code: int) -> NoReturn:
    """Print an error of the command line as ``fail`` does for JSON output, and exit the process with the code."""
    _print_json_error({"error": message, "hints": [], "problems": [], "exit_code": code})
    sys.exit(code)


def _print_json_error(value: dict[str, Any]) -> None:
    sys.stderr.write(json_text(value, indent=None) + "\n")
    sys.stderr.flush()


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a value as JSON."""
    sys.stdout.write(json_text(value, indent=indent) + "\n")
    sys.stdout.flush()


def print_drawn(drawn: Any, *, plain_width: int) -> None:
    """Print what rich draws; not on a terminal, so many columns wide. Texts of others in it must be escaped already."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else plain_width).print(drawn)
    sys.stdout.flush()


def print_yaml(value: Any) -> None:
    """Print a value as YAML."""
    sys.stdout.write(yaml_text(value))
    sys.stdout.flush()


def print_formatted(text: str) -> None:
    """Print JSON or YAML already escaped by ``xds.reporting.escaping``, with its line ends."""
    sys.stdout.write(text)


def print_problems(problems: Iterable["Problem"], stream: Any, *, kind: str = "") -> None:
    """Print problems, each with its place, and its hint below it. ``kind`` begins each, such as ``warning``."""
    say(*problem_lines(problems, kind=kind), stream=stream)


def show(table: "Table", *, stream: Any = None, width: int | None = None, soft_wrap: bool | None = None) -> None:
    """Print a rich table, whose cells are escaped already; ``stream`` is stdout by default."""
    stream = stream or sys.stdout
    soft_wrap = not stream.isatty() if soft_wrap is None else soft_wrap
    _console(stream, width=width, soft_wrap=soft_wrap).print(table)


def _console(stream: Any, *, width: int | None = None, soft_wrap: bool = True) -> "Console":
    from rich.console import Console

    return Console(file=stream, highlight=False, soft_wrap=soft_wrap, markup=False, emoji=False, width=width)


def print_table(columns: list[str], rows: list[list[str]], *, right: tuple[str, ...] = ()) -> None:
    """Print rows below a header of column names. Of many rows, cells that are too wide are not folded."""
    if len(rows) > RICH_ROWS_MAX:
        sys.stdout.writelines(_aligned([columns, *rows], [name in right for name in columns]))
        sys.stdout.flush()
        return
    table = new_table()
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    add_rows(table, rows)
    show(table)


def _aligned(rows: list[list[str]], right: list[bool]) -> Iterator[str]:
    """Return rows as lines in which columns are aligned, as rich does it, in a hundredth of its time."""
    from rich.cells import cell_len

    shown = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = []
        for cell, width, is_right in zip(row, widths, right, strict=True):
            padding = " " * (width - cell_len(cell))
            cells.append(padding + cell if is_right else cell + padding)
        yield "  ".join(cells).rstrip() + "\n"


def new_table(title: str = "") -> "Table":
    """Return a table without borders."""
    from rich.table import Table

    return Table(
        title=title or None, title_justify="left", box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0)
    )


def add_rows(table: "Table", rows: Iterable[Iterable[str]]) -> None:
    """Add rows of text to a table."""
    from rich.text import Text

    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))


def examples(*lines: str) -> str:
    """Return an epilog with example command lines."""
    return "\n\n".join(["[bold]Examples[/bold]", *(line.replace("[", "\\[") for line in lines), EXIT_CODES])


def say_change(change: str, *parts: str, indent: str = "") -> None:
    """Print a line that begins with the sign of ``added``, ``removed`` or ``changed``, in its colour."""
    sign, style = SIGNS[change]
    say(f"{indent}{sign} {'  '.join(part for part in parts if part)}", style=style)


SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow"), "unchanged": ("=", "dim")}


def problem_lines(problems: Iterable["Problem"], *, kind: str = "") -> list[str]:
    """Return problems as lines: ``file:line: [group] resource field: what``, and the hint below it."""
    parts = []
    for problem in problems:
        place = f"{problem.file}:{problem.line}" if problem.file and problem.line else problem.file
        group = f"[{problem.group}]" if problem.group else ""
        subject = " ".join(part for part in (group, problem.resource, problem.field) if part)
        parts.append(": ".join(part for part in (kind, place, subject, problem.what) if part))
        if problem.hint:
            parts.append(f"    {problem.hint}")
    return parts


def resource_table(resources: Resources, *, groups_max: int | None = None) -> "Table":
    """Return a table of groups × types: the first ``groups_max`` groups, and the number of further ones."""
    from rich.text import Text

    shown = shown_groups(resources)
    types = sorted({name for counts in shown.values() for name in counts}, key=_order_of)
    table = new_table()
    table.add_column("group")
    for name in types:
        table.add_column(Text(visible(name)), justify="right")
    groups = sorted(shown)
    add_rows(table, ([group, *(str(shown[group].get(name, "–")) for name in types)] for group in groups[:groups_max]))
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


def counted(parts: Iterable[tuple[int, str]], *, none: str) -> str:
    """Return ``2 added, 1 removed`` of numbers and words, without those that are 0; ``none`` if all are."""
    return ", ".join(f"{number:,} {word}" for number, word in parts if number) or none


def _order_of(name: str) -> tuple[int, str]:
    from xds.model.types import SHORT_NAMES

    known = list(SHORT_NAMES)
    return (known.index(name) if name in known else len(known), name)
