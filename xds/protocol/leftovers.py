"""What nodes may still be using of what they were sent, kept across their streams. It does not know streams.

An Envoy that loses its stream goes on draining listeners that it was told to replace, and does not claim those.
"""

from collections import OrderedDict

from xds.model.groups import Node
from xds.model.view import View
from xds.protocol.policy import Stage
from xds.protocol.state import Lingering, TypeState


class Leftovers:
    """Older resources by node and type; of so many nodes at most, the longest unseen are forgotten first."""

    __slots__ = ("_by_node", "_nodes_max")

    def __init__(self, *, nodes_max: int) -> None:
        self._by_node: OrderedDict[tuple[str, str], dict[str, Lingering]] = OrderedDict()
        self._nodes_max = nodes_max

    def keep(self, node: Node, state: TypeState) -> None:
        """Take over what lingers at the end of a stream."""
        if not state.lingering or not state.switches:
            return
        by_type = self._by_node.setdefault((node.cluster, node.id), {})
        by_type[state.type_url] = state.lingering
        self._by_node.move_to_end((node.cluster, node.id))
        while len(self._by_node) > self._nodes_max:
            self._by_node.popitem(last=False)

    def hand_on(self, node: Node, state: TypeState, view: View, drained_at: float) -> None:
        """Give a type's leftovers to the node's new stream: listeners that drain, and removed routes still subscribed.

        A listener whose replacement was never answered is taken to drain until ``drained_at``.
        """
        by_type = self._by_node.get((node.cluster, node.id))
        lingering = by_type.pop(state.type_url, None) if by_type is not None else None
        if not lingering:
            return
        if state.stage is Stage.LISTENERS:
            kept = {name: tuple((r, min(t, drained_at)) for r, t in pairs) for name, pairs in lingering.items()}
        else:
            names = (name for name in lingering if name in state.interest.names and view.get(name) is None)
            kept = {name: lingering[name] for name in names}
        state.lingering = kept or None

    def __len__(self) -> int:
        return len(self._by_node)
