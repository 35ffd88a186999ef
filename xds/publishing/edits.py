"""Changes of groups and rules, each said as what is wanted and worked out on the newest state. Pure.

An edit never holds a whole ``GroupTable`` that somebody read before: two writers that add a group each would write
back the other's absence.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from xds.model.catalog import Catalog
from xds.model.groups import DEFAULT_GROUP, GroupTable, Rule
from xds.model.problem import ChangesetRejectedError, Problem
from xds.publishing.codec import encode_table

Explain = Callable[[Collection[str]], tuple[Problem, ...]]
"""Returns what is wrong with rules where these are the groups that exist, each problem with its place."""


class UnknownGroupError(Exception):
    """There is no group of that name."""

    def __init__(self, group: str) -> None:
        super().__init__(f"there is no group {group!r}")
        self.group = group


@dataclass(frozen=True, slots=True)
class Edited:
    """The table after an edit, and the groups that lose all they have."""

    table: GroupTable
    emptied: tuple[str, ...] = ()


class Edit(Protocol):
    """One change of groups or rules."""

    @property
    def names(self) -> tuple[str, ...]:
        """The groups that it makes, whose names are to be checked."""
        ...

    @property
    def by_directory(self) -> bool:
        """Whether the directory that is served asks for it, which may change what it keeps."""
        ...

    @property
    def content(self) -> bytes:
        """Bytes that are equal for edits that ask for the same."""
        ...

    def on(self, head: Catalog) -> Edited:
        """Return what it leads to. Raises UnknownGroupError and ChangesetRejectedError."""
        ...


@dataclass(frozen=True, slots=True)
class PutGroup:
    """Make a group, or have it extend another one, or none."""

    group: str
    extends: str | None = None
    by_directory = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.group,)

    @property
    def content(self) -> bytes:
        return _content("put group", self.group, self.extends)

    def on(self, head: Catalog) -> Edited:
        if self.extends is not None and self.extends not in head.snapshots:
            raise UnknownGroupError(self.extends)
        table = head.table
        bases = {name: base for name, base in table.extends.items() if name != self.group}
        if self.extends is not None:
            bases[self.group] = self.extends
        return Edited(replace(table, names=_with(table, (self.group,)), extends=bases))


@dataclass(frozen=True, slots=True)
class DeleteGroup:
    """Remove a group and all it has."""

    group: str
    by_directory = False
    names = ()

    @property
    def content(self) -> bytes:
        return _content("delete group", self.group)

    def on(self, head: Catalog) -> Edited:
        if self.group not in head.snapshots:
            raise UnknownGroupError(self.group)
        table = head.table
        needed = [f"group {name} extends it" for name, base in table.extends.items() if base == self.group]
        needed += [
            f"rule {number} takes nodes into it" for number, rule in enumerate(table.rules) if rule.group == self.group
        ]
        if self.group == DEFAULT_GROUP:
            needed.append("it is where nodes go that nothing else takes")
        if needed:
            raise ChangesetRejectedError([Problem(what=f"can't be removed: {'; '.join(needed)}", group=self.group)])
        names = tuple(name for name in table.names if name != self.group)
        extends = {name: base for name, base in table.extends.items() if name != self.group}
        return Edited(replace(table, names=names, extends=extends), (self.group,))


@dataclass(frozen=True, slots=True)
class PutRules:
    """Replace the rules, what is external, and who extends whom; groups that are there stay.

    ``table.names`` are the groups that it makes. What the groups of a directory extend stays where it is not said.
    """

    table: GroupTable
    explain: Explain = field(compare=False)
    by_directory = False

    @property
    def names(self) -> tuple[str, ...]:
        return self.table.names

    @property
    def content(self) -> bytes:
        return b"put rules " + encode_table(self.table)

    def on(self, head: Catalog) -> Edited:
        told, table = self.table, head.table
        _must_exist(told, head, self.explain)
        kept = {name: base for name, base in table.extends.items() if name in table.kept and name not in told.names}
        return Edited(
            replace(
                told,
                names=_with(table, told.names),
                extends=kept | dict(told.extends),
                kept=table.kept,
                rules_kept=table.rules_kept,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRules:
    """Replace some of the rules' parts, and leave the others.

    Of ``extends`` and ``names`` the groups named are set, as by ``PutGroup``. ``add_external`` are added to what is
    external; the other parts are replaced, or left where they are None.
    """

    explain: Explain = field(compare=False)
    names: tuple[str, ...] = ()
    extends: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[Rule, ...] | None = None
    deny_unmatched: bool | None = None
    external: tuple[str, ...] | None = None
    add_external: tuple[str, ...] = ()
    by_directory = False

    @property
    def content(self) -> bytes:
        told = GroupTable(rules=self.rules or (), names=self.names, extends=self.extends, external=self.external or ())
        missing = [self.rules is None, self.deny_unmatched, self.external is None, sorted(self.add_external)]
        return _content("update rules", *missing) + encode_table(told)

    def on(self, head: Catalog) -> Edited:
        table = head.table
        _must_exist(GroupTable(rules=self.rules or (), extends=self.extends, names=self.names), head, self.explain)
        others = {name: base for name, base in table.extends.items() if name not in self.names}
        external = table.external if self.external is None else self.external
        added = tuple(sorted({*self.add_external} - {*external}))
        return Edited(
            replace(
                table,
                names=_with(table, self.names),
                extends=others | dict(self.extends),
                rules=table.rules if self.rules is None else self.rules,
                deny_unmatched=table.deny_unmatched if self.deny_unmatched is None else self.deny_unmatched,
                external=(*external, *added),
            )
        )


def _must_exist(told: GroupTable, head: Catalog, explain: Explain) -> None:
    """Raise ChangesetRejectedError where rules name a group that neither exists nor is made by them."""
    known = {DEFAULT_GROUP, *head.snapshots, *told.names}
    if {*told.extends.values(), *(rule.group for rule in told.rules)} <= known:
        return
    problems = explain(known)
    assert problems, "the rules name a group that is not there"
    raise ChangesetRejectedError(problems)


def _with(table: GroupTable, names: Collection[str]) -> tuple[str, ...]:
    return tuple(sorted({*table.names} | ({*names} - {DEFAULT_GROUP})))


def _content(*parts: object) -> bytes:
    return json.dumps(parts).encode()
