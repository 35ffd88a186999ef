"""Which resources of one type a stream subscribes to, and sets of names. Immutable; equal values are one object.

Sets of NACKed names are shared between streams, nodes and processes because fleets reject alike: with a set for each
node, 2,000 nodes that rejected a response of 5,000 resources took 4 GB in three processes.

Source: the xDS protocol page, "How the client specifies what resources to return", and xDS TP1 (``xdstp://`` names,
glob collections and context parameters).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from sys import getsizeof
from urllib.parse import parse_qsl
from weakref import WeakValueDictionary

from xds._generated.xds_wire_pb2 import DeltaDiscoveryRequest

# --- Subscriptions ---------------------------------------------------------------------------------------------------

WILDCARD = "*"
XDSTP = "xdstp://"


def _split_xdstp(name: str) -> tuple[str, frozenset[tuple[str, str]]]:
    path, _, query = name.partition("?")
    return path, frozenset(parse_qsl(query.partition("#")[0], keep_blank_values=True))


NAME_SLOT_BYTES = 48
"""About what a name takes in a set, beside its text."""


def bytes_of(names: Collection[str]) -> int:
    """Return about how much memory names take in a set or map. O(names)."""
    return sum(map(getsizeof, names)) + NAME_SLOT_BYTES * len(names)


@dataclass(frozen=True, slots=True)
class Glob:
    """An ``xdstp://authority/type/path/*?params`` collection: members share its path and its context parameters."""

    prefix: str
    parameters: frozenset[tuple[str, str]]

    def matches(self, name: str) -> bool:
        """Say whether a resource of this name is a direct member of the collection."""
        if not name.startswith(self.prefix):
            return False
        path, parameters = _split_xdstp(name)
        return "/" not in path[len(self.prefix) :] and parameters == self.parameters


def glob_of(name: str) -> Glob | None:
    """Return the collection that a name stands for, or None for a plain name."""
    if not name.startswith(XDSTP):
        return None
    path, parameters = _split_xdstp(name)
    return Glob(path[:-1], parameters) if path.endswith("/*") else None


class Subscription:
    """Names and, with ``wildcard``, every name but ``xdstp://`` ones. Made by ``Subscriptions`` only."""

    __slots__ = ("__weakref__", "globs", "names", "names_bytes", "wildcard")

    def __init__(self, wildcard: bool, names: frozenset[str]) -> None:
        self.wildcard = wildcard
        self.names = names
        self.names_bytes = bytes_of(names)
        """About how much memory the names take."""
        self.globs = tuple(glob for glob in map(glob_of, names) if glob) if any(XDSTP in name for name in names) else ()

    def wants(self, name: str) -> bool:
        """Say whether a resource of this name is subscribed."""
        if name in self.names:
            return True
        if self.wildcard and not name.startswith(XDSTP):
            return True
        return any(glob.matches(name) for glob in self.globs)

    @property
    def open_ended(self) -> bool:
        """Say whether names that nobody has spelt out may be wanted."""
        return self.wildcard or bool(self.globs)

    @property
    def nothing(self) -> bool:
        """Say whether nothing is subscribed."""
        return not self.wildcard and not self.names

    def __repr__(self) -> str:
        return f"<Interest {'* ' if self.wildcard else ''}{sorted(self.names)}>"


NOTHING = Subscription(False, frozenset())
"""What a stream subscribes to of a type before it has said so."""


class Subscriptions:
    """The table that makes equal subscriptions one object, for as long as any stream has it."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[bool, frozenset[str]], Subscription] = WeakValueDictionary()

    def get(self, wildcard: bool, names: Iterable[str]) -> Subscription:
        """Return the one Interest for these names; ``*`` among them means the wildcard."""
        explicit = frozenset(names)
        if WILDCARD in explicit:
            wildcard, explicit = True, explicit - {WILDCARD}
        key = (wildcard, explicit)
        subscription = self._known.get(key)
        if subscription is None:
            subscription = self._known[key] = Subscription(wildcard, explicit)
        return subscription

    def __len__(self) -> int:
        return len(self._known)


# --- Sets of names ---------------------------------------------------------------------------------------------------

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
