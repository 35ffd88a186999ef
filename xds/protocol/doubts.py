"""What nodes rejected, kept across their streams: of those names, what a node claims to have can't be trusted.

After a rejected response Envoy may hold any part of it, and claims neither what it took nor what it lost
(``initial_resource_versions``). A name is in doubt from its NACK to the ACK of a response that has it.
It does not know streams.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

from xds.model.groups import Node
from xds.protocol.memories import NOTHING, Memory, NodeKey, Tell, tell_nobody


class Doubts:
    """Names by node and type; of so many nodes at most, the longest unseen are forgotten first.

    ``tell`` is told of everything but what is taken in by ``remember``.
    """

    __slots__ = ("_by_node", "_nodes_max", "_tell")

    def __init__(self, *, nodes_max: int, tell: Tell = tell_nobody) -> None:
        self._by_node: OrderedDict[NodeKey, dict[str, frozenset[str]]] = OrderedDict()
        self._nodes_max = nodes_max
        self._tell = tell

    def add(self, node: Node, type_url: str, names: Iterable[str]) -> None:
        """Take in names that the node rejected."""
        memory = Memory(node=(node.cluster, node.id), type_url=type_url, rejected=frozenset(names))
        self.remember(memory)
        self._tell(memory)

    def settle(self, node: Node, type_url: str, names: Iterable[str]) -> None:
        """Forget names that the node accepted."""
        known = self.of(node, type_url)
        accepted = known.intersection(names) if known else known
        if accepted:
            memory = Memory(node=(node.cluster, node.id), type_url=type_url, accepted=accepted)
            self.remember(memory)
            self._tell(memory)

    def remember(self, memory: Memory) -> None:
        """Take in what happened to a node, here or elsewhere."""
        if not memory.rejected and memory.node not in self._by_node:
            return
        by_type = self._by_node.setdefault(memory.node, {})
        names = by_type.get(memory.type_url, NOTHING).union(memory.rejected) - memory.accepted
        if names:
            by_type[memory.type_url] = names
        else:
            by_type.pop(memory.type_url, None)
        if not by_type:
            del self._by_node[memory.node]
        elif memory.rejected:
            self._by_node.move_to_end(memory.node)
        while len(self._by_node) > self._nodes_max:
            self._by_node.popitem(last=False)

    def of(self, node: Node, type_url: str) -> frozenset[str]:
        """Return the names of a type that are in doubt."""
        by_type = self._by_node.get((node.cluster, node.id))
        return by_type.get(type_url, NOTHING) if by_type is not None else NOTHING

    def memories(self) -> Iterator[Memory]:
        """Iterate over all there is, for a process that knows nothing yet, the longest unseen first."""
        for node, by_type in self._by_node.items():
            for type_url, names in by_type.items():
                yield Memory(node=node, type_url=type_url, rejected=names)

    @property
    def by_node(self) -> Mapping[NodeKey, Mapping[str, frozenset[str]]]:
        """The names in doubt, by node and by type."""
        return self._by_node
