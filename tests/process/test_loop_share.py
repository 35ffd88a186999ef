"""However many clients send at once, no turn of the event loop works on it for long, and all are served in order."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import resources as r
from support.loops import PerTurn, on_both_loops
from support.native_peer import PREFACE, ping, settings_frame
from support.pki import Authority
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


@pytest.mark.parametrize("over_tls", [False, True], ids=["plaintext", "tls"])
@on_both_loops
async def test_clients_that_send_at_once_are_taken_one_after_the_other(
    over_tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = PerTurn()
    monkeypatch.setattr(NativeConnection, "on_ping", taken.note)
    monkeypatch.setattr(native, "LoopShare", partial(LoopShare, work_s=0.0))
    authority = Authority(tmp_path / "pki")
    pair, where = authority.server(), dict[str, Any]()
    tls = {"tls": {"cert": str(pair.cert_path), "key": str(pair.key_path)}} if over_tls else {}
    if over_tls:
        where = {"ssl": authority.client_context(), "server_hostname": "localhost"}
        where["ssl"].set_alpn_protocols(["h2"])
    control_plane = ControlPlane(settings_on("native", **tls))
    control_plane.replace({"default": [r.static_cluster("a", 1)]})
    async with control_plane, asyncio.timeout(30):
        assert control_plane.address is not None
        port = control_plane.address.port
        dialled = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port, **where) for _ in range(CLIENTS)))
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
    assert PINGS <= taken.most <= 2 * PINGS
