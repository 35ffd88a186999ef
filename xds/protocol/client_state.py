"""The state of one client: an immutable value per type and one of the order of types, and the cached steps from it.

All clients in the same state share one object (``ClientStates``). It holds the cached steps that start from it: what a
request or the newest snapshot leads to is computed once for a whole fleet. A step is cached once several clients have
reached the state it starts from. States refer forward only, so a state that no client has left is freed with the steps
that led to it. Steps that depend on a snapshot are dropped with that snapshot.

``LargeRequests`` recognises large requests by comparison, so that a fleet's equal requests are one ``bytes`` object.
After a restart every sidecar sends the names and versions of all that it has: hundreds of kilobytes, equal throughout a
fleet but for the node, which encoders write first. Requests are looked up by their length and their last bytes and then
compared whole: hashing them costs several times as much and needs a copy without the node.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple
from weakref import KeyedRef, WeakSet, ref

from immutables import Map

from xds.model.snapshot import Snapshot
from xds.protocol.diff import NOBODY
from xds.protocol.draining import NEVER
from xds.protocol.pending_endpoints import NO_PENDING_ENDPOINTS, PendingEndpoints, next_end
from xds.protocol.policy import Ordering, Stage, Variant
from xds.protocol.responses import Part
from xds.protocol.subscription import NO_NAMES, NameSet, Subscription
from xds.protocol.type_state import NO_HEARTBEAT, Kind, TypeState

# --- States and steps ------------------------------------------------------------------------------------------------

Marks = tuple[tuple[int, str], ...]
"""Types that a change concerns: slot and type URL of each."""
NO_MARKS: Marks = ()


class Order(NamedTuple):
    """How far each step of the order has come.

    ``making`` is the snapshot whose clusters were sent last; ``made`` the one whose clusters the client has.
    ``warming``: assignments that the client waits for before it ACKs clusters; ``awaited``: those of a per-type client.
    ``sent``: how many messages went out to a per-type client, so that an answer to an earlier one is not taken for one
    to a later. ``absent``: clusters that it rejected and did not have before; ``rejected``: of the responses with them,
    by assignment, the clusters that take their endpoints from it. ``greeted``: routes whose virtual hosts were answered
    for a first time. ``break_due``: there may be clusters to remove; ``break_after``: until when removals wait in any
    case. ``coming_back``: the client claimed clusters of an earlier stream, and has not answered anything since.
    ``stuck_until``: a client came back that has routes or endpoints of an earlier stream, and is to ask for its
    clusters by then. ``asked_before``: endpoints that the client asked for before it got what was sent last.
    """

    made: Snapshot | None = None
    making: Snapshot | None = None
    warming: frozenset[str] = NOBODY
    awaited: PendingEndpoints = NO_PENDING_ENDPOINTS
    sent: int = 0
    absent: frozenset[str] = NOBODY
    rejected: tuple[Map[str, frozenset[str]], ...] = ()
    greeted: frozenset[str] = NOBODY
    break_due: bool = False
    break_after: float = 0.0
    coming_back: bool = False
    stuck_until: float = 0.0
    asked_before: frozenset[str] = NOBODY


NOT_BEGUN = Order()


class ClientState:
    """The types, in the order in which they are sent, and the order.

    ``settled``: nothing is to be sent, until something happens; ``next_at``: when to look at it even if nothing does.
    ``is_calm``: the order waits for nothing.
    ``arrivals``: how many clients came to stand here; ``steps`` by what is said, and ``next_step``, are remembered.
    """

    __slots__ = (
        "__weakref__",
        "arrivals",
        "is_calm",
        "next_at",
        "next_step",
        "order",
        "settled",
        "steps",
        "types",
    )

    def __init__(self, types: tuple[TypeState, ...], order: Order, ordering: Ordering) -> None:
        self.types = types
        self.order = order
        self.settled, self.is_calm, self.next_at = _outlook(types, order, ordering)
        self.arrivals = 0
        self.steps: dict[bytes, Step] | None = None
        self.next_step: Step | None = None

    def waits(self, marks: Marks) -> bool:
        """Say whether a client that stands here can be sent nothing more of any of these types before it answers."""
        for slot, type_url in marks:
            state = self.of(type_url, slot)
            if state is not None and (not state.in_flight or state.overdue):
                return False
        return True

    def of(self, type_url: str, slot: int) -> TypeState | None:
        """Return the state of a type of a stream."""
        for state in self.types:
            if state.kind.type_url == type_url and state.kind.slot == slot:
                return state
        return None


class Source(NamedTuple):
    """Which stream a request came on: ``served`` is the type of its service, empty for any."""

    variant: Variant
    slot: int
    served: str
    is_grpc: bool


class Answered(NamedTuple):
    """A response was answered: accepted, or rejected for this reason."""

    kind: Kind
    part: Part
    error: str | None

    @property
    def accepted_names(self) -> NameSet:
        """The names that an ACK settles; none stand for all of the type."""
        if self.kind.variant is Variant.SOTW and self.kind.policy.full_state:
            return NO_NAMES
        return self.part.accepted_set


class SubscriptionChange(NamedTuple):
    """A subscription changed, or with ``before`` None began."""

    kind: Kind
    before: Subscription | None
    after: Subscription


class OverdueResponse(NamedTuple):
    """A response was not answered in time."""

    kind: Kind
    nonce: str
    waited_s: float


class Effects(NamedTuple):
    """What a step means beyond its client's standing; who takes the step knows the node.

    ``draining``: what older versions the client may be using of a type, where that may have changed. ``claims``: it
    said what it has from an earlier stream. ``names``: how many were looked through for a change of a subscription;
    ``named``: the request may have brought some to keep.
    """

    answered: tuple[Answered, ...] = ()
    subscriptions: tuple[SubscriptionChange, ...] = ()
    draining: tuple[TypeState, ...] = ()
    overdue: tuple[OverdueResponse, ...] = ()
    claims: bool = False
    names: int = 0
    named: bool = False


NO_EFFECTS = Effects()


@dataclass(slots=True, eq=False)
class Step:
    """From where a client stands to where it stands next, what it is sent, and what that means to others. Immutable.

    ``acked``: a response was accepted, and there are no other effects. ``repeats``: whoever stands there takes the same
    step, as nothing in it is one client's own. What is not None was looked at, so that only where it is the same the
    step is: the group's ``snapshot``, the coarse clock's next ``tick``; and the ``marks`` that a client was brought up
    to date for.
    """

    after: ClientState
    part: Part | None
    acked: Answered | None
    effects: Effects
    repeats: bool
    snapshot: Snapshot | None
    tick: float | None
    marks: Marks
    is_plain_ack: bool = False
    """It is an ACK that looked at nothing else: the commonest of all."""


def _outlook(types: tuple[TypeState, ...], order: Order, ordering: Ordering) -> tuple[bool, bool, float]:
    """Return whether a standing is settled, whether it is calm, and the first of the times that are named in it."""
    next_at = NEVER
    sends = kept = has_clusters = False
    is_calm = not (order.break_due or order.break_after or order.coming_back or order.stuck_until)
    is_calm = is_calm and not (order.awaited or order.absent or order.warming)
    breaks = order.break_due and not order.break_after
    for state in types:
        if state.in_flight:
            if state.overdue:
                sends = sends or state.dirty or bool(state.remaining)
            elif ordering.enabled and state.kind.stage is not Stage.FREE:
                next_at = min(next_at, state.sent_at + ordering.hold_timeout_s)
            breaks = breaks and state.kind.stage is Stage.FREE
        elif state.dirty or state.remaining:
            sends = True
        if state.heartbeat is not NO_HEARTBEAT:
            is_calm = False
            if state.heartbeat.at:
                next_at, sends = min(next_at, state.heartbeat.at), True
        if state.drain_at < next_at:
            next_at = state.drain_at
        if state.kind.stage is Stage.MAKE:
            has_clusters = True
            kept = kept or bool(state.exceptions)
            is_calm = is_calm and state.idle and not state.exceptions
    if ordering.enabled:
        if order.awaited:
            next_at = min(next_at, next_end(order.awaited))
        if order.stuck_until and not has_clusters:
            next_at = min(next_at, order.stuck_until)
        if kept and order.break_after:
            next_at = min(next_at, order.break_after)
    return not (sends or (breaks and has_clusters)), is_calm, next_at


def _hash_of(state: TypeState) -> int:
    """Return a hash of what tells states apart most often: of all their fields it costs several times as much."""
    return hash((state.kind, state.subscription, state.view, state.serial, state.dirty))


class ClientStates:
    """The table that makes equal standings one object, for as long as a client stands there or a step leads there.

    Only standings with nothing in flight are looked up in it. Of the others, clients share those to which remembered
    steps lead, and all meet again once they have answered.
    """

    __slots__ = ("_known", "_ordering")

    def __init__(self, ordering: Ordering) -> None:
        self._known: dict[tuple[int, ...], KeyedRef[tuple[int, ...], ClientState]] = {}
        self._ordering = ordering

    def new(self, types: tuple[TypeState, ...], order: Order) -> ClientState:
        """Return a standing of one client's own."""
        return ClientState(types, order, self._ordering)

    def shared(self, types: tuple[TypeState, ...], order: Order) -> ClientState:
        """Return the one standing that all who stand so share; while something is in flight, a new one."""
        for state in types:
            if state.in_flight:
                return ClientState(types, order, self._ordering)
        key = (*map(_hash_of, types), hash((order.made, order.making, order.break_due)))
        reference = self._known.get(key)
        found = reference() if reference is not None else None
        if found is None:
            found = ClientState(types, order, self._ordering)
            self._known[key] = KeyedRef(found, self._forget, key)
        elif found.types != types or found.order != order:
            return ClientState(types, order, self._ordering)  # of equal hashes
        return found

    def _forget(self, reference: "KeyedRef[tuple[int, ...], ClientState]") -> None:
        if self._known.get(reference.key) is reference:
            del self._known[reference.key]

    def __len__(self) -> int:
        return len(self._known)


