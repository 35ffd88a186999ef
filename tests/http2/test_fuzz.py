"""The fuzzer for a few seconds, always on the same seeds; ``make fuzz`` is the long one."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fuzz
from support.native_server import NativeServer

FRAMES = 6_000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_frames_make_the_connection_fail(seed: int):
    tally = fuzz.fuzz(FRAMES, seed)
    assert tally.frames >= FRAMES
    assert min(tally.made[kind] for kind in ("sane", "wild", "damaged", "faithful")) > 100
    assert tally.ends["faithful to the end"] > 0


def test_no_frames_make_a_server_fail(server: NativeServer):
    tally = fuzz.live(server, 2_000, 1)
    assert tally.frames >= 2_000
