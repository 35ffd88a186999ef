"""The state of one resource type on one stream, delta or SotW: an immutable value.

Clients in the same state share one value; each method returns the next one. Two rules govern it:

1. The next diff starts from what was *sent*, whether it was accepted or not. A rejected version is therefore not sent
   again, and the resource is sent when its content changes.
2. One response at a time waits for its answer, and later changes go into the next response. Several responses are in
   flight only after the hold timeout of an earlier one has passed.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple
from weakref import WeakValueDictionary

from immutables import Map

from xds.model.resource import Resource
from xds.model.types import VIRTUAL_HOST
from xds.model.view import FINGERPRINT_MASK, View
from xds.protocol.convergence import EVERYTHING, UNSENT_MAX, oldest, split_at, with_revision
from xds.protocol.diff import (
    EMPTY_SET,
    NO_OVERRIDES,
    Diff,
    Hold,
    Overrides,
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
    add_all_draining,
    clusters_used,
    end_draining_by,
    merge_draining,
    next_end,
    unexpired_draining,
    without_draining,
    without_end,
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

NO_HOST = "/*"
"""The end of the name of a virtual host that no route configuration has; its beginning is the name of the route."""
INCOMPLETE = "-incomplete"
"""The end of a SotW version of which the client lacks something, so that it means nothing when it returns with it."""
IN_FLIGHT_MAX = 9
"""Maximum responses of a type in flight; then no more of the type is sent."""
IN_FLIGHT_BYTES_MAX = 8 * 1024 * 1024
"""Maximum bytes of all responses of a type in flight but the last; then no more of the type is sent."""


NOTHING_HELD: Mapping[str, int] = Map()


class Kind:
    """The constant part of the states of a type on a stream, compared by identity. ``slot`` is the stream's number."""

    __slots__ = ("__weakref__", "expires", "is_routing", "policy", "slot", "stage", "type_url", "variant")

    def __init__(self, type_url: str, variant: Variant, slot: int = 0) -> None:
        self.type_url = type_url
        self.variant = variant
        self.slot = slot
        self.policy = policy_of(type_url)
        self.stage = self.policy.stage
        self.is_routing = self.stage in (Stage.LISTENERS, Stage.ROUTES)
        """Resources of this type send requests to clusters, which the client must have first."""
        self.expires = variant is Variant.DELTA or self.policy.expires_on_sotw
        """The client is sent the TTL of resources."""


