"""The HTTP/2 connection without sockets: bugs that fuzzing and review found, each as its shortest case."""

import hpack
import pytest
from support import native_peer as p
from support.native_fuzz import Application, Watcher
from support.native_peer import PREFACE, frame, message, request_fields, settings_frame, window_update
from support.native_talk import REQUEST, Talk, asks, codes, said

from xds.transport.http2 import frames as h2
from xds.transport.http2 import grpc
from xds.transport.http2.headers import HEADER_BYTES_MAX
from xds.transport.http2.limits import Http2Limits

# --- Settings --------------------------------------------------------------------------------------------------------


def test_settings_are_acknowledged_before_what_they_allow_and_moved_once():
    """RFC 9113, 6.5.3. The last of several values in a frame counts, so each stream's window changes once."""
    talk = Talk((p.INITIAL_WINDOW_SIZE, 10))
    assert said(talk.open(1, ask_bytes=1_000))[-1] == ("Data", 1, 10)
    moved = talk.say(
        settings_frame([(p.INITIAL_WINDOW_SIZE, 0), (p.INITIAL_WINDOW_SIZE, 500), (p.INITIAL_WINDOW_SIZE, 30)])
    )
    assert said(moved) == [("Settings", 0, 0), ("Data", 1, 20)]


def test_a_smaller_table_is_confirmed_by_the_next_header_block():
    """RFC 7541, 4.2: a decoder that reduced its table may refuse blocks until the encoder announces the new size."""
    talk = Talk((p.HEADER_TABLE_SIZE, 0), (p.HEADER_TABLE_SIZE, 4_096))
    first, second = talk.open(1, ask_bytes=0)[0], talk.open(3, ask_bytes=0)[0]
    assert (first.data[:1], first.data[1:]) == (b"\x20", second.data)
    talk.say(settings_frame({p.HEADER_TABLE_SIZE: 100}))
    trailers = talk.say(frame(p.DATA, p.END_STREAM, 3))
    assert [one.data[:1] for one in trailers] == [b"\x20"]


# --- Headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["9" * 19, "9" * 5_000, "-1", "", "1e3", "٣"])
def test_an_invalid_content_length_ends_its_stream_alone(length: str):
    """Python raises ValueError for numbers of more than 4,300 digits, which must not escape."""
    talk = Talk()
    assert codes(talk.say(talk.head(1, ("content-length", length)))) == [("RstStream", 1, p.PROTOCOL_ERROR)]
    assert codes(talk.say(talk.head(3))) == []


def test_a_request_without_data_but_with_a_content_length_opens_no_stream():
    """A stream that was created for it and then refused was never removed."""
    talk = Talk()
    block = talk.encoder.encode(request_fields(content_length="7"))
    heard = talk.say(frame(p.HEADERS, p.END_HEADERS | p.END_STREAM, 1, block))
    assert codes(heard) == [("RstStream", 1, p.PROTOCOL_ERROR)]
    assert talk.server.opened == 0


def test_headers_beyond_the_limit_leave_the_table_as_the_client_thinks_it_is():
    talk = Talk()
    assert codes(talk.say(talk.head(1, ("x-large", "v" * HEADER_BYTES_MAX), ("x-kept", "v" * 100)))) == [
        ("RstStream", 1, p.ENHANCE_YOUR_CALM)
    ]
    block = talk.head(3, ("x-kept", "v" * 100))
    assert len(block) < 150  # "x-kept" by its index
    assert said(talk.say(block, *asks(3, 0)))[0][:2] == ("Headers", 3)


def test_headers_that_depend_on_their_own_stream_end_the_connection():
    """Their block is not decoded, so later ones can't be either."""
    payload = (1).to_bytes(4, "big") + b"\0" + REQUEST
    assert codes(Talk().say(frame(p.HEADERS, p.END_HEADERS | p.PRIORITIZED, 1, payload))) == [
        ("GoAway", 0, p.PROTOCOL_ERROR)
    ]


