"""One client in full: each resource with the version sent, accepted and wanted, and what a change of it waits for.

It looks at a client's present state and changes nothing. O(names of the client); nothing is kept for it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from xds.model.resource import Resource
from xds.model.types import ENDPOINTS
from xds.model.view import View
from xds.model.xdstp import XDSTP
from xds.protocol.diff import clusters_of, wants
from xds.protocol.draining import unexpired_draining
from xds.protocol.order import PHASES, Draft, Phase
from xds.protocol.policy import Stage
from xds.protocol.responses import Part, endpoints_of
from xds.protocol.sessions import Session
from xds.protocol.status import NodeSummary, Progress
from xds.protocol.type_state import TypeState

RESOURCES_MAX = 10_000
"""Resources of one client in one answer."""
BODIES_MAX = 100
BODIES_BYTES_MAX = 4 * 1024 * 1024
"""Bodies of resources that a client has and should not have, in one answer."""
NAMES_SHOWN_MAX = 5


class How(Enum):
    """How a client subscribes to a resource."""

    NAME = "by name"
    ALIAS = "by an alias"
    WILDCARD = "by the wildcard"
    COLLECTION = "by a collection"
    NOT = "not"
    """It subscribes to other resources of the type."""
    NO_TYPE = "not to the type"


class Wait(Enum):
    """What a change of a resource waits for."""

    SENDING = "it is due, and is sent as soon as the connection takes it"
    ANSWER = "the client has not answered the response with it"
    EARLIER_ANSWER = "the client has not answered an earlier response of the type"
    EARLIER_PARTS = "earlier parts of a response that is sent in several"
    CLUSTERS_ANSWER = "the client has not accepted the clusters that were sent before"
    CLUSTERS_REQUEST = "the client has returned and has not asked for its clusters yet"
    CLUSTERS_WARM = "clusters wait for their endpoints"
    LISTENERS = "listeners are sent before routes"
    MISSING_CLUSTERS = "it refers to clusters that the client rejected"
    REJECTED = "the client rejected this version, and no other has been published since"
    STILL_USED = "listeners or routes that the client has still use the cluster"
    DRAINING = "older listeners or routes that drain still use the cluster"
    ROUTES_ANSWER = "the client has not answered its listeners and routes"
    RETURNING = "the client has returned, and what it uses is not known yet"
    CLUSTER_REMOVAL = "its cluster is removed first"
    UNSUBSCRIBE = "the client has to unsubscribe from it first"


class Waiting(NamedTuple):
    """Why a change waits; ``names``: for which resources or types; ``left_s``: at most how long, if it ends."""

    why: Wait
    names: tuple[str, ...] = ()
    left_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One resource at one client. Versions are "" for none; ``accepted`` is None if it is not known."""

    type_url: str
    name: str
    how: How
    sent: str
    accepted: str | None
    wanted: str
    progress: Progress
    waits: tuple[Waiting, ...] = ()
    waited_s: float | None = None
    """How long the response with it has been unanswered."""
    wanted_at: int = 0
    """The revision that last changed it, 0 if that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NackSeen:
    """A NACK of a node. ``names`` are some of the names in the rejected response, ``count`` is their number."""

    at_ms: int
    type_url: str
    names: tuple[str, ...]
    count: int
    message: str
    nonce: str = ""
    group: str = ""
    """The group that it belonged to, "" if that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A resource that a client has in another version than it should: None for none."""

    type_url: str
    name: str
    has: Resource | None
    wanted: Resource | None
    has_version: str | None = ""
    """The version that it has, also where the resource is not at hand; None if it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectQuery:
    """What is asked of the clients with an id: all resources, those of a type, or one of them by ``name``."""

    id: str
    type_url: str = ""
    name: str = ""
    differs: bool = False
    """Only the resources that a client has in another version than it should, with both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedClient:
    """One client with an id."""

    summary: NodeSummary
    gets_secrets: bool
    standings: tuple[Standing, ...] = ()
    differences: tuple[Held, ...] = ()
    cut: int = 0
    """How many more resources there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The clients with an id, and what the node rejected last, newest first."""

    clients: tuple[InspectedClient, ...] = ()
    nacks: tuple[NackSeen, ...] = ()
    missing_workers: tuple[str, ...] = ()
    missing_replicas: tuple[str, ...] = ()

    @classmethod
    def joined(cls, several: "Iterable[Inspection]") -> "Inspection":
        """Return what several processes have of a node."""
        found = list(several)
        nacks = sorted((nack for each in found for nack in each.nacks), key=lambda nack: nack.at_ms, reverse=True)
        return cls(
            clients=tuple(client for each in found for client in each.clients),
            nacks=tuple(nacks[:NACKS_MAX]),
            missing_workers=tuple(sorted({name for each in found for name in each.missing_workers})),
            missing_replicas=tuple(sorted({name for each in found for name in each.missing_replicas})),
        )


NACKS_MAX = 10
"""NACKs that are kept of one node, the last ones."""
NACK_SHOWN_MAX = 20
"""Names of a rejected response in an answer."""
NACK_NAMES_MAX = 100
"""Names of a rejected response that are kept."""


class Inspector:
    """Looks at one client. ``draft`` is a throw-away draft of its next state; ``nacks`` are its NACKs, newest first."""

    def __init__(self, session: Session, draft: Draft, nacks: Iterable["NackRecord"]) -> None:
        self._session = session
        self._draft = draft
        self._nacks = tuple(nacks)
        self._phase = draft.phase
        self._target = draft.target()
        self._now = draft.now

    def standing(self, type_url: str, name: str) -> Standing:
        """Return how a client stands to one resource, which need not exist."""
        states = [state for state in self._draft.states.values() if state.type_url == type_url]
        new = self._draft.newest.view(type_url).known_as(name)
        for state in states:
            if new is not None and wants(state.subscription, self._draft.newest.view(type_url), new):
                return self._standing(state, new.name)
            if state.subscription.wants(name) or _held(state, name) is not None:
                return self._standing(state, name)
        wanted = "" if new is None else new.version
        how = How.NOT if states else How.NO_TYPE
        at = self._draft.newest.view(type_url).changed_at(name)
        progress = Progress.MISSING
        return Standing(
            type_url=type_url, name=name, how=how, sent="", accepted="", wanted=wanted, progress=progress, wanted_at=at
        )

    def standings(self, type_url: str = "") -> Iterator[Standing]:
        """Yield how a client stands to each resource that it has, wants or subscribes to, by type and name."""
        for state in self._draft.states.values():
            if type_url in ("", state.type_url):
                for name in sorted(self._names(state)):
                    yield self._standing(state, name)

    def differences(self, type_url: str = "") -> Iterator[Held]:
        """Yield the resources that a client has in another version than it should, by type and name."""
        for state in self._draft.states.values():
            if type_url not in ("", state.type_url):
                continue
            for name in sorted(self._names(state)):
                new = self._wanted(state, name)
                version, has = accepted_version(state, name, self._nacks)
                if version != ("" if new is None else new.version):
                    yield Held(type_url=state.type_url, name=name, has=has, wanted=new, has_version=version)

    def _names(self, state: TypeState) -> set[str]:
        names = {*state.overrides, *state.subscription.names} - {
            each for each in state.subscription.names if "*" in each
        }
        for view in (state.view, self._draft.newest.view(state.type_url)):
            if view is not None:
                names.update(_wanted_names(state, view))
        return names

    def _wanted(self, state: TypeState, name: str) -> Resource | None:
        view = self._draft.newest.view(state.type_url)
        new = view.get(name)
        return new if new is not None and wants(state.subscription, view, new) else None

    def _standing(self, state: TypeState, name: str) -> Standing:
        new, sent = self._wanted(state, name), _held(state, name)
        accepted, _ = accepted_version(state, name, self._nacks)
        waits = tuple(self._waits(state, name, sent, new))
        outstanding = state.outstanding
        is_in_flight = any(name in part.versions or name in part.gone for part in state.in_flight)
        return Standing(
            type_url=state.type_url,
            name=name,
            how=_how(state, name),
            sent="" if sent is None else sent.version,
            accepted=accepted,
            wanted="" if new is None else new.version,
            progress=self._progress(state, name, sent, new, waits),
            waits=waits,
            waited_s=max(0.0, self._now - state.sent_at) if outstanding is not None and is_in_flight else None,
            wanted_at=self._draft.newest.view(state.type_url).changed_at(name),
        )

    def _progress(
        self, state: TypeState, name: str, sent: Resource | None, new: Resource | None, waits: tuple[Waiting, ...]
    ) -> Progress:
        if any(each.why in (Wait.ANSWER, Wait.EARLIER_PARTS) for each in waits):
            return Progress.SENT
        if name in state.nacked_names:
            return Progress.NACKED
        if waits:
            return Progress.HELD
        return Progress.MISSING if sent is None and new is None else Progress.ACKED

    # --- What a change waits for -------------------------------------------------------------------------------------

    def _waits(self, state: TypeState, name: str, sent: Resource | None, new: Resource | None) -> Iterator[Waiting]:
        """Yield what the change of a resource to the wanted version waits for."""
        if any(name in part.versions for part in state.remaining):
            yield Waiting(Wait.EARLIER_PARTS)
            return
        is_in_flight = any(name in part.versions or name in part.gone for part in state.in_flight)
        if is_in_flight:
            yield Waiting(Wait.ANSWER, left_s=self._left(state))
        if (sent and sent.version) == (new and new.version):
            if name in state.nacked_names and not is_in_flight:
                yield Waiting(Wait.REJECTED)
            return
        if state.in_flight and not (self._draft.timed_out(state) and state.may_send_another):
            yield Waiting(Wait.EARLIER_ANSWER, left_s=self._left(state))
        before = self._draft.rules.ordering.enabled and (
            tuple(self._held_routing(state, name, sent, new))
            if state.kind.is_routing
            else tuple(self._held_removal(state, name, sent))
            if new is None
            else ()
        )
        yield from before or ()
        if not before and not state.in_flight:
            yield Waiting(Wait.SENDING)

    def _left(self, state: TypeState) -> float | None:
        if state.kind.stage is Stage.UNORDERED:
            return None
        return max(0.0, state.sent_at + self._draft.rules.ordering.hold_timeout_s - self._now)

    def _held_routing(
        self, state: TypeState, name: str, sent: Resource | None, new: Resource | None
    ) -> Iterator[Waiting]:
        view = None if self._target is None else self._target.view(state.type_url)
        held = None if view is None else view.get(name)
        if view is None or (held and held.version) != (new and new.version):
            yield self._phase_waits()
        elif new is None and state.kind.policy.keep_subscribed and name in state.subscription.names:
            yield Waiting(Wait.UNSUBSCRIBE)
        if state.kind.stage is Stage.ROUTES and any(
            each.dirty and not self._draft.timed_out(each) for each in self._draft.of(Stage.LISTENERS)
        ):
            yield Waiting(Wait.LISTENERS)
        missing = self._draft.missing_clusters
        if new is not None and missing and (sent is not None or name in state.draining):
            lacking = (clusters_of(new) & missing) - (clusters_of(sent) if sent is not None else frozenset())
            if lacking:
                yield Waiting(Wait.MISSING_CLUSTERS, tuple(sorted(lacking)[:NAMES_SHOWN_MAX]))

    def _phase_waits(self) -> Waiting:
        """Return what listeners and routes wait for that may not follow the newest snapshot."""
        draft, now = self._draft, self._now
        match self._phase:
            case Phase.RETURNING:
                return Waiting(Wait.CLUSTERS_REQUEST, left_s=max(0.0, draft.wait_for_clusters_until - now))
            case Phase.WARMING:
                names = tuple(sorted(draft.pending_endpoints)[:NAMES_SHOWN_MAX])
                until = max((wait.until for wait in draft.pending_endpoints.values()), default=now)
                return Waiting(Wait.CLUSTERS_WARM, names, max(0.0, until - now))
            case _:
                flying = [state for state in draft.clusters if state.in_flight]
                names = tuple(sorted({name for state in flying for part in state.in_flight for name in part.versions}))
                left = max((left for state in flying if (left := self._left(state)) is not None), default=None)
                return Waiting(Wait.CLUSTERS_ANSWER, names[:NAMES_SHOWN_MAX], left)

    def _held_removal(self, state: TypeState, name: str, sent: Resource | None) -> Iterator[Waiting]:
        if state.type_url == ENDPOINTS:
            users = [each.name for each in self._kept_clusters() if name in endpoints_of([each])]
            if users:
                yield Waiting(Wait.CLUSTER_REMOVAL, tuple(sorted(users)[:NAMES_SHOWN_MAX]))
        if state.kind.stage is not Stage.CLUSTERS or sent is None:
            return
        draft = self._draft
        if not PHASES[self._phase].breaks:
            yield self._phase_waits()
        if draft.hold_removals_until > self._now:
            yield Waiting(Wait.RETURNING, left_s=draft.hold_removals_until - self._now)
        busy = tuple(sorted({each.type_url for each in draft.routing_types if not each.idle}))
        if busy:
            yield Waiting(Wait.ROUTES_ANSWER, busy)
        using = sorted(self._users(name))
        if using:
            yield Waiting(Wait.STILL_USED, tuple(using[:NAMES_SHOWN_MAX]))
        draining = {
            f"{each.type_url} {older}": max(end for _, end in versions)
            for each in draft.routing_types
            for older, versions in unexpired_draining(each.draining, self._now).items()
            if any(uses is None or name in uses for uses, _ in versions)
        }
        if draining:
            until = max(draining.values())
            left = None if until == float("inf") else until - self._now
            yield Waiting(Wait.DRAINING, tuple(sorted(draining)[:NAMES_SHOWN_MAX]), left)

    def _users(self, cluster: str) -> Iterator[str]:
        """Yield the resources that the client has and that refer to a cluster, as ``type name``."""
        for state in (*self._draft.routing_types, *self._draft.clusters):
            for resource in state.everything_held():
                if resource.name != cluster and cluster in clusters_of(resource):
                    yield f"{state.type_url} {resource.name}"

    def _kept_clusters(self) -> list[Resource]:
        return [each for state in self._draft.clusters for each in state.overrides.values() if each is not None]


def accepted_version(state: TypeState, name: str, nacks: Iterable["NackRecord"]) -> tuple[str | None, Resource | None]:
    """Return the version of a resource that a client accepted last, and the resource if it is at hand.

    "" for none, None if it is not known. ``nacks`` are those of its node, newest first.
    """
    if name in state.nacked_names or name in state.nacked_removals:
        if name in state.last_accepted:
            return _version_of(state.last_accepted[name])
        return accepted_before(nacks, state.type_url, name), None
    for part in (*state.in_flight, *state.remaining):  # what it had before the oldest of them
        if name in part.had_before:
            return _version_of(part.had_before[name])
    return _version_of(_held(state, name))


def _wanted_names(state: TypeState, view: View) -> Iterable[str]:
    subscription = state.subscription
    if subscription.open_ended:
        return [name for name in view if subscription.wants(name)]
    found = (view.known_as(name) for name in subscription.names)
    return [resource.name for resource in found if resource is not None]


def _held(state: TypeState, name: str) -> Resource | None:
    """Return what the client was sent of a name; None if it is not subscribed."""
    view = state.view
    if name in state.overrides:
        return state.overrides[name]
    found = None if view is None else view.get(name)
    return found if found is not None and view is not None and wants(state.subscription, view, found) else None


def _how(state: TypeState, name: str) -> How:
    subscription = state.subscription
    if name in subscription.names:
        return How.NAME
    if subscription.wants(name):
        return How.COLLECTION if name.startswith(XDSTP) else How.WILDCARD
    held = _held(state, name)
    return How.ALIAS if held is not None and not subscription.names.isdisjoint(held.aliases) else How.NOT


def _version_of(resource: Resource | None) -> tuple[str, Resource | None]:
    if resource is None:
        return "", None
    return resource.version, None if resource.is_version_only else resource


# --- NACKs of nodes ---------------------------------------------------------------------------------------------------


class NackedNames(NamedTuple):
    """The names in a rejected response, kept once for all clients that reject it."""

    names: tuple[str, ...]
    total: int
    """How many there are."""
    versions: Mapping[str, str]
    """By name, the version that was sent, "" for a removal."""
    before: Mapping[str, str]
    """By name, the version that the client had been sent before, "" for none."""


class NackRecord(NamedTuple):
    """One NACK. ``at`` is in seconds of the hub's clock."""

    at: float
    group: str
    type_url: str
    response: NackedNames
    message: str
    nonce: str
    size: int
    """Its approximate bytes."""
    settled: frozenset[str] = frozenset()
    """Names in the response of which the client has accepted a version since."""


def names_in(part: Part) -> NackedNames:
    """Return the names of a rejected response."""
    names = sorted(part.names)
    kept = names[:NACK_NAMES_MAX]
    had = part.had_before
    before = {name: (older.version if (older := had.get(name)) is not None else "") for name in kept}
    return NackedNames(tuple(kept), len(names), {name: part.versions[name] for name in kept}, before)


def accepted_before(nacks: Iterable[NackRecord], type_url: str, name: str) -> str | None:
    """Return the version of a rejected resource that the client had accepted; None if it is not known.

    ``nacks`` are the node's, newest first. What the client had been sent before may have been rejected as well.
    """
    version: str | None = None
    for record in nacks:
        response = record.response
        if record.type_url != type_url or name not in response.before:
            continue
        if name in record.settled:
            break
        if version is not None and response.versions[name] != version:
            break
        version = response.before[name]
    return version
