"""Changes that say all there is of some groups: what a directory holds, or that there is no directory any more."""

from dataclasses import replace

from xds.model.changeset import Changeset
from xds.model.groups import DEFAULT_GROUP, GroupTable
from xds.publishing.changes import DIRECTORY, Change


def change_of_directory(changeset: Changeset, table: GroupTable) -> Change:
    """Return the change by which a directory's groups become what it holds; groups of other authors stay.

    ``changeset`` is what a ``DirectoryReader`` read, ``table`` the one in force. The directory keeps every group that
    it names, and the rules too once it has any. What it kept before and no longer has is gone.
    """
    read = changeset.groups or GroupTable()
    groups = {group for group, resources in changeset.upserts.items() if resources or group != DEFAULT_GROUP}
    gone = set(table.kept) - groups
    names = (set(table.names) - gone) | groups - {DEFAULT_GROUP}
    extends = {group: base for group, base in table.extends.items() if group not in groups | gone and base not in gone}
    rules = read if _has_rules(read) or table.rules_kept else table
    after = replace(
        rules,
        names=tuple(sorted(names)),
        kept=tuple(sorted(groups)),
        rules_kept=_has_rules(read),
        extends=extends | dict(read.extends),
    )
    upserts = {group: changeset.upserts[group] for group in groups}
    return Change(upserts=upserts, replace=tuple(sorted(groups | gone)), table=after, author=DIRECTORY)


def no_directory(table: GroupTable) -> Change:
    """Return the change by which what a directory kept is anybody's to change."""
    return Change(table=replace(table, kept=(), rules_kept=False), author=DIRECTORY, message="no directory is served")


def _has_rules(table: GroupTable) -> bool:
    return bool(table.rules or table.deny_unmatched or table.external)
