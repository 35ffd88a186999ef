"""Settings for TLS of the xDS port, and for the identity that client certificates prove."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from xds.address import Address
from xds.identity_settings import Issuers, Source, token_problems
from xds.setting_types import FilePath, FilePaths, why_unreadable
from xds.transport.tls import CertificateName, TlsFiles

DAY_S = 86_400


def _domains(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [each.partition("=") for each in value.split(",") if each]
    if any(not domain or not path for domain, _, path in pairs):
        raise ValueError(f"{value!r} is not a list of trust domains and files; write DOMAIN=FILE,DOMAIN=FILE")
    if len({domain for domain, _, _ in pairs}) < len(pairs):
        raise ValueError(f"{value!r} has a trust domain twice; put all of its CAs into one file")
    return {domain: path for domain, _, path in pairs}


TrustDomains = Annotated[
    Mapping[str, Path],
    BeforeValidator(_domains),
    PlainSerializer(
        lambda domains: ",".join(f"{domain}={path}" for domain, path in domains.items()),
        return_type=str,
        when_used="json",
    ),
]


class TlsSettings(BaseModel):
    """TLS of the xDS port. With CAs for clients, these must show a certificate (mutual TLS, mTLS)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cert: FilePath | None = None
    """PEM file of the server's certificate chain."""
    key: FilePath | None = None
    """PEM file of the certificate's private key, unencrypted."""
    client_ca: FilePath | None = None
    """PEM file of the CAs that sign client certificates, except those of ``trust_domains``."""
    trust_domains: TrustDomains = {}
    """Trust domains of SPIFFE IDs, each with a PEM file of the CAs that alone may sign names in it: DOMAIN=FILE,…"""
    crls: FilePaths = ()
    """Certificate revocation lists (PEM or DER) of these CAs, or of api.tls_client_ca; separated by colons."""
    revoked: FilePath | None = None
    """A text file of revoked clients, on all ports, one a line: an identity, a pattern of identities, or serial:HEX."""
    warn_before_s: Annotated[float, Field(ge=0, le=3_650 * DAY_S, allow_inf_nan=False)] = 7.0 * DAY_S
    """So long before a certificate or a CRL of this server expires, it is reported as a problem."""

    @property
    def mode(self) -> Literal["off", "server", "mutual"]:
        """Which side is authenticated: none, the server, or both."""
        if self.cert is None:
            return "off"
        return "server" if self.client_ca is None and not self.trust_domains else "mutual"

    def files(self, name: CertificateName, *, api_client_ca: Path | None = None) -> TlsFiles | None:
        """Return the files, None without TLS; ``name`` is the name in certificates that is the identity.

        ``api_client_ca`` has the CAs of the push API's callers, which may have signed some of the revocation lists.
        """
        if self.cert is None or self.key is None:
            return None
        return TlsFiles(
            cert=self.cert,
            key=self.key,
            client_ca=self.client_ca,
            trust_domains=tuple(sorted(self.trust_domains.items())),
            crls=self.crls,
            crl_authorities=() if api_client_ca is None else (api_client_ca,),
            revoked=self.revoked,
            name=name,
        )

    def api_files(self, tls: tuple[Path, Path], client_ca: Path | None) -> TlsFiles:
        """Return the files of the push API: what is revoked is so for its callers too."""
        own = () if self.client_ca is None else (self.client_ca,)
        return TlsFiles(
            cert=tls[0],
            key=tls[1],
            client_ca=client_ca,
            crls=() if client_ca is None else self.crls,
            crl_authorities=(*own, *(path for _, path in sorted(self.trust_domains.items()))),
            revoked=None if client_ca is None else self.revoked,
        )


class IdentitySettings(BaseModel):
    """Who a client of the xDS port is: rules for groups may match its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Source = "certificate"
    """What says who a client is: its certificate, or the bearer token that it sends; never both."""
    certificate: CertificateName = "spiffe"
    """The names of a client certificate that are its identity: its SPIFFE ID, its DNS names, or its common name."""
    issuers: Issuers = ()
    """The issuers of tokens: a list, of which docs/how-to/node-identity.md has the keys. As a variable: JSON."""
    token_bytes_max: Annotated[int, Field(ge=256, le=14 * 1024)] = 8 * 1024
    """The largest token accepted."""
    leeway_s: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = 30.0
    """How far the clocks of issuers and of this server may differ: so long after its expiry a token is still taken."""
    expiry_jitter_s: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = 30.0
    """A stream ends when its token has expired, up to so much later, so that clients do not reconnect all at once."""
    keys_interval_s: Annotated[float, Field(ge=10, le=DAY_S, allow_inf_nan=False)] = 300.0
    """How often keys are fetched from a jwks_url; a token with an unknown key has them fetched sooner."""
    keys_timeout_s: Annotated[float, Field(ge=0.1, le=60, allow_inf_nan=False)] = 5.0
    """How long a fetch of keys may take."""

    def token_problems(self, *, listen: Address, has_tls: bool) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield what is wrong with the settings of tokens."""
        return token_problems(self.source, self.issuers, listen=listen, has_tls=has_tls)


