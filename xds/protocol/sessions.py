"""Which session a stream belongs to, found at its first request, and which group takes a session's node.

Streams of one type share the session of their node on their connection; an aggregated stream has one of its own.
It does not know what is sent.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Set

from xds.model.catalog import Catalog
from xds.model.groups import Node
from xds.model.snapshot import Snapshot
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.identity import check_node_size, describe_node, is_grpc, same_node
from xds.protocol.limits import Limits
from xds.protocol.requests import Request
from xds.protocol.standing import Standing
from xds.protocol.state import Variant
from xds.protocol.stream import Session, Stream


class Sessions:
    """The sessions that streams of one type share, by connection and node."""

    __slots__ = ("_catalog", "_limits", "_shared", "_table")

    def __init__(self, catalog: Catalog, limits: Limits) -> None:
        self._catalog = catalog
        self._table = catalog.table
        self._limits = limits
        self._shared: dict[tuple[str, Node], Session] = {}

    def __len__(self) -> int:
        return len(self._shared)

    def of(
        self,
        stream: Stream,
        request: Request,
        request_bytes: int,
        now: float,
        snapshots: Mapping[str, Snapshot],
        start: Callable[[str, Variant, bool], Standing],
    ) -> Session:
        """Return the stream's session, found or made at its first request, which has so many bytes in all.

        Of the request only the node is looked at. ``start`` gives where a client stands that has said nothing.

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
            grpc = is_grpc(node)
            at = start(group, stream.variant, grpc)
            session = Session(
                node, group, snapshots[group], at, is_grpc=grpc, per_type=not stream.aggregated, since=now
            )
            if not stream.aggregated:
                self._shared[stream.connection, node] = session
        session.add(stream)
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
