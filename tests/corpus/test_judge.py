"""A real Envoy as judge (``xds validate --envoy``) says of the corpus what Envoy says when it is served."""

from pathlib import Path

import pytest
from corpus import ours, table
from corpus.cases import read_cases

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.timeout(300)]

CASES = [case for case in read_cases() if case.name not in table.STRICTER]


def test_what_only_envoy_knows_is_told_by_the_judge(tmp_path: Path) -> None:
    asked = [case for case in CASES if case.name in table.ONLY_ENVOY]
    told = ours.validate(ours.write(tmp_path / "dir", asked), "--envoy")
    silent = {case.name for case in asked if case.group not in told}
    assert silent == {name for name, kind in table.ONLY_ENVOY.items() if kind in table.UNKNOWN_TO_A_JUDGE}
    words = [each for group in told.values() for each in group]
    assert [each for each in words if "Envoy: " not in each] == []


def test_the_judge_takes_what_envoy_takes(tmp_path: Path) -> None:
    """Listeners and clusters have names of their own, so one group holds them all, and one Envoy judges them."""
    good = [case for case in CASES if case.is_good]
    directory = ours.write(tmp_path / "dir", good)
    together = directory / "together"
    together.mkdir()
    for case in good:
        if case.kind in ("listeners", "clusters"):
            place = directory / case.group
            (place / f"case.{case.suffix}").rename(together / f"{case.group}.{case.suffix}")
            place.rmdir()
    ours.extend_common(directory, [path.name for path in directory.iterdir() if path.is_dir()])
    assert ours.validate(directory, "--envoy") == {}
