"""Requests frame by frame, gRPC and others, and how each ends (grpc/grpc, doc/PROTOCOL-HTTP2.md)."""

import struct
import time

import pytest
from grpc_health.v1 import health_pb2
from support import native_peer as p
from support import resources as r
from support.native_peer import Answer, Peer, delta_request, frame, message, request_fields
from support.native_server import NativeServer
from support.wire import wire

OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 4, 8, 12, 13
CHECK = message(health_pb2.HealthCheckRequest(service="").SerializeToString())


def over(peer: Peer, answer: Answer) -> Answer:
    """Wait for the end or the reset of a stream."""
    peer.wait(lambda: answer.ended or answer.reset is not None)
    return answer


def is_served(answer: Answer) -> bool:
    return [wire.DeltaDiscoveryResponse.FromString(each).type_url for each in answer.messages()] == [r.CLUSTER]


# --- Which requests are gRPC -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc; charset=utf-8",
        "application/grpc;charset=utf-8",
        "application/grpc+proto;charset=utf-8",
    ],
)
def test_every_form_of_the_content_type_is_served(server: NativeServer, content_type: str):
    with Peer(server.port) as peer:
        answer = peer.open(1, delta_request(), fields=request_fields(content_type=content_type))
        peer.wait(answer.messages)
        assert is_served(answer)
        assert answer.headers[":status"] == "200"
        assert answer.headers["content-type"].startswith("application/grpc")


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/grpc-web", "grpc", ""])
def test_another_content_type_is_415(server: NativeServer, content_type: str):
    with Peer(server.port) as peer:
        answer = over(peer, peer.open(1, delta_request(), fields=request_fields(content_type=content_type)))
        assert answer.headers[":status"] == "415"
        assert answer.status is None or answer.status > 0


def test_no_content_type_is_415(server: NativeServer):
    with Peer(server.port) as peer:
        answer = over(peer, peer.open(1, fields=request_fields(drop=["content-type"]), end=True))
        assert answer.headers[":status"] == "415"


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "OPTIONS", "DELETE"])
def test_another_method_than_post_is_405(server: NativeServer, method: str):
    with Peer(server.port) as peer:
        answer = over(peer, peer.open(1, fields=request_fields(method=method), end=True))
        assert answer.headers[":status"] == "405"
        if method == "HEAD":
            assert answer.data == b""
        length = answer.headers.get("content-length")
        assert length is None or method == "HEAD" or int(length) == len(answer.data)


def test_connect_opens_no_tunnel(server: NativeServer):
    """RFC 9113, 8.5: CONNECT has neither :scheme nor :path."""
    with Peer(server.port) as peer:
        fields = [(":method", "CONNECT"), (":authority", "localhost:80")]
        answer = over(peer, peer.open(1, fields=fields))
        assert answer.reset is not None or answer.headers[":status"][0] in "45"
        peer.settled()


@pytest.mark.parametrize("fields", [request_fields(drop=["te"]), request_fields(drop=[":authority"])])
def test_headers_that_only_describe_proxies_may_be_missing(server: NativeServer, fields: list[tuple[str, str]]):
    with Peer(server.port) as peer:
        answer = peer.open(1, delta_request(), fields=fields)
        peer.wait(answer.messages)
        assert is_served(answer)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/no.Service/Method",
        p.DELTA_ADS + "/",
        p.DELTA_ADS[1:],
        p.DELTA_ADS.upper(),
        "//",
        "/é",
        "*",
        "/" + "x" * 8_000,
    ],
)
def test_an_unknown_path_is_unimplemented_in_a_single_frame(server: NativeServer, path: str):
    """Trailers-Only: one HEADERS frame with the HTTP status, the content type and the gRPC status."""
    with Peer(server.port) as peer:
        answer = over(peer, peer.open(1, delta_request(), fields=request_fields(path)))
        assert answer.headers[":status"] == "200"
        assert answer.headers["content-type"].startswith("application/grpc")
        assert (answer.status, answer.header_frames, answer.data) == (UNIMPLEMENTED, 1, b"")


def test_a_client_still_sending_when_it_is_refused_is_told_to_stop(server: NativeServer):
    """RFC 9113, 8.1: RST_STREAM with NO_ERROR instead of more credit; sent earlier, some clients lose the status."""
    with Peer(server.port) as peer:
        answer = peer.open(1, b"\0" + (1_000_000).to_bytes(4, "big") + bytes(100), fields=request_fields("/x/Y"))
        peer.wait(lambda: answer.ended)
        peer.settled()
        assert answer.reset is None
        peer.data(1, bytes(48_000))
        peer.wait(lambda: answer.reset is not None)
        peer.settled()
        assert (answer.status, answer.resets) == (UNIMPLEMENTED, [p.NO_ERROR])


# --- Messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 30])
def test_messages_may_be_cut_anywhere(server: NativeServer, size: int):
    with Peer(server.port) as peer:
        answer = peer.open(1)
        asked = delta_request()
        for at in range(0, len(asked), size):
            peer.send(frame(p.DATA, 0, 1, asked[at : at + size]))
        peer.wait(answer.messages)
        assert is_served(answer)


