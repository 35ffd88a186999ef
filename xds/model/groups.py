"""Groups of nodes, and the rules that assign nodes to them by id, cluster, locality and metadata."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

DEFAULT_GROUP = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Locality:
    """The locality of a node, from its bootstrap."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A client, described by the ``node`` of its first request (``envoy.config.core.v3.Node``)."""

    id: str
    cluster: str = ""
    locality: Locality = Locality()
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    user_agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Assigns a node to ``group`` if all patterns match. Patterns are globs (``*``, ``?``, ``[a-z]``).

    ``metadata`` maps a dotted path (``labels.stage``; keys may contain dots) to a glob for the value's text
    (``true``, ``3``, ``prod``).
    """

    group: str
    id: str = "*"
    cluster: str = "*"
    region: str = "*"
    zone: str = "*"
    sub_zone: str = "*"
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTable:
    """The groups, their inheritance, and the rules that assign nodes to them.

    Without rules, a node belongs to the group with the name of its ``cluster`` if there is one, else to ``default``.
    With rules, the first rule that matches decides; a node that no rule matches belongs to ``default``.
    """

    rules: tuple[Rule, ...] = ()
    extends: Mapping[str, str] = field(default_factory=dict)
    """Group to the group that it inherits resources from."""
    deny_unmatched: bool = False
    """Refuse nodes that would belong to ``default`` only because nothing else matches."""
    external: tuple[str, ...] = ()
    """Globs for ``type/name`` (``clusters/passthrough``) of resources that Envoys get from elsewhere, as from their
    bootstrap. References to them are never dangling."""
    names: tuple[str, ...] = ()
    """Groups that exist even without resources, rules or a base."""
    kept: tuple[str, ...] = ()
    """The groups in ``names`` that a directory owns: only the directory may change them."""
    rules_kept: bool = False
    """Whether a directory owns the rules."""


def matches(rule: Rule, node: Node) -> bool:
    """Say whether a rule takes the node."""
    place = node.locality
    pairs = (
        (node.id, rule.id),
        (node.cluster, rule.cluster),
        (place.region, rule.region),
        (place.zone, rule.zone),
        (place.sub_zone, rule.sub_zone),
    )
    if not all(pattern == "*" or fnmatchcase(value, pattern) for value, pattern in pairs):
        return False
    return all(_metadata_matches(node.metadata, path, pattern) for path, pattern in rule.metadata.items())


def group_of(table: GroupTable, node: Node, known: Mapping[str, object]) -> str | None:
    """Return the node's group among the ``known`` ones, or None if no group takes it."""
    if not table.rules:
        if node.cluster in known:
            return node.cluster
        return None if table.deny_unmatched else DEFAULT_GROUP
    for rule in table.rules:
        if matches(rule, node):
            return rule.group
    return None if table.deny_unmatched else DEFAULT_GROUP


def lineage_of(table: GroupTable, group: str) -> tuple[str, ...]:
    """Return the group and what it extends, nearest first. Raises ValueError where that runs in a circle."""
    line = [group]
    while (base := table.extends.get(line[-1])) is not None:
        if base in line:
            circle = [*line[line.index(base) :], base]
            raise ValueError(f"group {base} extends itself: {' → '.join(circle)}")
        line.append(base)
    return tuple(line)


def _metadata_matches(metadata: Mapping[str, Any], path: str, pattern: str) -> bool:
    return any(fnmatchcase(_metadata_text(value), pattern) for value in _metadata_values(metadata, path))


def _metadata_values(metadata: Any, path: str) -> Iterator[Any]:
    """Yield the values of a path. Keys may contain dots, as Kubernetes labels do (``app.kubernetes.io/name``)."""
    if not isinstance(metadata, Mapping):
        return
    if path in metadata:
        yield metadata[path]
    for end, character in enumerate(path):
        if character == "." and path[:end] in metadata:
            yield from _metadata_values(metadata[path[:end]], path[end + 1 :])


def _metadata_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # protobuf's Struct has only doubles
    return str(value)
