"""Assignments that a per-type client waits for before its clusters serve. It does not know messages, nor order.

On per-type streams Envoy ACKs clusters at once, warm or not, so what tells that one is warm is its assignment alone.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from xds.protocol.response import endpoints_of, endpoints_of_one
from xds.protocol.state import TypeState, Variant

REJECTED_WAIT_S = 1.0
CAME_BACK = -1
"""What stands for the count of messages where the client has the cluster of an earlier stream."""


@dataclass(frozen=True, slots=True)
class Wait:
    """``messages``: how many went out before the cluster. ``earlier``: for an older version of it, still warming."""

    messages: int
    until: float
    earlier: "Wait | None" = None


@dataclass(slots=True, eq=False)
class Awaited:
    """Each name with what is waited for, and what already was when its cluster was sent again."""

    names: dict[str, Wait] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.names)

    @property
    def next_end(self) -> float:
        """When a wait ends next; there must be one."""
        return min(wait.until for wait in self.names.values())

    def expire(self, now: float) -> None:
        """Wait no longer for what has been waited for long enough."""
        for name in [name for name, wait in self.names.items() if now >= wait.until]:
            del self.names[name]

    def cluster_sent(self, clusters: TypeState, endpoints: frozenset[str], messages: int, until: float) -> None:
        """Wait for the endpoints of clusters that were just sent, and no longer for those that none has now."""
        assert clusters.response is not None
        dropped = self.names.keys() & endpoints_of(clusters.response.replaced)
        if dropped:
            dropped -= endpoints_of(clusters.everything_held())
        for name in dropped:
            del self.names[name]
        for name in endpoints:
            earlier = self.names.get(name)
            self.names[name] = Wait(messages, until, replace(earlier, earlier=None) if earlier else None)

    def rejected(self, endpoints: frozenset[str], now: float) -> None:
        """Take in that these's clusters were rejected: the client asks soon for those it took, never for the rest.

        An older version that was accepted and still warms is waited for as before.
        """
        for name in endpoints & self.names.keys():
            wait = self.names[name]
            if wait.messages != CAME_BACK:
                self.names[name] = wait.earlier or replace(wait, until=min(wait.until, now + REJECTED_WAIT_S))

    def asked(self, states: Iterable[TypeState], signs: frozenset[str], until: float) -> bool:
        """The client asks for endpoints of rejected clusters: it took those, and has yet to get what is not answered.

        Returns whether any was not waited for any more.
        """
        open_ = {name for state in states if not state.idle for name in signs & state.interest.names}
        late = not open_ <= self.names.keys()
        for name in open_:
            self.names[name] = Wait(self.names[name].messages if name in self.names else 0, until)
        return late

    def answered(self, state: TypeState, names: Iterable[str]) -> None:
        """Take in the answer to endpoints. A name that does not exist is in no SotW response."""
        for name in self.names.keys() & state.interest.names.union(names):
            wait = self.names[name]
            if state.sent_order > wait.messages:
                del self.names[name]
            elif wait.earlier and state.sent_order > wait.earlier.messages:
                self.names[name] = replace(wait, earlier=None)

    def clusters_claimed(self, clusters: TypeState, others: Iterable[TypeState], until: float) -> None:
        """Wait for the endpoints of clusters of an earlier stream, except for those that the client surely has."""
        names = endpoints_of(clusters.everything_held())
        for state in others:
            names -= {name for name in state.interest.names if state.idle or _had(state, name)}
        for name in names:
            self.names.setdefault(name, Wait(CAME_BACK, until))

    def endpoints_claimed(self, state: TypeState) -> None:
        """Take in which endpoints the client has of an earlier stream. Those of a warming cluster it does not claim."""
        for name in self._came_back(state.interest.names):
            if state.variant is Variant.SOTW or _had(state, name):
                del self.names[name]

    def _came_back(self, names: Collection[str]) -> list[str]:
        return [name for name in names if name in self.names and self.names[name].messages == CAME_BACK]


def taken(
    clusters: Iterable[TypeState], absent: frozenset[str], asking: Iterable[TypeState]
) -> tuple[set[str], frozenset[str]]:
    """Return which rejected clusters the client took, and the endpoints that tell: it asks for what no other has."""
    held = [resource for state in clusters for resource in state.everything_held()]
    others = endpoints_of(resource for resource in held if resource.name not in absent)
    doubtful = [resource for resource in held if resource.name in absent]
    subscribed = {name for state in asking for name in state.interest.names}
    signs = frozenset(subscribed & endpoints_of(doubtful) - others)
    sure = signs & endpoints_of_one(doubtful)
    return {resource.name for resource in doubtful if endpoints_of([resource]) & sure}, signs


def _had(state: TypeState, name: str) -> bool:
    """Say whether the client had this assignment before what it was sent last and has not answered."""
    return (state.held(name) if state.outstanding is None else state.held_before(name)) is not None
