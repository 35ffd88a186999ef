"""The bearer token of the push API."""

import hmac
from pathlib import Path


class Token:
    """Authorizes callers by a token from a file; without a file everyone. The file is reloaded when it changes."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._token = b""

    @property
    def is_needed(self) -> bool:
        """Return whether callers need a token."""
        return self._path is not None

    def reload(self) -> bool:
        """Reload the file, changed or not; return whether there is one and it can be read."""
        self._stamp = None
        if self._path is None:
            return False
        self._read(self._path)
        return self._stamp is not None

    def admits(self, authorization: str) -> bool:
        """Return whether an ``Authorization`` header has the token, compared in constant time."""
        if self._path is None:
            return True
        self._read(self._path)
        scheme, _, shown = authorization.partition(" ")
        is_it = hmac.compare_digest(shown.strip().encode(), self._token)
        return is_it and scheme.lower() == "bearer" and bool(self._token)

    def _read(self, path: Path) -> None:
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                self._token, self._stamp = path.read_bytes().strip(), stamp
        except OSError:
            return  # being replaced: the former token stays valid
