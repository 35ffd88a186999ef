"""How a request changes one type's state: delta first, then SotW. It does not know the other types, nor order.

Source: the xDS protocol page, "Incremental xDS", "How the client specifies what resources to return", "ACK/NACK and
resource type instance version".
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError
from immutables import Map

from xds._generated.xds_wire_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryRequestOutline,
    DiscoveryRequest,
    DiscoveryRequestOutline,
)
from xds.model.resource import Resource
from xds.model.view import View
from xds.protocol.claims import Claims
from xds.protocol.cohorts import Cohorts
from xds.protocol.diff import NO_EXCEPTIONS, Exceptions, wanted, wants
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.identity import check_node_size
from xds.protocol.interest import WILDCARD, Interest, Interests, bytes_of, glob_of
from xds.protocol.interned import Interned
from xds.protocol.response import fingerprint_held, state_version
from xds.protocol.state import TypeState, Variant
from xds.protocol.stream import Limits, Stream

Request = DeltaDiscoveryRequest | DiscoveryRequest

ERROR_DETAIL_CHARS_MAX = 4_096
"""How much is kept of why a client rejects a response."""
CLAIM_BYTES = 400
"""About what a resource that a client claims takes, beside its name and version."""
WIRE_FACTOR = 64
"""A byte of a request holds no more than so many bytes of memory for names: those of one letter come close."""
NAME_BYTES_MIN = 2
"""What a name takes in a request, if it is empty."""
OUTLINE_BYTES_MIN = 512 * 1024
"""Requests of this size and above are counted before they are read."""


def decode(variant: Variant, data: bytes) -> Request:
    """Return the request that the bytes are. Raises StreamRefusedError saying what is malformed."""
    message: type[Request] = DeltaDiscoveryRequest if variant is Variant.DELTA else DiscoveryRequest
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise StreamRefusedError(
            Status.INVALID_ARGUMENT, f"{len(data)} bytes that are no {message.DESCRIPTOR.name}: {error}"
        ) from None


def check_outline(variant: Variant, data: bytes, limits: Limits) -> None:
    """Refuse a large request for its node's size or its number of names, before it is read.

    To read three million names, and their versions into a map, takes a second; to count them a twentieth of that.
    Raises StreamRefusedError.
    """
    outline: DeltaDiscoveryRequestOutline | DiscoveryRequestOutline
    try:
        if variant is Variant.DELTA:
            outline = delta = DeltaDiscoveryRequestOutline.FromString(data)
            counts = {
                "subscribe to": len(delta.resource_names_subscribe) + len(delta.resource_locators_subscribe),
                "unsubscribe from": len(delta.resource_names_unsubscribe) + len(delta.resource_locators_unsubscribe),
                "claim": len(delta.initial_resource_versions),
            }
        else:
            outline = sotw = DiscoveryRequestOutline.FromString(data)
            counts = {"subscribe to": len(sotw.resource_names) + len(sotw.resource_locators)}
    except DecodeError:
        return  # ``decode`` says what is wrong
    check_node_size(len(outline.node), limits.node_bytes_max)
    for verb, count in counts.items():
        _check_count(verb, count, "a type", limits.subscriptions_max)


def error_of(request: Request) -> str | None:
    """Return why the client rejects a response, None if it does not; the first ``ERROR_DETAIL_CHARS_MAX`` of it."""
    if not request.HasField("error_detail"):
        return None
    message = request.error_detail.message or "(no message)"
    if len(message) <= ERROR_DETAIL_CHARS_MAX:
        return message
    return f"{message[:ERROR_DETAIL_CHARS_MAX]}… ({len(message)} characters)"


def claims_something(request: Request) -> bool:
    """Say whether a first request tells of resources that the client has from an earlier stream."""
    if isinstance(request, DeltaDiscoveryRequest):
        return bool(request.initial_resource_versions)
    return bool(request.version_info)


def type_of(stream: Stream, request: Request, knows_type: Callable[[str], bool], types_max: int) -> str:
    """Return the type URL that a request is about. Raises StreamRefusedError if that can't be served."""
    type_url = request.type_url or stream.type_url
    if not type_url:
        raise StreamRefusedError(Status.INVALID_ARGUMENT, "a request on an aggregated stream must carry a type_url")
    if stream.type_url and type_url != stream.type_url:
        raise StreamRefusedError(
            Status.INVALID_ARGUMENT, f"this service serves {stream.type_url}, the request asks for {type_url[:200]}"
        )
    if type_url not in stream.states:
        if not knows_type(type_url):
            raise StreamRefusedError(Status.INVALID_ARGUMENT, f"unknown type URL {type_url[:200]!r}")
        if len(stream.states) >= types_max:
            raise StreamRefusedError(Status.RESOURCE_EXHAUSTED, f"a stream may use {types_max} types (types_max)")
    return type_url


