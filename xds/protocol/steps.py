"""Computes steps: the next client state after a request, a change, a timeout or the end of a stream.

A step is a function of the client state, the request and the ``StepContext``. ``StepCache`` keeps steps that repeat.
"""

from collections.abc import Callable
from typing import NamedTuple

from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from xds.model.snapshot import Snapshot
from xds.model.types import ENDPOINTS
from xds.protocol.client_state import (
    NO_EFFECTS,
    NO_MARKS,
    Answered,
    ClientState,
    ClientStates,
    Effects,
    Order,
    Source,
    Step,
    SubscriptionChange,
    debt_change,
)
from xds.protocol.convergence import EVERYTHING, oldest
from xds.protocol.diff import NO_HOLD
from xds.protocol.draining import NOTHING_DRAINS, Draining, end_draining_by, unexpired_draining, without_draining
from xds.protocol.order import Draft, OrderEvent, Rules, StepContext
from xds.protocol.policy import Limits, Stage
from xds.protocol.requests import (
    Request,
    begin_delta,
    begin_sotw,
    change_delta,
    change_sotw,
    changes_subscription,
    check_new_type,
    check_size,
    drop_stale_sotw,
    error_of,
    may_want,
    reports_versions,
    type_of,
)
from xds.protocol.responses import Part
from xds.protocol.subscription import NO_NAMES, NameSet, Subscription, glob_of
from xds.protocol.type_state import NO_HEARTBEAT, Kind, Kinds, TypeState


class History(NamedTuple):
    """The history of a node from earlier streams, for one type."""

    nacked: NameSet = NO_NAMES
    """Names that the node rejected."""
    draining: Draining = NOTHING_DRAINS
    """Older versions that the node may still use."""
    warms: bool = False
    """The last stream of the node ended before it answered clusters that may warm without endpoints to ask for."""


NO_HISTORY = History()


