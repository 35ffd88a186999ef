"""The known attacks on HTTP/2 servers, one test each, frame by frame without sockets: the exact limit of each.

The floods over TCP, with what they cost in memory and CPU time, are in ``test_floods.py``; slow handshakes are in
``test_connections.py``.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import count, cycle

import hpack
import pytest
from support import native_peer as p
from support.native_peer import frame, message, reset, settings_frame, window_update
from support.native_talk import REQUEST, Talk, asks, codes, said

from xds.transport.http2.headers import HEADER_BLOCK_BYTES_MAX, HEADER_BYTES_MAX
from xds.transport.http2.limits import Http2Limits

CHORES = 50
FEW = Http2Limits(chores=CHORES)
ALLOWED = 2 * (CHORES + 1)
"""A new connection has the allowance twice: the time is checked only when the first one is used up."""
ENDLESS = 50 * CHORES


def until_dead(talk: Talk, frames: Iterable[bytes]) -> int:
    """Send frames, and return how many it took until the server ended the connection for them."""
    for number, one in zip(range(1, ENDLESS + 1), frames, strict=False):
        heard = talk.say(one)
        if talk.server.dead:
            assert codes(heard)[-1] == ("GoAway", 0, p.ENHANCE_YOUR_CALM)
            assert talk.server.streams == {}
            return number
    raise AssertionError("it goes on without end")


def odd() -> Iterator[int]:
    return count(1, 2)


def opening(stream_id: int, *, end: bool = False) -> bytes:
    return frame(p.HEADERS, p.END_HEADERS | (p.END_STREAM if end else 0), stream_id, REQUEST)


def endless(one: bytes) -> Iterator[bytes]:
    return cycle([one])


# --- Streams that come to nothing ------------------------------------------------------------------------------------


def test_rapid_reset():
    """CVE-2023-44487: each stream is cancelled at once, so the limit on open streams is never reached."""
    assert until_dead(Talk(limits=FEW), (opening(number) + reset(number) for number in odd())) == ALLOWED


def test_rapid_reset_of_calls_that_were_begun():
    """CVE-2023-44487, with a message to work on before the cancellation."""
    asked = message(bytes(2))
    flood = (opening(number) + frame(p.DATA, 0, number, asked[:-1]) + reset(number) for number in odd())
    assert until_dead(Talk(limits=FEW), flood) == ALLOWED


def test_a_call_that_was_served_may_be_cancelled():
    """Limits on CVE-2023-44487 must not affect streams that open, are answered, and close."""
    talk = Talk(limits=FEW)
    for number in range(1, 2 * ENDLESS, 2):
        assert codes(talk.say(opening(number), *asks(number, 10), reset(number))) == []


def test_resets_without_a_stream():
    """The simplest variant of CVE-2023-44487: one stream is reset repeatedly."""
    talk = Talk(limits=FEW)
    talk.say(opening(1))
    assert until_dead(talk, endless(reset(1))) == ALLOWED


RESETS: dict[str, Callable[[int], bytes]] = {
    "window moved by nothing": lambda number: window_update(number, 0),
    "window beyond its maximum": lambda number: window_update(number, 2**31 - 1),
    "data after the end": lambda number: frame(p.DATA, p.END_STREAM, number) + frame(p.DATA, 0, number, b"x"),
    "headers that end nothing": opening,
    "pseudo-headers at the end": lambda number: opening(number, end=True),
    "priority of a wrong size": lambda number: frame(p.PRIORITY, 0, number, bytes(4)),
    "dependent on itself": lambda number: frame(p.PRIORITY, 0, number, number.to_bytes(4, "big") + b"\0"),
    "more data than the window": lambda number: frame(p.DATA, 0, number, b"\0\0\1\0\0" + bytes(9_000)),
}


@pytest.mark.parametrize("provoke", RESETS.values(), ids=RESETS)
def test_made_you_reset(provoke: Callable[[int], bytes]):
    """CVE-2025-8671: as rapid reset, but the client makes the server reset the streams."""
    talk = Talk(limits=Http2Limits(chores=CHORES, stream_window=8_000))
    assert until_dead(talk, (opening(number) + provoke(number) for number in odd())) <= ALLOWED


def test_reset_flood():
    """CVE-2019-9514: requests that are malformed, each answered by a reset."""
    talk = Talk(limits=FEW)
    assert until_dead(talk, (talk.head(number, ("connection", "close")) for number in odd())) == ALLOWED


def test_streams_beyond_the_limit():
    """A variant of CVE-2019-9514: refused streams, which a client that respects the limit never opens."""
    talk = Talk(limits=Http2Limits(chores=CHORES, streams_max=5))
    assert until_dead(talk, (opening(number) for number in odd())) == 5 + ALLOWED


# --- Frames that do nothing ------------------------------------------------------------------------------------------

NOTHING = {
    "CVE-2019-9512, pings": p.ping(),
    "CVE-2019-9512, answers to no ping": frame(p.PING, p.ACK, 0, bytes(8)),
    "CVE-2019-9515, empty settings": settings_frame(),
    "CVE-2019-9515, settings": settings_frame({p.MAX_FRAME_SIZE: 1 << 20}),
    "CVE-2019-9515, acknowledgements of nothing": frame(p.SETTINGS, p.ACK, 0),
    "CVE-2019-9518, empty data": frame(p.DATA, 0, 1),
    "CVE-2019-9518, padding": frame(p.DATA, p.PADDED, 1, bytes((9,)) + bytes(9)),
    "CVE-2019-9513, priorities": frame(p.PRIORITY, 0, 7, bytes(5)),
    "farewells": frame(p.GOAWAY, 0, 0, bytes(8)),
    "frames that nobody knows": frame(0xFA, 0, 0, bytes(100)),
    "credit for a stream that is over": window_update(3, 1 << 20),
    "data for a stream that was reset": frame(p.DATA, 0, 5, b"x"),
}


@pytest.mark.parametrize("one", NOTHING.values(), ids=NOTHING)
def test_frames_that_move_nothing(one: bytes):
    """CVE-2019-9512, 9513, 9515, 9518, and similar frames: as many as are allowed, and no more."""
    talk = Talk(limits=FEW)
    talk.say(opening(1), opening(3), frame(p.DATA, p.END_STREAM, 3), opening(5))
    talk.server.reset(5, p.CANCEL)
    assert until_dead(talk, endless(one)) <= ALLOWED


def test_padding_around_next_to_nothing():
    """CVE-2019-9518: a message that arrives one byte at a time, in frames of padding."""
    talk = Talk(limits=FEW)
    talk.say(opening(1), frame(p.DATA, 0, 1, b"\0\0\1\0\0"))
    assert until_dead(talk, endless(frame(p.DATA, p.PADDED, 1, b"\xffx" + bytes(255)))) == ALLOWED


def test_what_is_allowed_comes_back_with_time():
    talk = Talk(limits=Http2Limits(chores=CHORES, chores_per_s=10))
    until = count()
    for _ in until:
        talk.server.now += 0.2
        if not codes(talk.say(p.ping() * 2)) and next(until) > ENDLESS:
            return
        assert not talk.server.dead


def test_what_is_owed_stays_owed():
    """A frame that costs more than was earned leaves a debt, however long ago the last one was."""
    talk = Talk(limits=Http2Limits(chores=100, chores_per_s=200))
    rounds = 0
    while not talk.server.dead:
        rounds += 1
        assert rounds < 100
        talk.server.now += 0.0052
        talk.say(p.ping() * 20)


def test_the_resource_loop():
    """CVE-2019-9513: priorities that change the dependency tree. There is no tree, but they count all the same."""
    tree = (frame(p.PRIORITY, 0, n % 400 * 2 + 1, (n * 7 % 400 * 2 + 3).to_bytes(4, "big") + b"\1") for n in count())
    assert until_dead(Talk(limits=FEW), tree) <= ALLOWED


def test_large_settings():
    """CVE-2020-11080: SETTINGS frames with thousands of values, each of which must be parsed."""
    talk = Talk(limits=Http2Limits(chores=1_000))
    assert until_dead(talk, endless(settings_frame([(p.HEADER_TABLE_SIZE, 4_096)] * 2_000))) < 110


def test_settings_that_move_many_streams():
    """The worst case of CVE-2019-9515: each frame changes the window of every open stream."""
    talk = Talk(limits=Http2Limits(chores=1_000))
    for number in range(1, 4_001, 2):
        talk.say(opening(number))
    assert until_dead(talk, (settings_frame({p.INITIAL_WINDOW_SIZE: n % 2}) for n in count())) < 110


# --- Headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [b"", b"\x82", b"\x10\x01x\x7f\x00" + b"v" * 127])
def test_the_continuation_flood(piece: bytes):
    """CVE-2024-27316, CVE-2023-45288, CVE-2024-27983, CVE-2024-28182: a header block that never ends."""
    talk = Talk(limits=FEW)
    talk.say(frame(p.HEADERS, 0, 1, REQUEST))
    assert until_dead(talk, endless(frame(p.CONTINUATION, 0, 1, piece))) == ALLOWED


def test_the_continuation_flood_in_large_frames():
    """CVE-2024-27316 and similar: the limit on bytes is reached long before the limit on frames."""
    talk = Talk()
    talk.say(frame(p.HEADERS, 0, 1, REQUEST))
    frames = until_dead(talk, endless(frame(p.CONTINUATION, 0, 1, b"\x82" * p.FRAME_BYTES_MAX)))
    assert frames == HEADER_BLOCK_BYTES_MAX // p.FRAME_BYTES_MAX


def test_headers_without_a_name():
    """CVE-2019-9516: empty fields, which cost more to store than to send: their streams are refused."""
    talk = Talk(limits=FEW)
    assert until_dead(talk, (talk.head(number, *[("", "")] * 20) for number in odd())) == ALLOWED
    talk = Talk()
    many = HEADER_BLOCK_BYTES_MAX // 32
    assert codes(talk.say(talk.head(1, *[("", "")] * many))) == [("GoAway", 0, p.ENHANCE_YOUR_CALM)]


def bomb(references: int) -> bytes:
    """Return a block with a field of almost the table's size, and a number of one-byte references to it."""
    return hpack.Encoder().encode([("x-bomb", "v" * 3_800)], huffman=False) + b"\xbe" * references


