"""Who wants to know of sessions as they begin, move to another group, and end."""

from typing import Protocol

from xds.protocol.sessions import Session


class SessionWatch(Protocol):
    """Called by the hub once per session and event, never for a request or a response."""

    def began(self, session: Session) -> None:
        """Note a new session, whose first stream it has."""

    def moved(self, session: Session) -> None:
        """Note that a session belongs to another group now."""

    def shrank(self, session: Session, accepted_revision: int) -> None:
        """Note that one of several streams of a session has ended; see ``ended``."""

    def ended(self, session: Session, accepted_revision: int, why: str) -> None:
        """Note that the last stream of a session has ended.

        ``accepted_revision``: the newest revision that the client had accepted, with all before it; 0 for none.
        """


class Unwatched:
    """Notes nothing."""

    def began(self, session: Session) -> None:
        """Note nothing."""

    def moved(self, session: Session) -> None:
        """Note nothing."""

    def shrank(self, session: Session, accepted_revision: int) -> None:
        """Note nothing."""

    def ended(self, session: Session, accepted_revision: int, why: str) -> None:
        """Note nothing."""
