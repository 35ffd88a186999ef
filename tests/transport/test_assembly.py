"""Room for large messages is given out in turn, and when the last is taken the process's memory is what it was."""

import asyncio
from typing import cast

import pytest
from support.resources import secret
from support.transports import settings_on
from support.wire import DeltaClient

from xds import ControlPlane
from xds.model.types import SECRET
from xds.serving import streams
from xds.transport import native
from xds.transport.assembly import EMPTIED_BYTES_MIN, Assembly
from xds.transport.http2.stream import Stream


class Granted:
    """A stream that notes what it is granted."""

    def __init__(self) -> None:
        self.connection, self.local_closed, self.granted, self.bytes = self, False, False, 0

    def grant(self, stream: "Granted", more: int) -> None:
        stream.bytes += more


def test_who_waits_longest_has_room_first_and_the_last_to_leave_is_told():
    emptied: list[int] = []
    each_bytes = EMPTIED_BYTES_MIN // 3 + 1
    assembly = Assembly(bytes_max=2 * each_bytes - 1, on_empty=lambda: emptied.append(assembly.used))
    waiting = [cast("Stream", Granted()) for _ in range(3)]
    for stream in waiting:
        assembly.ask(stream, each_bytes, 0)
    granted = [cast("Granted", stream) for stream in waiting]
    assert [each.bytes for each in granted] == [each_bytes, 0, 0]
    for number in (1, 2):
        assembly.release(waiting[number - 1])
        assert granted[number].bytes == each_bytes
        assert emptied == []
    assembly.release(waiting[2])
    assembly.release(waiting[2])
    assert emptied == [0]
    small = cast("Stream", Granted())
    assembly.ask(small, EMPTIED_BYTES_MIN - 1, 0)
    assembly.release(small)
    assert emptied == [0]


async def test_memory_is_given_back_once_large_requests_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    returned = asyncio.Event()
    monkeypatch.setattr(streams, "return_holes", returned.set)
    async with ControlPlane(settings_on("native")) as control_plane, DeltaClient(str(control_plane.address)) as client:
        await client.subscribe(SECRET, "x")
        await asyncio.sleep(3 * native.REST_S)
        assert not returned.is_set()
        await client.subscribe(SECRET, *(f"{number:0100}" for number in range(12_000)))
        await asyncio.wait_for(returned.wait(), 10)


async def test_memory_is_given_back_once_a_large_response_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    returned = asyncio.Event()
    monkeypatch.setattr(streams, "return_holes", returned.set)
    async with ControlPlane(settings_on("native")) as control_plane, DeltaClient(str(control_plane.address)) as client:
        control_plane.apply(upsert=[secret("x", "a" * EMPTIED_BYTES_MIN, "")])
        await client.subscribe(SECRET, "x")
        while "x" not in (await client.take()).names:
            pass
        await asyncio.sleep(1.0 + 3 * native.REST_S)
        assert not returned.is_set()
        control_plane.apply(upsert=[secret("x", "b" * EMPTIED_BYTES_MIN, "")])
        await asyncio.wait_for(returned.wait(), 5)
