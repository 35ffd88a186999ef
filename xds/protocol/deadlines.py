"""What a session waits for, and until when; and what is to be done when that time comes. It does not know clocks."""

from xds.protocol.policy import Stage
from xds.protocol.session import Session
from xds.protocol.state import TypeState


def deadline(session: Session, now: float) -> float:
    """Return when to look again if nothing happens until then; infinity for never."""
    times = [float("inf")]
    if session.ordering.enabled:
        waits = session.states(Stage.MAKE, Stage.LISTENERS, Stage.ROUTES)
        held = session.ordering.hold_timeout_s
        times += [state.sent_at + held for state in waits if state.outstanding is not None and not state.overdue]
        if session.awaited:
            times.append(session.await_until)
        if session.stuck_since is not None and not session.clusters:
            times.append(session.stuck_since + held)
        if any(state.exceptions for state in session.clusters):
            times += [session.break_after, *_drain_times(session)]
    times += [
        state.heartbeat_at for stream in session.streams for state in stream.states.values() if state.heartbeat_at
    ]
    return min(time for time in times if time > now) if any(time > now for time in times) else float("inf")


def _drain_times(session: Session) -> list[float]:
    lingering = [state.lingering for state in session.states(Stage.LISTENERS, Stage.ROUTES) if state.lingering]
    return [until for record in lingering for pairs in record.values() for _, until in pairs]


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
    session.break_due = True
    session.switch_target(now)
    session.recheck_switch()
    return late
