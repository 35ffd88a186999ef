"""The revision at which each group last changed. Pure."""

from collections.abc import Iterable

from xds.model.groups import GroupTable
from xds.publishing.edits import RULES
from xds.store.entries import EntrySummary

NAMES_MAX = 100_000
"""Maximum names remembered; beyond it, all count as changed at the newest revision."""


class GroupRevisions:
    """When each group, and ``RULES``, last changed: its own resources, what it extends, its creation and deletion.

    Revisions after ``known_from`` are known. A name that did not change since may have changed at ``known_from`` or
    earlier.
    """

    def __init__(self) -> None:
        self.known_from = 0
        self._at: dict[str, int] = {}

    def begin(self, revision: int) -> None:
        """Forget everything: only changes after this revision will be known."""
        self._at.clear()
        self.known_from = revision

    def note(self, revision: int, names: Iterable[str]) -> None:
        """Record the names that changed at a revision, which is greater than all before."""
        self._at.update(dict.fromkeys(names, revision))
        if len(self._at) > NAMES_MAX:
            self.begin(revision)

    def of(self, name: str) -> int:
        """Return the revision at which the name last changed, or else ``known_from``, which is no earlier."""
        return self._at.get(name, self.known_from)

    def is_known(self, name: str) -> bool:
        """Return whether ``of`` is exact."""
        return name in self._at or self.known_from == 0

    def learn(self, summaries: Iterable[EntrySummary], since: int) -> None:
        """Record the changes after ``since`` up to ``known_from``, from the history, in order of revision.

        The history does not say which groups a change of the table concerned, so all names count as changed there.
        """
        learnt: dict[str, int] = {}
        for summary in summaries:
            if summary.rules_changed:
                learnt.clear()
                learnt[RULES] = since = summary.revision
            learnt.update((each.group, summary.revision) for each in summary.groups)
        self._at = learnt | self._at
        self.known_from = since


def names_changed(before: GroupTable, after: GroupTable | None) -> frozenset[str]:
    """Return the groups that are created, deleted or extend another one in ``after``, and ``RULES`` if it differs.

    None is a table that does not change.
    """
    if after is None or after == before:
        return frozenset()
    names = {*before.names}.symmetric_difference(after.names)
    names |= {
        group
        for group in before.extends.keys() | after.extends.keys()
        if before.extends.get(group) != after.extends.get(group)
    }
    return frozenset((*names, RULES))
