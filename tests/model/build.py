"""Builders of resources, changesets and catalogs for the tests of the model."""

from collections.abc import Iterable, Mapping
from typing import Any

from xds.model.catalog import Catalog
from xds.model.changeset import Applied, Changeset
from xds.model.groups import GroupTable
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Reference, Resource
from xds.model.snapshot import Snapshot
from xds.model.types import CLUSTER, ENDPOINTS


def resource(
    name: str,
    content: str = "1",
    *,
    type_url: str = CLUSTER,
    refers_to: Iterable[tuple[str, ...]] = (),
    aliases: Iterable[str] = (),
    ttl_s: float | None = None,
    source: str = "",
) -> Resource:
    """Return a resource whose version depends on its content. ``refers_to``: type URL, name, field."""
    references, also_known_as = tuple(Reference(*each) for each in refers_to), tuple(aliases)
    rest = [ttl_s, also_known_as, references]
    body = (content if not any(rest) else repr((content, *rest))).encode()
    return Resource(
        type_url=type_url,
        name=name,
        version=body.decode(),
        encoded=body,
        body_end=len(body),
        ttl_s=ttl_s,
        aliases=also_known_as,
        references=references,
        source=source,
    )


def upserts(*resources: Resource, group: str = "default", **fields: Any) -> Changeset:
    """Return a changeset that puts the resources into one group."""
    return Changeset(upserts={group: resources}, **fields)


def removals(*names: str, type_url: str = CLUSTER, group: str = "default", **fields: Any) -> Changeset:
    """Return a changeset that removes resources of one type from one group."""
    return Changeset(removals={group: tuple((type_url, name) for name in names)}, **fields)


def catalog(
    resources: Mapping[str, Iterable[Resource]] | None = None,
    *,
    table: GroupTable | None = None,
    check_references: bool = True,
) -> Catalog:
    """Return a catalog at revision 1 that serves the groups in ``resources`` by the rules in ``table``."""
    made = Catalog(check_references=check_references)
    made.apply(Changeset(upserts={group: tuple(each) for group, each in (resources or {}).items()}, groups=table))
    return made


def content_of(snapshot: Snapshot) -> dict[tuple[str, str], str]:
    """Return the version of each (type URL, name) of a snapshot."""
    return {
        (type_url, name): found.version
        for type_url, view in snapshot.views.items()
        for name in view
        if (found := view.get(name)) is not None
    }


def served(catalog: Catalog, group: str = "default") -> dict[str, str]:
    """Return the name and version of every cluster of a group's snapshot."""
    snapshot = catalog.snapshots[group]
    return {name: version for (type_url, name), version in content_of(snapshot).items() if type_url == CLUSTER}


def problems_of(catalog: Catalog, changeset: Changeset) -> list[Problem]:
    """Return the problems of a changeset. Fails if it is accepted, or if its rejection changes the catalog."""
    before = (catalog.revision, catalog.table, dict(catalog.snapshots))
    try:
        catalog.apply(changeset)
    except ChangesetRejectedError as error:
        assert (catalog.revision, catalog.table, dict(catalog.snapshots)) == before
        return list(error.problems)
    raise AssertionError("the changeset was applied")


def clusters_changed(applied: Applied) -> dict[str, set[str]]:
    """Return the changed names by group of a change that has only clusters."""
    assert all(by_type.keys() == {CLUSTER} for by_type in applied.changed.values())
    return {group: set(by_type[CLUSTER]) for group, by_type in applied.changed.items()}


__all__ = [
    "CLUSTER",
    "ENDPOINTS",
    "catalog",
    "clusters_changed",
    "content_of",
    "problems_of",
    "removals",
    "resource",
    "served",
    "upserts",
]
