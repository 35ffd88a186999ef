"""How far each node is, in numbers: per type how much it subscribes to, has, rejected and waits for. Read-only.

O(types) a node, not O(names), as somebody may ask about thousands of them. It does not know how it is shown.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from xds.model.groups import Node
from xds.protocol.state import Rejection, TypeState
from xds.protocol.stream import Session, Stream

NODES_MAX = 1_000
NAMES_SHOWN_MAX = 100


class NodeState(Enum):
    """Where a node stands in all: what is worst counts."""

    SYNCED = "synced"
    PENDING = "pending"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesQuery:
    """Which nodes are asked about: ``None`` for any. At most ``limit`` of each process are returned."""

    id: str | None = None
    group: str | None = None
    state: NodeState | None = None
    limit: int = NODES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeSummary:
    """One type on one stream, in numbers of resources.

    ``sent`` is what the client holds if it accepted all; ``acked`` of it is accepted, ``unacked`` not answered yet;
    ``pending`` is to be sent. ``nacked`` are names in rejected responses, up to ``NAMES_SHOWN_MAX``, ``error`` is what
    the client said.
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
    """One node's stream, or all per-type streams of its connection. ``revision`` is the one it is brought to."""

    node: Node
    group: str
    revision: int
    state: NodeState
    connected_s: float
    types: tuple[TypeSummary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesFound:
    """The nodes that a query found; ``missing_workers`` are processes that did not answer, whose nodes are missing."""

    nodes: tuple[NodeSummary, ...]
    missing_workers: tuple[str, ...] = ()


def node_summaries(streams: Iterable[Stream], query: NodesQuery, now: float) -> Iterator[NodeSummary]:
    """Yield those of the nodes that are asked about, oldest first."""
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
    return query.id in (None, session.node.id) and query.group in (None, session.group)


def _summary(session: Session, now: float) -> NodeSummary:
    marked = set(session.marks)
    types = tuple(
        _type_summary(state, session.rejection(state.kind), (state.kind.slot, state.type_url) in marked)
        for state in session.at.types
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
    )


def _type_summary(state: TypeState, last: Rejection | None, is_marked: bool) -> TypeSummary:
    view, interest = state.view, state.interest
    sent = 0
    if view is not None:
        sent = len(view) if interest.wildcard else sum(1 for name in interest.names if view.get(name) is not None)
    parts = [part for part in (state.outstanding, *state.rest) if part is not None]
    unacked = sum(len(part.upserts) for part in parts)
    unknown = state.unknown.names
    rejected = 0 if view is None else sum(1 for name in unknown if view.get(name) is not None)
    nacked = tuple(sorted(unknown)[:NAMES_SHOWN_MAX])
    rejection = last if nacked else None
    return TypeSummary(
        type_url=state.type_url,
        variant=state.kind.variant.value,
        wildcard=interest.wildcard,
        subscribed=max(sent, len(interest.names)) if interest.wildcard else len(interest.names),
        sent=sent,
        acked=max(0, sent - unacked - rejected),
        unacked=unacked,
        pending=len(state.exceptions) + (1 if state.dirty or is_marked else 0),
        nacked=nacked,
        error="" if rejection is None else rejection.message,
        versions={} if rejection is None else {name: rejection.versions.get(name, "") for name in nacked},
    )
