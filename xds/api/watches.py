"""Bounds how many watches a caller has open: each is sent every change, or asks all workers again and again."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from xds.api.intake import BusyError
from xds.limits import LimitHits

WATCHES_MAX = 100


class Watches:
    """Counts the open watches of each caller, of the changes and of convergence; ``most`` may be open at once."""

    def __init__(self, most: int = WATCHES_MAX, hits: LimitHits | None = None) -> None:
        self._most = most
        self._hits = hits or LimitHits()
        self._open: Counter[str] = Counter()

    def must_have_room(self, caller: str) -> None:
        """Raise BusyError if a caller has as many watches as may be."""
        if self._open[caller] >= self._most:
            self._hits.add("watches")
            text = f"the caller has {self._most} watches open, as many as may be at once (api.watches_max)"
            raise BusyError(f"{text}; end one, or try again later")

    @contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """Count a watch of a caller while it is open. Raises BusyError."""
        self.must_have_room(caller)
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]
