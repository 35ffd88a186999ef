"""The changes that make the store's groups those of a directory, or release a directory's groups."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.groups import DEFAULT_GROUP, GroupTable
from xds.publishing.changes import DIRECTORY, Change
from xds.publishing.codec import encode_table
from xds.publishing.edits import RULES, Edited
from xds.store.entries import Store

SUMMARIES_MAX = 1_000
"""Heads of the log read at a time."""


def change_of_directory(changeset: Changeset, root: Path | None = None) -> Change:
    """Return the change that sets a directory's groups to its content; groups of other authors stay.

    ``changeset`` is what a ``DirectoryReader`` read; ``root`` is kept as the change's message. The directory manages
    every group that it names, and the rules once it has any. Groups that it managed before and no longer names are
    removed.
    """
    groups = {group for group, resources in changeset.upserts.items() if resources or group != DEFAULT_GROUP}
    upserts = {group: changeset.upserts[group] for group in groups}
    edit = _TakeDirectory(tuple(sorted(groups)), changeset.groups or GroupTable())
    return Change(upserts=upserts, replace=tuple(sorted(groups)), edit=edit, author=DIRECTORY, message=_message(root))


async def is_newest_of(store: Store, root: Path) -> bool:
    """Return whether the newest change of a directory that the store keeps is of the one at ``root``.

    True if none is kept any more: then no other directory has been served for as long as changes are kept.
    """
    oldest, until = await store.kept()
    while until > oldest:
        after = max(oldest, until - SUMMARIES_MAX)
        for summary in reversed(await store.summaries(after, until - after)):
            if summary.author == DIRECTORY and summary.message:
                return summary.message == _message(root)
        until = after
    return True


def _message(root: Path | None) -> str:
    return "" if root is None else f"files in {os.path.abspath(root)}"


def no_directory() -> Change:
    """Return the change that releases the groups and rules that a directory managed: any client may change them."""
    return Change(edit=_LeaveDirectory(), author=DIRECTORY, message="no directory is served")


@dataclass(frozen=True, slots=True)
class _TakeDirectory:
    groups: tuple[str, ...]
    read: GroupTable
    by_directory = True
    concerns = (RULES,)

    @property
    def names(self) -> tuple[str, ...]:
        return self.groups

    @property
    def content(self) -> bytes:
        return b"directory " + encode_table(self.read)

    def on(self, head: Catalog) -> Edited:
        read, table, groups = self.read, head.table, set(self.groups)
        gone = set(table.kept) - groups
        names = (set(table.names) - gone) | groups - {DEFAULT_GROUP}
        extends = {
            group: base for group, base in table.extends.items() if group not in groups | gone and base not in gone
        }
        rules = read if _has_rules(read) or table.rules_kept else table
        after = replace(
            rules,
            names=tuple(sorted(names)),
            kept=self.groups,
            rules_kept=_has_rules(read),
            extends=extends | dict(read.extends),
        )
        return Edited(after, tuple(sorted(gone)))


@dataclass(frozen=True, slots=True)
class _LeaveDirectory:
    by_directory = True
    concerns = (RULES,)
    names = ()
    content = b"no directory"

    def on(self, head: Catalog) -> Edited:
        return Edited(replace(head.table, kept=(), rules_kept=False))


def _has_rules(table: GroupTable) -> bool:
    return bool(table.rules or table.deny_unmatched or table.external)
