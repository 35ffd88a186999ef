"""From where a client stands to where it stands next: what a request, a change, time and a stream's end come to.

Each step is a function of the standing and what is given to it; it keeps nothing. ``memory`` keeps what can come again.
"""

from collections.abc import Callable
from typing import NamedTuple

from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from xds.model.types import ENDPOINTS, ROUTE, VIRTUAL_HOST
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
)
from xds.protocol.diff import NO_HOLD
from xds.protocol.draining import NOTHING_DRAINS, Draining, end_by, still, without
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
    error_of,
    reports_versions,
    type_of,
)
from xds.protocol.responses import Part
from xds.protocol.subscription import NO_NAMES, NameSet
from xds.protocol.type_state import NO_HEARTBEAT, Kind, Kinds, TypeState


class History(NamedTuple):
    """What is known of a node from earlier streams, of one type: names that it rejected, versions that it may use.

    ``warms``: it had clusters to answer that may wait for secrets.
    """

    nacked: NameSet = NO_NAMES
    draining: Draining = NOTHING_DRAINS
    warms: bool = False


NO_HISTORY = History()


class Steps:
    """Works out steps. ``knows_type`` says whether a type URL is one of the schema; others are refused."""

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
        """Return which type a request is of, and whether its stream has that already. Raises StreamRefusedError."""
        type_url = type_of(request, source.served)
        state = client_state.of(type_url, source.slot)
        if state is not None:
            return state.kind, True
        known = sum(1 for other in client_state.types if other.kind.slot == source.slot)
        check_new_type(type_url, known, self._knows_type, self._limits.types_max)
        return self._kinds.get(type_url, source.variant, source.slot), False

    # --- Steps ---------------------------------------------------------------------------------------------------

    def begin(
        self,
        before: ClientState,
        context: StepContext,
        source: Source,
        kind: Kind,
        request: Request,
        size: int,
        history: History,
    ) -> Step:
        """Take the first request of a type on a stream, which has ``size`` bytes without its node."""
        draft = self._draft(before, context, source)
        state = TypeState(kind)
        check_size(state, request, size, self._limits.subscriptions_max)
        view = draft.newest.view(kind.type_url)
        claims = reports_versions(request)
        stuck = _notice_return(draft, source, kind, claims=claims, warms=history.warms)
        interned = self._rules.interned
        if isinstance(request, DeltaDiscoveryRequest):
            state = begin_delta(state, request, interned, view, None if stuck else history.nacked.names)
        else:
            draft.keep_private(claims)
            recall = None if stuck else self._rules.response_cache
            state = begin_sotw(state, request, interned, view, recall, history.nacked.names)
        if history is not NO_HISTORY:
            draft.keep_private()
            state = _with_history(state, history, context, context.soon + self._rules.ordering.listener_drain_s)
        if kind.type_url == ENDPOINTS and draft.warming and state.view is not None:
            state = state.ask([name for name in draft.warming if state.subscription.wants(name)])
        draft.begun(state, claims=claims)
        _follow(draft, kind)
        watched = (SubscriptionChange(kind, None, state.subscription),)
        return self._step(before, draft, source, Effects(subscriptions=watched, claims=claims, named=True))

    def go_on(
        self, before: ClientState, context: StepContext, source: Source, kind: Kind, request: Request, size: int
    ) -> Step:
        """Take a later request of a type: an answer, a change of its subscription, or both."""
        alone = self._go_on_alone(before, context, source, kind, request, size)
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
            answered, is_stale = _answer_sotw(draft, state, request, self._rules)
            state = draft.states[kind]
            named = state.subscription is not subscription and not is_stale
        names = len(subscription.names) + len(state.asked) + len(state.subscription.names) if named else 0
        watched: tuple[SubscriptionChange, ...] = ()
        if state.subscription is not subscription:
            watched = (SubscriptionChange(kind, subscription, state.subscription),)
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
            names=names,
            named=named,
        )
        return self._step(before, draft, source, effects)

    def advance(self, before: ClientState, context: StepContext, source: Source) -> Step:
        """Give a stream its next message, if there is one, on the way to the newest snapshot."""
        alone = self._advance_alone(before, context, source)
        if alone is not None:
            return alone
        draft = self._draft(before, context, source)
        draft.note_reads()
        part = draft.advance(source.slot)
        keeps = tuple(s for s in draft.switches if s.draining and _draining_of(before, s.kind) is not s.draining)
        effects = Effects(draining=keeps) if keeps else NO_EFFECTS
        return self._step(before, draft, source, effects, part=part)

    def expire(self, before: ClientState, context: StepContext, source: Source) -> Step:
        """Look at what was to happen by now."""
        draft = self._draft(before, context, source)
        draft.expire()
        overdue = tuple(draft.overdue)
        return self._step(before, draft, source, Effects(overdue=overdue) if overdue else NO_EFFECTS)

    def leave(self, before: ClientState, context: StepContext, source: Source) -> Step:
        """Have a session go on without one of its streams."""
        draft = self._draft(before, context, source)
        draft.left(source.slot)
        return self._step(before, draft, source, NO_EFFECTS)

    # --- Steps of types that never wait, where the order waits for nothing: they touch only their own --------------

    def _go_on_alone(
        self, before: ClientState, context: StepContext, source: Source, kind: Kind, request: Request, size: int
    ) -> Step | None:
        """Take an ACK, a change of the subscription, or both; None if it is anything else."""
        order = before.order
        if kind.stage is not Stage.FREE or source.served or order.awaited or order.absent or order.coming_back:
            return None
        if not isinstance(request, DeltaDiscoveryRequest) or request.HasField("error_detail"):
            return None
        state = old = next(each for each in before.types if each.kind is kind)
        answered = None
        if state.in_flight and request.response_nonce == state.nonce:
            if len(state.in_flight) > 1 or not state.is_trusted:
                return None
            answered, state = Answered(kind, state.in_flight[0], None), state.answered()
        if not changes_subscription(request):
            after = self._with(before, old, state, before.order)
            return Step(after, None, answered, NO_EFFECTS, True, None, None, NO_MARKS, answered is not None)
        check_size(old, request, size, self._limits.subscriptions_max)
        state = change_delta(state, request, self._rules.interned)
        effects = Effects(
            answered=(answered,) if answered is not None else (),
            subscriptions=(SubscriptionChange(kind, old.subscription, state.subscription),)
            if state.subscription is not old.subscription
            else (),
            names=len(old.subscription.names) + len(state.asked) + len(state.subscription.names),
            named=True,
        )
        return Step(self._with(before, old, state, before.order), None, None, effects, True, None, None, NO_MARKS)

    def _advance_alone(self, before: ClientState, context: StepContext, source: Source) -> Step | None:
        """Bring one type to the newest snapshot; None if there is more to do, or nothing to be sent of it."""
        order, marks = before.order, context.marks
        if source.served or order.break_due or order.awaited or len(marks) > 1:
            return None
        marked = marks[0][1] if marks else None
        chosen: TypeState | None = None
        has_clusters, at_rest = False, True
        for state in before.types:
            kind = state.kind
            if state.heartbeat is not NO_HEARTBEAT or (state.exceptions and kind.stage is Stage.MAKE):
                return None
            pending = state.dirty or bool(state.remaining) or kind.type_url == marked
            if kind.stage is Stage.MAKE:
                if pending:
                    return None  # which clusters stay, and so which endpoints, is not known yet
                has_clusters, at_rest = True, at_rest and not state.in_flight
            if not pending or chosen is not None:
                continue
            if state.in_flight:
                if kind.type_url == marked:
                    return None
                continue
            if kind.stage is not Stage.FREE or state.remaining or (marked is not None and kind.type_url != marked):
                return None
            chosen = state
        if chosen is None or (order.warming and chosen.asked and chosen.kind.type_url == ENDPOINTS):
            return None
        view = context.newest.view(chosen.kind.type_url)
        if view.has_timed:
            return None
        rules = self._rules
        state, response = chosen.respond(view, NO_HOLD, rules.response_cache, rules.encoding, context.soon)
        if not response.parts and not before.is_calm:
            return None
        if has_clusters and at_rest and (order.made is not context.newest or order.making is not None):
            order = order._replace(made=context.newest, making=None)
        part = response.parts[0] if response.parts else None
        return Step(
            self._with(before, chosen, state, order), part, None, NO_EFFECTS, True, context.newest, context.soon, marks
        )

    def _with(self, before: ClientState, old: TypeState, new: TypeState, order: Order) -> ClientState:
        if new is old and order is before.order:
            return before
        types = tuple([new if state is old else state for state in before.types])
        return self._client_states.shared(types, order)

    # --- Drafts --------------------------------------------------------------------------------------------------

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
        repeats = not (draft.is_private or source.served)
        snapshot = draft.context.newest if draft.read_newest else None
        tick = draft.context.soon if draft.read_clock else None
        is_plain = acked is not None and snapshot is None and tick is None
        return Step(after, part, acked, effects, repeats, snapshot, tick, draft.context.marks, is_plain)

    def _after(self, before: ClientState, draft: Draft) -> ClientState:
        """Return the standing that a draft is: one for all who stand so, where others may."""
        types, order = tuple(draft.states.values()), draft.order(before.order)
        if order is before.order and types == before.types:
            return before
        if draft.per_type or draft.is_private:
            return self._client_states.new(types, order)
        return self._client_states.shared(types, order)


