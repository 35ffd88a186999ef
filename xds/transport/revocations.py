"""Revoked client certificates: certificate revocation lists (CRLs), and a list of identities and serial numbers."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from xds.model.identity import IdentityPattern, parse_identity_pattern
from xds.model.untrusted import reading
from xds.transport.tls import TlsFiles

_PEM_CRL = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_SERIAL = re.compile(r"serial:((?:[0-9A-Fa-f]{2}:?)+)")
LIST_KINDS = ("spiffe://", "dns:", "cn:")
_NEITHER = "it is neither an identity (spiffe://…, dns:NAME, cn:NAME) nor serial:HEX, with two digits per byte"


@dataclass(frozen=True, slots=True)
class Revocations:
    """What is revoked: serial numbers by issuer (from CRLs), serial numbers of any issuer, identities and patterns."""

    by_issuer: Mapping[bytes, frozenset[int]]
    serials: frozenset[int] = frozenset()
    identities: frozenset[str] = frozenset()
    patterns: tuple[IdentityPattern, ...] = ()

    def why(self, identity: Sequence[str], serials: Iterable[tuple[bytes, int]]) -> str:
        """Return why a certificate or one of its intermediates is revoked, "" if none is."""
        if self.identities and (names := self.identities.intersection(identity)):
            return f"tls.revoked lists {min(names)}"
        for pattern in self.patterns:
            if pattern.match(identity) is not None:
                return f"tls.revoked lists {pattern.text}"
        for issuer, serial in serials:
            if serial in self.serials:
                return f"tls.revoked lists serial:{serial:x}"
            if serial in self.by_issuer.get(issuer, ()):
                return f"a revocation list of its CA has the serial number {serial:x}"
        return ""


NOTHING_REVOKED = Revocations({})


def read_revocations(files: TlsFiles) -> Revocations:
    """Read what is revoked. Raises OSError or ValueError, which names the file, the line, and what to do."""
    by_issuer: dict[bytes, frozenset[int]] = {}
    if files.crls:
        authorities = [
            each
            for path in dict.fromkeys((*files.authorities, *files.crl_authorities))
            for each in _certificates_of(path)
        ]
        for path in files.crls:
            for crl in crls_of(path):
                with reading():
                    _check_crl(path, crl, authorities)
                    issuer = crl.issuer.public_bytes()
                    serials = frozenset(each.serial_number for each in crl)
                by_issuer[issuer] = by_issuer.get(issuer, frozenset()) | serials
    return _read_list(by_issuer, files.revoked)


@reading()
def _certificates_of(path: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(path.read_bytes())


def crls_of(path: Path) -> list[x509.CertificateRevocationList]:
    """Return the CRLs of a PEM or DER file. Raises OSError or ValueError."""
    data = path.read_bytes()
    try:
        with reading():
            if b"-----BEGIN" not in data:
                return [x509.load_der_x509_crl(data)]
            found = [x509.load_pem_x509_crl(each) for each in _PEM_CRL.findall(data)]
    except ValueError as error:
        raise ValueError(f"{path} is not a certificate revocation list: {error}") from None
    if not found:
        raise ValueError(f"{path} has no certificate revocation list (BEGIN X509 CRL)")
    return found


def _check_crl(path: Path, crl: x509.CertificateRevocationList, authorities: Iterable[x509.Certificate]) -> None:
    issuer = crl.issuer
    named = [each for each in authorities if each.subject == issuer]
    if not named:
        where = "tls.client_ca, tls.trust_domains or api.tls_client_ca"
        raise ValueError(f"{path}: its issuer {issuer.rfc4514_string()} is no CA of {where}")
    if not any(_signed(crl, each) for each in named):
        raise ValueError(f"{path}: its signature is not by the CA {issuer.rfc4514_string()}")
    for extension in crl.extensions:
        if isinstance(extension.value, x509.DeltaCRLIndicator):
            raise ValueError(f"{path} is a delta CRL; give the complete one")
        if isinstance(extension.value, x509.IssuingDistributionPoint) and extension.value.indirect_crl:
            raise ValueError(f"{path} is an indirect CRL; give the list of each CA")


def _signed(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type] # TypeError for other keys
    except TypeError:
        return False


def _read_list(by_issuer: Mapping[bytes, frozenset[int]], path: Path | None) -> Revocations:
    """Add the list of revoked identities and serial numbers, one a line; # begins a comment."""
    identities: list[str] = []
    patterns: list[IdentityPattern] = []
    serials: list[int] = []
    for number, text in () if path is None else _lines(path):
        if found := _SERIAL.fullmatch(text):
            serials.append(int(found.group(1).replace(":", ""), 16))
            continue
        try:
            if not text.startswith(LIST_KINDS):
                raise ValueError(_NEITHER)
            pattern = parse_identity_pattern(text)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {text[:100]!a}: {error}") from None
        if "*" in pattern.text or "{" in pattern.text:
            patterns.append(pattern)
        else:
            identities.append(pattern.text)
    return Revocations(by_issuer, frozenset(serials), frozenset(identities), tuple(patterns))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield number, text