# --- Cached steps ----------------------------------------------------------------------------------------------------

STEP_BYTES = 1_000
"""About what a step takes beside what was said and what is sent: a standing, a few states."""
NAMES_FACTOR = 3
"""What is said is kept so many times: as it was said, and as the names that the standing after it has."""
STEPS_MAX = 64
"""So many different requests are remembered at one standing."""
AGE_MAX = 2
"""Steps and requests that nobody used for so many periods are forgotten."""


class StepCache:
    """The steps of all standings. ``bytes_max``: about what they may take; 0 remembers nothing."""

    __slots__ = ("_by_snapshot", "_bytes", "_idle", "_standings", "bytes_max")

    def __init__(self, *, bytes_max: int = 64 * 1024 * 1024) -> None:
        self.bytes_max = bytes_max
        self._bytes = 0
        self._standings: WeakSet[ClientState] = WeakSet()
        self._by_snapshot: dict[Snapshot, set[ref[ClientState]]] = {}
        self._idle: dict[int, tuple[int, int]] = {}

    def learn(self, client_state: ClientState, said: bytes, step: Step) -> None:
        """Keep what a request, without its node, leads to."""
        if client_state.arrivals < 2 or not step.repeats or len(said) + STEP_BYTES > self.bytes_max:
            return
        if client_state.steps is None:
            client_state.steps = {}
        elif len(client_state.steps) >= STEPS_MAX and said not in client_state.steps:
            return
        client_state.steps[said] = step
        self._keep(client_state, step, NAMES_FACTOR * len(said))

    def learn_next(self, client_state: ClientState, step: Step) -> None:
        """Keep what the newest snapshot leads to."""
        if client_state.arrivals < 2 or not step.repeats or not self.bytes_max:
            return
        client_state.next_step = step
        self._keep(client_state, step, len(step.part.message) if step.part is not None else 0)

    def _keep(self, client_state: ClientState, step: Step, size: int) -> None:
        self._standings.add(client_state)
        if step.snapshot is not None:
            self._by_snapshot.setdefault(step.snapshot, set()).add(ref(client_state))
        self._bytes += size + STEP_BYTES
        if self._bytes > self.bytes_max:
            self._bytes = sum(map(_bytes_of, self._standings))
            if self._bytes > self.bytes_max // 2:
                self.forget()

    def outdate(self, snapshot: Snapshot) -> None:
        """Forget the steps that looked at a snapshot: its group has a newer one, or is gone."""
        for reference in self._by_snapshot.pop(snapshot, ()):
            client_state = reference()
            if client_state is None:
                continue
            if client_state.next_step is not None and client_state.next_step.snapshot is snapshot:
                client_state.next_step = None
            if client_state.steps is not None:
                left = {said: step for said, step in client_state.steps.items() if step.snapshot is not snapshot}
                client_state.steps = left or None

    def forget(self) -> None:
        """Forget everything."""
        for client_state in list(self._standings):
            client_state.steps = client_state.next_step = None
        self._standings.clear()
        self._by_snapshot.clear()
        self._bytes = 0

    def grow_old(self) -> None:
        """Forget the steps of standings where nobody arrived since this was called ``AGE_MAX`` times."""
        idle: dict[int, tuple[int, int]] = {}
        for client_state in list(self._standings):
            arrivals, age = self._idle.get(id(client_state), (0, 0))
            age = age + 1 if arrivals == client_state.arrivals else 0
            if age > AGE_MAX:
                client_state.steps = client_state.next_step = None
                self._standings.discard(client_state)
            else:
                idle[id(client_state)] = (client_state.arrivals, age)
        self._idle = idle
        self._bytes = sum(map(_bytes_of, self._standings))
        self._by_snapshot = {
            snapshot: left
            for snapshot, references in self._by_snapshot.items()
            if (left := {each for each in references if each() in self._standings})
        }

    @property
    def bytes_kept(self) -> int:
        """About what is remembered takes. O(standings)."""
        return sum(map(_bytes_of, self._standings))


