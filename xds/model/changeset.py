"""A change to what is served: applied whole, or rejected whole. It does not know where changes come from."""

from dataclasses import dataclass, field

from xds.model.groups import GroupTable
from xds.model.resource import Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class Changeset:
    """Upserts and removals, and optionally new group rules, that take effect together at one revision.

    ``upserts`` maps a group to its resources; ``removals`` maps a group to (type URL, name) pairs. With ``replace``,
    the upserts are all that every group has from then on: whatever else is served is removed.
    ``groups`` of None leaves the rules as they are. ``gone`` are groups that are no more, with all that they have.
    """

    upserts: dict[str, tuple[Resource, ...]] = field(default_factory=dict)
    removals: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    groups: GroupTable | None = None
    replace: bool = False
    gone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What a changeset did: the revision it made (unchanged if it changed nothing) and the names that changed.

    ``changed`` maps a group, descendants by ``extends`` included, to type URL to the names and aliases whose content or
    existence changed for nodes of that group.
    """

    revision: int
    changed: dict[str, dict[str, frozenset[str]]]
    regrouped: bool = False
    effect: Changeset | None = field(default=None, compare=False)
    """The changeset less what was so already, for whoever follows; None if nothing changed."""
