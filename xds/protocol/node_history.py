"""What is remembered of a node after its stream ends, and shared with the other processes on the port.

After a NACK the versions that a node reports can't be trusted (``NackedNames``): Envoy may have applied any part of the
rejected response, and ``initial_resource_versions`` names neither what it took nor what it lost. A name is NACKed
from its NACK to the ACK of a response that contains it.

After its stream a node may go on using older versions that it drains (``DrainingNodes``) without reporting them. What a
listener uses is noted as soon as the listener begins to drain, not when the stream ends: a node may be back, on any
process, before its dead stream is noticed.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from immutables import Map

from xds.model.groups import Node
from xds.model.types import CLUSTER
from xds.protocol.draining import (
    NEVER,
    NOTHING_DRAINS,
    Draining,
    clusters_used,
    end_draining_by,
    merge_draining,
    without_draining,
)
from xds.protocol.policy import Stage
from xds.protocol.subscription import NO_NAMES, NameSet, NameSets
from xds.protocol.type_state import TypeState

# --- Entries ---------------------------------------------------------------------------------------------------------

NodeKey = tuple[str, str]
"""A node's cluster and id, or what stands for them where they are long."""
KEY_CHARS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """Something that happened to a node's trust, of one type: names it rejected, or accepted after all.

    ``draining`` is what it may still be using, None if that did not change; empty if what was noted is over. Times in
    it are of the machine's monotonic clock. It is taken ``instead`` of what was noted, or together with it.
    """

    node: NodeKey
    type_url: str
    rejected: NameSet = NO_NAMES
    accepted: NameSet = NO_NAMES
    draining: Draining | None = None
    replaces: bool = False


Share = Callable[[HistoryEntry], None]


def share_with_nobody(entry: HistoryEntry) -> None:
    """Keep it to oneself: there is one process only."""


def node_key(node: Node) -> NodeKey:
    """Return what a node is remembered by. Of names above ``KEY_CHARS_MAX``, the rest is replaced by a digest."""
    return _short(node.cluster), _short(node.id)


def _short(name: str) -> str:
    if len(name) <= KEY_CHARS_MAX:
        return name
    return f"{name[: KEY_CHARS_MAX - 33]}~{blake2b(name.encode(), digest_size=16).hexdigest()}"


# --- NACKed names ----------------------------------------------------------------------------------------------------

NODE_BYTES = 1_000
"""About what a node takes beside its names: its key, and a dict by type."""


class NackedNames:
    """Names by node and type: of ``nodes_max`` nodes and ``bytes_max`` bytes at most, the longest unseen go first.

    Nodes that rejected the same share one set, which counts once. ``share`` is called with everything but what is
    taken in by ``remember``.
    """

    __slots__ = ("_by_node", "_bytes", "_bytes_max", "_nodes_max", "_sets", "_share", "_users")

    def __init__(self, *, nodes_max: int, bytes_max: int, share: Share = share_with_nobody) -> None:
        self._by_node: OrderedDict[NodeKey, dict[str, NameSet]] = OrderedDict()
        self._sets = NameSets()
        self._users: dict[NameSet, int] = {}
        self._bytes = 0
        self._nodes_max = nodes_max
        self._bytes_max = bytes_max
        self._share = share

    def add(self, node: Node, type_url: str, names: NameSet) -> None:
        """Take in names that the node rejected."""
        entry = HistoryEntry(node=node_key(node), type_url=type_url, rejected=names)
        self.remember(entry)
        self._share(entry)

    def accept(self, node: Node, type_url: str, names: NameSet) -> None:
        """Forget names that the node accepted: all of the type, if none are given."""
        known = self.of(node, type_url)
        accepted = known.intersection(names) if names else known
        if accepted:
            entry = HistoryEntry(node=node_key(node), type_url=type_url, accepted=accepted)
            self.remember(entry)
            self._share(entry)

    def remember(self, entry: HistoryEntry) -> None:
        """Take in what happened to a node, here or elsewhere."""
        if not entry.rejected and entry.node not in self._by_node:
            return
        by_type = self._by_node.get(entry.node)
        if by_type is None:
            by_type = self._by_node[entry.node] = {}
            self._bytes += NODE_BYTES
        before = by_type.get(entry.type_url, NO_NAMES)
        after = self._sets.get(before.union(entry.rejected).difference(entry.accepted))
        self._use(after)
        self._release(before)
        if after:
            by_type[entry.type_url] = after
        else:
            by_type.pop(entry.type_url, None)
        if not by_type:
            self._forget(entry.node)
        elif entry.rejected:
            self._by_node.move_to_end(entry.node)
        while len(self._by_node) > self._nodes_max or (self._bytes > self._bytes_max and self._by_node):
            self._forget(next(iter(self._by_node)))

    def _use(self, names: NameSet) -> None:
        if names:
            users = self._users.get(names, 0)
            self._users[names] = users + 1
            self._bytes += 0 if users else names.bytes_kept

    def _release(self, names: NameSet) -> None:
        if names:
            self._users[names] -= 1
            if not self._users[names]:
                del self._users[names]
                self._bytes -= names.bytes_kept

    def _forget(self, node: NodeKey) -> None:
        for names in self._by_node.pop(node).values():
            self._release(names)
        self._bytes -= NODE_BYTES

    def of(self, node: Node, type_url: str) -> NameSet:
        """Return the names of a type that the node rejected."""
        by_type = self._by_node.get(node_key(node))
        return by_type.get(type_url, NO_NAMES) if by_type is not None else NO_NAMES

    def knows(self, node: Node) -> bool:
        """Say whether a node rejected anything."""
        return node_key(node) in self._by_node

    def entries(self) -> Iterator[HistoryEntry]:
        """Iterate over all there is, for a process that knows nothing yet, the longest unseen first."""
        for node, by_type in self._by_node.items():
            for type_url, names in by_type.items():
                yield HistoryEntry(node=node, type_url=type_url, rejected=names)

    @property
    def by_node(self) -> Mapping[NodeKey, Mapping[str, NameSet]]:
        """The names that were rejected, by node and by type."""
        return self._by_node

    @property
    def bytes_kept(self) -> int:
        """About what all of it takes in memory."""
        return self._bytes