def test_the_hpack_bomb():
    """CVE-2016-6581: 16 KB that decode to 50 MB. Decoding ends at the limit, not after it."""
    talk = Talk()
    block = bomb(13_000)
    assert len(block) > HEADER_BYTES_MAX
    pieces = [block[:16_384], block[16_384:]]
    heard = talk.say(frame(p.HEADERS, 0, 1, pieces[0]), frame(p.CONTINUATION, p.END_HEADERS, 1, pieces[1]))
    assert codes(heard) == [("GoAway", 0, p.ENHANCE_YOUR_CALM)]


def test_the_hpack_bomb_in_small():
    """CVE-2016-6581, below the limit of the connection: the stream is refused, and repetitions count."""
    talk = Talk(limits=FEW)
    assert codes(talk.say(frame(p.HEADERS, p.END_HEADERS, 1, bomb(8)))) == [("RstStream", 1, p.ENHANCE_YOUR_CALM)]
    assert until_dead(talk, (frame(p.HEADERS, p.END_HEADERS, n, b"\xbe" * 8) for n in count(3, 2))) < ALLOWED


def test_the_hpack_table_is_no_larger_than_was_agreed():
    """A variant of CVE-2016-6581: a client makes the server keep a table of gigabytes."""
    for size in (4_097, 2**31):
        encoder = hpack.Encoder()
        encoder.header_table_size = size
        block = encoder.encode([("x-a", "b")])
        heard = Talk().say(frame(p.HEADERS, p.END_HEADERS, 1, block))
        assert codes(heard) == [("GoAway", 0, p.COMPRESSION_ERROR)]