def test_several_messages_may_come_in_one_frame(server: NativeServer):
    with Peer(server.port) as peer:
        more = wire.DeltaDiscoveryRequest(type_url=r.SECRET, resource_names_subscribe=["small"])
        answer = peer.open(1, delta_request() + message(more.SerializeToString()))
        peer.wait(lambda: len(answer.messages()) == 2)
        types = [wire.DeltaDiscoveryResponse.FromString(each).type_url for each in answer.messages()]
        assert types == [r.CLUSTER, r.SECRET]


@pytest.mark.parametrize("padding", [0, 1, 100, 255])
def test_padding_is_no_part_of_a_message(server: NativeServer, padding: int):
    with Peer(server.port) as peer:
        block = peer.block(request_fields())
        peer.send(frame(p.HEADERS, p.END_HEADERS | p.PADDED, 1, bytes((padding,)) + block + bytes(padding)))
        peer.send(frame(p.DATA, p.PADDED, 1, bytes((padding,)) + delta_request() + bytes(padding)))
        peer.wait(peer.answer(1).messages)
        assert is_served(peer.answer(1))


def test_priority_in_headers_is_read_over(server: NativeServer):
    with Peer(server.port) as peer:
        payload = struct.pack(">IB", 0x80000000, 200) + peer.block(request_fields())
        peer.send(frame(p.HEADERS, p.END_HEADERS | p.PRIORITIZED, 1, payload), frame(p.DATA, 0, 1, delta_request()))
        peer.wait(peer.answer(1).messages)
        assert is_served(peer.answer(1))


def test_an_end_without_a_message_ends_well(server: NativeServer):
    with Peer(server.port) as peer:
        for number, fields in ((1, None), (3, request_fields(p.HEALTH_WATCH)), (5, request_fields(p.HEALTH_CHECK))):
            answer = over(peer, peer.open(number, fields=fields, end=True))
            assert answer.reset is None
            assert answer.status is not None
            assert (answer.status == OK) == (number == 1)  # the others need their one message


def test_half_closed_streams_of_xds_end_well(server: NativeServer):
    with Peer(server.port) as peer:
        answer = over(peer, peer.open(1, delta_request(), end=True))
        assert (answer.status, answer.reset) == (OK, None)


def test_trailers_of_the_client_end_its_half(server: NativeServer):
    with Peer(server.port) as peer:
        answer = peer.open(1, CHECK, fields=request_fields(p.HEALTH_CHECK))
        peer.send(frame(p.HEADERS, p.END_HEADERS | p.END_STREAM, 1, peer.block([("x-checksum", "1")])))
        over(peer, answer)
        assert (answer.status, len(answer.messages())) == (OK, 1)


@pytest.mark.parametrize("cut", [1, 4, 5, 20])
def test_an_end_within_a_message_is_an_error(server: NativeServer, cut: int):
    with Peer(server.port) as peer:
        answer = over(peer, peer.open(1, delta_request()[:cut], end=True))
        assert answer.status not in (OK, None) or answer.reset not in (None, p.NO_ERROR)
        health = over(
            peer, peer.open(3, (CHECK + message(b"more"))[: 5 + cut], fields=request_fields(p.HEALTH_CHECK), end=True)
        )
        assert health.status not in (OK, None) or health.reset not in (None, p.NO_ERROR)


@pytest.mark.parametrize("flag", [1, 2, 255])
def test_a_compressed_message_without_an_encoding_is_an_error(server: NativeServer, flag: int):
    with Peer(server.port) as peer:
        answer = over(peer, peer.open(1, message(b"compressed", flag=flag)))
        assert answer.status == INTERNAL


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "snappy", "x-unheard-of"])
def test_a_compressed_message_is_refused_with_what_would_be_taken(server: NativeServer, encoding: str):
    with Peer(server.port) as peer:
        fields = request_fields(grpc_encoding=encoding)
        answer = over(peer, peer.open(1, message(b"compressed", flag=1), fields=fields))
        assert answer.status == UNIMPLEMENTED
        assert (answer.headers | answer.trailers)["grpc-accept-encoding"] == "identity"
        assert encoding.partition("-")[0] or answer.text


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_an_encoding_that_is_not_used_is_ignored(server: NativeServer, encoding: str):
    with Peer(server.port) as peer:
        answer = peer.open(1, delta_request(), fields=request_fields(grpc_encoding=encoding))
        peer.wait(answer.messages)
        assert is_served(answer)


def test_answers_are_never_compressed_whatever_the_client_takes(server: NativeServer):
    with Peer(server.port) as peer:
        answer = peer.open(1, delta_request(), fields=request_fields(grpc_accept_encoding="gzip,deflate"))
        peer.wait(answer.messages)
        assert answer.data[0] == 0
        assert answer.headers.get("grpc-encoding", "identity") == "identity"


