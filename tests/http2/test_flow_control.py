"""Flow control both ways (RFC 9113, 5.2 and 6.9): exactly the allowed bytes, without delaying other clients.

The client is ``h2``, which raises if it receives a byte too many, or may not send a byte that the server owes it.
"""

import contextlib
import time

import pytest
from h2.exceptions import StreamClosedError
from support import native_peer as p
from support import resources as r
from support.native_h2 import INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, H2Client
from support.native_peer import Peer, delta_request, frame, message, request_fields, settings_frame, window_update
from support.native_server import MIB, NativeServer, check_sound, secret
from support.wire import wire

WINDOW = 65_535


def names_in(encoded: bytes) -> list[str]:
    """Return the names of a response's resources."""
    said = wire.DeltaDiscoveryResponse.FromString(encoded)
    return [wire.Resource.FromString(each).name for each in said.resources]


def test_no_window_no_data_and_then_exactly_what_is_allowed(server: NativeServer):
    with H2Client(server.port, settings={INITIAL_WINDOW_SIZE: 0}) as client:
        stream = client.open(delta_request(r.SECRET, "small"))
        client.wait(lambda: client.answers[stream].headers)
        client.settled()
        answer = client.answers[stream]
        assert answer.data == b""
        got = 0
        for increment in (1, 4, 5, 90):
            client.credit(increment, stream)
            got += increment
            client.wait(lambda got=got: len(answer.data) == got)
            client.settled()
            assert len(answer.data) == got
        client.credit(10_000, stream)
        client.wait(answer.messages)
        assert names_in(answer.messages()[0]) == ["small"]


