"""What nodes may still be using of what they were sent, kept across their streams and shared by all processes.

An Envoy that loses its stream goes on draining listeners that it was told to replace, and does not claim those. What a
listener uses is noted here as soon as it begins to drain, and not at the end of the stream: a node may be back, on any
process, before its dead stream is noticed.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator

from immutables import Map

from xds.model.groups import Node
from xds.model.types import CLUSTER
from xds.protocol.draining import NEVER, NOTHING_DRAINS, Draining, clusters_used, end_by, united, without
from xds.protocol.memories import Memory, NodeKey, Tell, node_key, tell_nobody
from xds.protocol.policy import Stage
from xds.protocol.state import TypeState

ANY_CLUSTER: Draining = Map({"": ((None, NEVER),)})
"""What an Envoy may be using whose clusters warm: nobody knows which, until it asks for them."""
VERSION_BYTES = 300
"""About what a version takes: its name, its set of clusters, a time."""
CLUSTER_BYTES = 100


class DrainingNodes:
    """Older versions by node and type: of so many nodes and bytes at most, the longest unseen go first.

    ``tell`` is called with everything but what is taken in by ``remember``.
    """

    __slots__ = ("_by_node", "_bytes", "_bytes_max", "_nodes_max", "_tell")

    def __init__(self, *, nodes_max: int, bytes_max: int, tell: Tell = tell_nobody) -> None:
        self._by_node: OrderedDict[NodeKey, dict[str, Draining]] = OrderedDict()
        self._bytes = 0
        self._nodes_max = nodes_max
        self._bytes_max = bytes_max
        self._tell = tell

    def note(self, node: Node, type_url: str, draining: Draining, names: Collection[str] | None = None) -> None:
        """Take in what a node may be using of a type, by what its streams say together.

        ``names``: they say so of these alone, as other streams of the node may have asked for further ones.
        """
        noted = self.of(node, type_url)
        left = united(NOTHING_DRAINS if names is None else without(noted, names), draining)
        if left != noted:
            self._say(Memory(node=node_key(node), type_url=type_url, draining=left, instead=True))

    def keep(self, node: Node, state: TypeState, drained_at: float) -> None:
        """Take over what is left at the end of a stream.

        A listener whose replacement was never answered is taken to drain until ``drained_at``. Clusters that were not
        answered, and may wait for a secret, leave their older ones in use: an Envoy that comes back while they do asks
        for clusters last (docs/ordering.md).
        """
        if state.kind.stage is Stage.MAKE and any(part.has_secrets for part in state.in_flight):
            self._say(Memory(node=node_key(node), type_url=state.type_url, draining=ANY_CLUSTER))
        if not state.draining or not state.kind.switches:
            return
        listeners = state.kind.stage is Stage.LISTENERS
        left = end_by(state.draining, state.draining, drained_at) if listeners else state.draining
        self._say(Memory(node=node_key(node), type_url=state.type_url, draining=left))

    def _say(self, memory: Memory) -> None:
        self.remember(memory)
        self._tell(memory)

    def remember(self, memory: Memory) -> None:
        """Take in what a node may be using, here or elsewhere; an empty value forgets what was noted of the type."""
        if memory.draining is None:
            return
        by_type = self._by_node.setdefault(memory.node, {})
        before = by_type.pop(memory.type_url, NOTHING_DRAINS)
        after = memory.draining if memory.instead or not memory.draining else united(before, memory.draining)
        self._bytes += _bytes_of(after) - _bytes_of(before)
        if after:
            by_type[memory.type_url] = after
            self._by_node.move_to_end(memory.node)
        if not by_type:
            del self._by_node[memory.node]
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

    def memories(self) -> Iterator[Memory]:
        """Iterate over all there is, for a process that knows nothing yet, the longest unseen first."""
        for node, by_type in self._by_node.items():
            for type_url, draining in by_type.items():
                yield Memory(node=node, type_url=type_url, draining=draining)

    @property
    def bytes_kept(self) -> int:
        """About what all of it takes in memory."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._by_node)


def _bytes_of(draining: Draining) -> int:
    used = clusters_used(draining) or ()
    return sum(VERSION_BYTES + len(name) for name in draining) + CLUSTER_BYTES * len(used)
