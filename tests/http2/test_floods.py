"""The known denial-of-service attacks on HTTP/2 servers, each with the bound that it must meet.

The server ends the connection or handles the attack at small cost: its memory grows by at most ``GROWTH_BYTES``, its
CPU time is bounded, and (checked by the fixture) it continues to serve, without streams left over.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import pytest
from support import native_peer as p
from support import resources as r
from support.native_peer import (
    Peer,
    delta_request,
    frame,
    message,
    request_fields,
    reset,
    settings_frame,
    window_update,
)
from support.native_server import MIB, NativeServer, check_sound

from xds._generated import xds_wire_pb2 as wire

FRAMES = 200_000
SENT_MAX = 60_000
"""What may have been sent when the connection ends: what the limits allow, and what was in flight."""
GROWTH_BYTES = 32 * MIB
CPU_S = 4.0

Flood = Callable[[Peer], Iterator[bytes]]


@contextmanager
def bounded(server: NativeServer, *, growth_bytes: int = GROWTH_BYTES, cpu_s: float = CPU_S) -> Iterator[None]:
    """Assert the limits on the server's memory and CPU time for the block."""
    memory, cpu = server.memory_bytes(), server.cpu_s()
    yield
    grown, spent = server.memory_bytes() - memory, server.cpu_s() - cpu
    assert grown < growth_bytes, f"memory grew by {grown / MIB:.0f} MiB"
    assert spent < cpu_s, f"{spent:.1f} s of CPU"


def odd() -> Iterator[int]:
    """Yield the numbers of a client's streams."""
    return count(1, 2)


def first_frames(peer: Peer) -> bytes:
    """Open stream 1, which stays open, with a subscription to a resource that does not exist."""
    return peer.head(1) + frame(p.DATA, 0, 1, delta_request(r.SECRET, "none"))


# --- Frames that do nothing: one flood a frame type ------------------------------------------------------------------


def pings(peer: Peer) -> Iterator[bytes]:
    """CVE-2019-9512."""
    return (p.ping() for _ in range(FRAMES))


def empty_settings(peer: Peer) -> Iterator[bytes]:
    """CVE-2019-9515."""
    return (settings_frame() for _ in range(FRAMES))


def settings(peer: Peer) -> Iterator[bytes]:
    """CVE-2019-9515, with values."""
    return (settings_frame({p.INITIAL_WINDOW_SIZE: number % 60_000}) for number in range(FRAMES))


def empty_data(peer: Peer) -> Iterator[bytes]:
    """CVE-2019-9518."""
    yield first_frames(peer)
    yield from (frame(p.DATA, 0, 1) for _ in range(FRAMES))


def padded_data(peer: Peer) -> Iterator[bytes]:
    """CVE-2019-9518 with padding only, up to the initial window of every connection."""
    yield first_frames(peer)
    yield from (frame(p.DATA, p.PADDED, 1, b"\0") for _ in range(60_000))


def empty_continuations(peer: Peer) -> Iterator[bytes]:
    """CVE-2019-9518 and the CVE-2024-27316 family, without a byte of headers."""
    yield frame(p.HEADERS, p.END_STREAM, 1, peer.block(request_fields()))
    yield from (frame(p.CONTINUATION, 0, 1) for _ in range(FRAMES))


