"""A gate judges what a change leads to before it is committed, as a real Envoy does."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import structlog

from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.snapshot import Snapshot
from xds.publishing.batch import Verdict
from xds.publishing.changes import Published

log = structlog.get_logger("xds")
LOGGED_MAX = 20
"""Maximum problems of a change that are logged."""


class Outcome(Protocol):
    """What a gate says of groups."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with resources."""
        ...

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What could not be judged as it is."""
        ...


class Gate(Protocol):
    """Judges the groups whose nodes get other resources by a change, as they are after it. Called in a thread."""

    @property
    def refuses(self) -> bool:
        """Whether a change with problems is refused, or made with warnings."""
        ...

    def __call__(self, groups: Mapping[str, Snapshot]) -> Outcome:
        """Return what is wrong with the groups."""
        ...


def with_warnings(published: Published, outcome: Outcome) -> Published:
    """Return the outcome of a change with what a gate said of it, and log the problems."""
    for problem in outcome.problems[:LOGGED_MAX]:
        log.warning("Envoy refuses a resource of an accepted change", problem=str(problem))
    found = (*published.warnings, *outcome.problems, *outcome.warnings)
    return replace(published, warnings=found) if found else published


def passed(verdict: Verdict, outcome: Outcome, *, refuses: bool) -> Verdict:
    """Return the verdict on a dry run after a gate judged what it would lead to."""
    assert isinstance(verdict.outcome, Published)
    if outcome.problems and refuses:
        return replace(verdict, outcome=ChangesetRejectedError(outcome.problems))
    found = (*verdict.outcome.warnings, *outcome.problems, *outcome.warnings)
    return replace(verdict, outcome=replace(verdict.outcome, warnings=found))
