"""Messages as the wire has them: made once for a cohort, bounded in bytes, and let go of."""

import tracemalloc

import pytest

from xds.protocol.responses import Part
from xds.transport import framed_parts
from xds.transport.framed_parts import FramedParts
from xds.transport.http2 import grpc


def part(number: int, size: int = 100) -> Part:
    return Part(format(number, "x"), bytes([number]) * size, (), (), "")


def test_a_part_is_framed_and_prefixed_once() -> None:
    parts, one, other = FramedParts(), part(1), part(2)
    parts.take(one)
    framed, prefixed = parts.framed, parts.prefixed(one)
    assert (framed, prefixed, parts.size) == (grpc.framed(1, one.message), grpc.prefixed(one.message), len(prefixed))
    parts.take(other)
    assert parts.framed == grpc.framed(1, other.message)
    parts.take(one)
    assert parts.framed is framed
    assert parts.prefixed(one) is prefixed


def test_what_is_asked_for_again_stays_and_the_rest_goes() -> None:
    parts, one, other = FramedParts(), part(1), part(2)
    first, second = parts.prefixed(one), parts.prefixed(other)
    for _ in range(2):
        parts.evict_idle()
        assert parts.prefixed(one) is first
    assert parts.prefixed(other) is not second


@pytest.mark.parametrize("ages", [False, True])
def test_what_is_kept_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch, ages: bool) -> None:
    monkeypatch.setattr(framed_parts, "BYTES_MAX", 1_000_000)
    parts = FramedParts()
    tracemalloc.start()
    try:
        for number in range(1, 200):
            parts.prefixed(part(number, 20_000))
            if ages:
                parts.evict_idle()
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 2.5 * 1_000_000, "what is made of a message, and the message itself"
    some = [part(number, 20_000) for number in range(1, 40)]
    made = [parts.prefixed(each) for each in some]
    assert all(parts.prefixed(each) is prefixed for each, prefixed in zip(some, made, strict=True))
    large = part(50, 5_000_000)
    assert parts.prefixed(large) is parts.prefixed(large), "the newest is kept whatever its size"
    assert parts.prefixed(some[-1]) is not made[-1]
