"""The token that callers of the push API show. It does not know how they are asked for it."""

import hmac
from pathlib import Path


class Token:
    """Says whether a caller may come in. Without a file everyone may. The file is read again whenever it changed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._token = b""

    @property
    def is_needed(self) -> bool:
        """Say whether callers have to show one."""
        return self._path is not None

    def reload(self) -> bool:
        """Read the file again, changed or not; say whether there is one, and it can be read."""
        self._stamp = None
        if self._path is None:
            return False
        self._read(self._path)
        return self._stamp is not None

    def admits(self, authorization: str) -> bool:
        """Say whether the value of an ``Authorization`` header lets its sender in, in a time that tells nothing."""
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
            return  # being replaced: the last one counts on
