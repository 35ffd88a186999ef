"""The issuers whose tokens are accepted."""

from dataclasses import dataclass
from pathlib import Path

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""The algorithms that can be allowed: of those of RFC 7518 and RFC 8037, the ones with a public key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An issuer of tokens, its keys, and the names that it may give."""

    name: str
    """Its name in identities: ``jwt:NAME/SUBJECT``."""
    issuer: str
    """The claim ``iss`` of its tokens."""
    audiences: tuple[str, ...]
    """Values of which the claim ``aud`` must have one."""
    jwks_file: Path | None = None
    jwks_url: str = ""
    jwks_ca: Path | None = None
    """The CAs that sign the certificate of ``jwks_url``; the system's by default."""
    jwks_token_file: Path | None = None
    """A token to show at ``jwks_url``, as the API server of Kubernetes asks for."""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    subject_claim: str = "sub"
    trust_domain: str = ""
    """The only trust domain whose SPIFFE IDs it may state; empty for none."""
    kubernetes: bool = False
    """Whether its tokens must be those of Kubernetes service accounts."""
