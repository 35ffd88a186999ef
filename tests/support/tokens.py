"""An issuer of tokens for tests: keys, key sets, tokens with the claims of real issuers, and broken ones."""

import base64
import json
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from xds.identity.issuers import Issuer

ISSUER = "https://issuer.example"
AUDIENCE = "xds"


@cache
def private_key(kind: str, number: int = 0) -> Any:
    """Return a key of a kind (RS256, RS256/4096, ES256 …); keys are kept, as RSA keys take long to make."""
    match kind.partition("/"):
        case (("RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512"), _, bits):
            return rsa.generate_private_key(65537, int(bits or 2048))
        case "ES256", _, _:
            return ec.generate_private_key(ec.SECP256R1())
        case "ES384", _, _:
            return ec.generate_private_key(ec.SECP384R1())
        case "ES512", _, _:
            return ec.generate_private_key(ec.SECP521R1())
        case "EdDSA", _, _:
            return ed25519.Ed25519PrivateKey.generate()
    raise ValueError(kind)


def jwk(kind: str, number: int = 0, **more: Any) -> dict[str, Any]:
    """Return a public key as a JWK with a key id."""
    algorithm = kind.partition("/")[0]
    public = get_default_algorithms()[algorithm].to_jwk(private_key(kind, number).public_key(), as_dict=True)
    public.pop("key_ops", None)
    return {**public, "kid": f"{kind}-{number}", "use": "sig", "alg": algorithm, **more}


def jwks(*keys: dict[str, Any]) -> bytes:
    """Return a key set."""
    return json.dumps({"keys": list(keys)}).encode()


def claims(**more: Any) -> dict[str, Any]:
    """Return valid claims; a claim that is None is left out."""
    now = int(time.time())
    valid = {"iss": ISSUER, "aud": AUDIENCE, "sub": "web", "iat": now, "nbf": now, "exp": now + 3600}
    return {name: value for name, value in {**valid, **more}.items() if value is not None}


def token(kind: str = "ES256", number: int = 0, *, headers: dict[str, Any] | None = None, **more: Any) -> str:
    """Return a token signed with a key; ``more`` are claims."""
    header = {"kid": f"{kind}-{number}", **(headers or {})}
    header = {name: value for name, value in header.items() if value is not None}
    return jwt.encode(claims(**more), private_key(kind, number), algorithm=kind.partition("/")[0], headers=header)


def kubernetes_token(
    namespace: str = "payments", account: str = "web", kind: str = "RS256", number: int = 0, **more: Any
) -> str:
    """Return a projected service-account token, with the claims that a kube-apiserver 1.34 puts in."""
    now = int(time.time())
    bound = {
        "namespace": namespace,
        "node": {"name": "worker-1", "uid": "0a2e7a58-8c5d-4e3c-8a7e-0f6c2a3f2b11"},
        "pod": {"name": f"{account}-7d4b9c6f5-x2x8k", "uid": "5e0c4f6e-52d8-4f8d-9a53-6f2d2f0e9c77"},
        "serviceaccount": {"name": account, "uid": "b1c7f6a4-2f57-49f5-8b0a-51d1f4d0c8ee"},
        "warnafter": now + 3607,
    }
    return token(
        kind,
        number,
        headers={"typ": None},
        **{
            "aud": [AUDIENCE],
            "jti": "ea28ed49-2e11-4280-9ec5-bc3d1d84661a",
            "kubernetes.io": bound,
            "sub": f"system:serviceaccount:{namespace}:{account}",
            **more,
        },
    )


def part(value: Any) -> str:
    """Return a part of a token: bytes, text, or a value as JSON."""
    raw = (
        value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else json.dumps(value).encode()
    )
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: Any, payload: Any, signature: Any = b"x" * 64) -> str:
    """Return a token of any parts."""
    return f"{part(header)}.{part(payload)}.{part(signature)}"


def signed(header: Any, payload: Any, kind: str = "ES256", number: int = 0) -> str:
    """Return a token of any header and payload, with a valid signature over them."""
    text = f"{part(header)}.{part(payload)}"
    algorithm = get_default_algorithms()[kind]
    return f"{text}.{part(algorithm.sign(text.encode(), private_key(kind, number)))}"


def issuer(name: str = "corp", **more: Any) -> Issuer:
    """Return an issuer as the verifier takes it; its keys are given separately."""
    return Issuer(**{"name": name, "issuer": ISSUER, "audiences": (AUDIENCE,), "jwks_file": Path("unused"), **more})


@dataclass(slots=True)
class HeldKeys:
    """Keys that a test sets."""

    current: Any = None
    wanted: int = field(default=0)

    def want_newer(self) -> None:
        self.wanted += 1