def begin_delta(
    state: TypeState,
    request: DeltaDiscoveryRequest,
    interned: Interned,
    view: View,
    distrusted: frozenset[str] | None,
) -> None:
    """Take the first delta request of a type on a stream.

    ``view`` is what the client's versions are compared with; versions of ``distrusted`` names count for nothing, and
    none do if it is None.
    """
    names = _subscribed(request)
    legacy = not names and state.policy.legacy_wildcard
    state.started = state.dirty = True
    state.interest = interned.interests.get(legacy, names)
    versions = request.initial_resource_versions
    if distrusted is not None and (versions or distrusted):
        state.owed = state.interest.open_ended and not versions
        state.view, state.exceptions = view, _claimed(state, versions, interned.claims, view, distrusted)
        # Only names that do not exist are asked for: the others are sent if the client's version is not theirs.
        missing = (name for name in names if view.get(name) is None and view.named_by(name) is None)
        state.asked = frozenset(name for name in missing if name != WILDCARD and glob_of(name) is None)
        return
    state.asked = frozenset(names) - {WILDCARD}
    state.owed = state.interest.open_ended
    # What it asks for by name is answered in any case; of the rest, it is to hear what is gone.
    unnamed = [name for name in versions if name not in names]
    state.exceptions = NO_EXCEPTIONS
    if unnamed:
        state.exceptions = Map((name, interned.claims.get(state.type_url, name, "")) for name in unnamed)


def _claimed(
    state: TypeState, versions: Mapping[str, str], claims: Claims, view: View, distrusted: frozenset[str]
) -> Exceptions:
    """Return how what the client says it has differs from ``view``."""
    exceptions: dict[str, Resource | None] = {}
    for name in wanted(state.interest, view):
        if name not in versions:
            exceptions[name] = None
    for name in distrusted.difference(versions):
        if view.get(name) is None:
            exceptions[name] = claims.get(state.type_url, name, "")  # it may have it without knowing
    for name, version in versions.items():
        resource = view.get(name)
        if name in distrusted:
            exceptions[name] = claims.get(state.type_url, name, "")
        elif resource is None or (resource.version != version and wants(state.interest, resource)):
            exceptions[name] = claims.get(state.type_url, name, version)
    return NO_EXCEPTIONS.update(exceptions) if exceptions else NO_EXCEPTIONS


def changes_subscription(request: DeltaDiscoveryRequest) -> bool:
    """Say whether a delta request names anything to subscribe to, or no longer."""
    return bool(
        request.resource_names_subscribe
        or request.resource_names_unsubscribe
        or request.resource_locators_subscribe
        or request.resource_locators_unsubscribe
    )


class Change(NamedTuple):
    """What a request's names make of a subscription: the one after it, what is asked for, whether an answer is owed."""

    after: Interest
    asked: frozenset[str]
    owed: bool


Changes = dict[Interest, Change]
"""What the names of one request make of several subscriptions."""
CHANGES_MAX = 4


def change_delta(
    state: TypeState, request: DeltaDiscoveryRequest, interned: Interned, known: Changes | None = None
) -> bool:
    """Take a later delta request's subscription changes; say whether there were any.

    ``known`` is what this request made of other streams' subscriptions, to be used and added to.

    A name that is subscribed again is answered again (the page: "the server must send it"). A name that is
    unsubscribed while the wildcard holds is answered too, so that the client knows whether it goes on having it.
    """
    if not changes_subscription(request):
        return False  # an ACK, most likely
    change = known.get(state.interest) if known is not None else None
    if change is None:
        change = _change(state.interest, _subscribed(request), _unsubscribed(request), interned.interests)
        if known is not None and len(known) < CHANGES_MAX:
            known[state.interest] = change
    state.narrow(change.after, interned.unsent)
    state.owed = state.owed or change.owed
    state.ask(change.asked)
    return True


def _change(before: Interest, subscribe: set[str], unsubscribe: set[str], interests: Interests) -> Change:
    wildcard = (before.wildcard and WILDCARD not in unsubscribe) or WILDCARD in subscribe
    after = interests.get(wildcard, (before.names - unsubscribe) | subscribe)
    asked = frozenset(subscribe | unsubscribe if wildcard else subscribe)
    return Change(after, asked, owed=WILDCARD in subscribe or any(glob_of(name) for name in subscribe))


def _subscribed(request: DeltaDiscoveryRequest) -> set[str]:
    names = set(request.resource_names_subscribe)
    if request.resource_locators_subscribe:
        names.update(locator.name for locator in request.resource_locators_subscribe)
    return names


def _unsubscribed(request: DeltaDiscoveryRequest) -> set[str]:
    names = set(request.resource_names_unsubscribe)
    names.update(locator.name for locator in request.resource_locators_unsubscribe)
    return names


