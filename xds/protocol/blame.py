"""Which resources of a rejected response are to blame, as far as the words of the NACK say so.

A NACK rejects a response as a whole. Its message names resources in a few fixed forms
(docs/envoy-behaviour.md#rejected-responses). Only these are read, since other text quotes names of anything: a route's
message may quote a cluster of the same name. The message is untrusted, so only names of the response are returned.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum
from itertools import islice

BLAMED_MAX = 20
"""Maximum names that are returned."""
ENTRIES_MAX = 256
"""Maximum entries of a list in a message that are read."""
_COLONS_MAX = 8
"""Maximum colons inside a name in Envoy's list of clusters or listeners."""

_ADDING = re.compile(r"Error adding/updating (?:cluster|listener)\(s\) ")
_SEPARATOR = re.compile(r", |\n")
_DUMP = re.compile(r"goo\.gle/debug\w*\s*\n")
_NAME_IN_DUMP = re.compile(r'^(?:cluster_)?name: "((?:[^"\\\n]|\\.)*)"$', re.MULTILINE)
_IN_ROUTE = re.compile(r" in route (.+)$", re.DOTALL)
_OF_GRPC = re.compile(r"resource index \d+: ")
_COLON = re.compile(": ")
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)")
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


class BlamedBy(Enum):
    """How it is known which resources are to blame."""

    CLIENT = "client"
    """The message of the NACK names them."""
    ONLY = "only"
    """The response had no other resource."""
    JUDGE = "judge"
    """An Envoy that was asked about each resource refuses them."""
    UNKNOWN = "unknown"
    """It is not known."""


Blame = tuple[tuple[str, ...], BlamedBy]
"""The names that are to blame, sorted, and how that is known."""
NOBODY: Blame = ((), BlamedBy.UNKNOWN)


def blame_in(message: str, versions: Mapping[str, str]) -> Blame:
    """Return which resources the message of a NACK blames.

    ``versions``: the names in the rejected response to their versions, "" for a removed one. O(message), whatever the
    number of names.
    """
    named = named_in(message, versions)
    if named:
        return named, BlamedBy.CLIENT
    if len(versions) == 1:
        return tuple(versions), BlamedBy.ONLY
    return NOBODY


def named_in(message: str, names: Collection[str]) -> tuple[str, ...]:
    """Return at most ``BLAMED_MAX`` of the names that a message names as those of resources at fault, sorted."""
    found: set[str] = set()
    for name in candidates_in(message):
        if name in names:
            found.add(name)
            if len(found) == BLAMED_MAX:
                break
    return tuple(sorted(found))


def candidates_in(message: str) -> Iterator[str]:
    """Yield what may be the names of resources at fault in a message. O(message)."""
    adding = _ADDING.match(message)
    if adding is not None:
        yield from _listed(message, adding.end())
        return
    dump = _DUMP.search(message)
    if dump is not None:  # the resource as text, whose own fields are not indented
        name = _NAME_IN_DUMP.search(message, dump.end())
        if name is not None:
            yield _unescaped(name[1])
        return
    colons = [each.start() for each in _COLON.finditer(message)]
    for each in islice(_OF_GRPC.finditer(message), ENTRIES_MAX):
        yield from _before_colons(message, each.end(), colons)
    route = _IN_ROUTE.search(message)
    if route is not None:
        yield route[1]


def _listed(message: str, start: int) -> Iterator[str]:
    """Yield what may be a name in a list of names with reasons: ``name: reason, other: reason``."""
    colons = [each.start() for each in _COLON.finditer(message, start)]
    yield from _before_colons(message, start, colons)
    for separator in islice(_SEPARATOR.finditer(message, start), ENTRIES_MAX):
        yield from _before_colons(message, separator.end(), colons)


def _before_colons(message: str, start: int, colons: list[int]) -> Iterator[str]:
    """Yield the texts from ``start`` to each of the next colons, the longest first: a name may have colons."""
    first = bisect_left(colons, start)
    for end in reversed(colons[first : first + _COLONS_MAX]):
        yield message[start:end]


def _unescaped(text: str) -> str:
    """Return a string of protobuf's text format, in which bytes beyond ASCII are octal escapes."""
    data = _ESCAPE.sub(lambda found: _character(found[1]), text.encode())
    return data.decode(errors="replace")


def _character(code: bytes) -> bytes:
    return bytes([int(code, 8) & 0xFF]) if len(code) == 3 else _ESCAPED.get(code, code)


NAMES_TOLD_MAX = 3


def rejected_text(nacked: Sequence[str], blamed: Sequence[str], blamed_by: BlamedBy) -> str:
    """Return the names that a NACK is about, and how that is known, for operators."""
    if blamed:
        return _names(blamed) + (" (an Envoy that was asked refuses it)" if blamed_by is BlamedBy.JUDGE else "")
    return _names(nacked) + (" (which of them is not known)" if len(nacked) > 1 else "")


def _names(names: Sequence[str]) -> str:
    more = len(names) - NAMES_TOLD_MAX
    return ", ".join(names[:NAMES_TOLD_MAX]) + (f" and {more} more" if more > 0 else "")
