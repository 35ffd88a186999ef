"""Which resources of one type a stream subscribes to. Immutable and interned: equal subscriptions are one object.

It does not know which resources exist. Source: the xDS protocol page, "How the client specifies what resources to
return", and xDS TP1 (``xdstp://`` names, glob collections and context parameters).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from sys import getsizeof
from urllib.parse import parse_qsl
from weakref import WeakValueDictionary

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


class Interest:
    """Names and, with ``wildcard``, every name but ``xdstp://`` ones. Made by ``Interests`` only."""

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


NOTHING = Interest(False, frozenset())
"""What a stream subscribes to of a type before it has said so."""


class Interests:
    """The table that makes equal subscriptions one object, for as long as any stream has it."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[bool, frozenset[str]], Interest] = WeakValueDictionary()

    def get(self, wildcard: bool, names: Iterable[str]) -> Interest:
        """Return the one Interest for these names; ``*`` among them means the wildcard."""
        explicit = frozenset(names)
        if WILDCARD in explicit:
            wildcard, explicit = True, explicit - {WILDCARD}
        key = (wildcard, explicit)
        interest = self._known.get(key)
        if interest is None:
            interest = self._known[key] = Interest(wildcard, explicit)
        return interest

    def __len__(self) -> int:
        return len(self._known)
