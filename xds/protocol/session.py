"""The order in which one client's types change: make before break. It does not know bytes, sockets or groups' rules.

A session is what the order spans: one aggregated stream, or all per-type streams of a node on one connection.

The rule (measured against Envoy 1.40; the xDS page calls it "eventual consistency considerations"):

1. MAKE: cluster additions and updates go at once, without removals, each with its endpoints, changed or not.
2. SWITCH: listeners, then routes, follow the snapshot whose clusters the client has ACKed (``made``), not the newest.
   Envoy ACKs clusters once they are warm; on per-type streams the endpoints' ACKs tell that, or after a reconnect
   that it claims to have them.
3. BREAK: once nothing of that is under way, the clusters that are gone, save those that a route or listener which the
   client may still be using refers to.

Only 2 and 3 ever wait. 2 waits until ``hold_timeout_s`` has passed; 3 goes on waiting for a client that does not
answer, since a cluster too many costs nothing. Either is reported as overdue.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from xds.model.groups import Node
from xds.model.snapshot import Snapshot
from xds.model.types import CLUSTER, ENDPOINTS, ROUTE, VIRTUAL_HOST
from xds.protocol.awaited import Awaited, taken
from xds.protocol.cohorts import Cohorts
from xds.protocol.diff import HOLD_REMOVALS, NO_HOLD, NOBODY, Hold
from xds.protocol.draining import NEVER, united
from xds.protocol.policy import Stage
from xds.protocol.response import Encoding, Part, endpoints_of
from xds.protocol.state import TypeState
from xds.protocol.stream import Ordering, Stream

REJECTED_MAX = 4
"""Rejected responses whose clusters are kept apart, and so shared by all who rejected them."""


@dataclass(slots=True, eq=False)
class Session:
    """One client's streams and how far each step of the order has come.

    ``newest`` is the group's present snapshot; ``making`` the one whose clusters were sent last; ``made`` the one
    whose clusters the client has. ``warming``: assignments that the client waits for before it ACKs clusters;
    ``awaited``: those of a per-type client. ``absent``: clusters that it rejected and did not have before.
    """

    node: Node
    group: str
    newest: Snapshot
    ordering: Ordering
    encoding: Encoding
    cohorts: Cohorts
    streams: list[Stream] = field(default_factory=list)
    clusters: list[TypeState] = field(default_factory=list)
    """The cluster subscriptions: one, unless a client behaves oddly."""
    made: Snapshot | None = None
    making: Snapshot | None = None
    warming: frozenset[str] = NOBODY
    awaited: Awaited = field(default_factory=Awaited)
    sent: int = 0
    """How many messages went out, so that an answer to an earlier one is not taken for one to a later."""
    absent: frozenset[str] = NOBODY
    rejected: tuple[Mapping[str, frozenset[str]], ...] = ()
    """Of the responses with them, by assignment, the clusters that take their endpoints from it."""
    greeted: frozenset[str] = NOBODY  # routes whose virtual hosts were answered for a first time
    since: float = 0.0  # when its first stream said who it is
    break_due: bool = False
    stuck_since: float | None = None
    """When a client came back that has routes or endpoints of an earlier stream and is yet to ask for its clusters."""
    break_after: float = 0.0
    """Until when removals wait in any case: a client that names its clusters drops those that it no longer uses."""
    coming_back: bool = False
    """The client claimed clusters of an earlier stream, and has not answered anything since."""
    wake: bool = False  # something happened that the session's other streams may have waited for
    timed: bool = False  # something happened that a deadline follows from
    timer: float = float("inf")
    node_hash: int = 0  # of the bytes that described the node, so that equal ones need not be read again

    @property
    def per_type(self) -> bool:
        """Say whether none of the streams is an aggregated one."""
        return not any(stream.aggregated for stream in self.streams)

    def states(self, *stages: Stage) -> Iterator[TypeState]:
        """Iterate over the session's types of these stages."""
        for stream in self.streams:
            for state in stream.states.values():
                if state.policy.stage in stages:
                    yield state

    @property
    def has_switches(self) -> bool:
        """Say whether the client subscribes to anything that may send requests to its clusters."""
        return any(True for _ in self.states(Stage.LISTENERS, Stage.ROUTES))

    def settled(self, stream: Stream) -> bool:
        """Say whether polling the stream again at once can bring nothing."""
        if self.break_due:
            return False
        for state in stream.states.values():  # noqa: SIM110 - all() costs twice as much, and this runs once a delivery
            if state.dirty or state.rest or state.heartbeat_at:
                return False
        return True

    # --- What may go out now -----------------------------------------------------------------------------------

    def poll(self, stream: Stream, now: float) -> Part | None:
        """Return the stream's next message, or None if there is nothing to send until something happens."""
        for state in stream.states.values():
            if not state.dirty and not state.rest:
                continue
            part = self._advance(state, now)
            if part is not None:
                self.sent += 1
                state.sent_order = self.sent
                return part
        part = self._break(stream, now) if self.break_due else None
        return part or self._heartbeat(stream, now)

    def _advance(self, state: TypeState, now: float) -> Part | None:
        if state.outstanding is not None and not (self.gave_up(state, now) and state.may_be_given_up):
            return None
        if state.stage is not Stage.FREE:
            self.timed = True
        if state.rest:
            return state.next_part(now)
        if state.stage is Stage.FREE:
            return self._free(state, now)
        if state.stage is Stage.MAKE:
            return self._make(state, now)
        return self._switch(state, now)

    def _free(self, state: TypeState, now: float) -> Part | None:
        if state.type_url == ENDPOINTS and self.warming and state.asked:
            assert self.making is not None
            before, after = self.making.view(ENDPOINTS), self.newest.view(ENDPOINTS)
            asked = state.asked & self.warming if before is not after else NOBODY
            if any(after.get(name) is None and before.get(name) is not None for name in asked):
                # Gone meanwhile, but Envoy ACKs no clusters before it has got them, and the rest waits for that.
                part = self._respond(state, self.making, NO_HOLD, now)
                state.dirty = True
                return part
        return self._respond(state, self.newest, self._hold_endpoints(state), now)

    def _hold_endpoints(self, state: TypeState) -> Hold:
        """Keep the endpoints of clusters that are yet to be removed: Envoy then unsubscribes them by itself."""
        if state.type_url != ENDPOINTS or not self.clusters or not self.ordering.enabled:
            return NO_HOLD
        kept = [resource for clusters in self.clusters for resource in clusters.exceptions.values() if resource]
        if any(resource.is_claim for resource in kept) or any(clusters.dirty for clusters in self.clusters):
            return HOLD_REMOVALS  # which clusters stay is not known, or not yet
        return Hold(removals=endpoints_of(kept)) if kept else NO_HOLD

    def _respond(self, state: TypeState, target: Snapshot, hold: Hold, now: float) -> Part | None:
        view = target.view(state.type_url)
        part = state.respond(view, hold, self.cohorts, self.encoding, now)
        if view.has_timed or state.heartbeat_at:
            every_s = state.heartbeat_every_s()
            due = state.heartbeat_at or float("inf")  # what was renewed before is not renewed by this
            state.heartbeat_at = min(due, now + every_s) if every_s else 0.0
            self.timed = True
        return part

    def _heartbeat(self, stream: Stream, now: float) -> Part | None:
        """Renew the TTL of what the client holds, whatever else is un-ACKed: its expiry would not wait either."""
        for state in stream.states.values():
            if state.heartbeat_at and now >= state.heartbeat_at:
                every_s = state.heartbeat_every_s()
                state.heartbeat_at = now + every_s if every_s else 0.0
                self.timed = True
                if every_s:
                    return state.heartbeat(self.cohorts, self.encoding)
        return None

    def gave_up(self, state: TypeState, now: float) -> bool:
        """Say whether the wait for the client's answer is over without one. Endpoints and the like wait for ever."""
        return state.stage is not Stage.FREE and now >= state.sent_at + self.ordering.hold_timeout_s

    def _make(self, state: TypeState, now: float) -> Part | None:
        if state.outstanding is not None:
            self.made = self.making  # given up on: the next clusters go out, and the routes follow
        hold = HOLD_REMOVALS if self.ordering.enabled else NO_HOLD
        before = state.exceptions
        part = self._respond(state, self.newest, hold, now)
        self.making = self.newest
        if state.exceptions is not before:
            self.break_due = bool(state.exceptions)
            if state.exceptions and not state.interest.open_ended and self.has_switches:
                self.break_after = now + self.ordering.hold_timeout_s
        self._recheck_endpoints()
        if part is None:
            self._settle_make(now)
        else:
            self._warm(state, part)
        return part

    def _recheck_endpoints(self) -> None:
        """Have endpoints looked at again whose removal waits for that of their clusters."""
        for state in self.states(Stage.FREE):
            if state.exceptions:
                state.dirty = self.wake = True

    def _warm(self, clusters: TypeState, part: Part) -> None:
        """Have the endpoints of clusters that were just sent follow, even unchanged: Envoy warms on nothing else."""
        assert clusters.response is not None
        endpoints = clusters.response.endpoints
        # SotW sends those that were rejected again, and they may be accepted now.
        mended = [resource for resource in part.upserts if resource.name in self.absent] if self.absent else ()
        endpoints = endpoints | endpoints_of(mended) if mended else endpoints
        if self.per_type:
            self.made = None if mended else self.made  # its routes may go to them: they were given up on
            # Each cluster opens an endpoints stream of its own, which asks by itself.
            until = clusters.sent_at + self.ordering.hold_timeout_s
            self.awaited.cluster_sent(clusters, endpoints, self.sent, until)
            return
        self.warming = self.warming | endpoints if self.warming else endpoints  # a cohort shares one set
        for stream in self.streams:
            state = stream.states.get(ENDPOINTS)
            if state is not None:
                state.ask([name for name in endpoints if state.interest.wants(name)])

    def _switch(self, state: TypeState, now: float) -> Part | None:
        if (target := self.switch_target(now)) is None:
            return None
        if state.stage is Stage.ROUTES and self.ordering.enabled:
            before = self.states(Stage.LISTENERS)
            if any(other.dirty and not self.gave_up(other, now) for other in before):
                return None
        hold = self._hold_switch(state) if self.ordering.enabled else NO_HOLD
        part = self._respond(state, target, hold, now)
        self.break_due = self.wake = True
        self._keep_replaced(state)
        return part

    def _hold_switch(self, state: TypeState) -> Hold:
        """Keep what the client would miss: routes to clusters that it has, extensions that it still subscribes to."""
        keep_all = state.policy.keep_subscribed and not state.interest.open_ended
        return Hold(removals=None if keep_all else NOBODY, absent=self.absent) if keep_all or self.absent else NO_HOLD

    def switch_target(self, now: float) -> Snapshot | None:
        """Return the snapshot that listeners and routes may follow now, or None while they may not at all."""
        if not self.ordering.enabled:
            return self.newest
        clusters = self.clusters
        if not clusters:
            if self.stuck_since is not None and now < self.stuck_since + self.ordering.hold_timeout_s:
                return None
            self.made = self.newest
        elif all(state.idle for state in clusters) and not self.awaiting(now):
            self.made = self.newest
        elif any(state.outstanding is not None and self.gave_up(state, now) for state in clusters):
            self.made = self.making if any(state.dirty for state in clusters) else self.newest
        return self.made

    def awaiting(self, now: float) -> bool:
        self.awaited.expire(now)
        return bool(self.awaited)

    def _keep_replaced(self, state: TypeState) -> None:
        """Note what the client goes on using after this response."""
        assert state.response is not None
        if state.response.kept:
            state.draining = united(state.draining, state.response.kept)

    def _break(self, stream: Stream, now: float) -> Part | None:
        """Remove the clusters that are gone from the snapshot and out of use, once nothing else is under way."""
        state = stream.states.get(CLUSTER)
        if state is None or not state.idle or now < self.break_after:
            return None
        if not state.exceptions:
            self.break_due = False
            return None
        if self.switch_target(now) is not self.newest:
            return None
        switches = list(self.states(Stage.LISTENERS, Stage.ROUTES))
        if any(not other.idle for other in switches):
            return None
        self.break_due = False
        hold = Hold(removals=self._in_use(switches, now))
        self.timed = True
        part = self._respond(state, self.newest, hold, now)
        self._recheck_endpoints()
        if part is not None:
            self._warm(state, part)
        return part

    def _in_use(self, switches: list[TypeState], now: float) -> frozenset[str] | None:
        """Return the clusters that must stay; None means any may be in use, so all must."""
        needed: frozenset[str] = NOBODY
        for state in switches:
            used = state.clusters_in_use(now)
            if used is None:
                return None
            needed |= used
        return needed

    # --- What the client says --------------------------------------------------------------------------------

    def answered(self, state: TypeState, message: str | None, now: float, version: str = "") -> Part | None:
        """Take the answer to the outstanding response: ACK with None, NACK with its message. Returns what it was to."""
        part = state.settle(message, now + self.ordering.listener_drain_s, version)
        if part is None:
            return None
        if self.coming_back and all(stream.aggregated for stream in self.streams):
            self.coming_back = False  # Envoy asks for all types before it reads the first answer
            self.break_after = 0.0
        self._follow_answer(state, part, message, now)
        return part

    def answered_late(
        self, state: TypeState, nonce: str, message: str | None, now: float, version: str = ""
    ) -> Part | None:
        """Take the answer to a response that was given up on; see ``answered``."""
        part = state.settle_late(nonce, message, now + self.ordering.listener_drain_s, version)
        if part is not None:
            self._follow_answer(state, part, message, now)
        return part

    def _follow_answer(self, state: TypeState, part: Part, message: str | None, now: float) -> None:
        if state.stage is Stage.MAKE:
            if message is not None and self.awaited:
                self.awaited.rejected(frozenset(part.clusters_of_endpoints), now)
                self.timed = True
            self._note_absent(part, now, rejected=message is not None)
            self._settle_make(now)
        elif state.switches:
            self.break_due = self.wake = True
            self.timed = self.timed or state.drain_at < NEVER
        elif state.type_url == ENDPOINTS and self.awaited:
            self.awaited.answered(state, part.names)
            if not self.awaited:
                self._settle_make(now)

    def asked_for_endpoints(self, now: float) -> None:
        """Take the client's asking for endpoints as a sign that it has their cluster, though it rejected others."""
        if any(state.outstanding is not None for state in self.clusters):
            return  # its answer will tell
        asking = [state for state in self.states(Stage.FREE) if state.type_url == ENDPOINTS]
        if not self._may_tell(asking):
            return
        present, signs = taken(self.clusters, self.absent, asking)
        self._set_absent(self.absent - present)
        if self.per_type and self.awaited.asked(asking, signs, now + self.ordering.hold_timeout_s):
            self.made, self.timed = None, True  # it was given up on too early

    def _may_tell(self, asking: list[TypeState]) -> bool:
        """Say whether any endpoints are asked for that an absent cluster takes: else nothing else need be looked at.

        This runs with every NACK and every request for endpoints while clusters are absent; to look through thousands
        of clusters each time took 30 ms.
        """
        for state in asking:
            for clusters in self.rejected:
                for name in state.interest.names.intersection(clusters):
                    if clusters[name] & self.absent:
                        return True
        return False

    def ask_virtual_hosts(self) -> None:
        """Have each subscribed route told that it has no virtual host of an impossible name.

        Envoy asks for none at first and waits, with the listener, for any answer that names the route (facts 2.7).
        """
        if not any(VIRTUAL_HOST in stream.states for stream in self.streams):
            return
        routes = {n for state in self.states(Stage.ROUTES) if state.type_url == ROUTE for n in state.interest.names}
        for state in self.states(Stage.ROUTES):
            if state.type_url == VIRTUAL_HOST:
                state.ask({f"{name}/*" for name in routes - self.greeted})
                self.greeted |= routes

    def returned(self, now: float) -> None:
        """The client came back with clusters that it has: what else it has is yet to be heard before any goes."""
        self.coming_back = True
        self.break_after = now + self.ordering.hold_timeout_s
        self.timed = True

    def begun(self, state: TypeState, *, claims: bool, now: float) -> None:
        """Take in a type; ``claims``: the client has some of it, but per type its clusters may still be warming."""
        if state.stage is Stage.MAKE:
            self.clusters.append(state)
        if not claims or not self.per_type:
            return
        if state.stage is Stage.MAKE:
            others = (other for other in self.states(Stage.FREE) if other.type_url == ENDPOINTS)
            self.awaited.clusters_claimed(state, others, now + self.ordering.hold_timeout_s)
        elif state.type_url == ENDPOINTS and self.awaited:
            self.awaited.endpoints_claimed(state)
            if not self.awaited:
                self._settle_make(now)

    def leave(self, stream: Stream, now: float) -> None:
        """Forget a stream that ended; the session's others go on."""
        self.streams.remove(stream)
        for state in stream.states.values():
            if state.stage is Stage.MAKE:
                self.clusters.remove(state)
                self.stuck_since = now  # the others' routes wait until it is back
        self.break_due = self.wake = self.timed = True

    def _note_absent(self, part: Part, now: float, *, rejected: bool) -> None:
        if not self.absent and not rejected:
            return
        if rejected:
            absent = self.absent | part.new if self.absent else part.new
            self.rejected = (*self.rejected, part.clusters_of_endpoints)
            if len(self.rejected) > REJECTED_MAX:
                self.rejected = (_united(self.rejected),)
        else:
            absent = self.absent - {resource.name for resource in part.upserts}
        self._set_absent(absent)
        if absent:
            self.asked_for_endpoints(now)

    def _set_absent(self, absent: frozenset[str]) -> None:
        if not absent:
            self.rejected = ()
        if absent != self.absent:
            self.absent = absent
            for other in self.states(Stage.LISTENERS, Stage.ROUTES):
                other.dirty = other.dirty or bool(other.exceptions)

    def _settle_make(self, now: float) -> None:
        """The client has the clusters that it was sent: let listeners and routes follow, then removals."""
        if any(state.outstanding is not None or state.rest for state in self.clusters):
            return
        self.warming = NOBODY
        if self.awaiting(now):
            return
        # Clusters that are not dirty are those of the newest snapshot too.
        self.made = self.making if any(state.dirty for state in self.clusters) else self.newest
        self.wake = True
        self.break_due = self.break_due or any(state.exceptions for state in self.clusters)
        self.recheck_switch()

    def recheck_switch(self) -> None:
        """Have listeners and routes compared with what they may follow now."""
        if self.made is None:
            return
        for state in self.states(Stage.LISTENERS, Stage.ROUTES):
            if state.started and state.view is not self.made.view(state.type_url):
                state.dirty = True


def _united(mappings: Iterable[Mapping[str, frozenset[str]]]) -> Mapping[str, frozenset[str]]:
    united: dict[str, frozenset[str]] = {}
    for mapping in mappings:
        for name, clusters in mapping.items():
            united[name] = united.get(name, NOBODY) | clusters
    return united
