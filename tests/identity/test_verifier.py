"""Tokens: which are taken, as whom, and which are not, for which reason."""

import json
import time
from typing import Any

import jwt
import pytest
from support import tokens as t

from xds.identity.issuers import ALGORITHMS
from xds.identity.keys import read_jwks
from xds.identity.verifier import REASONS, TokenError, Verified, Verifier


def verifier(*issuers: Any, keys: bytes | None = None, leeway_s: float = 30, **more: Any) -> Verifier:
    held = t.HeldKeys(read_jwks(keys or t.jwks(t.jwk("ES256"), t.jwk("RS256"))))
    return Verifier([(each, held) for each in issuers or (t.issuer(**more),)], leeway_s=leeway_s, now=time.time)


def reason(token: str, by: Verifier | None = None) -> str:
    with pytest.raises(TokenError) as caught:
        (by or verifier()).verify(token)
    assert caught.value.reason in REASONS
    for piece in token.split("."):
        assert len(piece) < 12 or piece not in str(caught.value), "the token itself is not in the message"
    return caught.value.reason


def test_a_token_gives_the_name_of_its_issuer_and_its_subject() -> None:
    claims = t.claims()
    found = verifier().verify(t.token(**claims))
    assert found == Verified("jwt:corp/web", claims["exp"], claims)


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_every_algorithm_that_can_be_allowed_is_verified(kind: str) -> None:
    by = verifier(keys=t.jwks(t.jwk(kind)), algorithms=(kind,))
    assert by.verify(t.token(kind)).name == "jwt:corp/web"


@pytest.mark.parametrize("kind", ["RS384", "PS256", "ES384", "EdDSA"])
def test_other_algorithms_than_those_of_the_issuer_are_refused(kind: str) -> None:
    assert reason(t.token(kind), verifier(keys=t.jwks(t.jwk(kind)))) == "algorithm"


def test_a_key_is_used_with_its_own_algorithm_only() -> None:
    by = verifier(keys=t.jwks(t.jwk("RS256")), algorithms=("RS256", "PS256"))
    token = jwt.encode(t.claims(), t.private_key("RS256"), algorithm="PS256", headers={"kid": "RS256-0"})
    assert reason(token, by) == "algorithm"


# --- Claims ----------------------------------------------------------------------------------------------------------

NOW = 2_000_000_000
"""Stands for the present in the claims of cases, whose names must be the same in every process."""


def of_now(claims: dict[str, Any]) -> dict[str, Any]:
    """Return the claims with times as far from now as they are from ``NOW``."""
    passed = int(time.time()) - NOW
    return {
        name: value + passed if type(value) is int and abs(value - NOW) < 1_000 else value
        for name, value in claims.items()
    }


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"iss": "https://other.example"}, "issuer"),
        ({"iss": None}, "claims"),
        ({"iss": t.ISSUER + "/"}, "issuer"),
        ({"aud": "other"}, "audience"),
        ({"aud": ["other", "more"]}, "audience"),
        ({"aud": []}, "claims"),
        ({"aud": {"xds": 1}}, "audience"),
        ({"aud": None}, "claims"),
        ({"exp": None}, "claims"),
        ({"exp": NOW - 31}, "expired"),
        ({"exp": str(NOW + 60)}, "malformed"),
        ({"exp": True}, "malformed"),
        ({"exp": 1e300}, "malformed"),
        ({"exp": -1}, "malformed"),
        ({"nbf": NOW + 300}, "not yet valid"),
        ({"iat": NOW + 300, "nbf": None}, "not yet valid"),
        ({"nbf": "soon"}, "malformed"),
        ({"nbf": None, "iat": None}, "claims"),
        ({"sub": None}, "claims"),
        ({"sub": ""}, "claims"),
        ({"sub": 7}, "claims"),
        ({"sub": ["web"]}, "claims"),
        ({"sub": "we\u202eb"}, "subject"),
        ({"sub": "a\nb"}, "subject"),
        ({"sub": "x" * 1025}, "subject"),
        ({"sub": "spiffe://corp/ns/payments/sa/web"}, "subject"),
    ],
    ids=str,
)
def test_claims_that_are_missing_or_wrong(claims: dict[str, Any], expected: str) -> None:
    assert reason(t.token(**of_now(claims))) == expected


