"""``xdstp://`` names in their canonical form (docs/protocol.md#xdstp)."""

import pytest

from xds.model.xdstp import all_canonical, canonical


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("xdstp://a/t/n?b=2&a=1", "xdstp://a/t/n?a=1&b=2"),
        ("xdstp://a/t/n?a=1&b=2", "xdstp://a/t/n?a=1&b=2"),
        ("xdstp://a/t/n?b=1&a-b=2&a=3", "xdstp://a/t/n?a=3&a-b=2&b=1"),
        ("xdstp://a/t/*?b=2&a=1", "xdstp://a/t/*?a=1&b=2"),
        ("xdstp://a/t/n?b=2&a=1#entry=x", "xdstp://a/t/n?a=1&b=2#entry=x"),
        ("xdstp://a/t/n?", "xdstp://a/t/n"),
        ("xdstp://a/t/n", "xdstp://a/t/n"),
        ("http://a?b=2&a=1", "http://a?b=2&a=1"),
        ("", ""),
    ],
)
def test_context_parameters_are_sorted_by_key(name: str, expected: str) -> None:
    assert canonical(name) == expected
    assert canonical(expected) == expected


def test_a_set_of_names_is_canonical_if_each_is() -> None:
    assert all_canonical(["a", "xdstp://a/t/n?b=2&a=1"]) == {"a", "xdstp://a/t/n?a=1&b=2"}
    assert all_canonical(["a", "b"]) == {"a", "b"}
