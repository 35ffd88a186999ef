"""The page's charts: every node is seen, and the parts fill the bar."""

from hypothesis import given
from hypothesis import strategies as st

from xds.page.figures import STATES, VISIBLE_MIN, WIDTH, Part, bar, in_words

COUNTS = st.dictionaries(st.sampled_from(STATES), st.integers(0, 1_000_000))


@given(COUNTS)
def test_parts_fill_the_bar_in_order_and_each_is_seen(counts: dict[str, int]) -> None:
    parts = bar(counts)
    assert [part.state for part in parts] == [state for state in STATES if counts.get(state)]
    assert [part.count for part in parts] == [counts[part.state] for part in parts]
    assert sum(part.width for part in parts) == (WIDTH if parts else 0)
    assert all(part.width >= VISIBLE_MIN for part in parts)
    assert [part.x for part in parts] == [sum(each.width for each in parts[:at]) for at in range(len(parts))]


def test_a_bar_is_divided_by_the_numbers_of_nodes() -> None:
    assert bar({"accepted": 750, "gone": 250}) == (Part("accepted", 750, 0, 750), Part("gone", 250, 750, 250))
    one_of_many = bar({"accepted": 9_999, "rejected": 1})
    assert one_of_many == (Part("accepted", 9_999, 0, 992), Part("rejected", 1, 992, 8))


def test_a_bar_in_words_names_what_there_is() -> None:
    assert in_words({"accepted": 9_990, "pending": 0, "rejected": 10}) == "9,990 accepted, 10 rejected"
    assert in_words({}) == "no nodes"