def test_the_connections_window_is_shared_and_kept(server: NativeServer):
    """Two streams have a mebibyte each to send; the connection allows 65,535 bytes, then whatever it is granted."""
    with H2Client(server.port, settings={INITIAL_WINDOW_SIZE: 2 * MIB}) as client:
        first = client.open(delta_request(r.SECRET, "big"))
        second = client.open(delta_request(r.SECRET, "big", node_id="n2"))

        def sent() -> int:
            return sum(len(answer.data) for answer in client.answers.values())

        client.wait(lambda: sent() == WINDOW)
        client.settled()
        assert sent() == WINDOW
        client.credit(1_000)
        client.wait(lambda: sent() == WINDOW + 1_000)
        client.settled()
        assert sent() == WINDOW + 1_000
        for _ in range(40):
            client.credit(MIB // 16)
            client.settled()
        for stream in (first, second):
            client.wait(client.answers[stream].messages)
            assert names_in(client.answers[stream].messages()[0]) == ["big"]


def test_no_stream_is_starved_of_the_connections_window(server: NativeServer):
    """Streams that wait for the connection's window take turns."""
    with H2Client(server.port, settings={INITIAL_WINDOW_SIZE: 2 * MIB}) as client:
        streams = [client.open(delta_request(r.SECRET, "big", node_id=f"n{number}")) for number in range(4)]
        client.settled()
        for _ in range(60):
            client.credit(p.FRAME_BYTES_MAX)
            client.settled()
        got = [len(client.answers[stream].data) for stream in streams]
        assert sum(got) == WINDOW + 60 * p.FRAME_BYTES_MAX
        assert min(got) > 0, got


def test_a_larger_initial_window_lets_what_waits_go_on(server: NativeServer):
    with H2Client(server.port, settings={INITIAL_WINDOW_SIZE: 10}) as client:
        streams = [client.open(delta_request(r.SECRET, "small", node_id=f"n{number}")) for number in range(3)]
        for stream in streams:
            client.wait(lambda stream=stream: len(client.answers[stream].data) == 10)
        client.update({INITIAL_WINDOW_SIZE: 30})
        for stream in streams:
            client.wait(lambda stream=stream: len(client.answers[stream].data) == 30)
        client.settled()
        assert [len(client.answers[stream].data) for stream in streams] == [30, 30, 30]


def test_a_smaller_initial_window_makes_windows_negative(server: NativeServer):
    """RFC 9113, 6.9.2: no data is sent until WINDOW_UPDATE frames make the window positive."""
    with H2Client(server.port, settings={INITIAL_WINDOW_SIZE: 1_000}) as client:
        stream = client.open(delta_request(r.SECRET, "big"))
        answer = client.answers[stream]
        client.wait(lambda: len(answer.data) == 1_000)
        client.update({INITIAL_WINDOW_SIZE: 100})  # the window is -900 now
        client.credit(900, stream)
        client.settled()
        assert len(answer.data) == 1_000
        client.credit(1, stream)
        client.wait(lambda: len(answer.data) == 1_001)
        client.settled()
        assert len(answer.data) == 1_001
        client.update({INITIAL_WINDOW_SIZE: 150})
        client.wait(lambda: len(answer.data) == 1_051)
        client.settled()
        assert len(answer.data) == 1_051


def test_several_values_in_one_settings_frame_count_one_after_the_other(server: NativeServer):
    """RFC 9113, 6.5.3; the last one holds."""
    with Peer(server.port, settings={p.INITIAL_WINDOW_SIZE: 10}) as peer:
        answer = peer.open(1, delta_request(r.SECRET, "big"))
        peer.wait(lambda: len(answer.data) == 10)
        pairs = [(p.INITIAL_WINDOW_SIZE, value) for value in (0, 500, 5, 25)]
        peer.send(settings_frame(pairs))
        peer.wait(lambda: len(answer.data) >= 25)
        peer.settled()
        # Only data that was sent under the larger value may still be in flight.
        assert len(answer.data) in (25, 500)


@pytest.mark.parametrize("frame_bytes", [16_384, 20_000, 2**24 - 1])
def test_no_frame_is_larger_than_the_client_takes(server: NativeServer, frame_bytes: int):
    settings = {INITIAL_WINDOW_SIZE: 4 * MIB, MAX_FRAME_SIZE: frame_bytes}
    with H2Client(server.port, settings=settings, generous=True) as client:
        stream = client.open(delta_request(r.SECRET, "big"))
        client.wait(client.answers[stream].messages)
        assert max(size for _, size in client.data_frames) <= frame_bytes


def test_a_status_needs_no_window(server: NativeServer):
    """Trailers are not flow-controlled: they are sent even without a window."""
    with H2Client(server.port, settings={INITIAL_WINDOW_SIZE: 0}) as client:
        stream = client.open(delta_request(""))
        client.wait(lambda: client.answers[stream].ended)
        assert client.answers[stream].status == 3


def test_a_stream_that_can_not_be_written_to_can_still_end(server: NativeServer):
    """Half a message can't be followed by a status; the stream is then reset, and the connection goes on."""
    with H2Client(server.port, settings={INITIAL_WINDOW_SIZE: 100}) as client:
        stream = client.open(delta_request(r.SECRET, "big"))
        answer = client.answers[stream]
        client.wait(lambda: len(answer.data) == 100)
        client.send(stream, message(b"\xff\xff\xff"))
        client.wait(lambda: answer.ended or answer.reset is not None)
        server.wait_streams(0)
        client.credit(100_000)
        client.settled()
        assert len(answer.data) == 100
        other = client.open(delta_request(r.SECRET, "small", node_id="n2"))
        client.wait(lambda: len(client.answers[other].data) == 100)


def test_a_reset_frees_what_waits_to_be_sent(server: NativeServer):
    with H2Client(server.port, settings={INITIAL_WINDOW_SIZE: 2 * MIB}) as client:
        unread = client.open(delta_request(r.SECRET, "big"))
        client.wait(lambda: len(client.answers[unread].data) == WINDOW)
        client.reset(unread)
        server.wait_streams(0)
        other = client.open(delta_request(r.SECRET, "small"))
        client.credit(10_000)
        client.wait(client.answers[other].messages)
        client.settled()
        assert len(client.answers[unread].data) == WINDOW


# --- What the client sends -------------------------------------------------------------------------------------------


def test_a_message_of_many_windows_is_taken_from_a_client_that_keeps_to_them(server: NativeServer):
    made = wire.DeltaDiscoveryRequest(type_url=r.CLUSTER, resource_names_subscribe=["x" * (8 * MIB)])
    made.node.CopyFrom(wire.Node(id="n1", cluster="c1"))
    with H2Client(server.port, generous=True) as client:
        stream = client.open()
        client.send(stream, message(made.SerializeToString()))
        client.wait(lambda: client.answers[stream].messages() or client.answers[stream].ended)
        assert client.answers[stream].status in (None, 3)  # the message was accepted whole, whatever its content


def test_messages_without_end_on_one_stream_are_taken(server: NativeServer):
    """The server returns credit for what it has read: a long-lived stream sends many windows of ACKs."""
    with H2Client(server.port, generous=True) as client:
        stream = client.open(delta_request())
        client.wait(client.answers[stream].messages)
        nonce = wire.DeltaDiscoveryResponse.FromString(client.answers[stream].messages()[0]).nonce
        ack = wire.DeltaDiscoveryRequest(type_url=r.CLUSTER, response_nonce=nonce)
        ack.node.CopyFrom(wire.Node(id="n1", cluster="c1", user_agent_version="v" * 4_000))
        for _ in range(600):  # 2.4 MB: more than the windows of stream and connection
            client.send(stream, message(ack.SerializeToString()))
        client.settled()
        assert not client.answers[stream].ended


def test_data_beyond_the_streams_window_is_an_error(server: NativeServer):
    with Peer(server.port) as peer:
        peer.settled()
        answer = peer.open(1)
        window = peer.server_settings.get(p.INITIAL_WINDOW_SIZE, WINDOW)
        # One message, so that no credit is returned before it is complete.
        peer.data(1, b"\0" + (900_000).to_bytes(4, "big"))
        for _ in range(window // p.FRAME_BYTES_MAX + 60):
            peer.send(frame(p.DATA, 0, 1, bytes(p.FRAME_BYTES_MAX)))
        try:
            peer.wait(lambda: answer.reset is not None)
            assert answer.reset == p.FLOW_CONTROL_ERROR
        except ConnectionError:
            assert peer.goaway is not None
            assert peer.goaway.error_code == p.FLOW_CONTROL_ERROR


def test_data_of_streams_that_are_over_does_not_use_up_the_connection(server: NativeServer):
    """RFC 9113, 5.1 and 6.9: it counts towards the connection's window, so its credit must be returned there."""
    with H2Client(server.port, generous=True) as client:
        for _ in range(120):  # 120 × 60,000 bytes: seven times the connection's window
            stream = client.open(path="/no.Service/Method")
            # h2 notices that the server has ended the stream, and then refuses to send on it.
            with contextlib.suppress(StreamClosedError):
                client.send(stream, bytes(60_000))
            client.wait(lambda stream=stream: client.answers[stream].ended)
    with Peer(server.port) as peer:
        peer.settled()
        for number in range(1, 121, 2):
            peer.send(peer.head(number, request_fields("/no.Service/Method")), b"")
            for _ in range(4):
                peer.send(frame(p.DATA, 0, number, bytes(15_000)))
            peer.wait(lambda number=number: peer.answer(number).ended)
            peer.settled()


def test_padding_counts_and_is_given_back(server: NativeServer):
    """Frames of padding alone, a few at a time and with real messages between: 20 windows of the connection."""
    with Peer(server.port) as peer:
        answer = peer.open(1, delta_request())
        peer.wait(answer.messages)
        nonce = wire.DeltaDiscoveryResponse.FromString(answer.messages()[0]).nonce
        ack = message(wire.DeltaDiscoveryRequest(type_url=r.CLUSTER, response_nonce=nonce).SerializeToString())
        for _ in range(1_000):
            padded = bytes((255,)) + ack + bytes(255)
            peer.send(frame(p.DATA, p.PADDED, 1, padded))
        peer.settled()
        assert not answer.ended
        assert answer.reset is None


def test_windows_beyond_their_maximum_are_errors(server: NativeServer):
    with Peer(server.port) as peer:
        answer = peer.open(1, delta_request())
        peer.send(window_update(1, 2**31 - 1))
        peer.wait(lambda: answer.reset is not None)
        assert answer.reset == p.FLOW_CONTROL_ERROR
        peer.send(window_update(0, 2**31 - 1))
        assert peer.closed() == p.FLOW_CONTROL_ERROR
    with Peer(server.port) as peer:  # by SETTINGS: the stream's window is already at its maximum
        peer.open(1, delta_request())
        peer.send(window_update(1, 2**31 - 1 - WINDOW))
        peer.send(settings_frame({p.INITIAL_WINDOW_SIZE: WINDOW + 1_000}))
        assert peer.closed() == p.FLOW_CONTROL_ERROR


# --- Clients that do not read ----------------------------------------------------------------------------------------


def test_credit_byte_by_byte_gets_its_bytes_at_a_bounded_price(server: NativeServer):
    """CVE-2019-9511: a large object, requested through a window that opens a byte at a time."""
    cpu = server.cpu_s()
    with Peer(server.port, settings={p.INITIAL_WINDOW_SIZE: 0}) as peer:
        for number in range(1, 21, 2):
            peer.open(number, delta_request(r.SECRET, "big", node_id=f"n{number}"))
        peer.settled()
        updates = (window_update(1 + 2 * (number % 10), 1) for number in range(100_000))
        ended = peer.flood(updates)
        assert ended.closed
    assert server.cpu_s() - cpu < 2.0


def test_a_window_wide_open_and_nobody_reading_costs_bounded_memory(server: NativeServer):
    """CVE-2019-9517: TCP's window is closed, HTTP/2's is open; 200 MiB are requested."""
    memory = server.memory_bytes()
    with Peer(server.port, settings={p.INITIAL_WINDOW_SIZE: 2**31 - 1}, receive_buffer_bytes=4_096) as peer:
        peer.send(window_update(0, 2**31 - 1 - WINDOW))
        for number in range(1, 401, 2):
            peer.open(number, delta_request(r.SECRET, "big", node_id=f"n{number}"))
        server.wait_streams(200)
        for _ in range(10):
            server.apply(secret("big", MIB, "t"))
            server.apply(secret("big", MIB, "s"))
        assert server.memory_bytes() - memory < 40 * MIB
    server.wait_streams(0)


def test_slow_readers_do_not_slow_the_others(server: NativeServer):
    """Ten connections read nothing of a mebibyte each; an eleventh gets its changes without delay."""
    slow = [Peer(server.port, settings={p.INITIAL_WINDOW_SIZE: 2**30}, receive_buffer_bytes=4_096) for _ in range(10)]
    for number, peer in enumerate(slow):
        peer.send(window_update(0, 2**30))
        peer.open(1, delta_request(r.SECRET, "big", node_id=f"slow-{number}"))
    server.wait_streams(10)
    with H2Client(server.port, generous=True) as client:
        stream = client.open(delta_request(r.SECRET, "small"))
        answer = client.answers[stream]
        slowest_s = 0.0
        for number in range(30):
            client.wait(lambda number=number: len(answer.messages()) == number + 1)
            nonce = wire.DeltaDiscoveryResponse.FromString(answer.messages()[-1]).nonce
            ack = wire.DeltaDiscoveryRequest(type_url=r.SECRET, response_nonce=nonce)
            client.send(stream, message(ack.SerializeToString()))
            began = time.monotonic()
            server.apply(secret("small", 100, "tu"[number % 2]), secret("big", MIB, "tu"[number % 2]))
            client.wait(lambda number=number: len(answer.messages()) == number + 2)
            slowest_s = max(slowest_s, time.monotonic() - began)
        assert slowest_s < 1.0
    for peer in slow:
        peer.close()
    server.apply(secret("small", 100), secret("big", MIB))


# --- Many ------------------------------------------------------------------------------------------------------------


def test_eleven_hundred_streams_on_one_connection_are_all_served(server: NativeServer):
    with H2Client(server.port, settings={INITIAL_WINDOW_SIZE: WINDOW}, generous=True, timeout_s=20.0) as client:
        streams = [client.open(delta_request(node_id=f"n{number}")) for number in range(1_100)]
        client.wait(lambda: all(client.answers[stream].messages() for stream in streams))
        server.wait_streams(1_100)
        for stream in streams:
            nonce = wire.DeltaDiscoveryResponse.FromString(client.answers[stream].messages()[0]).nonce
            ack = wire.DeltaDiscoveryRequest(type_url=r.CLUSTER, response_nonce=nonce)
            client.send(stream, message(ack.SerializeToString()))
        client.settled()
        server.apply(r.static_cluster("b", 1))
        client.wait(lambda: all(len(client.answers[stream].messages()) == 2 for stream in streams))
        assert {tuple(names_in(client.answers[stream].messages()[1])) for stream in streams} == {("b",)}
    server.wait_streams(0)
    server.apply(remove=[("clusters", "b")])


def test_streams_beyond_the_limit_are_refused_and_may_be_tried_again():
    """RFC 9113, 5.1.2 and 8.7: REFUSED_STREAM means that the request was not processed."""
    with NativeServer(resources=[r.static_cluster("a", 1)], limits={"streams_max": 5}) as server:
        with Peer(server.port) as peer:
            for number in range(1, 11, 2):
                peer.wait(peer.open(number, delta_request(node_id=f"n{number}")).messages)
            assert peer.server_settings[p.MAX_CONCURRENT_STREAMS] == 5
            refused = peer.open(11, delta_request())
            peer.wait(lambda: refused.reset is not None)
            assert refused.reset == p.REFUSED_STREAM
            peer.send(p.reset(1))
            peer.wait(peer.open(13, delta_request()).messages)
            server.wait_streams(5)
        check_sound(server)
