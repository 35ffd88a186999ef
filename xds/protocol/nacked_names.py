"""The names that nodes rejected, kept across their streams: what a node claims to have of them can't be trusted.

After a rejected response Envoy may hold any part of it, and claims neither what it took nor what it lost
(``initial_resource_versions``). A name counts as rejected from its NACK to the ACK of a response that has it.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping

from xds.model.groups import Node
from xds.protocol.memories import Memory, NodeKey, Tell, node_key, tell_nobody
from xds.protocol.name_sets import NO_NAMES, NameSet, NameSets

NODE_BYTES = 1_000
"""About what a node takes beside its names: its key, and a dict by type."""


class NackedNames:
    """Names by node and type: of ``nodes_max`` nodes and ``bytes_max`` bytes at most, the longest unseen go first.

    Nodes that rejected the same share one set, which counts once. ``tell`` is called with everything but what is
    taken in by ``remember``.
    """

    __slots__ = ("_by_node", "_bytes", "_bytes_max", "_nodes_max", "_sets", "_tell", "_users")

    def __init__(self, *, nodes_max: int, bytes_max: int, tell: Tell = tell_nobody) -> None:
        self._by_node: OrderedDict[NodeKey, dict[str, NameSet]] = OrderedDict()
        self._sets = NameSets()
        self._users: dict[NameSet, int] = {}
        self._bytes = 0
        self._nodes_max = nodes_max
        self._bytes_max = bytes_max
        self._tell = tell

    def add(self, node: Node, type_url: str, names: NameSet) -> None:
        """Take in names that the node rejected."""
        memory = Memory(node=node_key(node), type_url=type_url, rejected=names)
        self.remember(memory)
        self._tell(memory)

    def settle(self, node: Node, type_url: str, names: NameSet) -> None:
        """Forget names that the node accepted: all of the type, if none are given."""
        known = self.of(node, type_url)
        accepted = known.intersection(names) if names else known
        if accepted:
            memory = Memory(node=node_key(node), type_url=type_url, accepted=accepted)
            self.remember(memory)
            self._tell(memory)

    def remember(self, memory: Memory) -> None:
        """Take in what happened to a node, here or elsewhere."""
        if not memory.rejected and memory.node not in self._by_node:
            return
        by_type = self._by_node.get(memory.node)
        if by_type is None:
            by_type = self._by_node[memory.node] = {}
            self._bytes += NODE_BYTES
        before = by_type.get(memory.type_url, NO_NAMES)
        after = self._sets.get(before.union(memory.rejected).difference(memory.accepted))
        self._use(after)
        self._release(before)
        if after:
            by_type[memory.type_url] = after
        else:
            by_type.pop(memory.type_url, None)
        if not by_type:
            self._forget(memory.node)
        elif memory.rejected:
            self._by_node.move_to_end(memory.node)
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

    def memories(self) -> Iterator[Memory]:
        """Iterate over all there is, for a process that knows nothing yet, the longest unseen first."""
        for node, by_type in self._by_node.items():
            for type_url, names in by_type.items():
                yield Memory(node=node, type_url=type_url, rejected=names)

    @property
    def by_node(self) -> Mapping[NodeKey, Mapping[str, NameSet]]:
        """The names that were rejected, by node and by type."""
        return self._by_node

    @property
    def bytes_kept(self) -> int:
        """About what all of it takes in memory."""
        return self._bytes