@pytest.mark.parametrize(("stream_id", "payload"), [(1, bytes(4)), (4, bytes(4)), (7, (7).to_bytes(4, "big") + b"\0")])
def test_no_stream_is_reset_that_was_never_opened(stream_id: int, payload: bytes):
    """RFC 9113, 6.4: RST_STREAM must not be sent for an idle stream, so a fault on one is a connection error."""
    assert [kind for kind, *_ in codes(Talk().say(frame(p.PRIORITY, 0, stream_id, payload)))] == ["GoAway"]


def test_a_farewell_quotes_no_more_than_a_little():
    """HPACK's errors quote the block: a GOAWAY of 60 KB is larger than any frame may be."""
    talk = Talk(limits=Http2Limits(header_block_bytes_max=1 << 20))
    pieces = [b"\x00\x82" + b"\xff" * 16_000, *[b"\xff" * 16_000] * 2]
    farewell = talk.say(
        frame(p.HEADERS, 0, 1, pieces[0]),
        frame(p.CONTINUATION, 0, 1, pieces[1]),
        frame(p.CONTINUATION, p.END_HEADERS, 1, pieces[2]),
    )[-1]
    assert farewell.error_code == p.COMPRESSION_ERROR
    assert len(h2.goaway_frame(1, 1, "é" * 100_000)) <= h2.HEADER_BYTES + 8 + h2.GOAWAY_TEXT_MAX


# --- Streams that are over -------------------------------------------------------------------------------------------


def test_what_is_refused_while_an_answer_waits_is_neither_kept_nor_given_credit():
    """The status waits behind half an answer; meanwhile a "message" of 2 GB requested credit."""
    talk = Talk((p.INITIAL_WINDOW_SIZE, 10))
    talk.open(1, ask_bytes=1_000)
    assert said(talk.say(frame(p.DATA, 0, 1, b"\0\x86\0\0\0" + bytes(16_000)))) == []
    for _ in range(2):
        assert said(talk.say(frame(p.DATA, 0, 1, bytes(16_000)))) == []
    assert said(talk.say(*asks(1, 5))) == []
    assert (talk.server.streams[1].partial, talk.server.messages) == (None, 1)
    assert talk.server.takes_whole(1, 7) is None  # the short way for ACKs
    assert codes(talk.say(frame(p.DATA, 0, 1, bytes(16_384)), frame(p.DATA, 0, 1, bytes(16_384)))) == [
        ("RstStream", 1, p.FLOW_CONTROL_ERROR)
    ]


def refused(talk: Talk) -> None:
    """Answer stream 1 before the client has ended its half."""
    fields = request_fields("/", method="GET", content_length="5", drop=["content-type"])
    talk.say(frame(p.HEADERS, p.END_HEADERS, 1, talk.encoder.encode(fields)))
    assert talk.server.streams == {}


def test_a_stream_that_was_answered_is_still_held_to_the_rules_of_an_open_one():
    """RFC 9113, 5.1, half-closed (local): data, trailers, credit and an end may arrive; each has its rules."""
    wrong = {
        p.PROTOCOL_ERROR: (
            frame(p.DATA, 0, 1, b"123456"),
            frame(p.DATA, p.END_STREAM, 1, b"1234"),
            frame(p.HEADERS, p.END_HEADERS, 1, b""),
            frame(p.HEADERS, p.END_HEADERS | p.END_STREAM, 1, REQUEST),
            window_update(1, 0),
        ),
        p.FLOW_CONTROL_ERROR: (window_update(1, 2**31 - 1),),
    }
    for code, frames in wrong.items():
        for one in frames:
            talk = Talk()
            refused(talk)
            assert codes(talk.say(one)) == [("RstStream", 1, code)]
    for last in (frame(p.DATA, p.END_STREAM, 1, b"12345"), p.reset(1)):
        talk = Talk()
        refused(talk)
        assert codes(talk.say(window_update(1, 10), last)) == []
        assert codes(talk.say(frame(p.DATA, 0, 1, b"1"))) == [("RstStream", 1, p.STREAM_CLOSED)]


