"""Every program in docs/embedding.md runs, and prints what the page says."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import xds

PAGE = Path(__file__).parent.parent / "docs" / "embedding.md"
TIMEOUT_S = 30
DATA_PLANE_S_OWN = "ignore:Using `@model_validator` with mode='after' on a classmethod:DeprecationWarning"
"""What the generated code of envoy-data-plane 2.2 warns of when it is imported."""
BLOCK = re.compile(r"^```python\n(?P<source>.*?)^```\n(?:\n```text\n(?P<prints>.*?)^```\n)?", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Program:
    """A block of Python, the heading it stands under, its first line on the page, and the text block right after it."""

    heading: str
    line: int
    source: str
    prints: str


def programs() -> list[Program]:
    text, found = PAGE.read_text(), []
    for block in BLOCK.finditer(text):
        before = text[: block.start("source")]
        heading = re.findall(r"^#+ (.*)$", before, re.MULTILINE)[-1]
        assert block["prints"] is not None, f"{PAGE}:{before.count(chr(10)) + 1}: say what the program prints"
        found.append(Program(heading, before.count("\n"), block["source"], block["prints"]))
    return found


def test_every_block_of_python_is_a_program_that_runs() -> None:
    assert len(programs()) == PAGE.read_text().count("```python")
    assert len(programs()) >= 6


@pytest.mark.parametrize("program", programs(), ids=lambda program: program.heading.replace(" ", "-"))
def test_program_prints_what_the_page_says(program: Program, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("\n" * program.line + program.source)  # so that a traceback gives the line of the page
    command = [sys.executable, "-P", "-X", "dev", "-W", "error", "-W", DATA_PLANE_S_OWN, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=tmp_path, check=False)
    assert done.stderr == ""
    expected = ".*".join(map(re.escape, program.prints.split("…")))
    assert re.fullmatch(expected, done.stdout), f"it printed\n{done.stdout}\ninstead of\n{program.prints}"
    assert done.returncode == 0


def test_every_public_name_is_explained() -> None:
    page = PAGE.read_text()
    assert [name for name in xds.__all__ if name != "__version__" and f"`{name}`" not in page] == []


def test_removing_from_a_group_that_there_is_not_makes_none() -> None:
    control_plane = xds.ControlPlane()
    assert control_plane.apply(remove=[("clusters", "web")], group="typo").revision == 0
    assert list(control_plane.catalog.snapshots) == ["default"]


def test_removing_something_of_no_type_is_refused() -> None:
    with pytest.raises(xds.ChangesetRejectedError, match=r"'cluster' is not a resource type .did you mean clusters"):
        xds.ControlPlane().apply(remove=[("cluster", "web")])