def test_a_header_list_that_is_too_large():
    """RFC 9113, 10.5.1: the stream fails, and with repetition soon the connection, as decoding takes time."""
    talk = Talk(limits=FEW)
    large = [(f"x-{n}", "v" * 3_000) for n in range(6)]
    assert codes(talk.say(talk.head(1, *large))) == [("RstStream", 1, p.ENHANCE_YOUR_CALM)]
    assert until_dead(talk, (talk.head(number, *large) for number in count(3, 2))) < ALLOWED // 16


# --- Windows ---------------------------------------------------------------------------------------------------------


def test_data_dribble_by_window_updates():
    """CVE-2019-9511: a large answer, and a window that opens byte by byte."""
    talk = Talk((p.INITIAL_WINDOW_SIZE, 0), limits=FEW)
    talk.say(opening(1), *asks(1, 60_000))
    assert until_dead(talk, endless(window_update(1, 1))) == ALLOWED


def test_data_dribble_by_the_connections_window():
    """CVE-2019-9511, with the window that all streams share."""
    talk = Talk((p.INITIAL_WINDOW_SIZE, 1 << 20), limits=FEW)
    talk.say(opening(1), *asks(1, 60_000), *asks(1, 60_000))
    assert until_dead(talk, endless(window_update(0, 1))) == ALLOWED


