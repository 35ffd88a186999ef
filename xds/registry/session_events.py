"""What a process that serves streams reports of its sessions: begun, moved to another group, ended.

A session is one client: an aggregated stream, or all per-type streams of a node on one connection. ``session`` is its
number, unique among the open sessions of its process. Times are in milliseconds since 1970.
"""

from typing import NamedTuple

from xds.model.groups import Locality

WHY_CHARACTERS_MAX = 200
"""Characters of the reason why a session ended; the rest is cut off."""


class SessionBegan(NamedTuple):
    """A client connected; see ``KnownNode`` for the fields."""

    session: int
    at_ms: int
    id: str
    group: str
    cluster: str
    address: str
    identity: tuple[str, ...]
    user_agent: str
    locality: Locality


class SessionMoved(NamedTuple):
    """New rules moved a client to another group."""

    session: int
    at_ms: int
    group: str


class SessionEnded(NamedTuple):
    """The last stream of a client ended."""

    session: int
    at_ms: int
    accepted_revision: int
    """The newest revision that it had accepted, with all before it; 0 for none."""
    why: str


SessionEvent = SessionBegan | SessionMoved | SessionEnded
