"""Data for operators: events and counters, and for each node the resources sent, accepted, rejected and held.

A status has every resource and costs O(names). A summary has numbers per type and costs O(types) per node, as a query
may return thousands of nodes. Both are computed on request from the client states.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from fnmatch import fnmatchcase

from xds.model.groups import Node
from xds.protocol.client_state import debt_with
from xds.protocol.convergence import NO_DEBT, Debt
from xds.protocol.diff import wanted
from xds.protocol.policy import Variant
from xds.protocol.responses import Part
from xds.protocol.sessions import Session, Stream
from xds.protocol.type_state import Rejection, TypeState

# --- Events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Nacked:
    """A node rejected a response. ``resources`` maps the names in it to the versions that were sent."""

    node_id: str
    group: str
    type_url: str
    nonce: str
    message: str
    resources: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """A node did not answer a response within the hold timeout."""

    node_id: str
    group: str
    type_url: str
    nonce: str
    waited_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A stream was ended because of an invalid request. ``node_id`` is empty before its node is known."""

    node_id: str
    status: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownType:
    """A node subscribed to a type that the schema lacks, which is answered as a type without resources."""

    node_id: str
    group: str
    type_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsWithheld:
    """A node that may get no secrets subscribed to secrets, which is answered as a type without resources."""

    node_id: str
    group: str


def nacked(node_id: str, group: str, type_url: str, part: Part, message: str) -> Nacked:
    """Return the event of a rejected part."""
    return Nacked(
        node_id=node_id, group=group, type_url=type_url, nonce=part.nonce, message=message, resources=part.versions
    )


def overdue(node_id: str, group: str, type_url: str, nonce: str, waited_s: float) -> Overdue:
    """Return the event of an overdue answer."""
    return Overdue(node_id=node_id, group=group, type_url=type_url, nonce=nonce, waited_s=waited_s)


Event = Nacked | Overdue | Refused | UnknownType | SecretsWithheld


@dataclass(slots=True)
class Counters:
    """Totals since the start, for metrics."""

    streams_opened: int = 0
    streams_closed: int = 0
    streams_refused: int = 0
    requests: int = 0
    responses: int = 0
    response_bytes: int = 0
    resources_sent: int = 0
    removals_sent: int = 0
    heartbeats: int = 0
    acks: int = 0
    nacks: int = 0
    overdue: int = 0
    nodes_denied: int = 0
    """Streams refused because of who their node is."""
    secrets_withheld: int = 0
    """Subscriptions to secrets by clients that may not get them."""
    tokens_refused: Counter[str] = field(default_factory=Counter)
    """Tokens refused, by reason."""
    tokens_expired: int = 0
    """Streams ended because their token had expired."""
    keys_failed: Counter[str] = field(default_factory=Counter)
    """Failed attempts to read an issuer's keys, by issuer."""

    @classmethod
    def sum(cls, counters: Iterable["Counters"]) -> "Counters":
        """Return the sums over several processes."""
        total = cls()
        for one in counters:
            for name in (each.name for each in fields(cls)):
                setattr(total, name, getattr(total, name) + getattr(one, name))
        return total

    def count(self, part: Part, times: int = 1) -> None:
        """Count a message that was sent to ``times`` streams."""
        self.responses += times
        self.response_bytes += times * len(part.message)
        self.resources_sent += times * len(part.upserts)
        self.removals_sent += times * len(part.removals)
        self.heartbeats += times * part.is_heartbeat


# --- Statuses --------------------------------------------------------------------------------------------------------


class Progress(Enum):
    """The progress of one resource on one stream."""

    ACKED = "sent and accepted"
    SENT = "sent, not answered yet"
    NACKED = "rejected"
    HELD = "held back by the order of changes"
    MISSING = "subscribed, does not exist"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceStatus:
    """One name. ``version`` is the version sent last, empty for none."""

    name: str
    version: str
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeStatus:
    """One type on one stream. ``waited_s`` is the age of its unanswered response, None without one."""

    type_url: str
    variant: Variant
    wildcard: bool
    resources: tuple[ResourceStatus, ...]
    rejection: Rejection | None
    waited_s: float | None
    overdue: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node's stream, or all per-type streams of its connection."""

    node: Node
    group: str
    revision: int
    types: tuple[TypeStatus, ...]


def node_statuses(streams: Iterable[Stream], now: float) -> Iterator[NodeStatus]:
    """Yield the status of every session, oldest first."""
    seen: set[int] = set()
    for stream in streams:
        session = stream.session
        if session is None or id(session) in seen:
            continue
        seen.add(id(session))
        yield _node_status(session, now)


def _node_status(session: Session, now: float) -> NodeStatus:
    return NodeStatus(
        node=session.node,
        group=session.group,
        revision=session.newest.revision,
        types=tuple(_type_status(session, state, now) for state in session.client_state.types),
    )


def _type_status(session: Session, state: TypeState, now: float) -> TypeStatus:
    outstanding = state.outstanding
    return TypeStatus(
        type_url=state.type_url,
        variant=state.kind.variant,
        wildcard=state.subscription.wildcard,
        resources=tuple(_resource_statuses(state)),
        rejection=session.rejection(state.kind),
        waited_s=None if outstanding is None else max(0.0, now - state.sent_at),
        overdue=state.overdue and outstanding is not None,
    )


