"""Messages between processes of one server: whole, in order, and known to be unsent for as long as they are."""

import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.loops import on_both_loops
from support.waiting import turns, wait_until

from xds.transport.channel import LENGTH_BYTES, Channel

MIB = 1024 * 1024
TIMEOUT_S = 20.0


class End:
    """One end of a channel, with what it heard."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.lost = 0
        self.channel = Channel(self.heard.append, self._on_lost)

    def _on_lost(self) -> None:
        self.lost += 1

    async def wait(self, done: Callable[[], Any]) -> None:
        await wait_until(done, timeout_s=TIMEOUT_S, poll_s=0.001)


@asynccontextmanager
async def ends() -> AsyncIterator[tuple[End, End]]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    made = End(), End()
    for end, one in zip(made, pair, strict=True):
        one.setblocking(False)
        await end.channel.attach(one)
    yield made
    for end in made:
        end.channel.close()
    await turns()


@asynccontextmanager
async def against_socket() -> AsyncIterator[tuple[End, socket.socket]]:
    """A channel against a bare socket, which reads only what it is told to."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    end = End()
    for one in (ours, theirs):
        one.setblocking(False)
    await end.channel.attach(ours)
    yield end, theirs
    theirs.close()
    end.channel.close()
    await end.wait(lambda: end.lost)


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


def read_all(end: socket.socket) -> bytes:
    found = bytearray()
    while True:
        try:
            data = end.recv(MIB)
        except BlockingIOError:
            return bytes(found)
        found += data


@given(st.lists(st.binary(max_size=300), max_size=10), st.randoms(use_true_random=False))
def test_whatever_the_pieces_messages_come_whole_and_in_order(messages: list[bytes], chance: random.Random) -> None:
    heard: list[bytes] = []
    channel = Channel(heard.append, lambda: None)
    data = b"".join(map(framed, messages))
    while data:
        size = chance.choice([1, 2, 3, 5, 50, 1_000])
        channel.data_received(data[:size])
        data = data[size:]
    assert heard == messages


@on_both_loops
async def test_messages_of_all_sizes_go_both_ways_in_order():
    async with ends() as (one, other):
        chance = random.Random(7)
        sizes = [0, 1, 3, 4, 5, 65_535, 65_536, 65_537, MIB, 0, *(chance.randrange(100_000) for _ in range(100))]
        there = [number.to_bytes(2, "big") * (size // 2) for number, size in enumerate(sizes)]
        for message in there:
            one.channel.send(message)
            other.channel.send(message[::-1])
        await other.wait(lambda: len(other.heard) == len(there))
        await one.wait(lambda: len(one.heard) == len(there))
        assert other.heard == there
        assert one.heard == [message[::-1] for message in there]


@on_both_loops
async def test_a_message_much_larger_than_the_sockets_buffers_comes_whole():
    async with ends() as (one, other):
        large = random.Random(1).randbytes(48 * MIB)
        one.channel.send(large)
        one.channel.send(b"after it")
        await other.wait(lambda: len(other.heard) == 2)
        assert other.heard == [large, b"after it"]


@on_both_loops
async def test_what_the_other_end_does_not_take_is_known_to_the_byte_and_goes_once_it_does():
    async with against_socket() as (end, theirs):
        assert end.channel.unsent_bytes == 0
        messages = [bytes([number]) * 100_000 for number in range(100)]
        for message in messages:
            end.channel.send(message)
        sent = sum(len(message) + LENGTH_BYTES for message in messages)
        await turns()  # uvloop writes at the end of a turn
        found = bytearray()
        assert sent - 4 * MIB < end.channel.unsent_bytes <= sent  # the rest is in the kernel

        def read_on() -> int:
            found.extend(read_all(theirs))
            return len(found)

        await wait_until(read_on, equals=sent, timeout_s=TIMEOUT_S, poll_s=0)
        await end.wait(lambda: end.channel.unsent_bytes == 0)
        assert found == b"".join(map(framed, messages))


@on_both_loops
async def test_what_was_sent_before_the_end_is_heard_before_the_end():
    async with ends() as (one, other):
        messages = [bytes([number]) * 50_000 for number in range(40)]
        for message in messages:
            one.channel.send(message)
        one.channel.close()
        await other.wait(lambda: other.lost)
        assert other.heard == messages
        assert (one.lost, other.lost) == (1, 1)


@on_both_loops
async def test_half_a_message_is_no_message():
    async with against_socket() as (end, theirs):
        theirs.send(framed(b"whole") + framed(b"half of it")[:9])
        theirs.shutdown(socket.SHUT_WR)
        await end.wait(lambda: end.lost)
        assert end.heard == [b"whole"]


@on_both_loops
async def test_sending_to_an_end_that_is_gone_does_nothing():
    async with against_socket() as (end, theirs):
        theirs.close()
        await end.wait(lambda: end.lost)
        end.channel.send(b"to nobody")
        end.channel.close()
        assert (end.channel.unsent_bytes, end.lost) == (0, 1)


@on_both_loops
async def test_a_channel_that_is_not_attached_yet_takes_nothing():
    end = End()
    end.channel.send(b"to nobody")
    end.channel.close()
    assert end.channel.unsent_bytes == 0
