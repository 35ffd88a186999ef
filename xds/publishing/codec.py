"""Convert between changesets and the store's entries and states, and between group tables and JSON."""

import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.groups import DEFAULT_GROUP, NO_PATTERNS, GroupTable, Patterns, Rule
from xds.model.identity import ANY_IDENTITY
from xds.model.resource import Resource
from xds.model.types import short_name
from xds.schema.restore import restore
from xds.store.entries import Key, State, Stored
from xds.store.errors import UnreadableError

Operations = dict[Key, Resource | None]


def encode_table(table: GroupTable) -> bytes:
    """Encode groups and rules for the store: as JSON, equal for equal tables.

    Rules without identities are encoded as versions of this server encode them that know no identities.
    """
    encoded_rules = [asdict(rule) for rule in table.rules]
    for rule, encoded in zip(table.rules, encoded_rules, strict=True):
        if rule.require == NO_PATTERNS:
            del encoded["require"]
        if rule.identity == ANY_IDENTITY:
            del encoded["identity"]
    # Not ``asdict`` of the whole, which copies hundreds of names: of each of many changes of groups in a batch.
    content = {each.name: getattr(table, each.name) for each in fields(table)} | {"rules": encoded_rules}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def decode_table(data: bytes | None) -> GroupTable:
    """Decode what ``encode_table`` returned; None is the table of an empty store."""
    if data is None:
        return GroupTable()
    parsed: dict[str, Any] = json.loads(data)
    parsed["rules"] = tuple(map(_decode_rule, parsed["rules"]))
    content: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in parsed.items()}
    return GroupTable(**content)


def _decode_rule(encoded: dict[str, Any]) -> Rule:
    if "require" in encoded:
        encoded = {**encoded, "require": Patterns(**encoded["require"])}
    return Rule(**encoded)


def changeset_of_state(state: State) -> Changeset:
    """Return the changeset that brings any catalog to a store's state. Raises UnreadableError."""
    upserts: dict[str, list[Resource]] = {}
    place = f"revision {state.revision}"
    for key, encoded in state.resources.items():
        upserts.setdefault(key.group, []).append(restored(key, encoded, place))
    table = read_table(state.groups, place)
    return Changeset(upserts={group: tuple(all_) for group, all_ in upserts.items()}, groups=table, replace=True)


def changeset_of_entry(stored: Stored, catalog: Catalog) -> Changeset:
    """Return the changeset that brings a catalog from the previous revision to the entry's. Raises UnreadableError."""
    entry = stored.entry
    place = f"revision {stored.revision} (change {entry.id!r})"
    operations: Operations = {
        key: None if encoded is None else restored(key, encoded, place) for key, encoded in entry.operations.items()
    }
    table = None if entry.groups is None else read_table(entry.groups, place)
    return changeset_of(operations, table, catalog)


def restored(key: Key, encoded: bytes, place: str) -> Resource:
    """Decode a stored resource. Raises UnreadableError, which names the resource and ``place``."""
    try:
        return restore(key.type_url, encoded)
    except Exception as error:
        what = f"{short_name(key.type_url)}/{key.name} of the group {key.group!r}"
        raise UnreadableError(f"{place} can't be read: {what}: {error!r}; {_MAY_BE}") from error


def read_table(data: bytes | None, place: str) -> GroupTable:
    """Decode stored groups and rules. Raises UnreadableError, which names ``place``."""
    try:
        return decode_table(data)
    except Exception as error:
        raise UnreadableError(f"{place} can't be read: groups and rules: {error!r}; {_MAY_BE}") from error


_MAY_BE = "it is damaged, or of a later version of this server"


def changeset_of(operations: Mapping[Key, Resource | None], table: GroupTable | None, catalog: Catalog) -> Changeset:
    """Return the changeset of the operations. With a table, empty groups that it does not name are removed."""
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
    """Return the groups that the table does not name and that have no resources after the operations."""
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
