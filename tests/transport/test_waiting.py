"""Messages that wait are weighed: who lets most wait gives way, and a call that takes one message takes one."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support import native_peer as p
from support.native_peer import Peer, message
from support.native_server import NativeServer

from xds.model.identity import ANONYMOUS
from xds.protocol.errors import Status
from xds.protocol.policy import METHODS
from xds.transport.http2.limits import Http2Limits
from xds.transport.token_calls import TokenCall
from xds.transport.waiting import MESSAGE_OVERHEAD_BYTES, WaitingMessages

INTERNAL = 13
KIB = 1024


class Stream:
    """A stream that says how it ended."""

    def __init__(self) -> None:
        self.ended: Status | None = None

    def end(self, status: Status, message: str) -> None:
        self.ended = status


@pytest.fixture(scope="module")
def server() -> Iterator[NativeServer]:
    with NativeServer() as server:
        yield server


def test_who_lets_most_wait_ends_and_others_go_on():
    limits: list[str] = []
    waiting = WaitingMessages(1_000 * KIB, limits.append)
    honest, greedy, largest = Stream(), Stream(), Stream()
    waiting.hold(honest, bytes(100 * KIB))
    for _ in range(4):
        waiting.hold(greedy, bytes(100 * KIB))
    waiting.hold(largest, bytes(490 * KIB))
    assert not limits
    waiting.hold(honest, bytes(20 * KIB))
    assert (honest.ended, greedy.ended, largest.ended) == (None, Status.UNAVAILABLE, Status.UNAVAILABLE)
    assert limits == ["waiting_bytes"] * 2
    assert waiting.used == 120 * KIB + 2 * MESSAGE_OVERHEAD_BYTES


def test_what_no_longer_waits_weighs_nothing():
    waiting, stream = WaitingMessages(), Stream()
    for _ in range(3):
        waiting.hold(stream, b"12345")
    waiting.release(stream, b"12345")
    assert waiting.used == 2 * (5 + MESSAGE_OVERHEAD_BYTES)
    waiting.forget(stream)
    waiting.release(stream, b"12345")
    waiting.forget(stream)
    assert (waiting.used, waiting._held) == (0, {})


def test_messages_that_wait_for_a_token_are_weighed():
    waiting = WaitingMessages()
    connection: Any = SimpleNamespace(
        services=SimpleNamespace(waiting=waiting),
        name="c",
        peer=ANONYMOUS,
        limits=Http2Limits(),
        peer_stream_window=1,
        paused=False,
    )
    tokens: Any = SimpleNamespace(expiry=SimpleNamespace(discard=lambda *_: None))
    call = TokenCall(connection, 1, METHODS[0], tokens)
    call.on_message(bytes(5_000))
    call.on_message(bytes(5_000))
    assert waiting.used == 2 * (5_000 + MESSAGE_OVERHEAD_BYTES)
    call.on_gone()
    assert waiting.used == 0


@pytest.mark.parametrize("path", [p.HEALTH_CHECK, p.HEALTH_WATCH])
def test_a_second_message_of_a_call_that_takes_one_ends_it(server: NativeServer, path: str):
    with Peer(server.port, settings={p.INITIAL_WINDOW_SIZE: 0}) as peer:
        answer = peer.open(1, message(b""), fields=p.request_fields(path))
        peer.settled()
        peer.data(1, message(b""))
        peer.wait(lambda: answer.status is not None or answer.reset is not None)
        assert answer.status == INTERNAL or answer.reset == p.REFUSED_STREAM
