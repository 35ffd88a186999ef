"""A naive catalog of nested dicts that recomputes and compares everything. It shares no code with the real one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from xds.model.changeset import Changeset
from xds.model.groups import GroupTable
from xds.model.resource import Resource
from xds.model.types import short_name

Key = tuple[str, str]
"""Type URL and name."""


@dataclass(frozen=True, kw_only=True)
class Naive:
    """All groups' own resources, and the rules; every method iterates over all of them."""

    own: Mapping[str, Mapping[Key, Resource]] = field(default_factory=lambda: {"default": {}})
    table: GroupTable = field(default_factory=GroupTable)

    def after(self, change: Changeset) -> "Naive | None":
        """Return the catalog after the changeset, or None if it has a resource twice or a cycle of groups."""
        table = self.table if change.groups is None else change.groups
        own: dict[str, dict[Key, Resource]] = {"default": {}}
        if not change.replace:
            own |= {group: dict(resources) for group, resources in self.own.items()}
        named = [*table.extends, *table.extends.values(), *(rule.group for rule in table.rules)]
        for group in [*change.upserts, *change.removals, *named]:
            own.setdefault(group, {})
        for group, keys in change.removals.items():
            for key in keys:
                own[group].pop(key, None)
        for group, resources in change.upserts.items():
            if len({(each.type_url, each.name) for each in resources}) < len(resources):
                return None
            own[group] |= {(each.type_url, each.name): each for each in resources}
        after = Naive(own=own, table=table)
        return after if all(after.line(group) for group in own) else None

    def line(self, group: str) -> list[str]:
        """Return the group and all groups that it extends, or nothing for a cycle."""
        line = [group]
        while line[-1] in self.table.extends:
            line.append(self.table.extends[line[-1]])
            if len(line) > 100:
                return []
        return line

    def seen(self, group: str) -> dict[Key, Resource]:
        """Return all resources that nodes of a group see, none for an unknown group."""
        seen: dict[Key, Resource] = {}
        for base in reversed(self.line(group)):
            seen |= self.own.get(base, {})
        return seen

    def missing(self) -> set[tuple[str, str, str]]:
        """Return every dangling reference: the group, the referrer and the target."""
        found = set()
        for group in self.own:
            seen = self.seen(group)
            for (type_url, name), resource in seen.items():
                for to_type, to_name, _ in resource.references:
                    word = f"{short_name(to_type)}/{to_name}"
                    if (to_type, to_name) not in seen and not any(fnmatchcase(word, p) for p in self.table.external):
                        found.add((group, f"{short_name(type_url)}/{name}", word))
        return found

    def same_as(self, other: "Naive") -> bool:
        """Say whether two catalogs are equal."""
        versions = [
            {group: {key: each.version for key, each in resources.items()} for group, resources in naive.own.items()}
            for naive in (self, other)
        ]
        return versions[0] == versions[1] and self.table == other.table

    def changed(self, after: "Naive") -> dict[str, dict[str, set[str]]]:
        """Return the names and aliases whose content or existence differs, by group and type URL."""
        changed: dict[str, dict[str, set[str]]] = {}
        for group in after.own:
            old, new = self.seen(group), after.seen(group)
            for key in old | new:
                versions = [side[key].version if key in side else None for side in (old, new)]
                if versions[0] != versions[1]:
                    names = changed.setdefault(group, {}).setdefault(key[0], set())
                    names |= {key[1], *(alias for side in (old, new) if key in side for alias in side[key].aliases)}
        return changed
