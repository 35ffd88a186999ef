"""Places inside a resource: trails, which are cheap to extend during a walk, and paths, which messages show."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

Step: TypeAlias = str | int
Path: TypeAlias = tuple[Step, ...]
"""Keys and list indexes from the root of a resource's JSON form."""

Trail: TypeAlias = tuple[Any, Step] | None
"""A path during a walk: the parent trail and the last step, or None at the root."""


class MapKey(str):
    """A step that is a key of a map field, not a field name: written ``["key"]``."""

    __slots__ = ()


class Finding(NamedTuple):
    """One problem inside a resource, without the resource's name."""

    path: Path
    what: str
    hint: str = ""


def path_of(trail: Trail) -> Path:
    """Return the steps of a trail, root first."""
    steps: list[Step] = []
    while trail is not None:
        trail, step = trail
        steps.append(step)
    return tuple(reversed(steps))


def dotted(path: Path) -> str:
    """Return a path as text: ``endpoints[0].metadata.filter_metadata["envoy.lb"]``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif isinstance(step, MapKey):
            text += f'["{step}"]'
        else:
            text += f".{step}" if text else step
    return text


def locate(document: Any, path: Path) -> Path:
    """Return the part of ``path`` that exists in a document, with the keys as the document writes them.

    A missing field has no line, so its problem is shown at its message.
    """
    found: list[Step] = []
    for step in path:
        if isinstance(step, str) and isinstance(document, Mapping):
            key = next((key for key in (str(step), camel_case(step)) if key in document), None)
            if key is None:
                break
            document, step = document[key], key
        elif isinstance(step, int) and isinstance(document, list | tuple) and step < len(document):
            document = document[step]
        else:
            break
        found.append(step)
    return tuple(found)


def value_at(document: Any, path: Path) -> Any:
    """Return the value at a path that :func:`locate` returned."""
    for step in path:
        document = document[step]
    return document


def camel_case(name: str) -> str:
    """Return a field's JSON name (``loadAssignment``) for its proto name (``load_assignment``)."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)
