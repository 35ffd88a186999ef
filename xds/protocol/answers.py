"""What clients answered: ACKs counted, NACKs remembered and told to operators. It does not know subscriptions."""

from xds.protocol.draining_nodes import DrainingNodes
from xds.protocol.events import Counters, Event, nacked
from xds.protocol.nacked_names import NackedNames
from xds.protocol.name_sets import NO_NAMES
from xds.protocol.response import Part
from xds.protocol.session import Session
from xds.protocol.state import TypeState


class Answers:
    """Takes the answers of all streams.

    ``nacked`` and ``draining``: what is known of nodes; ``events``: where NACKs are noted.
    """

    __slots__ = ("_by_node", "_counters", "_draining", "_events", "_nacked")

    def __init__(self, nacked: NackedNames, draining: DrainingNodes, counters: Counters, events: list[Event]) -> None:
        self._nacked = nacked
        self._by_node = nacked.by_node
        self._draining = draining
        self._counters = counters
        self._events = events

    def take(self, session: Session, state: TypeState, error: str | None, now: float, version: str = "") -> None:
        """Take the answer to the outstanding response: an ACK, or a NACK for this reason.

        ``version`` is what a SotW client says that it has.
        """
        part = session.answered(state, error, now, version)
        if (
            error is None
            and part is not None
            and not (self._by_node or state.draining or state.unknown is not NO_NAMES)
        ):
            self._counters.acks += 1
            return
        self._note(session, state, part, error)

    def take_late(
        self, session: Session, state: TypeState, nonce: str, error: str | None, now: float, version: str = ""
    ) -> None:
        """Take the answer to a response that was given up on, if it is one."""
        self._note(session, state, session.answered_late(state, nonce, error, now, version), error)

    def _note(self, session: Session, state: TypeState, part: Part | None, error: str | None) -> None:
        if part is None:
            return
        if state.unknown is not NO_NAMES:
            state.unknown = self._nacked.share(state.unknown)
        if error is not None:
            self._note_nack(session, state, part, error)
        else:
            self._counters.acks += 1
            if self._nacked.by_node:
                self._nacked.settle(session.node, state.type_url, part.name_set)
        if state.draining:
            self._draining.note(session.node, state)

    def _note_nack(self, session: Session, state: TypeState, part: Part, error: str) -> None:
        self._counters.nacks += 1
        self._nacked.add(session.node, state.type_url, part.name_set)
        self._events.append(nacked(session.node.id, session.group, state.type_url, part, error))
