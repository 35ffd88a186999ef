"""All streams of a process: bytes of requests in, bytes of responses out.

A transport calls ``receive`` with each request. For each stream in ``take_ready`` it then calls ``poll`` until the
stream has no more messages, or cannot take more; in that case it polls again once the stream can. No response is queued
in between. ``now`` is in seconds, on any monotonic clock. The hub holds the mutable state of the protocol: the
connected streams, the node history, the timers and the counters.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from sys import getsizeof

from xds.model.catalog import Catalog
from xds.model.changeset import Applied
from xds.model.identity import ANONYMOUS, Peer
from xds.model.resource import Resource
from xds.model.snapshot import Snapshot
from xds.model.types import SECRET
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
    add_mark,
    debt_with,
)
from xds.protocol.convergence import EVERYTHING, NO_DEBT, Acceptance, Convergence, Debt
from xds.protocol.diff import Interned
from xds.protocol.draining import NOTHING_DRAINS, merge_draining
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.inspection import Inspector
from xds.protocol.largest_subscribers import largest_subscribers
from xds.protocol.measures import NOBODY, Cohort, Cohorts, Commits, Measures
from xds.protocol.nack_history import NackHistory
from xds.protocol.node_history import DrainingNodes, HistoryEntry, NackedNames, Share, share_with_nobody
from xds.protocol.order import Rules, StepContext
from xds.protocol.policy import Limits, Ordering, Stage, Variant, policy_of
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
from xds.protocol.session_watch import SessionWatch, Unwatched
from xds.protocol.sessions import (
    WITHOUT_SECRETS,
    Regrouping,
    Session,
    Sessions,
    Stream,
    Timers,
    WatchTable,
    audience_of,
)
from xds.protocol.status import Counters, Event, Refused, SecretsWithheld, UnknownType, nacked, overdue
from xds.protocol.steps import NO_HISTORY, History, Steps
from xds.protocol.type_state import Kind, Rejection, with_rejection
from xds.protocol.unexamined import Unexamined, UnexaminedNacks

TICKS_S = 4
"""Ticks of the coarse clock per second. Streams that are sent the same within one tick share a client state."""
CATCH_UP_S, CATCH_UP_EVERY_S = 2.0, 20.0
"""For how long timeouts wait for what is to be read after the process stood still, and how often they do at most."""
REGROUPED_AT_ONCE = 1_000
EXAMINED_AT_ONCE = 100
"""Resources of a rejected response that are searched for secrets at once: 0.1 ms each. Of more, ``examine_some``."""
SYNCED_AFTER_S = 1.0
"""A client has synced once it has accepted everything and then subscribed to nothing new for this long."""
NOT_SYNCED = float("inf")
"""The time of a client that has not accepted everything that it subscribed to so far (``Hub._syncing``)."""


def is_sparse(table: Mapping[Stream, object]) -> bool:
    """Say whether a table takes much more memory than its entries need: dictionaries do not shrink."""
    return getsizeof(table) > 10_000 + 400 * len(table)


def _without_secrets(whole: Snapshot) -> Snapshot:
    views = {type_url: view for type_url, view in whole.views.items() if type_url != SECRET}
    return Snapshot(whole.group, whole.revision, views, whole.empty)


Hider = Callable[[Sequence[Resource]], Callable[[str], str]]
"""Takes resources to the function that hides their secrets in a text. It remembers what it finds in each of them."""


class Hub:
    """The streams of a process, and the responses to them.

    ``knows_type`` says whether a type URL is in the schema; others have no resources. ``share`` is called with each new
    entry of the node history; the caller must pass it to ``remember`` of every other process's hub. ``watch`` is
    called for the sessions. ``hider`` returns the function that takes the secrets of rejected resources out of what a
    client says of them: nothing else of that is kept, logged or shown.
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
        watch: SessionWatch | None = None,
        hider: Hider = lambda _resources: lambda text: text,
    ) -> None:
        self._snapshots = dict(catalog.snapshots)
        """The published snapshots, to which streams are updated, by audience.

        The catalog may already have newer ones. Until all sessions are regrouped, those of removed groups stay.
        """
        self._regrouping = Regrouping(catalog.snapshots)
        self._watch = watch or Unwatched()
        self._measures, self._commits = Measures(), Commits()
        self._convergence = Convergence(self._note_accepted, self._count_acks)
        self.revision = catalog.revision
        """The published revision, to which streams are updated."""
        self._catalog = catalog
        self._ordering = ordering or Ordering()
        self._limits = limits or Limits()
        self.response_cache = response_cache or ResponseCache()
        self._interned = Interned()
        rules = Rules(self._ordering, encoding or Encoding(), self.response_cache, self._interned)
        self._client_states = ClientStates(self._ordering)
        self._knows_type = knows_type
        self._hider = hider
        self._hiding: tuple[Part | None, Callable[[str], str]] = (None, lambda text: text)
        """The part that was rejected last, by one stream or by thousands, and its function of ``hider``."""
        self._unexamined, self._examined = UnexaminedNacks(), 0  # and how many resources of the first are searched
        self._steps = Steps(rules, self._client_states, self._limits, knows_type)
        self._starts: dict[tuple[str, Variant, bool], ClientState] = {}
        """Group, variant and whether it is gRPC's client, to the initial client state."""
        self.step_cache = step_cache or StepCache()
        self._large = LargeRequests()
        self._watchers = WatchTable()
        self._sessions = Sessions(catalog, self._limits)
        self._streams: dict[Stream, None] = {}
        self._ready: list[Stream] = []
        self._timers = Timers()
        self._now, self._coarse, self._soon, self._resume_at = 0.0, 0.0, 0.0, -CATCH_UP_EVERY_S
        self._nacked = NackedNames(
            nodes_max=self._limits.doubtful_nodes_max, bytes_max=self._limits.nacked_bytes_max, share=share
        )
        self._draining = DrainingNodes(
            nodes_max=self._limits.doubtful_nodes_max, bytes_max=self._limits.draining_bytes_max, share=share
        )
        self.nacks = NackHistory()
        """The last NACKs of each node, for operators."""
        self._events: list[Event] = []
        self._counters, self._cohorts = Counters(), Cohorts()
        self._nacked_by_node = self._nacked.by_node
        self._syncing: dict[Session, float] = {}

    # --- Streams -----------------------------------------------------------------------------------------------------

    @property
    def counters(self) -> Counters:
        """Totals since the process started."""
        self._count_cohorts()
        self._convergence.flush()
        return self._counters

    @property
    def measures(self) -> Measures:
        """What was counted by group and type, and measured, since the last ``take_measures``."""
        self._count_cohorts()
        self._convergence.flush()
        self._measures.count_looked_up(*self.response_cache.take_counts())
        return self._measures

    def take_measures(self) -> Measures:
        """Return what was counted and measured since the last call, and begin anew."""
        measures, self._measures = self.measures, Measures()
        return measures

    @property
    def client_states(self) -> int:
        """The number of different states that clients without responses in flight share: the cohorts."""
        return len(self._client_states)

    @property
    def streams(self) -> Mapping[Stream, None]:
        """The open streams, oldest first."""
        return self._streams

    def snapshot(self, group: str) -> Snapshot:
        """Return the snapshot that a group's streams are updated to."""
        return self._snapshots[group]

    @property
    def evicted_nodes(self) -> tuple[int, int]:
        """How many nodes' NACKs, and how many nodes' draining resources, were dropped for others since the start."""
        return self._nacked.evicted, self._draining.evicted

    def acceptance(self, group: str, revision: int) -> Acceptance:
        """Return how many of a group's clients have accepted a published revision."""
        return self._convergence.at(group, revision)

    def debts(self) -> dict[str, dict[Debt, int]]:
        """Return the numbers of clients by group and by what they owe."""
        return self._convergence.counts()

    def inspector(self, session: Session, now: float) -> Inspector:
        """Return what looks at one client in full."""
        self.advance_clock(now)
        draft = self._steps.peek(session.client_state, self._context(session, now), per_type=session.per_type)
        return Inspector(session, draft, self.nacks.of(session.node))

    def remember(self, entry: HistoryEntry) -> None:
        """Add an entry of the node history from the hub of another process."""
        self._nacked.remember(entry)
        self._draining.remember(entry)

    def open(self, variant: Variant, *, type_url: str = "", connection: str = "", peer: Peer = ANONYMOUS) -> Stream:
        """Open a stream: aggregated, or with ``type_url`` of one type. ``connection`` identifies its connection.

        ``peer`` is what the transport knows of the client.
        """
        stream = Stream(variant, type_url, connection, peer)
        self._streams[stream] = None
        self._counters.streams_opened += 1
        return stream

    def close(self, stream: Stream, why: str = "") -> None:
        """Remove a stream that ended. ``why`` is said of its session if the stream is its last."""
        if stream not in self._streams:
            return
        del self._streams[stream]
        self._counters.streams_closed += 1
        if (session := stream.session) is None:
            return
        drained_at = self._soon + self._ordering.listener_drain_s
        for state in stream.states.values():
            self._watchers.discard(session.group, state.type_url, state.subscription, stream)
            self._draining.keep(session.node, state, drained_at, warms=not session.is_grpc)
        session.streams.remove(stream)
        debt = debt_with(session.client_state.debt, session.marks)
        accepted = debt.accepted(self.revision) if session.client_state.types else 0
        if session.streams:
            self._watch.shrank(session, accepted)
            step = self._steps.leave(session.client_state, self._context(session, self._coarse), stream.source)
            session.marks = NO_MARKS
            self._take(session, step)
            self._wake(session)
        else:
            self._convergence.remove(session.group, debt)
            self._timers.end(session)
            self._sessions.forget(stream, session)
            self._watch.ended(session, accepted, why)
            self._end_sync(session)

    # --- Requests ----------------------------------------------------------------------------------------------------

    def receive(self, stream: Stream, data: bytes, now: float) -> int:
        """Apply one request; return how many names were looked at if it changes a subscription, else 0.

        Raises StreamRefusedError if the request is invalid; the transport must then end the stream.
        """
        if self.take_ack(stream, data, now):
            return 0
        self._counters.requests += 1
        try:
            return self._receive(stream, data, now)
        except StreamRefusedError as refusal:
            self._counters.streams_refused += 1
            self._measures.of(*NOBODY).requests += 1
            if refusal.status is Status.PERMISSION_DENIED:
                self._counters.nodes_denied += 1
            self._note_refusal(stream, refusal)
            raise

    def _note_refusal(self, stream: Stream, refusal: StreamRefusedError) -> None:
        node_id = refusal.node_id or (stream.session.node.id if stream.session is not None else "")
        status, identity = refusal.status.name, stream.peer.identity
        event = Refused(
            node_id=node_id, status=status, message=refusal.message, identity=identity, address=stream.address
        )
        self._events.append(event)

    def take_ack(self, stream: Stream, data: bytes, now: float) -> bool:
        """Apply a request if it is a cached plain ACK after which nothing is sent; else return False.

        A node with NACKed names takes no shortcut, since an ACK may clear names.
        """
        session = stream.session
        if session is None or session.marks or (self._nacked_by_node and self._nacked.knows(session.node)):
            return False
        steps = session.client_state.steps
        step = steps.get(data) if steps is not None else None
        if step is None or not step.is_plain_ack or not step.after.settled:
            return False
        after = session.client_state = step.after
        after.arrivals += 1
        run = self._convergence.run
        if step.acked is run.answered and session.group is run.group and now < run.until:
            run.count += 1
        else:
            self._begin_acks(session, step, now)
        return True

    def _begin_acks(self, session: Session, step: Step, now: float) -> None:
        """Count an ACK that is another one than the last, the first of several equal ones, or one that syncs."""
        self._convergence.begin(session.group, step.debts, now, step.acked)
        if self._note_sync(session, step, now):
            self._convergence.interrupt()  # so that each of the same is noted

    def _count_acks(self, answered: object, group: str, count: int) -> None:
        """Count equal ACKs within a short time."""
        assert isinstance(answered, Answered)
        self._counters.requests += count
        self._counters.acks += count
        traffic = self._measures.of(group, answered.kind.type_url)
        traffic.requests += count
        traffic.acks += count

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
            plain = b"" if about.HasField("node") else plain  # not written in field order: the node is somewhere in it
        if session is None or end or about.HasField("node"):
            is_new = session is None
            session = self._sessions.of(stream, about, len(data), now, self._newest, self._start)
            if is_new and len(session.streams) == 1:
                self._convergence.add(session.group, session.client_state.debt)
                self._watch.began(session)
                self._syncing[session] = NOT_SYNCED
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
        """Compute and apply the step of a request. It is cached under ``plain`` unless that is empty."""
        self._measures.count_computed(requests=1)
        before, source, context = session.client_state, stream.source, self._context(session, now)
        kind, is_known = self._steps.kind(before, source, request)
        if is_known:
            step = self._steps.later_request(before, context, source, kind, request, size)
        else:
            history = self._history(session, kind.type_url)
            step = self._steps.first_request(before, context, source, kind, request, size, history)
            if not self._knows_type(kind.type_url):
                self._events.append(UnknownType(node_id=session.node.id, group=session.group, type_url=kind.type_url))
            if history.nacked:
                reason = self._nacked.reason(session.node, kind.type_url)
                self._note_rejection(session, kind, Rejection("", reason, {}))
        step.requested = kind.type_url
        if plain:
            self._large.keep(plain)
            if not step.marks:
                self.step_cache.add(before, plain, step)
        if step.marks:
            session.marks = NO_MARKS  # they are in the client state now
        names = self._take_request_step(stream, session, step, size)
        if not is_known and len(self._draining):
            self._note_draining(session, kind)  # it stays recorded: the node may reconnect before this stream ends
        self._wake(session)
        return names

    def _cached_step(self, session: Session, plain: bytes) -> Step | None:
        """Return the cached step for a request, if it is valid now."""
        steps = session.client_state.steps
        step = steps.get(plain) if steps is not None and plain else None
        if step is None or (step.tick is not None and step.tick != self._soon):
            return None
        if step.snapshot is not None and (session.marks or step.snapshot is not self._snapshots[session.audience]):
            return None
        return None if step.effects.subscriptions and self._has_history(session) else step

    def _has_history(self, session: Session) -> bool:
        """Say whether the node history has entries of the node."""
        if not self._nacked_by_node and not len(self._draining):
            return False
        return self._nacked.knows(session.node) or self._draining.knows(session.node)

    def _history(self, session: Session, type_url: str) -> History:
        if not self._has_history(session):
            return NO_HISTORY
        nacked, draining = self._nacked.of(session.node, type_url), self._draining.of(session.node, type_url)
        warms = self._draining.warms(session.node)
        return History(nacked, draining, warms=warms) if nacked or draining or warms else NO_HISTORY

    def _take_request_step(self, stream: Stream, session: Session, step: Step, size: int) -> int:
        """Apply the step of a request; return how many names were looked at."""
        self._take(session, step)
        effects = step.effects
        if effects is not NO_EFFECTS:
            self._apply(stream, session, effects, size)
        elif step.acked is not None:
            self._note_answer(session, step.acked)
        self._measures.of(session.group, step.requested).requests += 1
        if session.marks or not step.after.settled:
            self._queue(stream)
        return effects.names_scanned

    def _take(self, session: Session, step: Step) -> None:
        """Move a client to the next state of a step. Marks that the step clears are cleared already."""
        self._count_debts(session, step)
        after = step.after
        session.client_state = after
        after.arrivals += 1
        if after.next_at < session.timer:
            self._timers.set(session, after.next_at)

    def _count_debts(self, session: Session, step: Step) -> None:
        """Count the change of a client's debt, before it moves. Marks that the step clears are cleared already."""
        if session.marks:
            before = debt_with(session.client_state.debt, session.marks)
            after = debt_with(step.after.debt, session.marks)
            if after != before:
                self._convergence.move(session.group, before, after, self._now)
        elif step.debts is not None:
            self._convergence.step(session.group, step.debts, self._now)
            self._note_sync(session, step, self._now)

    def _note_sync(self, session: Session, step: Step, now: float) -> bool:
        """Note when a new client has accepted everything so far; return whether the step may mean that of any."""
        if step.debts is None or step.debts[0].owed != EVERYTHING or step.debts[1].owed == EVERYTHING:
            return False
        if session in self._syncing:
            self._syncing[session] = now
        return True

    def settle(self, now: float) -> None:
        """Count the clients that have synced. To be called regularly."""
        due = [each for each, at in self._syncing.items() if at + SYNCED_AFTER_S <= now]
        for session in due:
            if session.client_state.debt.owed != EVERYTHING:
                self._end_sync(session)
        if due:
            self._syncing = dict(self._syncing)  # it does not shrink by itself

    def _end_sync(self, session: Session) -> None:
        at = self._syncing.pop(session, NOT_SYNCED)
        if at != NOT_SYNCED:
            self._measures.synced.observe(at - session.since)

    def note_commit(self, revision: int, at: float) -> None:
        """Note when a revision was committed, on the clock of ``now``, before it is published."""
        self._commits.note(revision, at)

    def _note_accepted(self, group: str, revision: int, now: float, count: int) -> None:
        at = self._commits.at(revision)
        if at is not None:
            self._measures.times_of(group).observe(now - at, count)

    def _apply(self, stream: Stream, session: Session, effects: Effects, size: int) -> None:
        """Apply the effects of a step."""
        group = session.group
        stream.warm = stream.warm or effects.reported
        for kind, before, after in effects.subscriptions:
            if before is not None:
                self._watchers.discard(group, kind.type_url, before, stream)
            elif kind.type_url == SECRET and not stream.peer.gets_secrets:
                self._counters.secrets_withheld += 1
                self._events.append(SecretsWithheld(node_id=session.node.id, group=group))
            self._watchers.add(group, kind.type_url, after, stream)
        for answered in effects.answered:
            self._note_answer(session, answered)
        for state in effects.draining:
            if state.draining or len(self._draining):
                self._note_draining(session, state.kind)
        if effects.adds_names:
            self._check_names_bytes(stream, size)
            self._check_worker_names()

    def _note_answer(self, session: Session, answered: Answered) -> None:
        kind, part, error = answered
        traffic = self._measures.of(session.group, kind.type_url)
        if error is None:
            if self._unexamined.has(session.node.id, kind.type_url):
                self._examine_all()  # what a node says of a type is noted in its order
            traffic.acks += 1
            self._counters.acks += 1
            if self._nacked_by_node:
                self._nacked.accept(session.node, kind.type_url, answered.accepted_names)
                self.nacks.accept(session.node, kind.type_url, answered.accepted_names)
            return
        traffic.nacks += 1
        self._counters.nacks += 1
        if not self._unexamined and (self._hiding[0] is part or len(part.upserts) <= EXAMINED_AT_ONCE):
            error = self._hide_secrets(part, error)
            self._nacked.add(session.node, kind.type_url, part.name_set, error)
            self._note_nack(session, kind, part, error, self._coarse)
            return
        self._nacked.add(session.node, kind.type_url, part.name_set)  # at once: the node may reconnect
        self._unexamined.add(Unexamined(session, answered, self._coarse))
        if self._unexamined.are_too_many:
            self._examine_all()

    def _hide_secrets(self, part: Part, error: str) -> str:
        if self._hiding[0] is not part:
            self._hiding = (part, self._hider(part.upserts))
        return self._hiding[1](error)

    def _note_nack(self, session: Session, kind: Kind, part: Part, error: str, at: float) -> None:
        """Note a NACK for operators. ``error`` is its message, in which nothing secret is left."""
        self.nacks.add(session.node, session.group, kind.type_url, part, error, at)
        self._note_rejection(session, kind, Rejection(part.nonce, error, part.versions, part.content_key))
        self._events.append(nacked(session.node.id, session.group, kind.type_url, part, error))

    @property
    def is_examining(self) -> bool:
        """Whether NACKs are left to ``examine_some``."""
        return bool(self._unexamined)

    def examine_some(self, most: int) -> bool:
        """Search at most so many resources of a rejected response for secrets; return whether more are left.

        Once all are searched, the NACKs of the response are noted.
        """
        if not self._unexamined:
            return False
        session, answered, at = self._unexamined.first
        upserts = answered.part.upserts
        if self._hiding[0] is not answered.part and self._examined < len(upserts):
            self._hider(upserts[self._examined : self._examined + most])
            self._examined += most
            return True
        self._examined = 0
        self._unexamined.drop_first()
        kind, part, error = answered
        error = self._hide_secrets(part, error or "")
        self._nacked.explain(session.node, kind.type_url, error)
        self._note_nack(session, kind, part, error, at)
        return bool(self._unexamined)

    def _examine_all(self) -> None:
        while self.examine_some(EXAMINED_AT_ONCE):
            pass

    def _note_rejection(self, session: Session, kind: Kind, rejection: Rejection) -> None:
        """Record a rejection of a type, for operators."""
        if session.rejections is None:
            session.rejections = {}
        session.rejections[kind] = with_rejection(session.rejections_of(kind), rejection)

    def _note_draining(self, session: Session, kind: Kind) -> None:
        """Record the draining resources of a type, merged from all streams of the session."""
        if not kind.is_routing and kind.stage is not Stage.CLUSTERS:
            return
        states = [state for state in session.client_state.types if state.type_url == kind.type_url]
        if self._draining.has_newer(session.node, session.since):
            drained_at = self._soon + self._ordering.listener_drain_s
            for state in states:
                self._draining.keep(session.node, state, drained_at)
            return
        draining = NOTHING_DRAINS
        for state in states:
            draining = merge_draining(draining, state.draining)
        names = None
        if session.per_type and kind.stage not in (Stage.LISTENERS, Stage.CLUSTERS):
            names = frozenset[str]().union(*(state.subscription.names for state in states))
        self._draining.note(session.node, kind.type_url, draining, names, since=session.since)

    def _check_names_bytes(self, stream: Stream, size: int) -> None:
        """Check the memory of a stream's names after a request with names. Raises StreamRefusedError.

        The names are counted only once an upper bound by the sizes of the requests exceeds the limit.
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
                limit="names",
            )

    def _check_worker_names(self) -> None:
        """End the streams whose names take most, if those of all streams take too much, until half of it is free.

        A stream that subscribes to little is served on, whoever filled the memory.
        """
        taken, most = self._interned.subscriptions.names_bytes, self._limits.worker_names_bytes_max
        if taken <= most:
            return
        refusal = StreamRefusedError(
            Status.RESOURCE_EXHAUSTED,
            f"the names of all streams take {taken} bytes, those of this one among the most; at most {most} are kept "
            "(worker_names_bytes_max)",
            limit="worker_names",
        )
        for session in largest_subscribers(self._streams, taken - most // 2):
            self._refuse(session, refusal)

    def _refuse(self, session: Session, refusal: StreamRefusedError) -> None:
        """End the streams of a session."""
        for stream in session.streams:
            stream.refusal = refusal
            self._queue(stream)
        self._note_refusal(session.streams[0], refusal)

    # --- Inputs of steps ---------------------------------------------------------------------------------------------

    def advance_clock(self, now: float) -> float:
        """Advance the coarse clock to ``now``; return its next tick."""
        if now != self._now:
            if now >= self._cohorts.until:
                self._count_cohorts()
            self._now = now
        if now < self._soon:
            return self._soon
        coarse = (now * TICKS_S) // 1 / TICKS_S
        if now >= self._resume_at:
            self._coarse = max(self._coarse, coarse)
        self._soon = max(self._soon, coarse if coarse == now else coarse + 1 / TICKS_S)
        return self._soon

    def stood_still(self, now: float) -> None:
        """Note that the process has just stood still: no timeout ends before what arrived meanwhile can be read.

        In a process that is late all the time, timeouts do end: they wait once in ``CATCH_UP_EVERY_S``.
        """
        if now >= self._resume_at + CATCH_UP_EVERY_S:
            self._resume_at = now + CATCH_UP_S

    def _context(self, session: Session, now: float) -> StepContext:
        return StepContext(self._snapshots[session.audience], self._coarse, self._soon, now, session.marks)

    def _newest(self, audience: str) -> Snapshot:
        """Return the published snapshot of an audience."""
        found = self._snapshots.get(audience)
        if found is None:  # the first client of the group that gets no secrets
            whole = self._snapshots[audience.removeprefix(WITHOUT_SECRETS)]
            found = self._snapshots[audience] = _without_secrets(whole)
        return found

    def _start(self, audience: str, variant: Variant, is_grpc: bool) -> ClientState:
        """Return the initial state of a client of an audience."""
        key = (audience, variant, is_grpc)
        start = self._starts.get(key)
        if start is None:
            start = self._starts[key] = self._client_states.new((), NOT_BEGUN)
        start.arrivals += 1
        return start

    # --- Changes -----------------------------------------------------------------------------------------------------

    def publish(self, applied: Applied, *, regroup: bool = True) -> None:
        """Mark all streams that a change of the catalog affects, so that they are updated.

        Every change must be published, merged with others or not, before nodes are assigned to its new groups. Without
        ``regroup`` the nodes that may move to another group are left to ``regroup_some``.
        """
        now = self._published(self._catalog.snapshots)
        # A group may have vanished since, if this change is merged with a later one.
        changed = {group: by_type for group, by_type in applied.changed.items() if group in now}
        audiences = [*changed, *(WITHOUT_SECRETS + group for group in changed if WITHOUT_SECRETS + group in now)]
        replaced = tuple(self._snapshots) if applied.regrouped else audiences
        self.response_cache.drop_replaced(self._snapshots, now, replaced)
        for audience in replaced:
            if audience in self._snapshots and self._snapshots[audience] is not now.get(audience):
                self.step_cache.drop_snapshot(self._snapshots[audience])
        if applied.regrouped:
            self._snapshots = {**self._snapshots, **now}
            self._starts = {key: start for key, start in self._starts.items() if key[0] in now}
            find = partial(self._sessions.to_regroup, self._streams)
            self._regrouping.follow(self._catalog.snapshots, find, applied.revision)
        self._snapshots.update((audience, now[audience]) for audience in audiences)
        for part in applied.parts or (applied,):
            for group, by_type in part.changed.items():
                for type_url, names in by_type.items() if group in now else ():
                    streams = self._watchers.affected(group, type_url, names)
                    self._mark(((0, type_url, part.revision),), group, streams)
        self.revision = applied.revision
        if regroup or not self._regrouping.queue:
            while self.regroup_some(REGROUPED_AT_ONCE):
                pass

    def _published(self, snapshots: Mapping[str, Snapshot]) -> dict[str, Snapshot]:
        """Return the snapshots of all audiences that there are clients of, or were."""
        now = dict(snapshots)
        for audience, before in self._snapshots.items():
            if audience.startswith(WITHOUT_SECRETS) and (
                whole := snapshots.get(audience.removeprefix(WITHOUT_SECRETS))
            ):
                now[audience] = before if before.revision == whole.revision else _without_secrets(whole)
        return now

    def _mark(self, first: Marks, group: str, streams: Iterable[Stream]) -> None:
        """Mark a changed type on streams of a group; ``first`` is the mark for the first stream of a session."""
        ready = self._ready
        ((_, type_url, revision),) = first
        may_lag = policy_of(type_url).stage in (Stage.LISTENERS, Stage.ROUTES)
        without_debt = 0
        for stream in streams:
            session = stream.session
            assert session is not None
            mark = first if not stream.slot else ((stream.slot, type_url, revision),)
            marks = session.marks
            if marks:
                session.marks = add_mark(marks, mark, several=may_lag)
            else:
                session.marks = mark
                debt = session.client_state.debt
                if debt is NO_DEBT:
                    without_debt += 1
                elif (after := debt_with(debt, mark)) != debt:
                    self._convergence.move(group, debt, after, self._now)
            if not stream.queued:
                stream.queued = True
                ready.append(stream)
        if without_debt:
            self._convergence.move(group, NO_DEBT, Debt(revision), self._now, without_debt)

    @property
    def reached_revision(self) -> int:
        """The newest published revision that counts for all clients. Those that are still to move owe older ones."""
        moving = self._regrouping
        return min(self.revision, moving.at - 1) if moving.queue else self.revision

    @property
    def is_regrouping(self) -> bool:
        """Whether sessions are left to ``regroup_some``."""
        return bool(self._regrouping.queue)

    def regroup_some(self, most: int) -> bool:
        """Move at most so many sessions to the group of their node under the new rules; return whether more are left.

        Resources that the new group lacks are removed. Until its turn comes, a session stays in its former group.
        """
        queue = self._regrouping.queue
        for _ in range(min(most, len(queue))):
            session = queue.popleft()
            if session.streams:
                self._regroup(session)
        if queue:
            return True
        self._regrouping.vanished.clear()
        served = self._catalog.snapshots
        gone = [each for each in self._snapshots if each.removeprefix(WITHOUT_SECRETS) not in served]
        for audience in gone:
            del self._snapshots[audience]
        return False

    def _regroup(self, session: Session) -> None:
        placement = self._catalog.place(session.node)
        group = placement.group
        if group is None:
            self._counters.nodes_denied += 1
            self._refuse(session, StreamRefusedError(Status.PERMISSION_DENIED, f"{placement.refusal} now"))
            return
        for stream in session.streams:
            if stream.refusal is not None and stream.refusal.status is Status.PERMISSION_DENIED:
                stream.refusal = None  # it is permitted again
        if group == session.group and group not in self._regrouping.vanished:
            return  # else the group has come back, and the session has not followed what it lost meanwhile
        self._convergence.remove(session.group, debt_with(session.client_state.debt, session.marks))
        session.client_state = self._steps.without_remaining(session.client_state)
        debt = session.client_state.debt
        before, session.group = session.group, group
        session.audience = audience_of(group, session.streams[0].peer)
        self._newest(session.audience)
        revision = self._regrouping.at
        session.marks = tuple((state.kind.slot, state.type_url, revision) for state in session.client_state.types)
        self._convergence.add(group, debt_with(debt, session.marks))
        self._watch.moved(session)
        for stream in session.streams:
            for state in stream.states.values():
                self._watchers.discard(before, state.type_url, state.subscription, stream)
                self._watchers.add(group, state.type_url, state.subscription, stream)
            self._queue(stream)

    # --- Polling -----------------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Say whether ``take_ready`` or ``take_events`` would return anything."""
        return bool(self._ready or self._events)

    def take_ready(self) -> list[Stream]:
        """Return the streams to poll now, each once, in the order in which they became ready."""
        ready, self._ready = self._ready, []
        for stream in ready:
            stream.queued = False
        return [stream for stream in ready if stream in self._streams]

    def poll(self, stream: Stream, now: float) -> Part | None:
        """Return the next message of a stream, or None if there is none until ``take_ready`` returns it again.

        Raises StreamRefusedError if the stream must be ended, as when no group takes its node any more.
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
        newest, step = self._snapshots[session.audience], before.next_step
        if (
            step is None
            or step.snapshot is not newest
            or step.marks != marks
            or step.tick != self._soon
            or session.per_type
        ):
            step = self._steps.advance(before, self._context(session, now), stream.source)
            self.step_cache.add_next(before, step)
            self._measures.count_computed(responses=step.part is not None)
        session.marks = NO_MARKS
        session.newest = newest
        self._take(session, step)
        for state in step.effects.draining:
            self._note_draining(session, state.kind)
        if step.part is not None:
            self._count_sent(step.part, session.group, step.after)
        if step.after is not before:
            self._wake(session, stream)
        return step.part

    def poll_cohort(self, stream: Stream) -> Part | None:
        """Return the stream's next message if the step to it is cached, as ``poll`` would.

        If it returns None, call ``poll``. The time is that of the last ``poll``, ``receive`` or ``tick``.
        """
        session = stream.session
        if session is None or stream.refusal is not None:
            return None
        step = session.client_state.next_step
        if step is None or step.marks is not session.marks or step.tick != self._soon:
            return None
        part, newest = step.part, self._snapshots[session.audience]
        if part is None or step.snapshot is not newest or step.effects is not NO_EFFECTS or step.debts is not None:
            return None
        session.marks, session.newest = NO_MARKS, newest
        after = step.after
        session.client_state = after
        after.arrivals += 1
        if after.next_at < session.timer:
            self._timers.set(session, after.next_at)
        cohort = self._cohorts.last
        if (
            part is not cohort.part
            or session.group is not cohort.group
            or (cohort.at is None and after is not cohort.state)
        ):
            cohort = self._begin_cohort(part, session.group, after)
        cohort.count += 1
        return part

    def _count_sent(self, part: Part, group: str, after: ClientState) -> None:
        """Count a delivery to a client whose state is then ``after``."""
        self._begin_cohort(part, group, after).count += 1

    def _begin_cohort(self, part: Part, group: str, after: ClientState) -> Cohort:
        cohorts = self._cohorts
        cohort = cohorts.find(part, group, after)
        if cohort is None:
            if cohorts.is_full:
                self._count_cohorts()
            cohort = cohorts.begin(part, group, after, self._commits.at(after.sent_since(part)), self._now)
        return cohort

    def _count_cohorts(self) -> None:
        """Count the deliveries to whole cohorts: counting each would cost as much as the delivery."""
        for part, group, count, at in self._cohorts.take():
            self._counters.count(part, count)
            self._measures.of(group, part.type_url).count_sent(part, count)
            if at is not None:
                self._measures.sent.observe(self._now - at, count)

    def evict_idle(self) -> None:
        """Drop cache entries that were not used recently. To be called regularly."""
        self._large.evict_idle()
        self.step_cache.evict_idle()
        self.response_cache.evict_idle()
        self._count_cohorts()
        self._convergence.flush()
        if is_sparse(self._streams):
            self._streams = dict(self._streams)

    @property
    def next_tick_at(self) -> float:
        """When to call ``tick`` next, NEVER if no timer is set."""
        at = self._timers.next
        return at if at > self._resume_at else self._resume_at

    def tick(self, now: float) -> None:
        """Apply the timeouts that have passed by ``now``."""
        self.advance_clock(now)
        if now < self._resume_at:
            return
        for session, at in self._timers.due(now):
            self._coarse, self._soon = max(self._coarse, at), max(self._soon, at)
            stream = session.streams[0]
            step = self._steps.expire(session.client_state, self._context(session, now), stream.source)
            session.marks = NO_MARKS
            self._count_debts(session, step)
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
        """Return the events since the last call, for operators."""
        events = self._events[:]
        self._events.clear()
        return events

    def _queue(self, stream: Stream) -> None:
        """Mark the stream as ready to poll."""
        if not stream.queued:
            stream.queued = True
            self._ready.append(stream)

    def _wake(self, session: Session, polled: Stream | None = None) -> None:
        """Mark the session's other streams as ready if they have something to send."""
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