def test_a_message_that_announces_more_than_the_limit_is_refused_at_once(server: NativeServer):
    """Four gibibytes: it is refused before any of it arrives, and no memory is reserved for it."""
    memory = server.memory_bytes()
    with Peer(server.port) as peer:
        answer = over(peer, peer.open(1, b"\0\xff\xff\xff\xff"))
        assert answer.status == RESOURCE_EXHAUSTED
        assert "4294967295" in answer.text
        peer.settled()
    assert server.memory_bytes() - memory < 8 << 20


def test_a_unary_call_gets_one_message_and_a_status(server: NativeServer):
    with Peer(server.port) as peer:
        answer = over(peer, peer.open(1, CHECK, fields=request_fields(p.HEALTH_CHECK), end=True))
        said = [health_pb2.HealthCheckResponse.FromString(each).status for each in answer.messages()]
        assert (said, answer.status) == ([health_pb2.HealthCheckResponse.SERVING], OK)
        assert answer.header_frames == 2


# --- Deadlines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", ["100m", "100000u", "99999999n"])
def test_a_deadline_is_kept_by_the_server_itself(server: NativeServer, timeout: str):
    with Peer(server.port) as peer:
        began = time.monotonic()
        answer = over(peer, peer.open(1, delta_request(), fields=request_fields(grpc_timeout=timeout)))
        assert answer.status == DEADLINE_EXCEEDED
        assert 0.08 < time.monotonic() - began < 2.0
        assert is_served(answer)


@pytest.mark.parametrize("timeout", ["1n", "0S", "0m"])
def test_a_deadline_that_has_passed_ends_the_call_at_once(server: NativeServer, timeout: str):
    with Peer(server.port) as peer:
        answer = over(peer, peer.open(1, delta_request(), fields=request_fields(grpc_timeout=timeout)))
        assert answer.status == DEADLINE_EXCEEDED


@pytest.mark.parametrize("timeout", ["99999999H", "10M", "00000010S"])
def test_a_distant_deadline_is_accepted(server: NativeServer, timeout: str):
    with Peer(server.port) as peer:
        answer = peer.open(1, delta_request(), fields=request_fields(grpc_timeout=timeout))
        peer.wait(answer.messages)
        peer.settled()
        assert not answer.ended


@pytest.mark.parametrize("timeout", ["soon", "1", "S", "-1S", "1.5S", "123456789S", "1x", "٣S"])
def test_a_malformed_deadline_is_an_error_of_its_own_call(server: NativeServer, timeout: str):
    with Peer(server.port) as peer:
        answer = over(peer, peer.open(1, delta_request(), fields=request_fields(grpc_timeout=timeout)))
        assert answer.status in (3, INTERNAL) or answer.headers.get(":status") == "400"
        peer.settled()


def test_deadlines_of_many_streams_are_all_kept(server: NativeServer):
    with Peer(server.port) as peer:
        numbers = range(1, 401, 2)
        for number in numbers:
            fields = request_fields(grpc_timeout=f"{50 + number % 100}m")
            peer.open(number, delta_request(node_id=f"n{number}"), fields=fields)
        peer.wait(lambda: all(peer.answer(number).ended for number in numbers))
        assert {peer.answer(number).status for number in numbers} == {DEADLINE_EXCEEDED}


# --- Ends ------------------------------------------------------------------------------------------------------------


def test_a_reset_stream_is_forgotten_and_nothing_more_is_said_on_it(server: NativeServer):
    with Peer(server.port) as peer:
        answer = peer.open(1, delta_request(r.SECRET, "small"))
        peer.wait(answer.messages)
        peer.send(p.reset(1))
        server.wait_streams(0)
        before = len(answer.data)
        later = peer.open(3, delta_request())
        peer.wait(later.messages)
        assert (len(answer.data), answer.ended, answer.reset) == (before, False, None)


def test_what_still_comes_for_a_reset_stream_is_ignored(server: NativeServer):
    """RFC 9113, 5.1, closed: frames that were in flight when the server reset the stream."""
    with Peer(server.port) as peer:
        answer = peer.open(1)
        peer.send(frame(p.DATA, 0, 1, b"\0\0\0\0\x03abc"))  # no request: the server ends it
        over(peer, answer)
        late = [frame(p.DATA, 0, 1, b"late"), p.window_update(1, 1_000), p.reset(1), frame(p.PRIORITY, 0, 1, bytes(5))]
        for one in late:
            peer.send(one)
        assert all(found.stream_id != 1 or found.type == p.RST_STREAM for found in peer.settled())


def test_the_largest_stream_number_is_a_stream_like_any_other(server: NativeServer):
    with Peer(server.port) as peer:
        answer = peer.open(2**31 - 1, delta_request())
        peer.wait(answer.messages)
        assert is_served(answer)


def test_a_stream_number_must_not_go_back(server: NativeServer):
    """RFC 9113, 5.1.1."""
    with Peer(server.port) as peer:
        peer.wait(peer.open(7, delta_request()).messages)
        peer.open(5, delta_request())
        assert peer.closed() == p.PROTOCOL_ERROR
