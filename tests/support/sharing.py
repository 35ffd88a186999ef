"""How tests that run in several processes are shared: those that take longest first, each file in one process.

``.ci/durations`` has the seconds of the longest files and tests. ``.ci/check`` saves the durations of a run:
``PYTHONPATH=tests python -m support.sharing build/tests.xml`` writes the list from them.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[2]
DURATIONS = ROOT / ".ci" / "durations"
HEAD = "# Seconds of the test files and tests that take longest; tests/support/sharing.py reads and writes it."
SPREAD = ("tests/envoy/", "tests/faults/", "tests/simulation/")
"""Files whose tests share nothing, so that each test can run in any process."""
WHOLE = ("tests/envoy/test_live.py", "tests/faults/test_row2_attacks.py")
"""Files among them whose tests share servers."""
SHORT_S = 4.0


def unit_of(nodeid: str) -> str:
    """Return what a test must share a process with: its file, or only itself."""
    file = nodeid.partition("::")[0]
    return nodeid if file.startswith(SPREAD) and not file.startswith(WHOLE) else file


def durations() -> dict[str, float]:
    """Return the seconds of each unit that is listed."""
    lines = (line.split(maxsplit=1) for line in DURATIONS.read_text().splitlines() if not line.startswith("#"))
    return {unit: float(seconds) for seconds, unit in lines}


def longest_first(nodeids: Sequence[str]) -> list[int]:
    """Return the indexes of the tests in the order in which to start them.

    A test that is not listed, of a file of which others are, is taken for as long as the longest of these.
    """
    known = durations()
    longest: dict[str, float] = {}
    for unit, seconds in known.items():
        file = unit.partition("::")[0]
        longest[file] = max(longest.get(file, 0.0), seconds)

    def seconds_of(index: int) -> float:
        nodeid = nodeids[index]
        return known.get(unit_of(nodeid), longest.get(nodeid.partition("::")[0], 0.0))

    return sorted(range(len(nodeids)), key=lambda index: -seconds_of(index))


class UnitScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process whole units, in the order of the tests. It needs ``--no-loadscope-reorder``."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)


def written(report: Path) -> str:
    """Return the list by a JUnit report of a run."""
    took: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        took[unit_of(f"{file}::{case.attrib['name']}")] += float(case.attrib["time"])  # type: ignore[assignment]
    lines = [f"{seconds:.0f} {unit}" for unit, seconds in took.most_common() if seconds >= SHORT_S]
    return "\n".join([HEAD, *lines, ""])


if __name__ == "__main__":
    DURATIONS.write_text(written(Path(sys.argv[1])))
