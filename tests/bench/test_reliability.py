"""docs/reliability.md is what the saved results of the fault matrix say, and names each row's module."""

from pathlib import Path

import pytest
from support.fault_matrix import Part

from bench.reliability import PAGE, RESULTS, ROWS, render, results

FAULTS = Path(__file__).parents[1] / "faults"


def test_the_page_is_what_the_results_say() -> None:
    assert PAGE.read_text() == render(results(RESULTS)), "run `.venv/bin/python -m bench.reliability`"


def test_each_row_has_its_module_and_each_module_its_row() -> None:
    assert sorted(path.name for path in FAULTS.glob("test_row*.py")) == sorted(module for _, module in ROWS.values())


def test_a_missed_bound_is_shown_as_missed_and_fails(tmp_path: Path) -> None:
    part = Part(8, "outage", "an outage")
    part.at_most("write", 1.9, 2, " s")
    part.at_most("caught up", None, 5, " s")
    part.equal("lost", 0, 0)
    assert part.missed() == ["caught up: never, not ≤ 5 s"]
    part.save(tmp_path)
    page = render(results(tmp_path))
    assert "| caught up | ≤ 5 s | never | **missed** |" in page
    assert "| 2 of 3 |" in page


def test_what_needs_a_quiet_machine_counts_in_a_full_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for full, missed in ((False, []), (True, ["p99: 3 ×, not ≤ 2 ×"])):
        monkeypatch.setattr("support.fault_matrix.FULL", full)
        part = Part(2, "a", "b")
        part.at_most("p99", 3, 2, " ×", quiet=True)
        assert part.missed() == missed
