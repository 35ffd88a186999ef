"""Large requests are handled one in a turn of the event loop, and leave it to changes that go out."""

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from support import resources as r
from support.loops import on_both_loops
from support.native_peer import message
from support.pki import Authority
from support.transports import settings_on
from support.waiting import turns
from support.wire import DeltaClient

from xds.embed import ControlPlane
from xds.model.types import CLUSTER, SECRET
from xds.protocol.policy import Variant
from xds.transport.calls import XdsCall
from xds.transport.dispatcher import PAUSE, PAUSE_WHILE_SPREADING, RECENT_S, SLICE, Dispatcher
from xds.transport.http2 import frames as h2
from xds.transport.http2.connection import Connection
from xds.transport.http2.frame_reader import ConnectionStage
from xds.transport.http2.limits import Http2Limits
from xds.transport.http2.stream import LARGE_BYTES, Http2Stream
from xds.transport.turns import LIGHT_BYTES_MAX, LOOK_S, Turns


class FakeLoop:
    """An event loop whose turns a test takes, with a clock that it sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []

    def call_soon(self, callback: Callable[[], None], /) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None], /) -> None:
        self.later.append((delay, callback))

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


class Work:
    """A request that takes a second."""

    def __init__(self, loop: FakeLoop, name: str, done: list[str]) -> None:
        self.loop, self.name, self.done = loop, name, done

    def take_turn(self) -> None:
        self.loop.now += 1.0
        self.done.append(self.name)


def test_one_is_taken_in_a_turn_of_the_event_loop_and_others_pause_as_long_as_they_are_told():
    loop, done, asked, pause_s = FakeLoop(), list[str](), list[float](), 0.0

    def pause_after(took_s: float) -> float:
        asked.append(took_s)
        return pause_s

    waiting = Turns(loop, pause_after, clock=lambda: loop.now)
    for name in "abc":
        waiting.add(Work(loop, name, done), LIGHT_BYTES_MAX)
    loop.turn()
    assert done == ["a"]
    loop.turn()
    assert (done, asked[-1]) == (["a", "b"], 1.0)
    pause_s = 3.0
    loop.turn()
    assert (done, loop.soon) == (["a", "b"], [])
    looks = 0
    while loop.later:
        ((delay, go_on),) = loop.later
        loop.later.clear()
        loop.now += delay
        looks += 1
        go_on()
    assert (done, loop.now, loop.soon, len(waiting)) == (["a", "b", "c"], pytest.approx(2.0 + 3.0 + 1.0), [], 0)
    assert looks == pytest.approx(3.0 / LOOK_S, abs=1)


def test_a_pause_ends_once_what_it_is_for_has_ended():
    loop, done, pause_s = FakeLoop(), list[str](), 0.0
    waiting = Turns(loop, lambda _: pause_s, clock=lambda: loop.now)
    for name in "ab":
        waiting.add(Work(loop, name, done), LIGHT_BYTES_MAX)
    loop.turn()
    pause_s = 3.0
    loop.turn()
    ((delay, go_on),) = loop.later
    assert (done, delay) == (["a"], LOOK_S)
    pause_s = 0.0
    loop.now += delay
    go_on()
    assert done == ["a", "b"]


def test_a_light_request_waits_for_one_heavy_one_and_not_for_all_that_came_before():
    loop, done = FakeLoop(), list[str]()
    waiting = Turns(loop, lambda _: 0.0, clock=lambda: loop.now)
    for name in ("heavy 1", "heavy 2", "heavy 3", "light 1", "light 2"):
        waiting.add(Work(loop, name, done), LIGHT_BYTES_MAX + name.startswith("heavy"))
    while loop.soon:
        loop.turn()
    assert done == ["heavy 1", "light 1", "heavy 2", "light 2", "heavy 3"]


async def test_the_pause_is_long_while_a_change_is_on_its_way_shorter_after_it_and_none_without_changes(
    monkeypatch: pytest.MonkeyPatch,
):
    hub: Any = SimpleNamespace(
        next_tick_at=float("inf"),
        has_work=False,
        open=lambda *_, **__: Opened(),
        publish=lambda _, regroup: None,
        is_regrouping=False,
        advance_clock=lambda _: None,
        take_ready=lambda: list(dispatcher._sinks),
        take_events=list,
    )
    dispatcher = Dispatcher(hub, on_event=lambda _: None, on_fault=lambda _: None)
    sink: Any = SimpleNamespace(send_cohort=lambda _: True, peer_address="")
    for _ in range(SLICE + 1):
        dispatcher.open(Variant.DELTA, sink)
    assert dispatcher.pause_after(0.5) == 0.0
    change: Any = None
    dispatcher.publish(change)
    assert dispatcher.pause_after(0.5) == PAUSE_WHILE_SPREADING * 0.5
    await turns()
    assert dispatcher.pause_after(0.5) == PAUSE * 0.5
    monkeypatch.setattr(dispatcher, "_changed_at", dispatcher.now() - RECENT_S)
    assert dispatcher.pause_after(0.5) == 0.0
    dispatcher.stop()


class Opened:
    """A stream that may be anything."""

    owner: Any = None


# --- A connection ----------------------------------------------------------------------------------------------------


class NotingStream(Http2Stream):
    """A stream that notes its messages and its end."""

    __slots__ = ("noted",)

    def __init__(self, connection: Any, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self.noted: list[bytes | str] = []

    def on_message(self, message: bytes) -> None:
        self.noted.append(message)

    def on_end(self) -> None:
        self.noted.append("end")

    def on_gone(self) -> None:
        self.noted.append("gone")


class WaitingConnection(Connection):
    """A connection whose large messages wait until the test says so."""

    __slots__ = ("stream", "waiting", "written")

    def __init__(self) -> None:
        super().__init__(Http2Limits())
        self.waiting: list[Http2Stream] = []
        self.written: list[bytes] = []
        self.streams[1] = self.stream = NotingStream(self, 1)
        self.stage = ConnectionStage.OPEN
        self._last_id = 1

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        pass

    def clock(self) -> float:
        return 0.0

    def await_turn(self, stream: Http2Stream) -> None:
        self.waits = True
        self.waiting.append(stream)

    def go_on(self) -> None:
        self.take_waiting(self.waiting.pop(0))
        self.receive(b"")


LARGE = b"x" * LARGE_BYTES


def data_of(content: bytes, *, end: bool = False) -> bytes:
    pieces = [content[at : at + 10_000] for at in range(0, len(content), 10_000)]
    frames = [h2.frame(h2.DATA, 0, 1, piece) for piece in pieces[:-1]]
    return b"".join([*frames, h2.frame(h2.DATA, h2.END_STREAM if end else 0, 1, pieces[-1])])


def test_what_follows_a_large_message_waits_with_it_and_keeps_its_order():
    connection = WaitingConnection()
    connection.receive(data_of(message(LARGE) + message(b"behind it in the frame")))
    connection.receive(data_of(message(b"in the next frame")) + data_of(message(LARGE), end=True))
    stream = connection.stream
    assert (stream.noted, len(connection.waiting), stream.is_whole) == ([], 1, True)
    connection.go_on()
    assert stream.noted == [LARGE, b"behind it in the frame", b"in the next frame"]
    assert len(connection.waiting) == 1
    connection.go_on()
    assert stream.noted[3:] == [LARGE, "end"]


def test_after_its_turn_a_client_may_send_a_whole_window_again():
    connection = WaitingConnection()
    connection.receive(data_of(message(LARGE)))
    assert connection.stream.credit < connection.limits.stream_window // 2
    assert connection.written == []
    connection.go_on()
    assert connection.stream.credit == connection.limits.stream_window
    assert len(connection.written) == 1


def test_a_stream_that_ends_before_its_turn_is_passed_over():
    connection = WaitingConnection()
    connection.receive(data_of(message(LARGE)))
    connection.reset(1, h2.NO_ERROR)
    connection.go_on()
    assert connection.stream.noted == ["gone"]


# --- A server --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over_tls", [False, True], ids=["plaintext", "tls"])
@on_both_loops
async def test_large_requests_that_come_together_are_handled_one_in_a_turn(
    over_tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, turn, taken = asyncio.get_running_loop(), 0, Counter[int]()
    real: Callable[[XdsCall, bytes], None] = XdsCall.on_message

    def on_message(call: XdsCall, data: bytes) -> None:
        if len(data) >= LARGE_BYTES:
            taken[turn] += 1
        real(call, data)

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(next_turn)

    monkeypatch.setattr(XdsCall, "on_message", on_message)
    authority = Authority(tmp_path / "pki")
    pair = authority.server()
    tls = {"tls": {"cert": str(pair.cert_path), "key": str(pair.key_path)}} if over_tls else {}
    control_plane = ControlPlane(settings_on("native", **tls))
    control_plane.replace({"default": [r.static_cluster("a", 1)]})
    async with control_plane, asyncio.timeout(30):
        assert control_plane.address is not None
        next_turn()
        next_turn()
        address = f"localhost:{control_plane.address.port}"
        credentials = grpc.ssl_channel_credentials(authority.cert) if over_tls else None
        await asyncio.gather(*(_ask(address, number, credentials) for number in range(8)))
    assert set(taken.values()) == {1}
    assert taken.total() == 16


async def _ask(address: str, number: int, credentials: grpc.ChannelCredentials | None) -> None:
    """Subscribe twice to 1,000 long names, and wait for the answer to what was asked after that."""
    async with DeltaClient(address, node_id=f"n{number}", credentials=credentials) as client:
        for turn in range(2):
            await client.subscribe(SECRET, *(f"{number}-{turn}-{each}".ljust(100, "n") for each in range(1_000)))
        await client.subscribe(CLUSTER)
        while (await client.take()).type_url != CLUSTER:
            pass
