"""Where a client stands: a value of each of its types, and one of the order in which they change. Immutable, shared.

All clients that stand alike hold one object (``Standings``), at which is kept what is remembered of the next steps.
"""

from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakValueDictionary

from immutables import Map

from xds.model.snapshot import Snapshot
from xds.protocol.awaited import NOTHING_AWAITED, Awaited, next_end
from xds.protocol.diff import NOBODY
from xds.protocol.draining import NEVER
from xds.protocol.interest import Interest
from xds.protocol.limits import Ordering
from xds.protocol.name_sets import NO_NAMES, NameSet
from xds.protocol.policy import Stage
from xds.protocol.response import Part
from xds.protocol.state import Kind, TypeState, Variant

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
    awaited: Awaited = NOTHING_AWAITED
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


class Standing:
    """The types, in the order in which they are sent, and the order.

    ``settled``: nothing is to be sent, until something happens; ``next_at``: when to look at it even if nothing does.
    ``arrivals``: how many clients came to stand here; ``steps`` by what is said, and ``ahead``, are remembered.
    """

    __slots__ = ("__weakref__", "ahead", "arrivals", "next_at", "order", "settled", "steps", "types")

    def __init__(self, types: tuple[TypeState, ...], order: Order, ordering: Ordering) -> None:
        self.types = types
        self.order = order
        self.settled = not (order.break_due or any(s.dirty or s.rest or s.heartbeat.at for s in types))
        self.next_at = _next_at(types, order, ordering)
        self.arrivals = 0
        self.steps: dict[bytes, Step] | None = None
        self.ahead: Step | None = None

    def of(self, type_url: str, slot: int) -> TypeState | None:
        """Return the state of a type of a stream."""
        for state in self.types:
            if state.kind.type_url == type_url and state.kind.slot == slot:
                return state
        return None


class Answered(NamedTuple):
    """A response was answered: accepted, or rejected for this reason."""

    kind: Kind
    part: Part
    error: str | None

    @property
    def settled(self) -> NameSet:
        """The names that an ACK settles; none stand for all of the type."""
        if self.kind.variant is Variant.SOTW and self.kind.policy.full_state:
            return NO_NAMES
        return self.part.settled_set


class Watched(NamedTuple):
    """A subscription changed, or with ``before`` None began."""

    kind: Kind
    before: Interest | None
    after: Interest


class Overdue(NamedTuple):
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
    watched: tuple[Watched, ...] = ()
    draining: tuple[TypeState, ...] = ()
    overdue: tuple[Overdue, ...] = ()
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

    after: Standing
    part: Part | None
    acked: Answered | None
    effects: Effects
    repeats: bool
    snapshot: Snapshot | None
    tick: float | None
    marks: Marks
    is_plain_ack: bool = field(init=False)
    """It is an ACK that looked at nothing else: the commonest of all."""

    def __post_init__(self) -> None:
        self.is_plain_ack = self.acked is not None and self.snapshot is None and self.tick is None


def _next_at(types: tuple[TypeState, ...], order: Order, ordering: Ordering) -> float:
    """Return when the first time comes that is named in a standing; infinity for never."""
    times = [NEVER]
    kept = has_clusters = False
    for state in types:
        stage = state.kind.stage
        if state.heartbeat.at:
            times.append(state.heartbeat.at)
        if ordering.enabled and stage is not Stage.FREE and state.in_flight and not state.overdue:
            times.append(state.sent_at + ordering.hold_timeout_s)
        if state.drain_at < NEVER:
            times.append(state.drain_at)
        if stage is Stage.MAKE:
            has_clusters = True
            kept = kept or bool(state.exceptions)
    if ordering.enabled:
        if order.awaited:
            times.append(next_end(order.awaited))
        if order.stuck_until and not has_clusters:
            times.append(order.stuck_until)
        if kept and order.break_after:
            times.append(order.break_after)
    return min(times)


class Standings:
    """The table that makes equal standings one object, for as long as a client stands there or a step leads there."""

    __slots__ = ("_known", "_ordering")

    def __init__(self, ordering: Ordering) -> None:
        self._known: WeakValueDictionary[tuple[tuple[TypeState, ...], Order], Standing] = WeakValueDictionary()
        self._ordering = ordering

    def new(self, types: tuple[TypeState, ...], order: Order) -> Standing:
        """Return a standing of one client's own."""
        return Standing(types, order, self._ordering)

    def shared(self, types: tuple[TypeState, ...], order: Order) -> Standing:
        """Return the one standing that all who stand so share."""
        found = self._known.get((types, order))
        if found is None:
            found = self._known[types, order] = Standing(types, order, self._ordering)
        return found

    def __len__(self) -> int:
        return len(self._known)
