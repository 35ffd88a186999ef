"""When to look at which session again. It does not know clocks, nor what sessions wait for."""

import heapq
from collections.abc import Iterator
from itertools import count

from xds.protocol.draining import NEVER
from xds.protocol.stream import Session


class Timers:
    """One time a session, the earliest that was set; those of sessions that ended fall away when they are due."""

    __slots__ = ("_heap", "_order")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Session]] = []
        self._order = count()

    @property
    def next(self) -> float:
        """The earliest time that is set: infinity for none."""
        return self._heap[0][0] if self._heap else NEVER

    def set(self, session: Session, at: float) -> None:
        """Have the session looked at no later than ``at``, which is earlier than its ``timer``."""
        session.timer = at
        heapq.heappush(self._heap, (at, next(self._order), session))

    def due(self, now: float) -> Iterator[tuple[Session, float]]:
        """Yield the sessions whose time has come, with that time; each is without a time from then on."""
        while self._heap and self._heap[0][0] <= now:
            at, _, session = heapq.heappop(self._heap)
            if at == session.timer:
                session.timer = NEVER
                yield session, at
