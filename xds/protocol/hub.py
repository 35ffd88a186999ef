"""All streams of a server, between the catalog and the transports: bytes of requests in, bytes of responses out.

It does not know sockets or clocks: a transport calls ``receive`` with what a stream sent, then ``poll`` for each stream
of ``take_ready`` until that stream has nothing more to say, or can't take more: then it polls again once it can.
Nothing is queued in between. ``now`` is in seconds, on any clock that only goes forward.
"""

from collections.abc import Callable, Mapping

from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest
from xds.model.catalog import Catalog
from xds.model.changeset import Applied
from xds.model.groups import Node
from xds.model.snapshot import Snapshot
from xds.model.types import ENDPOINTS, ROUTE, VIRTUAL_HOST
from xds.protocol.deadlines import deadline, expire
from xds.protocol.doubts import Doubts
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.events import Counters, Event, Refused, nacked, overdue
from xds.protocol.identity import describe_node, same_node
from xds.protocol.interest import Interests
from xds.protocol.leftovers import Leftovers
from xds.protocol.plain_acks import PlainAcks
from xds.protocol.policy import Stage
from xds.protocol.requests import (
    Request,
    begin_delta,
    begin_sotw,
    change_delta,
    change_sotw,
    check_size,
    claims_something,
    decode,
    error_of,
    type_of,
)
from xds.protocol.response import Cohorts, Encoding, Part
from xds.protocol.session import Session
from xds.protocol.state import TypeState, Variant
from xds.protocol.stream import Limits, Ordering, Stream
from xds.protocol.timers import Timers
from xds.protocol.watchers import WatchTable
from xds.protocol.wave import Wave, is_plain


