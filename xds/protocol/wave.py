"""The short way of a delivery: a change of a type that nothing waits for, to one stream of a cohort after the other.

A change of endpoints takes every stream of a cohort from the same view to the same view, by the same response. The
first stream finds that response the long way; for the others only the sameness is checked. It does not know order:
where anything is held back or asked for, the long way is taken.
"""

from xds.model.snapshot import Snapshot
from xds.model.view import View
from xds.protocol.events import Counters
from xds.protocol.interest import Interest
from xds.protocol.name_sets import NO_NAMES
from xds.protocol.policy import Stage
from xds.protocol.response import Part, Response
from xds.protocol.session import Session
from xds.protocol.state import TypeState, Variant


def is_plain(state: TypeState, session: Session) -> bool:
    """Say whether what this type lacks can go out as it is: not asked for, not held, nothing else about to happen."""
    if session.break_due or session.warming or state.asked or state.owed or state.heartbeat_at or state.exceptions:
        return False
    if state.unremoved is not NO_NAMES:
        return False
    if state.outstanding is not None or state.rest or not state.dirty or state.policy.stage is not Stage.FREE:
        return False
    return not any(clusters.exceptions or clusters.dirty for clusters in session.clusters)


class Wave:
    """The response that the last plain delivery found, with what it takes a client from and to."""

    __slots__ = ("_before", "_carried", "_interest", "_part", "_response", "_snapshot", "_variant")

    def __init__(self) -> None:
        self._response: Response | None = None
        self._part: Part | None = None
        self._before: View | None = None
        self._snapshot: Snapshot | None = None
        self._interest: Interest | None = None
        self._variant = Variant.DELTA
        self._carried = 0

    def note(self, state: TypeState, session: Session) -> None:
        """Take over what a plain delivery, just made the long way, came to."""
        response = state.response
        assert response is not None
        plain = len(response.parts) == 1 and not response.exceptions and not response.view.has_timed
        self._response = response if plain and response.before is not None else None
        self._part = response.parts[0] if plain else None
        self._before, self._snapshot = response.before, session.newest
        self._interest, self._variant = state.interest, state.variant

    def settle(self, counters: Counters) -> Counters:
        """Count the deliveries so far and return the counters: one by one that would cost as much as they do."""
        if self._part is not None and self._carried:
            counters.count(self._part, self._carried)
            self._carried = 0
        return counters

    def carry(self, state: TypeState, session: Session, now: float) -> Part | None:
        """Deliver to a further stream; None if it is not of the cohort, or ``is_plain`` does not hold.

        Runs once a delivery, so the conditions are spelt out: a call for each would double its cost. Equal views are
        of one type, so that the type's stage need not be looked at.
        """
        response, part = self._response, self._part
        if response is None or part is None or state.view is not self._before or state.interest is not self._interest:
            return None
        if state.outstanding is not None or state.serial >= part.serial or session.newest is not self._snapshot:
            return None
        if state.asked or state.owed or state.exceptions or state.heartbeat_at or state.rest or not state.dirty:
            return None
        if session.break_due or session.warming or state.unremoved is not NO_NAMES:
            return None
        if state.variant is not self._variant:
            return None
        for clusters in session.clusters:
            if clusters.exceptions or clusters.dirty:
                return None
        state.view, state.fingerprint, state.response = response.view, response.fingerprint, response
        state.dirty = False
        state.outstanding, state.nonce, state.serial = part, part.nonce, part.serial
        state.sent_at, state.overdue = now, False
        state.heartbeat_nonce, state.heartbeat_unacked = "", False
        session.sent += 1
        state.sent_order = session.sent
        self._carried += 1
        return part