@pytest.mark.parametrize("claims", [{"nbf": None}, {"iat": None}, {"exp": NOW - 20}, {"nbf": NOW + 20}], ids=str)
def test_what_jwt_svids_leave_out_and_clocks_that_differ_a_little_are_taken(claims: dict[str, Any]) -> None:
    assert verifier().verify(t.token(**of_now(claims))).name == "jwt:corp/web"


def test_one_of_several_audiences_is_enough() -> None:
    assert verifier().verify(t.token(aud=["other", "xds"])).name == "jwt:corp/web"


def test_another_claim_can_be_the_subject() -> None:
    assert verifier(subject_claim="client_id").verify(t.token(client_id="a/b", sub=None)).name == "jwt:corp/a/b"


# --- SPIFFE and Kubernetes -------------------------------------------------------------------------------------------


def test_a_jwt_svid_is_its_spiffe_id() -> None:
    subject = "spiffe://corp.example/ns/payments/sa/web"
    token = t.token(sub=subject, headers={"typ": "JOSE"})
    assert verifier(trust_domain="corp.example").verify(token).name == subject


@pytest.mark.parametrize(
    "subject",
    [
        *("spiffe://other/ns/a", "spiffe://corp.example", "spiffe://corp.example/", "spiffe://corp.example/a/../b"),
        *("spiffe://CORP.example/a", "spiffe://corp.example/a?b", "spiffe://corp.example:80/a", "spiffe:///a"),
    ],
)
def test_spiffe_ids_of_other_trust_domains_and_malformed_ones_are_refused(subject: str) -> None:
    assert reason(t.token(sub=subject), verifier(trust_domain="corp.example")) == "subject"


def test_a_service_account_has_its_name_or_a_spiffe_id() -> None:
    token = t.kubernetes_token("payments", "web")
    assert verifier(kubernetes=True).verify(token).name == "jwt:corp/system:serviceaccount:payments:web"
    assert verifier(kubernetes=True, trust_domain="corp").verify(token).name == "spiffe://corp/ns/payments/sa/web"


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"sub": "web"}, "subject"),
        ({"sub": "system:serviceaccount:payments"}, "subject"),
        ({"sub": "system:serviceaccount:payments:web:more"}, "subject"),
        ({"sub": "system:serviceaccount:pay/ments:web"}, "subject"),
        ({"sub": "system:serviceaccount:payments:.."}, "subject"),
        ({"sub": "spiffe://corp/ns/payments/sa/web"}, "subject"),
        ({"sub": "system:serviceaccount:other:web"}, "claims"),
        ({"kubernetes.io": None}, "claims"),
        ({"kubernetes.io": {"namespace": "payments"}}, "claims"),
        ({"kubernetes.io": {"namespace": "payments", "serviceaccount": {"name": "root"}}}, "claims"),
    ],
    ids=str,
)
def test_tokens_that_are_not_those_of_a_service_account(claims: dict[str, Any], expected: str) -> None:
    assert reason(t.kubernetes_token(**claims), verifier(kubernetes=True, trust_domain="corp")) == expected


def test_clusters_with_the_same_issuer_are_told_apart_by_their_keys() -> None:
    first, second = t.issuer("east", kubernetes=True), t.issuer("west", kubernetes=True)
    by = Verifier(
        [
            (first, t.HeldKeys(read_jwks(t.jwks(t.jwk("RS256", 1))))),
            (second, t.HeldKeys(read_jwks(t.jwks(t.jwk("RS256", 2))))),
        ],
        leeway_s=0,
        now=time.time,
    )
    assert by.verify(t.kubernetes_token(number=1)).name.startswith("jwt:east/")
    assert by.verify(t.kubernetes_token(number=2)).name.startswith("jwt:west/")
    assert reason(t.kubernetes_token(number=3), by) == "key"


