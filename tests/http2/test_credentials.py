"""The ``authorization`` field of a connection's first block: taken out exactly, and in no cache."""

import gc

import pytest
from hpack import Decoder, Encoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from xds.transport.http2 import headers
from xds.transport.http2.credentials import take_out_authorization
from xds.transport.http2.headers import HEADER_BYTES_MAX, SHARED_BLOCKS, HeaderDecoder
from xds.transport.http2.huffman import HuffmanDecoder

TOKEN = "Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJodHRwczovL2V4YW1wbGUifQ.c2lnbmF0dXJl"
BASE = [
    (":method", "POST"),
    (":path", "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"),
    (":authority", "xds"),
    (":scheme", "http"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
ENVOY = bytes.fromhex(
    "8304b960b5773fa5d05b3b98855e432087ee5b3d2fdd95e19a6b0b30d2592f99043f72d9eb716cee62158be5a1238669ac2cc34964da541edb"
    "08547f41037864738640027465864d833505b11f5f8b1d75d0620d263d4c4d6564408cf2b16aee7f4b1aa496ca8747834d9697408bf2b4a7b3"
    "c0ec90b22d29ec870be25c0b89717f1f08cfba51d85b142facb3c78886d46cbbb87bc81d26c88c94a6bfdbd91cc9d301a5d8b97d65ac8ce836"
    "a3653c98f6f827b3f7ce2e2d73e41f11e2e069762e41515474e1049f996820a8aa3a70824fccb47f"
)
"""The block of an Envoy 1.40 with the credential injector: never indexed, by index, in Huffman code."""
GRPC = bytes.fromhex(
    "40053a706174684f2f656e766f792e736572766963652e646973636f766572792e76332e41676772656761746564446973636f766572795365"
    "72766963652f44656c7461416767726567617465645265736f7572636573400a3a617574686f726974790f3132372e302e302e313a31393535"
    "358387400c636f6e74656e742d74797065106170706c69636174696f6e2f677270634002746508747261696c6572734014677270632d616363"
    "6570742d656e636f64696e67176964656e746974792c206465666c6174652c20677a6970400a757365722d6167656e742d677270632d632b2b"
    "2f312e38332e3020677270632d632f35362e302e3020286c696e75783b2063687474703229000d617574686f72697a6174696f6e5942656172"
    "65722065794a68624763694f694a53557a49314e694973496d74705a434936496a456966512e65794a7063334d694f694a6f64485277637a6f"
    "764c325634595731776247556966512e63326c6e626d463064584a6c"
)
"""The block of an Envoy 1.40 with google_grpc: not indexed, by name, plain."""


def literal(name: bytes, value: bytes, first: int) -> bytes:
    """Return a field by name, plain."""
    assert max(len(name), len(value)) < 127
    return bytes([first, len(name)]) + name + bytes([len(value)]) + value


@pytest.mark.parametrize("block", [ENVOY, GRPC], ids=["envoy_grpc", "google_grpc"])
def test_the_blocks_of_real_clients(block: bytes) -> None:
    taken = take_out_authorization(block)
    assert taken is not None
    rest, value = taken
    fields = Decoder().decode(block)
    assert ("authorization", value) in fields
    assert Decoder().decode(rest) == [field for field in fields if field[0] != "authorization"]


FIELDS = st.tuples(
    st.sampled_from(["x-a", "x-forwarded-for", "te", "authorization-x", "user-agent", ":authority", "cookie"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
    st.booleans(),
)


@given(
    fields=st.lists(FIELDS, max_size=8),
    at=st.integers(0, 8),
    value=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200),
    huffman=st.booleans(),
)
def test_what_is_left_is_the_block_without_the_field(
    fields: list[tuple[str, str, bool]], at: int, value: str, huffman: bool
) -> None:
    others = [(NeverIndexedHeaderTuple if never else HeaderTuple)(name, text) for name, text, never in fields]
    at = min(at, len(others))
    block = Encoder().encode(
        [*others[:at], NeverIndexedHeaderTuple("authorization", value), *others[at:]], huffman=huffman
    )
    taken = take_out_authorization(block)
    assert taken is not None
    rest, found = taken
    assert found == value
    whole, without = Decoder(), Decoder()
    fields_of_block = whole.decode(block)
    assert [field for field in fields_of_block if field[0] != "authorization"] == without.decode(rest)
    assert list(whole.header_table.dynamic_entries) == list(without.header_table.dynamic_entries)


@given(data=st.binary(max_size=120))
def test_what_hpack_refuses_stays_refused(data: bytes) -> None:
    for block in (data, b"\x1f\x08" + data, b"\x1f\x08\x01a" + data, ENVOY[:100] + data, data + ENVOY):
        taken = take_out_authorization(block)
        if taken is not None:
            assert other_fields(taken[0]) == other_fields(block)


def other_fields(block: bytes) -> list[HeaderTuple] | None:
    """Return the fields of a block but ``authorization``, None if hpack can't decode it."""
    try:
        return [field for field in Decoder().decode(block, raw=True) if field[0] != b"authorization"]
    except Exception:
        return None


@pytest.mark.parametrize(
    "block",
    [
        Encoder().encode(BASE),
        Encoder().encode([*BASE, ("authorization", TOKEN)]),
        Encoder().encode([*BASE, ("authorization", TOKEN)], huffman=False),
        literal(b"authorization", b"a", 0x40),
        literal(b"authorization", b"a", 0x10) + literal(b"authorization", b"b", 0x10),
        literal(b"authorization", b"a", 0x40) + b"\x0f\x2f\x01b",  # by the name that the table has now
        b"\x97",
        b"\x1f\x08\x01a\x3e",
        b"\x1f\x08\x7f\xff\xff\xff\xff\xff",
        b"\x1f\x08\x85abc",
        b"\x1f\x08\x81\x00",
        b"\x1f\x08\x01\xff",
    ],
    ids=[
        *("none", "indexed", "indexed plain", "by name", "twice", "by the name in the table", "empty", "late size"),
        *("long", "short", "padding", "not ASCII"),
    ],
)
def test_what_is_not_taken_out(block: bytes) -> None:
    assert take_out_authorization(block) is None


# --- Huffman code ----------------------------------------------------------------------------------------------------


@given(st.binary(max_size=60))
def test_huffman_code_is_decoded_as_hpack_does(data: bytes) -> None:
    decoder = HuffmanDecoder()
    encoded = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(data)
    assert decoder.decode(encoded) == data
    try:
        expected: bytes | None = bytes(decode_huffman(data))
    except Exception:
        expected = None
    try:
        found: bytes | None = decoder.decode(data)
    except ValueError:
        found = None
    assert found == expected


# --- Heads -----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_shared_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "_shared_heads", headers._SharedHeads())


def test_a_fleet_of_tokens_shares_one_head_and_evicts_none() -> None:
    useful = Encoder().encode([*BASE, ("x-forwarded-for", "192.0.2.1")])
    HeaderDecoder().read(useful)
    decoders = []
    for number in range(SHARED_BLOCKS + 100):
        block = Encoder().encode([*BASE, NeverIndexedHeaderTuple("authorization", f"{TOKEN}{number}")])
        decoder = HeaderDecoder()
        assert decoder.read(block).authorization == f"{TOKEN}{number}"
        decoders.append(decoder)
    known = headers._shared_heads._known
    assert len(known) == 2
    assert useful in known
    assert len({id(decoder._first) for decoder in decoders}) == 1, "connections share the bytes they keep, too"


@pytest.mark.parametrize("form", ["never indexed", "indexed", "twice", "large", "malformed"])
def test_no_cache_has_a_token_in_any_form(form: str) -> None:
    fields = {
        "never indexed": [*BASE, NeverIndexedHeaderTuple("authorization", TOKEN)],
        "indexed": [*BASE, ("authorization", TOKEN)],
        "twice": [*BASE, *[NeverIndexedHeaderTuple("authorization", TOKEN)] * 2],
        "large": [*BASE, NeverIndexedHeaderTuple("authorization", TOKEN * 40)],
        "malformed": [*BASE, ("authorization", TOKEN), ("Bad Name", "x")],
    }[form]
    block = Encoder().encode(fields)
    head = HeaderDecoder().read(block)
    assert TOKEN not in repr(head)
    if form != "malformed":
        assert head.authorization.startswith(TOKEN)
    gc.collect()
    kept = repr(headers._shared_heads._known)
    assert TOKEN not in kept
    assert not [each for each in headers._shared_heads._known if block in each or TOKEN.encode() in each]


@pytest.mark.parametrize("indexed", [False, True])
def test_later_blocks_are_decoded_by_the_table_that_the_first_one_made(indexed: bool) -> None:
    encoder = Encoder()
    credentials = ("authorization", TOKEN) if indexed else NeverIndexedHeaderTuple("authorization", TOKEN)
    first = encoder.encode([*BASE, ("x-a", "1"), credentials, ("x-b", "2")])
    second = encoder.encode([*BASE, ("x-a", "1"), credentials, ("x-b", "2"), ("grpc-timeout", "5S")])
    decoder = HeaderDecoder()
    assert (decoder.read(first).authorization, decoder.read(first[:0]).method) == (TOKEN, "")
    decoder = HeaderDecoder()
    decoder.read(first)
    head = decoder.read(second)
    assert (head.authorization, head.timeout, head.malformed) == (TOKEN, "5S", "")


def test_credentials_count_towards_the_size_of_the_headers() -> None:
    def block(size: int) -> bytes:
        return Encoder().encode([*BASE, NeverIndexedHeaderTuple("authorization", "x" * size)], huffman=False)

    size = HeaderDecoder().read(Encoder().encode(BASE)).size
    most = HEADER_BYTES_MAX - size - len("authorization") - headers.FIELD_BYTES
    assert not HeaderDecoder().read(block(most)).malformed
    assert "headers of more than" in HeaderDecoder().read(block(most + 1)).malformed


@pytest.mark.parametrize("value", ["a\x00b", "a\r\nb", " a", "a "])
def test_credentials_with_characters_that_no_value_may_have_are_malformed(value: str) -> None:
    head = HeaderDecoder().read(Encoder().encode([*BASE, NeverIndexedHeaderTuple("authorization", value)]))
    assert "can't have" in head.malformed


def test_credentials_that_are_sent_twice_are_joined() -> None:
    twice = [NeverIndexedHeaderTuple("authorization", "Bearer a"), NeverIndexedHeaderTuple("authorization", "Bearer b")]
    assert HeaderDecoder().read(Encoder().encode([*BASE, *twice])).authorization == "Bearer a,Bearer b"
