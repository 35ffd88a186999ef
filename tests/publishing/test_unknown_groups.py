"""An unknown group is told with the names that may be meant, however many groups there are."""

import time

import pytest

from xds.publishing.edits import UnknownGroupError

MANY = [f"team-{number:03}" for number in range(500)]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("rod", "prod"), ("prodd", "prod"), ("Prod", "prod"), ("team-0042", "team-042"), ("eam-499", "team-499")],
)
def test_a_name_that_is_written_wrongly_finds_the_right_one_among_many(written: str, meant: str) -> None:
    assert repr(meant) in str(UnknownGroupError(written, [*MANY, "prod"]))


def test_names_that_are_like_no_other_find_nothing() -> None:
    assert str(UnknownGroupError("xyz", MANY)) == "there is no group 'xyz'"


def test_a_thousand_names_that_are_much_alike_take_milliseconds() -> None:
    alike = [f"attack-{number}" for number in range(1_000)]
    took = []
    for _ in range(5):
        began = time.thread_time()
        UnknownGroupError("attack-1000000", alike)
        took.append(time.thread_time() - began)
    assert min(took) < 0.01
