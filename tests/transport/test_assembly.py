"""Room for large messages is given out in turn, and when the last is taken the process's memory is what it was."""

import asyncio
from typing import cast

import pytest
from support.native_server import secret
from support.transports import settings_on
from support.waiting import stays
from support.wire import DeltaClient

from xds.embed import ControlPlane
from xds.model.types import SECRET
from xds.serving import streams
from xds.transport import native
from xds.transport.assembly import ASIDE_FACTOR, EMPTIED_BYTES_MIN, LIGHT_BYTES_MAX, SLOW_S, Assembly
from xds.transport.http2.stream import Http2Stream

MIB = 1024 * 1024


class Granted:
    """A stream that notes what it is granted."""

    def __init__(self) -> None:
        self.connection, self.local_closed, self.granted, self.bytes = self, False, False, 0
        self.arrived, self.is_whole = 0, False
        self.ended = ""
        self.limits: list[str] = []

    def on_limit(self, limit: str) -> None:
        self.limits.append(limit)

    def grant(self, stream: "Granted", more: int) -> None:
        stream.bytes += more

    def cut(self, status: int, message: str) -> None:
        self.ended = message
        self.local_closed = True


def test_who_waits_longest_has_room_first_and_the_last_to_leave_is_told():
    emptied: list[int] = []
    each_bytes = EMPTIED_BYTES_MIN // 3 + 1
    assembly = Assembly(bytes_max=2 * (2 * each_bytes - 1), on_empty=lambda: emptied.append(assembly.used))
    waiting = [cast("Http2Stream", Granted()) for _ in range(3)]
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
    small = cast("Http2Stream", Granted())
    assembly.ask(small, EMPTIED_BYTES_MIN - 1, 0)
    assembly.release(small)
    assert emptied == [0]


def waiting_streams(assembly: Assembly, count: int, size: int, tick: int = 0) -> list[Granted]:
    streams = [Granted() for _ in range(count)]
    for stream in streams:
        assembly.ask(cast("Http2Stream", stream), size, tick)
    return streams


def expire(assembly: Assembly, streams: list[Granted], tick: int) -> None:
    """Do as a server does once a second: a stream that was cut gives its room back."""
    assembly.expire(tick)
    for stream in streams:
        if stream.ended:
            assembly.release(cast("Http2Stream", stream))


def test_large_messages_that_never_arrive_hold_up_no_small_ones():
    assembly = Assembly()
    waiting_streams(assembly, 40, 60 * MIB)
    small = waiting_streams(assembly, 20, MIB)
    assert [each.bytes for each in small] == [MIB] * 20


def test_who_sends_nothing_no_longer_holds_up_who_waits_and_may_still_send():
    assembly = Assembly(bytes_max=4 * MIB)
    idle = waiting_streams(assembly, 2, MIB)
    honest = waiting_streams(assembly, 2, MIB)
    for tick in range(1, SLOW_S + 1):
        assert [each.bytes for each in honest] == [0, 0]
        for each in idle:
            each.arrived += 100  # a drip is no progress
        expire(assembly, idle, tick)
    assert [(each.bytes, each.ended) for each in (*idle, *honest)] == [(MIB, "")] * 4
    assert assembly.used == 4 * MIB
    assembly.release(cast("Http2Stream", idle[0]))
    for tick in range(SLOW_S + 1, 31):
        expire(assembly, idle, tick)
    assert idle[1].ended == ""
    expire(assembly, idle, 31)
    assert idle[1].ended == "a message of which too little arrived within 30 s"


def test_grants_that_are_set_aside_are_bounded():
    """Many clients ask for room and send nothing: who sends has room all the same, and memory is bounded."""
    assembly = Assembly(bytes_max=4 * MIB)
    hoarders = waiting_streams(assembly, 40, MIB)
    honest = waiting_streams(assembly, 1, MIB)
    for tick in range(1, 200):
        expire(assembly, hoarders, tick)
        assert assembly.used <= (1 + ASIDE_FACTOR) * 2 * MIB
        if honest[0].bytes:
            break
    assert (honest[0].bytes, honest[0].ended) == (MIB, "")
    assert sum(bool(each.ended) for each in hoarders) >= 32


def test_who_goes_on_sending_keeps_its_room_though_others_wait():
    assembly = Assembly(bytes_max=2 * MIB)
    (first, second) = waiting_streams(assembly, 2, MIB)
    for tick in range(1, 10):
        first.arrived += 100_000
        expire(assembly, [first, second], tick)
    assert (first.ended, second.bytes) == ("", 0)


def test_who_is_slow_keeps_its_room_for_a_while_where_nobody_waits():
    assembly = Assembly()
    (only,) = waiting_streams(assembly, 1, 8 * MIB)
    for tick in range(1, 31):
        expire(assembly, [only], tick)
    assert only.ended == ""
    expire(assembly, [only], 31)
    assert (only.ended, assembly.used) == ("a message of which too little arrived within 30 s", 0)
    assert only.limits == ["assembly"]


def test_a_message_that_waits_for_its_turn_keeps_its_room():
    assembly = Assembly(bytes_max=2 * MIB)
    (first, second) = waiting_streams(assembly, 2, MIB)
    first.is_whole = True
    for tick in range(1, 100):
        expire(assembly, [first], tick)
    assert (first.ended, second.bytes) == ("", 0)
    assembly.release(cast("Http2Stream", first))
    assert second.bytes == MIB


def test_a_message_of_some_hundred_kilobytes_does_not_wait_for_those_of_megabytes():
    assembly = Assembly(bytes_max=8 * MIB)
    assert [each.bytes for each in waiting_streams(assembly, 3, 3 * MIB)] == [3 * MIB, 0, 0]
    (light,) = waiting_streams(assembly, 1, LIGHT_BYTES_MAX)
    assert light.bytes == LIGHT_BYTES_MAX


async def test_memory_is_given_back_once_large_requests_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    returned = asyncio.Event()
    monkeypatch.setattr(streams, "return_holes", returned.set)
    async with ControlPlane(settings_on("native")) as control_plane, DeltaClient(str(control_plane.address)) as client:
        await client.subscribe(SECRET, "x")
        await stays(returned.is_set, equals=False, for_s=3 * native.REST_S)
        await client.subscribe(SECRET, *(f"{number:0100}" for number in range(12_000)))
        await asyncio.wait_for(returned.wait(), 10)


async def test_memory_is_given_back_once_a_large_response_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    returned = asyncio.Event()
    monkeypatch.setattr(streams, "return_holes", returned.set)
    async with ControlPlane(settings_on("native")) as control_plane, DeltaClient(str(control_plane.address)) as client:
        control_plane.apply(upsert=[secret("x", EMPTIED_BYTES_MIN, "a")])
        await client.subscribe(SECRET, "x")
        while "x" not in (await client.take()).names:
            pass
        await stays(returned.is_set, equals=False, for_s=1.0 + 3 * native.REST_S)
        control_plane.apply(upsert=[secret("x", EMPTIED_BYTES_MIN, "b")])
        await asyncio.wait_for(returned.wait(), 5)
