"""Builds the product's wheel from a clean copy of the source, and environments to install it into.

It is built from a copy because the build hook writes into ``xds/_generated``, which other tests read meanwhile. Other
packages come from the registry, through uv's cache.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
UV = str(Path(sys.executable).parent / "uv")
COMMAND_TIMEOUT_S = 100
SOURCES = ("xds", "protos", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE")
BUILT = ("_generated", "__pycache__")
OTHERS_VARIABLES = ("XDS_", "PYTHON", "VIRTUAL_ENV", "COVERAGE_")
PURE_ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(OTHERS_VARIABLES)}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command in a directory without the product's source, and return its output; show it on failure."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=PURE_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def build_wheel(source: Path, target: Path) -> Path:
    """Copy the wheel's sources into an empty directory, and build the wheel into another."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns(*BUILT))
        else:
            shutil.copy(ROOT / name, source / name)
    run(UV, "build", "--quiet", "--wheel", "--out-dir", target, source, cwd=source)
    (built,) = target.glob("*.whl")
    return built


def make_environment(place: Path) -> Path:
    """Make an empty environment; return its Python."""
    run(UV, "venv", "--quiet", "--python", sys.executable, place, cwd=place.parent)
    return place / "bin" / "python"
