"""A requested change, its outcome, and the checks that need no state."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from xds.model.names import group_name_problem
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.model.types import short_name
from xds.publishing.edits import Edit
from xds.store.entries import Key

DIRECTORY = "directory"
"""The author of the changes from a watched directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change that takes effect completely, at one revision, or not at all."""

    upserts: Mapping[str, tuple[Resource, ...]] = field(default_factory=dict)
    """Resources to set, by group."""
    removals: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Type URL and name of the resources to remove, by group."""
    replace: tuple[str, ...] = ()
    """Groups that lose all resources that are not in ``upserts``."""
    edit: Edit | None = None
    """A change of groups and rules."""
    id: str = ""
    """Identifies the change: the same change again with the same id is not made twice."""
    author: str = ""
    message: str = ""
    expected_revision: int | None = None
    """If set, the change is refused if what it concerns changed after that revision: its groups; with an ``edit``, what
    the edit concerns."""
    creates_groups: bool = True
    """Whether setting resources of a group that does not exist creates it. If not, the change is refused, unless its
    ``edit`` creates the group."""
    dry_run: bool = False
    mergeable: bool = False
    """Allows the change to share a revision with others. The last of them that sets a resource wins."""

    @property
    def groups(self) -> frozenset[str]:
        """The groups whose resources the change may modify."""
        return frozenset((*self.upserts, *self.removals, *self.replace))


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The outcome of a change that was made."""

    revision: int
    """The revision at which the change is served; for a dry run, the one it was tried at."""
    changed: tuple[Key, ...] = ()
    """The resources that the change adds, changes and removes."""
    unchanged: tuple[Key, ...] = ()
    """Requested resources that were in the requested state before."""
    added: frozenset[Key] = frozenset()
    """Those of ``changed`` that did not exist before."""
    removed: frozenset[Key] = frozenset()
    """Those of ``changed`` that no longer exist."""
    rules_changed: bool = False
    """Whether the change modifies groups or rules: a group was created or deleted, extends another one, and so on."""
    again: bool = False
    """Whether a change with this id had been made before; ``revision`` is that change's."""
    warnings: tuple[Problem, ...] = ()
    """What deserves attention in the resources that were added or changed, though they are valid."""


def change_of(published: Published, key: Key) -> str:
    """Return what was done with a resource of ``published.changed``: ``added``, ``changed`` or ``removed``."""
    return "added" if key in published.added else "removed" if key in published.removed else "changed"


class KeptElsewhereError(Exception):
    """The group or the rules are managed by a directory, which would overwrite the change."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} kept by the directory that is served: change the files there")


def check(change: Change) -> None:
    """Raise ChangesetRejectedError if a change has an invalid group name, or names a resource twice."""
    named = {*change.groups, *(change.edit.names if change.edit is not None else ())}
    problems = [Problem(what=wrong, group=group) for group in sorted(named) if (wrong := group_name_problem(group))]
    for group in sorted(change.groups):
        places = [(each.type_url, each.name) for each in change.upserts.get(group, ())]
        places += change.removals.get(group, ())
        if len(places) > 1:
            for (type_url, name), count in Counter(places).items():
                if count > 1:
                    what, hint = "appears more than once in the change", "set or remove it once"
                    resource = f"{short_name(type_url)}/{name}"
                    problems.append(Problem(what=what, hint=hint, group=group, resource=resource))
    if problems:
        raise ChangesetRejectedError(problems)
