"""One resource type on one stream: what is subscribed, what was sent, what is un-ACKed. Delta and SotW alike.

It does not know the other types of the stream (``session``), nor how requests look (``delta``, ``sotw``).
Two rules govern it. What was *sent* drives the next diff, whatever became of it: a rejected version is not sent again
before its content changes, and then always. One response is un-ACKed at a time: what changes meanwhile is in the next.
"""

from collections.abc import Collection, Mapping
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
    unsent,
    wanted,
    wants,
)
from xds.protocol.interest import Interest, bytes_of
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
    sotw_parts,
    state_version,
    unlimited,
)

Lingering = dict[str, tuple[tuple[Resource, float], ...]]
"""Older resources by name, each with the time until which the client may be using it."""


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
    ``lingering``: older resources that the client may still be using, each with the time until which.
    ``superseded``: the response that was outstanding when the wait for its answer was given up.
    """

    __slots__ = (
        "asked",
        "dirty",
        "exceptions",
        "explicit",
        "fingerprint",
        "heartbeat_at",
        "heartbeat_nonce",
        "heartbeat_unacked",
        "interest",
        "lingering",
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
        "superseded",
        "type_url",
        "unknown",
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
        self.lingering: Lingering | None = None
        self.rejection: Rejection | None = None
        self.heartbeat_at = 0.0
        self.heartbeat_nonce = ""
        self.heartbeat_unacked = False
        self.explicit = False
        self.superseded: Part | None = None

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

    def narrow(self, interest: Interest) -> None:
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
        for name in [name for name in self.lingering or () if not interest.wants(name)]:
            assert self.lingering is not None
            del self.lingering[name]
        if self.view is not None:
            lacking = unsent(before, interest, self.view)
            self.exceptions = lacking.update(self.exceptions) if self.exceptions else lacking

    def _still_wants(self, name: str) -> bool:
        either = (self.view.get(name) if self.view is not None else None, self.exceptions.get(name))
        return self.interest.wants(name) or any(r is not None and wants(self.interest, r) for r in either)

    def respond(self, target: View, hold: Hold, cohorts: Cohorts, encoding: Encoding, now: float) -> Part | None:
        """Take the client to ``target`` and return the message for that, or None if it needs none.

        Must not be called with a response outstanding, except to give up on it.
        """
        key = (self.interest, self.view, target, hold, self.exceptions, self.asked, self.owed, self.variant)
        response = cohorts.again(self.type_url, key, self.serial)
        if response is None:
            make = lambda: self._make(target, hold, cohorts, encoding)  # noqa: E731
            response = cohorts.get(self.type_url, key, make, after=self.serial)
        self.view, self.exceptions, self.fingerprint = response.view, response.exceptions, response.fingerprint
        self.dirty, self.asked, self.owed = False, NOBODY, False
        if response.parts:
            self.superseded, self.outstanding, self.rest = self.outstanding, None, response.parts
        self.response = response
        return self.next_part(now)

    def next_part(self, now: float) -> Part | None:
        """Return the next message of a response that was cut into several, or None if there is none."""
        if not self.rest:
            return None
        part, self.rest = self.rest[0], self.rest[1:]
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
        found = diff(self.interest, self.view, self.exceptions, target, self.asked, hold)
        names = [*(resource.name for resource in found.upserts), *found.removals]
        held = [holding(name, self.view, self.exceptions) for name in names]
        replaced = tuple(resource for resource in held if resource is not None)
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
            names_bytes=self._names_kept_bytes(),
        )

    def _names_kept_bytes(self) -> int:
        """Return about what the names take that the key of a response holds."""
        return self.interest.names_bytes + bytes_of(self.asked) + bytes_of(self.exceptions) * 2

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

    def settle(self, message: str | None, drained_at: float) -> Part | None:
        """Take the client's answer to the outstanding response: ACK with None, NACK with its message.

        ``drained_at`` is when the client is done with what it replaces now. Returns the answered part, or None if
        nothing was outstanding.
        """
        part = self.outstanding
        if part is None:
            return None
        self.outstanding = None
        if message is not None:
            self.reject(part, message)
            return part
        if self.unknown:
            self.unknown = self.unknown.difference(part.name_set)
        if self.lingering:
            self._release(self.lingering, part, drained_at)
        return part

    def _release(self, lingering: Lingering, part: Part, drained_at: float) -> None:
        """What is newer was accepted: an older route is out of use, an older or removed listener drains."""
        names = [resource.name for resource in part.upserts]
        if self.stage is not Stage.LISTENERS:
            for name in names:
                lingering.pop(name, None)
            return
        assert self.response is not None
        for name in lingering.keys() & self.response.gone.union(names):
            lingering[name] = tuple((older, min(until, drained_at)) for older, until in lingering[name])

    def reject(self, part: Part, message: str) -> None:
        """Hold every name in a rejected response for unknown: Envoy may have applied any part of it."""
        self.unknown = self.unknown.union(part.name_set)
        self.rejection = Rejection(part.nonce, message, part.versions)
        for name in part.names:
            self.linger(self.held_before(name), until=float("inf"))

    def held_before(self, name: str) -> Resource | None:
        """Return what the client held under a name before the last response."""
        return holding(name, self.response.before, self.response.exceptions_before) if self.response else None

    def linger(self, resource: Resource | None, *, until: float) -> None:
        """Note that the client may go on using an older resource until that time."""
        if resource is None or not (resource.is_claim or clusters_of(resource)):
            return
        if self.lingering is None:
            self.lingering = {}
        earlier = [pair for pair in self.lingering.get(resource.name, ()) if pair[0] is not resource]
        self.lingering[resource.name] = (*earlier, (resource, until))

    def everything_held(self) -> list[Resource]:
        """Return all that the client holds of this type, if it accepted all it was sent. O(held)."""
        names = wanted(self.interest, self.view) if self.view is not None else ()
        return [resource for resource in map(self.held, {*names, *self.exceptions}) if resource is not None]

    def clusters_in_use(self, now: float) -> frozenset[str] | None:
        """Return the clusters that what the client holds, or may hold, of this type refers to. O(held).

        None if that can't be known: the client goes on using something that it has from another server.
        """
        self._forget_drained(now)
        held = self.everything_held()
        held += [resource for pairs in (self.lingering or {}).values() for resource, _ in pairs]
        found: set[str] = set()
        for resource in held:
            if resource.is_claim:
                return None
            found |= clusters_of(resource)
        return frozenset(found)

    def _forget_drained(self, now: float) -> None:
        for name, pairs in list((self.lingering or {}).items()):
            assert self.lingering is not None
            self.lingering[name] = tuple(pair for pair in pairs if pair[1] > now)
            if not self.lingering[name]:
                del self.lingering[name]
