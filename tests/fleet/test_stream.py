"""The client stream against the h2 library: h2 accepts all it sends, and it receives exactly what h2 sends."""

import h2.events
import h2.exceptions
import pytest
from fleet.build import delta
from fleet.peer import Pair
from hypothesis import given, settings
from hypothesis import strategies as st

from xds.fleet.http2 import headers, opening
from xds.fleet.wire import Outgoing
from xds.model.types import CLUSTER
from xds.transport.http2.frames import DATA, END_HEADERS, HEADERS, frame


def grpc(encoded: bytes) -> bytes:
    return b"\0" + len(encoded).to_bytes(4, "big") + encoded


def response(number: int, padding: int = 0) -> bytes:
    return delta(CLUSTER, removed=["x" * padding], nonce=str(number))


def nonces(pair: Pair) -> list[str]:
    return [message.nonce for message in pair.client.messages]


@pytest.mark.parametrize("authority", ["a:1", "x" * 300 + ":1"])
def test_the_opening_is_a_grpc_call_for_h2(authority: str) -> None:
    pair = Pair()
    (call,) = (event for event in pair.events if isinstance(event, h2.events.RequestReceived))
    found = dict(call.headers or [])
    assert found[b":path"] == b"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
    assert (found[b":method"], found[b":scheme"], found[b"te"]) == (b"POST", b"http", b"trailers")
    block = opening(authority=authority, sotw=True, tls=True, window_bytes=1 << 20).rpartition(b"\x83\x87")
    decoded = headers((block[1] + block[2],))
    assert (decoded[":authority"], decoded[":scheme"]) == (authority, "https")
    assert decoded[":path"].endswith("/StreamAggregatedResources")


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 40_000), min_size=1, max_size=5),
    st.integers(7, 5_000),
    st.integers(300, 16_384),
    st.integers(0, 255),
)
def test_messages_come_whole_however_they_are_cut(sizes: list[int], piece: int, frame_bytes: int, pad: int) -> None:
    pair = Pair()
    pair.respond()
    data = b"".join(grpc(response(number, size)) for number, size in enumerate(sizes))
    step = max(1, frame_bytes - pad - 1)
    for at in range(0, len(data), step):
        pair.server.send_data(1, data[at : at + step], pad_length=pad or None)
        if at % 3:  # several frames together, or one alone
            pair.exchange(piece)
    pair.exchange(piece)
    assert nonces(pair) == [str(number) for number in range(len(sizes))]
    assert pair.client.faults == []


@settings(deadline=None)
@given(st.lists(st.integers(0, 70_000), min_size=1, max_size=10), st.integers(0, 100_000))
def test_the_servers_windows_are_never_exceeded_and_all_arrives_in_order(sizes: list[int], window: int) -> None:
    pair = Pair(server_window=window)
    sent = b""
    for number, size in enumerate(sizes):
        request = bytes((number,)) * size
        pair.client.send(Outgoing.of([request]))
        sent += grpc(request)
        pair.exchange()
    while len(pair.received) < len(sent):
        before = len(pair.received)
        pair.server.increment_flow_control_window(10_000, 1)
        pair.server.increment_flow_control_window(10_000)
        pair.exchange()
        assert len(pair.received) > before, "every window update lets something through"
    assert bytes(pair.received) == sent


def test_room_is_made_before_the_window_is_used_up() -> None:
    pair = Pair(window_bytes=65_535)
    pair.respond()
    for number in range(200):
        pair.server.send_data(1, grpc(response(number, 3_000)))  # h2 raises if the window has no room
        pair.exchange()
    assert nonces(pair) == [str(number) for number in range(200)]


def test_known_chunks_are_counted_against_the_window_too() -> None:
    pair = Pair(window_bytes=65_535)
    pair.respond()
    pair.exchange()
    for _ in range(200):
        pair.server.send_data(1, grpc(response(7, 3_000)))
        pair.exchange()
    assert nonces(pair) == ["7"] * 200
    assert len({id(message) for message in pair.client.messages}) == 1


def test_settings_that_shrink_the_window_below_zero_hold_requests_back() -> None:
    pair = Pair()
    pair.client.send(Outgoing.of([b"x" * 1_000]))
    pair.exchange()
    pair.server.update_settings({0x4: 10})  # the window is now 10 - 1,005
    pair.exchange()
    pair.client.send(Outgoing.of([b"y"]))
    pair.exchange()
    assert len(pair.received) == 1_005
    pair.server.update_settings({0x4: 1_011})
    pair.exchange()
    assert pair.received[1_005:] == grpc(b"y")


def test_pings_are_answered_and_own_pings_are_heard() -> None:
    pair = Pair()
    pair.server.ping(b"12345678")
    pair.client.ping()
    pair.exchange()
    (answer,) = (event for event in pair.events if isinstance(event, h2.events.PingAckReceived))
    assert (answer.ping_data, pair.client.pongs) == (b"12345678", 1)


