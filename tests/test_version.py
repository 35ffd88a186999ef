"""``xds/version.py`` is the one place of the version: the package, the command and CHANGELOG.md agree with it."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

from xds.version import __version__

ROOT = Path(__file__).parent.parent
HEADING = re.compile(r"## (?P<version>\S+) – (?P<when>unreleased|\d{4}-\d\d-\d\d)")


def headings() -> list[re.Match[str]]:
    lines = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    found = [(line, HEADING.fullmatch(line)) for line in lines]
    assert [line for line, match in found if match is None] == []
    return [match for _, match in found if match is not None]


def test_the_installed_package_has_the_version_of_the_source() -> None:
    assert version("xds-control-plane") == __version__, "run make setup: it installs the package again"


def test_pyproject_names_no_version_of_its_own() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"] == {"path": "xds/version.py"}


def test_the_newest_heading_of_the_changelog_is_the_version() -> None:
    assert headings()[0]["version"] == __version__


def test_only_the_newest_heading_of_the_changelog_may_be_unreleased() -> None:
    assert [heading["version"] for heading in headings()[1:] if heading["when"] == "unreleased"] == []
