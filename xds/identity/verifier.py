"""Verifies tokens: the signature with a key of the token's issuer, then issuer, audience, times and subject.

Nothing in a token chooses how it is verified but the id of the key, among the keys of its issuer, and the algorithm,
among those that are allowed for that issuer and possible with that key. Sources: RFC 7519, RFC 8725 (best practices),
the SPIFFE standard for JWT-SVIDs, and the claims of Kubernetes' projected service-account tokens.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jwt

from xds.identity.compact import TokenError, Unverified, read_compact, shown, time_of
from xds.identity.issuers import Issuer
from xds.identity.keys import KeySet, VerificationKey
from xds.model.identity import SPIFFE, parse_spiffe

__all__ = ["REASONS", "IssuerKeys", "TokenError", "Verified", "Verifier"]

REASONS: dict[str, str] = {
    "missing": "no token was sent",
    "malformed": "it is not a signed JWT, or not one that is read in one way only",
    "too large": "it is larger than identity.token_bytes_max",
    "issuer": "no issuer of identity.issuers has issued it",
    "algorithm": "its algorithm is not allowed for its issuer, or does not fit its key",
    "key": "its issuer has no such key",
    "keys away": "the keys of its issuer could not be read yet",
    "signature": "its signature is wrong",
    "audience": "it is for somebody else",
    "expired": "it has expired",
    "not yet valid": "it is not valid yet",
    "claims": "it lacks a claim, or has one that is wrong",
    "subject": "its subject is none that its issuer may name",
}
"""Why a token is not accepted: the reasons that are counted, each in words."""

SUBJECT_CHARACTERS_MAX = 1_024
_SERVICE_ACCOUNT = re.compile(r"system:serviceaccount:([a-z0-9]([a-z0-9-]*[a-z0-9])?):([a-z0-9]([a-z0-9.-]*[a-z0-9])?)")


@dataclass(frozen=True, slots=True)
class Verified:
    """What a token proves: one name, until when (Unix time, without leeway), and all of its claims."""

    name: str
    expires_at: float
    claims: Mapping[str, Any]


class IssuerKeys(Protocol):
    """The keys of an issuer, which change."""

    @property
    def current(self) -> KeySet | None:
        """The keys as last read, None if they never could be read."""
        ...

    def want_newer(self) -> None:
        """Ask for the keys to be read again soon: a token names one that is not among them."""
        ...


class Verifier:
    """Verifies the tokens of some issuers, each given with its keys. ``now`` returns Unix time."""

    def __init__(
        self, issuers: Sequence[tuple[Issuer, IssuerKeys]], *, leeway_s: float, now: Callable[[], float]
    ) -> None:
        self._leeway_s = leeway_s
        self._now = now
        self._issuers: dict[str, list[tuple[Issuer, IssuerKeys]]] = {}
        for issuer, keys in issuers:
            # Clusters of Kubernetes often have the same issuer, and different keys.
            self._issuers.setdefault(issuer.issuer, []).append((issuer, keys))

    def prepare(self, token: str) -> "Prepared":
        """Read a token and find its key; ``Prepared.verify`` then does the work. Raises TokenError."""
        unverified = read_compact(token)
        try:
            return self._prepared(unverified)
        except TokenError as error:
            error.subject = _claimed_subject(unverified, "sub")
            raise

    def _prepared(self, unverified: Unverified) -> "Prepared":
        issuer, key = self._key_of(unverified)
        if unverified.algorithm not in issuer.algorithms or unverified.algorithm not in key.algorithms:
            raise TokenError(
                "algorithm",
                f"the token is signed with {shown(unverified.algorithm)}; issuer {issuer.name} may use "
                f"{', '.join(sorted(key.algorithms.intersection(issuer.algorithms))) or 'no algorithm with this key'}",
            )
        return Prepared(unverified, issuer, key, self._leeway_s, self._now)

    def verify(self, token: str) -> Verified:
        """Verify a token, on the calling thread. Raises TokenError."""
        return self.prepare(token).verify()

    def _key_of(self, unverified: Unverified) -> tuple[Issuer, VerificationKey]:
        iss = unverified.claims.get("iss")
        found = self._issuers.get(iss) if isinstance(iss, str) else None
        if found is None:
            if iss is None:
                raise TokenError("claims", "the token names no issuer (iss)")
            raise TokenError("issuer", f"the token is of issuer {shown(iss)}, which identity.issuers does not have")
        for issuer, keys in found:
            key = keys.current.find(unverified.kid) if keys.current is not None else None
            if key is not None:
                return issuer, key
        for _, keys in found:
            keys.want_newer()
        names = " or ".join(issuer.name for issuer, _ in found)
        if any(keys.current is None for _, keys in found):
            raise TokenError("keys away", f"the keys of issuer {names} could not be read yet")
        if unverified.kid is None:
            raise TokenError("key", f"the token names no key (kid), and issuer {names} has several")
        raise TokenError("key", f"the token is signed with key {shown(unverified.kid)}, which issuer {names} lacks")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A token that has been read, with the key that it must be signed with."""

    unverified: Unverified
    issuer: Issuer
    key: VerificationKey
    leeway_s: float
    now: Callable[[], float]

    def verify(self) -> Verified:
        """Verify signature and claims. Raises TokenError."""
        try:
            return self._verified()
        except TokenError as error:
            error.subject = _claimed_subject(self.unverified, self.issuer.subject_claim)
            raise

    def _verified(self) -> Verified:
        token, issuer = self.unverified, self.issuer
        # PyJWT's own decode() reads the token again, at two thirds of the cost, and less strictly.
        algorithm = jwt.get_algorithm_by_name(token.algorithm)
        if not algorithm.verify(token.signed, self.key.key, token.signature):
            raise TokenError("signature", f"the token's signature is not one of issuer {issuer.name}")
        self._check_audience()
        expires_at = self._check_times()
        return Verified(self._name(token.claims), expires_at, token.claims)

    def _check_audience(self) -> None:
        """Check the claim ``aud``; ``iss`` is right, as the issuer was found by it."""
        audience = self.unverified.claims.get("aud")
        if audience is None or audience == []:
            raise TokenError("claims", "the token lacks the claim aud")
        listed = audience if isinstance(audience, list) else [audience]
        if not any(isinstance(each, str) and each in self.issuer.audiences for each in listed):
            raise TokenError(
                "audience",
                f"the token is for {shown(audience)}; issuer {self.issuer.name} must issue it for "
                f"{' or '.join(self.issuer.audiences)}",
            )

    def _check_times(self) -> float:
        """Check when the token is valid, and return when it expires."""
        claims, now = self.unverified.claims, self.now()
        expires_at, from_, issued_at = (time_of(claims, name) for name in ("exp", "nbf", "iat"))
        if expires_at is None:
            raise TokenError("claims", "the token lacks the claim exp")
        if from_ is None and issued_at is None:
            raise TokenError("claims", "the token does not say from when it is valid (nbf or iat)")
        if now >= expires_at + self.leeway_s:
            raise TokenError("expired", f"the token expired {now - expires_at:.0f} s ago")
        begins_at = max(from_ or 0, issued_at or 0)
        if now < begins_at - self.leeway_s:
            raise TokenError("not yet valid", f"the token is valid in {begins_at - now:.0f} s; compare the clocks")
        return expires_at

    # --- The name --------------------------------------------------------------------------------------------------

    def _name(self, claims: Mapping[str, Any]) -> str:
        issuer = self.issuer
        subject = claims.get(issuer.subject_claim)
        if not isinstance(subject, str) or not subject:
            raise TokenError("claims", f"the token lacks the claim {issuer.subject_claim}, its subject")
        if len(subject) > SUBJECT_CHARACTERS_MAX or not subject.isprintable():
            raise TokenError(
                "subject", f"the token's subject is not a printable text of {SUBJECT_CHARACTERS_MAX} characters at most"
            )
        if issuer.kubernetes:
            return _service_account(issuer, subject, claims)
        if subject.startswith(SPIFFE):
            return _spiffe(issuer, subject)
        return f"jwt:{issuer.name}/{subject}"


