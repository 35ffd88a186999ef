"""The start, idle time and end of connections, with clients that are slow, silent or disconnect."""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator

import pytest
from hyperframe.frame import PingFrame
from support import native_peer as p
from support import resources as r
from support.native_h2 import H2Client
from support.native_peer import PREFACE, Peer, delta_request, frame, message, settings_frame
from support.native_server import MIB, NativeServer, check_sound, secret
from support.pki import Authority

UNAVAILABLE = 14
HANDSHAKE_S = 1.0
IDLE_S = 2.0
SWEEP_S = 1.0
"""How often the server checks for silent connections."""


@pytest.fixture(scope="module")
def _hasty() -> Iterator[NativeServer]:
    settings = {"transport": {"kind": "native", "keepalive_interval_s": 1, "keepalive_timeout_s": 0.5}}
    options = {"handshake_s": HANDSHAKE_S, "idle_s": IDLE_S}
    with NativeServer(resources=[r.static_cluster("a", 1)], settings=settings, options=options) as server:
        yield server


@pytest.fixture
def hasty(_hasty: NativeServer) -> Iterator[NativeServer]:
    """A server with short time-outs."""
    yield _hasty
    check_sound(_hasty)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def secure(authority: Authority) -> Iterator[NativeServer]:
    """A server with TLS and short time-outs."""
    pair = authority.server()
    settings = {"tls": {"cert": str(pair.cert_path), "key": str(pair.key_path)}}
    resources = [r.static_cluster("a", 1), secret("big", MIB)]
    with NativeServer(resources=resources, settings=settings, options={"handshake_s": HANDSHAKE_S}) as server:
        yield server


def context(authority: Authority, *protocols: str) -> ssl.SSLContext:
    made = authority.client_context()
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


# --- Beginnings ------------------------------------------------------------------------------------------------------


def test_the_server_answers_the_preface_with_its_settings(server: NativeServer):
    """RFC 9113, 3.4: the server's connection preface, which it sends first."""
    with Peer(server.port, hello=False) as peer:
        peer.send(PREFACE)
        first = peer.read()
        assert first is not None
        assert first.type == p.SETTINGS
        assert first.flags == set()


@pytest.mark.parametrize("size", [1, 2, 23, 24, 25])
def test_a_preface_may_come_in_pieces(server: NativeServer, size: int):
    with Peer(server.port, hello=False) as peer:
        said = PREFACE + settings_frame()
        for at in range(0, len(said), size):
            peer.send(said[at : at + size])
        answer = peer.open(1, delta_request())
        peer.wait(answer.messages)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        bytes(24),
    ],
)
def test_who_does_not_speak_http2_is_sent_away(server: NativeServer, said: bytes):
    with Peer(server.port, hello=False) as peer:
        peer.send(said)
        assert peer.closed() in (p.PROTOCOL_ERROR, None)


@pytest.mark.parametrize("first", [p.ping(), frame(p.SETTINGS, p.ACK, 0), frame(p.HEADERS, p.END_HEADERS, 1, b"\x83")])
def test_the_preface_ends_with_settings(server: NativeServer, first: bytes):
    """RFC 9113, 3.4."""
    with Peer(server.port, hello=False) as peer:
        peer.send(PREFACE, first)
        assert peer.closed() == p.PROTOCOL_ERROR


@pytest.mark.parametrize("path", [p.DELTA_ADS, "/grpc.health.v1.Health/Watch"])
def test_a_connection_whose_streams_never_ask_for_anything_is_closed(hasty: NativeServer, path: str):
    """Even if it answers the server's pings."""
    with Peer(hasty.port) as peer:
        peer.send(peer.head(1, p.request_fields(path)))
        assert peer.closed(HANDSHAKE_S + 6 * SWEEP_S) == p.ENHANCE_YOUR_CALM


def test_a_connection_may_have_a_stream_that_asks_late_if_another_asked(hasty: NativeServer):
    with Peer(hasty.port) as peer:
        answer = peer.open(1, delta_request())
        peer.wait(answer.messages)
        peer.send(peer.head(3))
        began = time.monotonic()
        while time.monotonic() < began + HANDSHAKE_S + 3 * SWEEP_S:
            with contextlib.suppress(TimeoutError):
                assert peer.read(0.2) is not None


