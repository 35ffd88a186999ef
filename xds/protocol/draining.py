"""Older versions of listeners and routes that a client may still be using, and so the clusters that it must keep.

An Envoy goes on using a listener that it replaced until that has drained, a route configuration that it was told to
replace and rejected, and a removed one for as long as a draining listener subscribes to it. All that matters of such a
version is which clusters it may send requests to, and until when. The value is immutable, so that streams which went
through the same share it.
"""

from collections.abc import Iterable

from immutables import Map

from xds.model.resource import Resource
from xds.model.types import CLUSTER

Uses = frozenset[str] | None
"""The clusters that a version may send requests to; None: any, since its content is not known."""
Draining = Map[str, tuple[tuple[Uses, float], ...]]
"""By name, what older versions use, each with the time until which: infinity until the client says more."""

NOTHING_DRAINS: Draining = Map()
NEVER = float("inf")
VERSIONS_MAX = 16
"""Versions of one name, told apart by the clusters that they use; of more, those that end first are taken together."""


def uses_of(resource: Resource) -> Uses:
    """Return the clusters that a resource refers to: any, if only its name is known."""
    if resource.is_version_only:
        return None
    return frozenset(r.name for r in resource.references if r.type_url == CLUSTER)


def keep(draining: Draining, resource: Resource, until: float) -> Draining:
    """Return ``draining`` with one more version that may be used until then. One that uses no clusters is left out."""
    uses = uses_of(resource)
    if uses is not None and not uses:
        return draining
    versions = draining.get(resource.name, ())
    same = [end for other, end in versions if other == uses]
    others = [pair for pair in versions if pair[0] != uses]
    return draining.set(resource.name, _bounded([*others, (uses, max([until, *same]))]))


def _bounded(versions: Iterable[tuple[Uses, float]]) -> tuple[tuple[Uses, float], ...]:
    pairs = sorted(versions, key=_end)
    while len(pairs) > VERSIONS_MAX:
        (first, _), (second, end), *others = pairs
        together = None if first is None or second is None else first | second
        pairs = [(together, end), *others]
    return tuple(pairs)


def keep_all(draining: Draining, resources: Iterable[Resource], until: float) -> Draining:
    """Return ``draining`` with the versions of several resources."""
    for resource in resources:
        draining = keep(draining, resource, until)
    return draining


def end_by(draining: Draining, names: Iterable[str], until: float) -> Draining:
    """Return ``draining`` with every version of these names ending no later than ``until``."""
    for name in names:
        versions = draining.get(name)
        if versions is not None:
            draining = draining.set(name, tuple((uses, min(end, until)) for uses, end in versions))
    return draining


def without(draining: Draining, names: Iterable[str]) -> Draining:
    """Return ``draining`` without these names."""
    for name in names:
        if name in draining:
            draining = draining.delete(name)
    return draining


def united(one: Draining, other: Draining) -> Draining:
    """Return what either of the two says may be used: one of the two, where that says all."""
    if not one or one is other:
        return other
    for name, versions in other.items():
        mine = dict(one.get(name, ()))
        more = {uses: end for uses, end in versions if end > mine.get(uses, float("-inf"))}
        if more:
            one = one.set(name, _bounded((mine | more).items()))
    return other if one == other else one


def still(draining: Draining, now: float) -> Draining:
    """Return what may be used after ``now``. O(versions)."""
    for name, versions in draining.items():
        left = tuple(pair for pair in versions if pair[1] > now)
        if not left:
            draining = draining.delete(name)
        elif len(left) < len(versions):
            draining = draining.set(name, left)
    return draining


def next_end(draining: Draining) -> float:
    """Return when the first version ends: infinity for never. O(versions)."""
    return min((end for versions in draining.values() for _, end in versions), default=NEVER)


def clusters_used(draining: Draining) -> Uses:
    """Return the clusters that any of the versions uses."""
    found: set[str] = set()
    for versions in draining.values():
        for uses, _ in versions:
            if uses is None:
                return None
            found |= uses
    return frozenset(found)


def _end(pair: tuple[Uses, float]) -> float:
    return pair[1]
