"""A message that was checked before is skipped only if nothing was found in it."""

import pytest
from support import resources as r

from xds.model import types
from xds.model.problem import ChangesetRejectedError
from xds.schema import memo
from xds.schema.decode import Findings
from xds.schema.ingest import ingest
from xds.schema.pool import load_schema

PREFIX = "type.googleapis.com/"


def with_endpoint(**more: object) -> r.Json:
    assignment = r.assignment("a", 1)
    assignment["endpoints"][0]["lb_endpoints"][0] |= more
    return assignment


def problems_of(item: r.Json, **options: bool) -> list[tuple[str, str]]:
    try:
        ingest(item, **options)
    except ChangesetRejectedError as error:
        return [(problem.field, problem.what) for problem in error.problems]
    return []


def test_a_problem_is_reported_every_time() -> None:
    wrong = with_endpoint(load_balancing_weight=0)
    first = problems_of(wrong)
    assert [field for field, _ in first] == ["endpoints[0].lb_endpoints[0].load_balancing_weight"]
    assert problems_of(with_endpoint()) == []
    assert problems_of(wrong) == first


def test_what_one_caller_allows_is_not_allowed_for_the_next() -> None:
    unknown = {"typed_filter_metadata": {"k": {"@type": PREFIX + "none.Such", "value": "YQ=="}}}
    item = with_endpoint(metadata=unknown)
    assert problems_of(item, allow_unknown_types=True) == []
    assert problems_of(item) != []


def test_a_message_is_made_canonical_every_time() -> None:
    schema = load_schema()
    assignment = schema.message_class(types.ENDPOINTS.removeprefix(types.TYPE_PREFIX))(cluster_name="a")
    endpoint = assignment.endpoints.add().lb_endpoints.add()
    endpoint.endpoint.address.socket_address.address = "10.0.0.1"
    endpoint.endpoint.address.socket_address.port_value = 1
    any_ = endpoint.metadata.typed_filter_metadata["k"]
    any_.type_url, any_.value = PREFIX + "google.protobuf.StringValue", b"\x0a\x01a\x0a\x01b"
    first = ingest(assignment)
    assert b"\x0a\x01a\x0a\x01b" not in first.encoded
    assert ingest(assignment).encoded == first.encoded


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "ENTRIES_MAX", 4)
    looked_at: list[bytes] = []
    visit = memo.cached_visit(lambda message, trail, found: looked_at.append(message.value))
    value = load_schema().message_class("google.protobuf.BytesValue")
    messages = [value(value=bytes([number])) for number in range(5)]
    found = Findings()
    for message in (*messages[:4], *messages[:4]):
        visit(message, None, found)
    assert len(looked_at) == 4, "each once"
    visit(messages[4], None, found)
    visit(messages[4], None, found)
    visit(messages[0], None, found)
    assert len(looked_at) == 6, "the fifth, and again the first"
    large = value(value=bytes(memo.BYTES_MAX))
    visit(large, None, found)
    visit(large, None, found)
    assert len(looked_at) == 8, "what is large is not remembered"