def _bytes_of(client_state: ClientState) -> int:
    steps = client_state.steps or {}
    next_step = client_state.next_step
    sent = [step.part for step in (*steps.values(), next_step) if step is not None and step.part is not None]
    count = len(steps) + (next_step is not None)
    return STEP_BYTES * count + NAMES_FACTOR * sum(map(len, steps)) + sum(len(part.message) for part in sent)


# --- Large requests --------------------------------------------------------------------------------------------------

TAIL_BYTES = 64
ALIKE_MAX = 8
"""Of requests of equal length that end alike, so many are known."""
LARGE_BYTES = 2_048

_Key = tuple[int, bytes]


class LargeRequests:
    """The large requests seen lately, without their nodes; beyond ``bytes_max`` the longest unseen are forgotten."""

    __slots__ = ("_ages", "_bytes", "_bytes_max", "_known")

    def __init__(self, *, bytes_max: int = 16 * 1024 * 1024) -> None:
        self._known: OrderedDict[_Key, list[bytes]] = OrderedDict()
        self._ages: dict[_Key, int] = {}
        self._bytes = 0
        self._bytes_max = bytes_max

    def plain(self, data: bytes, node: tuple[int, int]) -> bytes:
        """Return a request without its node, which begins and ends there: the same object for equal ones kept."""
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
        """Have a request, without its node, known again."""
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

    def grow_old(self) -> None:
        """Forget the requests that nobody sent since this was called ``AGE_MAX`` times."""
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
        """About what it all takes."""
        return self._bytes
