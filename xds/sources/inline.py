"""Read resources given in code: dicts, YAML text, protobuf messages."""

import dataclasses
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from xds.model.problem import ChangesetRejectedError, Problem
from xds.model.resource import Resource
from xds.schema.ingest import ingest
from xds.sources.yaml_reader import YamlDocument, YamlLimits, read_yaml

ResourceLike = Any
"""A dict in Envoy's JSON form with ``@type``; YAML text of one, of a list of them, or of a file with ``resources:``; an
``envoy-data-plane`` or google.protobuf message; a pair of type URL and bytes; or a ``Resource``.
"""


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


def read_text(text: bytes, *, file: str) -> tuple[Resource, ...]:
    """Read YAML or JSON text: a resource, a list of them, or a mapping with ``resources:``.

    ``file`` names the source in problems. Raises ChangesetRejectedError with all problems.
    """
    place = file
    document = read_yaml(text, file=file, limits=YamlLimits())
    value: Any = document.value
    prefix: tuple[str, ...] = ()
    if isinstance(value, dict) and "resources" in value and "@type" not in value:
        value, prefix = value["resources"], ("resources",)
    if isinstance(value, dict):
        return (ingest(value, source=place, line_of=document.line_of),)
    if not isinstance(value, list):
        raise ChangesetRejectedError(
            [
                Problem(
                    what="is not a resource",
                    hint="give a mapping with @type, a list of these, or `resources:` with such a list",
                    file=place,
                )
            ]
        )
    found: list[Resource] = []
    problems: list[Problem] = []
    for index, each in enumerate(value):
        try:
            found.append(ingest(each, source=place, line_of=partial(_line_within, document, (*prefix, index))))
        except ChangesetRejectedError as error:
            problems += error.problems
    if problems:
        raise ChangesetRejectedError(problems)
    return tuple(found)


def _line_within(document: YamlDocument, prefix: tuple[str | int, ...], path: tuple[str | int, ...]) -> int:
    return document.line_of((*prefix, *path))
