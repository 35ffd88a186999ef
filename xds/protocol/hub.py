"""All streams of a server, between the catalog and the transports: bytes of requests in, bytes of responses out.

It does not know sockets or clocks: a transport calls ``receive`` with what a stream sent, then ``poll`` for each stream
of ``take_ready`` until that stream has nothing more to say, or can't take more: then it polls again once it can.
Nothing is queued in between. ``now`` is in seconds, on any clock that only goes forward.
"""

from collections.abc import Callable, Mapping, Set
from sys import getsizeof

from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest
from xds.model.catalog import Catalog
from xds.model.changeset import Applied
from xds.model.snapshot import Snapshot
from xds.model.types import ENDPOINTS, ROUTE, VIRTUAL_HOST
from xds.protocol.answers import Answers
from xds.protocol.cohorts import Cohorts
from xds.protocol.deadlines import deadline, expire
from xds.protocol.draining_nodes import DrainingNodes
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.events import Counters, Event, Refused, overdue
from xds.protocol.interest import NOTHING
from xds.protocol.interned import Interned
from xds.protocol.memories import Memory, Tell, tell_nobody
from xds.protocol.nacked_names import NackedNames
from xds.protocol.name_sets import NO_NAMES
from xds.protocol.openings import Opening, Openings, begin
from xds.protocol.plain_acks import PlainAck, PlainAcks, end_of_node
from xds.protocol.policy import Stage
from xds.protocol.requests import (
    OUTLINE_BYTES_MIN,
    Request,
    begin_sotw,
    change_delta,
    change_sotw,
    check_names_bytes,
    check_outline,
    check_size,
    claims_something,
    error_of,
    type_of,
)
from xds.protocol.response import Encoding, Part
from xds.protocol.session import Session
from xds.protocol.sessions import Sessions, notice_return
from xds.protocol.state import TypeState, Variant
from xds.protocol.stream import Limits, Ordering, Stream
from xds.protocol.timers import Timers
from xds.protocol.watchers import WatchTable
from xds.protocol.wave import Wave, is_plain


def is_sparse(table: Mapping[Stream, object]) -> bool:
    """Say whether a table has room for many more than are in it: dictionaries keep what their most took."""
    return getsizeof(table) > 10_000 + 400 * len(table)


