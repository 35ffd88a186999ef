"""What a client lacks: the difference between what it was sent and what it should have.

What a client holds is described by two values that streams share: the view it was last brought to, and a map of
exceptions (names that it holds in another version: kept clusters, withheld routes, versions reported from an earlier
stream). So a diff costs O(changed). ``Interned`` holds the tables that make equal values one object for as long as any
stream has them, so that streams find their shared responses by identity.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from weakref import WeakValueDictionary, ref

from immutables import Map

from xds.model.resource import Resource
from xds.model.types import CLUSTER
from xds.model.view import View, may_differ
from xds.protocol.subscription import WILDCARD, NameSets, Subscription, Subscriptions, glob_of

# --- Diffs -----------------------------------------------------------------------------------------------------------

Exceptions = Map[str, Resource | None]
NO_EXCEPTIONS: Exceptions = Map()
NOBODY: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Hold:
    """What may not go out yet. ``removals``: names whose removal is kept back, None for all but ``dropped``.

    ``absent``: clusters that the client may lack, since it rejected them: an update that names one of them is kept
    back where the client has an older version that does not, or under one of the names ``used``, an older version that
    it goes on using. ``revived``: what is gone, and is sent and kept all the same.
    """

    removals: frozenset[str] | None = NOBODY
    absent: frozenset[str] = NOBODY
    dropped: frozenset[str] = NOBODY
    used: frozenset[str] = NOBODY
    revived: tuple[Resource, ...] = ()

    def keeps(self, name: str, held: Resource | None, new: Resource | None) -> bool:
        """Say whether the client is to keep ``held`` for now, instead of getting ``new`` (None: its removal).

        One of the two is not None.
        """
        if new is None:
            return name not in self.dropped if self.removals is None else name in self.removals
        if not self.absent or (held is None and name not in self.used):
            return False
        missing = clusters_of(new) & self.absent
        return bool(missing - clusters_of(held) if held is not None else missing)


NO_HOLD = Hold()
HOLD_REMOVALS = Hold(removals=None)


def clusters_of(resource: Resource) -> frozenset[str]:
    """Return the clusters that a resource names."""
    return frozenset(r.name for r in resource.references if r.type_url == CLUSTER)


@dataclass(frozen=True, slots=True, eq=False)
class Diff:
    """What brings a client to a view: resources to send, names that are gone, and what stays different for now."""

    upserts: tuple[Resource, ...]
    removals: tuple[str, ...]
    unknown: tuple[str, ...]
    """Names that were asked for and do not exist."""
    exceptions: Exceptions

    def __bool__(self) -> bool:
        return bool(self.upserts or self.removals or self.unknown)


def holding(name: str, view: View | None, exceptions: Exceptions) -> Resource | None:
    """Return what a client that was brought to ``view`` holds under a name, or None."""
    if exceptions and name in exceptions:
        return exceptions[name]
    return view.get(name) if view is not None else None


def wanted(subscription: Subscription, view: View) -> Iterable[str]:
    """Return the names of the view's resources that are subscribed, by name or by alias, in no order."""
    if subscription.open_ended:
        return [name for name in view if subscription.wants(name)]
    found = (view.get(name) or view.named_by(name) for name in subscription.names)
    return [resource.name for resource in found if resource is not None]


def wants(subscription: Subscription, resource: Resource) -> bool:
    """Say whether a resource is subscribed, by its name or by one of its aliases."""
    return subscription.wants(resource.name) or any(alias in subscription.names for alias in resource.aliases)


def unsent(before: Subscription, after: Subscription, view: View) -> Exceptions:
    """Return what a client lacks of the view that it was brought to, since it did not want it before."""
    if after.globs != before.globs or after.wildcard > before.wildcard:
        found = [view.get(name) for name in wanted(after, view)]
    else:
        found = [view.get(name) or view.named_by(name) for name in after.names - before.names]
    names = [resource.name for resource in found if resource is not None and not wants(before, resource)]
    return Map(dict.fromkeys(names)) if names else NO_EXCEPTIONS


