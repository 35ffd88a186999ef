"""Reads the public keys of an issuer: a JSON Web Key Set (RFC 7517), or the bundle of a SPIFFE trust domain.

Keys that can't verify tokens (symmetric ones, ones for encryption, of unknown kinds, too weak) are left out, and said.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from xds.model.untrusted import reading

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

JWKS_BYTES_MAX = 1024 * 1024
KEYS_MAX = 1_000
KID_CHARACTERS_MAX = 512
RSA_BITS_MIN, RSA_BITS_MAX = 2048, 8192
"""RFC 7518, 3.3; and a bound to what verifying one signature costs."""
_CURVES = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_USES = (None, "sig", "jwt-svid")
"""``use`` of keys that sign tokens; ``jwt-svid`` in bundles of SPIFFE trust domains."""


class JwksError(ValueError):
    """A key set can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key, and the algorithms that it may be used with: one kind, so that none can be taken for another."""

    key: PublicKey
    algorithms: frozenset[str]
    slow: bool = False
    """Whether verifying a signature takes more than 200 µs."""


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of an issuer. ``skipped`` says which keys of the set were left out, and why."""

    by_kid: dict[str, VerificationKey] = field(default_factory=dict)
    unnamed: tuple[VerificationKey, ...] = ()
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.by_kid) + len(self.unnamed)

    def find(self, kid: str | None) -> VerificationKey | None:
        """Return the key with an id; without an id, the only key, if there is but one."""
        if kid is not None:
            return self.by_kid.get(kid)
        keys = [*self.by_kid.values(), *self.unnamed]
        return keys[0] if len(keys) == 1 else None


def read_jwks(data: bytes) -> KeySet:
    """Return the keys of a key set. Raises JwksError if it is none, or has none that can be used."""
    if len(data) > JWKS_BYTES_MAX:
        raise JwksError(f"it has more than {JWKS_BYTES_MAX} bytes")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise JwksError("it is not JSON") from None
    listed = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise JwksError('it is not a JSON Web Key Set: {"keys": […]}')
    if len(listed) > KEYS_MAX:
        raise JwksError(f"it has more than {KEYS_MAX} keys")
    by_kid: dict[str, VerificationKey] = {}
    unnamed: list[VerificationKey] = []
    skipped: list[str] = []
    for number, (kid, key) in enumerate(_keys(listed), start=1):
        if isinstance(key, str):
            skipped.append(f"key {kid or number}: {key}")
        elif kid is None:
            unnamed.append(key)
        elif kid in by_kid:
            raise JwksError(f"two of its keys have the id {kid[:100]!r}")
        else:
            by_kid[kid] = key
    if not by_kid and not unnamed:
        why = f" ({'; '.join(skipped[:5])})" if skipped else ""
        raise JwksError(f"it has no key that can verify tokens{why}")
    return KeySet(by_kid, tuple(unnamed), tuple(skipped))


def _keys(listed: list[Any]) -> Iterator[tuple[str | None, VerificationKey | str]]:
    """Yield the id of each key, and the key or the reason why it is left out."""
    for jwk in listed:
        kid = jwk.get("kid") if isinstance(jwk, dict) else None
        if not isinstance(jwk, dict):
            yield None, "it is not an object"
        elif kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= KID_CHARACTERS_MAX):
            yield None, f"its id (kid) is not a text of at most {KID_CHARACTERS_MAX} characters"
        else:
            yield kid, _key(jwk)


def _key(jwk: dict[str, Any]) -> VerificationKey | str:
    """Return a key, or the reason why it is left out."""
    if jwk.get("use") not in _USES:
        return f"it is for another use ({str(jwk.get('use'))[:40]})"
    operations = jwk.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return "it is not for verifying signatures (key_ops)"
    if jwk.get("kty") not in ("RSA", "EC", "OKP"):
        return f"it is not a public key (kty {str(jwk.get('kty'))[:40]})"
    if "d" in jwk:
        return "it is a private key; publish the public one alone"
    algorithms = _algorithms_of(jwk)
    if isinstance(algorithms, str):
        return algorithms
    try:
        with reading():
            key = jwt.PyJWK(jwk, algorithm=min(algorithms)).key
    except ValueError as error:
        return f"it can't be read: {str(error)[:100]}"
    return _checked(key, algorithms)


def _algorithms_of(jwk: dict[str, Any]) -> frozenset[str] | str:
    possible: tuple[str, ...]
    match jwk.get("kty"), jwk.get("crv"):
        case "RSA", _:
            possible = _RSA
        case "EC", "P-256":
            possible = ("ES256",)
        case "EC", "P-384":
            possible = ("ES384",)
        case "EC", "P-521":
            possible = ("ES512",)
        case "OKP", "Ed25519":
            possible = ("EdDSA",)
        case _, curve:
            return f"its curve is not supported ({str(curve)[:40]})"
    named = jwk.get("alg")
    if named is None:
        return frozenset(possible)
    if named not in possible:
        return f"its algorithm does not fit it ({str(named)[:40]})"
    return frozenset((named,))


def _checked(key: Any, algorithms: frozenset[str]) -> VerificationKey | str:
    if isinstance(key, RSAPublicKey):
        if not RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
            return f"it has {key.key_size} bits; RSA keys have {RSA_BITS_MIN} to {RSA_BITS_MAX}"
        return VerificationKey(key, algorithms, slow=key.key_size > 4096)
    if isinstance(key, EllipticCurvePublicKey):
        if not algorithms.issubset(_CURVES.get(key.curve.name, ())):
            return f"its curve is not supported ({key.curve.name})"
        return VerificationKey(key, algorithms, slow=key.curve.name != "secp256r1")
    if isinstance(key, Ed25519PublicKey):
        return VerificationKey(key, algorithms)
    return "it is not a public key"
