"""Assignments that a per-type client waits for before its clusters serve. It does not know messages, nor order.

On per-type streams Envoy ACKs clusters at once, warm or not, so what tells that one is warm is its assignment alone.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from xds.protocol.response import endpoints_of
from xds.protocol.state import TypeState, Variant

REJECTED_WAIT_S = 1.0
CAME_BACK = -1
"""What stands for the count of messages where the client has the cluster of an earlier stream."""


@dataclass(slots=True, eq=False)
class Awaited:
    """Each name with how many messages went out before its cluster, and until when it is waited for."""

    names: dict[str, tuple[int, float]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.names)

    @property
    def next_end(self) -> float:
        """When a wait ends next; there must be one."""
        return min(until for _, until in self.names.values())

    def expire(self, now: float) -> None:
        """Wait no longer for what has been waited for long enough."""
        for name in [name for name, (_, until) in self.names.items() if now >= until]:
            del self.names[name]

    def cluster_sent(self, clusters: TypeState, endpoints: frozenset[str], messages: int, until: float) -> None:
        """Wait for the endpoints of clusters that were just sent, and no longer for those that none has now."""
        assert clusters.response is not None
        dropped = self.names.keys() & endpoints_of(clusters.response.replaced)
        if dropped:
            dropped -= endpoints_of(clusters.everything_held())
        for name in dropped:
            del self.names[name]
        self.names.update(dict.fromkeys(endpoints, (messages, until)))

    def rejected(self, now: float) -> None:
        """Take in that clusters were rejected: those the client took ask for endpoints soon, the rest never do."""
        for name, (messages, until) in self.names.items():
            if messages != CAME_BACK:
                self.names[name] = (messages, min(until, now + REJECTED_WAIT_S))

    def answered(self, state: TypeState, names: Iterable[str]) -> None:
        """Take in the answer to endpoints. A name that does not exist is in no SotW response."""
        for name in self.names.keys() & state.interest.names.union(names):
            if state.sent_order > self.names[name][0]:
                del self.names[name]

    def clusters_claimed(self, clusters: TypeState, others: Iterable[TypeState], until: float) -> None:
        """Wait for the endpoints of clusters of an earlier stream, except for those that the client surely has."""
        names = endpoints_of(clusters.everything_held())
        for state in others:
            names -= {name for name in state.interest.names if state.idle or _had(state, name)}
        for name in names:
            self.names.setdefault(name, (CAME_BACK, until))

    def endpoints_claimed(self, state: TypeState) -> None:
        """Take in which endpoints the client has of an earlier stream. Those of a warming cluster it does not claim."""
        for name in self._came_back(state.interest.names):
            if state.variant is Variant.SOTW or _had(state, name):
                del self.names[name]

    def _came_back(self, names: Collection[str]) -> list[str]:
        return [name for name in names if name in self.names and self.names[name][0] == CAME_BACK]


def _had(state: TypeState, name: str) -> bool:
    """Say whether the client had this assignment before what it was sent last and has not answered."""
    return (state.held(name) if state.outstanding is None else state.held_before(name)) is not None