def _claimed_subject(token: Unverified, claim: str) -> str:
    """Return whom a token claims to be of, "" if it does not say so in a text."""
    subject = token.claims.get(claim)
    return subject[:SUBJECT_CHARACTERS_MAX] if isinstance(subject, str) else ""


def _spiffe(issuer: Issuer, subject: str) -> str:
    if not issuer.trust_domain:
        raise TokenError(
            "subject", f"the token's subject is a SPIFFE ID, and issuer {issuer.name} has no trust_domain to name any"
        )
    try:
        spiffe = parse_spiffe(subject)
    except ValueError as error:
        raise TokenError("subject", f"the token's subject is no SPIFFE ID: {error}") from None
    if spiffe.trust_domain != issuer.trust_domain:
        raise TokenError(
            "subject",
            f"the token's subject is of trust domain {shown(spiffe.trust_domain)}; issuer {issuer.name} is trusted for "
            f"{issuer.trust_domain} only",
        )
    return subject


def _service_account(issuer: Issuer, subject: str, claims: Mapping[str, Any]) -> str:
    """Return the name of a Kubernetes service account. Its token says twice whose it is, and both must agree."""
    found = _SERVICE_ACCOUNT.fullmatch(subject)
    if found is None:
        raise TokenError("subject", f"the token's subject {shown(subject)} is no service account of Kubernetes")
    namespace, account = found.group(1), found.group(3)
    bound = claims.get("kubernetes.io")
    stated = bound.get("serviceaccount") if isinstance(bound, dict) else None
    if not isinstance(bound, dict) or not isinstance(stated, dict):
        raise TokenError("claims", "the token lacks the claim kubernetes.io of projected service-account tokens")
    if (bound.get("namespace"), stated.get("name")) != (namespace, account):
        raise TokenError("claims", "the token's subject and its claim kubernetes.io name different service accounts")
    if not issuer.trust_domain:
        return f"jwt:{issuer.name}/{subject}"
    return f"{SPIFFE}{issuer.trust_domain}/ns/{namespace}/sa/{account}"
