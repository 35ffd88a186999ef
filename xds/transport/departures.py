"""Ends connections that are old, or that are to move to another replica, without losing or doubling a resource.

A connection ends once all its responses are sent and answered, or after a grace period: each stream with UNAVAILABLE,
then GOAWAY in the same write, so its client opens the next streams on a new connection. It reports what it has there,
and is sent only what it lacks. Times are in seconds on the server's coarse clock.
"""

import random
from collections.abc import Iterable
from typing import Protocol

JITTER = 0.1
"""The age at which a connection ends varies by this share: a fleet that connected at once must not return at once."""
_MIX = 2_654_435_761  # Knuth's multiplicative hash


class Departing(Protocol):
    """What is needed of a connection."""

    @property
    def since(self) -> int:
        """When it was made."""

    @property
    def is_answered(self) -> bool:
        """Whether all responses on it are sent and answered."""

    def depart(self, text: str) -> None:
        """End its streams, and the connection, for a reason."""


class Departures:
    """Which connections of a server are to end, and when."""

    def __init__(self, *, age_max_s: float = 0.0, grace_s: float = 10.0) -> None:
        self._age_max_s = age_max_s
        self._grace_s = grace_s
        self._due: dict[Departing, int] = {}
        """When the connections that were chosen are to end."""

    def choose(self, connections: Iterable[Departing], share: float, over_s: float, tick: int) -> int:
        """Choose a share of the connections at random, to end at random times within ``over_s``; return how many.

        A part of a connection is a chance, so that several workers with few connections each move the share in all.
        """
        everyone = list(connections)
        chosen = random.sample(everyone, min(len(everyone), int(share * len(everyone) + random.random())))  # noqa: S311 - spreads load, hides nothing
        for each in chosen:
            self._due[each] = tick + round(random.uniform(0, over_s))  # noqa: S311 - it spreads load, and hides nothing
        return len(chosen)

    def look_at(self, connection: Departing, tick: int) -> bool:
        """End a connection if it is due, and return whether that was done. Call it once a second for each."""
        if self._age_max_s:
            due, why = connection.since + self._lifetime_s(connection), "this connection has reached its age"
            if connection in self._due:
                due = min(due, self._due[connection])
        elif self._due:
            due, why = self._due.get(connection, float("inf")), "this connection is moved"
        else:
            return False
        if tick < due or (tick < due + self._grace_s and not connection.is_answered):
            return False
        self.forget(connection)
        connection.depart(f"{why}; connect again")
        return True

    def forget(self, connection: Departing) -> None:
        """Forget a connection that has ended."""
        self._due.pop(connection, None)

    def _lifetime_s(self, connection: Departing) -> float:
        mixed = (id(connection) >> 4) * _MIX % 2**32 / 2**32  # evenly spread, and the same at each call
        return self._age_max_s * (1 - JITTER + 2 * JITTER * mixed)
