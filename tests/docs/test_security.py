"""docs/security.md: each threat has a control and a test that is there; exceptions from the security rules say why."""

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
ROW = re.compile(
    r"^\| (?P<threat>[^|]+) \| (?P<control>[^|]+) \| (?P<setting>[^|]+) \| (?P<test>[^|]+) \|$", re.MULTILINE
)
TEST = re.compile(r"\]\((?:\.\./(tests/[\w/]+\.py)|reliability\.md)\)")
SETTINGS = (ROOT / "docs" / "reference" / "settings.md").read_text()
METRICS = (ROOT / "docs" / "reference" / "metrics.md").read_text()


def rows() -> list[dict[str, str]]:
    found = [match.groupdict() for match in ROW.finditer(PAGE)]
    return [row for row in found if row["threat"] not in ("threat", "---")]


def test_each_threat_has_a_control_and_a_test_that_is_there() -> None:
    assert len(rows()) > 30
    without = [row["threat"] for row in rows() if not TEST.search(row["test"]) or not row["control"].strip()]
    assert without == []
    tests = {path for row in rows() for path in TEST.findall(row["test"]) if path}
    assert [path for path in sorted(tests) if not (ROOT / path).is_file()] == []
    empty = [path for path in sorted(tests) if "audit" not in path and "def test_" not in (ROOT / path).read_text()]
    assert empty == []


def test_each_setting_and_metric_of_the_page_exists() -> None:
    named = {name for row in rows() for name in re.findall(r"`([\w.]+(?:\.\*)?)`", row["setting"])}
    metrics = set(re.findall(r"`(xds_\w+)`", PAGE))
    settings = {name for name in named if not name.startswith("xds_") and "_…" not in name}
    assert [name for name in sorted(settings) if f"`{name.removesuffix('*')}" not in SETTINGS] == []
    assert [name for name in sorted(metrics) if f"`{name}" not in METRICS] == []


def test_the_security_rules_are_on_and_each_exception_says_why() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in ruff["select"]
    assert [rule for rule in ruff["ignore"] if rule.startswith("S") and not rule.startswith("SIM")] == ["S101"]
    where = {
        path for path, rules in ruff["per-file-ignores"].items() if any(re.match(r"S\d*$", rule) for rule in rules)
    }
    assert where == {"tests/**", "bench/**"}, "what users run has no exception as a whole"
    found = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    unexplained = [
        f"{path}:{number}"
        for path in found.stdout.split()
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if re.search(r"# noqa: (?:\w+, ?)*S\d", line) and not re.search(r"# noqa: [\w, ]+ [-(–] ?\w", line)
    ]
    assert unexplained == [], "say behind the rule why it is no risk there"
