"""Extraction of the references of a message, as ``xds.schema.reference_table`` classifies its fields.

Only resources that Envoy fetches from a management server count: those whose config source is ``ads``, ``self`` or
``api_config_source``, not a file. An ``xdstp://`` name needs no config source, as its authority is the source.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from xds.model.xdstp import canonical
from xds.schema.paths import MapKey, Path
from xds.schema.reference_table import TABLE, Refers


class Named(NamedTuple):
    """A reference in a message: the type and name of the resource, and the path in the message."""

    type_url: str
    name: str
    path: Path


Extractor = Callable[[Any, bool], list[Named]]
"""Returns the references of a message, given whether it is the root of its resource. A name may be empty."""


def has_references(full_name: str) -> bool:
    """Return whether any field of the message refers to a resource."""
    return any(isinstance(entry, Refers) for entry in TABLE.get(full_name, {}).values())


def extractor_of(full_name: str) -> Extractor | None:
    """Return the extractor of a message type, None if none of its fields refers to a resource."""
    entries = [(name, entry) for name, entry in TABLE.get(full_name, {}).items() if isinstance(entry, Refers)]
    fields = [*entries, *((name, entry.otherwise) for name, entry in entries if entry.otherwise is not None)]

    def extract(message: Any, at_root: bool) -> list[Named]:
        return [
            Named(refers.type_url, name, path)
            for field, refers in fields
            if at_root or not refers.at_root_only
            for name, path in refers.names(message, field)
        ]

    return extract if fields else None


def write_canonical(message: Any, named: Named) -> str:
    """Write a name of a message in its canonical form, and return that.

    Envoy compares the names of clusters as text, so a resource and all references to it must have one form.
    """
    name = canonical(named.name)
    *parents, last = named.path
    if name != named.name:
        holder = message
        for step in parents:
            holder = holder[step] if isinstance(step, int) else getattr(holder, step)
        if isinstance(last, int):
            holder[last] = name
        elif isinstance(last, MapKey):
            holder[name].CopyFrom(holder.pop(named.name))
        else:
            setattr(holder, last, name)
    return name
