"""Node history: what is kept of a node after its stream ends, and shared with the other processes on the port.

``NackedNames``: after a NACK the versions that a node reports are not reliable. Envoy may have applied any part of the
rejected response, and ``initial_resource_versions`` contains neither the resources that it applied nor those that it
lost. A name stays NACKed until the ACK of a response that contains it.

``DrainingNodes``: after its stream a node may still use older versions, which it does not report. They are recorded as
soon as a listener starts to drain, not when the stream ends: a node may reconnect, to any process, before the end of
its old stream is noticed.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from sys import getsizeof

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
"""A node's cluster and id; long ones are shortened with a digest."""
KEY_CHARS_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One change of the history of a node and type, as processes share it."""

    node: NodeKey
    type_url: str
    rejected: NameSet = NO_NAMES
    """Names that the node rejected."""
    accepted: NameSet = NO_NAMES
    """NACKed names that the node accepted."""
    reason: str = ""
    """The message of the NACK of ``rejected``, or of those before, cut to ``REASON_CHARS_MAX``."""
    draining: Draining | None = None
    """Older versions that the node may use, with times of the machine's monotonic clock; None for no change."""
    replaces: bool = False
    """``draining`` replaces what was recorded before, instead of being added to it."""
    since: float = 0.0
    """When the session began that recorded ``draining``, by the machine's monotonic clock; 0 if its stream ended."""


Share = Callable[[HistoryEntry], None]


def share_with_nobody(entry: HistoryEntry) -> None:
    """Share nothing, for a single process."""


def node_key(node: Node) -> NodeKey:
    """Return the key of a node. Of a cluster or id above ``KEY_CHARS_MAX``, the rest is replaced by a digest."""
    return _short(node.cluster), _short(node.id)


def _short(name: str) -> str:
    if len(name) <= KEY_CHARS_MAX:
        return name
    return f"{name[: KEY_CHARS_MAX - 33]}~{blake2b(name.encode(), digest_size=16).hexdigest()}"


# --- NACKed names ----------------------------------------------------------------------------------------------------

REASON_CHARS_MAX = 500
"""Characters kept of a NACK's message, for operators."""
REASON_BYTES = 1_000
"""Approximate bytes of a kept message beside its text: its key, which may contain the node's names once more."""
NODE_BYTES = 1_000
"""Approximate bytes of a node beside its names: its key and its dict of types."""


