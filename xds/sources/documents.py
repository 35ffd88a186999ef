"""Find the resources in the documents of a file.

A document is a file as Envoy reads it (a DiscoveryResponse, of which ``resources`` is used), or one resource with an
``@type``. Envoy itself reads only the first document of a file; here all count, as in ``kustomize build``'s output.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from xds.model.closest import closest
from xds.model.problem import Problem
from xds.sources.yaml_reader import FileDocument, PathKeys

_SNAKE_KEYS = ("version_info", "resources", "canary", "type_url", "nonce", "control_plane", "resource_errors")
_CAMEL_KEYS = ("versionInfo", "typeUrl", "controlPlane", "resourceErrors")
TOP_LEVEL_KEYS = frozenset((*_SNAKE_KEYS, *_CAMEL_KEYS))
"""The fields of ``envoy.service.discovery.v3.DiscoveryResponse``, in both of protobuf's JSON spellings."""
SNAPSHOT_KEYS = frozenset(("group", "revision", "changed_at"))
"""Beside ``resources`` in what ``xds get`` and the REST API print of a group, which can be applied as it is."""
ANCHOR_PREFIX = "x-"
"""Top-level keys that begin so are for the author: they hold anchors, and nothing is read from them."""


@dataclass(frozen=True, slots=True)
class Item:
    """One resource of a file, not read yet."""

    value: Any
    line: int
    line_of: Callable[[PathKeys], int]
    """Maps a path within the value to its line. May parse the file again."""
    place: str
    """Where it is in its document, such as ``resources[2]``; "" for the whole document."""

    def line_at(self, path: PathKeys) -> int:
        """Return the line of a path within the value; that of the value itself without parsing the file again."""
        return self.line_of(path) if path else self.line


def items_of(documents: Iterable[FileDocument], *, file: str, takes_lists: bool) -> tuple[list[Item], list[Problem]]:
    """Return the resources of all documents, and the problems of what is around them.

    With ``takes_lists`` a document may also be a list of resources, or a group's resources as ``xds get`` prints them.
    """
    items: list[Item] = []
    problems: list[Problem] = []
    for document in documents:
        found, wrong = _items(document, file, takes_lists)
        items += found
        problems += wrong
    return items, problems


def _items(document: FileDocument, file: str, takes_lists: bool) -> tuple[list[Item], list[Problem]]:
    top = document.value
    if top is None:
        return [], []
    if isinstance(top, list) and takes_lists:
        return [_item(document, (index,), value) for index, value in enumerate(top)], []
    if isinstance(top, dict) and "@type" in top and "resources" not in top:
        return [Item(top, document.line, document.line_of, "")], []
    if not isinstance(top, dict) or (takes_lists and "resources" not in top):
        hint = "begin with `resources:` and put the list below it, or with the @type of one resource"
        return [], [Problem(what="holds no resources", hint=hint, file=file, line=document.line)]
    known = TOP_LEVEL_KEYS | SNAPSHOT_KEYS if takes_lists else TOP_LEVEL_KEYS
    problems = [_unknown_key(document, key, file) for key in top if key not in known and not _is_anchor(document, key)]
    values = top.get("resources")
    if isinstance(values, dict) and "@type" in values:  # Envoy takes one item for a list of one
        line_of = partial(_line_within, document, ("resources",))
        return [Item(values, document.line_of(("resources",)), line_of, "resources")], problems
    if values is not None and not isinstance(values, list):
        line, hint = document.line_of(("resources",)), "begin each resource with '- '"
        problems.append(Problem(what="`resources` must be a list", hint=hint, file=file, line=line, field="resources"))
        return [], problems
    return [_item(document, ("resources", index), value) for index, value in enumerate(values or ())], problems


def _item(document: FileDocument, path: PathKeys, value: Any) -> Item:
    *keys, index = path
    line = document.item_line(str(keys[0]) if keys else "", int(index))
    return Item(value, line, partial(_line_within, document, path), f"{keys[0] if keys else ''}[{index}]")


def _line_within(document: FileDocument, path: PathKeys, keys: PathKeys) -> int:
    return document.line_of((*path, *keys))


def _is_anchor(document: FileDocument, key: str) -> bool:
    """Return whether a top-level key holds anchors: ``x-common``, ``common: &common {…}``."""
    if key.startswith(ANCHOR_PREFIX):
        return True
    return document.is_anchored(key) and not _key_hint(key)


def _unknown_key(document: FileDocument, key: str, file: str) -> Problem:
    hint = _key_hint(key) or f"a file holds `resources:`; a key that only holds anchors begins with {ANCHOR_PREFIX}"
    return Problem(what=f"unknown key {key!r}", hint=hint, file=file, line=document.line_of((key,)))


def _key_hint(key: str) -> str:
    if key in ("static_resources", "dynamic_resources", "node", "admin"):
        return "this is a bootstrap file; list its resources under `resources:`, each with its @type"
    if key in ("@type", "name", "cluster_name"):
        return "put the resource into a list under `resources:`"
    close = closest(key, _SNAKE_KEYS, count=2)
    return f"did you mean {' or '.join(close)}?" if close else ""
