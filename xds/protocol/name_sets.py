"""Sets of names that were rejected: equal ones are one object, whichever stream, node or process they come from.

A fleet rejects alike. With a set of its own for each node, 2,000 nodes that reject a response of 5,000 resources took
4 GB in three processes.
"""

from collections.abc import Iterable
from weakref import WeakValueDictionary

from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest

NAME_BYTES = 200
"""About what a name takes: as text, in its set, and packed."""


class NameSet:
    """Names, and the same packed into bytes, by which sets are compared and sent to other processes. Immutable.

    One that comes from another process is unpacked when its names are first asked for.
    """

    __slots__ = ("__weakref__", "_names", "packed")

    def __init__(self, packed: bytes, names: frozenset[str] | None = None) -> None:
        self.packed = packed
        self._names = names

    @classmethod
    def of(cls, names: Iterable[str]) -> "NameSet":
        """Return the set of these names; of none, it is always ``NO_NAMES``."""
        chosen = frozenset(names)
        if not chosen:
            return NO_NAMES
        # The packing is that of a protobuf list, which C code writes and reads.
        packed = DeltaDiscoveryRequest(resource_names_subscribe=sorted(chosen)).SerializeToString()
        return cls(packed, chosen)

    @property
    def names(self) -> frozenset[str]:
        """The names."""
        if self._names is None:
            self._names = frozenset(DeltaDiscoveryRequest.FromString(self.packed).resource_names_subscribe)
        return self._names

    @property
    def bytes_kept(self) -> int:
        """About what it takes in memory."""
        return 2 * len(self.packed) + NAME_BYTES * len(self.names)

    def union(self, other: "NameSet") -> "NameSet":
        """Return the set of the names of both: one of the two, where that has them all."""
        if self is other or self.names >= other.names:
            return self
        return other if other.names >= self.names else NameSet.of(self.names | other.names)

    def difference(self, other: "NameSet") -> "NameSet":
        """Return the set of the names that are not in the other: this one, where none is."""
        if other.names >= self.names:
            return NO_NAMES
        return self if self.names.isdisjoint(other.names) else NameSet.of(self.names - other.names)

    def intersection(self, other: "NameSet") -> "NameSet":
        """Return the set of the names that are in both: one of the two, where the other has them all."""
        if self is other or other.names >= self.names:
            return self
        return other if self.names >= other.names else NameSet.of(self.names & other.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __len__(self) -> int:
        return len(self.names)

    def __bool__(self) -> bool:
        return bool(self.packed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NameSet) and self.packed == other.packed

    def __hash__(self) -> int:
        return hash(self.packed)

    def __reduce__(self) -> tuple[type["NameSet"], tuple[bytes]]:
        return NameSet, (self.packed,)

    def __repr__(self) -> str:
        return f"<NameSet {sorted(self.names)}>"


NO_NAMES = NameSet(b"", frozenset())
"""The empty set: the only one in a stream's state, where it is told by identity, as that costs no call."""


class NameSets:
    """The table that makes equal sets one object, for as long as anything holds it."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: WeakValueDictionary[bytes, NameSet] = WeakValueDictionary()

    def get(self, names: NameSet) -> NameSet:
        """Return the one object that is equal to this set."""
        return self._known.setdefault(names.packed, names)

    def __len__(self) -> int:
        return len(self._known)