class Steps:
    """Computes steps. ``knows_type`` says whether a type URL is in the schema; other types have no resources."""

    __slots__ = ("_client_states", "_kinds", "_knows_type", "_limits", "_rules")

    def __init__(
        self, rules: Rules, client_states: ClientStates, limits: Limits, knows_type: Callable[[str], bool]
    ) -> None:
        self._rules = rules
        self._client_states = client_states
        self._limits = limits
        self._knows_type = knows_type
        self._kinds = Kinds()

    def kind(self, client_state: ClientState, source: Source, request: Request) -> tuple[Kind, bool]:
        """Return the type of a request, and whether its stream uses the type already. Raises StreamRefusedError."""
        type_url = type_of(request, source.served)
        state = client_state.of(type_url, source.slot)
        if state is not None:
            return state.kind, True
        known = sum(1 for other in client_state.types if other.kind.slot == source.slot)
        check_new_type(type_url, known, self._limits.types_max)
        return self._kinds.get(type_url, source.variant, source.slot), False

    # --- Steps -------------------------------------------------------------------------------------------------------

    def first_request(
        self,
        before: ClientState,
        context: StepContext,
        source: Source,
        kind: Kind,
        request: Request,
        size: int,
        history: History,
    ) -> Step:
        """Compute the step of the first request of a type on a stream. ``size`` is its bytes without the node."""
        draft = self._draft(before, context, source)
        state = TypeState(kind)
        check_size(state, request, size, self._limits.subscriptions_max)
        view = draft.newest.view(kind.type_url)
        reported = reports_versions(request)
        stuck = _notice_return(draft, source, kind, history, reported=reported)
        interned = self._rules.interned
        if isinstance(request, DeltaDiscoveryRequest):
            is_back = draft.is_returning and kind.stage is Stage.ROUTES
            drained_at = draft.soon + self._rules.ordering.listener_drain_s if is_back else 0.0
            nacked = None if stuck else history.nacked.names
            state = begin_delta(state, request, interned, view, nacked, drained_at=drained_at)
        else:
            if reported:
                draft.keep_private()
            recall = None if stuck else self._rules.response_cache
            state = begin_sotw(state, request, interned, view, recall, history.nacked.names)
        if not self._knows_type(kind.type_url):
            draft.keep_private()  # each node that asks for it is reported
        if history is not NO_HISTORY:
            draft.keep_private()
            state = _with_history(state, history, context, context.soon + self._rules.ordering.listener_drain_s)
        if kind.type_url == ENDPOINTS and draft.warming_endpoints and state.view is not None:
            state = state.require([name for name in draft.warming_endpoints if state.subscription.wants(name)])
        state = state.owing(EVERYTHING)
        followed = draft.acked_snapshot if kind.is_routing else None
        if followed is not None and followed.view(kind.type_url) is not view:
            # It may be sent the older snapshot first, whose clusters the client has.
            state = state.owing(draft.newest.revision, lag=draft.newest.revision - followed.revision)
        draft.add_type(state, reported=reported)
        _follow(draft, kind)
        watched = (SubscriptionChange(kind, None, state.subscription),)
        return self._step(before, draft, source, Effects(subscriptions=watched, reported=reported, adds_names=True))

    def later_request(
        self, before: ClientState, context: StepContext, source: Source, kind: Kind, request: Request, size: int
    ) -> Step:
        """Compute the step of a later request of a type: an answer, a subscription change, or both."""
        alone = self._later_request_fast(before, context, source, kind, request, size)
        if alone is not None:
            return alone
        draft = self._draft(before, context, source)
        state = draft.states[kind]
        check_size(state, request, size, self._limits.subscriptions_max)
        subscription, answered = state.subscription, None
        if isinstance(request, DeltaDiscoveryRequest):
            answered = _answer_delta(draft, state, request)
            named = changes_subscription(request)
            state = draft.states[kind]
            if named:
                state = draft.put(change_delta(state, request, self._rules.interned))
        else:
            answered = _answer_sotw(draft, state, request, self._rules)
            state = draft.states[kind]
            named = state.subscription is not subscription
        names = len(subscription.names) + len(state.required_names) + len(state.subscription.names) if named else 0
        watched: tuple[SubscriptionChange, ...] = ()
        if named:
            since, newest = _owed_since(subscription, state, context)
            followed = draft.acked_snapshot if state.kind.is_routing else None
            draft.put(state.owing(since, lag=since - followed.revision if followed is not None else 0))
            if newest is not None:
                draft.note_newest()
        if state.subscription is not subscription:
            watched = (SubscriptionChange(kind, subscription, state.subscription),)
            draft.unsubscribed(state, subscription)
            draft.happened(OrderEvent.RESUBSCRIBED, None)
        _follow(draft, kind)
        if answered is not None and answered.error is not None:
            draft.keep_private()
        if answered is None and not named:
            return self._step(before, draft, source, NO_EFFECTS)
        plain = answered is not None and answered.error is None and not named and not watched
        if plain and not draft.states[kind].draining and not _draining_of(before, kind):
            assert answered is not None
            return self._step(before, draft, source, NO_EFFECTS, acked=answered)
        effects = Effects(
            answered=(answered,) if answered is not None else (),
            subscriptions=watched,
            draining=(draft.states[kind],) if answered is not None else (),
            names_scanned=names,
            adds_names=named,
        )
        return self._step(before, draft, source, effects)

    def advance(self, before: ClientState, context: StepContext, source: Source) -> Step:
        """Compute the step to a stream's next message, if there is one, towards the newest snapshot."""
        alone = self._advance_fast(before, context, source)
        if alone is not None:
            return alone
        draft = self._draft(before, context, source)
        draft.note_reads()
        part = draft.advance(source.slot)
        keeps = tuple(s for s in draft.routing_types if s.draining and _draining_of(before, s.kind) is not s.draining)
        effects = Effects(draining=keeps) if keeps else NO_EFFECTS
        return self._step(before, draft, source, effects, part=part)

    def expire(self, before: ClientState, context: StepContext, source: Source) -> Step:
        """Compute the step after timeouts."""
        draft = self._draft(before, context, source)
        draft.expire()
        overdue = tuple(draft.overdue)
        return self._step(before, draft, source, Effects(overdue=overdue) if overdue else NO_EFFECTS)

    def without_remaining(self, before: ClientState) -> ClientState:
        """Return the state of a client that is sent no more parts of cut responses, as it moves to another group."""
        if not any(state.remaining for state in before.types):
            return before
        types = tuple(state.without_remaining() if state.remaining else state for state in before.types)
        order = before.order
        if any(state.remaining and state.kind.stage is Stage.CLUSTERS for state in before.types):
            order = order._replace(sent_snapshot=None)  # the client was not sent all of its clusters
        return self._client_states.shared(types, order)

    def leave(self, before: ClientState, context: StepContext, source: Source) -> Step:
        """Compute the step after one of several streams of a session ended."""
        draft = self._draft(before, context, source)
        draft.remove_stream(source.slot)
        return self._step(before, draft, source, NO_EFFECTS)

    # --- Fast paths for unordered types while the order waits for nothing: they change only their own type -----------

    def _later_request_fast(
        self, before: ClientState, context: StepContext, source: Source, kind: Kind, request: Request, size: int
    ) -> Step | None:
        """Compute the step of an ACK, a subscription change, or both; return None for any other request."""
        order = before.order
        if (
            kind.stage is not Stage.UNORDERED
            or source.served
            or order.pending_endpoints
            or order.missing_clusters
            or order.is_returning
        ):
            return None
        if not isinstance(request, DeltaDiscoveryRequest) or request.HasField("error_detail"):
            return None
        state = old = next(each for each in before.types if each.kind is kind)
        answered = None
        if state.in_flight and request.response_nonce == state.nonce:
            if len(state.in_flight) > 1 or not state.is_trusted or state.rejected_at:
                return None
            answered, state = Answered(kind, state.in_flight[0], None), state.without_in_flight()
        if not changes_subscription(request):
            after = self._with(before, old, state, before.order)
            debts, is_plain = debt_change(before, NO_MARKS, after), answered is not None
            return Step(after, None, answered, NO_EFFECTS, True, None, None, NO_MARKS, is_plain, debts)
        check_size(old, request, size, self._limits.subscriptions_max)
        state = change_delta(state, request, self._rules.interned)
        since, newest = _owed_since(old.subscription, state, context)
        state = state.owing(since)
        effects = Effects(
            answered=(answered,) if answered is not None else (),
            subscriptions=(SubscriptionChange(kind, old.subscription, state.subscription),)
            if state.subscription is not old.subscription
            else (),
            names_scanned=len(old.subscription.names) + len(state.required_names) + len(state.subscription.names),
            adds_names=True,
        )
        after = self._with(before, old, state, before.order)
        debts = debt_change(before, NO_MARKS, after)
        return Step(after, None, None, effects, True, newest, None, NO_MARKS, debts=debts)

    def _advance_fast(self, before: ClientState, context: StepContext, source: Source) -> Step | None:
        """Compute the step that updates one type to the newest snapshot; return None if other types are involved."""
        order, marks = before.order, context.marks
        if source.served or order.check_removals or order.pending_endpoints or len(marks) > 1:
            return None
        marked = marks[0][1] if marks else None
        chosen: TypeState | None = None
        has_clusters, at_rest = False, True
        for state in before.types:
            kind = state.kind
            if state.heartbeat is not NO_HEARTBEAT or (state.overrides and kind.stage is Stage.CLUSTERS):
                return None
            pending = state.dirty or bool(state.remaining) or kind.type_url == marked
            if kind.stage is Stage.CLUSTERS:
                if pending:
                    return None  # it is not decided yet which clusters stay, and so which endpoints
                has_clusters, at_rest = True, at_rest and not state.in_flight
            if not pending or chosen is not None:
                continue
            if state.in_flight:
                if kind.type_url == marked:
                    return None
                continue
            if kind.stage is not Stage.UNORDERED or state.remaining or (marked is not None and kind.type_url != marked):
                return None
            chosen = state
        if chosen is None or (order.warming_endpoints and chosen.required_names and chosen.kind.type_url == ENDPOINTS):
            return None
        view = context.newest.view(chosen.kind.type_url)
        if view.has_timed:
            return None
        rules, newest = self._rules, context.newest
        state = chosen.mark(marks[0][2]) if marks else chosen
        state, response = state.respond(
            view,
            NO_HOLD,
            rules.response_cache,
            rules.encoding,
            context.soon,
            revision=newest.revision,
            is_newest=True,
        )
        if has_clusters and at_rest and (order.acked_snapshot is not context.newest or order.sent_snapshot is not None):
            order = order._replace(acked_snapshot=context.newest, sent_snapshot=None)
        part = response.parts[0] if response.parts else None
        after = self._with(before, chosen, state, order)
        if part is None and not (before.ordering_idle and after.settled):
            return None  # another type may have something to send
        debts = debt_change(before, marks, after)
        return Step(after, part, None, NO_EFFECTS, True, newest, context.soon, marks, debts=debts)

    def _with(self, before: ClientState, old: TypeState, new: TypeState, order: Order) -> ClientState:
        if new is old and order is before.order:
            return before
        types = tuple([new if state is old else state for state in before.types])
        return self._client_states.shared(types, order)

    # --- Drafts ------------------------------------------------------------------------------------------------------

    def peek(self, before: ClientState, context: StepContext, *, per_type: bool) -> Draft:
        """Return a draft to be looked at and thrown away: what is done with it changes nothing else."""
        return Draft(self._rules, before, context, per_type=per_type)

    def _draft(self, before: ClientState, context: StepContext, source: Source) -> Draft:
        return Draft(self._rules, before, context, per_type=bool(source.served))

    def _step(
        self,
        before: ClientState,
        draft: Draft,
        source: Source,
        effects: Effects,
        *,
        part: Part | None = None,
        acked: Answered | None = None,
    ) -> Step:
        after = self._after(before, draft)
        debts = debt_change(before, draft.context.marks, after)
        is_cacheable = not (draft.is_private or source.served)
        snapshot = draft.context.newest if draft.read_newest else None
        tick = draft.context.soon if draft.read_clock else None
        is_plain = acked is not None and snapshot is None and tick is None
        return Step(after, part, acked, effects, is_cacheable, snapshot, tick, draft.context.marks, is_plain, debts)

    def _after(self, before: ClientState, draft: Draft) -> ClientState:
        """Return the client state of a draft, shared unless the draft is private."""
        types, order = tuple(draft.states.values()), draft.order(before.order)
        if order is before.order and types == before.types:
            return before
        if draft.per_type or draft.is_private:
            return self._client_states.new(types, order)
        return self._client_states.shared(types, order)