def _notice_return(draft: Draft, source: Source, kind: Kind, *, claims: bool, warms: bool) -> bool:
    """Have order know what a type's first request tells of an earlier stream; ``claims``: the client has some of it.

    Returns whether an Envoy is stuck: one whose stream broke while its clusters warmed asks for endpoints first of all,
    and what it says of those that it has is of the time before; on per-type streams, one that has routes is yet to ask
    for its clusters. One whose clusters wait for secrets alone (``warms``: by what its last stream had to answer) asks
    for listeners first. gRPC's client asks for its types in any order, and warms nothing.
    """
    if kind.stage is Stage.MAKE and claims:
        draft.returned()
    stuck = kind.type_url == ENDPOINTS and not source.served and not draft.states
    back = kind.switches and (claims if source.served else warms and not draft.clusters)
    if not (stuck or back) or source.is_grpc:
        return False
    draft.wait_for_clusters()
    return stuck


def _with_history(state: TypeState, history: History, context: StepContext, drained_at: float) -> TypeState:
    """Return the state with what is known of its node; listeners that may have been replaced drain until then."""
    left = still(history.draining, context.now)
    if state.kind.stage is Stage.LISTENERS:
        left = end_by(left, left, drained_at)
    else:
        names = state.subscription.names
        left = without(left, [name for name in left if name not in names or state.held(name) is not None])
    wanted = NameSet.of(name for name in history.nacked.names if state.subscription.wants(name))
    return state._replace(unknown=wanted).drains(left)


