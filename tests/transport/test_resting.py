"""A connection rests after a request that took long, and longer the more that one cost."""

import asyncio
from typing import Any

from support import resources as r
from support.loops import on_both_loops
from support.native_peer import PREFACE
from support.transports import settings_on
from support.wire import DeltaClient

from xds.embed import ControlPlane
from xds.transport.http2.frame_reader import FrameReader
from xds.transport.native_connection import PAUSE_PER_NAME_S, NativeConnection

PING = b"\0\0\x08\x06\0\0\0\0\0" + b"12345678"


class Costly(FrameReader):
    """A connection each of whose frames has had many names examined."""

    def __init__(self, names: int) -> None:
        super().__init__()
        self.names, self.handled, self.rested = names, 0, 0

    def on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        self.handled += 1
        self.tired = self.names

    def on_rest(self) -> None:
        self.rested += 1
        self.tired = 0


def test_one_costly_request_is_handled_at_a_time() -> None:
    costly = Costly(names=1_000)
    costly.receive(PREFACE + 3 * PING)
    for done in (1, 2, 3):
        assert (costly.handled, costly.rested) == (done, done)
        costly.receive(b"")
    assert costly.handled == 3


def test_cheap_requests_are_handled_together() -> None:
    cheap = Costly(names=0)
    cheap.receive(PREFACE + 3 * PING)
    assert (cheap.handled, cheap.rested) == (3, 0)


@on_both_loops
async def test_changes_of_a_large_subscription_come_with_pauses_and_all_are_answered(monkeypatch: Any) -> None:
    rests: list[int] = []
    on_rest = NativeConnection.on_rest

    def noted(connection: NativeConnection) -> None:
        rests.append(connection.tired)
        on_rest(connection)

    monkeypatch.setattr(NativeConnection, "on_rest", noted)
    control_plane = ControlPlane(settings_on("native"))
    control_plane.replace({"default": [r.static_cluster("a", 1)]})
    names = [f"n{number}" for number in range(20_000)]
    loop = asyncio.get_running_loop()
    async with control_plane, asyncio.timeout(60):
        assert control_plane.address is not None
        async with DeltaClient(control_plane.address.port) as client:
            await client.subscribe(r.SECRET, *names)
            await client.ack(await client.next())
            rests.clear()
            began, left = loop.time(), {f"more{number}" for number in range(5)}
            for name in sorted(left):
                await client.subscribe(r.SECRET, name)
            while left:
                response = await client.next()
                left -= set(response.removed)
                await client.ack(response)
            took_s = loop.time() - began
    costly = [each for each in rests if each]
    assert len(costly) == 5
    assert min(costly) >= 2 * len(names)
    assert took_s > 4 * 2 * len(names) * PAUSE_PER_NAME_S
