"""What clients answered: ACKs counted, NACKs remembered and told to operators. It does not know subscriptions."""

from xds.protocol.events import Counters, Event, nacked
from xds.protocol.nacked_names import NackedNames
from xds.protocol.response import Part
from xds.protocol.session import Session
from xds.protocol.state import TypeState


class Answers:
    """Takes the answers of all streams. ``nacked``: what nodes rejected; ``events``: where NACKs are told."""

    __slots__ = ("_counters", "_events", "_nacked")

    def __init__(self, nacked: NackedNames, counters: Counters, events: list[Event]) -> None:
        self._nacked = nacked
        self._counters = counters
        self._events = events

    def take(self, session: Session, state: TypeState, error: str | None, now: float) -> None:
        """Take the answer to the outstanding response: an ACK, or a NACK for this reason."""
        part = session.answered(state, error, now)
        if part is None:
            return
        if error is not None:
            self._note_nack(session, state, part, error)
            return
        self._counters.acks += 1
        if self._nacked.by_node:
            state.unknown = self._nacked.share(state.unknown)
            self._nacked.settle(session.node, state.type_url, part.name_set)

    def take_late(self, session: Session, state: TypeState, nonce: str, error: str) -> None:
        """Take a NACK of a response that was given up on; its ACK would change nothing."""
        part = state.superseded
        if part is not None and part.nonce == nonce:
            state.superseded = None
            state.reject(part, error)
            self._note_nack(session, state, part, error)

    def _note_nack(self, session: Session, state: TypeState, part: Part, error: str) -> None:
        self._counters.nacks += 1
        state.unknown = self._nacked.share(state.unknown)
        self._nacked.add(session.node, state.type_url, part.name_set)
        self._events.append(nacked(session.node.id, session.group, state.type_url, part, error))
