"""Header blocks that are too large, too deep, or invalid (RFC 7541; RFC 9113, 4.3 and 10.5)."""

import pytest
from hpack import Encoder
from support import native_peer as p
from support.native_h2 import H2Client
from support.native_peer import Peer, delta_request, frame, message, request_fields, settings_frame
from support.native_server import MIB, NativeServer, check_sound

HEADER_BYTES_MAX = 16 * 1024
"""The server's SETTINGS_MAX_HEADER_LIST_SIZE."""


def blocks(stream_id: int, block: bytes, *, end: bool = False) -> bytes:
    """Return a header block of any size as HEADERS and CONTINUATION frames."""
    pieces = [block[at : at + p.FRAME_BYTES_MAX] for at in range(0, len(block), p.FRAME_BYTES_MAX)]
    said = b""
    for number, piece in enumerate(pieces):
        flags = (p.END_HEADERS if number == len(pieces) - 1 else 0) | (p.END_STREAM if end and number == 0 else 0)
        said += frame(p.CONTINUATION if number else p.HEADERS, flags, stream_id, piece)
    return said


def padding_fields(size: int) -> list[tuple[str, str]]:
    """Return fields that count as a given size of a header list (RFC 9113, 6.5.2)."""
    found = []
    while size > 0:
        value_bytes = min(size, 1_000) - 32 - 8
        found.append((f"x-{len(found):06}", "v" * max(1, value_bytes)))
        size -= 40 + max(1, value_bytes)
    return found


def test_the_limit_on_headers_is_told(server: NativeServer):
    with Peer(server.port) as peer:
        peer.settled()
        assert peer.server_settings[p.MAX_HEADER_LIST_SIZE] == HEADER_BYTES_MAX


