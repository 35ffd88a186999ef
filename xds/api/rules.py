"""Groups and rules from a body in the form of ``groups.yaml``. It does not know who asks."""

from collections.abc import Collection
from dataclasses import replace

from xds.model.groups import GroupTable
from xds.model.problem import ChangesetRejectedError
from xds.sources.groups_file import parse_groups
from xds.sources.yaml_reader import Document


def rules_of(document: Document, known: Collection[str]) -> GroupTable:
    """Return the table that a body says, its new groups named in it. Raises ChangesetRejectedError."""
    read = parse_groups(document, file="", directories=known)
    if read.problems:
        raise ChangesetRejectedError(read.problems)
    return replace(read.table, names=read.declared)