def test_settings_are_acknowledged_before_anything_that_they_allow(server: NativeServer):
    """RFC 9113, 6.5.3: immediately. Until then, a client enforces its former window."""
    with Peer(server.port, settings={p.INITIAL_WINDOW_SIZE: 10}) as peer:
        answer = peer.open(1, delta_request(r.SECRET, "small"))
        peer.wait(lambda: len(answer.data) == 10)
        peer.settled()
        peer.send(settings_frame({p.INITIAL_WINDOW_SIZE: 1_000}))
        first = peer.read()
        assert first is not None
        assert (first.type, first.flags) == (p.SETTINGS, {"ACK"})
        peer.wait(answer.messages)


def test_many_settings_over_many_streams_are_cheap(server: NativeServer):
    """A change of INITIAL_WINDOW_SIZE changes every stream's window: 2,000 changes in a frame, 1,000 streams."""
    cpu = server.cpu_s()
    with Peer(server.port) as peer:
        for number in range(1, 2_001, 2):
            peer.open(number, delta_request(r.SECRET, "none", node_id=f"n{number}"))
        server.wait_streams(1_000)
        pairs = [(p.INITIAL_WINDOW_SIZE, 1_000 + number % 2) for number in range(2_000)]
        ended = peer.flood(settings_frame(pairs) for _ in range(1_000))
        assert ended.closed
    assert server.cpu_s() - cpu < 6.0


# --- Clients that say nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", PREFACE[:10], PREFACE, PREFACE + settings_frame()[:5]], ids=repr)
def test_a_connection_without_a_preface_is_closed(hasty: NativeServer, said: bytes):
    """CVE-2007-6750, "Slowloris": connections that are held open by sending almost nothing."""
    with Peer(hasty.port, hello=False) as peer:
        peer.send(said)
        began = time.monotonic()
        peer.closed(HANDSHAKE_S + 3 * SWEEP_S)
        assert time.monotonic() - began > HANDSHAKE_S / 2


def test_a_preface_that_dribbles_is_given_no_more_time(hasty: NativeServer):
    """CVE-2007-6750, a byte now and then."""
    with Peer(hasty.port, hello=False, timeout_s=0.2) as peer:
        began = time.monotonic()
        for byte in PREFACE:
            peer.send(bytes((byte,)))
            try:
                peer.closed(0.2)
                break
            except TimeoutError:
                continue
        assert peer.eof
        assert time.monotonic() - began < HANDSHAKE_S + 3 * SWEEP_S


def test_a_frame_that_never_ends_is_given_no_more_time_than_silence(hasty: NativeServer):
    """A connection without streams in the middle of a frame, of which a byte arrives now and then."""
    with Peer(hasty.port, timeout_s=0.2) as peer:
        began = time.monotonic()
        peer.send(frame(p.HEADERS, p.END_HEADERS, 1, b"", length=10_000))
        while time.monotonic() < began + IDLE_S + 4 * SWEEP_S and not peer.eof:
            peer.send(b"\0")
            try:
                peer.closed(0.2)
            except TimeoutError:
                continue
        assert peer.eof


@pytest.mark.parametrize("pinging", [False, True])
def test_a_connection_without_a_stream_is_sent_away(hasty: NativeServer, pinging: bool):
    """With GOAWAY NO_ERROR. It matters that there is no stream, not whether bytes arrive."""
    with Peer(hasty.port, timeout_s=0.2) as peer:
        began = time.monotonic()
        while time.monotonic() < began + IDLE_S + 5 * SWEEP_S and not peer.eof:
            if pinging:
                peer.send(p.ping())
            try:
                peer.closed(0.2)
            except TimeoutError:
                continue
        assert peer.eof
        assert peer.goaway is not None
        assert peer.goaway.error_code == p.NO_ERROR


