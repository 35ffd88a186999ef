"""Any bytes and any text are read as PEM and DER without an error."""

from hypothesis import given
from hypothesis import strategies as st

from xds.schema.semantics.pem import ENCRYPTED, KEYS, decoded, is_whole, read_pem, takes_long

LINES = st.sampled_from(
    ["-----BEGIN A-----", "-----END A-----", "-----BEGIN B-----  ", "-----BEGIN", "YWJj", "", "-----"]
)


@given(st.lists(LINES | st.text(max_size=9)))
def test_each_block_is_a_part_of_the_text(lines: list[str]) -> None:
    text = "\n".join(lines)
    blocks, _ = read_pem(text)
    at = 0
    for block in blocks:
        at = text.index(block.text, at) + len(block.text)
        assert block.text.startswith(f"-----BEGIN {block.label}-----")
        decoded(block.body)


@given(st.binary(max_size=60), st.sampled_from(KEYS))
def test_any_bytes_are_judged(data: bytes, label: str) -> None:
    der = b"\x30" + bytes([len(data)]) + data
    assert is_whole(der)
    assert takes_long(label, der) in (True, False)
    is_whole(data)
    is_whole(data, may_have_more=True)


def test_what_stretches_a_password_for_long() -> None:
    scrypt = bytes.fromhex("06092b06010401da47040b")

    def key(parameters: bytes) -> bytes:
        algorithm = b"\x30" + bytes([len(parameters)]) + parameters
        return b"\x30" + bytes([len(algorithm)]) + algorithm

    assert not takes_long(ENCRYPTED, key(b"\x02\x03\x01\x86\xa0"))
    assert takes_long(ENCRYPTED, key(b"\x02\x03\x01\x86\xa1"))
    assert not takes_long(ENCRYPTED, key(scrypt + b"\x02\x02\x40\x00\x02\x01\x08\x02\x01\x01"))
    assert takes_long(ENCRYPTED, key(scrypt + b"\x02\x02\x40\x00\x02\x01\x08\x02\x01\x64"))
