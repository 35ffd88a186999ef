"""Compares two JSON values field by field. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Field:
    """A field that differs: its path (``load_assignment.endpoints[0]``) and its values, None where it is not set."""

    path: str
    before: Any
    after: Any

    def as_json(self) -> dict[str, Any]:
        """Return the form that the commands print; a value that is not set is left out."""
        values = {"before": self.before, "after": self.after}
        return {"path": self.path, **{key: value for key, value in values.items() if value is not None}}


def field_changes(before: Any, after: Any) -> list[Field]:
    """Return the fields that differ, in the order of ``after``; a missing value differs as a whole."""
    return list(_changes("", before, after))


def _changes(path: str, before: Any, after: Any) -> Iterator[Field]:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*after, *before]):
            yield from _changes(f"{path}.{key}" if path else key, before.get(key), after.get(key))
    elif isinstance(before, list) and isinstance(after, list):
        for at in range(max(len(before), len(after))):
            old = before[at] if at < len(before) else None
            new = after[at] if at < len(after) else None
            yield from _changes(f"{path}[{at}]", old, new)
    else:
        yield Field(path, before, after)
