"""Tests are shared by units, the longest first."""

from pathlib import Path

import pytest
from support import sharing

ROOT = Path(__file__).parents[2]


def test_a_file_stays_in_one_process_unless_its_tests_share_nothing() -> None:
    assert sharing.unit_of("tests/cli/test_main.py::test_version[a::b]") == "tests/cli/test_main.py"
    assert sharing.unit_of("tests/envoy/test_large.py::test_a[b]") == "tests/envoy/test_large.py::test_a[b]"
    assert sharing.unit_of("tests/envoy/test_live.py::test_a[b]") == "tests/envoy/test_live.py"


def test_what_takes_longest_comes_first_and_what_is_new_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "durations"
    listed.write_text("# x\n9 tests/a.py\n7 tests/faults/b.py::test_long[x y]\n5 tests/c.py\n")
    monkeypatch.setattr(sharing, "DURATIONS", listed)
    tests = ["tests/z.py::t", "tests/c.py::t", "tests/faults/b.py::test_new", "tests/a.py::1", "tests/a.py::2"]
    tests += ["tests/faults/b.py::test_long[x y]"]
    ordered = [tests[index] for index in sharing.longest_first(tests)]
    assert ordered == [tests[3], tests[4], tests[2], tests[5], tests[1], tests[0]]


def test_the_list_is_made_of_a_report_of_a_run(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    cases = [("tests.cli.test_a", "one", 3.0), ("tests.cli.test_a", "two", 3.5), ("tests.faults.test_b", "c[x]", 12.0)]
    cases += [("tests.cli.test_short", "one", 0.5)]
    rows = "".join(f'<testcase classname="{file}" name="{name}" time="{s}"/>' for file, name, s in cases)
    report.write_text(f"<testsuites><testsuite>{rows}</testsuite></testsuites>")
    assert sharing.written(report).splitlines()[1:] == ["12 tests/faults/test_b.py::c[x]", "6 tests/cli/test_a.py"]


def test_every_file_of_the_list_is_there() -> None:
    units = sharing.durations()
    assert len(units) > 40
    assert [unit for unit in units if not (ROOT / unit.partition("::")[0]).is_file()] == []
