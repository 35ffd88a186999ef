"""The state of one client, and the cache of steps from one client state to the next.

A client state is an immutable value: one ``TypeState`` per resource type, and one ``Order``. All clients in the same
state share one object (``ClientStates``). The object also holds the cached steps that start from it, so the effect of a
request or of a new snapshot is computed once for a whole fleet. A step is cached once several clients have reached the
state that it starts from. States refer only to later states, so a state without clients is freed together with its
steps. Steps that depend on a snapshot are dropped with that snapshot.

``LargeRequests`` makes equal large requests one ``bytes`` object. After a restart every sidecar sends the names and
versions of all its resources: hundreds of kilobytes that are equal throughout a fleet except for the node, which
encoders write first. Requests are looked up by length and last bytes and then compared as a whole: hashing them costs
several times as much and needs a copy without the node.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple
from weakref import KeyedRef, WeakSet, ref

from immutables import Map

from xds.model.snapshot import Snapshot
from xds.protocol.convergence import EVERYTHING, NO_DEBT, UNSENT_MAX, Debt, debt_of, oldest
from xds.protocol.diff import EMPTY_SET
from xds.protocol.draining import NEVER
from xds.protocol.pending_endpoints import NO_PENDING_ENDPOINTS, PendingEndpoints, next_end
from xds.protocol.policy import Ordering, Stage, Variant
from xds.protocol.responses import Part
from xds.protocol.subscription import NO_NAMES, NameSet, Subscription
from xds.protocol.type_state import NO_HEARTBEAT, Kind, TypeState

# --- States and steps ------------------------------------------------------------------------------------------------

Mark = tuple[int, str, int]
"""A type with changes that the client has not been sent: slot, type URL, and the revision of a change."""
Marks = tuple[Mark, ...]
"""Marks, oldest first. One of a type is enough, except for types that may be updated to an older snapshot."""
NO_MARKS: Marks = ()


class Order(NamedTuple):
    """The part of a client's state that spans its types: progress in make-before-break order."""

    acked_snapshot: Snapshot | None = None
    """The snapshot whose clusters the client has."""
    sent_snapshot: Snapshot | None = None
    """The snapshot whose clusters were sent last."""
    warming_endpoints: frozenset[str] = EMPTY_SET
    """On ADS, the assignments that the client needs before it ACKs the clusters in flight."""
    pending_endpoints: PendingEndpoints = NO_PENDING_ENDPOINTS
    """On per-type streams, the assignments that the client needs before its clusters are warm."""
    messages_sent: int = 0
    """Messages sent to a per-type client. Used as a clock: it shows which of two answers is to the later message."""
    missing_clusters: frozenset[str] = EMPTY_SET
    """Clusters that the client rejected and did not have before."""
    rejected_clusters: tuple[Map[str, frozenset[str]], ...] = ()
    """For each rejected response: assignment name to the clusters of the response that use it."""
    check_removals: bool = False
    """The client may have clusters that can be removed: look for them."""
    hold_removals_until: float = 0.0
    """No cluster is removed before this time; 0 for no such time."""
    is_returning: bool = False
    """The client reported clusters of an earlier stream and has not answered any response since."""
    wait_for_clusters_until: float = 0.0
    """Until then, listeners and routes of a reconnected client wait for its subscription to clusters; 0: no wait."""
    requested_before: frozenset[str] = EMPTY_SET
    """Endpoints that the client requested before it received the clusters that were sent last."""


NOT_BEGUN = Order()