def begin_sotw(
    state: TypeState, request: DiscoveryRequest, interned: Interned, view: View, cohorts: Cohorts | None
) -> None:
    """Take the first SotW request of a type on a stream.

    Its version tells what the client has: all of ``view``, which needs no answer, or what that version stood for when
    it was sent. ``cohorts`` None: the version counts for nothing.
    """
    names = _requested(request)
    legacy = not names and state.policy.legacy_wildcard
    state.started = state.dirty = True
    state.interest = interned.interests.get(legacy, names)
    state.explicit = bool(names)
    version = request.version_info
    if cohorts is not None and version:
        fingerprint = fingerprint_held(state.interest, view, NO_EXCEPTIONS)
        if version == state_version(fingerprint):
            state.view, state.fingerprint = view, fingerprint
            return
        sent = cohorts.recall(state.type_url, version, state.interest)
        if sent is not None:
            state.view, state.exceptions = sent.view, sent.exceptions
            return
    state.asked = frozenset(names) - {WILDCARD}
    state.owed = not state.interest.nothing


def change_sotw(state: TypeState, request: DiscoveryRequest, interned: Interned, *, repeated: bool) -> bool:
    """Take a later SotW request's names; say whether anything is to be answered.

    No names mean the wildcard only until names were given once. ``repeated``: the request answers a response that was
    answered before, which is how Envoy asks for what it has again (a changed cluster's endpoints).
    """
    before = state.interest
    names = _requested(request)
    state.explicit = state.explicit or bool(names)
    wildcard = WILDCARD in names or (not names and before.wildcard and not state.explicit)
    after = interned.interests.get(wildcard, names)
    if after is before:
        if repeated:
            state.ask(before.names or {WILDCARD})
            state.owed = True
        return repeated
    state.narrow(after, interned.unsent)
    added = after.names - before.names
    if wildcard and not before.wildcard:
        added |= {WILDCARD}
    if added:
        state.ask(added)
        state.owed = True
    return bool(added)


def _requested(request: DiscoveryRequest) -> set[str]:
    names = set(request.resource_names)
    names.update(locator.name for locator in request.resource_locators)
    return names


def check_size(state: TypeState, request: Request, request_bytes: int, most: int) -> None:
    """Refuse a request that names more than ``most`` resources, or whose names would make the stream's more.

    Nothing of it is taken over before. Raises StreamRefusedError.
    """
    if request_bytes // NAME_BYTES_MIN + max(len(state.interest.names), len(state.asked)) <= most:
        return  # it has no room for so many
    about = state.type_url[:200]
    if isinstance(request, DiscoveryRequest):
        _check_count("subscribe to", len(request.resource_names) + len(request.resource_locators), about, most)
        return
    if not changes_subscription(request) and not request.initial_resource_versions:
        return
    subscribed = len(request.resource_names_subscribe) + len(request.resource_locators_subscribe)
    unsubscribed = len(request.resource_names_unsubscribe) + len(request.resource_locators_unsubscribe)
    _check_count("subscribe to", subscribed, about, most)
    _check_count("unsubscribe from", unsubscribed, about, most)
    _check_count("claim", len(request.initial_resource_versions), about, most)
    adding, dropping = _subscribed(request), _unsubscribed(request)
    _check_count("subscribe to", len((state.interest.names - dropping) | adding), about, most)
    # Answers that are owed: what is exchanged while the wildcard holds is answered on either side.
    asked = state.asked.union(adding, dropping if state.interest.wildcard else ())
    _check_count("ask for", len(asked), about, 2 * most)


def _check_count(verb: str, count: int, about: str, most: int) -> None:
    if count > most:
        raise StreamRefusedError(
            Status.RESOURCE_EXHAUSTED,
            f"a stream may {verb} {most} names of a type (subscriptions_max), not {count} of {about}",
        )


def check_names_bytes(stream: Stream, request_bytes: int, most: int) -> None:
    """Refuse a stream whose names take more than ``most`` bytes in memory, after it took a request that has names.

    They are counted only once a bound that follows from the requests' sizes is reached. Raises StreamRefusedError.
    """
    stream.names_bytes += WIRE_FACTOR * request_bytes
    if stream.names_bytes <= most:
        return
    stream.names_bytes = sum(map(_names_bytes, stream.states.values()))
    if stream.names_bytes > most:
        raise StreamRefusedError(
            Status.RESOURCE_EXHAUSTED,
            f"the names of this stream take {stream.names_bytes} bytes, at most {most} are kept (names_bytes_max)",
        )


def _names_bytes(state: TypeState) -> int:
    """Return about how much memory the names take that a client gave for one type. O(names)."""
    claimed = [resource for resource in state.exceptions.values() if resource is not None and resource.is_claim]
    names = [resource.name for resource in claimed] + [resource.version for resource in claimed]
    asked = bytes_of(state.asked - state.interest.names)
    return state.interest.names_bytes + asked + bytes_of(names) + CLAIM_BYTES * len(claimed)
