"""The difference between the resources that a client was sent and those that it should have.

Two values that streams share describe what a client holds: the view that it was last updated to, and its overrides,
a map of the names that it holds in another version than the view's (clusters whose removal is held, routes whose update
is held, versions reported from an earlier stream). A diff therefore costs O(changed). ``Interned`` has the tables that
make equal values one object while any stream uses them, so that streams find their shared responses by identity.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from weakref import WeakValueDictionary, ref

from immutables import Map

from xds.model.resource import Resource
from xds.model.types import CLUSTER, VIRTUAL_HOST
from xds.model.view import View, may_differ
from xds.model.xdstp import XDSTP
from xds.protocol.subscription import WILDCARD, NameSets, Subscription, Subscriptions, glob_of, glob_with

# --- Diffs -----------------------------------------------------------------------------------------------------------

Overrides = Map[str, Resource | None]
NO_OVERRIDES: Overrides = Map()
EMPTY_SET: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Hold:
    """Changes that a response must not contain yet."""

    removals: frozenset[str] | None = EMPTY_SET
    """Names whose removal is held; None for all names except ``dropped``."""
    missing_clusters: frozenset[str] = EMPTY_SET
    """Clusters that the client may lack because it rejected them. An update that adds a reference to one of
    them is held if the client has, or still uses (``used``), an older version of the resource."""
    dropped: frozenset[str] = EMPTY_SET
    """Names whose removal is not held although ``removals`` is None."""
    used: frozenset[str] = EMPTY_SET
    """Names with a draining older version."""
    revived: tuple[Resource, ...] = ()
    """Resources that no longer exist and that are sent and kept nevertheless."""

    def keeps(self, name: str, held: Resource | None, new: Resource | None) -> bool:
        """Say whether the change from ``held`` to ``new`` is held for now.

        ``new`` None is a removal, ``held`` None an addition; at most one of them is None.
        """
        if new is None:
            return name not in self.dropped if self.removals is None else name in self.removals
        if not self.missing_clusters or (held is None and name not in self.used):
            return False
        missing = clusters_of(new) & self.missing_clusters
        return bool(missing - clusters_of(held) if held is not None else missing)


NO_HOLD = Hold()
HOLD_REMOVALS = Hold(removals=None)


def clusters_of(resource: Resource) -> frozenset[str]:
    """Return the clusters that a resource names."""
    return frozenset(r.name for r in resource.references if r.type_url == CLUSTER)


@dataclass(frozen=True, slots=True, eq=False)
class Diff:
    """The update of a client to a view: resources to send, names to remove, and the overrides that remain."""

    upserts: tuple[Resource, ...]
    removals: tuple[str, ...]
    nonexistent: tuple[str, ...]
    """Requested names that do not exist."""
    overrides: Overrides

    def __bool__(self) -> bool:
        return bool(self.upserts or self.removals or self.nonexistent)


def holding(name: str, view: View | None, overrides: Overrides) -> Resource | None:
    """Return the resource that a client which was updated to ``view`` holds under a name, or None."""
    if overrides and name in overrides:
        return overrides[name]
    return view.get(name) if view is not None else None


def wanted(subscription: Subscription, view: View) -> Iterable[str]:
    """Return the names of the view's resources that are subscribed, by name or by alias, in no order."""
    if subscription.open_ended:
        return subscription.among(view)
    if len(view) < len(subscription.names) and not view.has_aliases and view.type_url != VIRTUAL_HOST:
        return [name for name in view if name in subscription.names]
    found = (view.known_as(name) for name in subscription.names)
    return [resource.name for resource in found if resource is not None]


def wants(subscription: Subscription, view: View, resource: Resource) -> bool:
    """Say whether a resource of the view is subscribed, by its name or by an alias.

    An alias of several resources is that of the first, as it is for a client that subscribes to it now.
    """
    return subscription.wants(resource.name) or any(
        alias in subscription.names and (known := view.known_as(alias)) is not None and known.name == resource.name
        for alias in resource.aliases
    )


def _if_wanted(subscription: Subscription, view: View | None, resource: Resource | None) -> Resource | None:
    return resource if view is not None and resource is not None and wants(subscription, view, resource) else None


