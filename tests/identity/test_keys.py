"""Key sets: which keys are taken, which are left out, and which sets are refused."""

import json
from typing import Any

import pytest
from support import tokens as t

from xds.identity.keys import JwksError, read_jwks


def test_keys_are_found_by_their_ids() -> None:
    keys = read_jwks(t.jwks(t.jwk("ES256"), t.jwk("RS256")))
    assert set(keys.by_kid) == {"ES256-0", "RS256-0"}
    assert keys.find("ES256-0") is keys.by_kid["ES256-0"]
    assert keys.find("other") is None
    assert keys.find(None) is None, "there are two"


@pytest.mark.parametrize(
    ("kind", "slow"),
    [("RS256", False), ("RS256/4096", False), ("ES256", False), ("EdDSA", False), ("ES384", True), ("ES512", True)],
)
def test_keys_whose_signatures_take_long_to_verify_are_known(kind: str, slow: bool) -> None:
    assert read_jwks(t.jwks(t.jwk(kind))).by_kid[f"{kind}-0"].slow is slow


def test_the_bundle_of_a_trust_domain_has_keys_of_two_uses() -> None:
    bundle = json.loads(t.jwks(t.jwk("ES256", use="jwt-svid", alg=None), t.jwk("RS256", use="x509-svid")))
    bundle["keys"][0].pop("alg")
    keys = read_jwks(json.dumps({**bundle, "spiffe_sequence": 1, "spiffe_refresh_hint": 300}).encode())
    assert set(keys.by_kid) == {"ES256-0"}
    assert keys.skipped == ("key RS256-0: it is for another use (x509-svid)",)


def test_a_key_without_an_algorithm_may_be_used_with_those_of_its_kind() -> None:
    key = t.jwk("RS256")
    del key["alg"]
    keys = read_jwks(t.jwks(key))
    assert keys.by_kid["RS256-0"].algorithms == {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


SMALL = {"kty": "RSA", "n": "sQ" * 86, "e": "AQAB", "kid": "small"}
BAD: dict[str, tuple[Any, str]] = {
    "symmetric": ({"kty": "oct", "k": "c2VjcmV0", "kid": "x"}, "not a public key"),
    "private": ({**t.jwk("ES256"), "d": "AAAA"}, "private key"),
    "weak": (SMALL, "bits"),
    "for encryption": (t.jwk("ES256", use="enc"), "another use"),
    "for signing only": (t.jwk("ES256", key_ops=["sign"]), "key_ops"),
    "of another curve": ({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA", "kid": "x"}, "curve"),
    "for key agreement": ({"kty": "OKP", "crv": "X25519", "x": "AA", "kid": "x"}, "curve"),
    "with another's algorithm": (t.jwk("ES256", alg="RS256"), "does not fit"),
    "with a symmetric algorithm": (t.jwk("RS256", alg="HS256"), "does not fit"),
    "without a modulus": ({"kty": "RSA", "e": "AQAB", "kid": "x"}, "can't be read"),
    "not on its curve": ({**t.jwk("ES256"), "x": "A" * 43}, "can't be read"),
    "not base64": ({**t.jwk("ES256"), "x": "!!!"}, "can't be read"),
    "no object": ("key", "not an object"),
    "with a numeric id": (t.jwk("ES256", kid=1), "kid"),
    "with a long id": (t.jwk("ES256", kid="x" * 513), "kid"),
}


@pytest.mark.parametrize("name", BAD)
def test_keys_that_cannot_verify_tokens_are_left_out_and_said(name: str) -> None:
    bad, why = BAD[name]
    with pytest.raises(JwksError, match=why):
        read_jwks(t.jwks(bad))
    keys = read_jwks(t.jwks(t.jwk("ES256", 1), bad))
    assert (set(keys.by_kid), len(keys.skipped)) == ({"ES256-1"}, 1)
    assert why in keys.skipped[0]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a JSON Web Key Set"),
        (b'{"keys": {}}', "not a JSON Web Key Set"),
        (b'{"keys": []}', "no key"),
        (t.jwks(*[t.jwk("ES256")] * 2), "two of its keys"),
        (t.jwks(*[{}] * 1001), "more than 1000 keys"),
        (b" " * (1024 * 1024 + 1), "more than 1048576 bytes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_sets_that_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(JwksError, match=why):
        read_jwks(data)