class ClientState:
    """The types of a client, in sending order, and their ``Order``."""

    __slots__ = (
        "__weakref__",
        "arrivals",
        "awaits_clusters",
        "debt",
        "next_at",
        "next_step",
        "order",
        "ordering_idle",
        "settled",
        "steps",
        "types",
    )

    def __init__(self, types: tuple[TypeState, ...], order: Order, ordering: Ordering) -> None:
        self.types = types
        self.order = order
        # There is nothing to send; no ordering rule waits; the answer to clusters holds back listeners and routes; when
        # the next timeout changes the state.
        self.settled, self.ordering_idle, self.awaits_clusters, self.next_at = _outlook(types, order, ordering)
        self.debt = _debt_of(types)
        self.arrivals = 0
        """How many times a client has reached this state."""
        self.steps: dict[bytes, Step] | None = None
        """Cached steps by request, without its node."""
        self.next_step: Step | None = None
        """The cached step to the newest snapshot."""

    def is_blocked(self, marks: Marks) -> bool:
        """Say whether each of these types waits for the client's answer, so that nothing more of it can be sent now."""
        for slot, type_url, revision in marks:
            state = self.of(type_url, slot)
            if state is None or (state.in_flight and not state.overdue):
                continue
            if not (self.awaits_clusters and _is_level(state, self.order.acked_snapshot, revision)):
                return False
        return True

    def sent_since(self, part: Part) -> int:
        """Return the oldest revision that a part in flight brings, 0 for none, as to a client that has just come."""
        for state in self.types:
            if state.in_flight and state.in_flight[-1] is part:
                since = state.owed_in_flight[-1]
                return since if since > EVERYTHING else 0
        return 0

    def of(self, type_url: str, slot: int) -> TypeState | None:
        """Return the state of a type of a stream."""
        for state in self.types:
            if state.kind.type_url == type_url and state.kind.slot == slot:
                return state
        return None


class Source(NamedTuple):
    """The stream that a request came on. ``served`` is the type of a per-type service, empty on ADS."""

    variant: Variant
    slot: int
    served: str
    is_grpc: bool


class Answered(NamedTuple):
    """The client answered a response. ``error`` is the message of a NACK, None for an ACK."""

    kind: Kind
    part: Part
    error: str | None

    @property
    def accepted_names(self) -> NameSet:
        """The names that an ACK confirms; an empty set means all names of the type."""
        if self.kind.variant is Variant.SOTW and self.kind.policy.full_state:
            return NO_NAMES
        return self.part.accepted_set


class SubscriptionChange(NamedTuple):
    """A subscription changed; ``before`` is None for the first one of a type."""

    kind: Kind
    before: Subscription | None
    after: Subscription


class OverdueResponse(NamedTuple):
    """The client did not answer a response within the hold timeout."""

    kind: Kind
    nonce: str
    waited_s: float


class Effects(NamedTuple):
    """The effects of a step outside of the client state. ``Hub`` applies them to the node that takes the step."""

    answered: tuple[Answered, ...] = ()
    subscriptions: tuple[SubscriptionChange, ...] = ()
    draining: tuple[TypeState, ...] = ()
    """Types whose draining resources may have changed."""
    overdue: tuple[OverdueResponse, ...] = ()
    reported: bool = False
    """The request reported versions of an earlier stream."""
    names_scanned: int = 0
    """How many names were looked at to change a subscription."""
    adds_names: bool = False
    """The request may have added names to the client state."""


NO_EFFECTS = Effects()


@dataclass(slots=True, eq=False)
class Step:
    """One step of a client: its next state, the message to send, and the effects on others. Immutable."""

    after: ClientState
    part: Part | None
    acked: Answered | None
    """The response that the client ACKed, if the step has no other effects."""
    effects: Effects
    is_cacheable: bool
    """The step is the same for every client in the state: it depends on nothing of one client alone."""
    snapshot: Snapshot | None
    """The group's snapshot, if the step depends on it: a cached step is valid only for that snapshot."""
    tick: float | None
    """The next tick of the coarse clock, if the step depends on it: a cached step is valid only until that tick."""
    marks: Marks
    """The marks that the step clears: a cached step is valid only for a client with the same marks."""
    is_plain_ack: bool = False
    """The step is an ACK that depends on neither snapshot nor clock, the most frequent kind."""
    debts: tuple[Debt, Debt] | None = None
    """The client's debt before the step, marks included, and after it, where they differ."""
    requested: str = ""
    """The type of the request that the step is for, "" if it is not for a request."""


def add_mark(marks: Marks, mark: Marks, *, several: bool) -> Marks:
    """Add a mark, unless its type has one and does not need ``several``.

    Beyond ``UNSENT_MAX`` marks of a type, the newest replaces the one before it (``with_revision``).
    """
    ((slot, type_url, _),) = mark
    of_type = [at for at, each in enumerate(marks) if each[1] == type_url and each[0] == slot]
    if not of_type or (several and len(of_type) < UNSENT_MAX):
        return marks + mark
    return (*marks[: of_type[-1]], *marks[of_type[-1] + 1 :], *mark) if several else marks


