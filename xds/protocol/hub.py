"""All streams of a server, between the catalog and the transports: bytes of requests in, bytes of responses out.

A transport calls ``receive`` with what a stream sent, then ``poll`` for each stream of ``take_ready`` until that stream
has nothing more to say, or can't take more: then it polls again once it can. Nothing is queued in between. ``now`` is
in seconds, on any clock that only goes forward. Here is what is not a value: who is connected, what is remembered of
nodes, when to look again, what was counted.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from sys import getsizeof

from xds.model.catalog import Catalog
from xds.model.changeset import Applied
from xds.model.snapshot import Snapshot
from xds.protocol.client_state import (
    NO_EFFECTS,
    NO_MARKS,
    NOT_BEGUN,
    Answered,
    ClientState,
    ClientStates,
    Effects,
    LargeRequests,
    Marks,
    Step,
    StepCache,
)
from xds.protocol.diff import Interned
from xds.protocol.draining import NOTHING_DRAINS, merge_draining
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.node_history import DrainingNodes, HistoryEntry, NackedNames, Share, share_with_nobody
from xds.protocol.order import Rules, StepContext
from xds.protocol.policy import Limits, Ordering, Stage, Variant
from xds.protocol.requests import (
    OUTLINE_BYTES_MIN,
    WIRE_FACTOR,
    Request,
    check_outline,
    decode,
    names_bytes,
    span_of_node,
)
from xds.protocol.responses import Encoding, Part, ResponseCache
from xds.protocol.sessions import Session, Sessions, Stream, Timers, WatchTable
from xds.protocol.status import Counters, Event, Refused, nacked, overdue
from xds.protocol.steps import NO_HISTORY, History, Steps
from xds.protocol.type_state import Kind, Rejection

TICKS_S = 4
"""The coarse clock's ticks a second: streams that are sent the same within one of them stand alike."""


def is_sparse(table: Mapping[Stream, object]) -> bool:
    """Say whether a table has room for many more than are in it: dictionaries keep what their most took."""
    return getsizeof(table) > 10_000 + 400 * len(table)