def tls_problems(
    tls: TlsSettings, identity: IdentitySettings, api_client_ca: Path | None
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what is wrong with the settings together, and with the files that they name.

    ``api_client_ca`` has the CAs of the push API's callers, who can be revoked too.
    """
    unreadable = False
    named = {name: getattr(tls, name) for name in ("cert", "key", "client_ca", "revoked")}
    several = [("trust_domains", path) for path in tls.trust_domains.values()] + [("crls", path) for path in tls.crls]
    for name, path in (*named.items(), *several):
        if path is not None and (wrong := why_unreadable(path)):
            unreadable = True
            yield ("tls", name), f"{str(path)!r} {wrong}"
    given = {**named, **{name: getattr(tls, name) or None for name in ("trust_domains", "crls")}}
    for name, others in _NEEDED.items():
        if name in ("crls", "revoked") and api_client_ca is not None:
            continue
        if given[name] is not None and all(given[other] is None for other in others):
            options = " or ".join(f"tls.{other} (--tls-{other.rstrip('s').replace('_', '-')})" for other in others)
            yield ("tls", name), f"is given without {options}, which it needs"
    if tls.trust_domains and identity.certificate != "spiffe":
        yield ("tls", "trust_domains"), f"trust domains need identity.certificate=spiffe, not {identity.certificate}"
    files = tls.files(identity.certificate, api_client_ca=api_client_ca)
    if not unreadable and files is not None:
        yield from _pem_problems(files)


_NEEDED: dict[str, tuple[str, ...]] = {
    "cert": ("key",),
    "key": ("cert",),
    "client_ca": ("cert",),
    "trust_domains": ("cert",),
    "crls": ("client_ca", "trust_domains"),
    "revoked": ("client_ca", "trust_domains"),
}
"""Settings, and those of which each needs one."""


def _pem_problems(files: TlsFiles) -> Iterator[tuple[tuple[str, ...], str]]:
    import ssl  # imported only with TLS

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert, key = files.cert, files.key
    try:
        # The empty password keeps an encrypted key from asking for one on the terminal.
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            yield ("tls", "key"), f"{str(key)!r} is not the key of the certificate {str(cert)!r}"
        else:
            yield ("tls", "cert"), f"{str(cert)!r} with {str(key)!r} is not a PEM certificate with its unencrypted key"
    good = True
    named = [("client_ca", files.client_ca), *(("trust_domains", path) for _, path in files.trust_domains)]
    for name, path in named:
        try:
            if path is not None:
                context.load_verify_locations(path)
        except ssl.SSLError:
            good = False
            yield ("tls", name), f"{str(path)!r} is not a PEM file of CA certificates"
    for domain, _ in files.trust_domains:
        if wrong := _wrong_domain(domain):
            yield ("tls", "trust_domains"), f"{domain!r}: {wrong}"
    if good and files.is_mutual and files.has_revocations:
        from xds.transport.revocations import RevocationFiles  # cryptography, only if it is needed

        try:
            RevocationFiles(files)
        except (OSError, ValueError) as error:
            yield ("tls", "crls" if files.crls else "revoked"), str(error)


def caller_problems(tls: TlsSettings, files: TlsFiles) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what is wrong with the files that the certificates of the push API's callers are checked with."""
    if any(map(why_unreadable, (*files.authorities, *files.crl_authorities))):
        return
    from xds.transport.client_certificates import Authorities  # cryptography, only if it is needed
    from xds.transport.revocations import RevocationFiles

    try:
        Authorities(files)
    except (OSError, ValueError) as error:
        yield ("api", "tls_client_ca"), str(error)
        return
    if tls.mode == "mutual":
        return  # the revoked ones are checked with the files of the xDS port
    try:
        RevocationFiles(files)
    except (OSError, ValueError) as error:
        yield ("tls", "crls" if files.crls else "revoked"), str(error)


def _wrong_domain(domain: str) -> str:
    from xds.model.identity import parse_spiffe

    try:
        parse_spiffe(f"spiffe://{domain}/workload")
    except ValueError as error:
        return str(error)
    return "" if "/" not in domain else "a trust domain has no path"
