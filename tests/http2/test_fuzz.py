"""The fuzzer for a few seconds, with fixed seeds; ``make fuzz`` runs longer."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fuzz
from support.native_server import NativeServer

FRAMES = 6_000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_frames_cause_no_fault_in_the_connection(seed: int):
    tally = fuzz.fuzz(FRAMES, seed)
    assert tally.frames >= FRAMES
    assert min(tally.made[kind] for kind in ("sane", "wild", "damaged", "faithful")) > 100
    assert tally.ends["faithful to the end"] > 0


def test_random_frames_cause_no_fault_in_a_server(server: NativeServer):
    tally = fuzz.live(server, 2_000, 1)
    assert tally.frames >= 2_000
