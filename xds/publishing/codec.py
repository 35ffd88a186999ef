"""Between what is served and what a store keeps: changesets and entries, group tables and JSON."""

import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.groups import DEFAULT_GROUP, GroupTable, Rule
from xds.model.resource import Resource
from xds.schema.restore import restore
from xds.store.entries import Entry, Key, State

Operations = dict[Key, Resource | None]


def encode_table(table: GroupTable) -> bytes:
    """Return groups and rules as a store keeps them: JSON, equal for equal tables."""
    return json.dumps(asdict(table), sort_keys=True, separators=(",", ":")).encode()


def decode_table(data: bytes | None) -> GroupTable:
    """Return what ``encode_table`` made the bytes of; of None, the table of an empty store."""
    if data is None:
        return GroupTable()
    told: dict[str, Any] = json.loads(data)
    told["rules"] = tuple(Rule(**rule) for rule in told["rules"])
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    return GroupTable(**plain)


def changeset_of_state(state: State) -> Changeset:
    """Return what makes any catalog serve a store's state."""
    upserts: dict[str, list[Resource]] = {}
    for key, encoded in state.resources.items():
        upserts.setdefault(key.group, []).append(restore(key.type_url, encoded))
    table = decode_table(state.groups)
    return Changeset(upserts={group: tuple(all_) for group, all_ in upserts.items()}, groups=table, replace=True)


def changeset_of_entry(entry: Entry, catalog: Catalog) -> Changeset:
    """Return what brings a catalog that serves the entry's predecessor to the entry."""
    operations: Operations = {
        key: None if encoded is None else restore(key.type_url, encoded) for key, encoded in entry.operations.items()
    }
    table = None if entry.groups is None else decode_table(entry.groups)
    return changeset_of(operations, table, catalog)


def changeset_of(operations: Mapping[Key, Resource | None], table: GroupTable | None, catalog: Catalog) -> Changeset:
    """Return a changeset that does the operations; with a table, empty groups that it does not name go."""
    upserts: dict[str, list[Resource]] = {}
    removals: dict[str, list[tuple[str, str]]] = {}
    for key, resource in operations.items():
        if resource is None:
            removals.setdefault(key.group, []).append((key.type_url, key.name))
        else:
            upserts.setdefault(key.group, []).append(resource)
    gone = () if table is None else _gone(operations, table, catalog, upserts)
    return Changeset(upserts=_tuples(upserts), removals=_tuples(removals), groups=table, gone=gone)


def _gone(
    operations: Mapping[Key, Resource | None], table: GroupTable, catalog: Catalog, upserts: Container[str]
) -> tuple[str, ...]:
    """Return the groups that neither a table names nor anything is left of."""
    named = {
        DEFAULT_GROUP,
        *table.names,
        *table.extends,
        *table.extends.values(),
        *(rule.group for rule in table.rules),
    }
    return tuple(
        group
        for group in catalog.snapshots
        if group not in named
        and group not in upserts
        and all(Key(group, each.type_url, each.name) in operations for each in catalog.own(group))
    )


def _tuples(lists: Mapping[str, Iterable[Any]]) -> dict[str, tuple[Any, ...]]:
    return {group: tuple(all_) for group, all_ in lists.items()}
