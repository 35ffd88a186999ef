"""Views: the resources of one type that a group's nodes see at one revision, and the changes between two views.

A view is immutable and shares its structure with earlier and later views, so that a stream can keep all resources that
it was sent by one reference. A lookup costs one hash-trie lookup per layer, a comparison with an older view O(changed
since then), by the revision logs.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from immutables import Map

from xds.model.resource import Resource

TOMBSTONES_MAX = 10_000
"""Maximum removed names in a revision log."""
FINGERPRINT_MASK = (1 << 64) - 1


class RevisionLog:
    """Names, removed ones included, in the order of the revision that last changed them, newest last.

    The log has at most the number of resources plus ``tombstones_max`` entries, beyond which the oldest are dropped.
    ``since`` returns None for revisions before the dropped entries: compare all names instead.
    """

    __slots__ = ("_floor", "_order", "_tombstones_max")

    def __init__(self, *, tombstones_max: int = TOMBSTONES_MAX) -> None:
        self._order: OrderedDict[str, int] = OrderedDict()
        self._floor = 0
        self._tombstones_max = tombstones_max

    def __len__(self) -> int:
        return len(self._order)

    def record(self, name: str, revision: int, *, live: int) -> None:
        """Record that ``revision`` changed ``name``. ``live`` is the number of resources after it."""
        self._order[name] = revision
        self._order.move_to_end(name)
        while len(self._order) > live + self._tombstones_max:
            _, self._floor = self._order.popitem(last=False)

    def changed_at(self, name: str) -> int:
        """Return the revision that last changed ``name``, 0 if none did or it is not recorded any more."""
        return self._order.get(name, 0)

    def since(self, revision: int) -> list[str] | None:
        """Return the names changed after ``revision``, newest first, or None if the log does not reach back to it."""
        if revision < self._floor:
            return None
        names = []
        for name, changed in reversed(self._order.items()):
            if changed <= revision:
                break
            names.append(name)
        return names


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A group's own resources of one type at one revision. All revisions of a layer share ``log``."""

    resources: Map[str, Resource]
    revision: int
    log: RevisionLog
    timed: Map[str, float] = Map()  # noqa: RUF009 - immutable
    aliases: Map[str, tuple[str, ...]] = Map()  # noqa: RUF009 - immutable

    def replaced(self, changes: dict[str, Resource | None], revision: int) -> "Layer":
        """Return the layer after ``changes`` (None removes). ``Catalog._commit`` updates the log."""
        resources, timed, aliases = self.resources.mutate(), self.timed, self.aliases
        for name, resource in changes.items():
            before = self.resources.get(name)
            if before is not None:
                timed = timed.delete(name) if before.ttl_s is not None else timed
                for alias in before.aliases:
                    others = tuple(other for other in aliases[alias] if other != name)
                    aliases = aliases.set(alias, others) if others else aliases.delete(alias)
            if resource is None:
                resources.pop(name, None)
                continue
            resources[name] = resource
            if resource.ttl_s is not None:
                timed = timed.set(name, resource.ttl_s)
            for alias in resource.aliases:
                aliases = aliases.set(alias, tuple(sorted({name, *aliases.get(alias, ())})))
        return Layer(resources.finish(), revision, self.log, timed, aliases)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """All resources of one type that a group's nodes see at one revision: its own, and those of the groups it extends.

    ``layers`` run from the nearest group to its farthest base. ``fingerprint`` is the sum of the resources'
    fingerprints: equal content, equal number, on every replica.
    """

    type_url: str
    layers: tuple[Layer, ...]
    fingerprint: int

    def get(self, name: str) -> Resource | None:
        """Return the resource of that name, or None."""
        for layer in self.layers:
            resource = layer.resources.get(name)
            if resource is not None:
                return resource
        return None

    def named_by(self, alias: str) -> Resource | None:
        """Return the resource that has this alias, or None (xDS: resource aliases, as VHDS uses them).

        If several resources of a layer have the alias, the first by name is returned.
        """
        for layer in self.layers:
            for name in layer.aliases.get(alias, ()):
                resource = self.get(name)
                if resource is not None and alias in resource.aliases:  # else a nearer layer shadows it
                    return resource
        return None

    def known_as(self, name: str) -> Resource | None:
        """Return the resource that a client gets which subscribes to ``name``: by name, or else by alias."""
        return self.get(name) or self.named_by(name)

    def changed_at(self, name: str) -> int:
        """Return the revision that last changed a name in any layer, 0 if none did. It may be later than the view."""
        return max((layer.log.changed_at(name) for layer in self.layers), default=0)

    @property
    def has_aliases(self) -> bool:
        """Say whether any resource may have an alias, in O(layers)."""
        return any(layer.aliases for layer in self.layers)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in no particular order."""
        if len(self.layers) == 1:
            return iter(self.layers[0].resources)
        return iter(set(chain.from_iterable(layer.resources for layer in self.layers)))

    def __len__(self) -> int:
        return len(self.layers[0].resources) if len(self.layers) == 1 else sum(1 for _ in self)

    @property
    def timed(self) -> dict[str, float]:
        """The names of resources with a TTL, to the TTL in seconds."""
        names = chain.from_iterable(layer.timed for layer in self.layers)
        found = {name: self.get(name) for name in names}
        return {name: r.ttl_s for name, r in found.items() if r is not None and r.ttl_s is not None}

    @property
    def has_timed(self) -> bool:
        """Say whether any resource may have a TTL, in O(layers)."""
        return any(layer.timed for layer in self.layers)


class EmptyViews(dict[str, View]):
    """Empty views, made on demand. There is one per type, so that streams can share it."""

    def __missing__(self, type_url: str) -> View:
        view = self[type_url] = View(type_url, (), 0)
        return view


def fingerprint_of(view: View) -> int:
    """Return the sum of all resources' fingerprints. O(all); changes adjust the sum instead."""
    return sum(r.fingerprint for r in map(view.get, view) if r is not None) & FINGERPRINT_MASK


def may_differ(old: View, new: View) -> list[str]:
    """Return names that include all that differ between two views, each once.

    O(changed) if both views have the same lineage and the logs reach back, else all names of both views.
    """
    if old is new:
        return []
    if len(old.layers) == len(new.layers):
        tails: list[list[str]] = []
        for before, after in zip(old.layers, new.layers, strict=True):
            if before is after:
                continue
            tail = before.log.since(min(before.revision, after.revision)) if before.log is after.log else None
            if tail is None:
                break
            tails.append(tail)
        else:
            return tails[0] if len(tails) == 1 else list(dict.fromkeys(chain.from_iterable(tails)))
    return list(dict.fromkeys(chain(old, new)))
