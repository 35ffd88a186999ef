"""What a body or a header may cost the process that reads it: bounded, whatever was written."""

import json

import pytest

from xds.api.bodies import JSON, changeset_change
from xds.model import closest
from xds.model.problem import ChangesetRejectedError


def test_the_suggestions_for_all_unknown_types_of_a_body_share_what_may_be_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    characters: list[int] = []
    likeness = closest.likeness

    def counting(one: str, other: str) -> float:
        characters.append(len(other))
        return likeness(one, other)

    monkeypatch.setattr(closest, "likeness", counting)
    types = [f"envoy.config.cluster.v3.Clustex{number}" for number in range(2_000)]
    body = json.dumps({"upsert": [{"@type": f"type.googleapis.com/{each}"} for each in types]}).encode()
    with pytest.raises(ChangesetRejectedError) as refused:
        changeset_change("g", body, JSON)
    hints = [each.hint for each in refused.value.problems]
    assert len(hints) == 2_000
    assert hints[0].startswith("did you mean envoy.config.cluster.v3.Cluster")
    assert hints[-1] == "add its descriptors with --schema"
    assert sum(characters) <= closest.WORK_MAX
