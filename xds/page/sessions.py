"""Sign-ins of the page: the cookie of a browser, and the token that it stands for.

The token stays in this process: cookies are not separated by port, so a browser also sends them to the other servers of
the host. Each request shows the token to the API's admission again, so that a token that is revoked or has expired is
refused at once.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

SESSION_S = 12 * 3600
"""The age at which a sign-in ends."""
SESSIONS_MAX = 256
"""Sign-ins that are kept at once; a further one ends the oldest."""
SESSIONS_OF_CALLER_MAX = 16
"""Sign-ins of one identity; a further one ends its oldest."""


@dataclass(frozen=True, slots=True)
class _Session:
    authorization: str
    who: str
    until_s: float


class Sessions:
    """The sign-ins that last. ``clock`` returns seconds that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[bytes, _Session] = {}  # by the digest of the id; the oldest first

    def open(self, authorization: str, who: str) -> str:
        """Keep what the caller ``who`` showed, and return the secret id of the new sign-in."""
        self._forget_old()
        theirs = [digest for digest, session in self._open.items() if session.who == who]
        for digest in theirs[: max(0, len(theirs) - SESSIONS_OF_CALLER_MAX + 1)]:
            del self._open[digest]
        while len(self._open) >= SESSIONS_MAX:
            del self._open[next(iter(self._open))]
        made = secrets.token_urlsafe(32)
        self._open[_digest(made)] = _Session(authorization, who, self._clock() + SESSION_S)
        return made

    def authorization(self, shown: str) -> str:
        """Return the ``Authorization`` header that the id of a sign-in stands for, "" if it is of none."""
        session = self._open.get(_digest(shown))
        return "" if session is None or session.until_s <= self._clock() else session.authorization

    def close(self, shown: str) -> None:
        """End a sign-in, if there is one with that id."""
        self._open.pop(_digest(shown), None)

    def _forget_old(self) -> None:
        now_s = self._clock()
        for digest in [digest for digest, session in self._open.items() if session.until_s <= now_s]:
            del self._open[digest]


def _digest(shown: str) -> bytes:
    return hashlib.sha256(shown.encode(errors="surrogatepass")).digest()
