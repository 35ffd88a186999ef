"""What nodes rejected, kept across their streams: of those names, what a node claims to have can't be trusted.

After a rejected response Envoy may hold any part of it, and claims neither what it took nor what it lost
(``initial_resource_versions``). A name is in doubt from its NACK to the ACK of a response that has it.
It does not know streams.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from xds.model.groups import Node

NOTHING: frozenset[str] = frozenset()


class Doubts:
    """Names by node and type; of so many nodes at most, the longest unseen are forgotten first."""

    __slots__ = ("_by_node", "_nodes_max")

    def __init__(self, *, nodes_max: int) -> None:
        self._by_node: OrderedDict[tuple[str, str], dict[str, frozenset[str]]] = OrderedDict()
        self._nodes_max = nodes_max

    def add(self, node: Node, type_url: str, names: Iterable[str]) -> None:
        """Take in names that the node rejected."""
        key = (node.cluster, node.id)
        by_type = self._by_node.setdefault(key, {})
        by_type[type_url] = by_type.get(type_url, NOTHING).union(names)
        self._by_node.move_to_end(key)
        while len(self._by_node) > self._nodes_max:
            self._by_node.popitem(last=False)

    def settle(self, node: Node, type_url: str, names: Iterable[str]) -> None:
        """Forget names that the node accepted."""
        by_type = self._by_node.get((node.cluster, node.id))
        if by_type is None or type_url not in by_type:
            return
        by_type[type_url] = by_type[type_url].difference(names)
        if not by_type[type_url]:
            del by_type[type_url]
        if not by_type:
            del self._by_node[node.cluster, node.id]

    def of(self, node: Node, type_url: str) -> frozenset[str]:
        """Return the names of a type that are in doubt."""
        by_type = self._by_node.get((node.cluster, node.id))
        return by_type.get(type_url, NOTHING) if by_type is not None else NOTHING

    @property
    def by_node(self) -> Mapping[tuple[str, str], Mapping[str, frozenset[str]]]:
        """The names in doubt, by cluster and id of the node, and by type."""
        return self._by_node