def debt_with(debt: Debt, marks: Marks) -> Debt:
    """Return the debt of a client whose state has ``debt`` and that has marks."""
    if not marks:
        return debt
    at = marks[0][2]
    if debt.rejected:
        return debt_of(oldest((debt.owed, at)), debt.rejected, (debt.owed, debt.mending, at))
    return debt if debt.owed and debt.owed <= at else Debt(at)


def debt_change(before: ClientState, marks: Marks, after: ClientState) -> tuple[Debt, Debt] | None:
    """Return the debts before and after a step that clears these marks, None if they are equal."""
    old = debt_with(before.debt, marks)
    return None if old == after.debt else (old, after.debt)


def _debt_of(types: tuple[TypeState, ...]) -> Debt:
    """Return the debt of a client in these states."""
    owed = rejected = 0
    for state in types:
        if state.in_flight or state.owed_unsent or state.overrides or state.remaining:
            since = state.owed_since
            if since and (not owed or since < owed):
                owed = since
        if state.rejected_at and (not rejected or state.rejected_at < rejected):
            rejected = state.rejected_at
    if not rejected:
        return Debt(owed) if owed else NO_DEBT
    due = (each for state in types for each in (*state.owed_in_flight, *state.owed_unsent, state.owed_remaining))
    return debt_of(owed, rejected, due)


def _is_level(state: TypeState, acked: Snapshot | None, since: float) -> bool:
    """Say whether a type that follows ``acked`` has nothing to send, though it changed in revision ``since``."""
    if not state.kind.is_routing or state.remaining:
        return False
    if acked is None:
        return True
    if state.required_names or state.response_due or state.overrides or since <= acked.revision:
        return False
    return state.view is acked.view(state.kind.type_url)


def _outlook(types: tuple[TypeState, ...], order: Order, ordering: Ordering) -> tuple[bool, bool, bool, float]:
    """Return ``settled``, ``ordering_idle``, ``awaits_clusters`` and ``next_at`` of a client state."""
    enabled, next_at = ordering.enabled, NEVER
    sends = kept = has_clusters = awaits_clusters = is_late = has_level = False
    ordering_idle = not (
        order.check_removals or order.hold_removals_until or order.is_returning or order.wait_for_clusters_until
    )
    ordering_idle = ordering_idle and not (order.pending_endpoints or order.missing_clusters or order.warming_endpoints)
    breaks = order.check_removals and not order.hold_removals_until
    for state in types:
        stage, in_flight = state.kind.stage, state.in_flight
        has_more = state.dirty or bool(state.remaining)
        if in_flight:
            if state.overdue:
                sends = sends or has_more
            elif stage is not Stage.UNORDERED:
                next_at = min(next_at, state.sent_at + ordering.hold_timeout_s)
            if stage is Stage.CLUSTERS:
                breaks, awaits_clusters, is_late = False, enabled, is_late or state.overdue
        elif has_more:
            # Clusters come before listeners and routes.
            since = state.owed_unsent[0] if state.owed_unsent else NEVER
            if awaits_clusters and _is_level(state, order.acked_snapshot, since):
                has_level = True
            else:
                sends = True
        if state.heartbeat is not NO_HEARTBEAT:
            ordering_idle = False
            if state.heartbeat.at:
                next_at, sends = min(next_at, state.heartbeat.at), True
        if state.drain_at < next_at:
            next_at = state.drain_at
        if stage is Stage.CLUSTERS:
            has_clusters = True
            kept = kept or bool(state.overrides)
            ordering_idle = ordering_idle and not (has_more or in_flight or state.overrides)
    if enabled:
        next_at = min(next_at, _wait_ends_at(order, has_clusters=has_clusters, kept=kept))
    awaits_clusters = awaits_clusters and not is_late
    sends = sends or (has_level and not awaits_clusters)
    return not (sends or (breaks and has_clusters)), ordering_idle, awaits_clusters, next_at


def _wait_ends_at(order: Order, *, has_clusters: bool, kept: bool) -> float:
    """Return when the first wait of the order ends, NEVER if it does not wait."""
    next_at = NEVER
    if order.pending_endpoints:
        next_at = next_end(order.pending_endpoints)
    if order.wait_for_clusters_until and not has_clusters:
        next_at = min(next_at, order.wait_for_clusters_until)
    if kept and order.hold_removals_until:
        next_at = min(next_at, order.hold_removals_until)
    return next_at


