"""docs/limits.md has every limit: each setting, each constant, each label, and tests that exist."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from support.pages import ROOT

from xds.cli.settings import setting_paths
from xds.limits import METERED

WRITER = ROOT / "docs" / "site" / "limits.py"
LIMIT_SETTING = re.compile(
    r"_(max|max_s|timeout_s|ratio|per_s|grace_s|interval_min_s|interval_s|wait_s|drain_s|history_s)$"
)
LIMIT_CONSTANT = re.compile(r"(_MAX|_MAX_S|_AT_ONCE)$")
LIMIT_FIELD = re.compile(r"_max$")
FIELDS_OF = ("TreeLimits", "YamlLimits")
"""Classes of limits that no setting fills."""
CLIENTS = ("fleet", "cli", "client")
"""Parts that run beside the server, on behalf of one user."""


def _writer() -> Any:
    spec = spec_from_file_location("limits_page", WRITER)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


PAGE = _writer()
ROWS = [row for rows in PAGE.ROWS["counted"].values() for row in rows]


def test_the_page_is_what_the_code_says(tmp_path: Path) -> None:
    subprocess.run([sys.executable, WRITER, "--output", tmp_path / "limits.md"], check=True, timeout=60)
    written = (tmp_path / "limits.md").read_text()
    assert (ROOT / "docs" / "limits.md").read_text() == written, "run `make docs-reference`"


def test_every_setting_that_is_a_limit_has_a_row() -> None:
    limits = {".".join(path) for path in setting_paths() if LIMIT_SETTING.search(path[-1])}
    shown = {name for row in [*ROWS, *PAGE.ROWS["quiet"]] for name in row["settings"]}
    assert limits - shown == set(), "give them rows in docs/site/limits.yaml"
    assert shown - {".".join(path) for path in setting_paths()} == set(), "no such settings"


def test_every_constant_that_is_a_limit_has_a_row() -> None:
    shown = {name for row in PAGE.ROWS["constants"] for name in row["names"]}
    assert set(_constants()) - shown == set(), "make them settings, or say in docs/site/limits.yaml why they are none"
    for name in shown:
        PAGE.value_of(name)  # raises AttributeError if there is no such constant


def _constants() -> Iterator[str]:
    for path in sorted((ROOT / "xds").rglob("*.py")):
        part = path.relative_to(ROOT / "xds").with_suffix("")
        if part.parts[0] in (*CLIENTS, "_generated"):
            continue
        module = ".".join(part.parts)
        for node in ast.parse(path.read_text()).body:
            for name in _assigned(node):
                if LIMIT_CONSTANT.search(name):
                    yield f"{module}:{name}"
            if isinstance(node, ast.ClassDef) and node.name in FIELDS_OF:
                for field in node.body:
                    yield from (f"{module}:{node.name}.{name}" for name in _assigned(field) if LIMIT_FIELD.search(name))


def _assigned(node: ast.stmt) -> Iterator[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    for target in targets:
        for each in target.elts if isinstance(target, ast.Tuple) else [target]:
            if isinstance(each, ast.Name):
                yield each.id


def test_every_label_has_a_row_and_is_counted_somewhere() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "xds").rglob("*.py") if path.name != "limits.py")
    rows = {row["limit"] for row in ROWS}
    constants = set(re.findall(r"counted as `(\w+)`", " ".join(row["bounds"] for row in PAGE.ROWS["constants"])))
    assert rows | constants == set(METERED)
    assert {label for label in METERED if f'"{label}"' not in text} == set()


def test_the_test_of_every_row_exists() -> None:
    missing = []
    for row in ROWS:
        file, _, name = PAGE.test_of(row).partition("::")
        functions = ast.walk(ast.parse((ROOT / file).read_text()))
        if name not in {each.name for each in functions if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}:
            missing.append(PAGE.test_of(row))
    assert missing == []