class NackedNames:
    """NACKed names by node and type, of at most ``nodes_max`` nodes and ``bytes_max`` bytes.

    The nodes whose last NACK is oldest are evicted first. Nodes that rejected the same names share one set, which
    counts once. ``share`` is called with each entry that does not come from ``remember``.
    """

    __slots__ = ("_by_node", "_bytes", "_bytes_max", "_nodes_max", "_reasons", "_sets", "_share", "_users", "evicted")

    def __init__(self, *, nodes_max: int, bytes_max: int, share: Share = share_with_nobody) -> None:
        self._by_node: OrderedDict[NodeKey, dict[str, NameSet]] = OrderedDict()
        self._reasons: dict[tuple[NodeKey, str], str] = {}
        self._sets = NameSets()
        self._users: dict[NameSet, int] = {}
        self.evicted = 0
        """How many nodes were evicted since the start."""
        self._bytes = 0
        self._nodes_max = nodes_max
        self._bytes_max = bytes_max
        self._share = share

    def add(self, node: Node, type_url: str, names: NameSet, reason: str = "") -> None:
        """Add names that the node rejected, and its message."""
        reason = reason[:REASON_CHARS_MAX]
        entry = HistoryEntry(node=node_key(node), type_url=type_url, rejected=names, reason=reason)
        self.remember(entry)
        self._share(entry)

    def explain(self, node: Node, type_url: str, reason: str) -> None:
        """Add the message of a NACK whose names were added before, unless the node has accepted all of them since."""
        if self.of(node, type_url):
            entry = HistoryEntry(node=node_key(node), type_url=type_url, reason=reason[:REASON_CHARS_MAX])
            self.remember(entry)
            self._share(entry)

    def accept(self, node: Node, type_url: str, names: NameSet) -> None:
        """Remove names that the node accepted; an empty set means all names of the type."""
        known = self.of(node, type_url)
        accepted = known.intersection(names) if names else known
        if accepted:
            entry = HistoryEntry(node=node_key(node), type_url=type_url, accepted=accepted)
            self.remember(entry)
            self._share(entry)

    def remember(self, entry: HistoryEntry) -> None:
        """Apply an entry of this or another process."""
        if not entry.rejected and entry.node not in self._by_node:
            return
        by_type = self._by_node.get(entry.node)
        if by_type is None:
            by_type = self._by_node[entry.node] = {}
            self._bytes += NODE_BYTES
        before = by_type.get(entry.type_url, NO_NAMES)
        # The set of another process is another object, which is unpacked only if no node has an equal one.
        rejected = self._sets.get(entry.rejected) if entry.rejected else NO_NAMES
        accepted = self._sets.get(entry.accepted) if entry.accepted else NO_NAMES
        after = self._sets.get(before.union(rejected).difference(accepted))
        self._use(after)
        self._release(before)
        if entry.reason or not after:
            self._keep_reason(entry.node, entry.type_url, entry.reason if after else "")
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
            self.evicted += 1

    def _keep_reason(self, node: NodeKey, type_url: str, reason: str) -> None:
        before = self._reasons.pop((node, type_url), "")
        if reason:
            self._reasons[node, type_url] = reason
        self._bytes += _reason_bytes(reason) - _reason_bytes(before)

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
        for type_url, names in self._by_node.pop(node).items():
            self._release(names)
            self._keep_reason(node, type_url, "")
        self._bytes -= NODE_BYTES

    def of(self, node: Node, type_url: str) -> NameSet:
        """Return the NACKed names of a node and type."""
        by_type = self._by_node.get(node_key(node))
        return by_type.get(type_url, NO_NAMES) if by_type is not None else NO_NAMES

    def reason(self, node: Node, type_url: str) -> str:
        """Return the message of the node's last NACK of a type whose names are not all accepted since, "" for none."""
        return self._reasons.get((node_key(node), type_url), "")

    def knows(self, node: Node) -> bool:
        """Say whether a node has NACKed names."""
        return node_key(node) in self._by_node

    def entries(self) -> Iterator[HistoryEntry]:
        """Iterate over all entries, the oldest node first, for a new process."""
        for node, by_type in self._by_node.items():
            for type_url, names in by_type.items():
                reason = self._reasons.get((node, type_url), "")
                yield HistoryEntry(node=node, type_url=type_url, rejected=names, reason=reason)

    @property
    def by_node(self) -> Mapping[NodeKey, Mapping[str, NameSet]]:
        """NACKed names by node and type."""
        return self._by_node

    @property
    def bytes_kept(self) -> int:
        """Approximate bytes of all entries."""
        return self._bytes


def _reason_bytes(reason: str) -> int:
    return REASON_BYTES + getsizeof(reason) if reason else 0


# --- Draining resources ----------------------------------------------------------------------------------------------

ANY_CLUSTER: Draining = Map({"": ((None, NEVER),)})
"""Recorded for the clusters of an Envoy that may be warming: it may use any cluster until it subscribes to clusters."""
VERSION_BYTES = 300
"""Approximate bytes of a version: its name, its set of clusters, its time."""
CLUSTER_BYTES = 100