# --- Draining resources ----------------------------------------------------------------------------------------------

ANY_CLUSTER: Draining = Map({"": ((None, NEVER),)})
"""What an Envoy may be using whose clusters warm: nobody knows which, until it asks for them."""
VERSION_BYTES = 300
"""About what a version takes: its name, its set of clusters, a time."""
CLUSTER_BYTES = 100


class DrainingNodes:
    """Older versions by node and type: of so many nodes and bytes at most, the longest unseen go first.

    ``share`` is called with everything but what is taken in by ``remember``.
    """

    __slots__ = ("_by_node", "_bytes", "_bytes_max", "_nodes_max", "_share")

    def __init__(self, *, nodes_max: int, bytes_max: int, share: Share = share_with_nobody) -> None:
        self._by_node: OrderedDict[NodeKey, dict[str, Draining]] = OrderedDict()
        self._bytes = 0
        self._nodes_max = nodes_max
        self._bytes_max = bytes_max
        self._share = share

    def note(self, node: Node, type_url: str, draining: Draining, names: Collection[str] | None = None) -> None:
        """Take in what a node may be using of a type, by what its streams say together.

        ``names``: they say so of these alone, as other streams of the node may have asked for further ones.
        """
        noted = self.of(node, type_url)
        left = merge_draining(NOTHING_DRAINS if names is None else without_draining(noted, names), draining)
        if left != noted:
            self._remember_and_share(HistoryEntry(node=node_key(node), type_url=type_url, draining=left, replaces=True))

    def keep(self, node: Node, state: TypeState, drained_at: float) -> None:
        """Take over what is left at the end of a stream.

        A listener whose replacement was never answered is taken to drain until ``drained_at``. Clusters that were not
        answered, and may wait for a secret, leave their older ones in use: an Envoy that comes back while they do asks
        for clusters last (docs/ordering.md).
        """
        if state.kind.stage is Stage.CLUSTERS and any(part.has_secrets for part in state.in_flight):
            self._remember_and_share(HistoryEntry(node=node_key(node), type_url=state.type_url, draining=ANY_CLUSTER))
        if not state.draining or not state.kind.is_routing:
            return
        listeners = state.kind.stage is Stage.LISTENERS
        left = end_draining_by(state.draining, state.draining, drained_at) if listeners else state.draining
        self._remember_and_share(HistoryEntry(node=node_key(node), type_url=state.type_url, draining=left))

    def _remember_and_share(self, entry: HistoryEntry) -> None:
        self.remember(entry)
        self._share(entry)

    def remember(self, entry: HistoryEntry) -> None:
        """Take in what a node may be using, here or elsewhere; an empty value forgets what was noted of the type."""
        if entry.draining is None:
            return
        by_type = self._by_node.setdefault(entry.node, {})
        before = by_type.pop(entry.type_url, NOTHING_DRAINS)
        after = entry.draining if entry.replaces or not entry.draining else merge_draining(before, entry.draining)
        self._bytes += _bytes_of(after) - _bytes_of(before)
        if after:
            by_type[entry.type_url] = after
            self._by_node.move_to_end(entry.node)
        if not by_type:
            del self._by_node[entry.node]
        while len(self._by_node) > self._nodes_max or self._bytes > self._bytes_max:
            _, oldest = self._by_node.popitem(last=False)
            self._bytes -= sum(map(_bytes_of, oldest.values()))

    def of(self, node: Node, type_url: str) -> Draining:
        """Return what a node may be using of a type."""
        by_type = self._by_node.get(node_key(node))
        return by_type.get(type_url, NOTHING_DRAINS) if by_type is not None else NOTHING_DRAINS

    def knows(self, node: Node) -> bool:
        """Say whether a node may be using anything."""
        return node_key(node) in self._by_node

    def warms(self, node: Node) -> bool:
        """Say whether a node had clusters to answer that may wait for a secret, when its last stream ended."""
        return bool(self.of(node, CLUSTER))

    def entries(self) -> Iterator[HistoryEntry]:
        """Iterate over all there is, for a process that knows nothing yet, the longest unseen first."""
        for node, by_type in self._by_node.items():
            for type_url, draining in by_type.items():
                yield HistoryEntry(node=node, type_url=type_url, draining=draining)

    @property
    def bytes_kept(self) -> int:
        """About what all of it takes in memory."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._by_node)


def _bytes_of(draining: Draining) -> int:
    used = clusters_used(draining) or ()
    return sum(VERSION_BYTES + len(name) for name in draining) + CLUSTER_BYTES * len(used)
