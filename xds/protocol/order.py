"""The order in which one client's types change: make before break, as two tables and what they mean.

The order spans one aggregated stream, or all per-type streams of a node on one connection. The rule (measured against
Envoy 1.40; the xDS page calls it "eventual consistency considerations"):

1. MAKE: cluster additions and updates go at once, without removals, each with its endpoints, changed or not.
2. SWITCH: listeners, then routes, follow the snapshot whose clusters the client has ACKed (``made``), not the newest.
   Envoy ACKs clusters once they are warm; on per-type streams the endpoints' ACKs tell that, or after a reconnect
   that it claims to have them.
3. BREAK: once nothing of that is under way, the clusters that are gone, save those that a route or listener which the
   client may still be using refers to.

Only 2 and 3 ever wait. 2 waits until ``hold_timeout_s`` has passed; 3 goes on waiting for a client that does not
answer, since a cluster too many costs nothing. Either is reported as overdue.

A draft is what one step works on: it starts as a standing, and becomes the next. It reads no clock: ``now`` is given.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple

from immutables import Map

from xds.model.resource import Resource
from xds.model.snapshot import Snapshot
from xds.model.types import ENDPOINTS, ROUTE, VIRTUAL_HOST
from xds.protocol import pending_endpoints as pending
from xds.protocol.client_state import NO_MARKS, Answered, ClientState, Marks, Order, OverdueResponse
from xds.protocol.diff import HOLD_REMOVALS, NO_HOLD, NOBODY, Hold, Interned
from xds.protocol.draining import united
from xds.protocol.policy import Ordering, Stage, Variant
from xds.protocol.responses import Encoding, Part, Response, ResponseCache, endpoints_of
from xds.protocol.subscription import NO_NAMES
from xds.protocol.type_state import Kind, TypeState


class _Word(Enum):
    """A word of the tables; its value is what docs/ordering.md says for it."""

    __hash__ = object.__hash__  # in C, where Enum's own is not


class Phase(_Word):
    """How far a client is with its clusters, which all else follows."""

    UNORDERED = "the order is switched off"
    RETURNING = "it came back with routes or endpoints, and is yet to ask for its clusters"
    MAKING = "clusters are to be sent, or are sent and not answered"
    WARMING = "clusters are answered, and wait for their endpoints (per-type streams)"
    OVERDUE = "the answer to clusters is overdue"
    MADE = "it has all clusters, or subscribes to none"


class Follow(_Word):
    """What listeners and routes may follow."""

    NOTHING = "nothing: they wait"
    MADE = "the snapshot whose clusters it has"
    MAKING = "the snapshot whose clusters were sent last"
    NEWEST = "the newest snapshot"


class Row(NamedTuple):
    """What may go out in a phase; clusters and endpoints always may. ``breaks``: unused clusters may be removed."""

    follow: Follow
    breaks: bool


PHASES: Mapping[Phase, Row] = {
    Phase.UNORDERED: Row(Follow.NEWEST, breaks=True),
    Phase.RETURNING: Row(Follow.NOTHING, breaks=False),
    Phase.MAKING: Row(Follow.MADE, breaks=False),
    Phase.WARMING: Row(Follow.MADE, breaks=False),
    Phase.OVERDUE: Row(Follow.MAKING, breaks=False),
    Phase.MADE: Row(Follow.NEWEST, breaks=True),
}


class OrderEvent(_Word):
    """What happens to a type, or to the client."""

    SENT = "a response is sent"
    UNCHANGED = "it is brought to a snapshot without a response"
    ACCEPTED = "a response is ACKed"
    REJECTED = "a response is NACKed"
    RESUBSCRIBED = "a subscription changes"
    STREAM_ENDED = "one of several streams ends"
    TIME_OVER = "a time is over"


class Action(_Word):
    """What follows from an event."""

    SEND_ENDPOINTS = "the endpoints of these clusters are sent, changed or not"
    CLUSTERS_PRESENT = "clusters in it that were rejected before are there"
    CLUSTERS_ABSENT = "clusters that are new in it may be missing: routes that newly name them are held back"
    ENDPOINTS_HAD = "clusters that waited for these endpoints are warm"
    CLUSTERS_HAD = "if all clusters are answered and warm, listeners and routes follow, and then removals"
    KEEP_REPLACED = "what the client goes on using of what is replaced is noted"
    LOOK_FOR_UNUSED = "clusters that were kept are looked through for unused ones"
    FOLLOW_AGAIN = "listeners and routes are compared with what they may follow now"


EVENTS: Mapping[tuple[Stage | None, OrderEvent], tuple[Action, ...]] = {
    (Stage.MAKE, OrderEvent.SENT): (Action.SEND_ENDPOINTS,),
    (Stage.MAKE, OrderEvent.UNCHANGED): (Action.CLUSTERS_HAD,),
    (Stage.MAKE, OrderEvent.ACCEPTED): (Action.CLUSTERS_PRESENT, Action.CLUSTERS_HAD),
    (Stage.MAKE, OrderEvent.REJECTED): (Action.CLUSTERS_ABSENT, Action.CLUSTERS_HAD),
    (Stage.FREE, OrderEvent.ACCEPTED): (Action.ENDPOINTS_HAD,),
    (Stage.FREE, OrderEvent.REJECTED): (Action.ENDPOINTS_HAD,),
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
"""By the stage of the type, None where it is the client that something happens to: what follows, in this order."""

REJECTED_MAX = 4
"""Rejected responses whose clusters are kept apart, and so shared by all who rejected them."""


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """What steps go by, the same for all clients: settings, responses made before, and tables of equal values."""

    ordering: Ordering
    encoding: Encoding
    response_cache: ResponseCache
    interned: Interned


class StepContext(NamedTuple):
    """When a step is taken: the group's snapshot then, the time by the coarse clock and by the fine one.

    ``marks`` are the types that changed since the client was last brought up to date.
    ``now`` is the coarse clock's last tick, ``soon`` its next, at which waits begin: so that none is too short.
    """

    newest: Snapshot
    now: float
    soon: float
    exact: float
    marks: Marks = NO_MARKS


class Draft:
    """A standing in the making. ``per_type``: none of the client's streams is an aggregated one.

    What is read of the newest snapshot and the coarse clock is noted: a step that read neither is the same for everyone
    at any time. Only heartbeats look at the fine clock.
    """

    __slots__ = (
        "absent",
        "asked_before",
        "awaited",
        "break_after",
        "break_due",
        "coming_back",
        "context",
        "greeted",
        "is_private",
        "made",
        "making",
        "overdue",
        "per_type",
        "read_clock",
        "read_newest",
        "rejected",
        "rules",
        "sent",
        "states",
        "stuck_until",
        "warming",
    )

    def __init__(self, rules: Rules, client_state: ClientState, context: StepContext, *, per_type: bool) -> None:
        self.rules = rules
        self.per_type = per_type
        self.context = context
        self.read_newest = self.read_clock = False
        self.is_private = False
        """The step depends on something else than the standing and what is noted as read."""
        self.states: dict[Kind, TypeState] = {state.kind: state for state in client_state.types}
        for slot, type_url in context.marks:
            state = client_state.of(type_url, slot)
            if state is not None and not state.dirty:
                self.put(state._replace(dirty=True))
        (
            self.made,
            self.making,
            self.warming,
            self.awaited,
            self.sent,
            self.absent,
            self.rejected,
            self.greeted,
            self.break_due,
            self.break_after,
            self.coming_back,
            self.stuck_until,
            self.asked_before,
        ) = client_state.order
        self.overdue: list[OverdueResponse] = []
        for snapshot in (self.made, self.making):
            if snapshot is not None and snapshot.group != context.newest.group:
                # The client was moved: nothing more of its former group is its.
                self.made = self.making = None
                self.warming = NOBODY
                self.read_newest = True

    def order(self, before: Order) -> Order:
        """Return the order as it is now. At rest, ``made`` is the newest snapshot, whichever way that came about."""
        newest = self.context.newest
        if self.read_newest and not self.per_type and (self.made is not newest or self.making is not None):
            clusters = self.clusters
            if clusters and all(state.idle for state in clusters):
                self.made, self.making = newest, None
        now = (
            self.made,
            self.making,
            self.warming,
            self.awaited,
            self.sent,
            self.absent,
            self.rejected,
            self.greeted,
            self.break_due,
            self.break_after,
            self.coming_back,
            self.stuck_until,
            self.asked_before,
        )
        return before if now == before else Order._make(now)

    @property
    def newest(self) -> Snapshot:
        """The group's present snapshot."""
        self.read_newest = True
        return self.context.newest

    @property
    def now(self) -> float:
        """The time, by the coarse clock: what is over by then is."""
        self.read_clock = True
        return self.context.now

    @property
    def soon(self) -> float:
        """The coarse clock's next tick: waits begin then."""
        self.read_clock = True
        return self.context.soon

    def note_reads(self) -> None:
        """Note that the step depends on the newest snapshot and on the clock, whatever it read of them."""
        self.read_newest = self.read_clock = True

    def keep_private(self, private: bool = True) -> None:
        """Note that the step depends on one client's own data, so that no other client can share it."""
        self.is_private = self.is_private or private

    def wait_for_clusters(self) -> None:
        """Hold listeners and routes until the returning client asks for its clusters, within the hold timeout."""
        if not self.stuck_until:
            self.stuck_until = self._hold_until()

    def put(self, state: TypeState) -> TypeState:
        """Have a type stand so."""
        self.states[state.kind] = state
        return state

    def of(self, *stages: Stage) -> Iterator[TypeState]:
        """Iterate over the types of these stages; they may change meanwhile."""
        return iter([state for state in self.states.values() if state.kind.stage in stages])

    @property
    def switches(self) -> list[TypeState]:
        """The types that may send requests to clusters."""
        return [state for state in self.states.values() if state.kind.switches]

    @property
    def clusters(self) -> list[TypeState]:
        """The cluster subscriptions: one, unless a client behaves oddly."""
        return [state for state in self.states.values() if state.kind.stage is Stage.MAKE]

    def _hold_until(self) -> float:
        return self.soon + self.rules.ordering.hold_timeout_s

    # --- The tables ----------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """How far the client is with its clusters."""
        if not self.rules.ordering.enabled:
            return Phase.UNORDERED
        clusters = self.clusters
        if not clusters:
            return Phase.RETURNING if self.stuck_until and self.now < self.stuck_until else Phase.MADE
        if self.has_pending_endpoints():
            return Phase.WARMING
        if all(state.idle for state in clusters):
            return Phase.MADE
        if any(state.in_flight and not state.remaining and self.gave_up(state) for state in clusters):
            return Phase.OVERDUE
        return Phase.MAKING

    def happened(
        self, event: OrderEvent, state: TypeState | None, part: Part | None = None, response: Response | None = None
    ) -> None:
        """Do what follows from an event of a type; of none, that is of the client."""
        stage = state.kind.stage if state is not None else None
        for action in EVENTS.get((stage, event), ()):
            ACTIONS[action](self, state, part, response)

    def target(self) -> Snapshot | None:
        """Return the snapshot that listeners and routes may follow now, or None while they may not at all."""
        match PHASES[self.phase].follow:
            case Follow.NOTHING:
                return None
            case Follow.NEWEST:
                self.made = self.newest
            case Follow.MAKING:
                self.made = self.making if any(state.dirty for state in self.clusters) else self.newest
        return self.made

    # --- What may go out now -------------------------------------------------------------------------------------

    def advance(self, slot: int) -> Part | None:
        """Return the next message of a stream, or None if there is nothing to send until something happens."""
        for kind in [kind for kind in self.states if kind.slot == slot]:
            state = self.states[kind]  # as those before it left it
            if not state.dirty and not state.remaining:
                continue
            part = self._send(state)
            if part is not None:
                if self.per_type:
                    self.sent += 1
                    self.put(self.states[state.kind]._replace(sent_order=self.sent))
                return part
        part = self._break(slot) if self.break_due else None
        return part or self._heartbeat(slot)

    def _send(self, state: TypeState) -> Part | None:
        stage = state.kind.stage
        if state.in_flight and not (self.gave_up(state) and state.may_be_given_up):
            return None
        if state.remaining:
            part = self.put(state := state.send_part(self.soon)).outstanding
            self.happened(OrderEvent.SENT, state, part)
            return part
        if stage is Stage.FREE:
            return self._send_free(state)
        if stage is Stage.MAKE:
            return self._make(state)
        return self._switch(state)

    def _respond(self, state: TypeState, target: Snapshot, hold: Hold) -> tuple[TypeState, Response, Part | None]:
        rules, view = self.rules, target.view(state.type_url)
        in_flight = len(state.in_flight)
        state, response = state.respond(view, hold, rules.response_cache, rules.encoding, self.soon)
        if view.has_timed or state.heartbeat.at:
            every_s = state.heartbeat_every_s()
            due = state.heartbeat.at or float("inf")  # what was renewed before is not renewed by this
            self.is_private = True
            state = state._replace(
                heartbeat=state.heartbeat._replace(at=min(due, self.context.exact + every_s) if every_s else 0.0)
            )
        return self.put(state), response, state.outstanding if len(state.in_flight) > in_flight else None

    def _send_free(self, state: TypeState) -> Part | None:
        hold = self._hold_endpoints(state)
        if state.type_url == ENDPOINTS and self.warming and state.asked and self.making is not None:
            revived = self._gone_meanwhile(state, self.making)
            if revived:
                # Envoy ACKs no clusters before it has got these, and the rest waits for that.
                hold = replace(hold, revived=revived)
        state, _, part = self._respond(state, self.newest, hold)
        if hold.revived:
            self.put(state._replace(dirty=True))
        return part

    def _gone_meanwhile(self, state: TypeState, making: Snapshot) -> tuple[Resource, ...]:
        """Return the endpoints that warming clusters wait for and that are there no more."""
        before, after = making.view(ENDPOINTS), self.newest.view(ENDPOINTS)
        asked = state.asked & self.warming if before is not after else NOBODY
        gone = (before.get(name) for name in sorted(asked) if after.get(name) is None)
        return tuple(resource for resource in gone if resource is not None)

    def _hold_endpoints(self, state: TypeState) -> Hold:
        """Keep the endpoints of clusters that are yet to be removed: Envoy then unsubscribes them by itself."""
        if state.type_url != ENDPOINTS or not self.rules.ordering.enabled:
            return NO_HOLD
        clusters = self.clusters
        if any(each.dirty for each in clusters):
            return HOLD_REMOVALS  # which clusters stay is not known yet
        kept = [resource for each in clusters for resource in each.exceptions.values() if resource]
        if any(resource.is_version_only for resource in kept):
            return HOLD_REMOVALS  # nor what they take
        return Hold(removals=endpoints_of(kept)) if kept else NO_HOLD

    def _heartbeat(self, slot: int) -> Part | None:
        """Renew the TTL of what the client holds, whatever else is un-ACKed: its expiry would not wait either."""
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

    def gave_up(self, state: TypeState) -> bool:
        """Say whether the wait for the client's answer is over without one. Endpoints and the like wait for ever."""
        if state.kind.stage is Stage.FREE:
            return False
        return self.now >= state.sent_at + self.rules.ordering.hold_timeout_s

    def _make(self, state: TypeState) -> Part | None:
        if state.in_flight:
            self.made = self.making  # given up on: the next clusters go out, and the routes follow
        before = state.exceptions
        hold = self._hold_clusters(state)
        state, response, part = self._respond(state, self.newest, hold)
        self.making = self.newest
        if not hold.dropped.isdisjoint(response.gone):
            self.made = None  # what is older may name them
        if state.exceptions is not before:
            self.break_due = bool(state.exceptions)
            if state.exceptions and not state.subscription.open_ended and self.switches:
                self.break_after = self._hold_until()  # a client that names its clusters drops what it does not use
        self._recheck_endpoints()
        self.happened(OrderEvent.UNCHANGED if part is None else OrderEvent.SENT, state, part, response)
        return part

    def _hold_clusters(self, state: TypeState) -> Hold:
        """Keep the clusters that are gone, but those that the client rejected and sends no requests to.

        On SotW it would be sent them with each response, and reject each: what it never accepted is not kept at all.
        """
        if not self.rules.ordering.enabled:
            return NO_HOLD
        if not self.absent:
            return HOLD_REMOVALS
        used = self._in_use()
        dropped = NOBODY if used is None else self.absent - used
        return Hold(removals=None, dropped=dropped | state.refused)

    def _recheck_endpoints(self) -> None:
        """Have endpoints looked at again whose removal waits for that of their clusters."""
        for state in self.of(Stage.FREE):
            if state.exceptions and not state.dirty:
                self.put(state._replace(dirty=True))

    def _switch(self, state: TypeState) -> Part | None:
        if (target := self.target()) is None:
            return None
        ordered, listeners = self.rules.ordering.enabled, self.of(Stage.LISTENERS)
        if ordered and state.kind.stage is Stage.ROUTES and any(s.dirty and not self.gave_up(s) for s in listeners):
            return None
        hold = self._hold_switch(state) if ordered else NO_HOLD
        state, response, part = self._respond(state, target, hold)
        self.happened(OrderEvent.UNCHANGED if part is None else OrderEvent.SENT, state, part, response)
        return part

    def _hold_switch(self, state: TypeState) -> Hold:
        """Keep what the client would miss: routes to clusters that it has, extensions that it still subscribes to."""
        keep_all = state.kind.policy.keep_subscribed and not state.subscription.open_ended
        if not keep_all and not self.absent:
            return NO_HOLD
        used = frozenset(state.draining) & state.subscription.names if self.absent and state.draining else NOBODY
        return Hold(removals=None if keep_all else NOBODY, absent=self.absent, used=used)

    def has_pending_endpoints(self) -> bool:
        """Say whether a per-type client still waits for endpoints of its clusters."""
        if self.awaited:
            self.awaited = pending.unexpired(self.awaited, self.now)
        return bool(self.awaited)

    def _break(self, slot: int) -> Part | None:
        """Remove the clusters that are gone from the snapshot and out of use, once nothing else is under way."""
        state = next((s for s in self.clusters if s.kind.slot == slot), None)
        if state is None or not state.idle or (self.break_after and self.now < self.break_after):
            return None
        if not state.exceptions:
            self.break_due = False
            return None
        if not PHASES[self.phase].breaks:
            return None
        self.target()
        if any(not other.idle for other in self.switches):
            return None
        self.break_due = False
        state, response, part = self._respond(state, self.newest, Hold(removals=self._in_use()))
        self.making = self.newest
        self._recheck_endpoints()
        if part is not None:
            self.happened(OrderEvent.SENT, state, part, response)
        return part

    def _in_use(self) -> frozenset[str] | None:
        """Return the clusters that must stay; None means any may be in use, so all must."""
        needed: frozenset[str] = NOBODY
        for state in self.switches:
            used = state.clusters_in_use(self.now if state.draining else 0.0)
            if used is None:
                return None
            needed |= used
        return needed

    # --- What the client says ------------------------------------------------------------------------------------

    def answered(self, state: TypeState, part: Part, message: str | None, version: str = "") -> Answered:
        """Take the answer to a response in flight: ACK with None, NACK with its message."""
        in_time = part is state.outstanding
        needs_time = state.draining or len(state.in_flight) > 1
        drained_at = self.soon + self.rules.ordering.listener_drain_s if needs_time else 0.0
        state = state.take_answer(part, message, drained_at, version)
        if state.unknown is not NO_NAMES:
            state = state._replace(unknown=self.rules.interned.name_sets.get(state.unknown))
        self.put(state)
        if in_time and self.coming_back and not self.per_type:
            self.coming_back = False  # Envoy asks for all types before it reads the first answer
            self.break_after = 0.0
        self.happened(OrderEvent.ACCEPTED if message is None else OrderEvent.REJECTED, state, part)
        if message is not None and state.kind.stage is Stage.MAKE and state.kind.variant is Variant.DELTA:
            self._send_unblamed(part, state.kind, message)
        return Answered(state.kind, part, message)

    def _send_unblamed(self, part: Part, kind: Kind, message: str) -> None:
        """Send new clusters once more that were rejected beside others which the client names as the bad ones.

        It took them, most likely; their ACK says so for sure, and the routes that wait for them may follow. Of those
        that a later response has, its answer will tell.
        """
        view, state = self.newest.view(kind.type_url), self.states[kind]
        names = (part.new - part.named_in(message)).difference(*(later.names for later in state.in_flight))
        self.put(state.ask([name for name in names if view.get(name) is not None]))

    def asked_for_endpoints(self) -> None:
        """Take the client's asking for endpoints as a sign that it has their cluster, though it rejected others."""
        clusters = self.clusters
        if any(state.in_flight for state in clusters):
            return  # its answer will tell
        asking = self._endpoints
        if not self._may_tell(asking):
            return
        present, signs = pending.taken(clusters, self.absent, asking, self.asked_before)
        self._set_absent(self.absent - present)
        if self.per_type:
            self.awaited, late = pending.asked(self.awaited, asking, signs, self._hold_until())
            if late:
                self.made = None  # it was given up on too early

    def _may_tell(self, asking: list[TypeState]) -> bool:
        """Say whether any endpoints are asked for that an absent cluster takes: else nothing else need be looked at.

        This runs with every NACK and every request for endpoints while clusters are absent; to look through thousands
        of clusters each time took 30 ms.
        """
        for state in asking:
            for clusters in self.rejected:
                for name in state.subscription.names.intersection(clusters):
                    if clusters[name] & self.absent and name not in self.asked_before:
                        return True
        return False

    @property
    def _endpoints(self) -> list[TypeState]:
        return [state for state in self.states.values() if state.type_url == ENDPOINTS]

    def _note_asked(self, part: Part) -> None:
        """Note which endpoints of new clusters the client asks for before it can have got these: that tells nothing."""
        new = [name for name, clusters in part.clusters_of_endpoints.items() if clusters & part.new]
        asked = [name for name in new if any(name in state.subscription.names for state in self._endpoints)]
        if asked:
            self.asked_before = self.asked_before.union(asked)

    def ask_virtual_hosts(self) -> None:
        """Have each subscribed route told that it has no virtual host of an impossible name.

        Envoy asks for none at first and waits, with the listener, for any answer that names the route (facts 2.7).
        """
        if not any(state.type_url == VIRTUAL_HOST for state in self.of(Stage.ROUTES)):
            return
        routes = frozenset(n for s in self.of(Stage.ROUTES) if s.type_url == ROUTE for n in s.subscription.names)
        for state in self.of(Stage.ROUTES):
            if state.type_url == VIRTUAL_HOST:
                self.put(state.ask({f"{name}/*" for name in routes - self.greeted}))
                self.greeted |= routes

    # --- Streams and types come and go ---------------------------------------------------------------------------

    def returned(self) -> None:
        """The client came back with clusters that it has: what else it has is yet to be heard before any goes."""
        self.coming_back = True
        self.break_after = self._hold_until()

    def begun(self, state: TypeState, *, claims: bool) -> None:
        """Take in a type; ``claims``: the client has some of it, but per type its clusters may still be warming."""
        self._add(state)
        if state.type_url == ENDPOINTS and (claims if self.per_type else self.coming_back):
            self.asked_before = self.asked_before | state.subscription.names
        if not claims or not self.per_type:
            return
        if state.kind.stage is Stage.MAKE:
            others = [other for other in self.of(Stage.FREE) if other.type_url == ENDPOINTS]
            self.awaited = pending.clusters_reported(self.awaited, state, others, self._hold_until())
        elif state.type_url == ENDPOINTS and self.awaited:
            self.awaited = pending.endpoints_reported(self.awaited, state)
            if not self.awaited:
                self._clusters_had()

    def _add(self, state: TypeState) -> None:
        """Take in a type, keeping the order of stages."""
        stage = state.kind.stage
        in_order = all(other.kind.stage <= stage for other in self.states.values())
        self.states[state.kind] = state
        if not in_order:
            self.states = dict(sorted(self.states.items(), key=lambda item: item[0].stage))

    def left(self, slot: int) -> None:
        """Forget a stream that ended; the session's others go on."""
        for state in [state for state in self.states.values() if state.kind.slot == slot]:
            del self.states[state.kind]
            if state.kind.stage is Stage.MAKE:
                self.stuck_until = self._hold_until()  # the others' routes wait until it is back
        self.happened(OrderEvent.STREAM_ENDED, None)

    def expire(self) -> None:
        """Look at all times that are over by now: none of them is left in the standing then."""
        now, rules = self.now, self.rules
        late = [s for s in self.states.values() if s.in_flight and not s.overdue and self.gave_up(s)]
        if self.awaited and not self.has_pending_endpoints():
            late += [state for state in self.of(Stage.FREE) if state.in_flight]
        for state in late:
            self.put(state._replace(overdue=True))
            self.overdue.append(OverdueResponse(state.kind, state.nonce, now - state.sent_at))
        for state in self.switches:
            if now >= state.drain_at:
                self.put(state.forget_drained(now))
        if self.stuck_until and now >= self.stuck_until and rules.ordering.enabled:
            self.stuck_until = 0.0
        if now >= self.break_after:
            self.break_after = 0.0
        self.target()
        self.happened(OrderEvent.TIME_OVER, None)

    # --- The actions ---------------------------------------------------------------------------------------------

    def _send_endpoints(self, clusters: TypeState, part: Part, response: Response | None) -> None:
        """Have the endpoints of clusters that were just sent follow, even unchanged: Envoy warms on nothing else.

        Those of a later part follow that part: ``response`` is None then.
        """
        whole = response is not None and len(response.parts) == 1
        endpoints = response.endpoints if response is not None and whole else frozenset(part.clusters_of_endpoints)
        replaced = response.replaced if response is not None and whole else part.replaced
        self._note_asked(part)
        # SotW sends those that were rejected again, and they may be accepted now.
        mended = [resource for resource in part.upserts if resource.name in self.absent] if self.absent else ()
        endpoints = endpoints | endpoints_of(mended) if mended else endpoints
        if self.per_type:
            self.made = None if mended else self.made  # its routes may go to them: they were given up on
            # Each cluster opens an endpoints stream of its own, which asks by itself.
            until = clusters.sent_at + self.rules.ordering.hold_timeout_s
            self.awaited = pending.cluster_sent(self.awaited, clusters, replaced, endpoints, self.sent, until)
            return
        self.warming = self.warming | endpoints if self.warming else endpoints
        for state in self.of(Stage.FREE):
            if state.type_url == ENDPOINTS:
                self.put(state.ask([name for name in endpoints if state.subscription.wants(name)]))

    def _clusters_absent(self, state: TypeState, part: Part) -> None:
        if state.exceptions and not state.refused.isdisjoint(state.exceptions):
            self.put(state._replace(dirty=True))  # what is kept spoils what is sent: it goes
        if self.awaited:
            self.awaited = pending.rejected(self.awaited, frozenset(part.clusters_of_endpoints), self.soon)
        self.rejected = (*self.rejected, part.clusters_of_endpoints)
        if len(self.rejected) > REJECTED_MAX:
            self.rejected = (_united(self.rejected),)
        self._note_absent(self.absent | part.new if self.absent else part.new)

    def _clusters_present(self, part: Part) -> None:
        if self.absent:
            self._note_absent(self.absent - {resource.name for resource in part.upserts})

    def _note_absent(self, absent: frozenset[str]) -> None:
        self._set_absent(absent)
        if absent:
            self.asked_for_endpoints()

    def _set_absent(self, absent: frozenset[str]) -> None:
        if not absent:
            self.rejected, self.asked_before = (), NOBODY
        if absent != self.absent:
            self.absent = absent
            for state in self.switches:
                if state.exceptions and not state.dirty:
                    self.put(state._replace(dirty=True))

    def _endpoints_had(self, state: TypeState, part: Part) -> None:
        if state.type_url == ENDPOINTS and self.awaited:
            self.awaited = pending.answered(self.awaited, state, part.names)
            if not self.awaited:
                self._clusters_had()

    def _clusters_had(self) -> None:
        """The client has the clusters that it was sent: let listeners and routes follow, then removals."""
        clusters = self.clusters
        if any(state.in_flight or state.remaining for state in clusters):
            return
        self.warming = NOBODY
        if not self.absent:
            self.asked_before = NOBODY
        if self.has_pending_endpoints():
            return
        # Clusters that are not dirty are those of the newest snapshot too.
        self.made = self.making if any(state.dirty for state in clusters) else self.newest
        self.break_due = self.break_due or any(state.exceptions for state in clusters)
        self._follow_again()

    def _keep_replaced(self, state: TypeState, response: Response | None) -> None:
        if response is not None and response.kept:
            self.put(state._replace(draining=united(state.draining, response.kept)))

    def _look_for_unused(self) -> None:
        self.break_due = self.break_due or any(state.exceptions for state in self.clusters)

    def _follow_again(self) -> None:
        if self.made is None:
            return
        for state in self.switches:
            if not state.dirty and state.view is not self.made.view(state.type_url):
                self.put(state._replace(dirty=True))


ACTIONS: dict[Action, Callable[[Draft, Any, Any, Any], None]] = {
    Action.SEND_ENDPOINTS: Draft._send_endpoints,
    Action.CLUSTERS_PRESENT: lambda draft, state, part, response: draft._clusters_present(part),
    Action.CLUSTERS_ABSENT: lambda draft, state, part, response: draft._clusters_absent(state, part),
    Action.ENDPOINTS_HAD: lambda draft, state, part, response: draft._endpoints_had(state, part),
    Action.CLUSTERS_HAD: lambda draft, state, part, response: draft._clusters_had(),
    Action.KEEP_REPLACED: lambda draft, state, part, response: draft._keep_replaced(state, response),
    Action.LOOK_FOR_UNUSED: lambda draft, state, part, response: draft._look_for_unused(),
    Action.FOLLOW_AGAIN: lambda draft, state, part, response: draft._follow_again(),
}


def _united(mappings: Iterable[Map[str, frozenset[str]]]) -> Map[str, frozenset[str]]:
    united: dict[str, frozenset[str]] = {}
    for mapping in mappings:
        for name, clusters in mapping.items():
            united[name] = united.get(name, NOBODY) | clusters
    return Map(united)