class Kinds:
    """The table that makes the kinds of equal streams one object while any state uses it."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[str, Variant, int], Kind] = WeakValueDictionary()

    def get(self, type_url: str, variant: Variant, slot: int) -> Kind:
        """Return the shared kind."""
        kind = self._known.get((type_url, variant, slot))
        if kind is None:
            kind = self._known[type_url, variant, slot] = Kind(type_url, variant, slot)
        return kind


@dataclass(frozen=True, slots=True)
class Rejection:
    """A response that the client rejected. ``versions``: resource name to version, "" if removed.

    Without ``versions``, it was on an earlier stream, and had all the names that are still in doubt.
    ``key``: the content of the response (``Part.content_key``), b"" if it is not known.
    """

    nonce: str
    message: str
    versions: Mapping[str, str]
    key: bytes = b""


REJECTIONS_MAX = 8
"""Rejections of one type that are kept for a client, the last ones."""


def with_rejection(older: tuple[Rejection, ...], last: Rejection) -> tuple[Rejection, ...]:
    """Return the rejections of a type, newest first, after the client rejected another response.

    One whose names are all in the last one is of no interest any more.
    """
    kept = (
        each
        for each in older
        if each.versions is not last.versions and not each.versions.keys() <= last.versions.keys()
    )
    return (last, *kept)[:REJECTIONS_MAX]


class Heartbeat(NamedTuple):
    """The time of the next TTL renewal, 0 for none, and the nonce of the last one, "" after a later response."""

    at: float = 0.0
    nonce: str = ""
    unanswered: bool = False


NO_HEARTBEAT = Heartbeat()


class TypeState(NamedTuple):
    """One type on one stream."""

    kind: Kind
    subscription: Subscription = NOTHING
    explicit: bool = False
    """A SotW client has subscribed to names before, so that a request without names is no wildcard."""
    sent_order: int = 0
    """``Order.messages_sent`` when the last response of this type was sent; on per-type streams only."""
    nacked_names: NameSet = NO_NAMES
    """Names in rejected responses: the client may have applied any part of such a response."""
    last_accepted: Overrides = NO_OVERRIDES
    """SotW full state: by NACKed name, the resource that the client accepted last, None if it never accepted one."""
    blamed: frozenset[str] = EMPTY_SET
    """SotW full state: the names in the message of the last NACK; all names of the response if it has none."""
    is_known: bool = True
    """SotW full state: it is known which resources the client had before the stream."""
    nacked_removals: NameSet = NO_NAMES
    """Names that rejected delta responses removed. The next response repeats the removals."""
    draining: Draining = NOTHING_DRAINS
    """Older versions that the client may still use."""
    drain_at: float = NEVER
    """When ``draining`` must be checked for ended versions: no later than the first end."""
    heartbeat: Heartbeat = NO_HEARTBEAT
    rejected_at: int = 0
    """The oldest revision of the rejected responses whose names are still NACKed, 0 for none."""

    # Each response sets the fields from here on (``respond``).
    view: View | None = None
    """The view that the client was updated to, None for no view yet."""
    overrides: Overrides = NO_OVERRIDES
    """Differences of the client from ``view``: by name, the resource that it really has, None for none. Held removals
    and updates, and versions reported from an earlier stream, are here."""
    fingerprint: int | None = None
    """The fingerprint of all resources that the client holds, None if it must be computed."""
    dirty: bool = False
    """There may be something to send."""
    required_names: frozenset[str] = EMPTY_SET
    """Names that the next response must contain, changed or not."""
    response_due: bool = False
    """A response must be sent even if it is empty."""
    owed_unsent: tuple[int, ...] = ()
    """The revisions with changes that were not sent yet, oldest first (``xds.protocol.convergence``)."""
    owed_held: Mapping[str, int] = NOTHING_HELD
    """By name, the oldest revision with changes that are held back; names without an override do not count."""

    # Each message that is sent sets the fields from here on.
    remaining: tuple[Part, ...] = ()
    """The parts of the last response that were not sent yet."""
    owed_remaining: int = 0
    """The oldest revision of ``remaining``."""
    nonce: str = ""
    """The nonce of the last message, answered or not."""
    serial: int = 0
    """The nonce of the last message as a number."""

    # Each answer resets the fields from here on (``without_in_flight``).
    in_flight: tuple[Part, ...] = ()
    """Messages that are not answered, oldest first. The hold timeout of all but the last has passed."""
    owed_in_flight: tuple[int, ...] = ()
    """The oldest revision of each of them, 0 for none."""
    before: tuple[View | None, Overrides] | None = None
    """``view`` and ``overrides`` before the last response in flight."""
    sent_at: float = 0.0
    """When the last message was sent, by the coarse clock."""
    overdue: bool = False
    """The missing answer was reported."""

    @property
    def type_url(self) -> str:
        """The type URL."""
        return self.kind.type_url

    @property
    def outstanding(self) -> Part | None:
        """The last message in flight, None if the client has answered all."""
        return self.in_flight[-1] if self.in_flight else None

    @property
    def idle(self) -> bool:
        """Say whether there is nothing to send and nothing in flight."""
        return not (self.dirty or self.in_flight or self.remaining)

    @property
    def is_full_state(self) -> bool:
        """Say whether each response has all resources, so that the client removes those that are not in it."""
        return self.kind.variant is Variant.SOTW and self.kind.policy.full_state

    @property
    def _is_partial_sotw(self) -> bool:
        """Say whether a SotW client rejected resources that its next responses may lack: it does not have them all."""
        kind = self.kind
        return kind.variant is Variant.SOTW and not kind.policy.full_state and self.nacked_names is not NO_NAMES

    @property
    def is_trusted(self) -> bool:
        """Say whether the client accepted every response that it has answered."""
        return self.nacked_names is NO_NAMES and self.nacked_removals is NO_NAMES

    # --- Revisions (``xds.protocol.convergence``) --------------------------------------------------------------------

    @property
    def owed_since(self) -> int:
        """The oldest revision that the client has not accepted of this type, 0 if there is none."""
        since = self.owed_remaining
        for revision in self.owed_in_flight:
            if revision and (not since or revision < since):
                since = revision
        if self.owed_unsent and (not since or self.owed_unsent[0] < since):
            since = self.owed_unsent[0]
        if self.owed_held:
            return oldest((since, *[self.owed_held.get(name, 0) for name in self.overrides]))
        return since

    def mark(self, revision: int) -> "TypeState":
        """Note that a revision changed resources of the client's."""
        return self._replace(dirty=True, owed_unsent=with_revision(self.owed_unsent, revision))

    def owing(self, revision: int, *, lag: int = 0) -> "TypeState":
        """Note that what is to be sent is owed since a revision, 0 for none.

        With a ``lag`` the client may be sent content first that is so many revisions older, and then each newer one.
        """
        if not revision or not (self.dirty or self.response_due):
            return self
        between = range(revision - lag + 1, revision + 1) if lag > 0 else (revision,)
        unsent: tuple[int, ...] = ()
        for each in sorted({*between[: UNSENT_MAX - 1], revision, *self.owed_unsent}):
            unsent = with_revision(unsent, each)
        return self._replace(owed_unsent=unsent)

    # --- Resources that the client holds -----------------------------------------------------------------------------

    def held(self, name: str) -> Resource | None:
        """Return the resource that the client holds under a name, provided that it accepts all it was sent."""
        return holding(name, self.view, self.overrides)

    def held_before(self, name: str) -> Resource | None:
        """Return the resource that the client held under a name before the response in flight; None without one."""
        return holding(name, *self.before) if self.before is not None else None

    def everything_held(self) -> list[Resource]:
        """Return all resources of the type that the client holds, provided that it accepts all it was sent. O(held)."""
        names = wanted(self.subscription, self.view) if self.view is not None else ()
        return [resource for resource in map(self.held, {*names, *self.overrides}) if resource is not None]

    def clusters_in_use(self, now: float) -> frozenset[str] | None:
        """Return the clusters that the resources which the client holds or drains refer to. O(held).

        What a response in flight has and replaces counts too: the client has the latter until it accepts the response,
        and may subscribe again to what it has unsubscribed from.
        None if they are unknown: the client uses a resource that another server process sent, or may use an older
        version, of which it does not tell, of one that it asked for and has not accepted.
        """
        used, unanswered = clusters_used(unexpired_draining(self.draining, now)), (*self.in_flight, *self.remaining)
        if used is None or self.view is None or any(part.new for part in unanswered):
            return None
        if any(self.held(name) is None for name in self.required_names):
            return None
        found = set(used)
        under_way = (resource for part in unanswered for resource in (*part.upserts, *part.replaced))
        for resource in (*self.everything_held(), *under_way):
            if resource.is_version_only:
                return None
            found |= clusters_of(resource)
        return frozenset(found)

    # --- Subscriptions -----------------------------------------------------------------------------------------------

    def require(self, names: Collection[str]) -> "TypeState":
        """Require these names in the next response, changed or not."""
        if not names:
            return self
        return self._replace(
            required_names=self.required_names.union(names) if self.required_names else frozenset(names), dirty=True
        )

    def without_required(self, names: Iterable[str]) -> "TypeState":
        """Require these names no longer, apart from those that the client subscribes to by name."""
        left = self.required_names.difference(names).union(self.required_names & self.subscription.names)
        return self._replace(required_names=left) if left != self.required_names else self

    def without_remaining(self) -> "TypeState":
        """Send no more parts of the last response; what they have is decided anew, by another snapshot."""
        overrides, again = self.overrides, set(self.required_names)
        for part in self.remaining:
            had = {name: had for name, had in part.had_before.items() if self._wants_still(self.subscription, name)}
            overrides = overrides.update(had)
            again.update(self.subscription.names.intersection(part.names))
        unsent = tuple(sorted({*self.owed_unsent, self.owed_remaining} - {0}))
        return self._replace(
            remaining=(), owed_remaining=0, owed_unsent=unsent, overrides=overrides, fingerprint=None, dirty=True,
            required_names=frozenset(again),
        )  # fmt: skip

    def change_subscription(self, subscription: Subscription, unsent: Unsent) -> "TypeState":
        """Set the subscription: drop what is known of names that it lacks, and record new names as not sent."""
        changes: dict[str, object] = {"subscription": subscription, "fingerprint": None}
        if self.required_names:
            hosts = self.type_url == VIRTUAL_HOST
            changes["required_names"] = frozenset(
                name
                for name in self.required_names
                if name == "*" or subscription.wants(name) or (hosts and name.endswith(NO_HOST))
            )
        overrides = self.overrides
        for name in [name for name in overrides if not self._wants_still(subscription, name)]:
            overrides = overrides.delete(name)
        if self.nacked_names is not NO_NAMES:
            changes["nacked_names"] = self._still_wanted(self.nacked_names, subscription)
            changes["last_accepted"] = Map(
                {name: held for name, held in self.last_accepted.items() if subscription.wants(name)}
            )
        if self.nacked_removals is not NO_NAMES:
            changes["nacked_removals"] = self._still_wanted(self.nacked_removals, subscription)
        if self.rejected_at and self._replace(**changes).is_trusted:  # type: ignore[arg-type]
            changes["rejected_at"] = 0
        if self.draining:
            unwanted = [name for name in self.draining if not subscription.wants(name)]
            changes["draining"] = without_draining(self.draining, unwanted)
        if self.view is not None:
            lacking = unsent.get(self.subscription, subscription, self.view)
            overrides = lacking.update(overrides) if overrides else lacking
        state = self._replace(overrides=overrides, **changes)  # type: ignore[arg-type]
        if not self.in_flight or self.kind.stage is not Stage.ROUTES:
            return state
        # Of a route that is subscribed again, the client takes what is still on its way to it, and may then use it.
        names = subscription.names - self.subscription.names
        coming = [each for part in self.in_flight for each in part.upserts if each.name in names]
        return state.add_draining(add_all_draining(NOTHING_DRAINS, coming, NEVER)) if coming else state

    def _wants_still(self, subscription: Subscription, name: str) -> bool:
        if subscription.wants(name):
            return True
        if self.type_url == VIRTUAL_HOST and subscription.names >= self.subscription.names:
            return True  # nothing is dropped, and a virtual host that is gone has no alias by which it could be found
        target, held = self.view.get(name) if self.view is not None else None, self.overrides.get(name)
        if self.view is not None and target is not None and wants(subscription, self.view, target):
            return True
        return held is not None and not subscription.names.isdisjoint(held.aliases)

    def _still_wanted(self, names: NameSet, subscription: Subscription) -> NameSet:
        return names.difference(NameSet.of(name for name in names.names if not self._wants_still(subscription, name)))

    # --- Responses ---------------------------------------------------------------------------------------------------

    def respond(
        self,
        target: View,
        hold: Hold,
        response_cache: ResponseCache,
        encoding: Encoding,
        now: float,
        *,
        revision: int,
        is_newest: bool,
    ) -> tuple["TypeState", Response]:
        """Update the client to ``target``, the view at a revision, which may be the newest one.

        The first part of the response, if it has any, is then in flight.

        Must not be called while a response is in flight, unless its hold timeout has passed.
        """
        kind = self.kind
        # fmt: off
        key = (
            self.subscription, self.view, target, hold, self.overrides, self.required_names, self.response_due,
            kind.variant, self.nacked_removals, self.last_accepted,
            self.nacked_names if self._is_partial_sotw else None,
        )
        # fmt: on
        response = response_cache.get_last(kind.type_url, key, self.serial)
        if response is None:
            make = lambda: self._response(target, hold, response_cache, encoding)  # noqa: E731
            response = response_cache.get(kind.type_url, key, make, after=self.serial)
        heartbeat = self.heartbeat
        state = self._replace(heartbeat=Heartbeat(heartbeat.at)) if heartbeat.nonce and response.parts else self
        if self._is_partial_sotw:
            state = state._forget_rejected_gone(target, response.overrides)
        since, unsent = split_at(self.owed_unsent, revision, is_newest=is_newest)
        owed_held: Mapping[str, int] = NOTHING_HELD
        if response.overrides or self.owed_held:
            since, owed_held = self._owed_after(response.overrides, since, revision)
        held = (response.view, response.overrides, response.fingerprint, False, EMPTY_SET, False, unsent, owed_held)
        if not response.parts:
            return TypeState._make(state[:_HELD] + held + state[_SENT:]), response
        part, *remaining = response.parts
        sent = (
            tuple(remaining),
            since if remaining else 0,
            part.nonce,
            part.serial,
            (*self.in_flight, part),
            (*self.owed_in_flight, since),
            (self.view, self.overrides),
            now,
            False,
        )
        return TypeState._make(state[:_HELD] + held + sent), response

    def _forget_rejected_gone(self, target: View, overrides: Overrides) -> "TypeState":
        """Forget rejected resources that are gone, as their removals are not sent: they demand nothing any more."""
        gone = [n for n in self.nacked_names.names if target.known_as(n) is None and n not in overrides]
        if not gone:
            return self
        state = self._replace(nacked_names=self.nacked_names.difference(NameSet.of(gone)))
        return state._replace(rejected_at=0) if state.is_trusted else state

    def _owed_after(self, overrides: Overrides, since: int, revision: int) -> tuple[int, Mapping[str, int]]:
        """Return the oldest revision of what a response sends, and by name that of what it holds back.

        ``since`` is the oldest revision of the changes that were not sent before it.
        """
        before = self.owed_held
        released = [at for name, at in before.items() if name in self.overrides and name not in overrides]
        held = {name: before.get(name) or since or revision for name in overrides}
        return oldest((since, *released)), held or NOTHING_HELD

    def send_part(self, now: float) -> "TypeState":
        """Send the next part of the response. ``remaining`` must not be empty."""
        part = self.remaining[0]
        return self._replace(
            remaining=self.remaining[1:],
            owed_remaining=self.owed_remaining if len(self.remaining) > 1 else 0,
            in_flight=(*self.in_flight, part),
            owed_in_flight=(*self.owed_in_flight, self.owed_remaining),
            nonce=part.nonce,
            serial=part.serial,
            sent_at=now,
            overdue=False,
            heartbeat=Heartbeat(self.heartbeat.at) if self.heartbeat.nonce else self.heartbeat,
        )

    @property
    def may_send_another(self) -> bool:
        """Say whether the limits allow another response in flight."""
        pinned = sum(len(part.message) for part in self.in_flight[:-1])
        return len(self.in_flight) < IN_FLIGHT_MAX and pinned < IN_FLIGHT_BYTES_MAX

    def _response(self, target: View, hold: Hold, response_cache: ResponseCache, encoding: Encoding) -> Response:
        kind, subscription = self.kind, self.subscription
        found = self._with_nacked_removals(
            diff(subscription, self.view, self.overrides, target, self.required_names, hold), target
        )
        changed = found
        found = self._with_last_accepted(found)
        names = [*(resource.name for resource in found.upserts), *found.removals]
        held = self._all_held(names)
        replaced = tuple(held.values())
        if found is changed:
            fingerprint = self._fingerprint_after(target, found, replaced)
        else:
            fingerprint = fingerprint_held(subscription, target, found.overrides)
        version = state_version(fingerprint)
        complete = not (self._is_partial_sotw and self.nacked_names.names.difference(r.name for r in found.upserts))
        if kind.variant is Variant.SOTW and complete:
            response_cache.remember(kind.type_url, version, SentState(subscription, target, found.overrides))
        parts: tuple[Part, ...] = ()
        full = kind.policy.full_state
        says = (common_label(found.upserts) or version) if complete else version + INCOMPLETE
        if kind.variant is Variant.DELTA:
            parts = delta_parts(
                kind.type_url, subscription, found, says, self.response_due, encoding, response_cache.next_nonce
            )
        elif found.upserts or (self.response_due and kind.policy.missing is not Missing.SILENT) or (full and found):
            resources = self._everything(target, found.overrides) if full else found.upserts
            parts = sotw_parts(kind.type_url, resources, says, encoding, response_cache.next_nonce)
            held |= self._all_held(resource.name for resource in resources)
        if parts:
            note_effects(parts, found, held)
        return Response(
            parts=parts,
            view=target,
            overrides=found.overrides,
            fingerprint=fingerprint,
            endpoints=endpoints_of(found.upserts),
            replaced=replaced,
            gone=frozenset(found.removals),
            still_used=self._still_used(replaced, found.removals) if kind.is_routing else NOTHING_DRAINS,
            subscription=subscription,
            names_bytes=self._key_names_bytes(),
        )

    def _still_used(self, replaced: Iterable[Resource], removals: Collection[str]) -> Draining:
        """Return the replaced versions that the client still uses.

        It uses a replaced listener until it has accepted the newer one and the older one has drained, and a removed
        route until it unsubscribes from the route or receives it again.
        """
        if self.kind.stage is not Stage.LISTENERS:
            names = self.subscription.names.intersection(removals)
            replaced = [older for older in replaced if older.name in names]
        return add_all_draining(NOTHING_DRAINS, replaced, NEVER)

    def _with_nacked_removals(self, found: Diff, target: View) -> Diff:
        """Add the removals of rejected responses to a diff that is sent."""
        if self.nacked_removals is NO_NAMES or not (found or self.response_due):
            return found
        said = {*found.removals, *found.nonexistent, *(resource.name for resource in found.upserts)}
        said.update(name for name, kept in found.overrides.items() if kept is not None)
        again = [name for name in self.nacked_removals.names - said if target.get(name) is None]
        return replace(found, removals=tuple(sorted((*found.removals, *again))))

    def _with_last_accepted(self, found: Diff) -> Diff:
        """Replace held versions that the client rejected by those that it accepted before."""
        older = {name: self.last_accepted.get(name) for name in found.overrides} if self.last_accepted else {}
        kept = {name: resource for name, resource in older.items() if resource is not None and resource.encoded}
        return replace(found, overrides=found.overrides.update(kept)) if kept else found

    def _all_held(self, names: Iterable[str]) -> dict[str, Resource]:
        held = ((name, self.held(name)) for name in names)
        return {name: resource for name, resource in held if resource is not None}

    def _key_names_bytes(self) -> int:
        """Return the approximate bytes of the names in a cache key, without those of the subscription."""
        required = self.required_names - self.subscription.names if self.required_names else self.required_names
        return bytes_of(required) + NAME_SLOT_BYTES * len(self.required_names) + 2 * bytes_of(self.overrides)

    def _fingerprint_after(self, target: View, found: Diff, replaced: tuple[Resource, ...]) -> int:
        """Return the fingerprint after a diff. O(diff) if the fingerprint before it is known, else O(held)."""
        if self.fingerprint is None or self.view is None:
            return fingerprint_held(self.subscription, target, found.overrides)
        less, more = sum(r.fingerprint for r in replaced), sum(r.fingerprint for r in found.upserts)
        return (self.fingerprint - less + more) & FINGERPRINT_MASK

    def _everything(self, target: View, overrides: Overrides) -> list[Resource]:
        """Return all resources of a full-state SotW response, sorted by name."""
        held = {name: target.get(name) for name in wanted(self.subscription, target)}
        held.update(overrides.items())
        return [resource for _, resource in sorted(held.items()) if resource is not None and resource.encoded]

    # --- Answers -----------------------------------------------------------------------------------------------------

    def find(self, nonce: str) -> Part | None:
        """Return the message in flight with this nonce, or None."""
        for part in self.in_flight:
            if part.nonce == nonce:
                return part
        return None

    def take_answer(self, part: Part, message: str | None, drained_at: float, version: str = "") -> "TypeState":
        """Apply the answer to a message in flight, also a late one: an ACK (``message`` None) or a NACK.

        A client answers in sending order, so an answer also applies to the messages before it. On SotW an Envoy whose
        clusters are warming answers only the last of several messages. If it rejects that one, ``version``, its
        current version, shows which of the earlier messages it accepted.
        ``drained_at`` is when listeners that the client replaces now have drained.
        """
        at = self.in_flight.index(part)
        earlier, later = self.in_flight[:at], self.in_flight[at + 1 :]
        owed = self.owed_in_flight
        state = self._replace(in_flight=later, owed_in_flight=owed[at + 1 :]) if later else self.without_in_flight()
        if message is None and not (earlier or self.draining or self.rejected_at) and self.is_trusted and self.is_known:
            return state
        for number, before in enumerate(earlier):
            if message is None or any(version == each.version for each in earlier[number:]):
                state = state._accept(before, drained_at)
            else:
                state = state._reject(before, "", owed[number])
        return state._accept(part, drained_at) if message is None else state._reject(part, message, owed[at])

    def without_in_flight(self) -> "TypeState":
        """Return the state without messages in flight, which clients that were sent the same share again."""
        return TypeState._make((*self[:_ANSWERED], (), (), None, 0.0, False))

    def _accept(self, part: Part, drained_at: float) -> "TypeState":
        state = self
        if self.is_full_state:
            state = state._replace(nacked_names=NO_NAMES, last_accepted=NO_OVERRIDES, blamed=EMPTY_SET, is_known=True)
        if state.nacked_names is not NO_NAMES:
            rejected = state.nacked_names
            state = state._replace(nacked_names=rejected.difference(part.accepted_set))
            if state.required_names:  # a later response in flight had what was to be sent once more
                state = state.without_required(rejected.names.intersection(part.accepted_set.names))
        if state.nacked_removals is not NO_NAMES:
            state = state._replace(nacked_removals=state.nacked_removals.difference(part.accepted_set))
        if state.rejected_at and state.is_trusted:
            state = state._replace(rejected_at=0)
        return state._release(part, drained_at) if state.draining else state

    def _release(self, part: Part, drained_at: float) -> "TypeState":
        """Apply an ACK to older versions: replaced listeners start to drain, replaced routes are no longer used."""
        names = {resource.name for resource in part.upserts}.union(part.gone)
        if self.is_full_state:
            names.update(self.draining)
        names = names.difference(*(each.names for each in self.in_flight))
        if self.kind.stage is Stage.LISTENERS:
            ending = end_draining_by(self.draining, names, drained_at)
            return self._replace(draining=ending, drain_at=min(self.drain_at, drained_at))
        if self.kind.policy.missing is Missing.SILENT:
            # A draining listener may use a removed route that is still subscribed.
            names -= {name for name in names & self.subscription.names if self.held(name) is None}
        return self._replace(draining=without_draining(self.draining, names))

    def _reject(self, part: Part, message: str, since: int) -> "TypeState":
        """Apply a NACK: Envoy may have applied any part of the rejected message.

        ``since`` is the oldest revision of the message, 0 for none: then it was sent for no revision's sake.
        """
        names, subscription = part.name_set, self.subscription
        if not subscription.open_ended and not subscription.names.issuperset(names.names):
            # The client has unsubscribed from the others.
            sent = (*part.upserts, *part.replaced)
            by_alias = [each.name for each in sent if not subscription.names.isdisjoint(each.aliases)]
            names = NameSet.of(subscription.names.intersection(names.names).union(by_alias))
        state = self._replace(nacked_names=self.nacked_names.union(names))
        if names.names or part.gone:  # else the client rejected nothing that it is subscribed to
            rejected_at = min(self.rejected_at or since or EVERYTHING, since or EVERYTHING)
            state = state._replace(rejected_at=rejected_at)
        if not self.is_full_state:
            # The good ones go again with the next response: only an ACK of them ends that the client has rejected them.
            # Those that an earlier message did not name, and this one does, do not.
            bad = part.named_in(message)
            again = names.names.intersection(each.name for each in part.upserts) - bad
            unblamed = self.required_names - bad.intersection(self.nacked_names.names)
            state = state._replace(required_names=unblamed | again) if again or bad else state
            if self.kind.variant is Variant.SOTW:
                state = state._without_asked_again(bad)
        if self.kind.variant is Variant.DELTA:
            if part.removals:
                state = state._replace(nacked_removals=self.nacked_removals.union(part.removal_set))
        elif self.is_full_state:
            had = part.had_before
            if not self.is_known:
                had = Map({name: resource or _unknown_version(self.type_url, name) for name, resource in had.items()})
            last_accepted = had.update(self.last_accepted) if self.last_accepted else had
            blamed = part.named_in(message)
            for name in blamed.intersection(self.overrides):
                if (older := last_accepted.get(name)) is not None and older.is_version_only:
                    # The client rejects the held version and is not known to have accepted any.
                    last_accepted = last_accepted.set(name, None)
            state = state._replace(last_accepted=last_accepted, blamed=blamed)
        if self.kind.is_routing:
            unwanted = [name for name in part.still_used if not self._wants_still(subscription, name)]
            used = without_draining(part.still_used, unwanted)
            before = self.draining
            if self.kind.stage is Stage.ROUTES:
                before = without_end(before, (resource.name for resource in part.upserts))
            state = state._replace(draining=merge_draining(before, used))
        return state

    def _without_asked_again(self, names: frozenset[str]) -> "TypeState":
        """Return the state of a SotW client that read a message with these names after it had asked for them again."""
        overrides = self.overrides
        asked_again = [name for name in names & self.required_names if name in overrides and overrides[name] is None]
        if not asked_again:
            return self
        for name in asked_again:
            overrides = overrides.delete(name)
        required_names = self.required_names.difference(asked_again)
        return self._replace(required_names=required_names, overrides=overrides, fingerprint=None)

    @property
    def refused(self) -> frozenset[str]:
        """The blamed names of which the client never accepted any version."""
        return frozenset(
            name for name in self.blamed if name in self.last_accepted and self.last_accepted[name] is None
        )

    # --- Draining resources ------------------------------------------------------------------------------------------

    def add_draining(self, draining: Draining) -> "TypeState":
        """Add older versions that the client may still use."""
        if not draining:
            return self
        return self._replace(
            draining=merge_draining(self.draining, draining), drain_at=min(self.drain_at, next_end(draining))
        )

    def forget_drained(self, now: float) -> "TypeState":
        """Remove the versions that have ended."""
        left = unexpired_draining(self.draining, now)
        return self._replace(draining=left, drain_at=next_end(left))

    # --- TTLs --------------------------------------------------------------------------------------------------------

    def _timed(self) -> dict[str, Resource]:
        """Return the client's resources with a TTL, without NACKed ones, whose renewal it would reject too.

        Good resources of a rejected response are renewed: they are sent once more with the next response, and the
        client most likely has them.
        """
        assert self.view is not None, "renewed before the first response"
        not_yet = {resource.name for part in self.remaining for resource in part.upserts}
        not_yet |= self.nacked_names.names - self.required_names
        held = {name: self.held(name) for name in {*self.view.timed, *self.overrides} - not_yet}
        timed = {name: r for name, r in held.items() if r is not None and r.ttl_s is not None}
        return {name: r for name, r in timed.items() if wants(self.subscription, self.view, r)}

    def heartbeat_every_s(self) -> float:
        """Return the interval of TTL renewals in seconds, a third of the shortest TTL; 0 without TTLs."""
        return min((r.ttl_s for r in self._timed().values() if r.ttl_s is not None), default=0.0) / 3

    def renew(self, at: float, response_cache: ResponseCache, encoding: Encoding) -> tuple["TypeState", Part]:
        """Return a message that renews the TTLs: name, version and TTL of each resource, on SotW with bodies.

        ``at`` is the time of the next renewal.
        """
        assert self.view is not None
        kind = self.kind
        resources = self._to_renew()
        fingerprint = self.fingerprint
        if fingerprint is None:
            fingerprint = fingerprint_held(self.subscription, self.view, self.overrides)
        version, nonce = state_version(fingerprint), response_cache.next_nonce()
        if self.remaining or self._is_partial_sotw:
            version += INCOMPLETE
        if kind.variant is Variant.DELTA:
            part = delta_heartbeat(kind.type_url, resources, version, nonce, encoding)
        else:
            # On SotW, Envoy 1.40 removes all clusters and listeners after a response without bodies, and renews no
            # endpoints or routes by one (docs/envoy-behaviour.md#ttl).
            (whole,) = sotw_parts(kind.type_url, resources, version, unlimited(encoding), lambda: nonce)
            part = replace(whole, upserts=(), is_heartbeat=True)
        return self._replace(fingerprint=fingerprint, heartbeat=Heartbeat(at, part.nonce, True)), part

    def _to_renew(self) -> tuple[Resource, ...]:
        """Return the resources of a renewal, sorted by name: those with a TTL, on full-state SotW all."""
        assert self.view is not None
        if self.is_full_state:
            return tuple(self._everything(self.view, self.overrides))
        return tuple(resource for _, resource in sorted(self._timed().items()))

    def reject_renewal(self) -> tuple["TypeState", Part]:
        """Apply the client's NACK of the last renewal; return also what it renewed.

        No response was sent since, so the client's resources are those of the renewal: it need not be kept.

        On delta the client no longer holds the versions that were renewed, because their TTL expired (the server was
        stopped, or the connection was slow): they are sent again with their bodies. On SotW the renewal had the bodies:
        its names count as NACKed, and are not renewed any more.
        """
        part = Part(self.heartbeat.nonce, b"", self._to_renew(), (), "", is_heartbeat=True)
        if self.kind.variant is Variant.DELTA:
            return self.require(part.names), part
        return self._replace(nacked_names=self.nacked_names.union(part.name_set), rejected_at=EVERYTHING), part


_HELD, _SENT, _ANSWERED = (TypeState._fields.index(name) for name in ("view", "remaining", "in_flight"))


def _unknown_version(type_url: str, name: str) -> Resource:
    """Return a resource without a body and version, for an unknown version."""
    return Resource(type_url=type_url, name=name, version="", encoded=b"")
