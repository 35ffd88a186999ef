"""Write docs/limits.md from limits.yaml: every limit, what happens when it is reached, and the test that reaches it.

``make docs-reference`` runs it. ``tests/docs/test_limits.py`` fails if a setting, a constant or a counted limit has no
row in limits.yaml, and if a row's test does not exist.
"""

import argparse
from collections.abc import Iterable, Iterator
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from xds.config import Settings

ROOT = Path(__file__).parents[2]
ROWS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
REACHED = "tests/serving/test_limits_reached.py"
SUITES = {
    "xds": f"{REACHED}::test_a_limit_of_the_xds_port_is_counted_when_it_is_reached",
    "api": f"{REACHED}::test_the_limits_of_the_push_api_and_of_the_admin_port_are_counted_when_they_are_reached",
}
"""Tests that reach several limits, by the word for them in limits.yaml."""
WRITTEN_BY = "<!-- Written by `make docs-reference` from docs/site/limits.yaml; do not edit. -->"


def page() -> Iterator[str]:
    """Iterate over the lines of the page."""
    yield from (WRITTEN_BY, "", "# Limits", "", *ROWS["introduction"].splitlines())
    for title, rows in ROWS["counted"].items():
        yield from ("", f"## {title}", "")
        yield from _table(
            ("`limit`", "setting", "default", "what it bounds", "when it is reached", "test"),
            (
                (
                    f"`{each['limit']}`",
                    *_settings(each["settings"]),
                    each["bounds"],
                    each["reached"],
                    f"`{test_of(each).removeprefix('tests/')}`",
                )
                for each in rows
            ),
        )
    yield from ("", "## Settings that are not counted", "")
    yield from _table(
        ("setting", "default", "what it bounds", "why it is not counted"),
        ((*_settings(each["settings"]), each["bounds"], each["why"]) for each in ROWS["quiet"]),
    )
    yield from ("", "## Constants", "")
    yield from _table(
        ("constants, below `xds`", "what they bound", "why they are no settings"),
        (
            (
                ", ".join(f"`{name.replace(':', '.')}` {_shown(value_of(name))}" for name in each["names"]),
                each["bounds"],
                each["why"],
            )
            for each in ROWS["constants"]
        ),
    )


def test_of(row: dict[str, Any]) -> str:
    """Return the test of a counted limit."""
    test: str = row.get("test", "xds")
    return SUITES.get(test, test)


def default_of(setting: str) -> Any:
    """Return the default of a setting, by its path."""
    return reduce(getattr, setting.split("."), Settings())


def value_of(constant: str) -> Any:
    """Return the value of a constant, or the default of a field, by ``module:NAME``."""
    module, _, path = constant.partition(":")
    owner: Any = import_module(f"xds.{module}")
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)()
    return getattr(owner, name)


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    columns = list(columns)
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _settings(names: Iterable[str]) -> tuple[str, str]:
    names = list(names)
    return "<br>".join(f"`{name}`" for name in names), "<br>".join(_shown(default_of(name)) for name in names)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int) and value >= 64 * 1024 and value % 1024 == 0:
        return f"{value >> 20:,} MiB" if value % (1 << 20) == 0 else f"{value >> 10:,} KiB"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Write docs/limits.md.")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "limits.md", help="the file to write")
    parser.parse_args().output.write_text("\n".join(page()) + "\n")


if __name__ == "__main__":
    main()
