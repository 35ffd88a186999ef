"""Checks that the resources which others refer to exist.

A snapshot is consistent when every cluster's EDS name, every listener's route name, every route's clusters and every
SDS name is served to the same node. Inline resources, and those from another config source, are not references.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from fnmatch import fnmatchcase

from xds.model.closest import Names, closest, names_of
from xds.model.problem import Problem, place_of
from xds.model.resource import Resource
from xds.model.snapshot import Snapshot
from xds.model.types import FROM_BOOTSTRAP, short_name
from xds.model.work import sharing_work

NAMES_SEARCHED_MAX = 2_000
"""Maximum names of a type for which the closest name to a missing one is suggested."""


class Referrers:
    """An index of one group's own resources by the resources that they refer to. O(1) per reference."""

    __slots__ = ("_by_target",)

    def __init__(self) -> None:
        self._by_target: dict[tuple[str, str], set[tuple[str, str]]] = {}

    def add(self, resource: Resource) -> None:
        """Add the references of a resource."""
        for target in _targets(resource):
            self._by_target.setdefault(target, set()).add((resource.type_url, resource.name))

    def discard(self, resource: Resource) -> None:
        """Remove the references of a resource."""
        for target in _targets(resource):
            referrers = self._by_target[target]
            referrers.discard((resource.type_url, resource.name))
            if not referrers:
                del self._by_target[target]

    def of(self, type_url: str, name: str) -> Set[tuple[str, str]]:
        """Return (type URL, name) of the group's resources that refer to a resource."""
        return self._by_target.get((type_url, name), frozenset())


def _targets(resource: Resource) -> set[tuple[str, str]]:
    return {(reference.type_url, reference.name) for reference in resource.references}


def dangling(
    snapshot: Snapshot,
    changed: Mapping[str, Iterable[str]],
    referrers: Iterable[Referrers],
    external: tuple[str, ...],
    source_of: Callable[[Resource], str],
) -> list[Problem]:
    """Return a problem for every reference that dangles after the changes in ``changed``. O(changed).

    ``source_of`` returns the source of a resource, which may have changed while its content did not.
    """
    suspects: dict[tuple[str, str], Resource] = {}
    lookups = tuple(referrers)
    for type_url, names in changed.items():
        view = snapshot.view(type_url)
        for name in names:
            resource = view.get(name)
            if resource is not None:
                suspects[type_url, name] = resource
                continue
            for lookup in lookups:
                for referrer_type, referrer_name in lookup.of(type_url, name):
                    referrer = snapshot.view(referrer_type).get(referrer_name)
                    if referrer is not None:
                        suspects[referrer_type, referrer_name] = referrer
    problems: list[Problem] = []
    known: dict[str, Names] = {}
    with sharing_work():
        for resource in suspects.values():
            problems.extend(_missing(snapshot, resource, external, source_of, known))
    return problems


def _missing(
    snapshot: Snapshot,
    resource: Resource,
    external: tuple[str, ...],
    source_of: Callable[[Resource], str],
    known: dict[str, Names],
) -> Iterable[Problem]:
    """Yield the problems of one resource. ``known`` keeps the names of types for the suggestions of others."""
    for reference in resource.references:
        view = snapshot.view(reference.type_url)
        if view.get(reference.name) is not None:
            continue
        word = f"{short_name(reference.type_url)}/{reference.name}"
        if any(fnmatchcase(word, pattern) for pattern in external):
            continue
        file, line = place_of(source_of(resource))
        if reference.type_url == FROM_BOOTSTRAP:
            what = f"names {word} without sds_config: Envoy then looks for it in its bootstrap only"
            meant = ""
            hint = f"give sds_config, or list {word} under external in groups.yaml if the bootstraps have it"
        else:
            what = f"refers to {word}, which does not exist in group {snapshot.group}"
            if reference.type_url not in known:
                known[reference.type_url] = names_of(view if len(view) <= NAMES_SEARCHED_MAX else ())
            meant = next(iter(closest(reference.name, known[reference.type_url])), "")
            hint = f"did you mean {meant}?" if meant else add_it(word)
        yield Problem(
            what=what,
            hint=hint,
            file=file,
            line=line,
            group=snapshot.group,
            resource=f"{short_name(resource.type_url)}/{resource.name}",
            field=reference.field,
            suggests=meant and f"{short_name(reference.type_url)}/{meant}",
        )


def add_it(word: str) -> str:
    """Return what to do about a resource that does not exist, where no name is close to its own."""
    return f"add it, or list {word} under external in groups.yaml if Envoys get it elsewhere"
