"""The simulation with random clients, changes and faults, for the seeds that every test run covers.

``make simulate`` runs more seeds. A failure prints the command that repeats its seed.
"""

import os
from pathlib import Path

import pytest
from simulation.mutations import MUTATIONS
from simulation.running import simulate

SEEDS = int(os.environ.get("XDS_SEEDS", "1000"))
SHARE = 100
"""Seeds per test, so that several processes share them."""

FOUND_FROM = {
    "a removal in a rejected response is not sent again": 170,
    "rejections that come late are taken for ACKs": 3_700,
    "stopping leaves callers waiting": 270,
    "a compaction goes behind another replica's": 290,
    "an append that was made though its disk failed is not seen": 930,
}
"""The first seed for faults that few seeds find."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, SHARE))
def test_every_client_has_what_its_group_has_and_no_request_fails(first: int) -> None:
    done = simulate("--first", str(first), "--seeds", str(min(SHARE, SEEDS - first)))
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_fault_that_is_put_in_is_found(mutation: str) -> None:
    done = simulate("--mutation", mutation, "--first", str(FOUND_FROM.get(mutation, 0)), "--seeds", "1000")
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("seed", [0, 7, 13])
def test_a_seed_is_the_same_run_each_time(seed: int) -> None:
    """Seed 0 has no store, 7 has etcd and 13 has SQLite."""
    first, second = (simulate("--seed", str(seed)) for _ in range(2))
    assert first.stdout == second.stdout
    assert len(first.stdout.splitlines()) > 100


def test_a_run_of_many_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    output = tmp_path / "simulation.txt"
    progress = output.with_suffix(".progress")
    progress.write_text('{"first": 0, "next": 58, "events": 1000}')
    done = simulate("--seeds", "60", "--output", str(output))
    assert "goes on with seed 58" in done.stdout
    assert output.read_text().splitlines()[1].startswith("60 runs, 0 failed")
    assert not progress.exists()
