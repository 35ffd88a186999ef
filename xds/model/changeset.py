"""Changesets: changes of resources and groups that are applied or rejected as a whole."""

from dataclasses import dataclass, field

from xds.model.groups import GroupTable
from xds.model.resource import Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class Changeset:
    """Upserts and removals, and optionally new group rules, that take effect together at one revision."""

    upserts: dict[str, tuple[Resource, ...]] = field(default_factory=dict)
    """Group to its new and changed resources."""
    removals: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Group to the (type URL, name) pairs of the resources to remove."""
    groups: GroupTable | None = None
    """The new groups and rules; None for no change."""
    replace: bool = False
    """Remove all resources, of every group, that are not in ``upserts``."""
    gone: tuple[str, ...] = ()
    """Groups to remove with all their resources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The result of a changeset."""

    revision: int
    """The revision after the changeset; the same as before if nothing changed."""
    changed: dict[str, dict[str, frozenset[str]]]
    """Group to type URL to the names and aliases that were added, changed or removed for the nodes of the group. Groups
    that inherit the change by ``extends`` are included."""
    regrouped: bool = False
    """Groups or rules changed, so nodes may be in another group."""
    parts: tuple["Applied", ...] = ()
    """The changes that were merged into this one, oldest first; empty if it is one change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedChangeset(Applied):
    """The result of a changeset, with what replicas apply."""

    effect: Changeset | None = field(default=None, compare=False)
    """The changeset without what was already in effect; None if nothing changed."""
