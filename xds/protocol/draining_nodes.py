"""What nodes may still be using of what they were sent, kept across their streams and shared by all processes.

An Envoy that loses its stream goes on draining listeners that it was told to replace, and does not claim those. What a
listener uses is noted here as soon as it begins to drain, and not at the end of the stream: a node may be back, on any
process, before its dead stream is noticed.
"""

from collections import OrderedDict
from collections.abc import Iterator

from xds.model.groups import Node
from xds.model.view import View
from xds.protocol.draining import NOTHING_DRAINS, Draining, clusters_used, end_by, still, united, without
from xds.protocol.memories import Memory, NodeKey, Tell, node_key, tell_nobody
from xds.protocol.policy import Stage
from xds.protocol.state import TypeState

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

    def note(self, node: Node, state: TypeState) -> None:
        """Take in what a stream's listeners are draining now, and which removed routes may still be used."""
        by_type = self._by_node.get(node_key(node), {})
        if state.switches and state.draining != by_type.get(state.type_url):
            self._add(node, state.type_url, state.draining)

    def keep(self, node: Node, state: TypeState, drained_at: float) -> None:
        """Take over what is left at the end of a stream.

        A listener whose replacement was never answered is taken to drain until ``drained_at``.
        """
        if not state.draining or not state.switches:
            return
        listeners = state.stage is Stage.LISTENERS
        left = end_by(state.draining, state.draining, drained_at) if listeners else state.draining
        self._add(node, state.type_url, left)

    def _add(self, node: Node, type_url: str, draining: Draining) -> None:
        self._say(Memory(node=node_key(node), type_url=type_url, draining=draining))

    def _say(self, memory: Memory) -> None:
        self.remember(memory)
        self._tell(memory)

    def remember(self, memory: Memory) -> None:
        """Take in what a node may be using, here or elsewhere; an empty value forgets what was noted of the type."""
        if memory.draining is None:
            return
        by_type = self._by_node.setdefault(memory.node, {})
        before = by_type.pop(memory.type_url, NOTHING_DRAINS)
        after = united(before, memory.draining) if memory.draining else NOTHING_DRAINS
        self._bytes += _bytes_of(after) - _bytes_of(before)
        if after:
            by_type[memory.type_url] = after
            self._by_node.move_to_end(memory.node)
        if not by_type:
            del self._by_node[memory.node]
        while len(self._by_node) > self._nodes_max or self._bytes > self._bytes_max:
            _, oldest = self._by_node.popitem(last=False)
            self._bytes -= sum(map(_bytes_of, oldest.values()))

    def hand_on(self, node: Node, state: TypeState, view: View, now: float) -> None:
        """Give a new stream what its node may be using: listeners that drain, and removed routes still subscribed."""
        by_type = self._by_node.get(node_key(node))
        draining = by_type.get(state.type_url) if by_type is not None else None
        if draining is None:
            return
        left = still(draining, now)
        if state.stage is not Stage.LISTENERS:
            names = state.interest.names
            left = without(left, [name for name in left if name not in names or view.get(name) is not None])
        if not left or state.stage is not Stage.LISTENERS:
            self._say(Memory(node=node_key(node), type_url=state.type_url, draining=NOTHING_DRAINS))
        state.drains(left)

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
