"""docs/reference is what the code says now."""

import subprocess
import sys
from pathlib import Path

from support.pages import ROOT

WRITER = ROOT / "docs" / "site" / "reference.py"


def test_the_reference_is_what_the_code_says(tmp_path: Path) -> None:
    subprocess.run([sys.executable, WRITER, "--output", tmp_path], check=True, timeout=60)
    there = {path.name: path.read_text() for path in (ROOT / "docs" / "reference").iterdir()}
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert there == written, "run `make docs-reference`"
