"""Names of groups, and characters that a reader of a name does not see."""

import pytest

from xds.model.names import group_name_problem, hidden_character


@pytest.mark.parametrize("name", ["", " a", "a ", "a/b", "..\\a", "a\nb", "\x7f", "n" * 201])
def test_a_group_name_that_is_refused(name: str) -> None:
    assert group_name_problem(name).startswith(f"{name!r} is not a valid group name")


@pytest.mark.parametrize("name", ["default", "team a", "n" * 200, "é"])
def test_a_group_name_that_is_valid(name: str) -> None:
    assert group_name_problem(name) == ""


def test_what_is_not_seen_is_named() -> None:
    names = ["plain/é-名", "a\0b", "a\x9fb", "\u202egpj.exe", "a\u200b"]
    assert [hidden_character(name) for name in names] == ["", "U+0000", "U+009F", "U+202E", "U+200B"]
