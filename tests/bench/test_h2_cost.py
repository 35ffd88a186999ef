"""The benchmark of the h2 library has everyone do the same work, and says what it took."""

from typing import Any

import pytest

from bench.h2_cost.__main__ import measure, memory, run
from bench.h2_cost.participants import Exchange, Framed, Participant
from bench.h2_cost.table import ALONE, FRAMED, H2, SEND, SERVED, WITH_UPDATE, render
from bench.report import Others
from bench.report import render as report


@pytest.mark.parametrize("name", [SERVED, FRAMED, H2])
def test_a_message_goes_out_as_one_frame_and_acks_are_taken(name: str) -> None:
    participant = Participant(name)
    connection, wire = participant.connected()
    assert participant.taken.count == 2  # the first request, and the first ACK
    exchange = Exchange(7)
    connection.deliver(exchange.message, exchange.framed)
    assert wire.last == exchange.framed
    connection.data_received(exchange.ack)
    connection.data_received(exchange.ack_with_update)
    assert participant.taken.count == 4


def test_every_round_has_every_part_of_everyone() -> None:
    rounds = measure(streams=3, rounds=2)
    assert [list(each) for each in rounds] == [[SERVED, FRAMED, H2]] * 2
    assert {tuple(parts) for each in rounds for parts in each.values()} == {(SEND, ALONE, WITH_UPDATE)}
    assert all(us > 0 for each in rounds for parts in each.values() for us in parts.values())


def test_who_does_not_write_the_frame_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Framed, "deliver", lambda *_: None)
    with pytest.raises(ValueError, match="framed did not write the frame that it should"):
        measure(streams=2, rounds=1)


def test_memory_is_that_of_connections_and_streams_which_are_kept() -> None:
    found = memory(SERVED, 20)
    assert 500 < found["connection_bytes"] < 10_000
    assert 100 < found["stream_bytes"] < 2_000


def kept() -> dict[str, Any]:
    ours = {SEND: 1.0, ALONE: 1.0, WITH_UPDATE: 3.0}
    theirs = {SEND: 8.0, ALONE: 12.0, WITH_UPDATE: 16.0}
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"CPU": "2 × abacus"},
        "versions": {"h2": "4.9"},
        "streams": 1_000,
        "send_recv_us": 4.5,
        "message_bytes": 424,
        "ack_bytes": 85,
        "memory": {name: {"connection_bytes": 1_500.0, "stream_bytes": 250.0} for name in (SERVED, FRAMED, H2)},
        "rounds": [{SERVED: ours, FRAMED: {**ours, SEND: 4.0}, H2: theirs}] * 6,
    }


def test_the_report_says_what_h2_costs() -> None:
    text = render(kept())
    assert (
        "take **20.0 µs through `h2`**, 2.00 µs through this project's HTTP/2 as the server uses it, and 5.00" in text
    )
    assert "anew: 10.0 and 4.0 times less. One `send()` and one `recv()` took 4.5 µs in the same run." in text
    assert (
        "| ours, as the server uses it | 1.00 (1.00–1.00) | 2.00 (2.00–2.00) | 10.0 (10.0–10.0) | 4.00 (4.00–4.00) "
        "| 6.0 (6.0–6.0) |"
    ) in text
    assert "| `h2` 4.9 | 1.50 | 0.25 |" in text
    assert text.strip() in report({}, Others(h2_cost=kept()))
    assert "Not measured: `make bench-h2`." in report({})


def test_what_is_kept_of_a_run_can_be_shown() -> None:
    found = run(streams=3, rounds=2)
    assert found["message_bytes"] > found["ack_bytes"] > 50
    assert f"`h2` {found['versions']['h2']}" in render(found)
