"""Client certificates: the identity that one proves, and the reasons to refuse one.

TLS has verified the certificate against all CAs before. What is checked here is what TLS leaves open: which name
counts, whether the CA may vouch for it, and whether the certificate is revoked. Nothing falls back to another kind of
name.
"""

import datetime
import hashlib
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.x509 import verification

from xds.model.identity import ANONYMOUS, Peer, parse_spiffe
from xds.transport.revocations import NOTHING_REVOKED, Revocations, read_revocations
from xds.transport.tls import CertificateName, Stamp, TlsFiles

KNOWN_MAX = 4_096
"""Certificates whose examination is remembered: sidecars reconnect, and some share one certificate."""
EXPIRY_SPREAD_S = 60
URIS_MAX = 1
"""A SPIFFE certificate has exactly one URI (X509-SVID, section 2)."""
DNS_NAMES_MAX = 100
COMMON_NAME_CHARACTERS_MAX = 256
"""X.520 allows 64, which not all CAs keep to."""
SHOWN_MAX = 200


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

    def has_ended(self, now: float, *, spread_by: int) -> bool:
        """Whether it has expired for a connection: up to a minute late, so that equal ones do not end all at once."""
        return self.ends_at + (spread_by >> 6) % EXPIRY_SPREAD_S < now


class ClientCertificates:
    """Examines client certificates as the files of ``TlsFiles`` say. Raises OSError or ValueError at the start.

    ``make_peer`` makes the peer of an identity. ``on_problem`` is called if changed files can't be used.
    """

    def __init__(
        self,
        files: TlsFiles,
        on_problem: Callable[[str], None],
        *,
        make_peer: Callable[[tuple[str, ...]], Peer] = Peer,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._files = files
        self._on_problem = on_problem
        self._make_peer = make_peer
        self._clock, self._wall_clock = clock, wall_clock
        self._known: OrderedDict[bytes, ClientCertificate] = OrderedDict()
        self._peers: dict[tuple[str, ...], Peer] = {}
        self._issuers: dict[bytes, bytes] = {}
        self._domains: dict[str, verification.PolicyBuilder] = {}
        self._stamp: Stamp | None = None
        self.revocations = NOTHING_REVOKED
        """What is revoked; ``take`` replaces it."""
        self.reload_authorities()
        self.take(self.read_changed() or NOTHING_REVOKED)

    @property
    def needs_chain(self) -> bool:
        """Whether ``examine`` uses the intermediates that came with a certificate."""
        return bool(self._files.trust_domains or self._files.crls)

    def examine(self, certificate: bytes, intermediates: Callable[[], Sequence[bytes]] = tuple) -> ClientCertificate:
        """Return what a certificate says, which may be that it is refused; DER or PEM."""
        key = hashlib.sha256(certificate).digest()
        remembered = self._known
        known = remembered.get(key)
        if known is None or known.ends_at <= self._clock():
            chain = intermediates() if self.needs_chain else ()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # cryptography warns of odd names, on stderr, as often as clients like
                known = self._read(certificate, chain)
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

    # --- Files -----------------------------------------------------------------------------------------------------

    def reload_authorities(self) -> None:
        """Read the CAs of the trust domains again. Raises OSError or ValueError, and keeps the former ones then."""
        files = self._files
        if not files.trust_domains:
            return
        domains = {domain: _policy(path) for domain, path in files.trust_domains}
        if files.client_ca is not None:
            domains[""] = _policy(files.client_ca)
        self._domains = domains
        self._known = OrderedDict()  # a new one: gRPC calls this in a thread of its own

    def read_changed(self) -> Revocations | None:
        """Return what is revoked if the files have changed, to be passed to ``take``; may run in another thread.

        Raises OSError or ValueError, once per change of the files.
        """
        now = self._files.revocations_stamp_now()
        if now == self._stamp:
            return None
        self._stamp = now
        return read_revocations(self._files)

    def take(self, revocations: Revocations) -> None:
        """Refuse what is revoked from now on."""
        self.revocations = revocations

    # --- One certificate -------------------------------------------------------------------------------------------

    def _read(self, certificate: bytes, chain: Sequence[bytes]) -> ClientCertificate:
        try:
            leaf = parsed(certificate)
            serials = tuple(self._serial(each) for each in (leaf, *map(parsed, chain)))
            now = self._wall_clock()
            left_s = leaf.not_valid_after_utc.timestamp() - now
            if left_s <= 0:
                raise CertificateRefusedError("expired", f"it expired on {leaf.not_valid_after_utc:%F %T} UTC")
            extensions = leaf.extensions
            refuse_authority(extensions)
            identity = identity_of(leaf, self._files.name)
            if self._domains:
                self._verify(leaf, [parsed(each) for each in chain], identity)
        except CertificateRefusedError as refused:
            return ClientCertificate(
                reason=refused.reason, refusal=f"the client certificate is refused: {refused.text}"
            )
        except Exception as error:  # whatever a library finds in it, it is not accepted
            text = f"the client certificate can't be read: {str(error)[:SHOWN_MAX]}"
            return ClientCertificate(reason="malformed", refusal=text)
        return ClientCertificate(peer=self._peer(identity), serials=serials, ends_at=self._clock() + left_s)

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

    def _verify(self, leaf: x509.Certificate, chain: list[x509.Certificate], identity: tuple[str, ...]) -> None:
        domain = parse_spiffe(identity[0]).trust_domain if identity else ""
        policy = self._domains.get(domain) or self._domains.get("")
        if policy is None:
            what = f"tls.trust_domains has no trust domain {domain!r}" if domain else "it has no SPIFFE ID"
            raise CertificateRefusedError("trust domain", f"{what}, and tls.client_ca is not set")
        try:
            # A verifier keeps the time of its making.
            now = datetime.datetime.fromtimestamp(self._wall_clock(), datetime.UTC)
            policy.time(now).build_client_verifier().verify(leaf, chain)
        except verification.VerificationError as error:
            whose = f"the CAs of trust domain {domain!r}" if domain in self._domains and domain else "tls.client_ca"
            raise CertificateRefusedError(
                "trust domain", f"{whose} do not vouch for {_named(identity)} ({str(error)[:SHOWN_MAX]})"
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


def _policy(path: Path) -> verification.PolicyBuilder:
    """Return the policy that verifies client certificates with the CAs of a file. Raises OSError or ValueError."""
    try:
        authorities = x509.load_pem_x509_certificates(path.read_bytes())
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
