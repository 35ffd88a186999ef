"""However many clients send at once, no turn of the event loop works on it for long, and all are served in order."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
from support import resources as r
from support.loops import on_both_loops
from support.native_peer import PREFACE, ping, settings_frame
from support.transports import settings_on

from xds.embed import ControlPlane
from xds.process.loop_share import WORK_S, LoopShare
from xds.transport import native
from xds.transport.native_connection import NativeConnection

CLIENTS = 40
PINGS = 5


class Loop:
    """Turns of an event loop, and a clock that runs only where it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[Callable[[], None]] = []

    def clock(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.due.append(callback)

    def turn(self) -> None:
        due, self.due = self.due, []
        for each in due:
            each()


class Client:
    """A connection whose bytes take some time, in so many pieces."""

    def __init__(self, loop: Loop, share: LoopShare, name: str, done: list[str], *, pieces: int = 1) -> None:
        self.loop, self.share, self.name, self.done, self.pieces = loop, share, name, done, pieces

    def receive(self) -> None:
        if self.share.is_over:
            self.share.rest(self)
        else:
            self.go_on()

    def go_on(self) -> None:
        self.loop.now += WORK_S / 2
        self.done.append(self.name)
        self.pieces -= 1
        if self.pieces:
            self.share.rest(self)


class Faulty(Client):
    """A connection that fails."""

    def go_on(self) -> None:
        raise ZeroDivisionError


def test_a_turn_works_for_its_time_and_later_ones_go_on_in_order() -> None:
    loop, done = Loop(), list[str]()
    share = LoopShare(loop.call_soon, clock=loop.clock)
    for name in "abcdefgh":
        Client(loop, share, name, done).receive()
    assert "".join(done) == "abc"
    loop.turn()
    assert "".join(done) == "abcdef"
    Client(loop, share, "i", done).receive()  # what has just come has a time of its own
    assert "".join(done) == "abcdefi"
    loop.turn()
    assert ("".join(done), loop.due) == ("abcdefigh", [])


def test_who_has_more_rests_after_the_others() -> None:
    loop, done = Loop(), list[str]()
    share = LoopShare(loop.call_soon, clock=loop.clock)
    for name in "ab":
        share.rest(Client(loop, share, name, done, pieces=2))
    loop.turn()
    assert "".join(done) == "ab"
    loop.turn()
    assert ("".join(done), loop.due) == ("abab", [])


def test_a_fault_of_one_holds_up_no_other() -> None:
    loop, done = Loop(), list[str]()
    share = LoopShare(loop.call_soon, clock=loop.clock)
    share.rest(Faulty(loop, share, "x", done))
    share.rest(Client(loop, share, "y", done))
    with pytest.raises(ZeroDivisionError):
        loop.turn()
    loop.turn()
    assert (done, loop.due) == (["y"], [])


@on_both_loops
async def test_clients_that_send_at_once_are_taken_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, now, most = asyncio.get_running_loop(), 0, 0

    def taken(_: NativeConnection) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)

    def turn() -> None:
        nonlocal now
        now = 0
        loop.call_soon(turn)

    monkeypatch.setattr(NativeConnection, "on_ping", taken)
    monkeypatch.setattr(native, "LoopShare", partial(LoopShare, work_s=0.0))
    control_plane = ControlPlane(settings_on("native"))
    control_plane.replace({"default": [r.static_cluster("a", 1)]})
    async with control_plane, asyncio.timeout(30):
        assert control_plane.address is not None
        dialled = [await asyncio.open_connection("127.0.0.1", control_plane.address.port) for _ in range(CLIENTS)]
        turn()
        for _, writer in dialled:
            writer.write(PREFACE + settings_frame() + b"".join(ping(bytes([each]) * 8) for each in range(PINGS)))
        for reader, writer in dialled:
            data = b""
            while not data.endswith(bytes([PINGS - 1]) * 8):
                piece = await reader.read(65_536)
                assert piece, "the server stays"
                data += piece
            writer.transport.abort()
    # In a turn, the first whose bytes have come, and one of those that rest.
    assert PINGS <= most <= 2 * PINGS