def diff(
    subscription: Subscription,
    view: View | None,
    exceptions: Exceptions,
    target: View,
    asked: Collection[str],
    hold: Hold,
) -> Diff:
    """Return what takes a client from (view, exceptions) to ``target``, with everything ``asked`` in it.

    What is asked for is sent whether or not it changed, and if it is gone but kept; ``*`` asks for all that there is.
    ``view`` None: the client holds nothing but the exceptions. Upserts come sorted by name.
    """
    upserts: dict[str, Resource] = {}
    removals: list[str] = []
    kept: dict[str, Resource | None] = {}
    for name in _candidates(subscription, view, exceptions, target):
        held, new = holding(name, view, exceptions), target.get(name)
        if (held and held.version) == (new and new.version):
            continue
        if hold.keeps(name, held, new):
            kept[name] = held
        elif new is not None:
            upserts[name] = new
        else:
            removals.append(name)
    unknown: list[str] = []
    for name in _asked_names(asked, subscription, target):
        new = target.get(name) or target.named_by(name)
        if new is not None:
            upserts[new.name] = new
            kept.pop(new.name, None)
        elif (held := kept.get(name)) is not None:
            if not held.is_version_only:  # what is kept of an earlier stream has no body
                upserts[name] = held
            elif not held.version:  # nor does it surely have that: it is told that there is none
                unknown.append(name)
                del kept[name]
        elif name not in removals:
            unknown.append(name)
    for resource in hold.revived:
        upserts[resource.name] = kept[resource.name] = resource
        removals = [name for name in removals if name != resource.name]
        unknown = [name for name in unknown if name != resource.name]
    ordered = tuple(upserts[name] for name in sorted(upserts))
    return Diff(ordered, tuple(sorted(removals)), tuple(sorted(unknown)), Map(kept) if kept else NO_EXCEPTIONS)


def _asked_names(asked: Collection[str], subscription: Subscription, target: View) -> Iterable[str]:
    """Spell out ``*`` and xdstp globs; a collection without members names nothing."""
    everything = WILDCARD in asked
    globs = {name: glob for name in asked if (glob := glob_of(name)) is not None} if subscription.globs else {}
    if not globs and not everything:
        return asked
    names = [name for name in asked if name != WILDCARD and name not in globs]
    if everything:
        return dict.fromkeys([*names, *wanted(subscription, target)])
    return [*names, *(name for name in target if any(glob.matches(name) for glob in globs.values()))]


def _candidates(subscription: Subscription, view: View | None, exceptions: Exceptions, target: View) -> Iterable[str]:
    if view is None:
        return dict.fromkeys([*wanted(subscription, target), *exceptions])
    if view is target:
        return exceptions
    changed = may_differ(view, target)
    if not subscription.open_ended and len(subscription.names) < len(changed):
        names = [*subscription.names, *wanted(subscription, view), *wanted(subscription, target)]
        return dict.fromkeys([*names, *exceptions])
    relevant = (name for name in changed if _relevant(subscription, name, view, target))
    return dict.fromkeys([*relevant, *exceptions]) if exceptions else relevant


def _relevant(subscription: Subscription, name: str, view: View, target: View) -> bool:
    if subscription.wants(name):
        return True
    either = (view.get(name), target.get(name))
    return any(resource is not None and wants(subscription, resource) for resource in either)


# --- Initial versions ------------------------------------------------------------------------------------------------


class InitialVersions:
    """The table that makes equal claims one object, for as long as any stream holds it.

    So clients that come back with the same share one response.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[str, str, str], Resource] = WeakValueDictionary()

    def get(self, type_url: str, name: str, version: str) -> Resource:
        """Return the one resource without a body for this name and version; an empty version is unknown."""
        key = (type_url, name, version)
        claim = self._known.get(key)
        if claim is None:
            claim = self._known[key] = Resource(type_url=type_url, name=name, version=version, encoded=b"")
        return claim

    def __len__(self) -> int:
        return len(self._known)


# --- Interning -------------------------------------------------------------------------------------------------------

UNSENT_KEPT = 4


_Reference = Callable[[], Subscription | None]


class Unsent:
    """What changes of a subscription leave unsent of a view (``diff.unsent``), the last few of them.

    So a fleet that changes its subscription alike shares one value.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: list[
            tuple[Callable[[], Subscription | None], Callable[[], Subscription | None], View, Exceptions]
        ] = []

    def get(self, before: Subscription, after: Subscription, view: View) -> Exceptions:
        """Return what a client that was brought to ``view`` lacks of it, since it did not want it before."""
        for was, now, of, found in self._last:
            if was() is before and now() is after and of is view:
                return found
        found = unsent(before, after, view)
        self._last = [(ref(before), ref(after), view, found), *self._last[: UNSENT_KEPT - 1]]
        return found


class Interned:
    """The tables."""

    __slots__ = ("claims", "name_sets", "subscriptions", "unsent")

    def __init__(self) -> None:
        self.subscriptions = Subscriptions()
        self.claims = InitialVersions()
        self.unsent = Unsent()
        self.name_sets = NameSets()
