"""Reads when the server's own certificates, its CAs and its revocation lists expire."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from xds.model.untrusted import reading
from xds.transport.revocations import crls_of
from xds.transport.tls import Stamp, stamp

SUBJECTS_MAX = 100
"""Certificates of one file that are reported: a bundle of public CAs may have hundreds."""
SUBJECT_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class Expiry:
    """When a certificate, or a revocation list, of a file expires."""

    file: str
    subject: str
    """The subject of the certificate, the issuer of the list."""
    at_s: float
    """Seconds since the epoch."""
    is_crl: bool = False

    def problem(self, now_s: float, before_s: float) -> str:
        """Return what is wrong if it has expired, or does within ``before_s`` seconds."""
        left_s = self.at_s - now_s
        if left_s > before_s:
            return ""
        what = f"the revocation list of {self.subject}" if self.is_crl else f"the certificate of {self.subject}"
        when = f"expires in {_words(left_s)}" if left_s > 0 else f"expired {_words(-left_s)} ago"
        return f"{what} in {self.file} {when}"


class CertificateFiles:
    """The files of certificates and revocation lists, read again when they change. May be used in any one thread."""

    def __init__(self, certificates: Sequence[Path], crls: Sequence[Path] = ()) -> None:
        self._certificates = tuple(dict.fromkeys(certificates))
        self._crls = tuple(dict.fromkeys(crls))
        self._read: dict[Path, tuple[Stamp, tuple[Expiry, ...]]] = {}

    def look(self) -> tuple[Expiry, ...]:
        """Return when everything expires. A file that can't be read keeps what it had: its reader reports it."""
        for path in (*self._certificates, *self._crls):
            now = stamp([path])
            known = self._read.get(path)
            if known is None or now != known[0]:
                former = () if known is None else known[1]
                try:
                    self._read[path] = (now, _expiries_of_crls(path) if path in self._crls else _expiries_of(path))
                except (OSError, ValueError):
                    self._read[path] = ((), former)  # read again at the next look
        return tuple(expiry for _, expiries in self._read.values() for expiry in expiries)


@reading()
def _expiries_of(path: Path) -> tuple[Expiry, ...]:
    soonest: dict[str, float] = {}
    for certificate in x509.load_pem_x509_certificates(path.read_bytes()):
        subject = _text(certificate.subject)
        at_s = certificate.not_valid_after_utc.timestamp()
        # A CA that was renewed under its name is in a bundle twice: the newer one counts.
        soonest[subject] = max(at_s, soonest.get(subject, at_s))
    return _few(path, soonest, is_crl=False)


@reading()
def _expiries_of_crls(path: Path) -> tuple[Expiry, ...]:
    at: dict[str, float] = {}
    for crl in crls_of(path):
        if (due := crl.next_update_utc) is not None:
            issuer = _text(crl.issuer)
            at[issuer] = max(due.timestamp(), at.get(issuer, 0.0))
    return _few(path, at, is_crl=True)


def _few(path: Path, at: Mapping[str, float], *, is_crl: bool) -> tuple[Expiry, ...]:
    first = sorted(at.items(), key=lambda each: each[1])[:SUBJECTS_MAX]
    return tuple(Expiry(str(path), subject, at_s, is_crl) for subject, at_s in first)


def _text(name: x509.Name) -> str:
    return name.rfc4514_string()[:SUBJECT_CHARACTERS_MAX] or "an empty subject"


def _words(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "less than a minute"
