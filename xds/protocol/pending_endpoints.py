"""Pending endpoints: assignments that the clusters of a per-type client need before they are warm, by name.

On per-type streams Envoy ACKs clusters at once, warm or not. Only the answer to a cluster's endpoints shows that the
cluster is warm.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from immutables import Map

from xds.model.resource import Resource
from xds.protocol.policy import Variant
from xds.protocol.responses import endpoints_of, endpoints_of_one, surely_has
from xds.protocol.type_state import TypeState

REJECTED_WAIT_S = 1.0
"""How long the endpoints of rejected clusters stay pending: a client requests at once those of clusters it accepted."""
REPORTED = -1
"""``Wait.messages`` of a cluster that the client reported from an earlier stream."""


class Wait(NamedTuple):
    """One pending assignment."""

    messages: int
    """``Order.messages_sent`` when the cluster was sent. Only the answer to a later message ends the wait."""
    until: float
    """The end of the wait in any case."""
    earlier: "Wait | None" = None
    """The wait of an older version of the cluster that was still warming when the cluster was sent again."""


PendingEndpoints = Map[str, Wait]
"""Assignment name to its wait."""

NO_PENDING_ENDPOINTS: PendingEndpoints = Map()


def next_end(pending: PendingEndpoints) -> float:
    """Return when the first wait ends. ``pending`` must not be empty."""
    return min(wait.until for wait in pending.values())


def unexpired(pending: PendingEndpoints, now: float) -> PendingEndpoints:
    """Return the waits that have not ended by ``now``."""
    return _without(pending, [name for name, wait in pending.items() if now >= wait.until])


def cluster_sent(
    pending: PendingEndpoints,
    clusters: TypeState,
    replaced: Iterable[Resource],
    endpoints: frozenset[str],
    messages: int,
    until: float,
) -> PendingEndpoints:
    """Add the endpoints of clusters that were just sent; remove those that no cluster refers to any more."""
    dropped = endpoints_of(replaced).intersection(pending)
    if dropped:
        pending = _without(pending, dropped - endpoints_of(clusters.everything_held()))
    for name in endpoints:
        earlier = pending.get(name)
        pending = pending.set(name, Wait(messages, until, earlier._replace(earlier=None) if earlier else None))
    return pending


def rejected(pending: PendingEndpoints, endpoints: frozenset[str], now: float) -> PendingEndpoints:
    """Shorten the waits for endpoints whose clusters were rejected to ``REJECTED_WAIT_S``.

    Envoy may have accepted some of the clusters, and requests the endpoints of those soon. If an older, accepted
    version of the cluster is still warming, its wait goes on unchanged.
    """
    for name in endpoints.intersection(pending):
        wait = pending[name]
        if wait.messages != REPORTED:
            less = wait.earlier or wait._replace(until=min(wait.until, now + REJECTED_WAIT_S))
            pending = pending.set(name, less)
    return pending


def requested(
    pending: PendingEndpoints, states: Iterable[TypeState], signs: frozenset[str], until: float
) -> tuple[PendingEndpoints, bool]:
    """Add the unanswered endpoints in ``signs``, whose request shows that the client accepted their clusters.

    Returns also whether the wait for any of them had already ended.
    """
    open_ = {name for state in states if not state.idle for name in signs & state.subscription.names}
    late = any(name not in pending for name in open_)
    for name in open_:
        pending = pending.set(name, Wait(pending[name].messages if name in pending else 0, until))
    return pending, late


def answered(pending: PendingEndpoints, state: TypeState, names: Iterable[str]) -> PendingEndpoints:
    """Remove the endpoints that a response answered. A name that does not exist is in no SotW response."""
    for name in state.subscription.names.union(names).intersection(pending):
        wait = pending[name]
        if state.sent_order > wait.messages:
            pending = pending.delete(name)
        elif wait.earlier and state.sent_order > wait.earlier.messages:
            pending = pending.set(name, wait._replace(earlier=None))
    return pending


def clusters_reported(
    pending: PendingEndpoints, clusters: TypeState, others: Iterable[TypeState], until: float
) -> PendingEndpoints:
    """Add the endpoints of reported clusters, except for those that the client certainly has."""
    names = endpoints_of(clusters.everything_held())
    for state in others:
        names -= {name for name in state.subscription.names if state.idle or _had(state, name)}
    for name in names:
        pending = pending.set(name, pending.get(name) or Wait(REPORTED, until))
    return pending


def endpoints_reported(pending: PendingEndpoints, state: TypeState) -> PendingEndpoints:
    """Remove the endpoints that the client reported. It does not report those of a warming cluster."""
    had = state.kind.variant is Variant.SOTW
    names = [name for name in _reported(pending, state.subscription.names) if had or _had(state, name)]
    return _without(pending, names)


def _reported(pending: PendingEndpoints, names: Collection[str]) -> list[str]:
    return [name for name in names if name in pending and pending[name].messages == REPORTED]


def _without(pending: PendingEndpoints, names: Iterable[str]) -> PendingEndpoints:
    for name in names:
        pending = pending.delete(name)
    return pending


def accepted_clusters(
    clusters: Iterable[TypeState],
    missing_clusters: frozenset[str],
    asking: Iterable[TypeState],
    requested_before: frozenset[str],
    rejected_clusters: Iterable[Map[str, frozenset[str]]],
) -> tuple[set[str], frozenset[str], frozenset[str]]:
    """Return the clusters of a rejected response that the client accepted, and the endpoints that show it.

    Return also the requested endpoints that other clusters use, too: they show nothing.

    A client that requests endpoints which only such a cluster uses has accepted that cluster, unless it requested them
    before it received the cluster. ``rejected_clusters`` has the endpoints that rejected responses had, with the
    clusters that used them then: they may have changed since.
    """
    held = [resource for state in clusters for resource in state.everything_held()]
    others = endpoints_of(resource for resource in held if resource.name not in missing_clusters)
    doubtful = [resource for resource in held if resource.name in missing_clusters]
    subscribed = {name for state in asking for name in state.subscription.names}
    requested = frozenset(subscribed & endpoints_of(doubtful))
    signs = requested - others - requested_before
    left = {resource.name for resource in held}
    shared = {name for used in rejected_clusters for name in signs.intersection(used) if len(used[name] & left) > 1}
    sure = (signs & endpoints_of_one(doubtful)) - shared
    present = {resource.name for resource in doubtful if endpoints_of([resource]) & sure}
    return present, signs, requested & others


def _had(state: TypeState, name: str) -> bool:
    """Say whether the client had this assignment before the response in flight."""
    return surely_has(state.held_before(name) if state.in_flight else state.held(name))
