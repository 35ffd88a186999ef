"""What the log says of changes, and of streams."""

from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from xds.model.problem import Problem
from xds.model.types import CLUSTER, ENDPOINTS
from xds.protocol.status import Overdue, UnknownType
from xds.reporting import events
from xds.reporting.merged_log import MergedLog
from xds.store.entries import Entry, Key, Stored


def stored(revision: int, *operations: tuple[str, str, str, bytes | None], rules: bool = False) -> Stored:
    entry = Entry(
        id=f"id-{revision}",
        operations={Key(group, type_url, name): encoded for group, type_url, name, encoded in operations},
        groups=b"{}" if rules else None,
        author="ci",
        message="a change",
        at_ms=0,
    )
    return Stored(revision, entry)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is logged, by ``log`` and by the merged log, whose windows are empty."""
    monkeypatch.setattr(events, "peers_log", MergedLog(structlog.get_logger("xds")))
    with capture_logs() as captured:
        yield captured


def test_a_change_has_one_line_that_says_who_made_it_where_and_of_what_size(lines: Any) -> None:
    more = [("canary", CLUSTER, f"c{number}", b"x") for number in range(1_000)]
    events.log_entry(stored(7, ("web", CLUSTER, "a", b"x"), ("web", ENDPOINTS, "a", None), *more, rules=True))
    assert lines == [
        {
            "event": "applied",
            "log_level": "info",
            "revision": 7,
            "author": "ci",
            "message": "a change",
            "groups": ["canary", "web"],
            "changed": {"clusters": 1_001},
            "removed": {"endpoints": 1},
            "rules": True,
        }
    ]


def test_pushes_of_endpoints_do_not_fill_the_log(lines: Any) -> None:
    for revision in range(1_000):
        events.log_entry(stored(revision, ("web", ENDPOINTS, "a", b"x")))
    assert 1 < len(lines) <= 11
    events.log_entry(stored(1_000, ("web", CLUSTER, "a", b"x")))
    assert lines[-1]["revision"] == 1_000
    events.peers_log.flush()
    assert (lines[-1]["revision"], lines[-1]["count"]) == (999, 1_000 - len(lines) + 2)


def test_the_first_problems_of_a_rejected_directory_are_logged(lines: Any) -> None:
    events.log_rejected(tuple(Problem(what=f"wrong {number}") for number in range(100)))
    assert lines[0]["problems"] == 100
    assert [line["problem"] for line in lines[1:]] == [f"wrong {number}" for number in range(20)]


def test_an_unknown_type_is_logged_with_what_to_do(monkeypatch) -> None:
    monkeypatch.setattr("xds.reporting.events.peers_log.warning", structlog.get_logger("xds").warning)
    with capture_logs() as logs:
        events.log_event(UnknownType(node_id="n1", group="prod", type_url="type.googleapis.com/acme.v1.Thing"))

    (line,) = logs
    assert (line["event"], line["node"], line["type"]) == ("unknown type", "n1", "type.googleapis.com/acme.v1.Thing")
    assert "--schema" in line["hint"]


def test_types_that_a_client_makes_up_do_not_make_the_log_grow(monkeypatch) -> None:
    """Lines are merged by a kind, of which there must be few."""
    kinds = set()
    monkeypatch.setattr("xds.reporting.events.peers_log.warning", lambda _event, *, kind, **_fields: kinds.add(kind))
    for number in range(100):
        type_url = f"type.googleapis.com/acme.v1.Thing{number}"
        events.log_event(UnknownType(node_id="n1", group="prod", type_url=type_url))
        events.log_event(Overdue(node_id="n1", group="prod", type_url=type_url, nonce="1", waited_s=1.0))

    assert len(kinds) == 2