# --- Keys ------------------------------------------------------------------------------------------------------------


def test_an_unknown_key_has_the_keys_read_again() -> None:
    keys = t.HeldKeys(read_jwks(t.jwks(t.jwk("ES256", 1))))
    by = Verifier([(t.issuer(), keys)], leeway_s=0, now=time.time)
    assert reason(t.token("ES256", 2), by) == "key"
    assert keys.wanted == 1
    keys.current = None
    assert reason(t.token("ES256", 2), by) == "keys away"


@pytest.mark.parametrize("kid", ["../../etc/passwd", "a" * 4000, "' OR 1=1 --", "\x00", "https://evil.example/k"])
def test_a_key_id_is_only_looked_up(kid: str) -> None:
    assert reason(t.token(headers={"kid": kid})) == "key"


def test_without_a_key_id_the_issuer_must_have_one_key() -> None:
    token = t.token(headers={"kid": None})
    assert verifier(keys=t.jwks(t.jwk("ES256"))).verify(token).name == "jwt:corp/web"
    assert reason(token) == "key"


# --- Hostile tokens --------------------------------------------------------------------------------------------------

HEADER = {"alg": "ES256", "kid": "ES256-0", "typ": "JWT"}


def _hmac_with_the_public_key() -> str:
    """Return a token signed with HMAC, whose key is the public key that everyone knows (algorithm confusion)."""
    import hashlib
    import hmac

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = t.private_key("RS256").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = f"{t.part({'alg': 'HS256', 'kid': 'RS256-0', 'typ': 'JWT'})}.{t.part(t.claims())}"
    return f"{text}.{t.part(hmac.new(public, text.encode(), hashlib.sha256).digest())}"


def _own_key(**headers: Any) -> str:
    """Return a token that is validly signed with a key which its header brings or names."""
    return t.token("ES256", 9, headers={"kid": "ES256-0", **headers})


