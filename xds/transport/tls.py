"""The files that TLS is configured with."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CertificateName = Literal["spiffe", "dns", "cn"]
Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The server's certificate chain and key, and what client certificates are checked with; all files are PEM."""

    cert: Path
    key: Path
    client_ca: Path | None = None
    """The CAs of clients whose trust domain has no CAs of its own."""
    trust_domains: tuple[tuple[str, Path], ...] = ()
    """Trust domains of SPIFFE IDs, and the CAs that alone may sign certificates with names in them."""
    crls: tuple[Path, ...] = ()
    """Certificate revocation lists of these CAs, or of ``crl_authorities``."""
    crl_authorities: tuple[Path, ...] = ()
    """Further CAs that may have signed the revocation lists: those of the clients of another port."""
    revoked: Path | None = None
    """A text file of identities and serial numbers that are refused."""
    name: CertificateName = "spiffe"
    """Which name of a client's certificate is its identity."""

    @property
    def is_mutual(self) -> bool:
        """Whether clients must show a certificate."""
        return bool(self.authorities)

    @property
    def has_revocations(self) -> bool:
        """Whether certificates can be revoked."""
        return bool(self.crls) or self.revoked is not None

    @property
    def authorities(self) -> tuple[Path, ...]:
        """The files of CAs that sign client certificates."""
        own = () if self.client_ca is None else (self.client_ca,)
        return own + tuple(path for _, path in self.trust_domains)

    def stamp_now(self) -> Stamp:
        """Return a stamp that changes when certificates, key or CAs do; () while a file is missing."""
        return stamp((self.cert, self.key, *self.authorities))

    def authorities_stamp_now(self) -> Stamp:
        """Return a stamp that changes when CAs do; () while a file is missing."""
        return stamp(self.authorities)

    def revocations_stamp_now(self) -> Stamp:
        """Return a stamp that changes when the files of revoked certificates do; () while one is missing."""
        return stamp(self.crls if self.revoked is None else (*self.crls, self.revoked))


def stamp(paths: Iterable[Path]) -> Stamp:
    """Return a stamp that changes when one of the files does; () while one is missing."""
    try:
        stats = [path.stat() for path in paths]
    except OSError:
        return ()
    return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)
