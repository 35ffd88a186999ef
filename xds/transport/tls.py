"""The files that TLS is configured with, and when they are read again."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CertificateName = Literal["spiffe", "dns", "cn"]
Stamp = tuple[tuple[int, ...], ...]
RETRY_S = 1.0
"""How soon files that could not be used are read again, though they seem to be the same."""


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

    @property
    def signers_of_crls(self) -> tuple[Path, ...]:
        """The files of CAs that may have signed the revocation lists."""
        return tuple(dict.fromkeys((*self.authorities, *self.crl_authorities)))

    def revocations_stamp_now(self) -> Stamp:
        """Return a stamp that changes when what is revoked may do; () while a file is missing."""
        listed = () if self.revoked is None else (self.revoked,)
        return stamp((*self.crls, *(self.signers_of_crls if self.crls else ()), *listed))


class Followed:
    """Files that are read again once they have changed and, as long as they can't be used, every ``RETRY_S`` seconds.

    A reading can fail for a reason that no stamp shows: no free descriptor, or another file that is missing. The maker
    reads them for the first time after this is made.
    """

    __slots__ = ("_clock", "_retry_at", "_stamp", "_stamp_now", "problem")

    def __init__(self, stamp_now: Callable[[], Stamp], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stamp_now = stamp_now
        self._clock = clock
        self._stamp: Stamp | None = stamp_now()
        self._retry_at = float("inf")
        self.problem = ""
        """Why the last reading failed, "" if it did not."""

    def is_due(self) -> bool:
        """Return whether they are to be read now; ``note`` is called with the outcome then."""
        now = self._stamp_now()  # before the reading: what is written meanwhile is read next time
        if now == self._stamp and self._clock() < self._retry_at:
            return False
        self._stamp = now
        return True

    def note(self, problem: str = "") -> bool:
        """Note why a reading failed, "" if it did not; return whether that is another problem than before."""
        is_other = problem not in ("", self.problem)
        self.problem = problem
        self._retry_at = self._clock() + RETRY_S if problem else float("inf")
        return is_other

    def forget(self) -> None:
        """Have them read again, and a problem told again."""
        self._stamp, self.problem = None, ""


def stamp(paths: Iterable[Path]) -> Stamp:
    """Return a stamp that changes when one of the files does, or may be read by others; () while one is missing."""
    try:
        stats = [path.stat() for path in paths]
    except OSError:
        return ()
    return tuple(map(stamp_of, stats))


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes when a file does, or who may read it."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode
