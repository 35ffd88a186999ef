"""What nodes may still be using of what they were sent, kept across their streams. It does not know streams.

An Envoy that loses its stream goes on draining listeners that it was told to replace, and does not claim those.
"""

from collections import OrderedDict
from collections.abc import Iterator

from xds.model.groups import Node
from xds.model.view import View
from xds.protocol.memories import Memory, NodeKey, Tell, node_key, tell_nobody
from xds.protocol.policy import Stage
from xds.protocol.state import Lingering, TypeState


class Leftovers:
    """Older resources by node and type; of so many nodes at most, the longest unseen are forgotten first.

    ``tell`` is told of everything but what is taken in by ``remember``.
    """

    __slots__ = ("_by_node", "_nodes_max", "_tell")

    def __init__(self, *, nodes_max: int, tell: Tell = tell_nobody) -> None:
        self._by_node: OrderedDict[NodeKey, dict[str, Lingering]] = OrderedDict()
        self._nodes_max = nodes_max
        self._tell = tell

    def keep(self, node: Node, state: TypeState) -> None:
        """Take over what lingers at the end of a stream."""
        if not state.lingering or not state.switches:
            return
        memory = Memory(node=node_key(node), type_url=state.type_url, lingering=state.lingering)
        self.remember(memory)
        self._tell(memory)

    def remember(self, memory: Memory) -> None:
        """Take in what a node may be using, here or elsewhere."""
        if memory.lingering is None:
            return
        by_type = self._by_node.setdefault(memory.node, {})
        if memory.lingering:
            by_type[memory.type_url] = memory.lingering
            self._by_node.move_to_end(memory.node)
        else:
            by_type.pop(memory.type_url, None)
        if not by_type:
            del self._by_node[memory.node]
        while len(self._by_node) > self._nodes_max:
            self._by_node.popitem(last=False)

    def hand_on(self, node: Node, state: TypeState, view: View, drained_at: float) -> None:
        """Give a type's leftovers to the node's new stream: listeners that drain, and removed routes still subscribed.

        A listener whose replacement was never answered is taken to drain until ``drained_at``.
        """
        by_type = self._by_node.get(node_key(node))
        lingering = by_type.get(state.type_url) if by_type is not None else None
        if not lingering:
            return
        memory = Memory(node=node_key(node), type_url=state.type_url, lingering={})
        self.remember(memory)
        self._tell(memory)
        if state.stage is Stage.LISTENERS:
            kept = {name: tuple((r, min(t, drained_at)) for r, t in pairs) for name, pairs in lingering.items()}
        else:
            names = (name for name in lingering if name in state.interest.names and view.get(name) is None)
            kept = {name: lingering[name] for name in names}
        state.lingering = kept or None

    def memories(self) -> Iterator[Memory]:
        """Iterate over all there is, for a process that knows nothing yet, the longest unseen first."""
        for node, by_type in self._by_node.items():
            for type_url, lingering in by_type.items():
                yield Memory(node=node, type_url=type_url, lingering=lingering)

    def __len__(self) -> int:
        return len(self._by_node)