def _owed_since(former: Subscription, state: TypeState, context: StepContext) -> tuple[int, Snapshot | None]:
    """Return the oldest revision for which newly subscribed names are owed, and the snapshot that this depends on."""
    subscription = state.subscription
    added = subscription.names - former.names
    if (subscription.wildcard and not former.wildcard) or any(glob_of(name) is not None for name in added):
        return EVERYTHING, None
    if not added:
        return 0, None
    view = context.newest.view(state.type_url)
    known = ((name, view.known_as(name)) for name in added)  # a name may be an alias
    return oldest(view.changed_at(name if found is None else found.name) for name, found in known), context.newest


def _notice_return(draft: Draft, source: Source, kind: Kind, history: History, *, reported: bool) -> bool:
    """Update the ordering state if a type's first request shows that the client reconnected.

    ``reported``: the request reports versions of an earlier stream. A client that rejected clusters may have some of
    the rejected response, of which it reports nothing: it counts as returned, too. Listeners and routes wait until the
    client subscribes to clusters, for at most the hold timeout, in these cases:

    - On ADS endpoints are requested before clusters, listeners and routes, and one of the requests for endpoints,
      listeners and routes reports versions: the stream of this Envoy broke while its clusters warmed. The versions of
      its endpoints are older than the broken stream. Returns True for these: they must be ignored.
    - On ADS a request for listeners or routes comes before clusters, and the clusters of the last stream may be warming
      without endpoints to ask for (``History.warms``): they wait for secrets or health checks.
    - On a per-type stream a request for listeners or routes reports versions.

    They do not apply to gRPC's client, which requests types in any order and warms no clusters. An Envoy that starts,
    and that has static clusters with endpoints from here and requests no clusters, reports no versions.
    """
    if kind.stage is Stage.CLUSTERS and (reported or history.nacked is not NO_NAMES):
        draft.client_returned()
    stuck = kind.type_url == ENDPOINTS and not source.served and not draft.clusters and not draft.routing_types
    back = kind.is_routing and (
        reported if source.served else (history.warms or (reported and draft.has_endpoints)) and not draft.clusters
    )
    if source.is_grpc:
        return False
    if back or (stuck and reported):
        draft.wait_for_clusters()
    return stuck


