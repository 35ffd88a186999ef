"""Collects what the hub of a process says of its sessions, and passes it on in batches."""

import asyncio
import time
from collections.abc import Callable

from xds.protocol.sessions import Session
from xds.registry.session_events import (
    WHY_CHARACTERS_MAX,
    SessionBegan,
    SessionEnded,
    SessionEvent,
    SessionMoved,
)

BATCH_S = 0.2
"""How long an event waits for others."""
BATCH_MAX = 1_000
BATCH_CHARACTERS_MAX = 256 * 1024
"""Events, and characters of node ids, that are passed on at once."""


class SessionFeed:
    """A ``SessionWatch``. Calls ``pass_on`` with the events, in order, at most ``BATCH_S`` after the first of them.

    The sessions are numbered by the addresses of their objects: the number of an open session is its own.
    """

    def __init__(self, pass_on: Callable[[list[SessionEvent]], None]) -> None:
        self._pass_on = pass_on
        self._events: list[SessionEvent] = []
        self._characters = 0
        self._timer: asyncio.TimerHandle | None = None
        self._shrunk: dict[int, int] = {}
        """What sessions had accepted before some of their streams ended, since the last batch: they end one by one."""
        self.count = 0
        """The number of events so far."""
        self.begun = 0
        """The number of sessions so far."""

    def began(self, session: Session) -> None:
        """Note a new session."""
        node = session.node
        self.begun += 1
        self._characters += len(node.id) + len(node.cluster)
        self._add(
            SessionBegan(
                id(session),
                time.time_ns() // 1_000_000,
                node.id,
                session.group,
                node.cluster,
                session.streams[0].address,
                node.identity,
                node.user_agent,
                node.locality,
            )
        )

    def moved(self, session: Session) -> None:
        """Note that a session belongs to another group now."""
        self._add(SessionMoved(id(session), time.time_ns() // 1_000_000, session.group))

    def shrank(self, session: Session, accepted_revision: int) -> None:
        """Note that one of several streams of a session has ended."""
        self._shrunk.setdefault(id(session), accepted_revision)
        self._flush_soon()

    def ended(self, session: Session, accepted_revision: int, why: str) -> None:
        """Note that a session has ended."""
        number = id(session)
        accepted = min(accepted_revision, self._shrunk.pop(number, accepted_revision))
        self._add(SessionEnded(number, time.time_ns() // 1_000_000, accepted, why[:WHY_CHARACTERS_MAX]))

    def _add(self, event: SessionEvent) -> None:
        self._events.append(event)
        self.count += 1
        if len(self._events) >= BATCH_MAX or self._characters > BATCH_CHARACTERS_MAX:
            self.flush()
        else:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_S, self.flush)

    def flush(self) -> None:
        """Pass on what there is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._characters = 0
        self._shrunk.clear()
        events, self._events = self._events, []
        if events:
            self._pass_on(events)
