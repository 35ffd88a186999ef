"""What a session waits for, and until when; and what is to be done when that time comes. It does not know clocks."""

from collections.abc import Iterator

from xds.protocol.draining import NEVER
from xds.protocol.policy import Stage
from xds.protocol.session import Session
from xds.protocol.state import TypeState


def deadline(session: Session, now: float) -> float:
    """Return when to look again if nothing happens until then; infinity for never. Runs with every larger step."""
    next_at = float("inf")
    for at in _times(session):
        if now < at < next_at:
            next_at = at
    return next_at


def _times(session: Session) -> Iterator[float]:
    ordered, held_s = session.ordering.enabled, session.ordering.hold_timeout_s
    for stream in session.streams:
        for state in stream.states.values():
            if state.heartbeat_at:
                yield state.heartbeat_at
            if ordered and state.outstanding is not None and not state.overdue and state.stage is not Stage.FREE:
                yield state.sent_at + held_s
            if state.drain_at < NEVER:
                yield state.drain_at
    if not ordered:
        return
    if session.awaited:
        yield session.awaited.next_end
    if session.stuck_since is not None and not session.clusters:
        yield session.stuck_since + held_s
    for clusters in session.clusters:
        if clusters.exceptions:
            yield session.break_after


def expire(session: Session, now: float) -> list[TypeState]:
    """Look at what waits at ``now``; return the types whose answer just became overdue."""
    late = [
        state
        for state in session.states(Stage.MAKE, Stage.LISTENERS, Stage.ROUTES)
        if state.outstanding is not None and not state.overdue and session.gave_up(state, now)
    ]
    if session.awaited and not session.awaiting(now):
        late += [state for state in session.states(Stage.FREE) if state.outstanding is not None]
    for state in late:
        state.overdue = True
    for state in session.states(Stage.LISTENERS, Stage.ROUTES):
        if now >= state.drain_at:
            state.forget_drained(now)
    session.break_due = True
    session.switch_target(now)
    session.recheck_switch()
    return late