@pytest.mark.parametrize("pieces", [1, 2, 50])
def test_headers_within_the_limit_are_taken_in_any_number_of_frames(server: NativeServer, pieces: int):
    with Peer(server.port) as peer:
        block = peer.block([*request_fields(), *padding_fields(14_000)])
        step = -(-len(block) // pieces)
        cut = [block[at : at + step] for at in range(0, len(block), step)]
        peer.send(frame(p.HEADERS, p.END_HEADERS if len(cut) == 1 else 0, 1, cut[0]))
        for number, piece in enumerate(cut[1:], start=2):
            peer.send(frame(p.CONTINUATION, p.END_HEADERS if number == len(cut) else 0, 1, piece))
        peer.data(1, delta_request())
        peer.wait(lambda: peer.answer(1).messages())


def test_headers_beyond_the_limit_end_their_own_stream_alone(server: NativeServer):
    """A client that ignores the setting, such as grpcio, must not lose its other streams (RFC 9113, 10.5.1)."""
    with Peer(server.port) as peer:
        other = peer.open(1, delta_request())
        peer.wait(other.messages)
        peer.send(blocks(3, peer.block([*request_fields(), *padding_fields(2 * HEADER_BYTES_MAX)])))
        refused = peer.answer(3)
        peer.wait(lambda: refused.ended or refused.reset is not None)
        assert refused.messages() == []
        later = peer.open(5, delta_request())
        peer.wait(later.messages)
        assert not other.ended


def test_a_block_beyond_all_measure_ends_the_connection(server: NativeServer):
    memory = server.memory_bytes()
    with Peer(server.port) as peer:
        peer.send(blocks(1, peer.block([*request_fields(), *padding_fields(4 * MIB)])))
        assert peer.closed() in (p.ENHANCE_YOUR_CALM, None)
    assert server.memory_bytes() - memory < 16 * MIB


def bomb(references: int, number: int = 0) -> bytes:
    """Return a block of a few kilobytes that decodes to many megabytes: a large field, then references to it."""
    encoder = Encoder()
    large = encoder.encode([*request_fields(), (f"x-bomb-{number}", "v" * 3_800)], huffman=False)
    return large + b"\xbe" * references  # index 62: the newest entry of the dynamic table


@pytest.mark.parametrize("references", [16_000, 60_000])
def test_a_small_block_that_decodes_to_a_large_one_is_refused(server: NativeServer, references: int):
    """An HPACK bomb: 60,000 one-byte references decode to 228 MB."""
    memory, cpu = server.memory_bytes(), server.cpu_s()
    for number in range(10):
        with Peer(server.port) as peer:
            peer.send(blocks(1, bomb(references, number)))
            answer = peer.answer(1)
            try:
                peer.wait(lambda answer=answer: answer.ended or answer.reset is not None)
            except ConnectionError:
                assert peer.goaway is None or peer.goaway.error_code == p.ENHANCE_YOUR_CALM
            assert answer.messages() == []
    assert server.memory_bytes() - memory < 16 * MIB
    assert server.cpu_s() - cpu < 2.0


def test_large_heads_of_many_connections_are_not_kept(server: NativeServer):
    memory = server.memory_bytes()
    for number in range(1_500):
        with Peer(server.port) as peer:
            fields = [*request_fields("/no.Service/Method"), (f"x-{number}", "v" * 1_900)]
            answer = peer.open(1, fields=fields, end=True)
            peer.wait(lambda answer=answer: answer.ended)
            assert answer.status == 12
    assert server.memory_bytes() - memory < 24 * MIB


@pytest.mark.parametrize(
    ("what", "block"),
    [
        ("an index of nothing", b"\xff\xff\x7f"),
        ("index 0", b"\x80"),
        ("an integer without end", b"\xff" + b"\x80" * 100),
        ("a string longer than the block", b"\x00\x7f\xff\x7fabc"),
        ("Huffman code that ends badly", b"\x00\x85\xff\xff\xff\xff\xff"),
        ("a table larger than agreed", b"\x3f\xe2\x1f"),
        ("a table size within the block", b"\x82\x3f\xe1\x1f"),
    ],
)
def test_what_is_no_hpack_ends_the_connection(server: NativeServer, what: str, block: bytes):
    with Peer(server.port) as peer:
        peer.send(frame(p.HEADERS, p.END_HEADERS | p.END_STREAM, 1, block))
        assert peer.closed() == p.COMPRESSION_ERROR, what


def test_the_dynamic_table_is_kept_over_streams_and_resized(server: NativeServer):
    """The second request refers to table entries of the first; then the table's size becomes 0."""
    with Peer(server.port) as peer:
        fields = [*request_fields(), ("x-remembered", "v" * 500)]
        sizes = []
        for number in (1, 3, 5, 7):
            if number == 5:
                peer.encoder.header_table_size = 0
            block = peer.block(fields)
            sizes.append(len(block))
            peer.send(frame(p.HEADERS, p.END_HEADERS, number, block))
            peer.data(number, delta_request())
            peer.wait(lambda number=number: peer.answer(number).messages())
        assert sizes[1] < 50 < sizes[2]


@pytest.mark.parametrize("table_bytes", [0, 1, 2**32 - 1])
def test_the_size_of_our_table_is_the_servers_to_use(server: NativeServer, table_bytes: int):
    """A huge SETTINGS_HEADER_TABLE_SIZE must cost nothing, and 0 must not confuse our decoder."""
    memory = server.memory_bytes()
    with Peer(server.port, settings={p.HEADER_TABLE_SIZE: table_bytes}) as peer:
        peer.decoder.max_allowed_table_size = table_bytes
        for number in range(1, 400, 2):
            answer = peer.open(number, fields=request_fields(f"/no.Service/{number}"), end=True)
            peer.wait(lambda answer=answer: answer.ended)
            assert answer.status == 12
    assert server.memory_bytes() - memory < 8 * MIB


def test_settings_of_the_table_that_change_all_the_time_are_followed(server: NativeServer):
    with Peer(server.port) as peer:
        for number in range(1, 101, 2):
            peer.decoder.max_allowed_table_size = 4_096 if number % 4 == 1 else 0
            peer.send(settings_frame({p.HEADER_TABLE_SIZE: peer.decoder.max_allowed_table_size}))
            answer = peer.open(number, message(b""), fields=request_fields(p.HEALTH_CHECK), end=True)
            peer.wait(lambda answer=answer: answer.ended)
            assert answer.status == 0


@pytest.mark.parametrize(
    "fields",
    [
        [("x-Upper", "v")],
        [("x-space ", "v")],
        [("x:colon", "v")],
        [("x-nul", "a\0b")],
        [("x-newline", "a\nb")],
        [("x-return", "a\rb")],
        [("x-leading", " v")],
        [("x-trailing", "v ")],
        [("", "v")],
        [("connection", "keep-alive")],
        [("transfer-encoding", "chunked")],
        [("upgrade", "h2c")],
        [("te", "gzip")],
        [("content-length", "-1")],
        [("content-length", "1x")],
        [(":late", "v")],
        [(":method", "POST")],
        [(":status", "200")],
    ],
    ids=lambda fields: repr(fields[0]),
)
def test_malformed_fields_end_their_own_stream_alone(server: NativeServer, fields: list[tuple[str, str]]):
    """RFC 9113, 8.2.1, 8.2.2 and 8.3: a malformed request is a stream error of type PROTOCOL_ERROR."""
    with Peer(server.port) as peer:
        other = peer.open(1, delta_request())
        peer.wait(other.messages)
        base = request_fields(drop=["te"]) if fields[0][0] == "te" else request_fields()
        peer.send(frame(p.HEADERS, p.END_HEADERS, 3, peer.block([*base, *fields])))
        refused = peer.answer(3)
        peer.wait(lambda: refused.ended or refused.reset is not None)
        assert refused.reset == p.PROTOCOL_ERROR or refused.headers.get(":status") == "400"
        peer.settled()
        assert not other.ended


def test_pseudo_headers_that_are_missing_end_their_own_stream_alone(server: NativeServer):
    with Peer(server.port) as peer:
        for number, name in zip((1, 3, 5), (":method", ":scheme", ":path"), strict=True):
            answer = peer.open(number, fields=request_fields(drop=[name]))
            peer.wait(lambda answer=answer: answer.reset is not None)
            assert answer.reset == p.PROTOCOL_ERROR
        assert peer.open(7, fields=request_fields(path="")) is not None
        peer.wait(lambda: peer.answer(7).reset is not None or peer.answer(7).ended)
        assert peer.answer(7).messages() == []
        peer.settled()


def test_a_faithful_client_reads_every_kind_of_answer():
    """h2 checks each header block that it receives, including those that its own requests never cause."""
    with NativeServer() as server:
        with H2Client(server.port, generous=True) as client:
            for path in ("/", "/no.Service/Method", p.HEALTH_CHECK, p.DELTA_ADS):
                stream = client.open(path=path, end=True)
                client.wait(lambda stream=stream: client.answers[stream].ended)
                assert client.answers[stream].headers[":status"] == "200"
                assert client.answers[stream].status is not None
        check_sound(server)
