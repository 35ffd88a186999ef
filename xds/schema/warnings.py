"""Warnings about resources that are valid, in the form in which problems are shown."""

from collections.abc import Iterable, Iterator
from typing import Any

from xds.model.problem import Problem, place_of
from xds.model.resource import Resource
from xds.model.types import short_name
from xds.schema import pool
from xds.schema.notices import Notices
from xds.schema.paths import dotted
from xds.schema.pool import load_schema


def warnings_of(resources: Iterable[Resource], notices: Notices, *, group: str = "") -> Iterator[Problem]:
    """Yield the warnings about resources, in their order; ``group`` is the group that has them."""
    any_class: Any = load_schema().message_class(pool.ANY)
    for resource in resources:
        body = any_class.FromString(resource.body)
        file, line = place_of(resource.source)
        for notice in notices.of(body.type_url.rpartition("/")[2], body.value):
            yield Problem(
                what=notice.what,
                hint=notice.hint,
                file=file,
                line=line,
                group=group,
                resource=f"{short_name(resource.type_url)}/{resource.name}",
                field=dotted(notice.path),
            )
