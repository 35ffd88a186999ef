"""How far each node is: per type and name, whether it was sent, accepted, rejected or held back. Read-only.

It is computed when somebody asks, from what the streams know anyway. It does not know how it is shown.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from xds.model.groups import Node
from xds.protocol.diff import wanted
from xds.protocol.state import Rejection, TypeState, Variant
from xds.protocol.stream import Session, Stream


class Progress(Enum):
    """Where one resource stands on one stream."""

    ACKED = "sent and accepted"
    SENT = "sent, not answered yet"
    NACKED = "rejected"
    HELD = "held back by the order of changes"
    MISSING = "subscribed, does not exist"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceStatus:
    """One name: ``version`` is what was sent last, empty for none."""

    name: str
    version: str
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeStatus:
    """One type on one stream; ``waited_s`` is how long its un-ACKed response waits, None without one."""

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
    """Yield the status of every node that has said who it is, a session each, oldest first."""
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
        types=tuple(_type_status(session, state, now) for state in session.at.types),
    )


def _type_status(session: Session, state: TypeState, now: float) -> TypeStatus:
    outstanding = state.outstanding
    return TypeStatus(
        type_url=state.type_url,
        variant=state.kind.variant,
        wildcard=state.interest.wildcard,
        resources=tuple(_resource_statuses(state)),
        rejection=session.rejection(state.kind),
        waited_s=None if outstanding is None else max(0.0, now - state.sent_at),
        overdue=state.overdue and outstanding is not None,
    )


def _resource_statuses(state: TypeState) -> Iterator[ResourceStatus]:
    on_the_way = {r.name for part in (state.outstanding, *state.rest) if part is not None for r in part.upserts}
    held = set(wanted(state.interest, state.view)) if state.view is not None else set()
    for name in sorted(held.union(state.exceptions)):
        resource = state.held(name)
        progress = Progress.ACKED
        if name in state.exceptions:
            progress = Progress.HELD
        elif name in on_the_way:
            progress = Progress.SENT
        elif name in state.unknown:
            progress = Progress.NACKED
        yield ResourceStatus(name=name, version=resource.version if resource else "", progress=progress)
    for name in sorted(state.interest.names - held.union(state.exceptions)):
        yield ResourceStatus(name=name, version="", progress=Progress.MISSING)
