"""Nodes that are gone, as entries of a list of nodes."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from xds.model.groups import Node
from xds.protocol.paging import NodeState, Position, first_after, position
from xds.protocol.status import NodesFound, NodesQuery, NodeSummary, says
from xds.registry.known_nodes import KnownNode


def gone_page(gone: Iterable[KnownNode], query: NodesQuery) -> NodesFound:
    """Return a page of the gone nodes that match a query. O(gone)."""
    found = [(_position(each, query), each) for each in gone if _is_asked_about(each, query)]
    page = first_after(found, query.after, query.limit)
    return NodesFound(nodes=tuple(gone_summary(each, at) for at, each in page), total=len(found))


def gone_summary(known: KnownNode, at: Position) -> NodeSummary:
    """Return a gone node as an entry of a list."""
    return NodeSummary(
        node=node_of(known),
        group=known.group,
        revision=known.accepted_revision,
        state=NodeState.GONE,
        connected_s=None,
        types=(),
        accepted_revision=known.accepted_revision,
        address=known.address,
        replica=known.replica,
        first_seen_ms=known.first_seen_ms,
        last_seen_ms=known.last_seen_ms,
        left_because=known.left_because,
        position=at,
    )


def node_of(known: KnownNode) -> Node:
    """Return what is known of a node. Its metadata is not."""
    return Node(
        id=known.id,
        cluster=known.cluster,
        locality=known.locality,
        user_agent=known.user_agent,
        identity=known.identity,
    )


def _position(known: KnownNode, query: NodesQuery) -> Position:
    return position(
        query.sort,
        id=known.id,
        group=known.group,
        state=NodeState.GONE,
        since_ms=known.last_seen_ms,
        version=known.envoy_version,
        tie="",
    )


def _is_asked_about(known: KnownNode, query: NodesQuery) -> bool:
    if query.id not in (None, known.id) or query.group not in (None, known.group):
        return False
    if query.group_globs and not any(fnmatchcase(known.group, glob) for glob in query.group_globs):
        return False
    if query.state not in (None, NodeState.GONE):
        return False
    if query.lacks is not None and known.accepted_revision >= query.lacks:
        return False
    return not query.search or says(node_of(known), known.address, query.search)
