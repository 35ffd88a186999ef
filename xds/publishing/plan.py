"""Plan a change against the state that results once all earlier changes are committed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from xds.model.catalog import Catalog
from xds.model.changeset import Changeset
from xds.model.groups import DEFAULT_GROUP, GroupTable
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.model.snapshot import Snapshot
from xds.model.types import short_name
from xds.publishing.changes import Change, KeptElsewhereError, Published
from xds.publishing.codec import Operations, changeset_of, encode_table
from xds.publishing.edits import RULES, Edited, UnknownGroupError
from xds.publishing.group_revisions import names_changed
from xds.store.entries import Entry, Key
from xds.store.errors import ConflictError


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePlan:
    """The entry to commit and the changeset to serve for a change."""

    published: Published
    changeset: Changeset
    undo: Changeset
    """Reverts ``changeset`` on the head."""
    entry: Entry | None
    """None if there is nothing to commit."""
    names: frozenset[str] = frozenset()
    """The groups that change, and ``RULES``."""
    groups: Mapping[str, Snapshot] = field(default_factory=dict)
    """The groups whose nodes get other resources, as they are after the change; empty unless asked for."""


ChangedAt = Callable[[str], tuple[int, bool]]
"""Returns the revision at which a group, or ``RULES``, last changed, or a later one; and whether it is exact."""


def plan(
    change: Change, head: Catalog, changed_at: ChangedAt, *, entry_id: str, at_ms: int, with_groups: bool = False
) -> ChangePlan:
    """Apply a change to ``head``, and return the plan; ``with_groups`` asks for its ``groups``.

    Raises ChangesetRejectedError, ConflictError, KeptElsewhereError and UnknownGroupError. Errors and dry runs leave
    ``head`` unchanged.
    """
    if change.expected_revision is not None:
        _check_revision(change, change.expected_revision, head.revision, changed_at)
    edited = None if change.edit is None else change.edit.on(head)
    whole = change if edited is None else replace(change, replace=(*change.replace, *edited.emptied))
    _check_kept(whole, edited, head.table)
    table = _table_after(whole, edited, head)
    asked = operations_of(whole, head)
    operations = {key: new for key, new in asked.items() if _version(new) != _version(_present(head, key))}
    unchanged = tuple(key for key in asked if key not in operations)
    _check_labels(asked, head)
    before = head.revision
    added = frozenset(key for key, new in operations.items() if new is not None and _present(head, key) is None)
    removed = frozenset(key for key, new in operations.items() if new is None)
    if not operations and table is None:
        published = Published(revision=before, unchanged=unchanged)
        return ChangePlan(published=published, changeset=Changeset(), undo=Changeset(), entry=None)
    changeset = changeset_of(operations, table, head)
    names = names_changed(head.table, table) | {key.group for key in operations}
    undo = head.inverse(changeset)
    was = dict(head.snapshots) if with_groups else {}
    head.apply(changeset, revision=before + 1)
    groups = {name: each for name, each in head.snapshots.items() if was.get(name) is not each} if with_groups else {}
    published = Published(
        revision=before if change.dry_run else before + 1,
        changed=tuple(operations),
        unchanged=unchanged,
        added=added,
        removed=removed,
        rules_changed=table is not None,
    )
    if change.dry_run:
        head.apply(undo, revision=before)
        return ChangePlan(published=published, changeset=changeset, undo=undo, entry=None, groups=groups)
    entry = Entry(
        id=entry_id,
        operations={key: None if new is None else new.encoded for key, new in operations.items()},
        groups=None if table is None else encode_table(table),
        author=change.author,
        message=change.message,
        at_ms=at_ms,
        request=digest_of(change),
        added=added,
    )
    return ChangePlan(published=published, changeset=changeset, undo=undo, entry=entry, names=names, groups=groups)


def concerned(change: Change) -> frozenset[str]:
    """Return the groups, and ``RULES``, whose revision an expected revision of the change is compared with."""
    return change.groups | (frozenset() if change.edit is None else frozenset(change.edit.concerns))


def _check_revision(change: Change, expected: int, revision: int, changed_at: ChangedAt) -> None:
    """Raise ConflictError if what the change concerns changed after the expected revision, or that does not exist."""
    if expected > revision:
        raise ConflictError(expected, revision)
    for name in sorted(concerned(change)):
        at, is_exact = changed_at(name)
        if at > expected:
            what = "the groups and rules" if name == RULES else f"the group {name!r}"
            raise ConflictError(expected, revision, what=what, changed_at=at if is_exact else None)


def merged(changes: Iterable[Change]) -> Change:
    """Return one change with the same effect as several mergeable changes of one author in sequence."""
    upserts: dict[Key, Resource | None] = {}
    author = ""
    for change in changes:
        upserts.update(_asked(change))
        author = change.author
    by_group = changeset_of(upserts, None, _EMPTY)
    return Change(upserts=by_group.upserts, removals=by_group.removals, author=author, mergeable=True)


_EMPTY = Catalog()
"""For ``changeset_of`` without a table, which does not read the catalog."""


def digest_of(change: Change) -> bytes:
    """Return a digest of the request, equal for equal requests by any author at any time."""
    digest = blake2b(digest_size=16)
    for key, resource in sorted(_asked(change).items()):
        for part in (*key, "" if resource is None else resource.version):
            digest.update(b"%d:" % len(part) + part.encode())
        if resource is not None and resource.labelled:  # its version says nothing of its content
            digest.update(b"%d:" % len(resource.encoded) + resource.encoded)
    digest.update("\0".join(sorted(change.replace)).encode())
    digest.update(b"-" if change.edit is None else change.edit.content)
    if change.expected_revision is not None:  # an unconditional change does not keep what a conditional one promises
        digest.update(b"=%d" % change.expected_revision)
    return digest.digest()


def _asked(change: Change) -> Operations:
    asked: Operations = {
        Key(group, type_url, name): None for group, places in change.removals.items() for type_url, name in places
    }
    for group, resources in change.upserts.items():
        asked.update((Key(group, each.type_url, each.name), each) for each in resources)
    return asked


def operations_of(change: Change, head: Catalog) -> Operations:
    """Return what a change sets and, as None, what it removes. O(change), and O(group) for a group that it replaces."""
    asked: Operations = {
        Key(group, each.type_url, each.name): None for group in change.replace for each in head.own(group)
    }
    asked.update(_asked(change))
    return asked


def _present(head: Catalog, key: Key) -> Resource | None:
    return head.own_resource(key.group, key.type_url, key.name)


def _check_labels(asked: Operations, head: Catalog) -> None:
    """Reject a label that the present resource has with other content: clients would not be sent the new content."""
    problems = [
        Problem(
            what=f"has the version {new.version!r} already, with other content",
            hint="use a new version for new content",
            group=key.group,
            resource=f"{short_name(key.type_url)}/{key.name}",
        )
        for key, new in asked.items()
        if new is not None
        and new.labelled
        and (old := _present(head, key)) is not None
        and old.version == new.version
        and old.encoded != new.encoded
    ]
    if problems:
        raise ChangesetRejectedError(problems)


def _version(resource: Resource | None) -> str | None:
    return None if resource is None else resource.version


def _table_after(change: Change, edited: Edited | None, head: Catalog) -> GroupTable | None:
    """Return the table after a change, None if unchanged. It names every group that has resources."""
    table = head.table if edited is None else edited.table
    known: Mapping[str, object] = head.snapshots if edited is None else dict.fromkeys(table.names)
    missing = sorted(group for group in change.groups if group not in known and group != DEFAULT_GROUP)
    if edited is not None:
        missing = [group for group in missing if change.upserts.get(group)]
    for group in missing:
        if not change.creates_groups and group not in head.snapshots:
            raise UnknownGroupError(group, head.snapshots, _CREATE)
        if not change.upserts.get(group) and group not in change.replace:
            raise UnknownGroupError(group, head.snapshots)
    if missing:
        table = replace(table, names=tuple(sorted({*table.names, *missing})))
    return None if table == head.table else table


_CREATE = "this change creates no groups: create it first, or name it in the rules"


def _check_kept(change: Change, edited: Edited | None, table: GroupTable) -> None:
    if change.edit is not None and change.edit.by_directory:
        return
    touched = sorted(change.groups.intersection(table.kept))
    if edited is not None:
        touched += [name for name in table.kept if edited.table.extends.get(name) != table.extends.get(name)]
    if touched:
        raise KeptElsewhereError(f"the group {touched[0]} is")
    if edited is not None and table.rules_kept and _rules_differ(edited.table, table):
        raise KeptElsewhereError("the rules of the groups are")


def _rules_differ(one: GroupTable, other: GroupTable) -> bool:
    def rules(table: GroupTable) -> tuple[object, ...]:
        return table.rules, table.deny_unmatched, table.external

    return rules(one) != rules(other)
