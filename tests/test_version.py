"""``xds/version.py`` is the one place of the version: the package, the command and CHANGELOG.md agree with it."""

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("tag", "heading", "said"),
    [
        (
            "v9.9.9",
            f"## {__version__} – 2026-12-01",
            f"the tag v9.9.9 does not name the version of xds/version.py: v{__version__}",
        ),
        (f"v{__version__}", f"## {__version__} – unreleased", f"a release needs '## {__version__} – YYYY-MM-DD'"),
        (f"v{__version__}", "## 9.9.9 – 2026-12-01", f"a release needs '## {__version__} – YYYY-MM-DD'"),
    ],
    ids=["another tag", "no date", "another heading"],
)
def test_a_release_of_another_version_than_the_tag_s_is_refused(
    tmp_path: Path, tag: str, heading: str, said: str
) -> None:
    for name in (".ci/release", "xds/version.py"):
        (tmp_path / name).parent.mkdir()
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    done = subprocess.run(
        [tmp_path / ".ci" / "release", "no-such-directory", tag],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
