"""What the log says of changes, and of streams."""

import dataclasses
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from xds.model.problem import Problem
from xds.model.types import CLUSTER, ENDPOINTS
from xds.protocol.status import Overdue, Refused, UnknownType
from xds.reporting import events
from xds.reporting.merged_log import MergedLog
from xds.store.entries import Entry, Key, Stored
from xds.transport.tls_failures import TlsFailure


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
    """What is logged, by ``log`` and by the merged logs, whose windows are empty."""
    monkeypatch.setattr(events, "peers_log", MergedLog(structlog.get_logger("xds")))
    monkeypatch.setattr(
        events, "changes_log", MergedLog(structlog.get_logger("xds"), lines_max=events.CHANGES_LOGGED_MAX)
    )
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
    events.flush_changes()
    assert (lines[-1]["revision"], lines[-1]["count"]) == (999, 1_000 - len(lines) + 2)


def test_other_changes_have_a_line_each_up_to_ten_a_second_of_an_author(lines: Any) -> None:
    for revision in range(2_000):
        events.log_entry(stored(revision, ("web", CLUSTER, "a", b"x")))
    assert [line["revision"] for line in lines] == list(range(600))
    another = stored(2_000, ("web", CLUSTER, "a", b"x"))
    events.log_entry(dataclasses.replace(another, entry=dataclasses.replace(another.entry, author="another")))
    assert (lines[-1]["revision"], "count" in lines[-1]) == (2_000, False)
    events.flush_changes()
    assert (lines[-1]["revision"], lines[-1]["count"]) == (1_999, 1_400)


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
    monkeypatch.setattr("xds.reporting.events.peers_log.warning", lambda _event, *, kind, **_: kinds.add(kind))
    for number in range(100):
        type_url = f"type.googleapis.com/acme.v1.Thing{number}"
        events.log_event(UnknownType(node_id="n1", group="prod", type_url=type_url))
        events.log_event(Overdue(node_id="n1", group="prod", type_url=type_url, nonce="1", waited_s=1.0))

    assert len(kinds) == 2


def refused(
    node: str, identity: str = "", address: str = "10.0.0.1:4000", status: str = "PERMISSION_DENIED"
) -> Refused:
    names = (identity,) if identity else ()
    return Refused(node_id=node, status=status, message=f"{node!r} is refused", identity=names, address=address)


def test_a_claimed_node_is_named_whatever_else_is_refused(lines: Any) -> None:
    for _ in range(100):
        events.log_event(refused("web-1", "cn:web"))
        events.log_event(refused("web-2", address="10.0.0.2:1"))
    events.log_event(refused("payments-7", "cn:eve", "10.0.0.9:555"))
    for number in range(100):
        events.log_event(refused("web-1", "cn:web", f"10.0.0.1:{number}"))
    (told,) = [line for line in lines if line["node"] == "payments-7"]
    assert (told["identity"], told["client"], told["status"]) == ("cn:eve", "10.0.0.9:555", "PERMISSION_DENIED")
    assert len(lines) == 10 + 10 + 1
    events.peers_log.flush()
    merged = {line["node"]: (line["count"], line["nodes"]) for line in lines if "count" in line}
    assert merged == {"web-1": (190, ["web-1"]), "web-2": (90, ["web-2"])}


def test_a_client_that_claims_many_nodes_has_a_bounded_number_of_lines_and_hides_no_other(lines: Any) -> None:
    for number in range(10_000):
        events.log_event(refused(f"n{number}", "cn:eve"))
    assert len(lines) <= 20
    events.log_event(refused("payments-7", "cn:bob"))
    assert lines[-1]["node"] == "payments-7"
    events.peers_log.flush()
    (told,) = [line for line in lines if line.get("of_more_kinds")]
    assert (told["identities"], len(told["nodes"]), told["count"]) == (["cn:eve"], 5, 10_000 - 20)


def test_clients_that_are_refused_for_want_of_room_are_merged_whoever_they_are(lines: Any) -> None:
    for number in range(1_000):
        events.log_event(refused("", address=f"10.0.{number % 200}.1:{number}", status="UNAVAILABLE"))
    assert len(lines) == 10
    events.peers_log.flush()
    assert len(lines[-1]["clients"]) == 5


def test_merged_lines_of_tls_and_tokens_name_several_clients(lines: Any) -> None:
    for number in range(20):
        events.log_tls_failure("xDS", TlsFailure("untrusted", f"certificate {number}", f"10.0.0.{number}:{number}"))
        events.log_refused_token(f"[::{number}]:1", f"subject-{number}", "expired", "the token expired")
    assert lines[1]["subject"] == "subject-0"
    events.peers_log.flush()
    tls, token = lines[-2:]
    assert tls["clients"] == [f"10.0.0.{number}" for number in range(10, 15)]
    assert tls["problems"] == [f"certificate {number}" for number in range(10, 15)]
    assert token["clients"] == [f"[::{number}]" for number in range(10, 15)]
    assert token["subjects"] == [f"subject-{number}" for number in range(10, 15)]