def _hash_of(state: TypeState) -> int:
    """Return a hash of the fields that differ most often. Hashing all fields costs several times as much."""
    return hash((state.kind, state.subscription, state.view, state.serial, state.dirty))


class ClientStates:
    """The table that makes equal client states one object, for as long as a client or a cached step refers to it.

    Only states with nothing in flight are looked up in the table. States with a response in flight are shared only by
    way of cached steps; those clients share a state again once they have answered.
    """

    __slots__ = ("_known", "_ordering")

    def __init__(self, ordering: Ordering) -> None:
        self._known: dict[tuple[int, ...], KeyedRef[tuple[int, ...], ClientState]] = {}
        self._ordering = ordering

    def new(self, types: tuple[TypeState, ...], order: Order) -> ClientState:
        """Return a state that is not shared."""
        return ClientState(types, order, self._ordering)

    def shared(self, types: tuple[TypeState, ...], order: Order) -> ClientState:
        """Return the shared object for this state, or a new one while a response is in flight."""
        for state in types:
            if state.in_flight:
                return ClientState(types, order, self._ordering)
        key = (*map(_hash_of, types), hash((order.acked_snapshot, order.sent_snapshot, order.check_removals)))
        reference = self._known.get(key)
        found = reference() if reference is not None else None
        if found is None:
            found = ClientState(types, order, self._ordering)
            self._known[key] = KeyedRef(found, self._forget, key)
        elif found.types != types or found.order != order:
            return ClientState(types, order, self._ordering)  # another state with the same hash
        return found

    def _forget(self, reference: "KeyedRef[tuple[int, ...], ClientState]") -> None:
        if self._known.get(reference.key) is reference:
            del self._known[reference.key]

    def __len__(self) -> int:
        return len(self._known)


# --- Cached steps ----------------------------------------------------------------------------------------------------

STEP_BYTES = 1_000
"""Approximate bytes of a cached step beside its request and message: a client state and a few type states."""
NAMES_FACTOR = 3
"""A cached request counts this many times: its bytes, and its names in the next client state."""
STEPS_MAX = 64
"""Maximum cached requests per client state."""
AGE_MAX = 2
"""Steps and requests are evicted once they were not used for this many calls of ``evict_idle``."""


class StepCache:
    """The cached steps of all client states. ``bytes_max`` bounds them, approximately; 0 switches the cache off."""

    __slots__ = ("_by_snapshot", "_bytes", "_client_states", "_idle", "bytes_max")

    def __init__(self, *, bytes_max: int = 64 * 1024 * 1024) -> None:
        self.bytes_max = bytes_max
        self._bytes = 0
        self._client_states: WeakSet[ClientState] = WeakSet()
        self._by_snapshot: dict[Snapshot, set[ref[ClientState]]] = {}
        self._idle: dict[int, tuple[int, int]] = {}

    def add(self, client_state: ClientState, request: bytes, step: Step) -> None:
        """Cache the step for a request, given without its node."""
        if client_state.arrivals < 2 or not step.is_cacheable or len(request) + STEP_BYTES > self.bytes_max:
            return
        if client_state.steps is None:
            client_state.steps = {}
        elif len(client_state.steps) >= STEPS_MAX and request not in client_state.steps:
            return
        client_state.steps[request] = step
        self._keep(client_state, step, NAMES_FACTOR * len(request))

    def add_next(self, client_state: ClientState, step: Step) -> None:
        """Cache the step to the newest snapshot."""
        if client_state.arrivals < 2 or not step.is_cacheable or not self.bytes_max:
            return
        client_state.next_step = step
        self._keep(client_state, step, len(step.part.message) if step.part is not None else 0)

    def _keep(self, client_state: ClientState, step: Step, size: int) -> None:
        self._client_states.add(client_state)
        if step.snapshot is not None:
            self._by_snapshot.setdefault(step.snapshot, set()).add(ref(client_state))
        self._bytes += size + STEP_BYTES
        if self._bytes > self.bytes_max:
            self._bytes = sum(map(_bytes_of, self._client_states))
            if self._bytes > self.bytes_max // 2:
                self.clear()

    def drop_snapshot(self, snapshot: Snapshot) -> None:
        """Drop the steps that depend on a snapshot that was replaced or removed."""
        for reference in self._by_snapshot.pop(snapshot, ()):
            client_state = reference()
            if client_state is None:
                continue
            if client_state.next_step is not None and client_state.next_step.snapshot is snapshot:
                client_state.next_step = None
            if client_state.steps is not None:
                left = {request: step for request, step in client_state.steps.items() if step.snapshot is not snapshot}
                client_state.steps = left or None

    def clear(self) -> None:
        """Drop all cached steps."""
        for client_state in list(self._client_states):
            client_state.steps = client_state.next_step = None
        self._client_states.clear()
        self._by_snapshot.clear()
        self._bytes = 0

    def evict_idle(self) -> None:
        """Drop the steps of states that no client reached during the last ``AGE_MAX`` calls."""
        idle: dict[int, tuple[int, int]] = {}
        for client_state in list(self._client_states):
            arrivals, age = self._idle.get(id(client_state), (0, 0))
            age = age + 1 if arrivals == client_state.arrivals else 0
            if age > AGE_MAX:
                client_state.steps = client_state.next_step = None
                self._client_states.discard(client_state)
            else:
                idle[id(client_state)] = (client_state.arrivals, age)
        self._idle = idle
        self._bytes = sum(map(_bytes_of, self._client_states))
        self._by_snapshot = {
            snapshot: left
            for snapshot, references in self._by_snapshot.items()
            if (left := {each for each in references if each() in self._client_states})
        }

    @property
    def bytes_kept(self) -> int:
        """Approximate bytes of all cached steps. O(client states)."""
        return sum(map(_bytes_of, self._client_states))


