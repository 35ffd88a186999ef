"""The state of one resource type on one stream: an immutable value. Delta and SotW alike.

Clients in the same state share one value; each method returns the next one. Two rules govern it. What was *sent* drives
the next diff, whether it was accepted or not: a rejected version is not sent again before its content changes, and then
always. One response at a time waits for its answer: later changes go into the next response. Several are in flight only
where the wait for an answer was given up.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple
from weakref import WeakValueDictionary

from immutables import Map

from xds.model.resource import Resource
from xds.model.view import FINGERPRINT_MASK, View
from xds.protocol.diff import (
    NO_EXCEPTIONS,
    NOBODY,
    Diff,
    Exceptions,
    Hold,
    Unsent,
    clusters_of,
    diff,
    holding,
    wanted,
    wants,
)
from xds.protocol.draining import (
    NEVER,
    NOTHING_DRAINS,
    Draining,
    clusters_used,
    end_by,
    keep_all,
    next_end,
    still,
    united,
    without,
)
from xds.protocol.policy import Missing, Stage, Variant, policy_of
from xds.protocol.responses import (
    Encoding,
    Part,
    Response,
    ResponseCache,
    SentState,
    common_label,
    delta_heartbeat,
    delta_parts,
    endpoints_of,
    fingerprint_held,
    note_effects,
    sotw_parts,
    state_version,
    unlimited,
)
from xds.protocol.subscription import NAME_SLOT_BYTES, NO_NAMES, NOTHING, NameSet, Subscription, bytes_of

IN_FLIGHT_MAX = 9
IN_FLIGHT_BYTES_MAX = 8 * 1024 * 1024
"""So many responses of a type may be in flight, and so many bytes before the last: then no more of it is sent."""


class Kind:
    """A type on a stream: what of its states never changes. ``slot`` numbers the streams of a session. By identity."""

    __slots__ = ("__weakref__", "policy", "slot", "stage", "switches", "type_url", "variant")

    def __init__(self, type_url: str, variant: Variant, slot: int = 0) -> None:
        self.type_url = type_url
        self.variant = variant
        self.slot = slot
        self.policy = policy_of(type_url)
        self.stage = self.policy.stage
        """When this type's changes may go out."""
        self.switches = self.stage in (Stage.LISTENERS, Stage.ROUTES)
        """Changes of this type move requests to other clusters, so that those must be there first."""


class Kinds:
    """The table that makes the kinds of equal streams one object, for as long as any state is of it."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[str, Variant, int], Kind] = WeakValueDictionary()

    def get(self, type_url: str, variant: Variant, slot: int) -> Kind:
        """Return the one kind."""
        kind = self._known.get((type_url, variant, slot))
        if kind is None:
            kind = self._known[type_url, variant, slot] = Kind(type_url, variant, slot)
        return kind


@dataclass(frozen=True, slots=True)
class Rejection:
    """The last response of a type that the client rejected, and why. ``versions``: of all that was in it."""

    nonce: str
    message: str
    versions: Mapping[str, str]


class Heartbeat(NamedTuple):
    """When the client's TTLs are to be renewed, 0 for never, and the nonce of the last renewal, answered or not."""

    at: float = 0.0
    nonce: str = ""
    unanswered: bool = False


NO_HEARTBEAT = Heartbeat()