def test_who_answers_the_pings_stays(hasty: NativeServer):
    """For longer than the ping interval and its time-out together, without other traffic."""
    with Peer(hasty.port) as peer:
        answer = peer.open(1, delta_request())
        peer.wait(answer.messages)
        seen, began = 0, time.monotonic()
        while time.monotonic() < began + 6.0:
            with contextlib.suppress(TimeoutError):
                found = peer.read(0.2)
                assert found is not None, f"the server closed after {time.monotonic() - began:.1f} s: {peer.goaway}"
                seen += isinstance(found, PingFrame)
        assert seen >= 3


def test_who_answers_no_ping_is_sent_away(hasty: NativeServer):
    with Peer(hasty.port) as peer:
        answer = peer.open(1, delta_request())
        peer.wait(answer.messages)
        peer.answering = False
        began = time.monotonic()
        peer.closed(1 + 0.5 + 4 * SWEEP_S)
        assert time.monotonic() - began > 0.5
        hasty.wait_streams(0)


def test_two_thousand_connections_that_say_nothing_are_cheap_and_keep_nobody_out(server: NativeServer):
    server.wait_sockets(server.sockets_idle)
    memory = server.memory_bytes()
    idle = []
    for _ in range(2_000):
        one = socket.create_connection(("127.0.0.1", server.port))
        one.sendall(PREFACE + settings_frame())
        idle.append(one)
    server.wait_sockets(server.sockets_idle + 2_000)
    with H2Client(server.port) as client:
        stream = client.open(delta_request())
        client.wait(client.answers[stream].messages)
    assert server.memory_bytes() - memory < 2_000 * 8_192
    for one in idle:
        one.close()
    server.wait_sockets(server.sockets_idle)


# --- TLS -------------------------------------------------------------------------------------------------------------


def test_tls_agrees_on_h2(secure: NativeServer, authority: Authority):
    with Peer(secure.port, tls=context(authority, "h2", "http/1.1")) as peer:
        assert peer.socket.selected_alpn_protocol() == "h2"
        assert peer.socket.version() in ("TLSv1.2", "TLSv1.3")
        peer.wait(peer.open(1, delta_request()).messages)


def test_tls_with_another_protocol_is_not_served(secure: NativeServer, authority: Authority):
    """RFC 9113, 3.2: ALPN selects HTTP/2 over TLS. A client that offers only other protocols speaks something else."""
    with contextlib.suppress(ssl.SSLError), Peer(secure.port, tls=context(authority, "http/1.1"), hello=False) as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert peer.closed() in (p.PROTOCOL_ERROR, None)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_large_answers_come_whole_over_tls(secure: NativeServer, authority: Authority, version: ssl.TLSVersion):
    made = context(authority, "h2")
    made.minimum_version = made.maximum_version = version
    with H2Client(secure.port, tls=made, generous=True) as client:
        stream = client.open(delta_request(r.SECRET, "big"))
        client.wait(client.answers[stream].messages)
        assert b"s" * MIB in client.answers[stream].messages()[0]


def test_a_handshake_that_never_ends_is_given_up(secure: NativeServer):
    """CVE-2007-6750, over TLS."""
    secure.wait_sockets(secure.sockets_idle)
    waiting = [socket.create_connection(("127.0.0.1", secure.port)) for _ in range(20)]
    for number, one in enumerate(waiting):
        one.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[: number % 11])
    secure.wait_sockets(secure.sockets_idle + 20)
    secure.wait_sockets(secure.sockets_idle, timeout_s=HANDSHAKE_S + 4 * SWEEP_S)
    for one in waiting:
        one.close()


def test_plaintext_on_a_tls_port_is_sent_away(secure: NativeServer):
    with Peer(secure.port) as peer:
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while data := peer.socket.recv(1_000):
                said += data
        assert said == b"" or said[0] == 0x15  # a TLS alert


def test_floods_end_a_tls_connection_too(secure: NativeServer, authority: Authority):
    memory = secure.memory_bytes()
    with Peer(secure.port, tls=context(authority, "h2")) as peer:
        assert peer.flood(p.ping() for _ in range(200_000)).closed
    with Peer(secure.port, tls=context(authority, "h2"), receive_buffer_bytes=4_096) as peer:
        ended = peer.flood((p.ping() for _ in range(200_000)), reading=False)
        assert ended.closed or ended.stalled
    assert secure.memory_bytes() - memory < 32 * MIB