def test_trailers_end_the_stream_with_their_status_and_text() -> None:
    pair = Pair()
    pair.respond()
    pair.server.send_headers(1, [("grpc-status", "14"), ("grpc-message", "going%20away")], end_stream=True)
    pair.exchange()
    assert [str(fault) for fault in pair.client.faults] == ["grpc-status 14: going away"]
    assert pair.wire.closed


def test_trailers_alone_do_too() -> None:
    pair = Pair()
    pair.server.send_headers(
        1, [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "12")], end_stream=True
    )
    pair.exchange()
    assert [fault.kind for fault in pair.client.faults] == ["grpc-status 12"]


def test_what_is_not_grpc_is_said_to_be() -> None:
    pair = Pair()
    pair.server.send_headers(1, [(":status", "404"), ("content-type", "text/html")])
    pair.exchange()
    assert "no gRPC there: HTTP status 404" in str(pair.client.faults[0])


def test_headers_in_continuations_that_use_the_table_are_decoded() -> None:
    pair = Pair()
    pair.respond(**{f"x-{number}": "v" * 3_000 for number in range(10)})
    pair.server.send_headers(1, [("grpc-status", "5"), ("x-3", "v" * 3_000)], end_stream=True)
    pair.exchange(1_000)
    assert [fault.kind for fault in pair.client.faults] == ["grpc-status 5"]


def test_a_reset_and_a_goaway_are_named() -> None:
    pair = Pair()
    pair.server.close_connection(11, additional_data=b"too_many_pings", last_stream_id=1)
    pair.exchange()
    pair.client.connection_lost(None)
    assert [str(fault) for fault in pair.client.faults] == ["closed by the server: GOAWAY 11 too_many_pings"]
    pair = Pair()
    pair.respond()
    pair.server.reset_stream(1, 8)
    pair.exchange()
    assert [fault.kind for fault in pair.client.faults] == ["RST_STREAM 8"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "no HTTP/2 there: it said b'HTTP/1.1"),
        (frame(DATA, 0, 1, grpc(b"")), "no HTTP/2 there"),
    ],
)
def test_another_protocol_is_told_by_its_first_bytes(data: bytes, said: str) -> None:
    pair = Pair()
    pair.client.begin()
    pair.client.data_received(data)
    assert said in str(pair.client.faults[0])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xff\xff\0\0\0\0\0\1", "a frame of 16777215 bytes"),
        (frame(DATA, 8, 1, b"\xff"), "padding longer"),
        (frame(DATA, 0, 1, b"\1\0\0\0\0"), "compressed"),
        (frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"), "a message of 4294967295 bytes"),
        (frame(DATA, 0, 1, grpc(b"\xff\xff")), "malformed response"),
        (frame(DATA, 1, 1, b""), "ended without a status"),
        (frame(HEADERS, 0, 1, b"x") + frame(DATA, 0, 1), "within a header block"),
        (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"), "can't be decoded"),
        (frame(HEADERS, 0, 1, b"x" * 16_000) + frame(9, 0, 1, b"x" * 16_000) * 5, "headers of more than"),
    ],
)
def test_what_http2_and_grpc_forbid_ends_the_stream_once(data: bytes, said: str) -> None:
    pair = Pair()
    pair.respond()
    pair.exchange()
    pair.client.data_received(data + b"\0" * 100)
    pair.client.connection_lost(None)
    assert [said in str(fault) for fault in pair.client.faults] == [True]
    assert pair.wire.closed


def test_data_before_headers_is_an_error_and_nothing_is_reported_after_leaving() -> None:
    pair = Pair()
    pair.client.data_received(frame(DATA, 0, 1, grpc(b"")))
    assert "DATA before HEADERS" in str(pair.client.faults[0])
    pair = Pair()
    pair.client.leave()
    pair.client.data_received(frame(DATA, 0, 1, grpc(b"")))
    pair.client.connection_lost(ConnectionResetError())
    assert (pair.client.faults, pair.client.left) == ([], True)


def test_a_server_that_never_opens_its_window_is_given_up() -> None:
    pair = Pair(server_window=0)
    for _ in range(10_001):
        pair.client.send(Outgoing.of([b"x"]))
    assert [fault.kind for fault in pair.client.faults] == ["the server takes no requests"]


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_at_all_end_in_a_named_fault_or_in_nothing(data: bytes, piece: int) -> None:
    pair = Pair()
    pair.respond()
    pair.exchange()
    for at in range(0, len(data), piece):
        pair.client.data_received(data[at : at + piece])
    assert len(pair.client.faults) <= 1
    assert pair.client.left == bool(pair.client.faults)