class DrainingNodes:
    """Draining resources by node and type, of at most ``nodes_max`` nodes and ``bytes_max`` bytes.

    The nodes whose last change is oldest are evicted first. ``share`` is called with each entry that does not come from
    ``remember``.
    """

    __slots__ = ("_by_node", "_bytes", "_bytes_max", "_nodes_max", "_share", "_since", "evicted")

    def __init__(self, *, nodes_max: int, bytes_max: int, share: Share = share_with_nobody) -> None:
        self._by_node: OrderedDict[NodeKey, dict[str, Draining]] = OrderedDict()
        self._since: dict[NodeKey, float] = {}
        """When the newest session of each node began that recorded something."""
        self.evicted = 0
        """How many nodes were evicted since the start."""
        self._bytes = 0
        self._nodes_max = nodes_max
        self._bytes_max = bytes_max
        self._share = share

    def has_newer(self, node: Node, since: float) -> bool:
        """Say whether a session of the node that began later has recorded something.

        The node has reconnected then, and the end of its earlier stream is not noticed yet: what is sent on that stream
        must not replace what the node uses. ``keep`` adds to it.
        """
        return self._since.get(node_key(node), 0.0) > since

    def note(
        self,
        node: Node,
        type_url: str,
        draining: Draining,
        names: Collection[str] | None = None,
        *,
        since: float = 0.0,
    ) -> None:
        """Record the draining resources of a node and type, replacing those recorded before.

        ``names``: replace only the resources with these names, as other sessions of the node may have others.
        ``since``: when the session began.
        """
        noted = self.of(node, type_url)
        left = merge_draining(NOTHING_DRAINS if names is None else without_draining(noted, names), draining)
        if left != noted:
            self._remember_and_share(
                HistoryEntry(node=node_key(node), type_url=type_url, draining=left, replaces=True, since=since)
            )

    def keep(self, node: Node, state: TypeState, drained_at: float, *, warms: bool = True) -> None:
        """Record the draining resources of a type when its stream ends. ``warms``: the client warms clusters.

        A listener whose replacement was never answered drains until ``drained_at``. For clusters that were not
        answered, and may be warming without endpoints to ask for, ``ANY_CLUSTER`` is recorded: Envoy may use older
        versions of them, and subscribes to clusters last when it reconnects
        (docs/envoy-behaviour.md#reconnect-while-warming).
        """
        if warms and state.kind.stage is Stage.CLUSTERS and any(part.warms_unasked for part in state.in_flight):
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
        """Apply an entry of this or another process; an empty ``draining`` removes what was recorded for the type."""
        if entry.draining is None:
            return
        by_type = self._by_node.setdefault(entry.node, {})
        before = by_type.pop(entry.type_url, NOTHING_DRAINS)
        after = entry.draining if entry.replaces or not entry.draining else merge_draining(before, entry.draining)
        self._bytes += _bytes_of(after) - _bytes_of(before)
        if after:
            by_type[entry.type_url] = after
            self._by_node.move_to_end(entry.node)
            if entry.since > self._since.get(entry.node, 0.0):
                self._since[entry.node] = entry.since
        if not by_type:
            del self._by_node[entry.node]
            self._since.pop(entry.node, None)
        while len(self._by_node) > self._nodes_max or self._bytes > self._bytes_max:
            node, oldest = self._by_node.popitem(last=False)
            self._since.pop(node, None)
            self._bytes -= sum(map(_bytes_of, oldest.values()))
            self.evicted += 1

    def of(self, node: Node, type_url: str) -> Draining:
        """Return the draining resources of a node and type."""
        by_type = self._by_node.get(node_key(node))
        return by_type.get(type_url, NOTHING_DRAINS) if by_type is not None else NOTHING_DRAINS

    def knows(self, node: Node) -> bool:
        """Say whether draining resources of a node are recorded."""
        return node_key(node) in self._by_node

    def warms(self, node: Node) -> bool:
        """Say whether a node's last stream ended with unanswered clusters that may warm without endpoints."""
        return bool(self.of(node, CLUSTER))

    def entries(self) -> Iterator[HistoryEntry]:
        """Iterate over all entries, the oldest node first, for a new process."""
        for node, by_type in self._by_node.items():
            for type_url, draining in by_type.items():
                since = self._since.get(node, 0.0)
                yield HistoryEntry(node=node, type_url=type_url, draining=draining, since=since)

    @property
    def bytes_kept(self) -> int:
        """Approximate bytes of all entries."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._by_node)


def _bytes_of(draining: Draining) -> int:
    used = clusters_used(draining) or ()
    return sum(VERSION_BYTES + len(name) for name in draining) + CLUSTER_BYTES * len(used)
