"""Make-before-break ordering: the order in which changes of one client's types are sent, as two tables.

The order spans one aggregated stream, or all per-type streams of a node on one connection. Its three steps (measured
against Envoy 1.40, docs/envoy-behaviour.md#make-before-break; docs/protocol.md#order):

1. Make: cluster additions and updates are sent at once, without removals, and with the endpoints of each cluster,
   changed or not.
2. Switch: listeners, then routes, follow the snapshot whose clusters the client has ACKed (``acked_snapshot``), not the
   newest. Envoy ACKs clusters once they are warm. On per-type streams a cluster counts as
   warm once its endpoints are ACKed or, after a reconnect, once the client reports a version of them.
3. Break: clusters that no longer exist are removed once no listener or route that the client was sent or may still use
   refers to them, in a response of their own, or with the next clusters.

Only steps 2 and 3 wait. Step 2 waits for at most ``hold_timeout_s``. Step 3 waits for as long as the client does not
answer, since an extra cluster costs nothing. Both waits are reported as overdue.

A ``Draft`` is the mutable copy of a client state that one step changes and turns into the next client state.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from operator import attrgetter
from typing import Any, NamedTuple

from immutables import Map

from xds.model.resource import Resource
from xds.model.snapshot import Snapshot
from xds.model.types import ENDPOINTS, ROUTE, VIRTUAL_HOST
from xds.protocol import pending_endpoints as pending
from xds.protocol.client_state import NO_MARKS, Answered, ClientState, Marks, Order, OverdueResponse
from xds.protocol.diff import EMPTY_SET, HOLD_REMOVALS, NO_HOLD, Hold, Interned, clusters_of
from xds.protocol.draining import merge_draining
from xds.protocol.policy import Ordering, Stage, Variant
from xds.protocol.responses import Encoding, Part, Response, ResponseCache, endpoints_of
from xds.protocol.subscription import NO_NAMES, Subscription
from xds.protocol.type_state import NO_HOST, Kind, TypeState


class _Word(Enum):
    """A member of the tables; its value is its text in docs/ordering.md."""

    __hash__ = object.__hash__  # implemented in C, unlike Enum's own


class Phase(_Word):
    """The progress of a client with its clusters, which decides what else may be sent."""

    UNORDERED = "ordering is switched off"
    RETURNING = "it reconnected with routes or endpoints and has not subscribed to its clusters yet"
    SENDING = "clusters are to be sent, or were sent and are not answered"
    WARMING = "clusters are answered and wait for their endpoints (per-type streams)"
    OVERDUE = "the answer to clusters is overdue"
    READY = "it has all clusters, or subscribes to none"


class Follow(_Word):
    """The snapshot that listeners and routes may follow."""

    NOTHING = "none: they wait"
    ACKED = "the snapshot whose clusters it has"
    SENT = "the snapshot whose clusters were sent last"
    NEWEST = "the newest snapshot"


class Row(NamedTuple):
    """What may be sent in a phase beside clusters and endpoints. ``breaks``: unused clusters may be removed."""

    follow: Follow
    breaks: bool


PHASES: Mapping[Phase, Row] = {
    Phase.UNORDERED: Row(Follow.NEWEST, breaks=True),
    Phase.RETURNING: Row(Follow.NOTHING, breaks=False),
    Phase.SENDING: Row(Follow.ACKED, breaks=False),
    Phase.WARMING: Row(Follow.ACKED, breaks=False),
    Phase.OVERDUE: Row(Follow.SENT, breaks=False),
    Phase.READY: Row(Follow.NEWEST, breaks=True),
}


class OrderEvent(_Word):
    """An event of a type or of the client."""

    SENT = "a response is sent"
    UNCHANGED = "it is updated to a snapshot without a response"
    ACCEPTED = "a response is ACKed"
    REJECTED = "a response is NACKed"
    RESUBSCRIBED = "a subscription changes"
    STREAM_ENDED = "one of several streams ends"
    TIME_OVER = "a timeout passes"


class Action(_Word):
    """A consequence of an event."""

    SEND_ENDPOINTS = "the endpoints of these clusters are sent, changed or not"
    CLUSTERS_PRESENT = "the client now has clusters in it that it rejected before"
    CLUSTERS_MISSING = "new clusters in it may be missing: routes that newly refer to them are held"
    ENDPOINTS_ANSWERED = "clusters that waited for these endpoints become warm"
    CLUSTERS_READY = "if all clusters are answered and warm, listeners and routes follow, and then removals"
    KEEP_REPLACED = "replaced resources that the client still uses are recorded as draining"
    LOOK_FOR_UNUSED = "clusters whose removal is held are checked for unused ones"
    FOLLOW_AGAIN = "listeners and routes are compared with the snapshot that they may follow now"


EVENTS: Mapping[tuple[Stage | None, OrderEvent], tuple[Action, ...]] = {
    (Stage.CLUSTERS, OrderEvent.SENT): (Action.SEND_ENDPOINTS,),
    (Stage.CLUSTERS, OrderEvent.UNCHANGED): (Action.CLUSTERS_READY,),
    (Stage.CLUSTERS, OrderEvent.ACCEPTED): (Action.CLUSTERS_PRESENT, Action.CLUSTERS_READY),
    (Stage.CLUSTERS, OrderEvent.REJECTED): (Action.CLUSTERS_MISSING, Action.CLUSTERS_READY),
    (Stage.UNORDERED, OrderEvent.ACCEPTED): (Action.ENDPOINTS_ANSWERED,),
    (Stage.UNORDERED, OrderEvent.REJECTED): (Action.ENDPOINTS_ANSWERED,),
    (Stage.LISTENERS, OrderEvent.SENT): (Action.KEEP_REPLACED, Action.LOOK_FOR_UNUSED),
    (Stage.LISTENERS, OrderEvent.UNCHANGED): (Action.KEEP_REPLACED, Action.LOOK_FOR_UNUSED),
    (Stage.LISTENERS, OrderEvent.ACCEPTED): (Action.LOOK_FOR_UNUSED,),
    (Stage.LISTENERS, OrderEvent.REJECTED): (Action.LOOK_FOR_UNUSED,),
    (Stage.ROUTES, OrderEvent.SENT): (Action.KEEP_REPLACED, Action.LOOK_FOR_UNUSED),
    (Stage.ROUTES, OrderEvent.UNCHANGED): (Action.KEEP_REPLACED, Action.LOOK_FOR_UNUSED),
    (Stage.ROUTES, OrderEvent.ACCEPTED): (Action.LOOK_FOR_UNUSED,),
    (Stage.ROUTES, OrderEvent.REJECTED): (Action.LOOK_FOR_UNUSED,),
    (None, OrderEvent.RESUBSCRIBED): (Action.LOOK_FOR_UNUSED,),
    (None, OrderEvent.STREAM_ENDED): (Action.LOOK_FOR_UNUSED,),
    (None, OrderEvent.TIME_OVER): (Action.LOOK_FOR_UNUSED, Action.FOLLOW_AGAIN),
}
"""The stage of the type (None for an event of the client) and the event, to the actions in order."""

REJECTED_MAX = 4
"""Maximum rejected responses per client whose clusters are kept in one map each, which all clients share."""


_ORDER_FIELDS = attrgetter(*Order._fields)
"""The fields of an ``Order`` from a draft, which has them by the same names."""


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """The settings, the response cache and the tables of shared values: the same for all clients."""

    ordering: Ordering
    encoding: Encoding
    response_cache: ResponseCache
    interned: Interned


class StepContext(NamedTuple):
    """The inputs of a step beside the client state and the request: snapshot and clocks."""

    newest: Snapshot
    """The group's current snapshot."""
    now: float
    """The last tick of the coarse clock."""
    soon: float
    """The next tick of the coarse clock. Timeouts start at it, so that none is shorter than configured."""
    exact: float
    """The time of the exact clock, which only heartbeats use."""
    marks: Marks = NO_MARKS
    """The types that changed since the client was last updated."""


