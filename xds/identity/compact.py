"""Reads tokens in compact form (RFC 7515, 7.1), before a signature is verified: strictly, and within bounds.

What two readers may read differently is refused: a key of JSON given twice, numbers that are none, base64 that is not
canonical.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

_PARTS = 3
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_TYPES = {"jwt", "jose", "at+jwt", "application/at+jwt"}
"""Values of ``typ`` that a token may have: of RFC 7519, of JWT-SVIDs, of RFC 9068."""
_KEY_HEADERS = ("jwk", "jku", "x5u", "x5c")
"""Headers by which a token would bring or name its own key."""
_REFUSED_HEADERS = ("crit", "b64", "cty", "zip", "enc")
"""Headers that change what the token means; nothing of it is implemented."""
TIME_MAX = 2**40


class TokenError(Exception):
    """A token is not accepted. ``reason`` is one of ``REASONS``, the message says what is wrong, without the token.

    ``subject`` is whom the token claims to be of, which may be wrong; "" if that was not read.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.subject = ""


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token's header and claims, before its signature over ``signed`` is verified."""

    algorithm: str
    kid: str | None
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


def read_compact(token: str) -> Unverified:
    """Return the header and claims of a token. Raises TokenError."""
    parts = token.split(".")
    if len(parts) != _PARTS:
        raise _malformed(f"has {len(parts)} parts, and a signed token has {_PARTS}")
    header, claims = _object(parts[0], "header"), _object(parts[1], "payload")
    signature = _decoded(parts[2], "signature")
    signed = token[: -len(parts[2]) - 1].encode("ascii")
    return Unverified(_algorithm(header), _kid(header), claims, signed, signature)


def _algorithm(header: dict[str, Any]) -> str:
    for name in _KEY_HEADERS:
        if name in header:
            raise TokenError("malformed", f"the token brings its own key (header {name}); keys are the issuer's only")
    for name in _REFUSED_HEADERS:
        if name in header:
            raise _malformed(f"has the header {name}, which is not supported")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise _malformed(f"is of type {shown(kind)}, not JWT")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or not algorithm:
        raise _malformed("names no algorithm (alg)")
    return algorithm


def _kid(header: dict[str, Any]) -> str | None:
    kid = header.get("kid")
    if kid is not None and (not isinstance(kid, str) or not kid):
        raise _malformed("has a key id (kid) that is not text")
    return kid


def _object(part: str, what: str) -> dict[str, Any]:
    raw = _decoded(part, what)
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise _malformed(f"has a {what} that is not UTF-8") from None
    except RecursionError:
        raise _malformed(f"has a {what} that is nested too deeply") from None
    except ValueError as error:
        known = isinstance(error, _RefusedJsonError)
        raise _malformed(f"has a {what} {error if known else 'that is not JSON'}") from None
    if not isinstance(value, dict):
        raise _malformed(f"has a {what} that is not a JSON object")
    return value


def _decoded(part: str, what: str) -> bytes:
    # Python's decoder skips characters that are not of the alphabet, and unused bits at the end.
    if not _BASE64URL.fullmatch(part):
        raise _malformed(f"has a {what} that is not base64url")
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error:
        raise _malformed(f"has a {what} that is not base64url") from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != part:
        raise _malformed(f"has a {what} that is not canonical base64url")
    return raw


class _RefusedJsonError(ValueError):
    """JSON that another reader may read differently."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RefusedJsonError("with a name twice in one object")
    return found


def _no_constant(text: str) -> NoReturn:
    raise _RefusedJsonError(f"with {text}, which is not JSON")


def time_of(claims: dict[str, Any], name: str) -> float | None:
    """Return a claim that is a time in seconds, None if there is none. Raises TokenError."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= TIME_MAX:
        raise _malformed(f"has a claim {name} that is not a time in seconds")
    return float(value)


def shown(value: Any) -> str:
    """Return a claim as an error shows it: a client chooses it, so it is cut."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _malformed(text: str) -> TokenError:
    return TokenError("malformed", f"the token {text}")
