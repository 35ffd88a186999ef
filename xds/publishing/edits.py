"""Changes of groups and rules. Each describes its intent and is applied to the newest state.

An edit never holds a complete ``GroupTable`` that was read before: of two writers that each add a group, the second
would remove the group of the first.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from xds.model.catalog import Catalog
from xds.model.closest import closest
from xds.model.groups import DEFAULT_GROUP, GroupTable, Rule
from xds.model.problem import ChangesetRejectedError, Problem
from xds.publishing.codec import encode_table

Explain = Callable[[Collection[str]], tuple[Problem, ...]]
"""Returns the problems of rules, with their places, given the names of the existing groups."""


RULES = ""
"""Stands for the groups and rules among names of groups, in revisions."""


class UnknownGroupError(Exception):
    """There is no group with that name, or was none at a former ``revision``.

    The message suggests similar names of ``known``, unless that has the name itself.
    """

    def __init__(self, group: str, known: Collection[str] = (), hint: str = "", *, revision: int | None = None) -> None:
        close = [] if group in known else closest(group, known, count=2)
        meant = f": did you mean {' or '.join(map(repr, close))}?" if close else ""
        there = f"there is no group {group!r}" if revision is None else f"revision {revision} has no group {group!r}"
        super().__init__(f"{there}{meant}{f' ({hint})' if hint else ''}")
        self.group = group
        self.revision = revision


@dataclass(frozen=True, slots=True)
class Edited:
    """The table after an edit, and the groups that lose all their resources."""

    table: GroupTable
    emptied: tuple[str, ...] = ()


class Edit(Protocol):
    """One change of groups or rules."""

    @property
    def names(self) -> tuple[str, ...]:
        """The groups that the edit creates, whose names must be checked."""
        ...

    @property
    def concerns(self) -> tuple[str, ...]:
        """The groups, and ``RULES``, that the edit modifies: an expected revision applies to them."""
        ...

    @property
    def by_directory(self) -> bool:
        """Whether the edit comes from the served directory, which may change the groups that it manages."""
        ...

    @property
    def content(self) -> bytes:
        """Bytes that are equal for equal edits."""
        ...

    def on(self, head: Catalog) -> Edited:
        """Apply the edit to the table of ``head``. Raises UnknownGroupError and ChangesetRejectedError."""
        ...


@dataclass(frozen=True, slots=True)
class PutGroup:
    """Create a group, or change which group it extends, if any."""

    group: str
    extends: str | None = None
    by_directory = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.group,)

    @property
    def concerns(self) -> tuple[str, ...]:
        return (self.group,)

    @property
    def content(self) -> bytes:
        return _content("put group", self.group, self.extends)

    def on(self, head: Catalog) -> Edited:
        if self.extends is not None and self.extends not in head.snapshots:
            raise UnknownGroupError(self.extends, head.snapshots)
        table = head.table
        bases = {name: base for name, base in table.extends.items() if name != self.group}
        if self.extends is not None:
            bases[self.group] = self.extends
        return Edited(replace(table, names=_with(table, (self.group,)), extends=bases))


@dataclass(frozen=True, slots=True)
class DeleteGroup:
    """Remove a group and all its resources."""

    group: str
    by_directory = False
    names = ()

    @property
    def concerns(self) -> tuple[str, ...]:
        return (self.group,)

    @property
    def content(self) -> bytes:
        return _content("delete group", self.group)

    def on(self, head: Catalog) -> Edited:
        if self.group not in head.snapshots:
            raise UnknownGroupError(self.group, head.snapshots)
        table = head.table
        needed = [f"group {name} extends it" for name, base in table.extends.items() if base == self.group]
        numbers = (number for number, rule in enumerate(table.rules, 1) if rule.group == self.group)
        needed += [f"rule {number} assigns nodes to it" for number in numbers]
        if self.group == DEFAULT_GROUP:
            needed.append("nodes that match no rule belong to it")
        if needed:
            raise ChangesetRejectedError([Problem(what=f"can't be removed: {'; '.join(needed)}", group=self.group)])
        names = tuple(name for name in table.names if name != self.group)
        extends = {name: base for name, base in table.extends.items() if name != self.group}
        return Edited(replace(table, names=names, extends=extends), (self.group,))


@dataclass(frozen=True, slots=True)
class PutRules:
    """Replace the rules, the external names and the inheritance of groups; existing groups stay.

    ``table.names`` are the groups to create. A directory's group that the table does not name still extends the same
    group.
    """

    table: GroupTable
    explain: Explain = field(compare=False)
    by_directory = False
    concerns = (RULES,)

    @property
    def names(self) -> tuple[str, ...]:
        return self.table.names

    @property
    def content(self) -> bytes:
        return b"put rules " + encode_table(self.table)

    def on(self, head: Catalog) -> Edited:
        new, table = self.table, head.table
        _must_exist(new, head, self.explain)
        kept = {name: base for name, base in table.extends.items() if name in table.kept and name not in new.names}
        return Edited(
            replace(
                new,
                names=_with(table, new.names),
                extends=kept | dict(new.extends),
                kept=table.kept,
                rules_kept=table.rules_kept,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRules:
    """Replace the given parts of the rules; parts that are None stay."""

    explain: Explain = field(compare=False)
    names: tuple[str, ...] = ()
    """Groups to set, as by ``PutGroup``."""
    extends: Mapping[str, str] = field(default_factory=dict)
    """The group that each of ``names`` extends, if any."""
    rules: tuple[Rule, ...] | None = None
    deny_unmatched: bool | None = None
    external: tuple[str, ...] | None = None
    add_external: tuple[str, ...] = ()
    """Names to add to the external ones."""
    made: tuple[str, ...] = ()
    """Groups that the same change creates, if they do not exist, by setting resources in them."""
    by_directory = False

    @property
    def concerns(self) -> tuple[str, ...]:
        parts = self.rules, self.deny_unmatched, self.external, self.add_external or None
        return (*self.names, *(() if all(part is None for part in parts) else (RULES,)))

    @property
    def content(self) -> bytes:
        given = GroupTable(rules=self.rules or (), names=self.names, extends=self.extends, external=self.external or ())
        missing = [self.rules is None, self.deny_unmatched, self.external is None, sorted(self.add_external)]
        return _content("update rules", *missing) + encode_table(given)

    def on(self, head: Catalog) -> Edited:
        table = head.table
        named = GroupTable(rules=self.rules or (), extends=self.extends, names=(*self.names, *self.made))
        _must_exist(named, head, self.explain)
        others = {name: base for name, base in table.extends.items() if name not in self.names}
        external = table.external if self.external is None else self.external
        added = tuple(sorted({*self.add_external} - {*external}))
        return Edited(
            replace(
                table,
                names=_with(table, named.names),
                extends=others | dict(self.extends),
                rules=table.rules if self.rules is None else self.rules,
                deny_unmatched=table.deny_unmatched if self.deny_unmatched is None else self.deny_unmatched,
                external=(*external, *added),
            )
        )


def _must_exist(new: GroupTable, head: Catalog, explain: Explain) -> None:
    """Raise ChangesetRejectedError if rules name a group that neither exists nor is created with them."""
    known = {DEFAULT_GROUP, *head.snapshots, *new.names}
    if {*new.extends.values(), *(rule.group for rule in new.rules)} <= known:
        return
    problems = explain(known)
    assert problems, "the rules name a group that does not exist"
    raise ChangesetRejectedError(problems)


def _with(table: GroupTable, names: Collection[str]) -> tuple[str, ...]:
    return tuple(sorted({*table.names} | ({*names} - {DEFAULT_GROUP})))


def _content(*parts: object) -> bytes:
    return json.dumps(parts).encode()