def test_what_is_under_way_for_a_stream_that_we_have_reset_is_ignored():
    """RFC 9113, 5.1, closed: also trailers, whose block must still be decoded."""
    talk = Talk()
    talk.open(1)
    talk.server.reset(1, p.CANCEL)
    talk.heard()
    trailers = frame(p.HEADERS, p.END_HEADERS | p.END_STREAM, 1, talk.encoder.encode([("x-kept", "v" * 100)]))
    assert said(talk.say(frame(p.DATA, 0, 1, bytes(100)), window_update(1, 5), trailers)) == []
    assert said(talk.say(talk.head(3, ("x-kept", "v" * 100)), *asks(3, 0)))[0][:2] == ("Headers", 3)


def test_only_the_last_streams_that_are_over_are_remembered():
    talk = Talk()
    for number in range(1, 201, 2):
        talk.open(number)
        talk.server.streams[number].finish(0)
    assert codes(talk.say(frame(p.DATA, 0, 1, b"1"))) == [("RstStream", 1, p.STREAM_CLOSED)]
    assert codes(talk.say(frame(p.DATA, 0, 199, b"1"))) == []


def test_a_message_that_is_cut_off_by_the_end_is_an_error():
    talk = Talk()
    talk.open(1)
    (trailers,) = talk.say(frame(p.DATA, p.END_STREAM, 1, message(b"12345")[:7]))
    assert ("grpc-status", "13") in hpack.Decoder().decode(trailers.data)


# --- Peers that do not read ------------------------------------------------------------------------------------------


def test_nothing_is_sent_to_a_peer_that_does_not_read_whatever_windows_it_opens():
    """CVE-2019-9517. Waiting data is then sent in the order of waiting."""
    talk = Talk((p.INITIAL_WINDOW_SIZE, 0))
    for number in (1, 3, 5):
        talk.open(number, ask_bytes=60_000)
    talk.server.paused = True
    credit = [window_update(0, 1 << 20), *(window_update(number, 1 << 20) for number in (5, 1))]
    assert said(talk.say(*credit, settings_frame({p.INITIAL_WINDOW_SIZE: 1 << 20}))) == [("Settings", 0, 0)]
    talk.server.resume()
    assert [stream for _, stream, _ in said(talk.heard())] == [5] * 4 + [1] * 4 + [3] * 4


def test_answers_that_are_not_read_are_bounded_by_their_bytes():
    talk = Talk(limits=Http2Limits(chores=10**9, unread_bytes_max=1_000))
    talk.server.paused = True
    asked = 0
    while not talk.server.dead:
        talk.server.receive(p.ping())
        asked += 1
    assert asked == 1_000 // 17 + 2
    assert codes(talk.heard()) == [("GoAway", 0, p.ENHANCE_YOUR_CALM)]
    talk = Talk(limits=Http2Limits(chores=10**9, unread_bytes_max=1_000))
    for _ in range(200):  # reading now and then clears the count
        talk.server.paused = True
        assert len(talk.say(p.ping() * 10)) == 10
        talk.server.resume()


def test_no_pong_follows_a_farewell():
    class Strict(Application):
        def on_ping(self) -> None:
            self.fail(p.ENHANCE_YOUR_CALM, "too_many_pings")

    talk = Talk()
    talk.server = Strict(Http2Limits())
    talk.say(PREFACE, settings_frame())
    assert said(talk.say(p.ping()))[0][0] == "GoAway"


def test_the_fuzzer_detects_what_must_not_be_sent():
    head = grpc.response_headers(1)
    for wrong in (
        frame(p.PRIORITY, 0, 1, bytes(5)),
        frame(p.DATA, 0, 1, b"x"),
        head + head,
        head + frame(p.DATA, p.END_STREAM, 1) + frame(p.DATA, 0, 1),
        h2.goaway_frame(1, 1) + p.ping(),
        window_update(1, 0),
        head[:-1],
        frame(p.DATA, 0, 2, b""),
        p.reset(1) + head,
    ):
        with pytest.raises(AssertionError):
            Watcher().look(wrong)
    assert Watcher().look(head + frame(p.DATA, p.END_STREAM, 1, b"x")) == {"HEADERS": 1, "DATA": 1}
