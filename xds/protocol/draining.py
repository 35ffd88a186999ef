"""Draining resources: older versions of listeners and routes that a client may still use.

An Envoy uses a replaced listener until it has drained, a route configuration whose update it rejected, and a removed
route configuration as long as a draining listener subscribes to it. For each such version only two facts matter: the
clusters that it may send requests to, which must therefore stay, and until when. The value is immutable, so streams
with the same history share it.
"""

from collections.abc import Iterable

from immutables import Map

from xds.model.resource import Resource
from xds.model.types import CLUSTER, LISTENER

Uses = frozenset[str] | None
"""The clusters that a version may send requests to; None for any, as its content is unknown."""
Draining = Map[str, tuple[tuple[Uses, float], ...]]
"""Resource name to the clusters of each older version and the time until which it may be used (NEVER: no end yet)."""

NOTHING_DRAINS: Draining = Map()
NEVER = float("inf")
VERSIONS_MAX = 16
"""Maximum versions per name. Versions with equal clusters count once; beyond it, those that end first are merged."""


def uses_of(resource: Resource) -> Uses:
    """Return the clusters that a resource refers to; None, for any, if only its name is known."""
    if resource.is_version_only:
        return None
    return frozenset(r.name for r in resource.references if r.type_url == CLUSTER)


def add_draining(draining: Draining, resource: Resource, until: float) -> Draining:
    """Return ``draining`` with one more version, used until then.

    A listener without clusters is left out, as most have none. A route without clusters is not: a client that still
    uses it has something to lose by a version whose clusters it rejected.
    """
    uses = uses_of(resource)
    if uses is not None and not uses and resource.type_url == LISTENER:
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


def add_all_draining(draining: Draining, resources: Iterable[Resource], until: float) -> Draining:
    """Return ``draining`` with the versions of several resources."""
    for resource in resources:
        draining = add_draining(draining, resource, until)
    return draining


def end_draining_by(draining: Draining, names: Iterable[str], until: float) -> Draining:
    """Return ``draining`` with every version of these names ending no later than ``until``."""
    for name in names:
        versions = draining.get(name)
        if versions is not None:
            draining = draining.set(name, tuple((uses, min(end, until)) for uses, end in versions))
    return draining


def without_end(draining: Draining, names: Iterable[str]) -> Draining:
    """Return ``draining`` with no end for the versions of these names: the client rejected what was to replace them."""
    for name in names:
        versions = draining.get(name)
        if versions is not None:
            draining = draining.set(name, tuple((uses, NEVER) for uses, _ in versions))
    return draining


def without_draining(draining: Draining, names: Iterable[str]) -> Draining:
    """Return ``draining`` without these names."""
    for name in names:
        if name in draining:
            draining = draining.delete(name)
    return draining


def merge_draining(one: Draining, other: Draining) -> Draining:
    """Return the union of two values: one of the two objects if it contains the other."""
    if not one or one is other:
        return other
    for name, versions in other.items():
        mine = dict(one.get(name, ()))
        more = {uses: end for uses, end in versions if end > mine.get(uses, float("-inf"))}
        if more:
            one = one.set(name, _bounded((mine | more).items()))
    return other if one == other else one


def unexpired_draining(draining: Draining, now: float) -> Draining:
    """Return ``draining`` without the versions that have ended by ``now``. O(versions)."""
    for name, versions in draining.items():
        left = tuple(pair for pair in versions if pair[1] > now)
        if not left:
            draining = draining.delete(name)
        elif len(left) < len(versions):
            draining = draining.set(name, left)
    return draining


def next_end(draining: Draining) -> float:
    """Return when the first version ends, NEVER if none does. O(versions)."""
    return min((end for versions in draining.values() for _, end in versions), default=NEVER)


def clusters_used(draining: Draining) -> Uses:
    """Return the clusters that the versions use; None for any."""
    found: set[str] = set()
    for versions in draining.values():
        for uses, _ in versions:
            if uses is None:
                return None
            found |= uses
    return frozenset(found)


def _end(pair: tuple[Uses, float]) -> float:
    return pair[1]
