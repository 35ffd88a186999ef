"""A message is joined whole from any pieces."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from xds.transport.http2.partial import PIECE_BYTES_MIN, Partial

SIZES = st.lists(st.integers(1, 3 * PIECE_BYTES_MIN), min_size=1, max_size=20)


@given(SIZES, st.integers(0, 5))
def test_what_came_is_returned_in_order_from_where_it_is_wanted(sizes, start):
    data = bytes(range(256)) * (sum(sizes) // 256 + 1)
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    partial = Partial(pieces[0])
    for piece in pieces[1:]:
        partial.add(piece)
    assert partial.size == at
    assert partial.whole(start) == data[start:at]
    partial.add(b"more")
    assert partial.whole() == data[:at] + b"more"


def test_a_message_that_comes_byte_by_byte_takes_little_more_than_its_size():
    tracemalloc.start()
    try:
        partial = Partial(b"x")
        for _ in range(100_000):
            partial.add(b"x")
        assert tracemalloc.get_traced_memory()[0] < 120_000
    finally:
        tracemalloc.stop()
