"""Revisions of this product, each installed apart from the others: its source, and ``xds`` as a wheel would have it."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.compare.servers import ROOT

DIRECTORY = ROOT / "build" / "in-turns"
WORKING_TREE = "working-tree"
COPIED = ("xds", "protos", "bench", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE", "requirements.lock")


class RevisionError(Exception):
    """There is no such revision, or it can't be installed. The text says what git or uv said."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision: the name that was asked for, its commit, its source, and the directory that ``xds`` is in.

    Whatever has ``site`` first in PYTHONPATH imports that ``xds``, not the one that is installed in the environment.
    """

    name: str
    commit: str
    source: Path
    site: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process of this revision needs in its environment."""
        return {"PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1"}

    def check(self) -> None:
        """Raise RevisionError unless processes with this environment import this revision."""
        program = "import xds.version, sys; sys.stdout.write(xds.version.__file__)"
        environment = {**os.environ, **self.environment}
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=self.site, env=environment, capture_output=True, text=True, check=False
        )
        if not ended.stdout.startswith(str(self.site)):
            raise RevisionError(f"{self.name}: xds is imported from {ended.stdout or ended.stderr}, not {self.site}")


def prepare(name: str, directory: Path = DIRECTORY) -> Revision:
    """Install a revision (anything that git takes) or the working tree under ``directory``. Raises RevisionError.

    A commit is installed once; the working tree, each time.
    """
    if name == WORKING_TREE:
        commit, place = _said("describe", "--always", "--dirty"), directory / WORKING_TREE
        shutil.rmtree(place, ignore_errors=True)
    else:
        commit = _said("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", problem=f"no revision {name!r}")
        place = directory / commit
    source, site = place / "source", place / "site"
    if not (place / "complete").exists():
        shutil.rmtree(place, ignore_errors=True)
        source.mkdir(parents=True)
        _copy_tree(source) if name == WORKING_TREE else _archive(commit, source)
        _install(source, site)
        (place / "complete").touch()
    revision = Revision(name, commit, source, site)
    revision.check()
    return revision


def same_requirements(revisions: list[Revision]) -> bool:
    """Say whether all were made for the same versions of libraries: they all run with those of this environment."""
    return len({(revision.source / "requirements.lock").read_text() for revision in revisions}) == 1


def _copy_tree(source: Path) -> None:
    for name in COPIED:
        kept = ROOT / name
        if kept.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "_generated")
            shutil.copytree(kept, source / name, ignore=ignored)
        elif kept.exists():
            shutil.copy2(kept, source / name)


def _archive(commit: str, source: Path) -> None:
    with tempfile.TemporaryFile() as packed:
        subprocess.run(["git", "archive", "--format=tar", commit], cwd=ROOT, stdout=packed, check=True)
        packed.seek(0)
        with tarfile.open(fileobj=packed) as archive:
            archive.extractall(source, filter="data")


def _install(source: Path, site: Path) -> None:
    """Build a wheel, whose hook generates what is generated, and unpack it into ``site``."""
    tool = str(Path(sys.executable).parent / "uv")
    options = ["--quiet", "--no-deps", "--compile-bytecode", "--target", str(site)]
    argv = [tool, "pip", "install", *options, "--python", sys.executable, str(source)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # its xds would be found
    ended = subprocess.run(argv, cwd=source, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RevisionError(f"{source} can't be installed:\n{ended.stderr[-2_000:]}")


def _said(*words: str, problem: str = "git failed") -> str:
    ended = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RevisionError(f"{problem}: {ended.stderr.strip() or 'git does not know it'}")
    return ended.stdout.strip()