class Draft:
    """The mutable copy of a client state that one step changes.

    ``per_type``: the client uses per-type streams. The draft records whether the step read the newest snapshot or the
    coarse clock: a step that read neither can be cached without a snapshot and without a tick.
    """

    __slots__ = (
        "acked_snapshot",
        "check_removals",
        "context",
        "hold_removals_until",
        "is_private",
        "is_returning",
        "messages_sent",
        "missing_clusters",
        "overdue",
        "pending_endpoints",
        "per_type",
        "read_clock",
        "read_newest",
        "rejected_clusters",
        "requested_before",
        "rules",
        "sent_snapshot",
        "states",
        "wait_for_clusters_until",
        "warming_endpoints",
    )

    def __init__(self, rules: Rules, client_state: ClientState, context: StepContext, *, per_type: bool) -> None:
        self.rules = rules
        self.per_type = per_type
        self.context = context
        self.read_newest = self.read_clock = False
        self.is_private = False
        """The step depends on something else than the client state, the newest snapshot and the coarse clock."""
        self.states: dict[Kind, TypeState] = {state.kind: state for state in client_state.types}
        for slot, type_url, revision in context.marks:
            state = client_state.of(type_url, slot)
            assert state is not None, "only types that the client subscribes to are marked"
            self.put(self.states[state.kind].mark(revision))
        (
            self.acked_snapshot,
            self.sent_snapshot,
            self.warming_endpoints,
            self.pending_endpoints,
            self.messages_sent,
            self.missing_clusters,
            self.rejected_clusters,
            self.check_removals,
            self.hold_removals_until,
            self.is_returning,
            self.wait_for_clusters_until,
            self.requested_before,
        ) = client_state.order
        self.overdue: list[OverdueResponse] = []
        group = context.newest.group
        if (self.acked_snapshot is not None and self.acked_snapshot.group != group) or (
            self.sent_snapshot is not None and self.sent_snapshot.group != group
        ):
            # The client moved to another group: snapshots of the former group no longer apply.
            self.acked_snapshot = self.sent_snapshot = None
            self.warming_endpoints = EMPTY_SET
            self.read_newest = True

    def order(self, before: Order) -> Order:
        """Return the changed ``Order``. Once all clusters are answered, ``acked_snapshot`` is the newest snapshot."""
        newest = self.context.newest
        if (
            self.read_newest
            and not self.per_type
            and (self.acked_snapshot is not newest or self.sent_snapshot is not None)
        ):
            clusters = self.clusters
            if clusters and all(state.idle for state in clusters):
                self.acked_snapshot, self.sent_snapshot = newest, None
        now = _ORDER_FIELDS(self)
        return before if now == before else Order._make(now)

    @property
    def newest(self) -> Snapshot:
        """The group's current snapshot."""
        self.read_newest = True
        return self.context.newest

    @property
    def now(self) -> float:
        """The time by the coarse clock, with which ends of timeouts are compared."""
        self.read_clock = True
        return self.context.now

    @property
    def soon(self) -> float:
        """The next tick of the coarse clock, at which timeouts start."""
        self.read_clock = True
        return self.context.soon

    def note_reads(self) -> None:
        """Note that the step depends on the newest snapshot and on the clock, whatever it read of them."""
        self.read_newest = self.read_clock = True

    def note_newest(self) -> None:
        """Note that the step depends on the newest snapshot."""
        self.read_newest = True

    def keep_private(self) -> None:
        """Note that the step depends on one client's own data, so that no other client can share it."""
        self.is_private = True

    def wait_for_clusters(self) -> None:
        """Hold listeners and routes until the returning client asks for its clusters, within the hold timeout."""
        if not self.wait_for_clusters_until:
            self.wait_for_clusters_until = self._hold_until()

    def put(self, state: TypeState) -> TypeState:
        """Set the state of a type."""
        self.states[state.kind] = state
        return state

    def of(self, *stages: Stage) -> Iterator[TypeState]:
        """Iterate over the states of these stages, which may be set meanwhile."""
        return iter([state for state in self.states.values() if state.kind.stage in stages])

    @property
    def routing_types(self) -> list[TypeState]:
        """The states of listeners, routes and other types that send requests to clusters."""
        return [state for state in self.states.values() if state.kind.is_routing]

    @property
    def has_endpoints(self) -> bool:
        """Say whether the client requested endpoints."""
        return bool(self._endpoints)

    @property
    def clusters(self) -> list[TypeState]:
        """The states of clusters: one, except for per-type clients with several cluster streams."""
        return [state for state in self.states.values() if state.kind.stage is Stage.CLUSTERS]

    def _hold_until(self) -> float:
        return self.soon + self.rules.ordering.hold_timeout_s

    # --- The tables --------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """The current phase of the client."""
        if not self.rules.ordering.enabled:
            return Phase.UNORDERED
        clusters = self.clusters
        if not clusters:
            return (
                Phase.RETURNING
                if self.wait_for_clusters_until and self.now < self.wait_for_clusters_until
                else Phase.READY
            )
        if self.has_pending_endpoints():
            return Phase.WARMING
        if all(state.idle for state in clusters):
            return Phase.READY
        if any(state.in_flight and not state.remaining and self.timed_out(state) for state in clusters):
            return Phase.OVERDUE
        return Phase.SENDING

    def happened(
        self, event: OrderEvent, state: TypeState | None, part: Part | None = None, response: Response | None = None
    ) -> None:
        """Run the actions of an event of a type, or of the client with ``state`` None."""
        stage = state.kind.stage if state is not None else None
        for action in EVENTS.get((stage, event), ()):
            ACTIONS[action](self, state, part, response)

    def target(self) -> Snapshot | None:
        """Return the snapshot that listeners and routes may follow now, or None while they wait."""
        match PHASES[self.phase].follow:
            case Follow.NOTHING:
                return None
            case Follow.NEWEST:
                self.acked_snapshot = self.newest
            case Follow.SENT:
                if not any(state.dirty for state in self.clusters):
                    self.sent_snapshot = self.newest  # its clusters are those that were sent
                self.acked_snapshot = self.sent_snapshot
        return self.acked_snapshot

    # --- What may go out now -----------------------------------------------------------------------------------------

    def advance(self, slot: int) -> Part | None:
        """Return the next message of a stream, or None if there is nothing to send now."""
        for kind in [kind for kind in self.states if kind.slot == slot]:
            state = self.states[kind]  # the types before it may have changed it
            if not state.dirty and not state.remaining:
                continue
            part = self._send(state)
            if part is not None:
                if kind.type_url == ROUTE and part.new:
                    self._answer_virtual_hosts(part)
                if self.per_type:
                    self.messages_sent += 1
                    self.put(self.states[state.kind]._replace(sent_order=self.messages_sent))
                return part
        part = self._remove_clusters(slot) if self.check_removals else None
        return part or self._heartbeat(slot)

    def _send(self, state: TypeState) -> Part | None:
        stage = state.kind.stage
        if state.in_flight and not (self.timed_out(state) and state.may_send_another):
            return None
        if state.remaining:
            part = self.put(state := state.send_part(self.soon)).outstanding
            state = self._start_heartbeat(state)
            self.happened(OrderEvent.SENT, state, part)
            return part
        if stage is Stage.UNORDERED:
            return self._send_unordered(state)
        if stage is Stage.CLUSTERS:
            return self._send_clusters(state)
        return self._send_routing(state)

    def _respond(self, state: TypeState, target: Snapshot, hold: Hold) -> tuple[TypeState, Response, Part | None]:
        rules, view = self.rules, target.view(state.type_url)
        in_flight = len(state.in_flight)
        state, response = state.respond(
            view,
            hold,
            rules.response_cache,
            rules.encoding,
            self.soon,
            revision=target.revision,
            is_newest=target is self.context.newest,
        )
        state = self.put(state)
        if (view.has_timed and state.kind.expires) or state.heartbeat.at:
            state = self._set_heartbeat(state)
        return state, response, state.outstanding if len(state.in_flight) > in_flight else None

    def _set_heartbeat(self, state: TypeState) -> TypeState:
        """Set when the TTLs of a type are renewed next. A response does not delay the renewal of what it lacks."""
        self.is_private = True
        every_s, due = state.heartbeat_every_s(), state.heartbeat.at or float("inf")
        at = min(due, self.context.exact + every_s) if every_s else 0.0
        return self.put(state._replace(heartbeat=state.heartbeat._replace(at=at)))

    def _start_heartbeat(self, state: TypeState) -> TypeState:
        """Set the next renewal where no response is made, as for what a client returned with."""
        has_timed = state.view is not None and state.view.has_timed and state.kind.expires
        return self._set_heartbeat(state) if has_timed else state

    def _send_unordered(self, state: TypeState) -> Part | None:
        hold = self._hold_endpoints(state)
        if state.type_url == ENDPOINTS and self.sent_snapshot is not None:
            revived = self._gone_meanwhile(self._warming_names(state), self.sent_snapshot)
            if revived:
                # Without these its clusters stay warming, and listeners and routes wait until they are warm.
                hold = replace(hold, revived=revived)
        state, _, part = self._respond(state, self.newest, hold)
        if hold.revived:
            self.put(state._replace(dirty=True))
        return part

    def _warming_names(self, state: TypeState) -> frozenset[str]:
        """Return the endpoints that warming clusters need and that this response is to have."""
        if not self.per_type:
            return state.required_names & self.warming_endpoints
        if not self.has_pending_endpoints():
            return EMPTY_SET
        return frozenset(
            name for name in state.subscription.names.intersection(self.pending_endpoints) if not state.held(name)
        )

    def _gone_meanwhile(self, names: frozenset[str], sent_snapshot: Snapshot) -> tuple[Resource, ...]:
        """Return the endpoints of these names that the clusters were sent with and that no longer exist."""
        if not names:
            return ()
        before, after = sent_snapshot.view(ENDPOINTS), self.newest.view(ENDPOINTS)
        gone = (before.get(name) for name in sorted(names) if before is not after and after.get(name) is None)
        return tuple(resource for resource in gone if resource is not None)

    def _hold_endpoints(self, state: TypeState) -> Hold:
        """Hold the removal of endpoints until their cluster is removed, when Envoy unsubscribes from them by itself."""
        if state.type_url != ENDPOINTS or not self.rules.ordering.enabled:
            return NO_HOLD
        clusters = self.clusters
        if any(each.dirty for each in clusters):
            return HOLD_REMOVALS  # it is not decided yet which clusters stay
        kept = [resource for each in clusters for resource in each.overrides.values() if resource]
        if any(resource.is_version_only for resource in kept):
            return HOLD_REMOVALS  # the endpoints of a reported cluster are unknown
        return Hold(removals=endpoints_of(kept)) if kept else NO_HOLD

    def _heartbeat(self, slot: int) -> Part | None:
        """Renew the TTLs of the client's resources, also while a response is not ACKed: TTLs expire meanwhile."""
        now, rules = self.context.exact, self.rules
        for state in [state for state in self.states.values() if state.kind.slot == slot and state.heartbeat.at]:
            self.is_private = True
            if now < state.heartbeat.at:
                continue
            every_s = state.heartbeat_every_s()
            if every_s:
                renewed, part = state.renew(now + every_s, rules.response_cache, rules.encoding)
                self.put(renewed)
                return part
            self.put(state._replace(heartbeat=state.heartbeat._replace(at=0.0)))
        return None

    def timed_out(self, state: TypeState) -> bool:
        """Say whether the hold timeout passed without an answer. Types without order have no such timeout."""
        if state.kind.stage is Stage.UNORDERED:
            return False
        return self.now >= state.sent_at + self.rules.ordering.hold_timeout_s

    def _send_clusters(self, state: TypeState) -> Part | None:
        if state.in_flight:
            # The answer is overdue: the next clusters are sent, and routes follow those that were sent before.
            self.acked_snapshot = self.sent_snapshot
        before = state.overrides
        state = self._without_gone(state)
        hold = self._hold_clusters(state)
        state, response, part = self._respond(state, self.newest, hold)
        self.sent_snapshot = self.newest
        if not hold.dropped.isdisjoint(response.gone):
            self.acked_snapshot = None  # an older snapshot may refer to removed clusters
        if state.overrides is not before:
            self.check_removals = bool(state.overrides)
            is_held = bool(self.hold_removals_until) and self.now < self.hold_removals_until
            if state.overrides and not state.subscription.open_ended and self.routing_types and not is_held:
                # A client that names its clusters unsubscribes from those that it does not use. Removals that follow
                # meanwhile do not extend the time, else steady changes would hold them for ever.
                self.hold_removals_until = self._hold_until()
        self._recheck_endpoints()
        self.happened(OrderEvent.UNCHANGED if part is None else OrderEvent.SENT, state, part, response)
        return part

    def _without_gone(self, state: TypeState) -> TypeState:
        """Require no rejected clusters that were to be sent once more and that are gone by now."""
        if not state.required_names or state.is_trusted:
            return state
        view, rejected = self.newest.view(state.type_url), state.nacked_names.names
        gone = [name for name in rejected if view.get(name) is None and state.held(name) is not None]
        return self.put(state.without_required(gone))

    def _hold_clusters(self, state: TypeState) -> Hold:
        """Hold the removal of clusters, except for rejected ones that the client sends no requests to.

        On SotW the client would be sent a held cluster with each response: one that it never accepted would make it
        reject every response, so its removal is never held.
        """
        if not self.rules.ordering.enabled:
            return NO_HOLD
        unused = self.missing_clusters
        if state.overrides and self._may_break:
            unused = unused.union(state.overrides)
        if not unused:
            return HOLD_REMOVALS
        used = self._in_use()
        dropped = EMPTY_SET if used is None else unused - used
        return Hold(removals=None, dropped=dropped | state.refused)

    @property
    def _may_break(self) -> bool:
        """Say whether clusters that were held before may be removed with the next clusters.

        Where changes come faster than answers, clusters always have something to send, and their removals would wait
        for ever for the time without. Listeners and routes then wait for the answer, as they may follow no snapshot
        that refers to what is removed.
        """
        if self.hold_removals_until and self.now < self.hold_removals_until:
            return False
        return not any(each.in_flight for each in self.clusters) and not self.has_pending_endpoints()

    def _recheck_endpoints(self) -> None:
        """Mark endpoints dirty whose removal waits for the removal of their clusters."""
        for state in self.of(Stage.UNORDERED):
            if state.overrides and not state.dirty:
                self.put(state._replace(dirty=True))

    def _send_routing(self, state: TypeState) -> Part | None:
        if (target := self.target()) is None:
            return None
        ordered, listeners = self.rules.ordering.enabled, self.of(Stage.LISTENERS)
        if ordered and state.kind.stage is Stage.ROUTES and any(map(self._comes_first, listeners)):
            return None
        hold = self._hold_routing(state) if ordered else NO_HOLD
        late = self._not_there_yet(state, target)
        if late and state.is_full_state:
            return None  # to gRPC's client, a resource that a response lacks does not exist
        if late:
            state = self.put(state._replace(required_names=state.required_names - late))
        state, response, part = self._respond(state, target, hold)
        if late:
            state = self.put(state._replace(required_names=late))
        self.happened(OrderEvent.UNCHANGED if part is None else OrderEvent.SENT, state, part, response)
        return part

    def _comes_first(self, listeners: TypeState) -> bool:
        """Say whether routes wait for a response with listeners, which waits for no answer that is overdue."""
        return listeners.dirty and not (bool(listeners.in_flight) and self.timed_out(listeners))

    def _not_there_yet(self, state: TypeState, target: Snapshot) -> frozenset[str]:
        """Return the required names that exist, and not yet in the snapshot that the type follows: they wait for it."""
        newest = self.context.newest
        if not state.required_names or target is newest:
            return EMPTY_SET
        before, after = target.view(state.type_url), self.newest.view(state.type_url)
        if before is after:
            return EMPTY_SET
        names = state.required_names
        return frozenset(n for n in names if before.known_as(n) is None and after.known_as(n) is not None)

    def _hold_routing(self, state: TypeState) -> Hold:
        """Hold updates that refer to missing clusters, and removals of extensions that are still subscribed."""
        keep_all = state.kind.policy.keep_subscribed and not state.subscription.open_ended
        if not keep_all and not self.missing_clusters:
            return NO_HOLD
        used = (
            frozenset(state.draining) & state.subscription.names
            if self.missing_clusters and state.draining
            else EMPTY_SET
        )
        return Hold(removals=None if keep_all else EMPTY_SET, missing_clusters=self.missing_clusters, used=used)

    def has_pending_endpoints(self) -> bool:
        """Say whether clusters of a per-type client still wait for their endpoints."""
        if self.pending_endpoints:
            self.pending_endpoints = pending.unexpired(self.pending_endpoints, self.now)
        return bool(self.pending_endpoints)

    def _remove_clusters(self, slot: int) -> Part | None:
        """Remove the unused clusters that no longer exist, once clusters, listeners and routes are answered."""
        state = next((s for s in self.clusters if s.kind.slot == slot), None)
        if state is None or not state.idle or (self.hold_removals_until and self.now < self.hold_removals_until):
            return None
        if not state.overrides:
            self.check_removals = any(other.overrides for other in self.clusters)  # on other streams of the client
            return None
        if not PHASES[self.phase].breaks:
            return None
        self.target()
        self.check_removals = False
        state, response, part = self._respond(self._without_gone(state), self.newest, Hold(removals=self._in_use()))
        self.sent_snapshot = self.newest
        self._recheck_endpoints()
        if part is not None:
            self.happened(OrderEvent.SENT, state, part, response)
        return part

    def _in_use(self) -> frozenset[str] | None:
        """Return the clusters that the client may still use, None if it may use any."""
        needed: frozenset[str] = EMPTY_SET
        for state in self.routing_types:
            used = state.clusters_in_use(self.now if state.draining else 0.0)
            if used is None:
                return None
            needed |= used
        return self._with_members(needed)

    def _with_members(self, used: frozenset[str]) -> frozenset[str]:
        """Add the clusters that used clusters refer to whose removal is held, such as members of an aggregate."""
        held = {name: gone for state in self.clusters for name, gone in state.overrides.items() if gone is not None}
        pending = used.intersection(held)
        while pending:
            used |= pending
            members = (clusters_of(held[name]) for name in pending)
            pending = EMPTY_SET.union(*members).intersection(held) - used
        return used

    # --- Answers and requests ----------------------------------------------------------------------------------------

    def take_answer(self, state: TypeState, part: Part, message: str | None, version: str = "") -> Answered:
        """Apply the answer to a response in flight: an ACK (``message`` None) or a NACK with its message."""
        in_time = part is state.outstanding
        needs_time = state.draining or len(state.in_flight) > 1
        drained_at = self.soon + self.rules.ordering.listener_drain_s if needs_time else 0.0
        rejected = state.nacked_names
        state = state.take_answer(part, message, drained_at, version)
        if state.nacked_names is not NO_NAMES:
            state = state._replace(nacked_names=self.rules.interned.name_sets.get(state.nacked_names))
        self.put(state)
        if state.nacked_names is not rejected:
            state = self._start_heartbeat(state)  # of what is no longer rejected
        if in_time and self.is_returning and not self.per_type:
            self.is_returning = False  # Envoy requests all types before it reads the first answer
            self.hold_removals_until = 0.0
        self.happened(OrderEvent.ACCEPTED if message is None else OrderEvent.REJECTED, state, part)
        if message is not None and state.kind.stage is Stage.CLUSTERS and state.kind.variant is Variant.DELTA:
            self._send_unblamed(part, state.kind, message)
        return Answered(state.kind, part, message)

    def take_rejected_renewal(self, state: TypeState, message: str) -> Answered:
        """Apply the NACK of the last TTL renewal."""
        state, part = state.reject_renewal()
        self.put(state)
        return Answered(state.kind, part, message)

    def _send_unblamed(self, part: Part, kind: Kind, message: str) -> None:
        """Send the new clusters of a rejected response once more that the NACK's message does not name.

        The client most likely accepted them. Their ACK confirms it, and routes that wait for them may follow. Clusters
        that a later response in flight contains are left to its answer.
        """
        view, state = self.newest.view(kind.type_url), self.states[kind]
        names = (part.new - part.named_in(message)).difference(*(later.names for later in state.in_flight))
        self.put(state.require([name for name in names if view.get(name) is not None]))

    def endpoints_requested(self) -> None:
        """Mark missing clusters as present if the client requests endpoints that only they use."""
        clusters, asking = self.clusters, self._endpoints
        if in_flight := [part for state in clusters for part in state.in_flight]:
            # The answer will show which clusters the client has. What clusters in flight use shows nothing even then.
            self._note_shared(name for name in self._missing_endpoints(asking) if self._brings_user(in_flight, name))
            return
        if next(self._missing_endpoints(asking), None) is None:
            return
        present, signs, shared = pending.accepted_clusters(
            clusters, self.missing_clusters, asking, self.requested_before, self.rejected_clusters
        )
        self._note_shared(shared)
        self._set_missing(self.missing_clusters - present)
        if self.per_type:
            self.pending_endpoints, late = pending.requested(self.pending_endpoints, asking, signs, self._hold_until())
            if late:
                self.acked_snapshot = None  # the wait for its endpoints had ended too early

    def _missing_endpoints(self, asking: list[TypeState]) -> Iterator[str]:
        """Iterate over the requested endpoints of missing clusters, but for those that were requested before.

        This check runs with every NACK and every request for endpoints while clusters are missing, and avoids a search
        through all clusters, which takes 30 ms with thousands of them.
        """
        for state in asking:
            for clusters in self.rejected_clusters:
                for name in state.subscription.names.intersection(clusters):
                    if clusters[name] & self.missing_clusters and name not in self.requested_before:
                        yield name

    def _brings_user(self, in_flight: Iterable[Part], name: str) -> bool:
        """Say whether a message brings a cluster that is not missing and that uses these endpoints."""
        return any(part.clusters_of_endpoints.get(name, EMPTY_SET) - self.missing_clusters for part in in_flight)

    def _note_shared(self, names: Iterable[str]) -> None:
        """Note endpoints that the client requested for other clusters than missing ones."""
        self.requested_before = self.requested_before.union(names)

    def unsubscribed(self, state: TypeState, before: Subscription) -> None:
        """Forget which endpoints the client requested before and subscribes to no longer: it may request them again."""
        if state.type_url != ENDPOINTS or not self.requested_before:
            return
        gone = self.requested_before.intersection(before.names - state.subscription.names)
        gone = gone.difference(*(other.subscription.names for other in self._endpoints))
        self.requested_before = self.requested_before - gone if gone else self.requested_before

    @property
    def _endpoints(self) -> list[TypeState]:
        return [state for state in self.states.values() if state.type_url == ENDPOINTS]

    def _note_requested(self, part: Part) -> None:
        """Record the endpoints of new clusters that the client requested before it can have received the clusters.

        A cluster that it rejected is new to it once more, and may have other endpoints than it had then.
        """
        unknown = part.new | self.missing_clusters if self.missing_clusters else part.new
        new = [name for name, clusters in part.clusters_of_endpoints.items() if clusters & unknown]
        requested = [name for name in new if any(name in state.subscription.names for state in self._endpoints)]
        if requested:
            self.requested_before = self.requested_before.union(requested)

    def _answer_virtual_hosts(self, part: Part) -> None:
        """Answer for each new route of a message that a virtual host of an impossible name does not exist.

        Envoy requests no virtual host at first, and keeps route and listener waiting for any VHDS answer that names the
        route (docs/envoy-behaviour.md#virtual-hosts-on-demand). An answer that comes before the route has no effect.
        """
        for state in self.of(Stage.ROUTES):
            if state.type_url == VIRTUAL_HOST:
                self.put(state.require([f"{name}{NO_HOST}" for name in part.new]))

    # --- Types and streams -------------------------------------------------------------------------------------------

    def client_returned(self) -> None:
        """Hold cluster removals for a client that reported clusters, until its other types are known."""
        self.is_returning = True
        self.hold_removals_until = self._hold_until()

    def add_type(self, state: TypeState, *, reported: bool) -> None:
        """Add a type. ``reported``: the client reported versions; on per-type streams its clusters may be warming."""
        self._add(state)
        if state.type_url == VIRTUAL_HOST:
            routes = [each for each in self.of(Stage.ROUTES) if each.type_url == ROUTE]
            self.put(state.require([f"{name}{NO_HOST}" for each in routes for name in each.subscription.names]))
        self._start_heartbeat(self.states[state.kind])
        if state.type_url == ENDPOINTS and (reported if self.per_type else self.is_returning):
            self.requested_before = self.requested_before | state.subscription.names
        if not reported or not self.per_type:
            return
        if state.kind.stage is Stage.CLUSTERS:
            others = [other for other in self.of(Stage.UNORDERED) if other.type_url == ENDPOINTS]
            self.pending_endpoints = pending.clusters_reported(
                self.pending_endpoints, state, others, self._hold_until()
            )
        elif state.type_url == ENDPOINTS and self.pending_endpoints:
            self.pending_endpoints = pending.endpoints_reported(self.pending_endpoints, state)
            if not self.pending_endpoints:
                self._clusters_ready()

    def _add(self, state: TypeState) -> None:
        """Add a type at its place in the order of stages."""
        stage = state.kind.stage
        in_order = all(other.kind.stage <= stage for other in self.states.values())
        self.states[state.kind] = state
        if not in_order:
            self.states = dict(sorted(self.states.items(), key=lambda item: item[0].stage))

    def remove_stream(self, slot: int) -> None:
        """Remove the types of a stream that ended while other streams of the session go on."""
        for state in [state for state in self.states.values() if state.kind.slot == slot]:
            del self.states[state.kind]
            if state.kind.stage is Stage.CLUSTERS:
                self.wait_for_clusters_until = (
                    self._hold_until()
                )  # routes of the other streams wait until clusters are subscribed again
        self.happened(OrderEvent.STREAM_ENDED, None)

    def expire(self) -> None:
        """Apply and clear all timeouts that have passed."""
        now, rules = self.now, self.rules
        late = [s for s in self.states.values() if s.in_flight and not s.overdue and self.timed_out(s)]
        if self.pending_endpoints and not self.has_pending_endpoints():
            late += [state for state in self.of(Stage.UNORDERED) if state.in_flight]
        for state in late:
            self.put(state._replace(overdue=True))
            self.overdue.append(OverdueResponse(state.kind, state.nonce, now - state.sent_at))
        for state in self.routing_types:
            if now >= state.drain_at:
                state = self.put(state.forget_drained(now))
                if state.overrides and self.missing_clusters:
                    self.put(state._replace(dirty=True))  # an update may have been held for what drained
        if self.wait_for_clusters_until and now >= self.wait_for_clusters_until and rules.ordering.enabled:
            self.wait_for_clusters_until = 0.0
        if now >= self.hold_removals_until:
            self.hold_removals_until = 0.0
        self.target()
        self.happened(OrderEvent.TIME_OVER, None)

    # --- The actions -------------------------------------------------------------------------------------------------

    def _send_endpoints(self, clusters: TypeState, part: Part, response: Response | None) -> None:
        """Send the endpoints of clusters that were just sent, changed or not: Envoy needs them to warm the clusters.

        The endpoints of a later part follow that part, for which ``response`` is None.
        """
        whole = response is not None and len(response.parts) == 1
        endpoints = response.endpoints if response is not None and whole else frozenset(part.clusters_of_endpoints)
        replaced = response.replaced if response is not None and whole else part.replaced
        self._note_requested(part)
        # SotW sends rejected clusters again, and the client may accept them now.
        resent = (
            [resource for resource in part.upserts if resource.name in self.missing_clusters]
            if self.missing_clusters
            else ()
        )
        endpoints = endpoints | endpoints_of(resent) if resent else endpoints
        if self.per_type:
            # Routes may refer to clusters whose wait had ended.
            self.acked_snapshot = None if resent else self.acked_snapshot
            # Envoy opens an endpoints stream for each cluster, and requests the endpoints on it.
            until = clusters.sent_at + self.rules.ordering.hold_timeout_s
            self.pending_endpoints = pending.cluster_sent(
                self.pending_endpoints, clusters, replaced, endpoints, self.messages_sent, until
            )
            return
        self.warming_endpoints = self.warming_endpoints | endpoints if self.warming_endpoints else endpoints
        for state in self.of(Stage.UNORDERED):
            if state.type_url == ENDPOINTS:
                self.put(state.require([name for name in endpoints if state.subscription.wants(name)]))

    def _clusters_missing(self, state: TypeState, part: Part) -> None:
        if state.overrides and not state.refused.isdisjoint(state.overrides):
            self.put(state._replace(dirty=True))  # remove the held cluster that the client rejects
        if self.pending_endpoints:
            self.pending_endpoints = pending.rejected(
                self.pending_endpoints, frozenset(part.clusters_of_endpoints), self.soon
            )
        self.rejected_clusters = (*self.rejected_clusters, part.clusters_of_endpoints)
        if len(self.rejected_clusters) > REJECTED_MAX:
            self.rejected_clusters = (_united(self.rejected_clusters),)
        self._note_missing(self.missing_clusters | part.new if self.missing_clusters else part.new)

    def _clusters_present(self, part: Part) -> None:
        if self.missing_clusters:
            self._note_missing(self.missing_clusters - {resource.name for resource in part.upserts})

    def _note_missing(self, missing_clusters: frozenset[str]) -> None:
        self._set_missing(missing_clusters)
        if missing_clusters:
            self.endpoints_requested()

    def _set_missing(self, missing_clusters: frozenset[str]) -> None:
        if not missing_clusters:
            self.rejected_clusters, self.requested_before = (), EMPTY_SET
        if missing_clusters != self.missing_clusters:
            self.missing_clusters = missing_clusters
            for state in self.routing_types:
                if state.overrides and not state.dirty:
                    self.put(state._replace(dirty=True))

    def _endpoints_answered(self, state: TypeState, part: Part) -> None:
        if state.type_url == ENDPOINTS and self.pending_endpoints:
            self.pending_endpoints = pending.answered(self.pending_endpoints, state, part.names)
            if not self.pending_endpoints:
                self._clusters_ready()

    def _clusters_ready(self) -> None:
        """If all clusters are answered and warm, let listeners and routes follow, then removals."""
        clusters = self.clusters
        if any(state.in_flight or state.remaining for state in clusters):
            return
        self.warming_endpoints = EMPTY_SET
        if not self.missing_clusters:
            self.requested_before = EMPTY_SET
        if self.has_pending_endpoints():
            return
        # Clusters that are not dirty are the same in the newest snapshot.
        self.acked_snapshot = self.sent_snapshot if any(state.dirty for state in clusters) else self.newest
        self.check_removals = self.check_removals or any(state.overrides for state in clusters)
        self._follow_again()

    def _keep_replaced(self, state: TypeState, response: Response | None) -> None:
        if response is not None and response.still_used:
            self.put(state._replace(draining=merge_draining(state.draining, response.still_used)))

    def _look_for_unused(self) -> None:
        self.check_removals = self.check_removals or any(state.overrides for state in self.clusters)

    def _follow_again(self) -> None:
        if self.acked_snapshot is None:
            return
        for state in self.routing_types:
            # What is owed may be nothing new: then the view is the same, and the client is up to date with it.
            is_behind = state.view is not self.acked_snapshot.view(state.type_url) or bool(state.owed_unsent)
            if is_behind and not state.dirty:
                self.put(state._replace(dirty=True))


ACTIONS: dict[Action, Callable[[Draft, Any, Any, Any], None]] = {
    Action.SEND_ENDPOINTS: Draft._send_endpoints,
    Action.CLUSTERS_PRESENT: lambda draft, state, part, response: draft._clusters_present(part),
    Action.CLUSTERS_MISSING: lambda draft, state, part, response: draft._clusters_missing(state, part),
    Action.ENDPOINTS_ANSWERED: lambda draft, state, part, response: draft._endpoints_answered(state, part),
    Action.CLUSTERS_READY: lambda draft, state, part, response: draft._clusters_ready(),
    Action.KEEP_REPLACED: lambda draft, state, part, response: draft._keep_replaced(state, response),
    Action.LOOK_FOR_UNUSED: lambda draft, state, part, response: draft._look_for_unused(),
    Action.FOLLOW_AGAIN: lambda draft, state, part, response: draft._follow_again(),
}


def _united(mappings: Iterable[Map[str, frozenset[str]]]) -> Map[str, frozenset[str]]:
    united: dict[str, frozenset[str]] = {}
    for mapping in mappings:
        for name, clusters in mapping.items():
            united[name] = united.get(name, EMPTY_SET) | clusters
    return Map(united)
