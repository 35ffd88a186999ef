"""Which session a stream belongs to, found at its first request, and which group takes a session's node.

Streams of one type share the session of their node on their connection; an aggregated stream has one of its own.
It does not know what is sent.
"""

from collections.abc import Collection, Iterable, Mapping, Set

from xds.model.catalog import Catalog
from xds.model.groups import Node
from xds.model.snapshot import Snapshot
from xds.model.types import ENDPOINTS
from xds.protocol.cohorts import Cohorts
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.identity import check_node_size, describe_node, is_grpc, same_node
from xds.protocol.policy import Stage
from xds.protocol.requests import Request
from xds.protocol.response import Encoding
from xds.protocol.session import Session
from xds.protocol.state import TypeState
from xds.protocol.stream import Limits, Ordering, Stream


class Sessions:
    """The sessions that streams of one type share, by connection and node."""

    __slots__ = ("_catalog", "_cohorts", "_encoding", "_limits", "_ordering", "_shared", "_table")

    def __init__(
        self, catalog: Catalog, ordering: Ordering, encoding: Encoding, limits: Limits, cohorts: Cohorts
    ) -> None:
        self._catalog = catalog
        self._table = catalog.table
        self._limits = limits
        self._ordering = ordering
        self._encoding = encoding
        self._cohorts = cohorts
        self._shared: dict[tuple[str, Node], Session] = {}

    def __len__(self) -> int:
        return len(self._shared)

    def of(self, stream: Stream, request: Request, request_bytes: int, snapshots: Mapping[str, Snapshot]) -> Session:
        """Return the stream's session, found or made at its first request, which has so many bytes in all.

        Raises StreamRefusedError if the request has no node, one that is too large or another one than before, or if
        no group takes it.
        """
        has_node = request.HasField("node")
        if has_node and request_bytes > self._limits.node_bytes_max:
            check_node_size(request.node.ByteSize(), self._limits.node_bytes_max)
        if stream.session is not None:
            if has_node and not same_node(stream.session.node, request.node):
                raise StreamRefusedError(
                    Status.INVALID_ARGUMENT,
                    f"this stream is of node {stream.session.node.id!r}, a later request says {request.node.id!r}",
                )
            return stream.session
        if not has_node or not request.node.id:
            raise StreamRefusedError(
                Status.INVALID_ARGUMENT, "the first request of a stream must carry a node with an id"
            )
        node = describe_node(request.node)
        group = self._catalog.group_of(node)
        if group is None:
            raise StreamRefusedError(Status.PERMISSION_DENIED, f"no group takes node {node.id!r}")
        # The whole node, not its id alone: a proxy may bring several clients on one connection.
        session = None if stream.aggregated else self._shared.get((stream.connection, node))
        if session is None:
            session = Session(node, group, snapshots[group], self._ordering, self._encoding, self._cohorts)
            if not stream.aggregated:
                self._shared[stream.connection, node] = session
        session.streams.append(stream)
        stream.session = session
        return session

    def forget(self, stream: Stream, session: Session) -> None:
        """Let go of the session of its last stream."""
        key = (stream.connection, session.node)
        if self._shared.get(key) is session:
            del self._shared[key]

    def regroup(self, streams: Iterable[Stream], groups: Set[str]) -> list[tuple[Session, str | None]]:
        """Return the sessions whose node another group takes now, with that group, None for none at all.

        ``groups`` are those that came or went. Where the rules are as before, these move nobody, or without rules the
        nodes of a cluster with the group's name.
        """
        table, before = self._catalog.table, self._table
        self._table = table
        if table.rules and (table.rules, table.deny_unmatched) == (before.rules, before.deny_unmatched):
            return []
        sessions: Collection[Session] = {id(s.session): s.session for s in streams if s.session is not None}.values()
        if not table.rules and (before.rules, before.deny_unmatched) == ((), table.deny_unmatched):
            sessions = [session for session in sessions if session.node.cluster in groups]
        moved = []
        for session in sessions:
            group = self._catalog.group_of(session.node)
            if group is not None:
                for stream in session.streams:
                    stream.refusal = None
            if group != session.group:
                moved.append((session, group))
        return moved


def notice_return(session: Session, stream: Stream, state: TypeState, *, claims: bool, now: float) -> bool:
    """Have order know what a type's first request tells of an earlier stream; ``claims``: the client has some of it.

    Returns whether an Envoy is stuck: one whose stream broke while its clusters warmed asks for endpoints first of all,
    and what it says of those that it has is of the time before; on per-type streams, one that has routes is yet to ask
    for its clusters. gRPC's client asks for its types in any order, and warms nothing.
    """
    session.since = session.since or now
    stream.warm = stream.warm or claims
    if state.stage is Stage.MAKE and claims:
        session.returned(now)
    stuck = state.type_url == ENDPOINTS and stream.aggregated and not stream.states
    back = claims and not stream.aggregated and state.switches
    if not (stuck or back) or is_grpc(session.node):
        return False
    session.stuck_since = now if session.stuck_since is None else session.stuck_since
    session.timed = True
    return stuck
