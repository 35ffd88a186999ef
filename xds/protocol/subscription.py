"""The resources of one type that a stream subscribes to, and sets of names. Immutable; equal values are one object.

Streams, nodes and processes share sets of NACKed names because the nodes of a fleet reject the same names: with one set
per node, 2,000 nodes that rejected a response of 5,000 resources took 4 GB in three processes.

Source: docs/protocol.md#subscriptions, docs/protocol.md#wildcard and docs/protocol.md#xdstp.
"""

from collections.abc import Collection, Iterable
from sys import getsizeof
from typing import NamedTuple
from weakref import WeakValueDictionary

from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest
from xds.model.xdstp import XDSTP

# --- Subscriptions ---------------------------------------------------------------------------------------------------

WILDCARD = "*"


def _split_xdstp(name: str) -> tuple[str, frozenset[str]]:
    path, _, query = name.partition("?")
    return path, frozenset(query.partition("#")[0].split("&"))


NAME_SLOT_BYTES = 48
"""Approximate bytes of a name in a set, beside its text."""


def bytes_of(names: Collection[str]) -> int:
    """Return the approximate bytes of names in a set or map. O(names)."""
    return sum(map(getsizeof, names)) + NAME_SLOT_BYTES * len(names)


class Glob(NamedTuple):
    """An ``xdstp://authority/type/path/*?params`` collection: members share its path and its context parameters."""

    prefix: str
    """The name up to and with the last slash of its path."""
    parameters: frozenset[str]
    """The context parameters, as ``key=value``."""


def glob_of(name: str) -> Glob | None:
    """Return the glob collection with this name, or None for a plain name."""
    if not name.startswith(XDSTP):
        return None
    path, parameters = _split_xdstp(name)
    return Glob(path[:-1], parameters) if path.endswith("/*") else None


def glob_with(name: str) -> Glob:
    """Return the only collection that a resource with an ``xdstp://`` name is a direct member of."""
    path, parameters = _split_xdstp(name)
    return Glob(path[: path.rindex("/") + 1], parameters)


class Subscription:
    """Names and, with ``wildcard``, all names except ``xdstp://`` ones. Made only by ``Subscriptions``."""

    __slots__ = ("__weakref__", "_table", "globs", "names", "names_bytes", "wildcard")

    def __init__(self, wildcard: bool, names: frozenset[str], table: "Subscriptions") -> None:
        self.wildcard = wildcard
        self.names = names
        self.names_bytes = bytes_of(names)
        """The approximate bytes of the names."""
        of_xdstp = (name for name in names if name.startswith(XDSTP))
        self.globs = frozenset(glob for glob in map(glob_of, of_xdstp) if glob is not None)
        """The collections that are subscribed."""
        self._table = table
        table.names_bytes += self.names_bytes

    def __del__(self) -> None:
        self._table.names_bytes -= self.names_bytes

    def wants(self, name: str) -> bool:
        """Say whether a resource of this name is subscribed."""
        if name in self.names:
            return True
        if self.wildcard and not name.startswith(XDSTP):
            return True
        return bool(self.globs) and name.startswith(XDSTP) and glob_with(name) in self.globs

    def among(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that ``wants`` is true of, in their order; most names need no call of their own."""
        wildcard = self.wildcard
        return [name for name in names if (wildcard and not name.startswith(XDSTP)) or self.wants(name)]

    @property
    def open_ended(self) -> bool:
        """Say whether the subscription has a wildcard or a glob."""
        return self.wildcard or bool(self.globs)

    @property
    def nothing(self) -> bool:
        """Say whether nothing is subscribed."""
        return not self.wildcard and not self.names

    def __repr__(self) -> str:
        return f"<Subscription {'* ' if self.wildcard else ''}{sorted(self.names)}>"


class Subscriptions:
    """The table that makes equal subscriptions one object while any stream has it."""

    __slots__ = ("_known", "names_bytes")

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[bool, frozenset[str]], Subscription] = WeakValueDictionary()
        self.names_bytes = 0
        """The approximate bytes of the names of all subscriptions that any stream has, shared ones once."""

    def get(self, wildcard: bool, names: Iterable[str]) -> Subscription:
        """Return the shared subscription to these names; ``*`` among them means the wildcard."""
        explicit = frozenset(names)
        if WILDCARD in explicit:
            wildcard, explicit = True, explicit - {WILDCARD}
        key = (wildcard, explicit)
        subscription = self._known.get(key)
        if subscription is None:
            subscription = self._known[key] = Subscription(wildcard, explicit, self)
        return subscription

    def __len__(self) -> int:
        return len(self._known)


NOTHING = Subscription(False, frozenset(), Subscriptions())
"""The subscription of a type before its first request."""


# --- Sets of names ---------------------------------------------------------------------------------------------------

NAME_BYTES = 200
"""Approximate bytes of a name: its text, its place in the set, and packed."""


class NameSet:
    """A set of names, packed into bytes for comparison and for sending to other processes. Immutable.

    A set from another process is unpacked when its names are first read.
    """

    __slots__ = ("__weakref__", "_names", "packed")

    def __init__(self, packed: bytes, names: frozenset[str] | None = None) -> None:
        self.packed = packed
        self._names = names

    @classmethod
    def of(cls, names: Iterable[str]) -> "NameSet":
        """Return the set of these names, ``NO_NAMES`` if there are none."""
        chosen = frozenset(names)
        if not chosen:
            return NO_NAMES
        # A protobuf list, which C code writes and reads.
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
        """The approximate bytes of the set."""
        return 2 * len(self.packed) + NAME_BYTES * len(self.names)

    def union(self, other: "NameSet") -> "NameSet":
        """Return the union: one of the two objects if it contains the other."""
        if self is other or self.names >= other.names:
            return self
        return other if other.names >= self.names else NameSet.of(self.names | other.names)

    def difference(self, other: "NameSet") -> "NameSet":
        """Return the names that are not in ``other``: this object if the sets are disjoint."""
        if other.names >= self.names:
            return NO_NAMES
        return self if self.names.isdisjoint(other.names) else NameSet.of(self.names - other.names)

    def intersection(self, other: "NameSet") -> "NameSet":
        """Return the names that are in both: one of the two objects if the other contains it."""
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
"""The empty set. Type states use no other empty set, so that they can test for it by identity, without a call."""


class NameSets:
    """The table that makes equal sets one object while anything refers to it."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: WeakValueDictionary[bytes, NameSet] = WeakValueDictionary()

    def get(self, names: NameSet) -> NameSet:
        """Return the shared object that is equal to this set."""
        return self._known.setdefault(names.packed, names)

    def __len__(self) -> int:
        return len(self._known)
