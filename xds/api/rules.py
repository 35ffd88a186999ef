"""Groups and rules in the form of ``groups.yaml``: read from a body, and told. It does not know who asks."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from xds.model.groups import GroupTable, Rule
from xds.model.problem import ChangesetRejectedError
from xds.sources.groups_file import parse_groups
from xds.sources.yaml_reader import Document


def rules_of(document: Document, known: Collection[str]) -> GroupTable:
    """Return the table that a body says, its new groups named in it. Raises ChangesetRejectedError."""
    read = parse_groups(document, file="", directories=known)
    if read.problems:
        raise ChangesetRejectedError(read.problems)
    return replace(read.table, names=read.declared)


def rules_json(table: GroupTable) -> dict[str, Any]:
    """Return a table as ``rules_of`` reads it."""
    return {
        "groups": {name: {"extends": base} for name, base in sorted(table.extends.items())},
        "rules": [_rule_json(rule) for rule in table.rules],
        "unmatched": "deny" if table.deny_unmatched else "default",
        "external": list(table.external),
    }


def _rule_json(rule: Rule) -> dict[str, Any]:
    match: dict[str, Any] = {key: getattr(rule, key) for key in ("id", "cluster") if getattr(rule, key) != "*"}
    places = {key: getattr(rule, key) for key in ("region", "zone", "sub_zone")}
    locality = {key: glob for key, glob in places.items() if glob != "*"}
    if locality:
        match["locality"] = locality
    if rule.metadata:
        match["metadata"] = dict(rule.metadata)
    return {"group": rule.group, "match": match}
