"""Parses groups and rules, in the form of ``groups.yaml``, into edits."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.work import sharing_work
from xds.publishing.edits import PutRules, UpdateRules
from xds.sources.groups_file import parse_groups
from xds.sources.yaml_reader import Document, PathKeys

ADD_EXTERNAL = "add_external"


@sharing_work()
def rules_of(document: Document, known: Collection[str]) -> PutRules:
    """Return the edit of a body. Raises ChangesetRejectedError.

    Whether the groups it names exist is decided when the edit is made; ``known`` only serves to report all problems of
    a body at once.
    """
    read = parse_groups(document, file="", directories=None)
    if read.problems:
        raise ChangesetRejectedError(_problems(document, known))
    return PutRules(replace(read.table, names=read.declared), lambda groups: _problems(document, groups))


@sharing_work()
def rules_update_of(document: Document, known: Collection[str]) -> UpdateRules:
    """Return the edit of the parts that a body has; see ``rules_of``. ``add_external`` adds to ``external``."""
    given: Mapping[str, Any] = document.value if isinstance(document.value, dict) else {}
    parts = {key: value for key, value in given.items() if key != ADD_EXTERNAL}
    plain = _Part(document, parts if isinstance(document.value, dict) else document.value)
    added = _Part(document, {"external": given.get(ADD_EXTERNAL)}, {"external": ADD_EXTERNAL})
    read, read_added = (parse_groups(each, file="", directories=None) for each in (plain, added))
    if read.problems or read_added.problems:
        misnamed = [replace(each, field=f"add_{each.field}") for each in read_added.problems]
        raise ChangesetRejectedError([*_problems(plain, known), *misnamed])
    table = read.table
    return UpdateRules(
        explain=lambda groups: _problems(plain, groups),
        names=read.declared,
        extends=table.extends,
        rules=table.rules if "rules" in given else None,
        deny_unmatched=table.deny_unmatched if "unmatched" in given else None,
        external=table.external if "external" in given else None,
        add_external=read_added.table.external,
    )


def part_of(document: Document, key: str) -> Document:
    """Return the part of a document under a top-level key, with the line numbers of the whole."""
    return _Part(document, document.value[key], above=(key,))


@dataclass(slots=True)
class _Part:
    """Part of a document, with the line numbers of the whole; ``renamed`` maps keys to their names in the document.

    ``above`` are the keys that lead to the part.
    """

    document: Document
    value: Any
    renamed: Mapping[str, str] | None = None
    above: tuple[str, ...] = ()

    def item_line(self, key: str, index: int) -> int:
        return self.line_of((key, index))

    def line_of(self, path: PathKeys) -> int:
        return self.document.line_of((*self.above, *((self.renamed or {}).get(str(key), key) for key in path)))


@sharing_work()
def _problems(document: Document, known: Collection[str]) -> tuple[Problem, ...]:
    return parse_groups(document, file="", directories=known).problems
