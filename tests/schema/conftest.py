"""Helpers that return the schema's problems with a value."""

from collections.abc import Callable
from typing import Any

import pytest

from xds.model.problem import ChangesetRejectedError, Problem
from xds.schema.convert import message_from_json
from xds.schema.decode import Findings
from xds.schema.ingest import ingest, load_plans
from xds.schema.paths import dotted
from xds.schema.plan import CHECK, REFERENCES


@pytest.fixture
def rejected() -> Callable[..., list[Problem]]:
    """Ingest an item that must be rejected; return its problems."""

    def ask(item: Any, **options: Any) -> list[Problem]:
        with pytest.raises(ChangesetRejectedError) as caught:
            ingest(item, **options)
        return list(caught.value.problems)

    return ask


@pytest.fixture
def violations() -> Callable[[str, dict[str, Any]], dict[str, str]]:
    """Return the problems that a walk finds in a message of any type, by field."""

    def ask(full_name: str, value: dict[str, Any]) -> dict[str, str]:
        plans = load_plans()
        found = Findings()
        message = message_from_json(plans.schema, value, full_name=full_name)
        plans.canonical(message, CHECK | REFERENCES, None, found)
        return {dotted(finding.path): finding.what for finding in found.problems}

    return ask