def test_data_dribble_by_settings():
    """CVE-2019-9511: one SETTINGS frame opens every stream's window by a byte, so a frame is sent on each."""
    talk = Talk((p.INITIAL_WINDOW_SIZE, 0), limits=Http2Limits(chores=1_000))
    for number in range(1, 201, 2):
        talk.say(opening(number), *asks(number, 60_000))
    assert until_dead(talk, (settings_frame({p.INITIAL_WINDOW_SIZE: n}) for n in count(1))) <= 20


def test_internal_data_buffering():
    """CVE-2019-9517: HTTP/2's windows are open, TCP's is closed: without reading, nothing more is written."""
    talk = Talk((p.INITIAL_WINDOW_SIZE, 2**31 - 1))
    talk.say(window_update(0, 2**31 - 1 - 65_535))
    talk.server.paused = True
    for number in range(1, 2_001, 2):
        talk.server.receive(opening(number) + b"".join(asks(number, 60_000)))
    answered = said(talk.heard())
    assert {kind for kind, *_ in answered} <= {"Headers"}


def test_internal_data_buffering_of_what_waited_for_windows():
    """CVE-2019-9517, with windows that are opened only after the client has stopped reading."""
    talk = Talk((p.INITIAL_WINDOW_SIZE, 0))
    for number in range(1, 201, 2):
        talk.say(opening(number), *asks(number, 60_000))
    talk.server.paused = True
    windows = [window_update(0, 1 << 30), *(window_update(number, 1 << 20) for number in range(1, 101, 2))]
    assert said(talk.say(*windows, settings_frame({p.INITIAL_WINDOW_SIZE: 1 << 20}))) == [("Settings", 0, 0)]


def test_internal_data_buffering_of_answers_without_data():
    """CVE-2019-9517, with frames that are not flow-controlled: unread errors of thousands of requests."""
    talk = Talk(limits=Http2Limits(chores=10**9, unread_bytes_max=5_000))
    talk.server.paused = True
    for number in odd():
        talk.server.receive(talk.head(number, ("connection", "close")))
        if talk.server.dead:
            break
        assert number < ENDLESS
    assert codes(talk.heard())[-1] == ("GoAway", 0, p.ENHANCE_YOUR_CALM)
    assert talk.server.limits_reached == ["unread_answers"]


def test_data_that_no_window_allows():
    """RFC 9113, 6.9.1: the server keeps nothing of data beyond the window."""
    talk = Talk(limits=Http2Limits(chores=CHORES, connection_window=65_535, message_bytes_max=1 << 30))
    large = b"\0" + (1 << 29).to_bytes(4, "big")
    talk.server.on_large = lambda stream, more: None  # as if no memory were left for it
    talk.say(opening(1), frame(p.DATA, 0, 1, large + bytes(16_000)))
    heard = talk.say(*[frame(p.DATA, 0, 1, bytes(16_000))] * 8)
    assert codes(heard)[0] == ("RstStream", 1, p.FLOW_CONTROL_ERROR)
