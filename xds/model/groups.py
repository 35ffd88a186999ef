"""Groups of nodes, and the rules that assign nodes to them: by identity, id, cluster, locality and metadata.

``xds.model.rules`` decides by them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xds.model.identity import ANY_IDENTITY
from xds.model.slot_pickling import pickled_by_slots

DEFAULT_GROUP = "default"


@pickled_by_slots
@dataclass(frozen=True, slots=True, kw_only=True)
class Locality:
    """The locality of a node, from its bootstrap."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""


@pickled_by_slots
@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A client: what its first request says of it (``envoy.config.core.v3.Node``), and its identity.

    Only the identity is proven: anyone who can connect can send any id, cluster, locality and metadata.
    """

    id: str
    cluster: str = ""
    locality: Locality = Locality()
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    user_agent: str = ""
    identity: tuple[str, ...] = ()
    """Its proven names (``xds.model.identity``)."""

    @property
    def envoy_version(self) -> str:
        """The version of its Envoy, "" for other clients."""
        name, _, version = self.user_agent.partition(" ")
        return version if name == "envoy" else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patterns:
    """Patterns for the parts of a node. They are globs (``*``, ``?``, ``[a-z]``), but for ``identity``.

    ``metadata`` maps a dotted path (``labels.stage``; keys may contain dots) to a glob for the value's text
    (``true``, ``3``, ``prod``). ``identity`` is a pattern of ``xds.model.identity``.
    """

    id: str = "*"
    cluster: str = "*"
    region: str = "*"
    zone: str = "*"
    sub_zone: str = "*"
    metadata: Mapping[str, str] = field(default_factory=dict)
    identity: str = ANY_IDENTITY


NO_PATTERNS = Patterns()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Patterns):
    """Assigns a node to ``group`` if all patterns match.

    A node that matches is refused unless it also matches ``require``, in whose globs ``{name}`` stands for the named
    segment of the identity.
    """

    group: str
    require: Patterns = NO_PATTERNS


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


def lineage_of(table: GroupTable, group: str) -> tuple[str, ...]:
    """Return the group and what it extends, nearest first. Raises ValueError where that runs in a circle."""
    line = [group]
    while (base := table.extends.get(line[-1])) is not None:
        if base in line:
            circle = [*line[line.index(base) :], base]
            raise ValueError(f"group {base} extends itself: {' → '.join(circle)}")
        line.append(base)
    return tuple(line)