def unsent(before: Subscription, after: Subscription, view: View) -> Overrides:
    """Return the overrides for newly subscribed names: resources of the client's view that it was never sent."""
    if after.globs != before.globs or after.wildcard > before.wildcard:
        found = [view.get(name) for name in wanted(after, view)]
    else:
        found = [view.known_as(name) for name in after.names - before.names]
    names = [resource.name for resource in found if resource is not None and not wants(before, view, resource)]
    return Map(dict.fromkeys(names)) if names else NO_OVERRIDES


def diff(
    subscription: Subscription,
    view: View | None,
    overrides: Overrides,
    target: View,
    required: Collection[str],
    hold: Hold,
) -> Diff:
    """Return the update of a client from (view, overrides) to ``target``.

    It contains every name in ``required``, changed or not; where its change is held, what the client holds, unless only
    its version is known. ``*`` requires all subscribed resources. ``view`` None: the client holds nothing but the
    overrides. Upserts are sorted by name.
    """
    upserts, removals, kept = _changes(subscription, view, overrides, target, hold)
    nonexistent: list[str] = []
    for name in _required_names(required, subscription, target):
        new = target.known_as(name)
        if new is not None:
            older = kept.get(new.name)
            if older is not None and older.version:
                if not older.is_version_only:  # else the client has it, and its body is not known
                    upserts[new.name] = older
                continue
            upserts[new.name] = new
            kept.pop(new.name, None)
        elif (held := kept.get(name)) is not None:
            if not held.is_version_only:  # a version reported from an earlier stream has no body
                upserts[name] = held
            elif not held.version:  # the client may not have it: answer that it does not exist
                nonexistent.append(name)
                del kept[name]
        elif name not in removals:
            nonexistent.append(name)
    for resource in hold.revived:
        upserts[resource.name] = kept[resource.name] = resource
        removals = [name for name in removals if name != resource.name]
        nonexistent = [name for name in nonexistent if name != resource.name]
    ordered = tuple(upserts[name] for name in sorted(upserts))
    return Diff(ordered, tuple(sorted(removals)), tuple(sorted(nonexistent)), Map(kept) if kept else NO_OVERRIDES)


def _changes(
    subscription: Subscription, view: View | None, overrides: Overrides, target: View, hold: Hold
) -> tuple[dict[str, Resource], list[str], dict[str, Resource | None]]:
    """Return what changed: resources to send, names to remove, and what the client keeps as its change is held."""
    upserts: dict[str, Resource] = {}
    removals: list[str] = []
    kept: dict[str, Resource | None] = {}
    by_alias = target.type_url == VIRTUAL_HOST or target.has_aliases or (view is not None and view.has_aliases)
    for name in _candidates(subscription, view, overrides, target):
        held, new = holding(name, view, overrides), target.get(name)
        if by_alias and not subscription.wants(name):
            held = held if name in overrides else _if_wanted(subscription, view, held)
            new = _if_wanted(subscription, target, new)  # it may have lost the alias of the subscription
        if (held and held.version) == (new and new.version):
            continue
        if hold.keeps(name, held, new):
            kept[name] = held
        elif new is not None:
            upserts[name] = new
        else:
            removals.append(name)
    return upserts, removals, kept


def _required_names(required: Collection[str], subscription: Subscription, target: View) -> Iterable[str]:
    """Expand ``*`` and xdstp globs; a collection without members expands to nothing."""
    everything = WILDCARD in required
    globs = {glob: name for name in required if (glob := glob_of(name)) is not None} if subscription.globs else {}
    if not globs and not everything:
        return required
    collections = set(globs.values())
    names = [name for name in required if name != WILDCARD and name not in collections]
    if everything:
        return dict.fromkeys([*names, *wanted(subscription, target)])
    return [*names, *(name for name in target if name.startswith(XDSTP) and glob_with(name) in globs)]


