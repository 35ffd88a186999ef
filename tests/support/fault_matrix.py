"""What a run of the fault matrix found: checks against bounds, and the file from which docs/reliability.md is written.

A part is one test of a row: ``with part(3, "outage", "10 minutes of etcd away") as found: found.at_most(…)``. A check
is added whether it holds or not, and at the end of the part all those that do not hold are reported together.

``XDS_FAULTS=full`` has the numbers of the matrix instead of small ones (``make fault ROW=3``). ``XDS_FAULT_RESULTS`` is
the directory where each part writes its result. Some bounds say something only where nothing else runs, such as a ratio
of two latencies: they have ``quiet=True``, and fail a full run only. In a short one they are printed.
"""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from support.attack_scene import machine

ROOT = Path(__file__).parents[2]
FULL = os.environ.get("XDS_FAULTS") == "full"


def scaled(full: float, short: float) -> float:
    """Return the number of a full run, or that of a short one."""
    return full if FULL else short


def count(full: int, short: int) -> int:
    """Return the whole number of a full run, or that of a short one."""
    return full if FULL else short


@dataclass(frozen=True, slots=True)
class Check:
    """One bound, the value that was measured, and whether the bound held."""

    what: str
    bound: str
    measured: str
    held: bool


@dataclass(slots=True)
class Part:
    """The checks of one test of a row."""

    row: int
    name: str
    what: str
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _unjudged: list[Check] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def at_most(self, what: str, measured: float | None, bound: float, unit: str = "", *, quiet: bool = False) -> None:
        """Check a number against the most that it may be; None is a value that never came."""
        shown = "never" if measured is None else f"{measured:.4g}{unit}"
        self._add(Check(what, f"≤ {bound:g}{unit}", shown, measured is not None and measured <= bound), quiet=quiet)

    def at_least(self, what: str, measured: float, bound: float, unit: str = "") -> None:
        """Check a number against the least that it may be."""
        self._add(Check(what, f"≥ {bound:g}{unit}", f"{measured:.4g}{unit}", measured >= bound), quiet=False)

    def equal(self, what: str, measured: object, expected: object) -> None:
        """Check a value against the only one that it may be."""
        self._add(Check(what, str(expected), _short(str(measured)), measured == expected), quiet=False)

    def holds(self, what: str, bound: str, measured: str, *, held: bool) -> None:
        """Add a check that was made elsewhere."""
        self._add(Check(what, bound, _short(measured), held), quiet=False)

    def note(self, text: str) -> None:
        """Add a sentence for the page: what else was seen."""
        self.notes.append(text)

    def _add(self, check: Check, *, quiet: bool) -> None:
        self.checks.append(check)
        if quiet and not FULL:
            self._unjudged.append(check)

    def missed(self) -> list[str]:
        """Return the checks that count and don't hold, as text."""
        failed = [each for each in self.checks if not each.held and each not in self._unjudged]
        return [f"{each.what}: {each.measured}, not {each.bound}" for each in failed]

    def lines(self) -> list[str]:
        """Return a line for each check."""
        names = {True: "held", False: "MISSED"}
        told = [f"  {each.what}: {each.measured} ({each.bound}) {names[each.held]}" for each in self.checks]
        return [f"row {self.row}, {self.name}: {self.what}", *told]

    def save_where_wanted(self) -> None:
        """Write the result to the directory of results, if there is one."""
        if directory := os.environ.get("XDS_FAULT_RESULTS", ""):
            self.save(Path(directory))

    def save(self, directory: Path) -> None:
        """Write the result in place of an earlier one."""
        result = {
            "row": self.row,
            "part": self.name,
            "what": self.what,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "load": round(os.getloadavg()[0], 1),
            "commit": commit(),
            "took_s": round(time.monotonic() - self._began, 1),
            "checks": [asdict(each) for each in self.checks],
            "notes": self.notes,
        }
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=2, ensure_ascii=False)
        (directory / f"{self.row}-{self.name}.json").write_text(text + "\n")


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"


def commit() -> str:
    """Return the commit of the working tree, with a plus sign if the product was changed since."""
    run = lambda *argv: subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()  # noqa: E731
    changed = run("git", "status", "--porcelain", "--", "xds", "protos")
    return run("git", "rev-parse", "--short", "HEAD") + ("+" if changed else "")


@contextlib.contextmanager
def part(row: int, name: str, what: str) -> Iterator[Part]:
    """Gather the checks of a part, print and save them, and fail if one that counts does not hold."""
    found = Part(row, name, what)
    yield found
    print("\n" + "\n".join(found.lines() + found.notes))
    found.save_where_wanted()
    if missed := found.missed():
        pytest.fail("\n".join(missed), pytrace=False)
