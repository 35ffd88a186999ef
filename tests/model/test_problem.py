"""The text of a problem: its place, description and hint, without the fields that are not set."""

import pytest

from xds.model.problem import ChangesetRejectedError, Problem

WHOLE = Problem(
    what="is no such thing",
    hint="did you mean b?",
    file="dir/a.yaml",
    line=7,
    group="prod",
    resource="clusters/web",
    field="name",
)


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (WHOLE, "dir/a.yaml:7: [prod] clusters/web name: is no such thing (did you mean b?)"),
        (Problem(what="is wrong"), "is wrong"),
        (Problem(what="is wrong", hint="write x"), "is wrong (write x)"),
        (Problem(what="is empty", file="a.yaml"), "a.yaml: is empty"),
        (Problem(what="is wrong", line=3), "is wrong"),
        (Problem(what="is wrong", group="prod"), "[prod]: is wrong"),
        (Problem(what="is wrong", resource="clusters/web"), "clusters/web: is wrong"),
        (Problem(what="is wrong", field="name"), "name: is wrong"),
        (Problem(what="is wrong", file="a.yaml", field="name"), "a.yaml: name: is wrong"),
    ],
)
def test_text(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_a_rejection_holds_every_problem_in_order() -> None:
    error = ChangesetRejectedError([WHOLE, Problem(what="is wrong")])
    assert error.problems == (WHOLE, Problem(what="is wrong"))
    assert str(error) == f"2 problems: {WHOLE}; is wrong"


def test_one_problem_is_not_several() -> None:
    assert str(ChangesetRejectedError((Problem(what="is wrong"),))) == "1 problem: is wrong"


def test_a_rejection_with_very_many_problems_still_has_a_short_text() -> None:
    error = ChangesetRejectedError([Problem(what=f"p{number}") for number in range(1_000)])
    assert len(error.problems) == 1_000
    assert str(error) == "1000 problems: " + "; ".join(f"p{number}" for number in range(20))
