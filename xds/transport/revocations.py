"""Revoked client certificates: certificate revocation lists (CRLs), and a list of identities and serial numbers."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cryptography import x509

from xds.model.identity import IdentityPattern, parse_identity_pattern
from xds.model.untrusted import reading
from xds.transport.tls import Followed, TlsFiles, stamp

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


class RevocationFiles:
    """What is revoked, as the files say: each file is followed by itself, so that a bad one holds up no other.

    A revocation list is read again also when the CAs have changed that may have signed it. The constructor raises
    OSError or ValueError, which names the file, the line, and what to do.
    """

    def __init__(self, files: TlsFiles, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = files
        self._crls = {
            path: Followed(partial(stamp, (path, *files.signers_of_crls)), clock=clock) for path in files.crls
        }
        self._by_file = {path: self._read_crls(path) for path in files.crls}
        listed = files.revoked
        self._list = None if listed is None else Followed(partial(stamp, (listed,)), clock=clock)
        self._listed = _read_list(listed)

    def revocations(self) -> Revocations:
        """Return what is revoked, as far as it could be read."""
        by_issuer: dict[bytes, frozenset[int]] = {}
        for found in self._by_file.values():
            for issuer, serials in found.items():
                by_issuer[issuer] = by_issuer[issuer] | serials if issuer in by_issuer else serials
        return replace(self._listed, by_issuer=by_issuer)

    def forget(self) -> None:
        """Have all files read again."""
        for followed in self._followed():
            followed.forget()

    def read_changed(self) -> tuple[bool, tuple[str, ...]]:
        """Read the files that have changed; return whether one could be, and new reasons why others could not.

        A file that can't be used leaves what it had in force.
        """
        problems: list[str] = []
        due = [path for path, followed in self._crls.items() if followed.is_due()]
        read = [self._is_read(self._crls[path], partial(self._take_crls, path), problems) for path in due]
        if self._list is not None and self._list.is_due():
            read.append(self._is_read(self._list, self._take_list, problems))
        return any(read), tuple(problems)

    def _is_read(self, followed: Followed, take: Callable[[], None], problems: list[str]) -> bool:
        try:
            take()
        except (OSError, ValueError) as error:
            if followed.note(str(error)):
                problems.append(str(error))
            return False
        followed.note()
        return True

    def _take_crls(self, path: Path) -> None:
        self._by_file[path] = self._read_crls(path)

    def _take_list(self) -> None:
        self._listed = _read_list(self._files.revoked)

    def _followed(self) -> Iterator[Followed]:
        yield from self._crls.values()
        if self._list is not None:
            yield self._list

    def _read_crls(self, path: Path) -> dict[bytes, frozenset[int]]:
        authorities = [each for signers in self._files.signers_of_crls for each in _certificates_of(signers)]
        found: dict[bytes, frozenset[int]] = {}
        for crl in crls_of(path):
            with reading():
                _check_crl(path, crl, authorities)
                issuer = crl.issuer.public_bytes()
                serials = frozenset(each.serial_number for each in crl)
            found[issuer] = found.get(issuer, frozenset()) | serials
        return found


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


def _read_list(path: Path | None) -> Revocations:
    """Read the list of revoked identities and serial numbers, one a line; # begins a comment."""
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
    return Revocations({}, frozenset(serials), frozenset(identities), tuple(patterns))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield number, text
