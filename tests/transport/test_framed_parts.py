"""Messages as the wire has them: made once for a cohort, bounded in bytes, and let go of."""

from typing import Any

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
    first, _ = parts.prefixed(one), parts.prefixed(other)
    parts.evict_idle()
    assert parts.prefixed(one) is first
    parts.evict_idle()
    assert parts.prefixed(one) is first
    assert [key[0] for key in (*parts._known, *parts._older)] == [one]


@pytest.mark.parametrize("ages", [False, True])
def test_what_is_kept_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch, ages: bool) -> None:
    monkeypatch.setattr(framed_parts, "BYTES_MAX", 1_000)
    parts: Any = FramedParts()
    for number in range(1, 40):
        parts.prefixed(part(number))
        if ages:
            parts.evict_idle()
        kept = sum(map(len, (*parts._known.values(), *parts._older.values())))
        assert kept == parts._bytes <= 1_000
    large = part(50, 5_000)
    parts.prefixed(large)
    assert [key[0] for key in (*parts._known, *parts._older)] == [large]