class Hub:
    """The streams and what they are owed.

    ``knows_type`` says whether a type URL is one of the schema; others are refused.
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
    ) -> None:
        self._catalog = catalog
        self._snapshots = dict(catalog.snapshots)
        """What streams are brought to: the catalog's, as far as published. Between the two, order would be lost."""
        self._knows_type = knows_type
        self._ordering = ordering or Ordering()
        self._encoding = encoding or Encoding()
        self._limits = limits or Limits()
        self.cohorts = cohorts or Cohorts()
        self._interests = Interests()
        self._plain_acks = PlainAcks()
        self._wave = Wave()
        self._watchers = WatchTable()
        self._sessions: dict[tuple[str, Node], Session] = {}
        self._streams: dict[Stream, None] = {}
        self._ready: list[Stream] = []
        self._timers = Timers()
        self._now = 0.0
        self._doubts = Doubts(nodes_max=self._limits.doubtful_nodes_max)
        self._leftovers = Leftovers(nodes_max=self._limits.doubtful_nodes_max)
        self._events: list[Event] = []
        self.counters = Counters()

    # --- Streams ---------------------------------------------------------------------------------------------

    @property
    def streams(self) -> Mapping[Stream, None]:
        """The open streams, oldest first."""
        return self._streams

    def snapshot(self, group: str) -> Snapshot:
        """Return the snapshot that a group's streams are brought to."""
        return self._snapshots[group]

    def open(self, variant: Variant, *, type_url: str = "", connection: str = "") -> Stream:
        """Take in a new stream: aggregated, or of one type. ``connection`` tells which streams share one."""
        stream = Stream(variant, type_url, connection)
        self._streams[stream] = None
        self.counters.streams_opened += 1
        return stream

    def close(self, stream: Stream) -> None:
        """Forget a stream that ended, however it did."""
        if stream not in self._streams:
            return
        del self._streams[stream]
        self.counters.streams_closed += 1
        session = stream.session
        if session is None:
            return
        for state in stream.states.values():
            self._watchers.discard(session.group, state.type_url, state.interest, stream)
            self._leftovers.keep(session.node, state)
        session.leave(stream, self._now)
        if session.streams:
            self._wake(session)
            self._schedule(session, self._now)
        else:
            key = (stream.connection, session.node)
            if self._sessions.get(key) is session:
                del self._sessions[key]

    def receive(self, stream: Stream, data: bytes, now: float) -> None:
        """Take one request. Raises StreamRefusedError when it can't be served; the stream is then to be ended."""
        self.counters.requests += 1
        self._now = now
        state = self._plain_acks.take(stream, data) if not len(self._doubts) else None
        if state is not None:
            self.counters.acks += 1
            if state.dirty:
                self._queue(stream)
            return
        try:
            self._receive(stream, data, now)
        except StreamRefusedError as refusal:
            self.counters.streams_refused += 1
            node_id = stream.session.node.id if stream.session is not None else ""
            self._events.append(Refused(node_id=node_id, status=refusal.status.name, message=refusal.message))
            raise

    def _receive(self, stream: Stream, data: bytes, now: float) -> None:
        request = decode(stream.variant, data)
        session = self._session_of(stream, request)
        type_url = type_of(stream, request, self._knows_type, self._limits.types_max)
        state = stream.states.get(type_url)
        if state is None:
            state = self._begin(stream, session, type_url, request, now)
        else:
            self._continue(stream, session, state, request, now)
        self._plain_acks.learn(session, request, data)
        if session.absent and type_url == ENDPOINTS:
            session.asked_for_endpoints()
        if type_url in (ROUTE, VIRTUAL_HOST):
            session.ask_virtual_hosts()
        self._queue(stream)
        self._wake(session)
        self._schedule(session, now)

    def _session_of(self, stream: Stream, request: Request) -> Session:
        if stream.session is not None:
            if request.HasField("node") and not same_node(stream.session.node, request.node):
                raise StreamRefusedError(
                    Status.INVALID_ARGUMENT,
                    f"this stream is of node {stream.session.node.id!r}, a later request says {request.node.id!r}",
                )
            return stream.session
        if not request.HasField("node") or not request.node.id:
            raise StreamRefusedError(
                Status.INVALID_ARGUMENT, "the first request of a stream must carry a node with an id"
            )
        node = describe_node(request.node)
        group = self._catalog.group_of(node)
        if group is None:
            raise StreamRefusedError(Status.PERMISSION_DENIED, f"no group takes node {node.id!r}")
        # The whole node, not its id alone: a proxy may bring several clients on one connection.
        session = None if stream.aggregated else self._sessions.get((stream.connection, node))
        if session is None:
            newest = self._snapshots[group]
            session = Session(node, group, newest, self._ordering, self._encoding, self.cohorts)
            if not stream.aggregated:
                self._sessions[stream.connection, node] = session
        session.streams.append(stream)
        stream.session = session
        return session

    def _begin(self, stream: Stream, session: Session, type_url: str, request: Request, now: float) -> TypeState:
        state = TypeState(type_url, stream.variant, self._interests.get(False, ()))
        check_size(state.interest, type_url, request, self._limits.subscriptions_max)
        view = session.newest.view(type_url)
        if state.stage is Stage.MAKE and claims_something(request):
            session.returned(now)
        stuck = type_url == ENDPOINTS and stream.aggregated and not stream.states
        if stuck or (not stream.aggregated and state.switches and claims_something(request)):
            session.stuck_since = now if session.stuck_since is None else session.stuck_since
            session.timed = True
        doubts = self._doubts.of(session.node, type_url)
        if isinstance(request, DeltaDiscoveryRequest):
            begin_delta(state, request, self._interests, view, None if stuck else doubts)
        else:
            begin_sotw(state, request, self._interests, view, None if stuck or doubts else self.cohorts)
        if doubts:
            state.unknown = set(doubts)
        if type_url == ENDPOINTS and session.warming and state.view is not None:
            state.ask([name for name in session.warming if state.interest.wants(name)])
        if len(self._leftovers):
            drained_at = now + self._ordering.listener_drain_s
            self._leftovers.hand_on(session.node, state, view, drained_at)
        stream.add(state)
        if state.stage is Stage.MAKE:
            session.clusters.append(state)
        self._watchers.add(session.group, state.type_url, state.interest, stream)
        return state

    def _continue(self, stream: Stream, session: Session, state: TypeState, request: Request, now: float) -> None:
        check_size(state.interest, state.type_url, request, self._limits.subscriptions_max)
        before = state.interest
        error = error_of(request)
        if isinstance(request, DeltaDiscoveryRequest):
            if state.outstanding is not None and request.response_nonce == state.outstanding.nonce:
                self._answer(session, state, error, now)
            elif error is not None and state.superseded is not None:
                self._answer_late(session, state, request.response_nonce, error)
            change_delta(state, request, self._interests)
        else:
            renewal = bool(state.heartbeat_nonce) and request.response_nonce == state.heartbeat_nonce
            if request.response_nonce != state.nonce and not renewal:
                return  # stale: the client repeats it with the present nonce
            expected = state.outstanding is not None or (renewal and state.heartbeat_unacked)
            repeated = not expected and error is None and bool(state.nonce)
            state.heartbeat_unacked = state.heartbeat_unacked and not renewal
            # Envoy answers only the last of several responses that it got while its clusters warm.
            self._answer(session, state, error, now)
            change_sotw(state, request, self._interests, repeated=repeated)
        if state.interest is not before:
            self._watchers.discard(session.group, state.type_url, before, stream)
            self._watchers.add(session.group, state.type_url, state.interest, stream)
            session.break_due = True

    def _answer(self, session: Session, state: TypeState, error: str | None, now: float) -> None:
        part = session.answered(state, error, now)
        if part is not None and error is not None:
            self._note_nack(session, state, part, error)
        elif part is not None:
            self.counters.acks += 1
            if len(self._doubts):
                self._doubts.settle(session.node, state.type_url, part.names)

    def _answer_late(self, session: Session, state: TypeState, nonce: str, error: str) -> None:
        """Take a NACK of a response that was given up on; its ACK would change nothing."""
        part = state.superseded
        if part is not None and part.nonce == nonce:
            state.superseded = None
            state.reject(part, error)
            self._note_nack(session, state, part, error)

    def _note_nack(self, session: Session, state: TypeState, part: Part, error: str) -> None:
        self.counters.nacks += 1
        self._doubts.add(session.node, state.type_url, part.names)
        self._events.append(nacked(session.node.id, session.group, state.type_url, part, error))

    # --- Changes ---------------------------------------------------------------------------------------------
    def publish(self, applied: Applied) -> None:
        """Have every stream that a change concerns brought up to date.

        Every change of the catalog must be published, merged with others or not, before its groups are asked for.
        """
        if applied.regrouped:
            self._snapshots = dict(self._catalog.snapshots)
            self._regroup()
        # A group may have vanished since, if this change is merged with a later one.
        changed = {group: by_type for group, by_type in applied.changed.items() if group in self._catalog.snapshots}
        self._snapshots.update((group, self._catalog.snapshots[group]) for group in changed)
        for group, by_type in changed.items():
            for type_url, names in by_type.items():
                for stream in self._watchers.affected(group, type_url, names):
                    state = stream.states[type_url]
                    state.dirty = True
                    self._queue(stream, due=state)

    def _regroup(self) -> None:
        """Put every session into the group that takes its node now; what it has too much is then removed."""
        for session in {id(s.session): s.session for s in self._streams if s.session is not None}.values():
            group = self._catalog.group_of(session.node)
            if group is not None:
                for stream in session.streams:
                    stream.refusal = None
            if group == session.group:
                continue
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
        session = stream.session
        if session is None:
            return None
        if stream.refusal is not None:
            raise stream.refusal
        self._now = now
        session.newest = self._snapshots[session.group]
        part = self._next_part(stream, session, now)
        if part is None:
            return None
        counters = self.counters
        counters.responses += 1
        counters.response_bytes += len(part.message)
        counters.resources_sent += len(part.upserts)
        counters.removals_sent += len(part.removals)
        counters.heartbeats += part.is_heartbeat
        return part

    def _next_part(self, stream: Stream, session: Session, now: float) -> Part | None:
        due, stream.due = stream.due, None
        plain = due is not None and is_plain(due, session)
        part = self._wave.carry(due, session, now) if due is not None and plain else None
        if part is not None:
            stream.settled = True
            return part
        part = session.poll(stream, now)
        if session.wake:
            self._wake(session)
        self._schedule(session, now)
        stream.settled = part is not None and session.settled(stream)
        if part is not None and due is not None and plain and due.outstanding is part:
            self._wave.note(due)
        return part

    @property
    def next_tick(self) -> float:
        """When to call ``tick`` next: infinity for never."""
        return self._timers.next

    def tick(self, now: float) -> None:
        """Look at all that was to happen by ``now``."""
        self._now = now
        for session in self._timers.due(now):
            for state in expire(session, now) if session.streams else ():
                self.counters.overdue += 1
                waited_s = now - state.sent_at
                self._events.append(overdue(session.node.id, session.group, state.type_url, state.nonce, waited_s))
            for stream in session.streams:
                self._queue(stream)
            session.timed = True
            self._schedule(session, now)

    def take_events(self) -> list[Event]:
        """Return what happened since the last call that an operator may have to know."""
        events, self._events = self._events, []
        return events

    def _queue(self, stream: Stream, due: TypeState | None = None) -> None:
        """Have the stream polled; ``due``: for nothing but this type."""
        if stream.queued:
            stream.due = None
            return
        stream.queued, stream.due = True, due
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