def _bytes_of(client_state: ClientState) -> int:
    steps = client_state.steps or {}
    next_step = client_state.next_step
    sent = [step.part for step in (*steps.values(), next_step) if step is not None and step.part is not None]
    count = len(steps) + (next_step is not None)
    return STEP_BYTES * count + NAMES_FACTOR * sum(map(len, steps)) + sum(len(part.message) for part in sent)


# --- Large requests --------------------------------------------------------------------------------------------------

TAIL_BYTES = 64
ALIKE_MAX = 8
"""Maximum cached requests per key (length and last bytes)."""
LARGE_BYTES = 2_048

_Key = tuple[int, bytes]


class LargeRequests:
    """Recent large requests without their nodes. Beyond ``bytes_max`` the least recently seen are dropped."""

    __slots__ = ("_ages", "_bytes", "_bytes_max", "_known")

    def __init__(self, *, bytes_max: int = 16 * 1024 * 1024) -> None:
        self._known: OrderedDict[_Key, list[bytes]] = OrderedDict()
        self._ages: dict[_Key, int] = {}
        self._bytes = 0
        self._bytes_max = bytes_max

    def plain(self, data: bytes, node: tuple[int, int]) -> bytes:
        """Return a request without its node, whose start and end are given: a cached object if one is equal."""
        node_start, node_end = node
        size = len(data) - node_end
        if node_start or size < LARGE_BYTES:
            return data[:node_start] + data[node_end:] if node_end else data
        key = (size, data[-TAIL_BYTES:])
        for plain in self._known.get(key, ()):
            if data.endswith(plain):
                self._known.move_to_end(key)
                self._ages[key] = 0
                return plain
        return data[node_end:]

    def keep(self, plain: bytes) -> None:
        """Add a request, without its node."""
        size = len(plain)
        if size < LARGE_BYTES:
            return
        key = (size, plain[-TAIL_BYTES:])
        alike = self._known.setdefault(key, [])
        if any(each is plain for each in alike):
            return
        if len(alike) == ALIKE_MAX:
            self._bytes -= len(alike.pop(0))
        alike.append(plain)
        self._ages[key] = 0
        self._bytes += size
        while self._bytes > max(self._bytes_max, size):
            self._forget(next(iter(self._known)))

    def evict_idle(self) -> None:
        """Drop the requests that were not seen during the last ``AGE_MAX`` calls."""
        for key, age in list(self._ages.items()):
            if age >= AGE_MAX:
                self._forget(key)
            else:
                self._ages[key] = age + 1

    def _forget(self, key: _Key) -> None:
        self._bytes -= sum(map(len, self._known.pop(key)))
        del self._ages[key]

    @property
    def bytes_kept(self) -> int:
        """Bytes of all requests in the table."""
        return self._bytes
