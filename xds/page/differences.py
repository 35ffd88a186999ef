"""Differences between resources, field by field, as the page shows them: redacted, and bounded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xds.api.operations import ResourceDifference
from xds.api.run_in_thread import run_in_thread
from xds.api.shown import resource_json
from xds.model.types import WRAPPER_URL, short_name
from xds.schema.fields import Field, field_changes

RESOURCES_MAX = 100
"""Resources whose fields are shown on one page; of others only the names."""
FIELDS_MAX = 200
"""Fields of one resource that are shown."""
NAMES_MAX = 1_000
"""Resources that are named on one page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDifference:
    """A resource that differs. ``more`` is the number of fields that are not shown; fields may be left out wholly."""

    group: str
    type: str
    name: str
    change: str
    fields: tuple[Field, ...] = ()
    more: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDifferences:
    """The resources that differ, and their numbers. ``total`` counts those that are not named too."""

    resources: tuple[ShownDifference, ...]
    total: int
    added: int
    changed: int
    removed: int

    @property
    def unnamed(self) -> int:
        """How many are not named."""
        return self.total - len(self.resources)


async def shown(found: Sequence[ResourceDifference]) -> ShownDifferences:
    """Return differences without the content of secrets."""
    size_bytes = sum(each.size_bytes for each in found[:RESOURCES_MAX])
    changes = [each.change for each in found]
    with_fields = await run_in_thread(size_bytes, lambda: [_shown(each) for each in found[:RESOURCES_MAX]])
    named = [
        ShownDifference(
            group=each.key.group, type=short_name(each.key.type_url), name=each.key.name, change=each.change
        )
        for each in found[RESOURCES_MAX:NAMES_MAX]
    ]
    return ShownDifferences(
        resources=(*with_fields, *named),
        total=len(found),
        added=changes.count("added"),
        changed=changes.count("changed"),
        removed=changes.count("removed"),
    )


def _shown(each: ResourceDifference) -> ShownDifference:
    before, after = (
        None if resource is None else resource_json(resource, secrets=False) for resource in (each.before, each.after)
    )
    fields = fields_of(before, after)
    return ShownDifference(
        group=each.key.group,
        type=short_name(each.key.type_url),
        name=each.key.name,
        change=each.change,
        fields=tuple(fields[:FIELDS_MAX]),
        more=max(0, len(fields) - FIELDS_MAX),
    )


def fields_of(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[Field]:
    """Return the fields in which two forms of a resource differ: those of its wrapper under ``(wrapper)``.

    Where only a redacted part differs, no field does.
    """
    if before is None or after is None:
        return field_changes(before, after)
    (old, around_old), (new, around_new) = _unwrapped(before), _unwrapped(after)
    return [*field_changes({"(wrapper)": around_old}, {"(wrapper)": around_new}), *field_changes(old, new)]


def _unwrapped(resource: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    if resource.get("@type") != WRAPPER_URL:
        return resource, {}
    return resource["resource"], {key: value for key, value in resource.items() if key not in ("@type", "resource")}
