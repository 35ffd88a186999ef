"""Which nodes get the same view: rules over node id, cluster, locality and metadata. It does not know resources."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

DEFAULT_GROUP = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Locality:
    """Where a node runs, as its bootstrap says."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A sidecar, as the ``node`` of its first request describes it (``envoy.config.core.v3.Node``)."""

    id: str
    cluster: str = ""
    locality: Locality = Locality()
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    user_agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Take a node into ``group`` if everything given matches. Patterns are globs (``*``, ``?``, ``[a-z]``).

    ``metadata`` maps a dotted path (``labels.stage``; keys may have dots too) to a glob over the value's text
    (``true``, ``3``, ``prod``).
    """

    group: str
    id: str = "*"
    cluster: str = "*"
    region: str = "*"
    zone: str = "*"
    sub_zone: str = "*"
    metadata: Mapping[str, str] = field(default_factory=dict)

    def matches(self, node: Node) -> bool:
        """Say whether this rule takes the node."""
        place = node.locality
        pairs = (
            (node.id, self.id),
            (node.cluster, self.cluster),
            (place.region, self.region),
            (place.zone, self.zone),
            (place.sub_zone, self.sub_zone),
        )
        if not all(pattern == "*" or fnmatchcase(value, pattern) for value, pattern in pairs):
            return False
        return all(_metadata_matches(node.metadata, path, pattern) for path, pattern in self.metadata.items())


def _metadata_matches(metadata: Mapping[str, Any], path: str, pattern: str) -> bool:
    return any(fnmatchcase(_metadata_text(value), pattern) for value in _metadata_values(metadata, path))


def _metadata_values(metadata: Any, path: str) -> Iterator[Any]:
    """Yield what a dotted path may mean: keys have dots too, as Kubernetes' labels (``app.kubernetes.io/name``) do."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTable:
    """The groups' rules (first match wins), what each extends, and what may be named without being served.

    With no rules, a node belongs to the group named like its ``cluster`` if there is one, else to ``default``; with
    rules, a node that none takes belongs to ``default``, or to none if ``deny_unmatched``.
    ``external`` holds globs over ``type/name`` (``clusters/passthrough``) of what Envoys get from elsewhere, as from
    their own bootstrap: a reference to such a name is never dangling.
    ``names`` are groups that exist even while they have no resources, rules or base. ``kept`` are those of them that a
    directory keeps, and ``rules_kept`` says whether it keeps the rules too: nobody else may change those.
    """

    rules: tuple[Rule, ...] = ()
    extends: Mapping[str, str] = field(default_factory=dict)
    deny_unmatched: bool = False
    external: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    rules_kept: bool = False

    def group_of(self, node: Node, known: Mapping[str, object]) -> str | None:
        """Return the node's group among the ``known`` ones, or None if no group takes it."""
        if not self.rules:
            if node.cluster in known:
                return node.cluster
            return None if self.deny_unmatched else DEFAULT_GROUP
        for rule in self.rules:
            if rule.matches(node):
                return rule.group
        return None if self.deny_unmatched else DEFAULT_GROUP

    def lineage(self, group: str) -> tuple[str, ...]:
        """Return the group and what it extends, nearest first. Raises ValueError where that runs in a circle."""
        line = [group]
        while (base := self.extends.get(line[-1])) is not None:
            if base in line:
                circle = [*line[line.index(base) :], base]
                raise ValueError(f"group {base} extends itself: {' → '.join(circle)}")
            line.append(base)
        return tuple(line)