def _resource_statuses(state: TypeState) -> Iterator[ResourceStatus]:
    on_the_way = {r.name for part in (state.outstanding, *state.remaining) if part is not None for r in part.upserts}
    held = set(wanted(state.subscription, state.view)) if state.view is not None else set()
    for name in sorted(held.union(state.exceptions)):
        resource = state.held(name)
        progress = Progress.ACKED
        if name in state.exceptions:
            progress = Progress.HELD
        elif name in on_the_way:
            progress = Progress.SENT
        elif name in state.nacked_names:
            progress = Progress.NACKED
        yield ResourceStatus(name=name, version=resource.version if resource else "", progress=progress)
    for name in sorted(state.subscription.names - held.union(state.exceptions)):
        yield ResourceStatus(name=name, version="", progress=Progress.MISSING)


# --- Summaries -------------------------------------------------------------------------------------------------------

NODES_MAX = 1_000
NAMES_SHOWN_MAX = 100


class NodeState(Enum):
    """The overall state of a node: the worst state of its types."""

    SYNCED = "synced"
    PENDING = "pending"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesQuery:
    """A filter of nodes; None matches any value. Each process returns at most ``limit`` nodes."""

    id: str | None = None
    group: str | None = None
    group_globs: tuple[str, ...] = ()
    """Globs for groups, of which one must match; without any, all groups."""
    state: NodeState | None = None
    lacks: int | None = None
    """A revision: only nodes that have not accepted it."""
    limit: int = NODES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeSummary:
    """One type on one stream, in numbers of resources.

    ``sent`` were sent and not removed: ``acked`` of them are accepted, ``unacked`` not answered yet. ``pending`` are
    still to be sent. ``nacked`` has up to ``NAMES_SHOWN_MAX`` names of rejected responses; ``error`` is the message of
    the last NACK.
    """

    type_url: str
    variant: str
    wildcard: bool
    subscribed: int
    sent: int
    acked: int
    unacked: int
    pending: int
    nacked: tuple[str, ...]
    error: str
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSummary:
    """One node's stream, or all per-type streams of its connection. ``revision`` is the one that it is updated to."""

    node: Node
    group: str
    revision: int
    state: NodeState
    connected_s: float
    types: tuple[TypeSummary, ...]
    debt: Debt = NO_DEBT


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesFound:
    """The nodes that match a query. ``missing_workers`` did not answer, so their nodes are missing.

    ``problems`` are those of the server that need its operator's attention.
    """

    nodes: tuple[NodeSummary, ...]
    missing_workers: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def node_summaries(streams: Iterable[Stream], query: NodesQuery, now: float) -> Iterator[NodeSummary]:
    """Yield the summaries of the nodes that match a query, oldest first."""
    seen: set[int] = set()
    left = query.limit
    for stream in streams:
        session = stream.session
        if left <= 0:
            return
        if session is None or id(session) in seen or not _is_asked_about(session, query):
            continue
        seen.add(id(session))
        summary = _summary(session, now)
        if query.state is None or summary.state is query.state:
            left -= 1
            yield summary


def _is_asked_about(session: Session, query: NodesQuery) -> bool:
    if query.id not in (None, session.node.id) or query.group not in (None, session.group):
        return False
    if query.group_globs and not any(fnmatchcase(session.group, glob) for glob in query.group_globs):
        return False
    return query.lacks is None or debt_with(session.client_state.debt, session.marks).lacks(query.lacks)


def _summary(session: Session, now: float) -> NodeSummary:
    marked = {(slot, type_url) for slot, type_url, _ in session.marks}
    types = tuple(
        _type_summary(state, session.rejection(state.kind), (state.kind.slot, state.type_url) in marked)
        for state in session.client_state.types
    )
    state = NodeState.SYNCED
    if any(each.nacked for each in types):
        state = NodeState.REJECTED
    elif any(each.unacked or each.pending for each in types):
        state = NodeState.PENDING
    return NodeSummary(
        node=session.node,
        group=session.group,
        revision=session.newest.revision,
        state=state,
        connected_s=now - session.since,
        types=types,
        debt=debt_with(session.client_state.debt, session.marks),
    )


def _type_summary(state: TypeState, last: Rejection | None, is_marked: bool) -> TypeSummary:
    view, subscription = state.view, state.subscription
    sent = 0
    if view is not None:
        sent = (
            len(view) if subscription.wildcard else sum(1 for name in subscription.names if view.get(name) is not None)
        )
    parts = [part for part in (state.outstanding, *state.remaining) if part is not None]
    unacked = sum(len(part.upserts) for part in parts)
    nacked_names = state.nacked_names.names
    rejected = 0 if view is None else sum(1 for name in nacked_names if view.get(name) is not None)
    nacked = tuple(sorted(nacked_names)[:NAMES_SHOWN_MAX])
    rejection = last if nacked else None
    return TypeSummary(
        type_url=state.type_url,
        variant=state.kind.variant.value,
        wildcard=subscription.wildcard,
        subscribed=max(sent, len(subscription.names)) if subscription.wildcard else len(subscription.names),
        sent=sent,
        acked=max(0, sent - unacked - rejected),
        unacked=unacked,
        pending=len(state.exceptions) + (1 if state.dirty or is_marked else 0),
        nacked=nacked,
        error="" if rejection is None else rejection.message,
        versions={} if rejection is None else {name: rejection.versions.get(name, "") for name in nacked},
    )