class Hub:
    """The streams and what they are owed.

    ``knows_type`` says whether a type URL is in the schema; other types are refused. ``share`` is called with what
    other hubs must know about nodes that may reconnect to them; they take it in with ``remember``.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        knows_type: Callable[[str], bool],
        ordering: Ordering | None = None,
        encoding: Encoding | None = None,
        limits: Limits | None = None,
        response_cache: ResponseCache | None = None,
        step_cache: StepCache | None = None,
        share: Share = share_with_nobody,
    ) -> None:
        self._snapshots = dict(catalog.snapshots)
        """What streams are brought to: the catalog's, as far as published. Between the two, order would be lost."""
        self._catalog = catalog
        self._ordering = ordering or Ordering()
        self._limits = limits or Limits()
        self.response_cache = response_cache or ResponseCache()
        self._interned = Interned()
        rules = Rules(self._ordering, encoding or Encoding(), self.response_cache, self._interned)
        self._client_states = ClientStates(self._ordering)
        self._steps = Steps(rules, self._client_states, self._limits, knows_type)
        self._starts: dict[tuple[str, Variant, bool], ClientState] = {}
        """By group, variant and whether it is gRPC's client: where a client stands that has said nothing yet."""
        self.step_cache = step_cache or StepCache()
        self._large = LargeRequests()
        self._watchers = WatchTable()
        self._sessions = Sessions(catalog, self._limits)
        self._streams: dict[Stream, None] = {}
        self._ready: list[Stream] = []
        self._timers = Timers()
        self._coarse = self._soon = 0.0
        self._nacked = NackedNames(
            nodes_max=self._limits.doubtful_nodes_max, bytes_max=self._limits.nacked_bytes_max, share=share
        )
        self._draining = DrainingNodes(
            nodes_max=self._limits.doubtful_nodes_max, bytes_max=self._limits.draining_bytes_max, share=share
        )
        self._events: list[Event] = []
        self._counters = Counters()
        self._nacked_by_node = self._nacked.by_node
        self._cohort_deliveries = 0
        self._cohort_part: Part | None = None

    # --- Streams -----------------------------------------------------------------------------------------------------

    @property
    def counters(self) -> Counters:
        """Totals since the start."""
        self._count_cohort()
        return self._counters

    @property
    def streams(self) -> Mapping[Stream, None]:
        """The open streams, oldest first."""
        return self._streams

    def snapshot(self, group: str) -> Snapshot:
        """Return the snapshot that a group's streams are brought to."""
        return self._snapshots[group]

    def remember(self, entry: HistoryEntry) -> None:
        """Take in what happened to a node on a stream of another hub."""
        self._nacked.remember(entry)
        self._draining.remember(entry)

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
        drained_at = self._soon + self._ordering.listener_drain_s
        for state in stream.states.values():
            self._watchers.discard(session.group, state.type_url, state.subscription, stream)
            self._draining.keep(session.node, state, drained_at)
        session.streams.remove(stream)
        if session.streams:
            step = self._steps.leave(session.client_state, self._context(session, self._coarse), stream.source)
            session.marks = NO_MARKS
            self._take(session, step)
            self._wake(session)
        else:
            self._sessions.forget(stream, session)

    # --- Requests ----------------------------------------------------------------------------------------------------

    def receive(self, stream: Stream, data: bytes, now: float) -> int:
        """Take one request; return how many names were looked through because it changes a subscription.

        Raises StreamRefusedError when it can't be served; the stream is then to be ended.
        """
        if self.take_ack(stream, data):
            return 0
        self._counters.requests += 1
        try:
            return self._receive(stream, data, now)
        except StreamRefusedError as refusal:
            self._counters.streams_refused += 1
            node_id = stream.session.node.id if stream.session is not None else ""
            self._events.append(Refused(node_id=node_id, status=refusal.status.name, message=refusal.message))
            raise

    def take_ack(self, stream: Stream, data: bytes) -> bool:
        """Take a request, if it is known as a mere ACK here and nothing follows from it; else it is to be received."""
        session = stream.session
        if session is None or session.marks or self._nacked_by_node:
            return False
        steps = session.client_state.steps
        step = steps.get(data) if steps is not None else None
        if step is None or not step.is_plain_ack or not step.after.settled:
            return False
        after = session.client_state = step.after
        after.arrivals += 1
        counters = self._counters
        counters.requests += 1
        counters.acks += 1
        return True

    def _receive(self, stream: Stream, data: bytes, now: float) -> int:
        self.advance_clock(now)
        session = stream.session
        start, end = span_of_node(stream.variant, data)
        plain = self._large.plain(data, (start, end))
        if session is not None and (not end or hash(data[start:end]) == session.node_hash):
            step = self._cached_step(session, plain)
            if step is not None:
                return self._take_request_step(stream, session, step, len(plain))
        if len(data) >= OUTLINE_BYTES_MIN:
            check_outline(stream.variant, data, self._limits)
        whole = None
        if end:
            about = decode(stream.variant, data[start:end])
        else:
            whole = about = decode(stream.variant, data)
            plain = b"" if about.HasField("node") else plain  # another encoder's: its node is anywhere
        if session is None or end or about.HasField("node"):
            session = self._sessions.of(stream, about, len(data), now, self._snapshots, self._start)
            if end:
                session.node_hash = hash(data[start:end])
            step = self._cached_step(session, plain)
            if step is not None:
                return self._take_request_step(stream, session, step, len(plain))
        request = whole if whole is not None else decode(stream.variant, plain)
        if whole is None and request.HasField("node"):
            request, plain = decode(stream.variant, data), b""
        return self._compute(stream, session, request, plain, len(plain) or len(data), now)

    def _compute(self, stream: Stream, session: Session, request: Request, plain: bytes, size: int, now: float) -> int:
        """Take a request that is not remembered; ``plain`` is what it is to be known by, if not empty."""
        before, source, context = session.client_state, stream.source, self._context(session, now)
        kind, is_known = self._steps.kind(before, source, request)
        if is_known:
            step = self._steps.later_request(before, context, source, kind, request, size)
        else:
            history = self._history(session, kind.type_url)
            step = self._steps.first_request(before, context, source, kind, request, size, history)
        if plain:
            self._large.keep(plain)
            if not step.marks:
                self.step_cache.add(before, plain, step)
        if step.marks:
            session.marks = NO_MARKS  # they are in the standing now
        names = self._take_request_step(stream, session, step, size)
        if not is_known and len(self._draining):
            self._note_draining(session, kind)  # it stays noted: the node may be back before this stream ends
        self._wake(session)
        return names

    def _cached_step(self, session: Session, plain: bytes) -> Step | None:
        """Return the step that a client takes now by what it says, if that is known."""
        steps = session.client_state.steps
        step = steps.get(plain) if steps is not None and plain else None
        if step is None or (step.tick is not None and step.tick != self._soon):
            return None
        if step.snapshot is not None and (session.marks or step.snapshot is not self._snapshots[session.group]):
            return None
        return None if step.effects.subscriptions and self._has_history(session) else step

    def _has_history(self, session: Session) -> bool:
        """Say whether anything is known of the node from earlier streams."""
        if not self._nacked_by_node and not len(self._draining):
            return False
        return self._nacked.knows(session.node) or self._draining.knows(session.node)

    def _history(self, session: Session, type_url: str) -> History:
        if not self._has_history(session):
            return NO_HISTORY
        return History(
            self._nacked.of(session.node, type_url),
            self._draining.of(session.node, type_url),
            warms=self._draining.warms(session.node),
        )

    def _take_request_step(self, stream: Stream, session: Session, step: Step, size: int) -> int:
        """Have a client stand where its request leads to; return how many names were looked through for that."""
        self._take(session, step)
        effects = step.effects
        if effects is not NO_EFFECTS:
            self._apply(stream, session, effects, size)
        elif step.acked is not None:
            self._counters.acks += 1
            if self._nacked_by_node:
                self._nacked.accept(session.node, step.acked.kind.type_url, step.acked.accepted_names)
        if session.marks or not step.after.settled:
            self._queue(stream)
        return effects.names_scanned

    def _take(self, session: Session, step: Step) -> None:
        """Have a client stand where a step leads to."""
        after = step.after
        session.client_state = after
        after.arrivals += 1
        if after.next_at < session.timer:
            self._timers.set(session, after.next_at)

    def _apply(self, stream: Stream, session: Session, effects: Effects, size: int) -> None:
        """Do what a step means beyond its client's standing."""
        group = session.group
        stream.warm = stream.warm or effects.reported
        for kind, before, after in effects.subscriptions:
            if before is not None:
                self._watchers.discard(group, kind.type_url, before, stream)
            self._watchers.add(group, kind.type_url, after, stream)
        for answered in effects.answered:
            self._note_answer(session, answered)
        for state in effects.draining:
            if state.draining or len(self._draining):
                self._note_draining(session, state.kind)
        if effects.adds_names:
            self._check_names_bytes(stream, size)

    def _note_answer(self, session: Session, answered: Answered) -> None:
        kind, part, error = answered
        if error is None:
            self._counters.acks += 1
            if self._nacked_by_node:
                self._nacked.accept(session.node, kind.type_url, answered.accepted_names)
            return
        self._counters.nacks += 1
        self._nacked.add(session.node, kind.type_url, part.name_set)
        if session.rejections is None:
            session.rejections = {}
        session.rejections[kind] = Rejection(part.nonce, error, part.versions)
        self._events.append(nacked(session.node.id, session.group, kind.type_url, part, error))

    def _note_draining(self, session: Session, kind: Kind) -> None:
        """Note what a client may be using of a type: of routes, each of its per-type streams knows its own alone."""
        if not kind.is_routing and kind.stage is not Stage.CLUSTERS:
            return
        states = [state for state in session.client_state.types if state.type_url == kind.type_url]
        draining = NOTHING_DRAINS
        for state in states:
            draining = merge_draining(draining, state.draining)
        names = None
        if session.per_type and kind.stage is not Stage.LISTENERS:
            names = frozenset[str]().union(*(state.subscription.names for state in states))
        self._draining.note(session.node, kind.type_url, draining, names)

    def _check_names_bytes(self, stream: Stream, size: int) -> None:
        """Refuse a stream whose names take too much memory, after it took a request that has names.

        They are counted only once a bound that follows from the requests' sizes is reached. Raises StreamRefusedError.
        """
        most = self._limits.names_bytes_max
        stream.names_bytes += WIRE_FACTOR * size
        if stream.names_bytes <= most:
            return
        stream.names_bytes = sum(map(names_bytes, stream.states.values()))
        if stream.names_bytes > most:
            raise StreamRefusedError(
                Status.RESOURCE_EXHAUSTED,
                f"the names of this stream take {stream.names_bytes} bytes, at most {most} are kept (names_bytes_max)",
            )

    # --- What steps are taken by -------------------------------------------------------------------------------------

    def advance_clock(self, now: float) -> float:
        """Have the coarse clock tell the time, if it went forward; return its next tick."""
        if now < self._soon:
            return self._soon
        coarse = (now * TICKS_S) // 1 / TICKS_S
        self._coarse = max(self._coarse, coarse)
        self._soon = max(self._soon, coarse if coarse == now else coarse + 1 / TICKS_S)
        return self._soon

    def _context(self, session: Session, now: float) -> StepContext:
        return StepContext(self._snapshots[session.group], self._coarse, self._soon, now, session.marks)

    def _start(self, group: str, variant: Variant, is_grpc: bool) -> ClientState:
        """Return where a client of a group stands that has said nothing yet."""
        key = (group, variant, is_grpc)
        start = self._starts.get(key)
        if start is None:
            start = self._starts[key] = self._client_states.new((), NOT_BEGUN)
        start.arrivals += 1
        return start

    # --- Changes -----------------------------------------------------------------------------------------------------
    def publish(self, applied: Applied) -> None:
        """Have every stream that a change concerns brought up to date.

        Every change of the catalog must be published, merged with others or not, before its groups are asked for.
        """
        now = self._catalog.snapshots
        # A group may have vanished since, if this change is merged with a later one.
        changed = {group: by_type for group, by_type in applied.changed.items() if group in now}
        self.response_cache.drop_replaced(self._snapshots, now, self._snapshots if applied.regrouped else changed)
        for group in tuple(self._snapshots) if applied.regrouped else changed:
            if group in self._snapshots and self._snapshots[group] is not now.get(group):
                self.step_cache.drop_snapshot(self._snapshots[group])
        if applied.regrouped:
            before, self._snapshots = self._snapshots, dict(now)
            self._starts = {key: start for key, start in self._starts.items() if key[0] in now}
            self._regroup(before.keys() ^ now.keys())
        self._snapshots.update((group, now[group]) for group in changed)
        for group, by_type in changed.items():
            for type_url, names in by_type.items():
                self._mark(((0, type_url),), type_url, self._watchers.affected(group, type_url, names))

    def _mark(self, first: Marks, type_url: str, streams: Iterable[Stream]) -> None:
        """Have streams told of a change of a type; ``first`` is the mark of a session's first stream."""
        ready = self._ready
        for stream in streams:
            session = stream.session
            assert session is not None
            mark = first if not stream.slot else ((stream.slot, type_url),)
            marks = session.marks
            session.marks = mark if not marks else (marks if mark[0] in marks else marks + mark)
            if not stream.queued:
                stream.queued = True
                ready.append(stream)

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
                stream.refusal = None
            if group == session.group:
                continue
            before, session.group = session.group, group
            session.marks = tuple((state.kind.slot, state.type_url) for state in session.client_state.types)
            for stream in session.streams:
                for state in stream.states.values():
                    self._watchers.discard(before, state.type_url, state.subscription, stream)
                    self._watchers.add(group, state.type_url, state.subscription, stream)
                self._queue(stream)

    # --- What to do next ---------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
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
        before, marks = session.client_state, session.marks
        if before.settled and (not marks or before.is_blocked(marks)):
            return None
        self.advance_clock(now)
        if (part := self.poll_cohort(stream)) is not None:
            return part
        newest, step = self._snapshots[session.group], before.next_step
        if (
            step is None
            or step.snapshot is not newest
            or step.marks != marks
            or step.tick != self._soon
            or session.per_type
        ):
            step = self._steps.advance(before, self._context(session, now), stream.source)
            self.step_cache.add_next(before, step)
        session.marks = NO_MARKS
        session.newest = newest
        self._take(session, step)
        for state in step.effects.draining:
            self._note_draining(session, state.kind)
        if step.part is not None:
            self._counters.count(step.part)
        if step.after is not before:
            self._wake(session, stream)
        return step.part

    def poll_cohort(self, stream: Stream) -> Part | None:
        """Do as ``poll`` does, but only if that takes no more than giving the stream what its cohort was given.

        None says nothing: ``poll``. The coarse clock is that of the last ``poll``, ``receive`` or ``tick``.
        """
        session = stream.session
        if session is None or stream.refusal is not None:
            return None
        step = session.client_state.next_step
        if step is None or step.marks is not session.marks or step.tick != self._soon:
            return None
        part, newest = step.part, self._snapshots[session.group]
        if part is None or step.snapshot is not newest or step.effects is not NO_EFFECTS:
            return None
        session.marks, session.newest = NO_MARKS, newest
        after = step.after
        session.client_state = after
        after.arrivals += 1
        if after.next_at < session.timer:
            self._timers.set(session, after.next_at)
        if part is not self._cohort_part:
            self._count_cohort()
            self._cohort_part = part
        self._cohort_deliveries += 1
        return part

    def _count_cohort(self) -> None:
        """Count the deliveries of one part to a cohort: one by one that would cost as much as they do."""
        if self._cohort_part is not None:
            self._counters.count(self._cohort_part, self._cohort_deliveries)
        self._cohort_deliveries, self._cohort_part = 0, None

    def evict_idle(self) -> None:
        """Forget of what is kept for the next client what nobody has asked for lately. To be called now and then."""
        self._large.evict_idle()
        self.step_cache.evict_idle()
        self.response_cache.evict_idle()
        if is_sparse(self._streams):
            self._streams = dict(self._streams)

    @property
    def next_tick(self) -> float:
        """When to call ``tick`` next: infinity for never."""
        return self._timers.next

    def tick(self, now: float) -> None:
        """Look at all that was to happen by ``now``."""
        self.advance_clock(now)
        for session, at in self._timers.due(now):
            if not session.streams:
                continue
            self._coarse, self._soon = max(self._coarse, at), max(self._soon, at)
            stream = session.streams[0]
            step = self._steps.expire(session.client_state, self._context(session, now), stream.source)
            session.marks = NO_MARKS
            session.client_state = step.after
            step.after.arrivals += 1
            for kind, nonce, waited_s in step.effects.overdue:
                self._counters.overdue += 1
                self._events.append(overdue(session.node.id, session.group, kind.type_url, nonce, waited_s))
            for each in session.streams:
                self._queue(each)
            if step.after.next_at > self._coarse and step.after.next_at < session.timer:
                self._timers.set(session, step.after.next_at)

    def take_events(self) -> list[Event]:
        """Return what happened since the last call that an operator may have to know."""
        events = self._events[:]
        self._events.clear()
        return events

    def _queue(self, stream: Stream) -> None:
        """Have the stream polled for whatever there is."""
        if not stream.queued:
            stream.queued = True
            self._ready.append(stream)

    def _wake(self, session: Session, polled: Stream | None = None) -> None:
        """Have the session's other streams polled, which may have waited for what just happened."""
        if len(session.streams) == 1:
            return
        waiting = {state.kind.slot for state in session.client_state.types if state.dirty or state.remaining}
        if session.client_state.order.check_removals:
            waiting.update(
                state.kind.slot for state in session.client_state.types if state.kind.stage is Stage.CLUSTERS
            )
        for stream in session.streams:
            if stream is not polled and stream.slot in waiting:
                self._queue(stream)
