"""The files that TLS is configured with."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files: the server's chain and key, and ``client_ca`` with the CAs whose clients are accepted (mTLS)."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def stamp_now(self) -> tuple[tuple[int, int, int], ...]:
        """Return a stamp that changes when any of the files does; () while one is missing."""
        try:
            stats = [path.stat() for path in (self.cert, self.key, self.client_ca) if path is not None]
        except OSError:
            return ()
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)