class TypeState(NamedTuple):
    """One type on one stream.

    ``view`` and ``exceptions`` tell what the client holds if it accepted all it was sent; ``view`` None: nothing.
    ``fingerprint`` sums that up, None if unknown. ``before`` is what it held before the last response in flight.
    ``dirty``: there may be something to send. ``asked``: names to be answered whether or not they changed.
    ``owed``: an answer is due even if it is empty. ``explicit``: a SotW client named something once.
    ``in_flight``: what was sent and not answered, oldest first; all but the last were given up on.
    ``remaining``: the parts of the last response that are still to be sent. ``sent_at``: when the last was sent, by
    the coarse clock; ``sent_order``: how many messages its session had been sent then. ``overdue``: that was reported.
    ``nonce`` and ``serial`` are of the last message, answered or not.
    ``unknown``: names in rejected responses, of which nothing is sure. Of types whose every message says everything,
    ``accepted`` is what the client had of them, ``blamed`` which of them its last NACK names, all if none;
    ``is_known``: what it had before the stream is known.
    ``unremoved``: names that rejected responses removed, which go again with the next response.
    ``draining``: older versions that the client may still be using; ``drain_at``: when the first of them ends, if not
    sooner.
    """

    kind: Kind
    subscription: Subscription = NOTHING
    explicit: bool = False
    sent_order: int = 0
    unknown: NameSet = NO_NAMES
    accepted: Exceptions = NO_EXCEPTIONS
    blamed: frozenset[str] = NOBODY
    is_known: bool = True
    unremoved: NameSet = NO_NAMES
    draining: Draining = NOTHING_DRAINS
    drain_at: float = NEVER
    heartbeat: Heartbeat = NO_HEARTBEAT
    # What every response changes; of that last what its answer does.
    view: View | None = None
    exceptions: Exceptions = NO_EXCEPTIONS
    fingerprint: int | None = None
    dirty: bool = False
    asked: frozenset[str] = NOBODY
    owed: bool = False
    remaining: tuple[Part, ...] = ()
    nonce: str = ""
    serial: int = 0
    in_flight: tuple[Part, ...] = ()
    before: tuple[View | None, Exceptions] | None = None
    sent_at: float = 0.0
    overdue: bool = False

    @property
    def type_url(self) -> str:
        """The type."""
        return self.kind.type_url

    @property
    def outstanding(self) -> Part | None:
        """The response that the client is to answer, None if it has answered all."""
        return self.in_flight[-1] if self.in_flight else None

    @property
    def idle(self) -> bool:
        """Say whether the client has answered all that there was to send."""
        return not (self.dirty or self.in_flight or self.remaining)

    @property
    def says_everything(self) -> bool:
        """Say whether each message has all resources: what is not in it, the client loses."""
        return self.kind.variant is Variant.SOTW and self.kind.policy.full_state

    @property
    def is_trusted(self) -> bool:
        """Say whether the client took all that it was sent and has answered."""
        return self.unknown is NO_NAMES and self.unremoved is NO_NAMES

    # --- What it holds -------------------------------------------------------------------------------------------

    def held(self, name: str) -> Resource | None:
        """Return what the client holds under a name, if it accepted all it was sent."""
        return holding(name, self.view, self.exceptions)

    def held_before(self, name: str) -> Resource | None:
        """Return what the client held under a name before the last response, if that is in flight."""
        return holding(name, *self.before) if self.before is not None else None

    def everything_held(self) -> list[Resource]:
        """Return all that the client holds of this type, if it accepted all it was sent. O(held)."""
        names = wanted(self.subscription, self.view) if self.view is not None else ()
        return [resource for resource in map(self.held, {*names, *self.exceptions}) if resource is not None]

    def clusters_in_use(self, now: float) -> frozenset[str] | None:
        """Return the clusters that what the client holds, or may hold, of this type refers to. O(held).

        None if that can't be known: the client goes on using something that it has from another server.
        """
        used = clusters_used(still(self.draining, now))
        if used is None:
            return None
        found = set(used)
        for resource in self.everything_held():
            if resource.is_version_only:
                return None
            found |= clusters_of(resource)
        return frozenset(found)

    # --- What it asks for ----------------------------------------------------------------------------------------

    def ask(self, names: Collection[str]) -> "TypeState":
        """Have these names answered with the next response, whether or not they changed."""
        if not names:
            return self
        return self._replace(asked=self.asked.union(names) if self.asked else frozenset(names), dirty=True)

    def narrow(self, subscription: Subscription, unsent: Unsent) -> "TypeState":
        """Take over a new interest: forget about the names that it no longer wants, and note what was never sent."""
        changes: dict[str, object] = {"subscription": subscription, "fingerprint": None}
        if self.asked:
            changes["asked"] = frozenset(name for name in self.asked if name == "*" or subscription.wants(name))
        exceptions = self.exceptions
        for name in [name for name in exceptions if not self._wants_still(subscription, name)]:
            exceptions = exceptions.delete(name)
        if self.unknown is not NO_NAMES:
            changes["unknown"] = _without_unwanted(self.unknown, subscription)
            changes["accepted"] = Map({name: held for name, held in self.accepted.items() if subscription.wants(name)})
        if self.unremoved is not NO_NAMES:
            changes["unremoved"] = _without_unwanted(self.unremoved, subscription)
        if self.draining:
            unwanted = [name for name in self.draining if not subscription.wants(name)]
            changes["draining"] = without(self.draining, unwanted)
        if self.view is not None:
            lacking = unsent.get(self.subscription, subscription, self.view)
            exceptions = lacking.update(exceptions) if exceptions else lacking
        return self._replace(exceptions=exceptions, **changes)  # type: ignore[arg-type]

    def _wants_still(self, subscription: Subscription, name: str) -> bool:
        either = (self.view.get(name) if self.view is not None else None, self.exceptions.get(name))
        return subscription.wants(name) or any(r is not None and wants(subscription, r) for r in either)

    # --- What it is sent -----------------------------------------------------------------------------------------

    def respond(
        self, target: View, hold: Hold, response_cache: ResponseCache, encoding: Encoding, now: float
    ) -> tuple["TypeState", Response]:
        """Take the client to ``target``; the first part of the response is then in flight, if it has any.

        Must not be called with a response outstanding, except to give up on it.
        """
        kind = self.kind
        # fmt: off
        key = (
            self.subscription, self.view, target, hold, self.exceptions, self.asked, self.owed, kind.variant,
            self.unremoved, self.accepted,
        )
        # fmt: on
        response = response_cache.again(kind.type_url, key, self.serial)
        if response is None:
            make = lambda: self._response(target, hold, response_cache, encoding)  # noqa: E731
            response = response_cache.get(kind.type_url, key, make, after=self.serial)
        heartbeat = self.heartbeat
        state = self._replace(heartbeat=Heartbeat(heartbeat.at)) if heartbeat.nonce and response.parts else self
        held = (response.view, response.exceptions, response.fingerprint, False, NOBODY, False)
        if not response.parts:
            return TypeState._make(state[:_HELD] + held + state[_SENT:]), response
        part, *remaining = response.parts
        sent = (
            tuple(remaining),
            part.nonce,
            part.serial,
            (*self.in_flight, part),
            (self.view, self.exceptions),
            now,
            False,
        )
        return TypeState._make(state[:_HELD] + held + sent), response

    def send_part(self, now: float) -> "TypeState":
        """Have the next part of a response in flight; one must be left."""
        part = self.remaining[0]
        return self._replace(
            remaining=self.remaining[1:],
            in_flight=(*self.in_flight, part),
            nonce=part.nonce,
            serial=part.serial,
            sent_at=now,
            overdue=False,
            heartbeat=Heartbeat(self.heartbeat.at) if self.heartbeat.nonce else self.heartbeat,
        )

    @property
    def may_be_given_up(self) -> bool:
        """Say whether one more response may go out while the outstanding one is not answered."""
        pinned = sum(len(part.message) for part in self.in_flight[:-1])
        return len(self.in_flight) < IN_FLIGHT_MAX and pinned < IN_FLIGHT_BYTES_MAX

    def _response(self, target: View, hold: Hold, response_cache: ResponseCache, encoding: Encoding) -> Response:
        kind, subscription = self.kind, self.subscription
        found = self._with_unremoved(diff(subscription, self.view, self.exceptions, target, self.asked, hold), target)
        found = self._with_accepted(found)
        names = [*(resource.name for resource in found.upserts), *found.removals]
        held = self._all_held(names)
        replaced = tuple(held.values())
        fingerprint = self._fingerprint_after(target, found, replaced)
        version = state_version(fingerprint)
        if kind.variant is Variant.SOTW:
            response_cache.remember(kind.type_url, version, SentState(subscription, target, found.exceptions))
        parts: tuple[Part, ...] = ()
        full = kind.policy.full_state
        if kind.variant is Variant.DELTA:
            parts = delta_parts(
                kind.type_url, subscription, found, version, self.owed, encoding, response_cache.next_nonce
            )
        elif found.upserts or (self.owed and kind.policy.missing is not Missing.SILENT) or (full and found):
            resources = self._everything(target, found.exceptions) if full else found.upserts
            says = common_label(found.upserts) or version
            parts = sotw_parts(kind.type_url, resources, says, encoding, response_cache.next_nonce)
            held |= self._all_held(resource.name for resource in resources)
        if parts:
            note_effects(parts, found, held)
        return Response(
            parts=parts,
            view=target,
            exceptions=found.exceptions,
            fingerprint=fingerprint,
            endpoints=endpoints_of(found.upserts),
            replaced=replaced,
            gone=frozenset(found.removals),
            kept=self._kept(replaced, found.removals) if kind.switches else NOTHING_DRAINS,
            subscription=subscription,
            names_bytes=self._names_kept_bytes(),
        )

    def _kept(self, replaced: Iterable[Resource], removals: Collection[str]) -> Draining:
        """Return what the client goes on using of what a response replaces.

        A listener that is replaced: until the newer one is accepted, then it drains. A route that is removed: until it
        is unsubscribed, or there again.
        """
        if self.kind.stage is not Stage.LISTENERS:
            names = self.subscription.names.intersection(removals)
            replaced = [older for older in replaced if older.name in names]
        return keep_all(NOTHING_DRAINS, replaced, NEVER)

    def _with_unremoved(self, found: Diff, target: View) -> Diff:
        """Return a diff with what rejected responses removed: it goes again with whatever else is sent."""
        if self.unremoved is NO_NAMES or not (found or self.owed):
            return found
        told = {*found.removals, *found.unknown}
        again = [name for name in self.unremoved.names - told if target.get(name) is None]
        return replace(found, removals=tuple(sorted((*found.removals, *again))))

    def _with_accepted(self, found: Diff) -> Diff:
        """Return a diff with what is kept, though it is gone and was rejected, as the client accepted it before."""
        older = {name: self.accepted.get(name) for name in found.exceptions} if self.accepted else {}
        kept = {name: resource for name, resource in older.items() if resource is not None and resource.encoded}
        return replace(found, exceptions=found.exceptions.update(kept)) if kept else found

    def _all_held(self, names: Iterable[str]) -> dict[str, Resource]:
        held = ((name, self.held(name)) for name in names)
        return {name: resource for name, resource in held if resource is not None}

    def _names_kept_bytes(self) -> int:
        """Return about what the names take that the key of a response holds, beside those of the subscription."""
        asked = self.asked - self.subscription.names if self.asked else self.asked
        return bytes_of(asked) + NAME_SLOT_BYTES * len(self.asked) + 2 * bytes_of(self.exceptions)

    def _fingerprint_after(self, target: View, found: Diff, replaced: tuple[Resource, ...]) -> int:
        """Sum up what the client holds after a diff: O(diff), where the sum before it is known."""
        if self.fingerprint is None or self.view is None:
            return fingerprint_held(self.subscription, target, found.exceptions)
        less, more = sum(r.fingerprint for r in replaced), sum(r.fingerprint for r in found.upserts)
        return (self.fingerprint - less + more) & FINGERPRINT_MASK

    def _everything(self, target: View, exceptions: Exceptions) -> list[Resource]:
        """Return all that a full-state SotW client shall hold, in order of name."""
        held = {name: target.get(name) for name in wanted(self.subscription, target)}
        held.update(exceptions.items())
        return [resource for _, resource in sorted(held.items()) if resource is not None and resource.encoded]

    # --- What it answers -----------------------------------------------------------------------------------------

    def find(self, nonce: str) -> Part | None:
        """Return the response in flight that has this nonce."""
        for part in self.in_flight:
            if part.nonce == nonce:
                return part
        return None

    def take_answer(self, part: Part, message: str | None, drained_at: float, version: str = "") -> "TypeState":
        """Take the client's answer to a response in flight, in time or late: ACK with None, NACK with its message.

        A client answers in the order in which it is sent, so that the answer tells of earlier responses too. An Envoy
        on SotW answers only the last of several that it got while its clusters warm: if it rejects that one,
        ``version``, which it says that it has, tells which of the earlier ones it took.
        ``drained_at`` is when the client is done with what it replaces now.
        """
        at = self.in_flight.index(part)
        earlier, later = self.in_flight[:at], self.in_flight[at + 1 :]
        state = self._replace(in_flight=later) if later else self.answered()
        if message is None and not (earlier or self.draining) and self.is_trusted and self.is_known:
            return state
        for number, before in enumerate(earlier):
            if message is None or any(version == each.version for each in earlier[number:]):
                state = state._accept(before, drained_at)
            else:
                state = state._doubt(before, "")
        return state._accept(part, drained_at) if message is None else state._doubt(part, message)

    def answered(self) -> "TypeState":
        """Return the state with nothing left of what was in flight: so clients that were sent alike meet again."""
        return TypeState._make((*self[:_ANSWERED], (), None, 0.0, False))

    def _accept(self, part: Part, drained_at: float) -> "TypeState":
        state = self
        if self.says_everything:
            state = state._replace(unknown=NO_NAMES, accepted=NO_EXCEPTIONS, blamed=NOBODY, is_known=True)
        if state.unknown is not NO_NAMES:
            state = state._replace(unknown=state.unknown.difference(part.accepted_set))
        if state.unremoved is not NO_NAMES:
            state = state._replace(unremoved=state.unremoved.difference(part.accepted_set))
        return state._release(part, drained_at) if state.draining else state

    def _release(self, part: Part, drained_at: float) -> "TypeState":
        """What is newer was accepted: an older route is out of use, an older or removed listener drains."""
        names = {resource.name for resource in part.upserts}.union(part.gone)
        if self.says_everything:
            names.update(self.draining)
        names = names.difference(*(each.names for each in self.in_flight))
        if self.kind.stage is Stage.LISTENERS:
            ending = end_by(self.draining, names, drained_at)
            return self._replace(draining=ending, drain_at=min(self.drain_at, drained_at))
        # A removed route that is subscribed still may be used by a listener that drains.
        removed = {name for name in names & self.subscription.names if self.held(name) is None}
        return self._replace(draining=without(self.draining, names - removed))

    def _doubt(self, part: Part, message: str) -> "TypeState":
        """Hold every name in a message for unknown: Envoy may have applied any part of what it rejects."""
        names, subscription = part.name_set, self.subscription
        if not subscription.open_ended and not subscription.names.issuperset(names.names):
            names = NameSet.of(subscription.names.intersection(names.names))  # the others were given up meanwhile
        state = self._replace(unknown=self.unknown.union(names))
        if self.kind.variant is Variant.DELTA:
            if part.removals:
                state = state._replace(unremoved=self.unremoved.union(part.removal_set))
        elif self.says_everything:
            had = part.had_before
            if not self.is_known:
                had = Map({name: resource or _something(self.type_url, name) for name, resource in had.items()})
            accepted = had.update(self.accepted) if self.accepted else had
            blamed = part.named_in(message)
            for name in blamed.intersection(self.exceptions):
                if (older := accepted.get(name)) is not None and older.is_version_only:
                    accepted = accepted.set(name, None)  # kept once, and rejected: for all that is known, never had
            state = state._replace(accepted=accepted, blamed=blamed)
        if self.kind.switches:
            state = state._replace(draining=united(self.draining, part.kept))
        return state

    @property
    def refused(self) -> frozenset[str]:
        """The names that the client rejects, as its last NACK has it, and never accepted any version of."""
        return frozenset(name for name in self.blamed if name in self.accepted and self.accepted[name] is None)

    # --- What drains ---------------------------------------------------------------------------------------------

    def drains(self, draining: Draining) -> "TypeState":
        """Note older versions that the client may go on using."""
        if not draining:
            return self
        return self._replace(draining=united(self.draining, draining), drain_at=min(self.drain_at, next_end(draining)))

    def forget_drained(self, now: float) -> "TypeState":
        """Forget the versions whose time is over."""
        left = still(self.draining, now)
        return self._replace(draining=left, drain_at=next_end(left))

    # --- TTLs ----------------------------------------------------------------------------------------------------

    def _timed(self) -> dict[str, Resource]:
        """Return what the client holds that has a TTL; not what it may have rejected, which it would reject again."""
        assert self.view is not None, "a response was made"
        not_yet = {resource.name for part in self.remaining for resource in part.upserts}.union(self.unknown.names)
        held = {name: self.held(name) for name in {*self.view.timed, *self.exceptions} - not_yet}
        timed = {name: r for name, r in held.items() if r is not None and r.ttl_s is not None}
        return {name: r for name, r in timed.items() if wants(self.subscription, r)}

    def heartbeat_every_s(self) -> float:
        """Return how often the client's TTLs have to be renewed, 0 for never: three times within the shortest."""
        return min((r.ttl_s for r in self._timed().values() if r.ttl_s is not None), default=0.0) / 3

    def renew(self, at: float, response_cache: ResponseCache, encoding: Encoding) -> tuple["TypeState", Part]:
        """Return a message that renews the TTLs: name, version and TTL of each resource; with bodies only on SotW.

        ``at`` is when to renew them next.
        """
        assert self.view is not None
        kind = self.kind
        resources = tuple(resource for _, resource in sorted(self._timed().items()))
        fingerprint = self.fingerprint
        if fingerprint is None:
            fingerprint = fingerprint_held(self.subscription, self.view, self.exceptions)
        version, nonce = state_version(fingerprint), response_cache.next_nonce()
        if kind.variant is Variant.DELTA:
            part = delta_heartbeat(kind.type_url, resources, version, nonce, encoding)
        else:
            # On SotW, Envoy 1.40 takes clusters without bodies for the full set, with nothing in it, and endpoints
            # without bodies bring it down: so they are sent once more as they are.
            again = self._everything(self.view, self.exceptions) if kind.policy.full_state else resources
            (whole,) = sotw_parts(kind.type_url, again, version, unlimited(encoding), lambda: nonce)
            part = replace(whole, upserts=(), is_heartbeat=True)
        return self._replace(fingerprint=fingerprint, heartbeat=Heartbeat(at, part.nonce, True)), part


_HELD, _SENT, _ANSWERED = (TypeState._fields.index(name) for name in ("view", "remaining", "in_flight"))


def _something(type_url: str, name: str) -> Resource:
    """Return what stands for a version of which nothing is known."""
    return Resource(type_url=type_url, name=name, version="", encoded=b"")


def _without_unwanted(names: NameSet, subscription: Subscription) -> NameSet:
    return names.difference(NameSet.of(name for name in names.names if not subscription.wants(name)))