def continuations(peer: Peer) -> Iterator[bytes]:
    """CVE-2024-27316 and similar: a header block without end."""
    yield frame(p.HEADERS, 0, 1, peer.block(request_fields()))
    field = b"\x10\x06x-test" + b"\x7f\x00" + b"v" * 127  # never indexed, so that it does not enter the table
    yield from (frame(p.CONTINUATION, 0, 1, field * 100) for _ in range(FRAMES // 100))


def small_continuations(peer: Peer) -> Iterator[bytes]:
    """The same, a byte at a time."""
    yield frame(p.HEADERS, 0, 1, peer.block(request_fields()))
    yield from (frame(p.CONTINUATION, 0, 1, b"\x82") for _ in range(FRAMES))


def priorities(peer: Peer) -> Iterator[bytes]:
    """CVE-2019-9513."""
    yield first_frames(peer)
    for number in range(FRAMES):
        depends = (3 + 2 * number % 200).to_bytes(4, "big")
        yield frame(p.PRIORITY, 0, 3 + 2 * (number * 7 % 200) + 400, depends + bytes((number % 256,)))


def unknown_frames(peer: Peer) -> Iterator[bytes]:
    """Frames of an unknown type, which must be ignored (RFC 9113, 5.5)."""
    return (frame(0xFA, 0, 0) for _ in range(FRAMES))


def tiny_window_updates(peer: Peer) -> Iterator[bytes]:
    """CVE-2019-9511: credit byte by byte."""
    yield first_frames(peer)
    yield from (window_update(1, 1) + window_update(0, 1) for _ in range(FRAMES // 2))


def resets(peer: Peer) -> Iterator[bytes]:
    """Repeated resets of one stream."""
    yield first_frames(peer)
    yield from (reset(1) for _ in range(FRAMES))


def goaways(peer: Peer) -> Iterator[bytes]:
    """Repeated GOAWAY frames."""
    return (frame(p.GOAWAY, 0, 0, bytes(8)) for _ in range(FRAMES))


CHORES = [
    pings,
    empty_settings,
    settings,
    empty_data,
    padded_data,
    empty_continuations,
    continuations,
    small_continuations,
    priorities,
    unknown_frames,
    tiny_window_updates,
    resets,
    goaways,
]


@pytest.mark.parametrize("reading", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("flood", CHORES)
def test_frames_that_do_nothing_end_the_connection(server: NativeServer, flood: Flood, reading: bool):
    with bounded(server), Peer(server.port) as peer:
        ended = peer.flood(flood(peer), reading=reading)
        assert ended.closed
        assert ended.sent < SENT_MAX
        # None: the GOAWAY was lost, as a connection reset discards unread data.
        assert ended.code in (p.ENHANCE_YOUR_CALM, None)


def test_a_client_that_goes_too_far_is_told_why(server: NativeServer):
    """The reason arrives though more frames are in flight: closing with unread bytes would reset the connection."""
    for _ in range(5):
        with Peer(server.port) as peer:
            peer.settled()
            peer.send(p.ping() * 15_000)
            assert peer.closed() == p.ENHANCE_YOUR_CALM


# --- Streams that come and go ----------------------------------------------------------------------------------------


def rapid_reset(peer: Peer) -> Iterator[bytes]:
    """CVE-2023-44487: streams are opened and cancelled at once."""
    return (peer.head(number) + reset(number) for number, _ in zip(odd(), range(FRAMES), strict=False))


def rapid_reset_of_subscriptions(peer: Peer) -> Iterator[bytes]:
    """The same, with a request on each stream."""
    asked = delta_request()
    for number, _ in zip(odd(), range(FRAMES), strict=False):
        yield peer.head(number) + frame(p.DATA, 0, number, asked) + reset(number)


def provoked(wrong: Callable[[Peer, int], bytes]) -> Flood:
    """Return a flood of streams that the server must reset itself (CVE-2025-8671, "MadeYouReset")."""

    def flood(peer: Peer) -> Iterator[bytes]:
        for number, _ in zip(odd(), range(FRAMES), strict=False):
            yield wrong(peer, number)

    return flood


PROVOKED = {
    "window moved by nothing": lambda peer, number: peer.head(number) + window_update(number, 0),
    "window beyond its maximum": lambda peer, number: peer.head(number) + window_update(number, 2**31 - 1),
    "data after the end": lambda peer, number: peer.head(number, end=True) + frame(p.DATA, 0, number, b"x"),
    "headers after the end": lambda peer, number: peer.head(number, end=True) + peer.head(number),
    "priority of a wrong size": lambda peer, number: peer.head(number) + frame(p.PRIORITY, 0, number, b"\0" * 4),
    "dependent on itself": lambda peer, number: (
        peer.head(number) + frame(p.PRIORITY, 0, number, number.to_bytes(4, "big") + b"\0")
    ),
    "less data than announced": lambda peer, number: (
        peer.head(number, request_fields(content_length="7")) + frame(p.DATA, p.END_STREAM, number, b"x")
    ),
    "more data than announced": lambda peer, number: (
        peer.head(number, request_fields(content_length="1")) + frame(p.DATA, 0, number, b"xx")
    ),
    "trailers that end nothing": lambda peer, number: peer.head(number) + peer.head(number, [("x-a", "b")]),
}
MALFORMED = {
    # CVE-2019-9514
    "no method": lambda peer, number: peer.head(number, request_fields(drop=[":method"])),
    "connection header": lambda peer, number: peer.head(number, [*request_fields(), ("connection", "close")]),
    # CVE-2019-9516
    "empty header names": lambda peer, number: peer.head(number, [*request_fields(), *[("", "")] * 20]),
}
STREAMS = [
    pytest.param(rapid_reset, id="rapid reset"),
    pytest.param(rapid_reset_of_subscriptions, id="rapid reset of subscriptions"),
    *(pytest.param(provoked(wrong), id=name) for name, wrong in (PROVOKED | MALFORMED).items()),
]


@pytest.mark.parametrize("flood", STREAMS)
def test_streams_that_come_to_nothing_end_the_connection(server: NativeServer, flood: Flood):
    opened = server.state()["streams_opened"]
    with bounded(server), Peer(server.port) as peer:
        ended = peer.flood(flood(peer))
        assert ended.closed
        assert ended.sent < SENT_MAX
        assert ended.code in (p.ENHANCE_YOUR_CALM, p.PROTOCOL_ERROR, p.STREAM_CLOSED, None)
    server.wait_streams(0)
    assert server.state()["streams_opened"] - opened < SENT_MAX


# --- Requests that are refused ---------------------------------------------------------------------------------------

HEALTH_CHECK = "/grpc.health.v1.Health/"
NOT_SERVED = {
    "unknown methods": lambda peer, number: peer.head(number, request_fields("/no.Service/Method"), end=True),
    "unknown methods with messages": lambda peer, number: (
        peer.head(number, request_fields("/no.Service/Method")) + frame(p.DATA, 0, number, message(b"x"))
    ),
    "not gRPC": lambda peer, number: peer.head(number, request_fields("/", method="GET", drop=["te"]), end=True),
    "malformed deadlines": lambda peer, number: peer.head(number, request_fields(grpc_timeout="soon"), end=True),
    "xDS that ends at once": lambda peer, number: peer.head(number, end=True),
    "malformed requests": lambda peer, number: peer.head(number) + frame(p.DATA, 0, number, message(b"\xff\xff")),
    "no types": lambda peer, number: peer.head(number) + frame(p.DATA, 0, number, delta_request("")),
    "no node": lambda peer, number: peer.head(number) + frame(p.DATA, 0, number, delta_request(node_id="")),
    "too large a node": lambda peer, number: (
        peer.head(number) + b"".join(data_frames(number, delta_request(node_id="n" * 70_000)))
    ),
    "malformed health checks": lambda peer, number: (
        peer.head(number, request_fields(HEALTH_CHECK + "Check")) + frame(p.DATA, 1, number, message(b"\xff"))
    ),
    "malformed health watches": lambda peer, number: (
        peer.head(number, request_fields(HEALTH_CHECK + "Watch")) + frame(p.DATA, 0, number, message(b"\xff"))
    ),
    "unknown health checks": lambda peer, number: (
        peer.head(number, request_fields(HEALTH_CHECK + "Check")) + frame(p.DATA, 1, number, message(b"\x0a\x01x"))
    ),
    "compressed messages": lambda peer, number: peer.head(number) + frame(p.DATA, 0, number, message(b"x", flag=1)),
    "messages beyond the limit": lambda peer, number: (
        peer.head(number) + frame(p.DATA, 0, number, b"\0" + (2**31).to_bytes(4, "big"))
    ),
    "messages cut short": lambda peer, number: peer.head(number) + frame(p.DATA, p.END_STREAM, number, b"\0\0\0\0\5x"),
}


def data_frames(number: int, data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 16_384):
        yield frame(p.DATA, 0, number, data[at : at + 16_384])


@pytest.mark.parametrize("what", NOT_SERVED)
def test_requests_that_are_refused_end_the_connection(server: NativeServer, what: str):
    """Their cost is charged to the connection: one such client once delayed new clients by more than 20 s."""
    opened = server.state()["streams_opened"]
    with bounded(server), Peer(server.port) as peer:
        ended = peer.flood(NOT_SERVED[what](peer, number) for number, _ in zip(odd(), range(20_000), strict=False))
        assert ended.closed
        assert ended.code in (p.ENHANCE_YOUR_CALM, None)
    server.wait_streams(0)
    assert server.state()["streams_opened"] - opened <= 250


def names_that_come_and_go(peer: Peer) -> Iterator[bytes]:
    """A subscription of 5,000 names that repeatedly changes by one name: each change examines all of them."""
    names = [f"name-{number}" for number in range(5_000)]
    yield peer.head(1) + b"".join(data_frames(1, delta_request(r.SECRET, *names)))
    for number in range(20_000):
        yield frame(p.DATA, 0, 1, delta_request(r.SECRET, f"more-{number % 2}"))


def names_unsubscribed_from(peer: Peer) -> Iterator[bytes]:
    """Thousands of names without a subscription, each of which is answered while the wildcard is subscribed."""
    made = wire.DeltaDiscoveryRequest(
        type_url=r.SECRET, resource_names_unsubscribe=[f"name-{number}" for number in range(5_000)]
    )
    yield peer.head(1) + frame(p.DATA, 0, 1, delta_request(r.SECRET))
    for _ in range(20_000):
        yield b"".join(data_frames(1, message(made.SerializeToString())))


@pytest.mark.parametrize("flood", [names_that_come_and_go, names_unsubscribed_from])
def test_changes_of_large_subscriptions_end_the_connection_when_they_come_without_end(
    server: NativeServer, flood: Flood
):
    with bounded(server), Peer(server.port) as peer:
        ended = peer.flood(flood(peer))
        if not ended.closed:  # all was sent while the connection rests after each change
            peer.socket.settimeout(30.0)
            assert peer.closed(30.0) in (p.ENHANCE_YOUR_CALM, None)
        assert ended.code in (p.ENHANCE_YOUR_CALM, None)
    server.wait_streams(0)


REFUSED = {
    "unknown methods": request_fields("/no.Service/Method"),
    "not gRPC": request_fields("/", method="GET", drop=["content-type", "te"]),
    "xDS that ends at once": request_fields(),
    "malformed deadlines": request_fields(grpc_timeout="soon"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_answers_that_are_not_read_pile_up_within_bounds(server: NativeServer, what: str):
    """Every request is answered in full; answers to a client that reads none of them must end."""
    with bounded(server, cpu_s=30.0), Peer(server.port, receive_buffer_bytes=4_096) as peer:
        requests = (peer.head(number, REFUSED[what], end=True) for number in odd())  # more than the socket buffers hold
        ended = peer.flood(requests, reading=False)
        assert ended.closed or ended.stalled  # which are both bounds


def test_pongs_that_are_not_read_pile_up_within_bounds():
    """At the rate that the limits allow this takes hours, so here they allow any rate."""
    with NativeServer(limits={"chores": 10**9}) as server:
        with bounded(server, cpu_s=30.0), Peer(server.port, receive_buffer_bytes=4_096) as peer:
            flood = (p.ping() * 100 + settings_frame() * 100 for _ in range(20_000))
            ended = peer.flood(flood, reading=False)
            assert ended.closed or ended.stalled
        check_sound(server)
