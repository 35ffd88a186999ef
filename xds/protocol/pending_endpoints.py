"""Endpoints (assignments) that a per-type client waits for before its clusters serve, by name.

On per-type streams Envoy ACKs clusters at once, warm or not. Only the answer to its endpoints tells that a cluster is
warm.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from immutables import Map

from xds.model.resource import Resource
from xds.protocol.policy import Variant
from xds.protocol.responses import endpoints_of, endpoints_of_one
from xds.protocol.type_state import TypeState

REJECTED_WAIT_S = 1.0
CAME_BACK = -1
"""What stands for the count of messages where the client has the cluster of an earlier stream."""


class Wait(NamedTuple):
    """``messages``: how many went out before the cluster. ``earlier``: for an older version of it, still warming."""

    messages: int
    until: float
    earlier: "Wait | None" = None


PendingEndpoints = Map[str, Wait]
"""Each name with what is waited for, and what already was when its cluster was sent again."""

NO_PENDING_ENDPOINTS: PendingEndpoints = Map()


def next_end(awaited: PendingEndpoints) -> float:
    """Return when a wait ends next; there must be one."""
    return min(wait.until for wait in awaited.values())


def unexpired(awaited: PendingEndpoints, now: float) -> PendingEndpoints:
    """Wait no longer for what has been waited for long enough."""
    return _without(awaited, [name for name, wait in awaited.items() if now >= wait.until])


def cluster_sent(
    awaited: PendingEndpoints,
    clusters: TypeState,
    replaced: Iterable[Resource],
    endpoints: frozenset[str],
    messages: int,
    until: float,
) -> PendingEndpoints:
    """Wait for the endpoints of clusters that were just sent, and no longer for those that none has now."""
    dropped = endpoints_of(replaced).intersection(awaited)
    if dropped:
        awaited = _without(awaited, dropped - endpoints_of(clusters.everything_held()))
    for name in endpoints:
        earlier = awaited.get(name)
        awaited = awaited.set(name, Wait(messages, until, earlier._replace(earlier=None) if earlier else None))
    return awaited


def rejected(awaited: PendingEndpoints, endpoints: frozenset[str], now: float) -> PendingEndpoints:
    """Take in that these's clusters were rejected: the client asks soon for those it took, never for the rest.

    An older version that was accepted and still warms is waited for as before.
    """
    for name in endpoints.intersection(awaited):
        wait = awaited[name]
        if wait.messages != CAME_BACK:
            less = wait.earlier or wait._replace(until=min(wait.until, now + REJECTED_WAIT_S))
            awaited = awaited.set(name, less)
    return awaited


def asked(
    awaited: PendingEndpoints, states: Iterable[TypeState], signs: frozenset[str], until: float
) -> tuple[PendingEndpoints, bool]:
    """The client asks for endpoints of rejected clusters: it took those, and has yet to get what is not answered.

    Returns also whether any was not waited for any more.
    """
    open_ = {name for state in states if not state.idle for name in signs & state.subscription.names}
    late = any(name not in awaited for name in open_)
    for name in open_:
        awaited = awaited.set(name, Wait(awaited[name].messages if name in awaited else 0, until))
    return awaited, late


def answered(awaited: PendingEndpoints, state: TypeState, names: Iterable[str]) -> PendingEndpoints:
    """Take in the answer to endpoints. A name that does not exist is in no SotW response."""
    for name in state.subscription.names.union(names).intersection(awaited):
        wait = awaited[name]
        if state.sent_order > wait.messages:
            awaited = awaited.delete(name)
        elif wait.earlier and state.sent_order > wait.earlier.messages:
            awaited = awaited.set(name, wait._replace(earlier=None))
    return awaited


def clusters_reported(
    awaited: PendingEndpoints, clusters: TypeState, others: Iterable[TypeState], until: float
) -> PendingEndpoints:
    """Wait for the endpoints of clusters of an earlier stream, except for those that the client surely has."""
    names = endpoints_of(clusters.everything_held())
    for state in others:
        names -= {name for name in state.subscription.names if state.idle or _had(state, name)}
    for name in names:
        awaited = awaited.set(name, awaited.get(name) or Wait(CAME_BACK, until))
    return awaited


def endpoints_reported(awaited: PendingEndpoints, state: TypeState) -> PendingEndpoints:
    """Take in which endpoints the client has of an earlier stream. Those of a warming cluster it does not claim."""
    had = state.kind.variant is Variant.SOTW
    names = [name for name in _came_back(awaited, state.subscription.names) if had or _had(state, name)]
    return _without(awaited, names)


def _came_back(awaited: PendingEndpoints, names: Collection[str]) -> list[str]:
    return [name for name in names if name in awaited and awaited[name].messages == CAME_BACK]


def _without(awaited: PendingEndpoints, names: Iterable[str]) -> PendingEndpoints:
    for name in names:
        awaited = awaited.delete(name)
    return awaited


def taken(
    clusters: Iterable[TypeState],
    absent: frozenset[str],
    asking: Iterable[TypeState],
    asked_before: frozenset[str],
) -> tuple[set[str], frozenset[str]]:
    """Return which rejected clusters the client took, and the endpoints that tell: it asks for what no other has.

    What it asked for before it got the clusters tells nothing.
    """
    held = [resource for state in clusters for resource in state.everything_held()]
    others = endpoints_of(resource for resource in held if resource.name not in absent)
    doubtful = [resource for resource in held if resource.name in absent]
    subscribed = {name for state in asking for name in state.subscription.names}
    signs = frozenset(subscribed & endpoints_of(doubtful) - others - asked_before)
    sure = signs & endpoints_of_one(doubtful)
    return {resource.name for resource in doubtful if endpoints_of([resource]) & sure}, signs


def _had(state: TypeState, name: str) -> bool:
    """Say whether the client had this assignment before what it was sent last and has not answered."""
    return (state.held_before(name) if state.in_flight else state.held(name)) is not None
