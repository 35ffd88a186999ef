"""One resource type on one stream: what is subscribed, what was sent, what is un-ACKed. Delta and SotW alike.

It does not know the other types of the stream (``session``), nor how requests look (``delta``, ``sotw``).
Two rules govern it. What was *sent* drives the next diff, whatever became of it: a rejected version is not sent again
before its content changes, and then always. One response is un-ACKed at a time: what changes meanwhile is in the next.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from xds.model.resource import Resource
from xds.model.view import FINGERPRINT_MASK, View
from xds.protocol.cohorts import Cohorts, SentState
from xds.protocol.diff import (
    NO_EXCEPTIONS,
    NOBODY,
    Diff,
    Exceptions,
    Hold,
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
from xds.protocol.interest import NAME_SLOT_BYTES, Interest, bytes_of
from xds.protocol.interned import Unsent
from xds.protocol.name_sets import NO_NAMES, NameSet
from xds.protocol.policy import Missing, Policy, Stage, policy_of
from xds.protocol.response import (
    Encoding,
    Part,
    Response,
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

IN_FLIGHT_MAX = 8
IN_FLIGHT_BYTES_MAX = 8 * 1024 * 1024
"""Of responses that were given up on, so many are remembered: at the bound nothing more of the type is sent."""


class Variant(Enum):
    """The two forms of the protocol."""

    DELTA = "delta"
    SOTW = "sotw"


@dataclass(frozen=True, slots=True)
class Rejection:
    """The last response of a type that the client rejected, and why. ``versions``: of all that was in it."""

    nonce: str
    message: str
    versions: Mapping[str, str]


class TypeState:
    """One type on one stream.

    ``view`` and ``exceptions`` tell what the client holds if it accepted all it was sent; ``view`` None: nothing.
    ``fingerprint`` sums that up, None if unknown.
    ``dirty``: there may be something to send. ``asked``: names to be answered whether or not they changed.
    ``owed``: an answer is due even if it is empty. ``unknown``: names in rejected responses, of which nothing is sure.
    ``unremoved``: names that rejected responses removed, which go again with the next response.
    ``draining``: older versions that the client may still be using; ``drain_at``: when the first of them ends, if not
    sooner. ``given_up``: what was sent before the outstanding message and not answered in time, oldest first.
    """

    __slots__ = (
        "asked",
        "dirty",
        "drain_at",
        "draining",
        "exceptions",
        "explicit",
        "fingerprint",
        "given_up",
        "heartbeat_at",
        "heartbeat_nonce",
        "heartbeat_unacked",
        "interest",
        "nonce",
        "outstanding",
        "overdue",
        "owed",
        "policy",
        "rejection",
        "response",
        "rest",
        "sent_at",
        "sent_order",
        "serial",
        "started",
        "type_url",
        "unknown",
        "unremoved",
        "variant",
        "view",
    )

    def __init__(self, type_url: str, variant: Variant, interest: Interest) -> None:
        self.type_url = type_url
        self.variant = variant
        self.policy: Policy = policy_of(type_url)
        self.interest = interest
        self.started = False
        self.view: View | None = None
        self.exceptions: Exceptions = NO_EXCEPTIONS
        self.fingerprint: int | None = None
        self.dirty = False
        self.asked: frozenset[str] = NOBODY
        self.owed = False
        self.nonce = ""
        self.serial = 0
        self.outstanding: Part | None = None
        self.response: Response | None = None
        self.rest: tuple[Part, ...] = ()
        self.sent_at = 0.0
        self.sent_order = 0
        self.overdue = False
        self.unknown: NameSet = NO_NAMES
        self.unremoved: NameSet = NO_NAMES
        self.draining: Draining = NOTHING_DRAINS
        self.drain_at = NEVER
        self.rejection: Rejection | None = None
        self.heartbeat_at = 0.0
        self.heartbeat_nonce = ""
        self.heartbeat_unacked = False
        self.explicit = False
        self.given_up: tuple[Part, ...] = ()

    @property
    def stage(self) -> Stage:
        """When this type's changes may go out."""
        return self.policy.stage

    @property
    def switches(self) -> bool:
        """Say whether changes of this type move requests to other clusters, so that those must be there first."""
        return self.policy.stage in (Stage.LISTENERS, Stage.ROUTES)

    @property
    def idle(self) -> bool:
        """Say whether the client has answered all that there was to send."""
        return not self.dirty and self.outstanding is None and not self.rest

    def ask(self, names: Collection[str]) -> None:
        """Have these names answered with the next response, whether or not they changed."""
        if names:
            self.asked = self.asked.union(names) if self.asked else frozenset(names)
            self.dirty = True

    def held(self, name: str) -> Resource | None:
        """Return what the client holds under a name, if it accepted all it was sent."""
        return holding(name, self.view, self.exceptions)

    def narrow(self, interest: Interest, unsent: Unsent) -> None:
        """Take over a new interest: forget about the names that it no longer wants, and note what was never sent."""
        before, self.interest = self.interest, interest
        self.fingerprint = None
        self.asked = frozenset(name for name in self.asked if name == "*" or interest.wants(name))
        if self.exceptions:
            for name in [name for name in self.exceptions if not self._still_wants(name)]:
                self.exceptions = self.exceptions.delete(name)
        if self.unknown:
            unwanted = [name for name in self.unknown.names if not interest.wants(name)]
            self.unknown = self.unknown.difference(NameSet.of(unwanted))
        if self.unremoved:
            unwanted = [name for name in self.unremoved.names if not interest.wants(name)]
            self.unremoved = self.unremoved.difference(NameSet.of(unwanted))
        if self.draining:
            self.draining = without(self.draining, [name for name in self.draining if not interest.wants(name)])
        if self.view is not None:
            lacking = unsent.get(before, interest, self.view)
            self.exceptions = lacking.update(self.exceptions) if self.exceptions else lacking

    def _still_wants(self, name: str) -> bool:
        either = (self.view.get(name) if self.view is not None else None, self.exceptions.get(name))
        return self.interest.wants(name) or any(r is not None and wants(self.interest, r) for r in either)

    def respond(self, target: View, hold: Hold, cohorts: Cohorts, encoding: Encoding, now: float) -> Part | None:
        """Take the client to ``target`` and return the message for that, or None if it needs none.

        Must not be called with a response outstanding, except to give up on it.
        """
        # fmt: off
        key = (
            self.interest, self.view, target, hold, self.exceptions, self.asked, self.owed, self.variant,
            self.unremoved,
        )
        # fmt: on
        response = cohorts.again(self.type_url, key, self.serial)
        if response is None:
            make = lambda: self._make(target, hold, cohorts, encoding)  # noqa: E731
            response = cohorts.get(self.type_url, key, make, after=self.serial)
        self.view, self.exceptions, self.fingerprint = response.view, response.exceptions, response.fingerprint
        self.dirty, self.asked, self.owed = False, NOBODY, False
        if response.parts:
            self.rest = response.parts
        self.response = response
        return self.next_part(now)

    def next_part(self, now: float) -> Part | None:
        """Return the next message of a response that was cut into several, or None if there is none."""
        if not self.rest:
            return None
        part, self.rest = self.rest[0], self.rest[1:]
        if self.outstanding is not None:
            self.given_up = (*self.given_up, self.outstanding)
        self.outstanding, self.nonce, self.serial, self.sent_at, self.overdue = (
            part,
            part.nonce,
            part.serial,
            now,
            False,
        )
        self.heartbeat_nonce, self.heartbeat_unacked = "", False
        return part

    def _make(self, target: View, hold: Hold, cohorts: Cohorts, encoding: Encoding) -> Response:
        found = self._with_unremoved(diff(self.interest, self.view, self.exceptions, target, self.asked, hold), target)
        names = [*(resource.name for resource in found.upserts), *found.removals]
        held = self._all_held(names)
        replaced = tuple(held.values())
        fingerprint = self._fingerprint_after(target, found, replaced)
        version = state_version(fingerprint)
        if self.variant is Variant.SOTW:
            cohorts.remember(self.type_url, version, SentState(self.interest, target, found.exceptions))
        parts: tuple[Part, ...] = ()
        full = self.policy.full_state
        if self.variant is Variant.DELTA:
            parts = delta_parts(self.type_url, self.interest, found, version, self.owed, encoding, cohorts.next_nonce)
        elif found.upserts or (self.owed and self.policy.missing is not Missing.SILENT) or (full and found):
            resources = self._everything(target, found.exceptions) if full else found.upserts
            says = common_label(found.upserts) or version
            parts = sotw_parts(self.type_url, resources, says, encoding, cohorts.next_nonce)
            held |= self._all_held(resource.name for resource in resources)
        if parts:
            note_effects(parts, found, held)
        return Response(
            parts=parts,
            view=target,
            exceptions=found.exceptions,
            before=self.view,
            exceptions_before=self.exceptions,
            fingerprint=fingerprint,
            endpoints=endpoints_of(found.upserts),
            replaced=replaced,
            gone=frozenset(found.removals),
            kept=self._kept(replaced, found.removals) if self.switches else NOTHING_DRAINS,
            interest=self.interest,
            names_bytes=self._names_kept_bytes(),
        )

    def _kept(self, replaced: Iterable[Resource], removals: Collection[str]) -> Draining:
        """Return what the client goes on using of what a response replaces.

        A listener that is replaced: until the newer one is accepted, then it drains. A route that is removed: until it
        is unsubscribed, or there again.
        """
        if self.stage is not Stage.LISTENERS:
            names = self.interest.names.intersection(removals)
            replaced = [older for older in replaced if older.name in names]
        return keep_all(NOTHING_DRAINS, replaced, NEVER)

    def _with_unremoved(self, found: Diff, target: View) -> Diff:
        """Return a diff with what rejected responses removed: it goes again with whatever else is sent."""
        if self.unremoved is NO_NAMES or not (found or self.owed):
            return found
        told = {*found.removals, *found.unknown}
        again = [name for name in self.unremoved.names - told if target.get(name) is None]
        return replace(found, removals=tuple(sorted((*found.removals, *again))))

    def _all_held(self, names: Iterable[str]) -> dict[str, Resource]:
        held = ((name, self.held(name)) for name in names)
        return {name: resource for name, resource in held if resource is not None}

    def _names_kept_bytes(self) -> int:
        """Return about what the names take that the key of a response holds, beside those of the subscription."""
        asked = self.asked - self.interest.names if self.asked else self.asked
        return bytes_of(asked) + NAME_SLOT_BYTES * len(self.asked) + 2 * bytes_of(self.exceptions)

    def _fingerprint_after(self, target: View, found: Diff, replaced: tuple[Resource, ...]) -> int:
        """Sum up what the client holds after a diff: O(diff), where the sum before it is known."""
        if self.fingerprint is None or self.view is None:
            return fingerprint_held(self.interest, target, found.exceptions)
        less, more = sum(r.fingerprint for r in replaced), sum(r.fingerprint for r in found.upserts)
        return (self.fingerprint - less + more) & FINGERPRINT_MASK

    def _everything(self, target: View, exceptions: Exceptions) -> list[Resource]:
        """Return all that a full-state SotW client shall hold, in order of name."""
        held = {name: target.get(name) for name in wanted(self.interest, target)}
        held.update(exceptions.items())
        return [resource for _, resource in sorted(held.items()) if resource is not None and resource.encoded]

    def _timed(self) -> dict[str, Resource]:
        """Return what the client holds that has a TTL; not what it may have rejected, which it would reject again."""
        assert self.view is not None, "a response was made"
        not_yet = {resource.name for part in self.rest for resource in part.upserts}.union(self.unknown.names)
        held = {name: self.held(name) for name in {*self.view.timed, *self.exceptions} - not_yet}
        timed = {name: r for name, r in held.items() if r is not None and r.ttl_s is not None}
        return {name: r for name, r in timed.items() if wants(self.interest, r)}

    def heartbeat_every_s(self) -> float:
        """Return how often the client's TTLs have to be renewed, 0 for never: three times within the shortest."""
        return min((r.ttl_s for r in self._timed().values() if r.ttl_s is not None), default=0.0) / 3

    def heartbeat(self, cohorts: Cohorts, encoding: Encoding) -> Part:
        """Return a message that renews the TTLs: name, version and TTL of each resource; with bodies only on SotW."""
        assert self.view is not None
        resources = tuple(resource for _, resource in sorted(self._timed().items()))
        if self.fingerprint is None:
            self.fingerprint = fingerprint_held(self.interest, self.view, self.exceptions)
        version, nonce = state_version(self.fingerprint), cohorts.next_nonce()
        if self.variant is Variant.DELTA:
            part = delta_heartbeat(self.type_url, resources, version, nonce, encoding)
        else:
            # On SotW, Envoy 1.40 takes clusters without bodies for the full set, with nothing in it, and endpoints
            # without bodies bring it down: so they are sent once more as they are.
            again = self._everything(self.view, self.exceptions) if self.policy.full_state else resources
            (whole,) = sotw_parts(self.type_url, again, version, unlimited(encoding), lambda: nonce)
            part = replace(whole, upserts=(), is_heartbeat=True)
        self.heartbeat_nonce, self.heartbeat_unacked = part.nonce, True
        return part

    @property
    def may_be_given_up(self) -> bool:
        """Say whether one more response may go out while the outstanding one is not answered."""
        pinned = sum(len(part.message) for part in self.given_up)
        return len(self.given_up) < IN_FLIGHT_MAX and pinned < IN_FLIGHT_BYTES_MAX

    @property
    def is_trusted(self) -> bool:
        """Say whether the client took all that it was sent and has answered."""
        return self.unknown is NO_NAMES and self.unremoved is NO_NAMES

    def settle(self, message: str | None, drained_at: float, version: str = "") -> Part | None:
        """Take the client's answer to the outstanding response: ACK with None, NACK with its message.

        ``drained_at`` is when the client is done with what it replaces now. ``version`` is what a SotW client says that
        it has, if it rejects. Returns the answered part, or None if nothing was outstanding.
        """
        part = self.outstanding
        if part is None:
            return None
        earlier, self.outstanding, self.given_up = self.given_up, None, ()
        if message is not None or earlier or self.draining or not self.is_trusted:
            self._settle(part, earlier, message, drained_at, version)
        return part

    def settle_late(self, nonce: str, message: str | None, drained_at: float, version: str = "") -> Part | None:
        """Take an answer to a response that was given up on, or return None if it is none; see ``settle``."""
        for number, part in enumerate(self.given_up):
            if part.nonce == nonce:
                earlier, self.given_up = self.given_up[:number], self.given_up[number + 1 :]
                self._settle(part, earlier, message, drained_at, version)
                return part
        return None

    def _settle(
        self, part: Part, earlier: tuple[Part, ...], message: str | None, drained_at: float, version: str
    ) -> None:
        """Take an answer, and what it tells of earlier messages: a client answers in the order in which it is sent.

        An Envoy on SotW answers only the last of several that it got while its clusters warm: if it rejects that one,
        the version that it has tells which of the earlier ones it took.
        """
        for number, before in enumerate(earlier) if earlier else ():
            if message is None or any(version == each.version for each in earlier[number:]):
                self._accept(before, drained_at)
            else:
                self._doubt(before)
        if message is None:
            self._accept(part, drained_at)
        else:
            self._doubt(part)
            self.rejection = Rejection(part.nonce, message, part.versions)

    def _accept(self, part: Part, drained_at: float) -> None:
        if self.unknown is not NO_NAMES:
            self.unknown = self.unknown.difference(part.name_set)
        if self.unremoved is not NO_NAMES:
            self.unremoved = self.unremoved.difference(part.name_set)
        if self.draining:
            self._release(part, drained_at)

    def _release(self, part: Part, drained_at: float) -> None:
        """What is newer was accepted: an older route is out of use, an older or removed listener drains."""
        later = [each for each in (*self.given_up, self.outstanding) if each is not None]
        names = {resource.name for resource in part.upserts}.union(part.gone).difference(
            *(each.names for each in later)
        )
        if self.stage is Stage.LISTENERS:
            self.draining = end_by(self.draining, names, drained_at)
            self.drain_at = min(self.drain_at, drained_at)
        else:  # a removed route that is subscribed still may be used by a listener that drains
            self.draining = without(self.draining, names - (part.gone & self.interest.names))

    def _doubt(self, part: Part) -> None:
        """Hold every name in a message for unknown: Envoy may have applied any part of what it rejects."""
        self.unknown = self.unknown.union(part.name_set)
        if self.variant is Variant.DELTA and part.removals:
            self.unremoved = self.unremoved.union(part.removal_set)
        if self.switches:
            self.draining = united(self.draining, part.kept)

    def held_before(self, name: str) -> Resource | None:
        """Return what the client held under a name before the last response."""
        return holding(name, self.response.before, self.response.exceptions_before) if self.response else None

    def drains(self, draining: Draining) -> None:
        """Note older versions that the client may go on using."""
        self.draining = united(self.draining, draining)
        self.drain_at = min(self.drain_at, next_end(draining))

    def forget_drained(self, now: float) -> None:
        """Forget the versions whose time is over."""
        self.draining = still(self.draining, now)
        self.drain_at = next_end(self.draining)

    def everything_held(self) -> list[Resource]:
        """Return all that the client holds of this type, if it accepted all it was sent. O(held)."""
        names = wanted(self.interest, self.view) if self.view is not None else ()
        return [resource for resource in map(self.held, {*names, *self.exceptions}) if resource is not None]

    def clusters_in_use(self, now: float) -> frozenset[str] | None:
        """Return the clusters that what the client holds, or may hold, of this type refers to. O(held).

        None if that can't be known: the client goes on using something that it has from another server.
        """
        self.forget_drained(now)
        used = clusters_used(self.draining)
        if used is None:
            return None
        found = set(used)
        for resource in self.everything_held():
            if resource.is_claim:
                return None
            found |= clusters_of(resource)
        return frozenset(found)