def test_slow_tls_readers_cost_bounded_memory(secure: NativeServer, authority: Authority):
    memory = secure.memory_bytes()
    settings = {p.INITIAL_WINDOW_SIZE: 2**31 - 1}
    with Peer(secure.port, tls=context(authority, "h2"), settings=settings, receive_buffer_bytes=4_096) as peer:
        peer.send(p.window_update(0, 2**30))
        for number in range(1, 201, 2):
            peer.open(number, delta_request(r.SECRET, "big", node_id=f"n{number}"))
        secure.wait_streams(100)
        assert secure.memory_bytes() - memory < 40 * MIB
    secure.wait_streams(0)


# --- Ends ------------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_is_forgotten_whichever_way_it_goes(server: NativeServer):
    for how in ("close", "shutdown", "reset", "goaway"):
        peer = Peer(server.port)
        answer = peer.open(1, delta_request())
        peer.wait(answer.messages)
        server.wait_streams(1)
        if how == "shutdown":
            peer.socket.shutdown(socket.SHUT_WR)
        elif how == "reset":
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif how == "goaway":
            peer.send(frame(p.GOAWAY, 0, 0, bytes(8)))
            peer.settled()
            peer.send(p.reset(1))
        if how != "shutdown":
            peer.close()
        server.wait_streams(0)
        peer.close()
    server.wait_sockets(server.sockets_idle)


def test_after_the_clients_goaway_its_open_streams_go_on(server: NativeServer):
    with Peer(server.port) as peer:
        answer = peer.open(1, delta_request())
        peer.wait(answer.messages)
        peer.send(frame(p.GOAWAY, 0, 0, bytes(8)))
        server.apply(r.static_cluster("a", 2))
        try:
            nonce_sent = len(answer.messages())
            peer.settled()
            assert not answer.ended
            assert nonce_sent >= 1
        finally:
            server.apply(r.static_cluster("a", 1))


def test_a_drain_says_goaway_ends_every_stream_with_its_status_and_closes():
    settings = {"drain": {"timeout_s": 0.3}}
    with NativeServer(resources=[r.static_cluster("a", 1)], settings=settings) as server:
        with Peer(server.port) as busy, Peer(server.port) as idle:
            answers = [busy.open(number, delta_request(node_id=f"n{number}")) for number in (1, 3, 5)]
            for answer in answers:
                busy.wait(answer.messages)
            idle.settled()
            server.ask("drain")
            server.ask("stop")
            assert busy.closed() == p.NO_ERROR
            assert idle.closed() == p.NO_ERROR
            assert busy.goaway is not None
            assert busy.goaway.last_stream_id >= 5
            assert [answer.status for answer in answers] == [UNAVAILABLE] * 3
        assert server.state()["streams"] == 0


def test_streams_that_come_after_goaway_may_be_tried_elsewhere():
    """RFC 9113, 6.8 and 8.7: REFUSED_STREAM or last_stream_id marks the requests that were not processed."""
    settings = {"drain": {"timeout_s": 2.0}}
    with NativeServer(resources=[r.static_cluster("a", 1)], settings=settings) as server, Peer(server.port) as peer:
        answers = [peer.open(number, delta_request(node_id=f"n{number}")) for number in (1, 3, 5)]
        for answer in answers:
            peer.wait(answer.messages)
        server.tell("drain")
        peer.wait(lambda: peer.goaway is not None)
        assert peer.goaway is not None
        last = peer.goaway.last_stream_id
        late = peer.open(7, delta_request(node_id="late"))
        health = peer.open(9, message(b""), fields=p.request_fields(p.HEALTH_CHECK), end=True)
        peer.wait(lambda: all(answer.ended for answer in answers))
        for number, answer in ((7, late), (9, health)):
            assert last < number or answer.reset == p.REFUSED_STREAM or answer.status == UNAVAILABLE
        assert late.messages() == []