def _with_history(state: TypeState, history: History, context: StepContext, drained_at: float) -> TypeState:
    """Return the state with the node's history. Listeners that may have been replaced drain until ``drained_at``."""
    left = unexpired_draining(history.draining, context.now)
    if state.kind.stage is Stage.LISTENERS:
        left = end_draining_by(left, left, drained_at)
    else:
        names = state.subscription.names
        left = without_draining(left, [name for name in left if name not in names or state.held(name) is not None])
    wanted = NameSet.of(name for name in history.nacked.names if may_want(state, name))
    return state._replace(nacked_names=wanted).add_draining(left)


def _draining_of(client_state: ClientState, kind: Kind) -> Draining:
    return next((state.draining for state in client_state.types if state.kind is kind), NOTHING_DRAINS)


def _follow(draft: Draft, kind: Kind) -> None:
    """Apply the consequences that a request of one type has for other types."""
    if draft.missing_clusters and kind.type_url == ENDPOINTS:
        draft.endpoints_requested()


def _answer_delta(draft: Draft, state: TypeState, request: DeltaDiscoveryRequest) -> Answered | None:
    nonce = request.response_nonce
    part, error = (state.find(nonce) if nonce else None), error_of(request)
    if part is None and error is not None and nonce and nonce == state.heartbeat.nonce:
        return draft.take_rejected_renewal(state, error)
    return draft.take_answer(state, part, error) if part is not None else None


