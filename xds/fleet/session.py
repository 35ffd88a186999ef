"""The resources and subscriptions of a sidecar: immutable states that all sidecars share, and steps between them.

A sidecar has one reference to its session's state. Equal states are one object, and a state caches its step for each
response, so that a step that one sidecar has taken costs the next sidecar a lookup.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

from immutables import Map

from xds.fleet.content import Content, Held
from xds.fleet.plan import SubscriptionPlan
from xds.fleet.wire import Outgoing, delta_request, sotw_request

STEPS_MAX = 65_536
"""Steps cached in a process; beyond that, the cache is emptied."""
_NOTHING: Map[str, Held] = Map()
_MASK = (1 << 128) - 1


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class SidecarTypeState:
    """One type of a session. ``fingerprint`` is the sum of the digests of the resources held, whatever their order."""

    asked: bool = False
    answered: bool = False
    wanted: frozenset[str] = frozenset()
    held: Map[str, Held] = _NOTHING
    missing: frozenset[str] = frozenset()
    fingerprint: int = 0
    version: str = ""

    def key(self) -> tuple[object, ...]:
        """Return the key that is equal for equal states."""
        return (self.asked, self.answered, self.wanted, self.missing, self.fingerprint, len(self.held), self.version)

    def waits(self, *, wildcard: bool, sotw: bool) -> bool:
        """Return whether an answer is outstanding: in delta for each name, in SotW one response for all names."""
        if wildcard or (sotw and self.wanted):
            return not self.answered
        return len(self.wanted) > len(self.held) + len(self.missing)


@dataclass(frozen=True, slots=True)
class Request:
    """A subscription that is sent before the ACK of the response that caused it, as Envoy does."""

    index: int
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()


@dataclass(slots=True, weakref_slot=True, eq=False)
class SidecarSession:
    """The state of a whole session. ``ready``: all subscriptions are answered."""

    types: tuple[SidecarTypeState, ...]
    ready: bool
    steps: dict[Content, "SidecarStep"] = field(default_factory=dict)
    acks: dict[int, tuple[str, Outgoing]] = field(default_factory=dict)
    burst: tuple[bytes, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SidecarStep:
    """A step: the session after a response, and the requests it causes, encoded in ``frames`` if equal for all."""

    session: SidecarSession
    requests: tuple[Request, ...]
    frames: Outgoing | None


class SidecarSessions:
    """All states of the sidecars of this process.

    A new sidecar starts in ``initial``, by sending ``opening``.
    """

    def __init__(self, plan: SubscriptionPlan) -> None:
        self.plan = plan
        self._types: WeakValueDictionary[tuple[object, ...], SidecarTypeState] = WeakValueDictionary()
        self._sessions: WeakValueDictionary[tuple[int, ...], SidecarSession] = WeakValueDictionary()
        self._steps = 0
        states = [SidecarTypeState() for _ in plan.types]
        opening = self._subscribe(states, [None] * len(states))
        self.initial = self._intern(states)
        self.opening = tuple(self._encode(self.initial, request) for request in opening)

    def step(self, session: SidecarSession, content: Content) -> SidecarStep | None:
        """Return the step of a session at a response; None if its type was never requested."""
        known = session.steps.get(content)
        if known is not None:
            return known
        index = self.plan.index.get(content.type_url)
        if index is None or not session.types[index].asked:
            return None
        states = list(session.types)
        states[index] = self._applied(index, states[index], content)
        requests = tuple(self._subscribe(states, session.types))
        after = self._intern(states)
        frames = None
        if requests and not self.plan.sotw:
            frames = Outgoing.of(self._encode(after, request) for request in requests)
        step = SidecarStep(after, requests, frames)
        self._remember(session, content, step)
        return step

    def _remember(self, session: SidecarSession, content: Content, step: SidecarStep) -> None:
        self._steps += 1
        if self._steps > STEPS_MAX:
            self._steps = 0
            for known in list(self._sessions.values()):
                known.steps.clear()
        session.steps[content] = step

    def _applied(self, index: int, state: SidecarTypeState, content: Content) -> SidecarTypeState:
        wildcard = self.plan.wildcard[index]
        added = {name: held for name, held in content.added if wildcard or name in state.wanted}
        removed = {name for name in content.removed if wildcard or name in state.wanted}
        if self.plan.sotw and wildcard:  # the full set: absent resources are removed
            removed = {name for name in state.held if name not in added}
        fingerprint, missing = state.fingerprint, state.missing
        with state.held.mutate() as held:
            for name, new in added.items():
                fingerprint += new.digest - _digest_of(held.get(name))
                held[name] = new
            for name in removed:
                fingerprint -= _digest_of(held.pop(name, None))
            after = held.finish()
        if not wildcard and (removed or missing):
            missing = (missing | removed).difference(added)
        return replace(
            state,
            answered=True,
            held=after,
            missing=missing,
            fingerprint=fingerprint & _MASK,
            version=content.version if self.plan.sotw else "",
        )

    def _subscribe(self, states: list[SidecarTypeState], before: Sequence[SidecarTypeState | None]) -> list[Request]:
        """Update the subscriptions in place from the references of the resources held; return their requests."""
        plan, requests = self.plan, list[Request]()
        for index, state in enumerate(states):
            if not (plan.at_once[index] or state.asked or self._is_warm(states)):
                break  # these types are last in a plan
            if plan.wildcard[index]:
                if not state.asked:
                    states[index] = replace(state, asked=True)
                    requests.append(Request(index))
                continue
            source = plan.source[index]
            if state.asked and (source is None or states[source] is before[source]):
                continue
            wanted = plan.explicit.get(plan.types[index], frozenset())
            if source is not None:
                wanted = wanted.union(*(held.names for held in states[source].held.values()))
            if wanted != state.wanted:
                states[index] = self._wanting(state, wanted)
                requests.append(
                    Request(index, tuple(sorted(wanted - state.wanted)), tuple(sorted(state.wanted - wanted)))
                )
        return requests

    def _is_warm(self, states: Sequence[SidecarTypeState]) -> bool:
        return not any(at_once and self._waits(index, states[index]) for index, at_once in enumerate(self.plan.at_once))

    def _waits(self, index: int, state: SidecarTypeState) -> bool:
        return state.waits(wildcard=self.plan.wildcard[index], sotw=self.plan.sotw)

    def _wanting(self, state: SidecarTypeState, wanted: frozenset[str]) -> SidecarTypeState:
        gone = state.wanted - wanted
        fingerprint = state.fingerprint
        with state.held.mutate() as held:
            for name in gone:
                fingerprint -= _digest_of(held.pop(name, None))
            after = held.finish()
        return replace(
            state,
            asked=True,
            answered=state.answered and not (wanted - state.wanted),
            wanted=wanted,
            held=after,
            missing=state.missing - gone,
            fingerprint=fingerprint & _MASK,
        )

    def _intern(self, states: Iterable[SidecarTypeState]) -> SidecarSession:
        types = tuple(self._types.setdefault(state.key(), state) for state in states)
        key = tuple(map(id, types))
        known = self._sessions.get(key)
        if known is None:
            known = SidecarSession(types, ready=not any(self._waits(index, state) for index, state in enumerate(types)))
            self._sessions[key] = known
        return known

    # --- Requests ------------------------------------------------------------------------------------------------

    def _encode(self, session: SidecarSession, request: Request) -> bytes:
        if self.plan.sotw:
            state = session.types[request.index]
            return sotw_request(self.plan.types[request.index], sorted(state.wanted), version=state.version, nonce="")
        return delta_request(
            self.plan.types[request.index], subscribe=request.subscribe, unsubscribe=request.unsubscribe
        )

    def sotw_answer(self, session: SidecarSession, index: int, nonce: str, rejection: str | None = None) -> Outgoing:
        """Return a state-of-the-world request for a type: all names, its version, and a nonce."""
        known = session.acks.get(index)
        if known is not None and known[0] == nonce and rejection is None:
            return known[1]
        state = session.types[index]
        request = sotw_request(
            self.plan.types[index], sorted(state.wanted), version=state.version, nonce=nonce, rejection=rejection
        )
        answer = Outgoing.of([request])
        if rejection is None:
            session.acks[index] = (nonce, answer)
        return answer

    def resumption(self, session: SidecarSession) -> tuple[bytes, ...]:
        """Return the requests with which Envoy resumes this session: all types in one burst, with versions.

        Resources never received, or reported missing, have no version in it. Encoded once per session.
        """
        if session.burst is None:
            requests = []
            for index, state in enumerate(session.types):
                if not state.asked or not (self.plan.wildcard[index] or state.wanted):
                    continue
                if self.plan.sotw:
                    requests.append(self._encode(session, Request(index)))
                    continue
                versions = {name: held.version for name, held in state.held.items()}
                names = sorted(state.wanted)
                requests.append(delta_request(self.plan.types[index], subscribe=names, versions=versions))
            session.burst = tuple(requests)
        return session.burst


def _digest_of(held: Held | None) -> int:
    return 0 if held is None else held.digest
