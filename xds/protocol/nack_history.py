"""The last NACKs of each node, for operators, also after its stream has ended."""

from collections import OrderedDict, deque

from xds.model.groups import Node
from xds.protocol.inspection import NACKS_MAX, NackedNames, NackRecord, names_in
from xds.protocol.node_history import REASON_CHARS_MAX, NodeKey, node_key
from xds.protocol.responses import Part
from xds.protocol.subscription import NameSet

NODES_MAX = 10_000
"""Nodes whose NACKs are kept; those whose last NACK is oldest make room."""
RECORD_BYTES = 400
"""Approximate bytes of a NACK beside its message."""
NAME_BYTES = 400
"""Approximate bytes of a name and its versions, which count for the first client that rejects the response."""
SETTLED_BYTES = 64
"""Approximate bytes of a name that a client has accepted since."""
BYTES_MAX = 16 * 1024 * 1024


class NackHistory:
    """At most ``NACKS_MAX`` NACKs of each of ``NODES_MAX`` nodes, and about ``BYTES_MAX`` bytes."""

    __slots__ = ("_by_node", "_bytes", "_last")

    def __init__(self) -> None:
        self._by_node: OrderedDict[NodeKey, deque[NackRecord]] = OrderedDict()
        self._bytes = 0
        self._last: tuple[Part | None, NackedNames] = (None, NackedNames((), 0, {}, {}))

    def add(self, node: Node, group: str, type_url: str, part: Part, message: str, at: float) -> None:
        """Add a NACK of a node of a group. ``at`` is in seconds of the hub's clock."""
        size = RECORD_BYTES + len(message)
        if self._last[0] is not part:  # one response is rejected by one client or by thousands
            self._last = (part, names_in(part))
            size += NAME_BYTES * len(self._last[1].names)
        key = node_key(node)
        records = self._by_node.setdefault(key, deque())
        self._by_node.move_to_end(key)
        records.append(NackRecord(at, group, type_url, self._last[1], message[:REASON_CHARS_MAX], part.nonce, size))
        self._bytes += size
        while len(records) > NACKS_MAX:
            self._bytes -= records.popleft().size
        self._make_room()

    def _make_room(self) -> None:
        while len(self._by_node) > NODES_MAX or (self._bytes > BYTES_MAX and len(self._by_node) > 1):
            _, dropped = self._by_node.popitem(last=False)
            self._bytes -= sum(record.size for record in dropped)

    def accept(self, node: Node, type_url: str, names: NameSet) -> None:
        """Note that a client has accepted names, all of the type if there are none.

        What it had before an earlier NACK of one is not what it has now.
        """
        records = self._by_node.get(node_key(node))
        if records is None:
            return
        for at, record in enumerate(records):
            if record.type_url != type_url or record.settled.issuperset(record.response.names):
                continue
            told = record.response.names
            settled = record.settled.union(told if not names else names.names.intersection(told))
            if len(settled) > len(record.settled):
                more = SETTLED_BYTES * (len(settled) - len(record.settled))
                records[at] = record._replace(settled=settled, size=record.size + more)
                self._bytes += more
        self._make_room()

    def of(self, node: Node) -> list[NackRecord]:
        """Return the NACKs of a node, newest first."""
        return list(reversed(self._by_node.get(node_key(node), ())))

    def of_id(self, node_id: str) -> list[NackRecord]:
        """Return the NACKs of all nodes with an id, of any cluster, newest first. O(nodes with NACKs)."""
        short = node_key(Node(id=node_id))[1]
        found = [each for (_, name), records in self._by_node.items() if name == short for each in reversed(records)]
        return sorted(found, key=lambda each: each.at, reverse=True)

    def __len__(self) -> int:
        return len(self._by_node)

    @property
    def bytes_kept(self) -> int:
        """Approximate bytes of all records."""
        return self._bytes
