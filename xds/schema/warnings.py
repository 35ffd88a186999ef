"""Warnings about resources that are valid, in the form in which problems are shown."""

from collections.abc import Iterable, Iterator, Mapping

from xds.model.problem import Problem, place_of
from xds.model.resource import Resource
from xds.model.types import short_name
from xds.schema.notices import Notices
from xds.schema.paths import dotted
from xds.schema.wire import any_value


def warnings_of(
    resources: Iterable[Resource], notices: Notices, *, group: str = "", nodes: Mapping[str, int] | None = None
) -> Iterator[Problem]:
    """Yield the warnings about resources, in their order; ``group`` is the group that has them.

    ``nodes``: the number of connected nodes that get the group's resources, by the version of their Envoy. Only
    fields that the Envoy of one of them lacks are then warned of, with that number.
    """
    for resource in resources:
        file, line = place_of(resource.source)
        value = any_value(resource.body, resource.type_url)
        for notice in notices.of(resource.type_url.rpartition("/")[2], value):
            hint = notice.hint
            if nodes is not None and notice.lacking:
                count = sum(number for version, number in nodes.items() if minor(version) == minor(notice.lacking))
                if not count:
                    continue
                hint = f"{count} connected {'node is' if count == 1 else 'nodes are'} of this version: {hint}"
            yield Problem(
                what=notice.what,
                hint=hint,
                file=file,
                line=line,
                group=group,
                resource=f"{short_name(resource.type_url)}/{resource.name}",
                field=dotted(notice.path),
            )


def minor(version: str) -> str:
    """Return the minor version of a version: ``1.38`` of ``1.38.2``. The API changes with minor versions only."""
    return ".".join(version.split(".")[:2])
