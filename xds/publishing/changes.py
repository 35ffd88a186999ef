"""A change that somebody asks for, what became of it, and why it was refused. Pure data."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.model.types import short_name
from xds.publishing.edits import Edit
from xds.store.entries import Key

DIRECTORY = "directory"
"""The author of what a watched directory says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """All of it takes effect at one revision, or none.

    ``upserts`` and ``removals`` are by group, as in a ``Changeset``. Groups in ``replace`` have nothing but their
    upserts afterwards. ``edit`` changes groups and rules. ``id`` tells the change from every other one: the same
    id twice is one change. With ``expected_revision`` it is made at that revision or not at all. ``mergeable`` allows
    it to share its revision with others; of what they both set, the later one's counts.
    """

    upserts: Mapping[str, tuple[Resource, ...]] = field(default_factory=dict)
    removals: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    replace: tuple[str, ...] = ()
    edit: Edit | None = None
    id: str = ""
    author: str = ""
    message: str = ""
    expected_revision: int | None = None
    dry_run: bool = False
    mergeable: bool = False

    @property
    def groups(self) -> frozenset[str]:
        """The groups whose resources it may change."""
        return frozenset((*self.upserts, *self.removals, *self.replace))


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The revision at which a change is in force, and what it changed; ``unchanged`` was as asked for before.

    Of a dry run, ``revision`` is the one it was tried at. ``again``: this id was there already, with that revision.
    """

    revision: int
    changed: tuple[Key, ...] = ()
    unchanged: tuple[Key, ...] = ()
    again: bool = False


class KeptElsewhereError(Exception):
    """What was to be changed is kept by a directory, which would set it back."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} kept by the directory that is served: change the files there")


def group_name_problem(group: str) -> str:
    """Say what is wrong with a group's name, "" if nothing is."""
    if not group or len(group) > 200 or group != group.strip() or any(ord(c) < 32 or c in "/\\\x7f" for c in group):
        return f"{group!r} is not a group's name: 1 to 200 characters, none of them a slash or a control character"
    return ""


def check(change: Change) -> None:
    """Raise ChangesetRejectedError where a change names a group that can't be, or one resource twice."""
    named = {*change.groups, *(change.edit.names if change.edit is not None else ())}
    problems = [Problem(what=wrong, group=group) for group in sorted(named) if (wrong := group_name_problem(group))]
    for group in sorted(change.groups):
        places = [(each.type_url, each.name) for each in change.upserts.get(group, ())]
        places += change.removals.get(group, ())
        if len(places) > 1:
            for (type_url, name), count in Counter(places).items():
                if count > 1:
                    what, hint = "stands more than once in the change", "set or remove it once"
                    resource = f"{short_name(type_url)}/{name}"
                    problems.append(Problem(what=what, hint=hint, group=group, resource=resource))
    if problems:
        raise ChangesetRejectedError(problems)
