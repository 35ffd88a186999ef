"""Read resources given in code: dicts, YAML text, protobuf messages."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from xds.model.given import ResourceLike
from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.schema.ingest import ingest
from xds.sources.documents import items_of
from xds.sources.json_reader import read_json
from xds.sources.yaml_reader import FileDocument, YamlLimits, read_yaml_documents


def read_resources(items: Iterable[ResourceLike], *, group: str) -> tuple[Resource, ...]:
    """Check and encode all items. Raises ChangesetRejectedError with all problems of all items."""
    if isinstance(items, str | bytes | Mapping):
        items = (items,)
    resources: list[Resource] = []
    problems: list[Problem] = []
    for number, item in enumerate(items):
        try:
            resources += _read(item, f"item {number}")
        except ChangesetRejectedError as error:
            problems += (dataclasses.replace(problem, group=group) for problem in error.problems)
    if problems:
        raise ChangesetRejectedError(problems)
    return tuple(resources)


def _read(item: ResourceLike, place: str) -> list[Resource]:
    if isinstance(item, Resource):
        return [item]
    if not isinstance(item, str):
        return [ingest(item)]
    return list(read_text(item.encode(), file=place))


def _documents(text: bytes, file: str, limits: YamlLimits) -> Sequence[FileDocument]:
    """Read a text as JSON, in which numbers stay numbers, if it is JSON or its file is named so; else as YAML."""
    if file.lower().endswith(".json"):
        return (read_json(text, file=file, limits=limits),)
    if not file.lower().endswith((".yaml", ".yml")) and text.lstrip()[:1] in (b"{", b"["):
        try:
            return (read_json(text, file=file, limits=limits),)
        except ChangesetRejectedError:
            pass  # perhaps YAML, whose reader says what is wrong if it isn't
    return read_yaml_documents(text, file=file, limits=limits)


def read_text(text: bytes, *, file: str, strict: bool = True) -> tuple[Resource, ...]:
    """Read YAML or JSON text; each document is a resource, a list of them, or a mapping with ``resources:``.

    ``file`` names the source in problems, ``strict`` is that of ``YamlLimits``. Raises ChangesetRejectedError with all
    problems.
    """
    documents = _documents(text, file, YamlLimits(strict=strict))
    items, problems = items_of(documents, file=file, takes_lists=True)
    if not items and not problems:
        hint = "give a mapping with @type, a list of these, or `resources:` with such a list"
        problems = [Problem(what="is not a resource", hint=hint, file=file)]
    found: list[Resource] = []
    for item in items:
        try:
            found.append(ingest(item.value, source=file, line_of=item.line_at))
        except ChangesetRejectedError as error:
            problems += error.problems
    if problems:
        raise ChangesetRejectedError(problems)
    return tuple(found)