class Hub:
    """The streams and what they are owed.

    ``knows_type`` says whether a type URL is one of the schema; others are refused. ``tell`` is told what other hubs
    have to know of nodes that may come back to them; ``remember`` takes that in.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        knows_type: Callable[[str], bool],
        ordering: Ordering | None = None,
        encoding: Encoding | None = None,
        limits: Limits | None = None,
        cohorts: Cohorts | None = None,
        tell: Tell = tell_nobody,
    ) -> None:
        self._catalog = catalog
        self._snapshots = dict(catalog.snapshots)
        """What streams are brought to: the catalog's, as far as published. Between the two, order would be lost."""
        self._knows_type = knows_type
        self._ordering = ordering or Ordering()
        self._encoding = encoding or Encoding()
        self._limits = limits or Limits()
        self.cohorts = cohorts or Cohorts()
        self._interned = Interned()
        self._plain_acks = PlainAcks()
        self.plain_ack = self._plain_acks.get
        self._wave = Wave()
        self._openings = Openings()
        self._watchers = WatchTable()
        self._sessions = Sessions(catalog, self._ordering, self._encoding, self._limits, self.cohorts)
        self._streams: dict[Stream, None] = {}
        self._ready: list[Stream] = []
        self._timers = Timers()
        self._now = 0.0
        self._nacked = NackedNames(
            nodes_max=self._limits.doubtful_nodes_max, bytes_max=self._limits.nacked_bytes_max, tell=tell
        )
        self._draining = DrainingNodes(
            nodes_max=self._limits.doubtful_nodes_max, bytes_max=self._limits.draining_bytes_max, tell=tell
        )
        self._events: list[Event] = []
        self._counters = Counters()
        self._nacked_by_node = self._nacked.by_node
        self._answers = Answers(self._nacked, self._draining, self._counters, self._events)

    # --- Streams ---------------------------------------------------------------------------------------------

    @property
    def counters(self) -> Counters:
        """Totals since the start."""
        return self._wave.settle(self._counters)

    @property
    def streams(self) -> Mapping[Stream, None]:
        """The open streams, oldest first."""
        return self._streams

    def snapshot(self, group: str) -> Snapshot:
        """Return the snapshot that a group's streams are brought to."""
        return self._snapshots[group]

    def remember(self, memory: Memory) -> None:
        """Take in what happened to a node on a stream of another hub."""
        self._nacked.remember(memory)
        self._draining.remember(memory)

    def open(self, variant: Variant, *, type_url: str = "", connection: str = "") -> Stream:
        """Take in a new stream: aggregated, or of one type. ``connection`` tells which streams share one."""
        stream = Stream(variant, type_url, connection)
        self._streams[stream] = None
        self._counters.streams_opened += 1
        return stream

    def close(self, stream: Stream) -> None:
        """Forget a stream that ended, however it did."""
        if stream not in self._streams:
            return
        del self._streams[stream]
        self._counters.streams_closed += 1
        if (session := stream.session) is None:
            return
        for state in stream.states.values():
            self._watchers.discard(session.group, state.type_url, state.interest, stream)
            self._draining.keep(session.node, state, self._now + self._ordering.listener_drain_s)
        session.leave(stream, self._now)
        if session.streams:
            self._wake(session)
            self._schedule(session, self._now)
        else:
            self._sessions.forget(stream, session)

    def receive(self, stream: Stream, data: bytes, now: float) -> int:
        """Take one request; return how many names were looked through because it changes a subscription.

        Raises StreamRefusedError when it can't be served; the stream is then to be ended.
        """
        node_end = end_of_node(data)
        ack = self._plain_acks.read(stream.session, data, node_end)
        if ack is not None and self.take_ack(stream, ack, now):
            return 0
        self._counters.requests += 1
        self._now = now
        try:
            return self._receive(stream, data, node_end, now)
        except StreamRefusedError as refusal:
            self._counters.streams_refused += 1
            node_id = stream.session.node.id if stream.session is not None else ""
            self._events.append(Refused(node_id=node_id, status=refusal.status.name, message=refusal.message))
            raise

    def take_ack(self, stream: Stream, ack: PlainAck, now: float) -> bool:
        """Take a mere ACK as ``receive`` would, without reading it again; False if it is not of this stream."""
        session, state = stream.session, stream.states.get(ack.type_url)
        if session is None or state is None or stream.variant is Variant.SOTW:
            return False
        part = state.outstanding
        if part is None or part.nonce != ack.nonce:
            return False
        self._counters.requests += 1
        if state.policy.stage is not Stage.FREE or self._nacked_by_node or self._matters(session, state):
            self._now = now
            self._answers.take(session, state, None, now)
            self._follow(stream, session, state, now)
            return True
        state.outstanding = None
        self._counters.acks += 1
        if state.dirty:
            self._queue(stream)
        return True

    def _matters(self, session: Session, state: TypeState) -> bool:
        """Say whether anything but this type waits for the ACK of a type that nothing is held back for."""
        if state.unknown is not NO_NAMES or state.draining or state.rest:
            return True
        return bool(session.absent or session.awaited or session.coming_back)

    def _receive(self, stream: Stream, data: bytes, node_end: int, now: float) -> int:
        if len(data) >= OUTLINE_BYTES_MIN:
            check_outline(stream.variant, data, self._limits)
        request, opening = self._openings.read(stream.variant, data, node_end)
        session = self._sessions.of(stream, request, len(data), self._snapshots)
        request_bytes = len(data) - node_end
        request = opening.request if opening is not None else request
        type_url = type_of(stream, request, self._knows_type, self._limits.types_max)
        state = stream.states.get(type_url)
        if state is None:
            state = self._begin(stream, session, type_url, request, request_bytes, opening, now)
            named, names = True, 0
        else:
            before = state.interest
            named = self._continue(stream, session, state, request, request_bytes, opening, now)
            names = len(before.names) + len(state.asked) + len(state.interest.names) if named else 0
        if named:
            check_names_bytes(stream, request_bytes, self._limits.names_bytes_max)
        if opening is not None and not opening.kept:
            self._openings.keep(opening)
        self._plain_acks.learn(session, request, data, node_end)
        self._follow(stream, session, state, now)
        return names

    def _follow(self, stream: Stream, session: Session, state: TypeState, now: float) -> None:
        """Have looked at what a request may have made ready."""
        if session.absent and state.type_url == ENDPOINTS:
            session.asked_for_endpoints(now)
        if state.type_url in (ROUTE, VIRTUAL_HOST):
            session.ask_virtual_hosts()
        self._queue(stream)
        self._wake(session)
        self._schedule(session, now)

    def _begin(
        self,
        stream: Stream,
        session: Session,
        type_url: str,
        request: Request,
        request_bytes: int,
        opening: Opening | None,
        now: float,
    ) -> TypeState:
        state = TypeState(type_url, stream.variant, NOTHING)
        check_size(state, request, request_bytes, self._limits.subscriptions_max)
        view = session.newest.view(type_url)
        claims = claims_something(request)
        stuck = notice_return(session, stream, state, claims=claims, now=now)
        nacked = self._nacked.of(session.node, type_url) if self._nacked_by_node else NO_NAMES
        if isinstance(request, DeltaDiscoveryRequest):
            begin(state, opening, request, self._interned, view, None if stuck else nacked.names)
        else:
            begin_sotw(state, request, self._interned, view, None if stuck or nacked else self.cohorts)
        state.unknown = nacked
        if type_url == ENDPOINTS and session.warming and state.view is not None:
            state.ask([name for name in session.warming if state.interest.wants(name)])
        if len(self._draining):
            self._draining.hand_on(session.node, state, view, now)
        stream.add(state)
        session.begun(state, claims=claims, now=now)
        self._watchers.add(session.group, state.type_url, state.interest, stream)
        return state

    def _continue(
        self,
        stream: Stream,
        session: Session,
        state: TypeState,
        request: Request,
        request_bytes: int,
        opening: Opening | None,
        now: float,
    ) -> bool:
        """Take a later request of a type; return whether it may have brought names to keep."""
        check_size(state, request, request_bytes, self._limits.subscriptions_max)
        before = state.interest
        error = error_of(request)
        if isinstance(request, DeltaDiscoveryRequest):
            if state.outstanding is not None and request.response_nonce == state.outstanding.nonce:
                self._answers.take(session, state, error, now)
            elif state.given_up:
                self._answers.take_late(session, state, request.response_nonce, error, now)
            named = change_delta(state, request, self._interned, opening.changes if opening is not None else None)
        else:
            renewal = bool(state.heartbeat_nonce) and request.response_nonce == state.heartbeat_nonce
            if request.response_nonce != state.nonce and not renewal:
                if state.given_up:
                    version = request.version_info
                    self._answers.take_late(session, state, request.response_nonce, error, now, version)
                return False  # stale: the client repeats it with the present nonce
            expected = state.outstanding is not None or (renewal and state.heartbeat_unacked)
            repeated = not expected and error is None and bool(state.nonce)
            state.heartbeat_unacked = state.heartbeat_unacked and not renewal
            # Envoy answers only the last of several responses that it got while its clusters warm.
            self._answers.take(session, state, error, now, request.version_info)
            change_sotw(state, request, self._interned, repeated=repeated)
            named = state.interest is not before
        if state.interest is not before:
            self._watchers.discard(session.group, state.type_url, before, stream)
            self._watchers.add(session.group, state.type_url, state.interest, stream)
            session.break_due = True
        return named

    # --- Changes ---------------------------------------------------------------------------------------------
    def publish(self, applied: Applied) -> None:
        """Have every stream that a change concerns brought up to date.

        Every change of the catalog must be published, merged with others or not, before its groups are asked for.
        """
        now = self._catalog.snapshots
        # A group may have vanished since, if this change is merged with a later one.
        changed = {group: by_type for group, by_type in applied.changed.items() if group in now}
        self.cohorts.outdate(self._snapshots, now, self._snapshots if applied.regrouped else changed)
        if applied.regrouped:
            before, self._snapshots = self._snapshots, dict(now)
            self._regroup(before.keys() ^ now.keys())
        self._snapshots.update((group, now[group]) for group in changed)
        for group, by_type in changed.items():
            for type_url, names in by_type.items():
                for stream in self._watchers.affected(group, type_url, names):
                    state = stream.states[type_url]
                    state.dirty = True
                    if stream.queued:
                        stream.due = None
                    else:
                        stream.queued, stream.due = True, state
                        self._ready.append(stream)

    def _regroup(self, groups: Set[str]) -> None:
        """Put every session into the group that takes its node now; what it has too much is then removed.

        ``groups`` are those that came or went.
        """
        for session, group in self._sessions.regroup(self._streams, groups):
            if group is None:
                refusal = StreamRefusedError(Status.PERMISSION_DENIED, f"no group takes node {session.node.id!r} now")
                for stream in session.streams:
                    stream.refusal = refusal
                    self._queue(stream)
                continue
            for stream in session.streams:
                for state in stream.states.values():
                    self._watchers.discard(session.group, state.type_url, state.interest, stream)
            session.group = group
            for stream in session.streams:
                for state in stream.states.values():
                    self._watchers.add(session.group, state.type_url, state.interest, stream)
                    state.dirty = True
                self._queue(stream)

    # --- What to do next -------------------------------------------------------------------------------------

    @property
    def restless(self) -> bool:
        """Say whether ``take_ready`` or ``take_events`` would return anything."""
        return bool(self._ready or self._events)

    def take_ready(self) -> list[Stream]:
        """Return the streams to poll now, each once, in the order in which something happened to them."""
        ready, self._ready = self._ready, []
        for stream in ready:
            stream.queued = False
        return [stream for stream in ready if stream in self._streams]

    def poll(self, stream: Stream, now: float) -> Part | None:
        """Return the next message for a stream that can take one, or None until it is ready again.

        Raises StreamRefusedError when the stream is to be ended, as when no group takes its node any more.
        """
        if (session := stream.session) is None:
            return None
        if stream.refusal is not None:
            raise stream.refusal
        if (part := self.carry(stream, now)) is not None:
            return part
        self._now = now
        part = self._next_part(stream, session, now)
        if part is not None:
            self._counters.count(part)
        return part

    def carry(self, stream: Stream, now: float) -> Part | None:
        """Do as ``poll`` does, but only if that takes no more than giving the stream what its cohort was given.

        None says nothing: ``poll``.
        """
        due, session = stream.due, stream.session
        if due is None or session is None or stream.refusal is not None:
            return None
        session.newest = self._snapshots[session.group]
        part = self._wave.carry(due, session, now)
        if part is not None:
            stream.due, stream.settled = None, True
        return part

    def _next_part(self, stream: Stream, session: Session, now: float) -> Part | None:
        session.newest = self._snapshots[session.group]
        due, stream.due = stream.due, None
        plain = due is not None and is_plain(due, session)
        part = session.poll(stream, now)
        if session.wake:
            self._wake(session)
        self._schedule(session, now)
        stream.settled = part is not None and session.settled(stream)
        if part is not None and due is not None and plain and due.outstanding is part:
            self._wave.settle(self._counters)
            self._wave.note(due, session)
        return part

    def grow_old(self) -> None:
        """Forget of what is kept for the next client what nobody has asked for lately. To be called now and then."""
        self._openings.grow_old()
        self.cohorts.grow_old()
        if is_sparse(self._streams):
            self._streams = dict(self._streams)

    @property
    def next_tick(self) -> float:
        """When to call ``tick`` next: infinity for never."""
        return self._timers.next

    def tick(self, now: float) -> None:
        """Look at all that was to happen by ``now``."""
        self._now = now
        for session in self._timers.due(now):
            for state in expire(session, now) if session.streams else ():
                self._counters.overdue += 1
                waited_s = now - state.sent_at
                self._events.append(overdue(session.node.id, session.group, state.type_url, state.nonce, waited_s))
            for stream in session.streams:
                self._queue(stream)
            session.timed = True
            self._schedule(session, now)

    def take_events(self) -> list[Event]:
        """Return what happened since the last call that an operator may have to know."""
        events = self._events[:]
        self._events.clear()
        return events

    def _queue(self, stream: Stream) -> None:
        """Have the stream polled for whatever there is."""
        stream.due = None
        if not stream.queued:
            stream.queued = True
            self._ready.append(stream)

    def _wake(self, session: Session) -> None:
        if session.wake:
            session.wake = False
            for stream in session.streams if len(session.streams) > 1 else ():
                if any(state.dirty or state.stage is Stage.MAKE for state in stream.states.values()):
                    self._queue(stream)

    def _schedule(self, session: Session, now: float) -> None:
        if not session.timed:
            return
        session.timed = False
        self._timers.set(session, deadline(session, now))
