"""Client certificates: the identity that one proves, and the reasons to refuse one.

TLS has verified the certificate against all CAs before. What is checked here is what TLS leaves open: which name
counts, whether the CA may vouch for it, whether the certificate is revoked, and whether a CA of it is still there once
the files of CAs have changed. Nothing falls back to another kind of name.
"""

import datetime
import hashlib
import re
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509
from cryptography.x509 import verification

from xds.model.identity import ANONYMOUS, Peer, parse_spiffe
from xds.model.untrusted import is_panic, reading
from xds.transport.revocations import RevocationFiles
from xds.transport.tls import CertificateName, Followed, TlsFiles

KNOWN_MAX = 4_096
"""Certificates whose examination is remembered: sidecars reconnect, and some share one certificate."""
EXPIRY_SPREAD_S = 60
AUTHORITIES_SPREAD_S = 40
"""After a change of the CAs, open connections are checked at different times within these seconds."""
URIS_MAX = 1
"""A SPIFFE certificate has exactly one URI (X509-SVID, section 2)."""
DNS_NAMES_MAX = 100
COMMON_NAME_CHARACTERS_MAX = 256
"""X.520 allows 64, which not all CAs keep to."""
SHOWN_MAX = 200
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class CertificateRefusedError(Exception):
    """A client certificate is refused. ``reason`` is one of a few words, for metrics."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """What a client's certificate says. Connections with equal certificates share one."""

    peer: Peer = ANONYMOUS
    serials: tuple[tuple[bytes, int], ...] = ()
    """Issuer and serial number of the certificate, then of the intermediates that came with it."""
    ends_at: float = float("inf")
    """When it expires, on the monotonic clock: steps of the system's clock do not end open connections."""
    reason: str = ""
    """Why it is refused, as a word for metrics; "" if it is accepted."""
    refusal: str = ""
    """Why it is refused, for operators and the client."""
    authorities: "Authorities | None" = field(default=None, repr=False, compare=False)
    """The CAs of which one has vouched for it."""

    def has_ended(self, now: float, *, spread_by: int) -> bool:
        """Whether it has expired for a connection: up to a minute late, so that equal ones do not end all at once."""
        return self.ends_at + (spread_by >> 6) % EXPIRY_SPREAD_S < now


class Authorities:
    """The CAs of one reading of their files, by trust domain; "" has those of all others.

    Raises OSError or ValueError.
    """

    def __init__(self, files: TlsFiles) -> None:
        given = (*files.trust_domains, *((("", files.client_ca),) if files.client_ca is not None else ()))
        self.contents = tuple((domain, path.read_bytes()) for domain, path in given)
        self.by_domain = {
            domain: _policy(path, data) for (domain, path), (_, data) in zip(given, self.contents, strict=True)
        }


