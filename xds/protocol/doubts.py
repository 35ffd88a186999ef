"""What nodes rejected, kept across their streams: of those names, what a node claims to have can't be trusted.

After a rejected response Envoy may hold any part of it, and claims neither what it took nor what it lost
(``initial_resource_versions``). It does not know streams.
"""

from collections import OrderedDict
from collections.abc import Set

NOTHING: frozenset[str] = frozenset()


class Doubts:
    """Names by group, node and type; of so many nodes at most, the longest unseen are forgotten first."""

    __slots__ = ("_by_node", "_nodes_max")

    def __init__(self, *, nodes_max: int) -> None:
        self._by_node: OrderedDict[tuple[str, str], dict[str, frozenset[str]]] = OrderedDict()
        self._nodes_max = nodes_max

    def remember(self, group: str, node_id: str, type_url: str, names: Set[str]) -> None:
        """Keep names that a stream which ended leaves in doubt."""
        by_type = self._by_node.setdefault((group, node_id), {})
        by_type[type_url] = by_type.get(type_url, NOTHING) | names
        self._by_node.move_to_end((group, node_id))
        while len(self._by_node) > self._nodes_max:
            self._by_node.popitem(last=False)

    def recall(self, group: str, node_id: str, type_url: str) -> frozenset[str]:
        """Return the names in doubt and forget them: the new stream takes them over."""
        by_type = self._by_node.get((group, node_id))
        if by_type is None:
            return NOTHING
        names = by_type.pop(type_url, NOTHING)
        if not by_type:
            del self._by_node[group, node_id]
        return names

    def __len__(self) -> int:
        return len(self._by_node)