def _candidates(subscription: Subscription, view: View | None, overrides: Overrides, target: View) -> Iterable[str]:
    if view is None:
        return dict.fromkeys([*wanted(subscription, target), *overrides])
    if view is target:
        return overrides
    changed = may_differ(view, target)
    if not subscription.open_ended and len(subscription.names) < len(changed):
        names = [*subscription.names, *wanted(subscription, view), *wanted(subscription, target)]
        return dict.fromkeys([*names, *overrides])
    relevant: Iterable[str] = (name for name in changed if _relevant(subscription, name, view, target))
    if subscription.names and (view.has_aliases or target.has_aliases):
        relevant = dict.fromkeys([*relevant, *_namesakes(subscription, changed, view, target)])
    return dict.fromkeys([*relevant, *overrides]) if overrides else relevant


def _namesakes(subscription: Subscription, changed: Iterable[str], view: View, target: View) -> Iterator[str]:
    """Yield the resources that a subscribed alias of a changed resource stood for, and those that it stands for now.

    If the first of two resources with one alias is removed, the second is sent, although it did not change.
    """
    for name in changed:
        aliases = {name}.union(*(known.aliases for each in (view, target) if (known := each.get(name)) is not None))
        for alias in aliases & subscription.names:
            for each in (view, target):
                if (known := each.known_as(alias)) is not None:
                    yield known.name


def _relevant(subscription: Subscription, name: str, view: View, target: View) -> bool:
    if subscription.wants(name):
        return True
    either = ((each, each.get(name)) for each in (view, target))
    return any(known is not None and wants(subscription, each, known) for each, known in either)


# --- Initial versions ------------------------------------------------------------------------------------------------


class InitialVersions:
    """The table that makes equal reported versions one object while any stream holds it.

    Clients that reconnect with the same versions therefore share one response.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[str, str, str], Resource] = WeakValueDictionary()

    def get(self, type_url: str, name: str, version: str) -> Resource:
        """Return the shared resource without a body for this name and version; "" is an unknown version."""
        key = (type_url, name, version)
        resource = self._known.get(key)
        if resource is None:
            resource = self._known[key] = Resource(type_url=type_url, name=name, version=version, encoded=b"")
        return resource

    def __len__(self) -> int:
        return len(self._known)


# --- Interning -------------------------------------------------------------------------------------------------------

UNSENT_KEPT = 4
"""Maximum results that ``Unsent`` keeps, and ``NackedOverrides``."""


_Reference = Callable[[], Subscription | None]


class Unsent:
    """A cache of the last few results of ``unsent``.

    A fleet whose clients change their subscriptions alike shares one value.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: list[
            tuple[Callable[[], Subscription | None], Callable[[], Subscription | None], View, Overrides]
        ] = []

    def get(self, before: Subscription, after: Subscription, view: View) -> Overrides:
        """Return what ``unsent`` returns."""
        for was, now, of, found in self._last:
            if was() is before and now() is after and of is view:
                return found
        found = unsent(before, after, view)
        self._last = [(ref(before), ref(after), view, found), *self._last[: UNSENT_KEPT - 1]]
        return found


class NackedOverrides:
    """A cache of the last few overrides of clients that report nothing, and rejected names on an earlier stream.

    The nodes of a fleet reject the same names. Thousands that return share one value, and so one response.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: list[
            tuple[Callable[[], Subscription | None], Callable[[], frozenset[str] | None], View, Overrides]
        ] = []

    def get(
        self, subscription: Subscription, nacked: frozenset[str], view: View, make: Callable[[], Overrides]
    ) -> Overrides:
        """Return the overrides from a view of a client that rejected these names, by ``make`` if they are not known."""
        for wanted_then, rejected, of, found in self._last:
            if wanted_then() is subscription and rejected() is nacked and of is view:
                return found
        found = make()
        self._last = [(ref(subscription), ref(nacked), view, found), *self._last[: UNSENT_KEPT - 1]]
        return found


class Interned:
    """The tables of shared values."""

    __slots__ = ("initial_versions", "nacked_overrides", "name_sets", "subscriptions", "unsent")

    def __init__(self) -> None:
        self.subscriptions = Subscriptions()
        self.initial_versions = InitialVersions()
        self.unsent = Unsent()
        self.nacked_overrides = NackedOverrides()
        self.name_sets = NameSets()