HOSTILE: dict[str, tuple[str, str]] = {
    "no algorithm": (t.forged({"alg": "none", "kid": "ES256-0"}, t.claims(), b""), "malformed"),
    "no algorithm, with a signature": (t.forged({"alg": "none", "kid": "ES256-0"}, t.claims()), "algorithm"),
    "None": (t.forged({"alg": "None", "kid": "ES256-0"}, t.claims()), "algorithm"),
    "an algorithm that is null": (t.forged({"alg": None, "kid": "ES256-0"}, t.claims()), "malformed"),
    "a list of algorithms": (t.forged({"alg": ["ES256"], "kid": "ES256-0"}, t.claims()), "malformed"),
    "HMAC with the public key": (_hmac_with_the_public_key(), "algorithm"),
    "ECDSA for RSA": (t.forged({"alg": "RS256", "kid": "ES256-0"}, t.claims()), "algorithm"),
    "its own key": (_own_key(jwk=t.jwk("ES256", 9)), "malformed"),
    "its own key's address": (_own_key(jku="https://evil.example/jwks"), "malformed"),
    "its own certificate's address": (_own_key(x5u="https://evil.example/c"), "malformed"),
    "its own certificate": (_own_key(x5c=["MIIB"]), "malformed"),
    "its own key, silently": (_own_key(), "signature"),
    "critical extensions": (t.signed({**HEADER, "crit": ["exp"], "exp": 1}, t.claims()), "malformed"),
    "an unencoded payload": (t.signed({**HEADER, "b64": False, "crit": ["b64"]}, t.claims()), "malformed"),
    "compressed": (t.signed({**HEADER, "zip": "DEF"}, t.claims()), "malformed"),
    "nested": (t.signed({**HEADER, "cty": "JWT"}, t.token()), "malformed"),
    "another type": (t.signed({**HEADER, "typ": "dpop+jwt"}, t.claims()), "malformed"),
    "a logout token": (t.signed({**HEADER, "typ": "logout+jwt"}, t.claims()), "malformed"),
    "a type that is no text": (t.signed({**HEADER, "typ": 1}, t.claims()), "malformed"),
    "a claim twice": (t.signed(HEADER, json.dumps(t.claims())[:-1] + ', "sub": "root"}'), "malformed"),
    "a claim twice, escaped": (t.signed(HEADER, json.dumps(t.claims())[:-1] + ', "s\\u0075b": "root"}'), "malformed"),
    "a claim twice, within": (t.signed(HEADER, json.dumps(t.claims())[:-1] + ', "a": {"b": 1, "b": 2}}'), "malformed"),
    "a header twice": (t.signed(json.dumps(HEADER)[:-1] + ', "alg": "ES256"}', t.claims()), "malformed"),
    "NaN": (t.signed(HEADER, json.dumps({**t.claims(), "exp": float("nan")})), "malformed"),
    "infinity": (t.signed(HEADER, json.dumps({**t.claims(), "exp": float("inf")})), "malformed"),
    "a number of many digits": (t.signed(HEADER, json.dumps(t.claims())[:-1] + f', "a": {"9" * 5000}}}'), "malformed"),
    "nested deeply": (t.signed(HEADER, '{"a":' * 3000 + "1" + "}" * 3000), "malformed"),
    "a list": (t.signed(HEADER, "[]"), "malformed"),
    "text": (t.signed(HEADER, '"claims"'), "malformed"),
    "no JSON": (t.signed(HEADER, "{"), "malformed"),
    "no UTF-8": (t.signed(HEADER, b'{"sub": "\xff"}'), "malformed"),
    "UTF-16": (t.signed(HEADER, json.dumps(t.claims()).encode("utf-16")), "malformed"),
    "an issuer that is a number": (t.signed(HEADER, {**t.claims(), "iss": 1}), "issuer"),
    "a list of issuers": (t.signed(HEADER, {**t.claims(), "iss": [t.ISSUER]}), "issuer"),
    "no claims": (t.signed(HEADER, {}), "claims"),
    "padding": (t.token() + "=", "malformed"),
    "standard base64": ("ab+/.ab+/.ab+/", "malformed"),
    "other bits at the end": ("ab.ab.ab", "malformed"),
    "an impossible length": ("abcde.abcd.abcd", "malformed"),
    "a line end": (t.token() + "\n", "malformed"),
    "a space": (t.token().replace(".", ". ", 1), "malformed"),
    "no parts": ("token", "malformed"),
    "two parts": (t.token().rpartition(".")[0], "malformed"),
    "four parts": (t.token() + ".x", "malformed"),
    "encrypted": ("a.b.c.d.e", "malformed"),
    "empty parts": ("..", "malformed"),
    "dots": ("." * 5000, "malformed"),
    "nothing": ("", "malformed"),
    "another's claims": (
        ".".join([t.token().split(".")[0], t.part(t.claims(sub="root")), t.token().split(".")[2]]),
        "signature",
    ),
    "a signature of another length": (t.token()[:-4], "malformed"),
}


OTHER_REASONS = {
    "a signature of another length": ("malformed", "signature"),
    "nested deeply": ("claims",),  # Python 3.12 and newer read it
}
"""Reasons that hostile tokens have with some versions of Python and OpenSSL."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tokens_are_refused(name: str) -> None:
    token, expected = HOSTILE[name]
    found = reason(token, verifier(algorithms=("RS256", "ES256")))
    assert found == expected or found in OTHER_REASONS.get(name, ())


def test_no_byte_of_a_token_can_be_changed() -> None:
    by, token = verifier(), t.token()
    for at in range(0, len(token), 7):
        other = "A" if token[at] != "A" else "B"
        with pytest.raises(TokenError):
            by.verify(f"{token[:at]}{other}{token[at + 1 :]}")
