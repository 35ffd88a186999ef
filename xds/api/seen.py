"""The resources that a group's nodes saw at a former revision: its own and those of the groups it extends."""

from collections.abc import Iterable, Mapping, Sequence

from xds.model.resource import Resource
from xds.publishing.codec import restored
from xds.routing.resources import Resources
from xds.schema.pool import load_schema
from xds.store.entries import Key


def seen_then(resources: Mapping[Key, bytes], lineage: Sequence[str], place: str) -> Resources:
    """Return the resources of a former state; ``lineage``: the group, and what it extends, nearest first."""
    keys: dict[str, dict[str, Key]] = {}
    for group in reversed(lineage):
        for key in resources:
            if key.group == group:
                keys.setdefault(key.type_url, {})[key.name] = key

    def find(type_url: str, name: str) -> Resource | None:
        key = keys.get(type_url, {}).get(name)
        return None if key is None else restored(key, resources[key], place)

    def of_type(type_url: str) -> Iterable[Resource]:
        return (restored(key, resources[key], place) for key in keys.get(type_url, {}).values())

    return Resources(load_schema(), find=find, of_type=of_type)
