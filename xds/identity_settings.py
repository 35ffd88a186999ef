"""Settings of the issuers whose tokens clients of the xDS port show."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from xds.address import Address
from xds.identity.issuers import ALGORITHMS, Issuer
from xds.model.identity import parse_spiffe
from xds.setting_types import FilePath, why_unreadable

Source = Literal["certificate", "token"]
ISSUERS_MAX = 100

Text = Annotated[str, Field(min_length=1, max_length=1_024, pattern=r"^[^\x00-\x1f\x7f]+$")]


def _texts(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Texts = Annotated[tuple[Text, ...], BeforeValidator(_texts), Field(min_length=1, max_length=100)]


class IssuerSettings(BaseModel):
    """An issuer of tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$")]
    """Its name in identities: jwt:NAME/SUBJECT."""
    issuer: Text
    """The claim iss of its tokens, to the letter."""
    audiences: Texts
    """What its tokens must be issued for: the claim aud must have one of these."""
    jwks_file: FilePath | None = None
    """A file with its public keys (JWKS), followed."""
    jwks_url: str = ""
    """Where its public keys are fetched from, by https."""
    jwks_ca: FilePath | None = None
    """PEM file of the CAs that sign the certificate of jwks_url. Default: the system's."""
    jwks_token_file: FilePath | None = None
    """A file with a token to show at jwks_url."""
    algorithms: Texts = ("RS256", "ES256")
    """The algorithms that its tokens may be signed with."""
    subject_claim: Text = "sub"
    """The claim that is the subject."""
    trust_domain: str = ""
    """The trust domain whose SPIFFE IDs it may state."""
    kubernetes: bool = False
    """Its tokens are those of Kubernetes service accounts."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.jwks_file is None) == (not self.jwks_url):
            raise ValueError("an issuer has its keys either by jwks_file or by jwks_url")
        if self.jwks_url and (wrong := _wrong_url(self.jwks_url)):
            raise ValueError(f"jwks_url {self.jwks_url[:200]!r} {wrong}")
        if not self.jwks_url and (self.jwks_ca is not None or self.jwks_token_file is not None):
            raise ValueError("jwks_ca and jwks_token_file are for jwks_url")
        unknown = [each for each in self.algorithms if each not in ALGORITHMS]
        if unknown:
            raise ValueError(f"algorithm {unknown[0]!r} can't be allowed; there are {', '.join(ALGORITHMS)}")
        if self.trust_domain:
            try:
                parse_spiffe(f"spiffe://{self.trust_domain}/workload")
            except ValueError as error:
                raise ValueError(f"trust_domain {self.trust_domain!r}: {error}") from None
            if "/" in self.trust_domain:
                raise ValueError(f"trust_domain {self.trust_domain!r} has a path; write the domain alone")
        if self.kubernetes and self.subject_claim != "sub":
            raise ValueError("the subject of tokens of Kubernetes is the claim sub; leave out subject_claim")
        return self

    @property
    def of_identity(self) -> Issuer:
        """The issuer as the verifier takes it."""
        return Issuer(**{name: getattr(self, name) for name in type(self).model_fields})


def _wrong_url(url: str) -> str:
    from xds.identity.fetch import url_problem  # h11, only if it is needed

    return url_problem(url)


def _issuers(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value or "[]")
    except ValueError:
        raise ValueError("is not JSON; write a list of issuers as in the settings file, but as JSON") from None


def _issuers_text(issuers: Iterable[IssuerSettings]) -> str:
    listed = [each.model_dump(mode="json", exclude_defaults=True) for each in issuers]
    return json.dumps(listed) if listed else ""


Issuers = Annotated[
    tuple[IssuerSettings, ...],
    BeforeValidator(_issuers),
    Field(max_length=ISSUERS_MAX),
    PlainSerializer(_issuers_text, return_type=str, when_used="json"),
]


def token_problems(
    source: Source, issuers: Iterable[IssuerSettings], *, listen: Address, has_tls: bool
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what is wrong with the settings together, and with the files that they name."""
    issuers = tuple(issuers)
    if source == "token" and not issuers:
        yield ("identity", "source"), "is token, and no issuer of tokens is given; give identity.issuers"
    if source == "token" and not has_tls and not listen.is_loopback:
        yield (
            ("identity", "source"),
            f"is token, and tokens would be sent in clear to {listen}, where whoever listens could use them; "
            "give --tls-cert and --tls-key",
        )
    for name, count in Counter(each.name for each in issuers).items():
        if count > 1:
            yield (
                ("identity", "issuers"),
                f"{count} issuers have the name {name!r}; identities could not tell them apart",
            )
    for each in issuers:
        for field in ("jwks_file", "jwks_ca", "jwks_token_file"):
            path: Path | None = getattr(each, field)
            if path is None:
                continue
            wrong = why_unreadable(path) or (_wrong_keys(path) if field == "jwks_file" else "")
            if wrong:
                yield ("identity", "issuers"), f"issuer {each.name}: {field} {str(path)!r} {wrong}"


def _wrong_keys(path: Path) -> str:
    from xds.identity.keys import JWKS_BYTES_MAX, JwksError, read_jwks  # cryptography, only if it is needed

    with path.open("rb") as file:
        data = file.read(JWKS_BYTES_MAX + 1)
    try:
        read_jwks(data)
    except JwksError as error:
        return f"has no usable keys: {error}"
    return ""