def _draining_of(client_state: ClientState, kind: Kind) -> Draining:
    return next((state.draining for state in client_state.types if state.kind is kind), NOTHING_DRAINS)


def _follow(draft: Draft, kind: Kind) -> None:
    """Do what a request of a type may have made possible."""
    if draft.absent and kind.type_url == ENDPOINTS:
        draft.asked_for_endpoints()
    if kind.type_url in (ROUTE, VIRTUAL_HOST):
        draft.ask_virtual_hosts()


def _answer_delta(draft: Draft, state: TypeState, request: DeltaDiscoveryRequest) -> Answered | None:
    nonce = request.response_nonce
    part = state.find(nonce) if nonce else None
    return draft.answered(state, part, error_of(request)) if part is not None else None


def _answer_sotw(
    draft: Draft, state: TypeState, request: DiscoveryRequest, rules: Rules
) -> tuple[Answered | None, bool]:
    """Take what a SotW request says; return the answer that it is, and whether it is stale but for that."""
    nonce, error, version = request.response_nonce, error_of(request), request.version_info
    heartbeat = state.heartbeat
    renewal = bool(heartbeat.nonce) and nonce == heartbeat.nonce
    part = state.find(nonce) if nonce else None
    if nonce != state.nonce and not renewal:
        # What it asks for is of before: the client repeats it with the present nonce.
        return (draft.answered(state, part, error, version) if part is not None else None), True
    outstanding = state.outstanding
    expected = outstanding is not None or (renewal and heartbeat.unanswered)
    repeated = not expected and error is None and bool(state.nonce)
    if renewal and heartbeat.unanswered:
        state = draft.put(state._replace(heartbeat=heartbeat._replace(unanswered=False)))
    # Envoy answers only the last of several responses that it got while its clusters warm.
    answered = draft.answered(state, outstanding, error, version) if outstanding is not None else None
    draft.put(change_sotw(draft.states[state.kind], request, rules.interned, repeated=repeated))
    return answered, False
