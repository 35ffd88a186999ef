"""A hub that recomputes cached steps and compares them: the step cache must not change anything.

It also computes the steps that are left out because nothing can be sent, and checks that they send nothing.
"""

from typing import Any
from weakref import WeakKeyDictionary, ref

from xds.protocol.client_state import NO_MARKS, ClientState, Marks, Step, debt_with
from xds.protocol.convergence import Debt
from xds.protocol.hub import Hub
from xds.protocol.requests import decode, span_of_node
from xds.protocol.responses import Part
from xds.protocol.sessions import Session, Stream
from xds.protocol.steps import NO_HISTORY
from xds.protocol.type_state import TypeState


class RecheckedHub(Hub):
    """Recomputes one of every ``every`` cached steps. ``rechecked`` counts these."""

    def __init__(self, *arguments: Any, every: int = 1, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.every, self.rechecked, self._taken = every, 0, 0
        self._checked: WeakKeyDictionary[Stream, tuple[ref[ClientState], Marks]] = WeakKeyDictionary()

    def receive(self, stream: Stream, data: bytes, now: float) -> int:
        session = stream.session
        expected = None
        if session is not None and session.client_state.steps is not None:
            self.advance_clock(now)
            plain = self._large.plain(data, span_of_node(stream.variant, data))
            step = self._cached_step(session, plain)
            if step is not None and self._is_due():
                expected = self._compute_again(stream, session, plain, now)
        names = super().receive(stream, data, now)
        if expected is not None and session is not None:
            self._compare(session, expected)
            assert names == expected.effects.names_scanned
        return names

    def _compute_again(self, stream: Stream, session: Session, plain: bytes, now: float) -> Step:
        request = decode(stream.variant, plain)
        source, context = stream.source, self._context(session, now)._replace(marks=NO_MARKS)  # they stay pending
        kind, is_known = self._steps.kind(session.client_state, source, request)
        if is_known:
            return self._steps.later_request(session.client_state, context, source, kind, request, len(plain))
        return self._steps.first_request(session.client_state, context, source, kind, request, len(plain), NO_HISTORY)

    def poll(self, stream: Stream, now: float) -> Part | None:
        session, expected = stream.session, None
        if session is not None and stream.refusal is None and session.client_state.next_step is not None:
            self.advance_clock(now)
            next_step = session.client_state.next_step
            same = next_step.snapshot is self.snapshot(session.audience) and next_step.marks == session.marks
            if same and next_step.tick == self._soon and not session.per_type and self._is_due():
                expected = self._steps.advance(session.client_state, self._context(session, now), stream.source)
        part = super().poll(stream, now)
        if expected is not None and session is not None:
            self._compare(session, expected)
            assert (part is None) == (expected.part is None)
            assert part is None or expected.part is None or part.upserts == expected.part.upserts
        return part

    def _check_waiting(self, streams: list[Stream]) -> None:
        """Compute the next step of each stream that is not ready, if its state is new: it must send nothing."""
        for stream in streams:
            session = stream.session
            if session is None or stream.refusal is not None:
                continue
            state, marks = session.client_state, session.marks
            if self._checked.get(stream) == (ref(state), marks) or not self._is_due():
                continue
            self._checked[stream] = (ref(state), marks)
            if self._coarse < state.next_at and state.settled and (not marks or state.is_blocked(marks)):
                step = self._steps.advance(state, self._context(session, self._coarse), stream.source)
                assert step.part is None, f"{step.part} is not sent to a client in {state.types}"

    def take_ready(self) -> list[Stream]:
        counted: dict[str, dict[Debt, int]] = {}
        for session in {id(each.session): each.session for each in self._streams if each.session is not None}.values():
            debts = counted.setdefault(session.group, {})
            debt = debt_with(session.client_state.debt, session.marks)
            debts[debt] = debts.get(debt, 0) + 1
        assert self.debts() == counted, "the numbers that are kept differ from a count of all clients"
        self._check_waiting(list(self._streams))
        return super().take_ready()

    def _is_due(self) -> bool:
        self._taken += 1
        return self._taken % self.every == 0

    def _compare(self, session: Session, expected: Step) -> None:
        self.rechecked += 1
        found, wanted = session.client_state, expected.after
        assert found.order == wanted.order, f"{found.order} instead of {wanted.order}"
        assert _but_nonces(found) == _but_nonces(wanted), f"{found.types} instead of {wanted.types}"


def _but_nonces(client_state: ClientState) -> list[object]:
    """Return a client state's types, with messages' names in place of nonces, which differ when recomputed."""
    return [
        (
            state._replace(nonce="", serial=0, in_flight=(), remaining=()),
            [p.names for p in (*state.in_flight, *state.remaining)],
        )
        for state in client_state.types
    ]


def _parts(state: TypeState) -> tuple[Part, ...]:
    return (*state.in_flight, *state.remaining)