def _answer_sotw(draft: Draft, state: TypeState, request: DiscoveryRequest, rules: Rules) -> Answered | None:
    """Apply a SotW request; return the answer in it."""
    nonce, error, version = request.response_nonce, error_of(request), request.version_info
    heartbeat = state.heartbeat
    renewal = bool(heartbeat.nonce) and nonce == heartbeat.nonce
    part = state.find(nonce) if nonce else None
    if nonce != state.nonce and not renewal:
        answered = draft.take_answer(state, part, error, version) if part is not None else None
        if (state := draft.states[state.kind]).in_flight or heartbeat.unanswered:
            draft.put(drop_stale_sotw(state, request, rules.interned))
        return answered
    outstanding = state.outstanding
    expected = outstanding is not None or (renewal and heartbeat.unanswered)
    repeated = not expected and error is None and bool(state.nonce)
    if renewal and heartbeat.unanswered:
        state = draft.put(state._replace(heartbeat=heartbeat._replace(unanswered=False)))
    # The subscription first: of a name that a request with a stale nonce dropped, and that this one has again, the
    # client holds what this request answers.
    state = draft.put(change_sotw(state, request, rules.interned, repeated=repeated))
    # Envoy answers only the last of several responses that it received while its clusters were warming.
    answered = draft.take_answer(state, outstanding, error, version) if outstanding is not None else None
    if answered is None and renewal and heartbeat.unanswered and error is not None:
        answered = draft.take_rejected_renewal(state, error)
    return answered
