"""Pages of nodes, sorted by any of several keys. The position of a node is a value: nodes may come and go meanwhile.

A page begins after the position of the last node of the page before, so a node that is there all the time is in exactly
one page, unless its own key changes.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as BinasciiError
from collections.abc import Callable, Iterable
from enum import Enum
from heapq import nsmallest
from operator import itemgetter
from typing import NamedTuple, TypeVar

T = TypeVar("T")
CURSOR_CHARACTERS_MAX = 8_192
KEY_CHARACTERS_MAX = 1_024
"""Characters of a key and of an id that are compared: nodes choose both, up to 64 KB."""


class Sort(Enum):
    """What nodes are sorted by; those with equal keys by their ids."""

    ID = "id"
    GROUP = "group"
    STATE = "state"
    """Rejected, pending, gone, accepted."""
    SINCE = "since"
    """Since when they are connected, or gone; oldest first."""
    VERSION = "version"
    """The version of Envoy, oldest first; before it, nodes that are no Envoys."""


class NodeState(Enum):
    """How far a node is: the worst of its streams."""

    ACCEPTED = "accepted"
    PENDING = "pending"
    REJECTED = "rejected"
    GONE = "gone"
    """It was seen and is not connected."""


_RANKS = {NodeState.REJECTED: "0", NodeState.PENDING: "1", NodeState.GONE: "2", NodeState.ACCEPTED: "3"}


class Position(NamedTuple):
    """The place of one entry in a list of nodes. ``tie`` tells entries of one id apart."""

    key: str
    id: str
    tie: str


NOWHERE = Position("", "", "")


class WrongCursorError(ValueError):
    """A cursor that no answer contained, or one of a list that is sorted by something else."""


def text_key(text: str) -> str:
    """Return the key of a group, or an id, as it is compared."""
    return text[:KEY_CHARACTERS_MAX]


def state_key(state: NodeState) -> str:
    """Return a text that sorts as the state does."""
    return _RANKS[state]


def since_key(since_ms: int) -> str:
    """Return a text that sorts as the time does."""
    return f"{since_ms:015}"


def position(
    sort: Sort,
    *,
    id: str,  # noqa: A002
    group: str,
    state: NodeState,
    since_ms: int,
    version: str,
    tie: str,
) -> Position:
    """Return the place of a node's entry in a list that is sorted by ``sort``."""
    match sort:
        case Sort.ID:
            key = ""
        case Sort.GROUP:
            key = text_key(group)
        case Sort.STATE:
            key = state_key(state)
        case Sort.SINCE:
            key = since_key(since_ms)
        case _:
            key = version_key(version)
    return Position(key, text_key(id), tie)


def version_key(version: str) -> str:
    """Return a text that sorts as the version does: 1.9.0 before 1.40.0."""
    if not version:
        return ""
    return ".".join(part.zfill(6) if part.isdigit() else part for part in version.split("."))[:KEY_CHARACTERS_MAX]


def cursor_of(sort: Sort, last: Position) -> str:
    """Return an opaque text from which the next page begins after ``last``."""
    return urlsafe_b64encode(json.dumps([sort.value, *last]).encode()).decode().rstrip("=")


def position_of(sort: Sort, cursor: str) -> Position | None:
    """Return the position of a cursor, None for "". Raises WrongCursorError."""
    if not cursor:
        return None
    if len(cursor) > CURSOR_CHARACTERS_MAX:
        raise WrongCursorError(f"the cursor has {len(cursor):,} characters: give `next` of an answer as it is")
    try:
        told = json.loads(urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except (ValueError, BinasciiError, RecursionError):
        told = None
    if not isinstance(told, list) or len(told) != 4 or not all(isinstance(each, str) for each in told):
        raise WrongCursorError("this is no cursor: give `next` of an answer as it is")
    if told[0] != sort.value:
        raise WrongCursorError(f"the cursor is of a list sorted by {told[0]!r}, and this one is by {sort.value!r}")
    return Position(*told[1:])


def page_of(
    keyed: list[tuple[str, str, T]], tie_of: Callable[[T], str], after: Position | None, limit: int
) -> list[tuple[Position, T]]:
    """Return the first ``limit`` of keyed items (key, id, item) after a position, in order. O(items).

    Ties are worked out only for items that may be in the page.
    """
    if after is not None:
        begin = after[:2]
        keyed = [each for each in keyed if each[:2] >= begin]
        # Those at the position itself are told apart by their ties, so some may be before it.
    equal = 0 if after is None else sum(each[:2] == after[:2] for each in keyed)
    first = nsmallest(limit + equal, keyed, key=itemgetter(0, 1))
    if first and len(first) < len(keyed):
        last = first[-1][:2]
        first = [each for each in keyed if each[:2] <= last]
    return first_after(((Position(key, id_, tie_of(item)), item) for key, id_, item in first), after, limit)


def first_after(items: Iterable[tuple[Position, T]], after: Position | None, limit: int) -> list[tuple[Position, T]]:
    """Return the first ``limit`` items after a position, in order. O(items)."""
    left = items if after is None else (item for item in items if item[0] > after)
    return nsmallest(limit, left, key=itemgetter(0))