class ClientCertificates:
    """Examines client certificates as the files of ``TlsFiles`` say. Raises OSError or ValueError at the start.

    ``make_peer`` makes the peer of an identity. ``on_problem`` is called if changed files can't be used. ``names`` are
    the kinds of names that make an identity, instead of the one that the files name.
    """

    def __init__(
        self,
        files: TlsFiles,
        on_problem: Callable[[str], None],
        *,
        names: Sequence[CertificateName] = (),
        make_peer: Callable[[tuple[str, ...]], Peer] = Peer,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = files
        self._names = tuple(names) or (files.name,)
        self._on_problem = on_problem
        self._make_peer = make_peer
        self._clock, self._wall_clock = clock, wall_clock
        self._known: OrderedDict[bytes, ClientCertificate] = OrderedDict()
        self._peers: dict[tuple[str, ...], Peer] = {}
        self._issuers: dict[bytes, bytes] = {}
        self._followed = Followed(files.authorities_stamp_now, clock=clock)
        self._authorities = Authorities(files)
        self._authorities_since = -float("inf")
        self.revocation_files = RevocationFiles(files, clock=clock)
        self.revocations = self.revocation_files.revocations()
        """What is revoked."""

    @property
    def needs_chain(self) -> bool:
        """Whether ``examine`` uses the intermediates that came with a certificate."""
        return bool(self._files.trust_domains or self._files.crls)

    def examine(
        self, certificate: bytes, intermediates: Callable[[], Sequence[bytes]] = tuple, *, verifies: bool = False
    ) -> ClientCertificate:
        """Return what a certificate says, which may be that it is refused; DER or PEM.

        ``verifies``: the present CAs must vouch for it also if TLS alone would decide that, because TLS may have
        accepted it before they changed.
        """
        key = hashlib.sha256(certificate).digest()
        remembered = self._known
        known = remembered.get(key)
        if known is None or known.ends_at <= self._clock():
            chain = intermediates() if verifies or self.needs_chain else ()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # cryptography warns of odd names, on stderr, as often as clients like
                known = self._read(certificate, chain, verifies=verifies)
            if known.reason:  # with other intermediates it may be accepted
                return known
            remembered[key] = known
            if len(remembered) > KNOWN_MAX:
                remembered.popitem(last=False)
        else:
            remembered.move_to_end(key)
        return self.checked(known)

    def checked(self, certificate: ClientCertificate) -> ClientCertificate:
        """Return an examined certificate, as refused if it is revoked or has expired meanwhile."""
        if certificate.reason:
            return certificate
        if why := self.revocations.why(certificate.peer.identity, certificate.serials):
            return replace(certificate, reason="revoked", refusal=f"{_of(certificate.peer)} is revoked: {why}")
        if certificate.ends_at <= self._clock():
            return replace(certificate, reason="expired", refusal=f"{_of(certificate.peer)} has expired")
        return certificate

    def must_be_examined_again(self, certificate: ClientCertificate) -> bool:
        """Whether other CAs than the present ones have vouched for an accepted certificate."""
        return not certificate.reason and certificate.authorities is not self._authorities

    def is_due(self, certificate: ClientCertificate, now: float, *, spread_by: int) -> bool:
        """Whether an open connection is to be checked: its certificate has expired, or the CAs have changed.

        Connections are due at different times, so that they do not end all at once.
        """
        if certificate.has_ended(now, spread_by=spread_by):
            return True
        since = self._authorities_since + (spread_by >> 6) % AUTHORITIES_SPREAD_S
        return since <= now and self.must_be_examined_again(certificate)

    # --- Files -----------------------------------------------------------------------------------------------------

    def follow_authorities(self) -> None:
        """Read the files of CAs again if they have changed. Files that can't be used leave the former ones in force."""
        if not self._followed.is_due():
            return
        try:
            self.reload_authorities()
            self._followed.note()
        except (OSError, ValueError) as error:
            if self._followed.note(str(error)):
                self._on_problem(f"the CAs of clients can't be read again, so the former ones count: {error}")

    def reload_authorities(self) -> None:
        """Read the CAs again. Raises OSError or ValueError, and keeps the former ones then."""
        authorities = Authorities(self._files)
        if authorities.contents != self._authorities.contents:
            now = self._clock()
            if now - self._authorities_since > AUTHORITIES_SPREAD_S:  # else changes would put off the checks for ever
                self._authorities_since = now
            self._authorities = authorities
        self._known = OrderedDict()  # a new one, after the CAs: gRPC calls this in a thread of its own

    def read_revocations(self) -> tuple[bool, tuple[str, ...]]:
        """Read the changed files of revoked certificates, and refuse what is revoked from now on.

        May run in another thread. See ``RevocationFiles.read_changed`` for what it returns.
        """
        is_read, problems = self.revocation_files.read_changed()
        if is_read:
            self.revocations = self.revocation_files.revocations()
        return is_read, problems

    # --- One certificate -------------------------------------------------------------------------------------------

    def _read(self, certificate: bytes, chain: Sequence[bytes], *, verifies: bool) -> ClientCertificate:
        authorities = self._authorities
        try:
            leaf = parsed(certificate)
            serials = tuple(self._serial(each) for each in (leaf, *map(parsed, chain)))
            now = self._wall_clock()
            left_s = leaf.not_valid_after_utc.timestamp() - now
            if left_s <= 0:
                raise CertificateRefusedError("expired", f"it expired on {leaf.not_valid_after_utc:%F %T} UTC")
            extensions = leaf.extensions
            refuse_authority(extensions)
            identity = tuple(each for name in self._names for each in identity_of(leaf, name))
            if verifies or self._files.trust_domains:
                self._verify(authorities.by_domain, leaf, [parsed(each) for each in chain], identity)
        except CertificateRefusedError as refused:
            return ClientCertificate(
                reason=refused.reason, refusal=f"the client certificate is refused: {refused.text}"
            )
        except BaseException as error:  # whatever a library finds in it, it is not accepted
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            text = f"the client certificate can't be read: {str(error)[:SHOWN_MAX]}"
            return ClientCertificate(reason="malformed", refusal=text)
        return ClientCertificate(
            peer=self._peer(identity), serials=serials, ends_at=self._clock() + left_s, authorities=authorities
        )

    def _serial(self, certificate: x509.Certificate) -> tuple[bytes, int]:
        if len(self._issuers) > KNOWN_MAX:
            self._issuers.clear()
        issuer = certificate.issuer.public_bytes()
        return self._issuers.setdefault(issuer, issuer), certificate.serial_number

    def _peer(self, identity: tuple[str, ...]) -> Peer:
        if len(self._peers) > KNOWN_MAX:
            self._peers.clear()
        peer = self._peers.get(identity)
        if peer is None:
            peer = self._peers[identity] = self._make_peer(identity)
        return peer

    def _verify(
        self,
        policies: Mapping[str, verification.PolicyBuilder],
        leaf: x509.Certificate,
        chain: list[x509.Certificate],
        identity: tuple[str, ...],
    ) -> None:
        has_domains = bool(self._files.trust_domains)
        domain = parse_spiffe(identity[0]).trust_domain if has_domains and identity else ""
        policy = policies.get(domain) or policies.get("")
        if policy is None:
            what = f"tls.trust_domains has no trust domain {domain!r}" if domain else "it has no SPIFFE ID"
            raise CertificateRefusedError("trust domain", f"{what}, and tls.client_ca is not set")
        try:
            # A verifier keeps the time of its making.
            now = datetime.datetime.fromtimestamp(self._wall_clock(), datetime.UTC)
            policy.time(now).build_client_verifier().verify(leaf, chain)
        except verification.VerificationError as error:
            why = f"({str(error)[:SHOWN_MAX]})"
            if not has_domains:
                raise CertificateRefusedError("untrusted", f"no CA of this server vouches for it {why}") from None
            whose = f"the CAs of trust domain {domain!r}" if domain in policies and domain else "tls.client_ca"
            raise CertificateRefusedError(
                "trust domain", f"{whose} do not vouch for {_named(identity)} {why}"
            ) from None


def identity_of(leaf: x509.Certificate, name: CertificateName) -> tuple[str, ...]:
    """Return the identity that a certificate's names of one kind are. Raises CertificateRefusedError."""
    if name == "cn":
        return _common_name(leaf.subject)
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    if name == "dns":
        return _dns_names(names.get_values_for_type(x509.DNSName))
    return _spiffe_id(names.get_values_for_type(x509.UniformResourceIdentifier))


def _spiffe_id(uris: Sequence[str]) -> tuple[str, ...]:
    if len(uris) > URIS_MAX:
        raise CertificateRefusedError("names", f"it has {len(uris)} URI names; a SPIFFE certificate has exactly one")
    if not uris or not uris[0].lower().startswith("spiffe:"):
        return ()
    try:
        return (str(parse_spiffe(uris[0])),)
    except ValueError as error:
        raise CertificateRefusedError("names", f"{_shown(uris[0])} is not a SPIFFE ID: {error}") from None


def _dns_names(names: Sequence[str]) -> tuple[str, ...]:
    if len(names) > DNS_NAMES_MAX:
        raise CertificateRefusedError("names", f"it has {len(names)} DNS names; at most {DNS_NAMES_MAX} are accepted")
    lowered = [each.lower() for each in names]
    for each in lowered:
        if len(each) > 253 or not all(map(_is_label, each.split("."))):
            raise CertificateRefusedError("names", f"{_shown(each)} is not the DNS name of one host")
    return tuple(f"dns:{each}" for each in dict.fromkeys(lowered))


def _is_label(text: str) -> bool:
    return 0 < len(text) <= 63 and text.isascii() and text.replace("-", "").replace("_", "").isalnum()


def _common_name(subject: x509.Name) -> tuple[str, ...]:
    names = [each.value for each in subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    if not names:
        return ()
    if len(names) > 1:
        raise CertificateRefusedError("names", f"it has {len(names)} common names")
    name = names[0]
    if len(name) > COMMON_NAME_CHARACTERS_MAX:
        raise CertificateRefusedError("names", f"its common name has more than {COMMON_NAME_CHARACTERS_MAX} characters")
    if not isinstance(name, str) or not name or name != name.strip() or not name.isprintable():
        raise CertificateRefusedError("names", f"the common name {_shown(str(name))} is empty or not printable")
    return (f"cn:{name}",)


def refuse_authority(extensions: x509.Extensions) -> None:
    """Refuse the certificate of a CA: whoever has its key could name itself anything."""
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise CertificateRefusedError("authority", "it is the certificate of a CA (CA:TRUE), not of a client")
        if isinstance(value, x509.KeyUsage) and value.key_cert_sign:
            raise CertificateRefusedError("authority", "its key may sign certificates (keyCertSign), as a CA's")


def parsed(certificate: bytes) -> x509.Certificate:
    """Parse a certificate, DER or PEM. Raises ValueError."""
    if certificate.startswith(b"-----"):
        return x509.load_pem_x509_certificate(certificate)
    return x509.load_der_x509_certificate(certificate)


def split_pem(certificates: bytes) -> list[bytes]:
    """Return the certificates of a PEM text, each as PEM."""
    return _PEM.findall(certificates)


def _policy(path: Path, data: bytes) -> verification.PolicyBuilder:
    """Return the policy that verifies client certificates with the CAs of a file. Raises ValueError."""
    try:
        with reading():
            authorities = x509.load_pem_x509_certificates(data)
    except ValueError:
        raise ValueError(f"{path} is not a PEM file of CA certificates") from None
    # TLS has checked the extensions already; here only the signatures, the dates and CA:TRUE are checked.
    policy = verification.ExtensionPolicy.permit_all()
    signing = policy.require_present(x509.BasicConstraints, verification.Criticality.AGNOSTIC, None)
    builder = verification.PolicyBuilder().store(verification.Store(authorities))
    return builder.extension_policies(ca_policy=signing, ee_policy=policy)


def _named(identity: tuple[str, ...]) -> str:
    return ", ".join(identity) if identity else "certificates without a SPIFFE ID"


def _of(peer: Peer) -> str:
    return (
        f"the client certificate of {', '.join(peer.identity)[:SHOWN_MAX]}"
        if peer.identity
        else "the client certificate"
    )


def _shown(text: str) -> str:
    return ascii(text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…")
