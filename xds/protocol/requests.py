"""Reads discovery requests: decodes and checks them, and applies them to the state of their type.

``steps`` updates the order of types. Source: docs/protocol.md#initial-resource-versions, docs/protocol.md#subscriptions
and docs/protocol.md#nack.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct
from immutables import Map

from xds._generated.xds_wire_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryRequestOutline,
    DiscoveryRequest,
    DiscoveryRequestOutline,
)
from xds._generated.xds_wire_pb2 import Node as WireNode
from xds.model.groups import Locality, Node
from xds.model.resource import Resource
from xds.model.types import VIRTUAL_HOST
from xds.model.view import View
from xds.model.xdstp import all_canonical, canonical
from xds.protocol.diff import NO_OVERRIDES, InitialVersions, Interned, Overrides, wanted, wants
from xds.protocol.draining import NEVER, NOTHING_DRAINS, add_all_draining, add_draining
from xds.protocol.errors import Status, StreamRefusedError
from xds.protocol.policy import Limits, Variant
from xds.protocol.responses import ResponseCache, fingerprint_held, state_version
from xds.protocol.subscription import WILDCARD, bytes_of, glob_of
from xds.protocol.type_state import TypeState

Request = DeltaDiscoveryRequest | DiscoveryRequest

ERROR_DETAIL_CHARS_MAX = 4_096
"""Maximum length of a NACK's message; the rest is dropped."""
TYPE_URL_LENGTH_MAX = 1_000
"""Maximum length of a type URL: streams keep those that they subscribe to, also of types that are unknown."""
INITIAL_VERSION_BYTES = 400
"""Approximate bytes of a reported version, beside its name and version."""
WIRE_FACTOR = 64
"""Maximum bytes of memory for names per byte of a request; names of one letter come close to it."""
NAME_BYTES_MIN = 2
"""Bytes of an empty name in a request."""
DELTA_NODE_TAG, VERSION_TAG, SOTW_NODE_TAG = b"\x0a", b"\x0a", b"\x12"
"""The tags of field 1 of ``DeltaDiscoveryRequest`` and of fields 1 and 2 of ``DiscoveryRequest``."""
OUTLINE_BYTES_MIN = 512 * 1024
"""Minimum size of the requests whose names are counted before they are decoded."""


def decode(variant: Variant, data: bytes) -> Request:
    """Decode a request. Raises StreamRefusedError if it is malformed."""
    message: type[Request] = DeltaDiscoveryRequest if variant is Variant.DELTA else DiscoveryRequest
    try:
        return message.FromString(data)
    except DecodeError as error:
        raise StreamRefusedError(
            Status.INVALID_ARGUMENT, f"{len(data)} bytes that are no {message.DESCRIPTOR.name}: {error}"
        ) from None


def span_of_node(variant: Variant, data: bytes) -> tuple[int, int]:
    """Return the start and end of the node in a request, if the node is the first field, or follows a SotW version.

    Both are 0 if there is no node, or if the encoder did not write the fields in order.
    """
    start = 0
    if variant is Variant.SOTW:
        if data[:1] == VERSION_TAG:
            start = _end_of_field(data, 0)
        tag = SOTW_NODE_TAG
    else:
        tag = DELTA_NODE_TAG
    end = _end_of_field(data, start) if data[start : start + 1] == tag else 0
    return (start, end) if end else (0, 0)


def _end_of_field(data: bytes, start: int) -> int:
    """Return the end of a length-delimited field, 0 if it is not within the data."""
    size = shift = 0
    for at in range(start + 1, min(len(data), start + 6)):
        size |= (data[at] & 0x7F) << shift
        shift += 7
        if not data[at] & 0x80:
            end = at + 1 + size
            return end if end <= len(data) else 0
    return 0


def check_outline(variant: Variant, data: bytes, limits: Limits) -> None:
    """Check a large request's node size and number of names before it is decoded. Raises StreamRefusedError.

    Decoding three million names with their versions takes a second, counting them a twentieth of that.
    """
    outline: DeltaDiscoveryRequestOutline | DiscoveryRequestOutline
    try:
        if variant is Variant.DELTA:
            outline = delta = DeltaDiscoveryRequestOutline.FromString(data)
            counts = {
                "subscribe to": len(delta.resource_names_subscribe) + len(delta.resource_locators_subscribe),
                "unsubscribe from": len(delta.resource_names_unsubscribe) + len(delta.resource_locators_unsubscribe),
                "report": len(delta.initial_resource_versions),
            }
        else:
            outline = sotw = DiscoveryRequestOutline.FromString(data)
            counts = {"subscribe to": len(sotw.resource_names) + len(sotw.resource_locators)}
    except DecodeError:
        return  # ``decode`` raises the error
    check_node_size(len(outline.node), limits.node_bytes_max)
    for verb, count in counts.items():
        _check_count(verb, count, "a type", limits.subscriptions_max)


def error_of(request: Request) -> str | None:
    """Return the message of a NACK, cut at ``ERROR_DETAIL_CHARS_MAX``, or None if the request is not a NACK."""
    if not request.HasField("error_detail"):
        return None
    message = request.error_detail.message or "(no message)"
    if len(message) <= ERROR_DETAIL_CHARS_MAX:
        return message
    return f"{message[:ERROR_DETAIL_CHARS_MAX]}… ({len(message)} characters)"


def reports_versions(request: Request) -> bool:
    """Say whether a first request reports resource versions from an earlier stream."""
    if isinstance(request, DeltaDiscoveryRequest):
        return bool(request.initial_resource_versions)
    return bool(request.version_info)


def type_of(request: Request, served: str) -> str:
    """Return the type URL of a request. ``served`` is that of a per-type service, empty on ADS.

    Raises StreamRefusedError if the stream does not serve the type.
    """
    type_url = request.type_url or served
    if not type_url:
        raise StreamRefusedError(Status.INVALID_ARGUMENT, "a request on an aggregated stream must carry a type_url")
    if served and type_url != served:
        raise StreamRefusedError(
            Status.INVALID_ARGUMENT, f"this service serves {served}, the request asks for {type_url[:200]}"
        )
    return type_url


def check_new_type(type_url: str, known: int, types_max: int) -> None:
    """Check a type that is new on a stream. Raises StreamRefusedError if its name is too long, or it is one too many.

    A type that the schema lacks is no error: a client of another version must not lose the types that it shares.
    """
    if len(type_url) > TYPE_URL_LENGTH_MAX:
        what = f"the type URL has {len(type_url)} characters, at most {TYPE_URL_LENGTH_MAX} are accepted"
        raise StreamRefusedError(Status.INVALID_ARGUMENT, f"{what}: {type_url[:200]!r}")
    if known >= types_max:
        what = f"a stream may use {types_max} types (types_max)"
        raise StreamRefusedError(Status.RESOURCE_EXHAUSTED, what, limit="types")


# --- Nodes -----------------------------------------------------------------------------------------------------------

NOWHERE = Locality()


def check_node_size(size: int, bytes_max: int) -> None:
    """Check the encoded size of a node before it is converted. Raises StreamRefusedError."""
    if size > bytes_max:
        raise StreamRefusedError(
            Status.RESOURCE_EXHAUSTED,
            f"the node has {size} bytes, at most {bytes_max} are taken (node_bytes_max)",
            limit="node",
        )


def describe_node(wire: WireNode, identity: tuple[str, ...] = ()) -> Node:
    """Convert the node of a first request by a client with this identity.

    Raises StreamRefusedError if its metadata is malformed.
    """
    place = wire.locality
    nowhere = not (place.region or place.zone or place.sub_zone)
    return Node(
        id=wire.id,
        cluster=wire.cluster,
        locality=NOWHERE if nowhere else Locality(region=place.region, zone=place.zone, sub_zone=place.sub_zone),
        metadata=_metadata(wire),
        user_agent=f"{wire.user_agent_name} {_version(wire)}".strip(),
        identity=identity,
    )


def _version(wire: WireNode) -> str:
    if not wire.HasField("user_agent_build_version"):
        return wire.user_agent_version
    version = wire.user_agent_build_version.version
    return f"{version.major_number}.{version.minor_number}.{version.patch}"


def is_grpc(node: Node) -> bool:
    """Say whether a node is gRPC's xDS client, whose user agent starts so in every language ("gRPC C-core …")."""
    return node.user_agent.startswith("gRPC ")


def _metadata(wire: WireNode) -> dict[str, Any]:
    if not wire.metadata:
        return {}
    try:
        return MessageToDict(Struct.FromString(wire.metadata))
    except (DecodeError, ValueError) as error:  # ValueError: not-a-number and the like, which JSON does not have
        raise StreamRefusedError(Status.INVALID_ARGUMENT, f"node.metadata can't be read: {error}") from None


def same_node(node: Node, wire: WireNode) -> bool:
    """Say whether a later request has the node of its stream. Metadata may change, id and cluster may not."""
    return wire.id == node.id and wire.cluster == node.cluster


# --- Subscriptions ---------------------------------------------------------------------------------------------------


def begin_delta(
    state: TypeState,
    request: DeltaDiscoveryRequest,
    interned: Interned,
    view: View,
    nacked: frozenset[str] | None,
    *,
    drained_at: float = 0.0,
) -> TypeState:
    """Apply the first delta request of a type on a stream.

    The reported versions are compared with ``view``, except for those of ``nacked`` names; if ``nacked`` is None, all
    reported versions are ignored. ``drained_at`` is not 0 if the client returned, and may use versions of the type
    that it does not report: they came in responses that it rejected, and updates of them may be held, or they no longer
    exist, and listeners use them that have drained by then.
    """
    names = _subscribed(request)
    legacy = not names and state.kind.policy.legacy_wildcard
    state = state._replace(dirty=True, subscription=interned.subscriptions.get(legacy, names))
    versions = _reported(request)
    if nacked is not None and (versions or nacked or drained_at):
        # Names that do not exist must be answered; the others are sent if the client has another version.
        missing = (name for name in names if view.known_as(name) is None)
        if drained_at:
            state = _with_unreported(state, names - versions.keys(), interned.initial_versions, view, drained_at)
        make = partial(_held_differently, state, versions, interned.initial_versions, view, nacked)
        return state._replace(
            response_due=state.subscription.open_ended and not versions,
            view=view,
            overrides=make() if versions else interned.nacked_overrides.get(state.subscription, nacked, view, make),
            required_names=frozenset(name for name in missing if name != WILDCARD and glob_of(name) is None),
        )
    # All subscribed names are answered; of other reported names, those that do not exist are removed.
    unnamed = [name for name in versions if name not in names]
    reported = {name: interned.initial_versions.get(state.type_url, name, "") for name in unnamed}
    return state._replace(
        required_names=frozenset(names) - {WILDCARD},
        response_due=state.subscription.open_ended,
        overrides=Map(reported) if reported else NO_OVERRIDES,
    )


def _with_unreported(
    state: TypeState, names: Iterable[str], initial_versions: InitialVersions, view: View, drained_at: float
) -> TypeState:
    """Return the state of a client that may use any version of these names."""
    for name in names:
        unknown = initial_versions.get(state.type_url, name, "")
        until = NEVER if view.get(name) is not None else drained_at
        state = state.add_draining(add_draining(NOTHING_DRAINS, unknown, until))
    return state


def _held_differently(
    state: TypeState, versions: Mapping[str, str], initial_versions: InitialVersions, view: View, nacked: frozenset[str]
) -> Overrides:
    """Return the overrides from ``view`` of a client that reported ``versions``."""
    overrides: dict[str, Resource | None] = {}
    for name in wanted(state.subscription, view):
        if name not in versions:
            overrides[name] = None
    for name in nacked.difference(versions):
        if may_want(state, name):
            overrides[name] = initial_versions.get(
                state.type_url, name, ""
            )  # it may have the resource although it does not report it
    get, has_aliases = view.get, state.type_url == VIRTUAL_HOST
    for name, version in versions.items():
        resource = get(name)
        if name in nacked:
            overrides[name] = initial_versions.get(state.type_url, name, "")
        elif resource is None:
            overrides[name] = initial_versions.get(state.type_url, name, version)
        elif (differs := resource.version != version) or has_aliases:
            # Of what is not wanted, only a host matters that lost the alias by which the client subscribed to it.
            is_wanted = wants(state.subscription, view, resource)
            if (differs and is_wanted) or (has_aliases and not is_wanted):
                overrides[name] = initial_versions.get(state.type_url, name, version)
    return NO_OVERRIDES.update(overrides) if overrides else NO_OVERRIDES


def may_want(state: TypeState, name: str) -> bool:
    """Say whether a client may be subscribed to a name that it rejected: a virtual host's may be wanted by an alias."""
    return state.subscription.wants(name) or state.type_url == VIRTUAL_HOST


def changes_subscription(request: DeltaDiscoveryRequest) -> bool:
    """Say whether a delta request subscribes to or unsubscribes from any name."""
    return bool(
        request.resource_names_subscribe
        or request.resource_names_unsubscribe
        or request.resource_locators_subscribe
        or request.resource_locators_unsubscribe
    )


def change_delta(state: TypeState, request: DeltaDiscoveryRequest, interned: Interned) -> TypeState:
    """Apply the subscription changes of a later delta request.

    A name that is subscribed again is sent again (docs/protocol.md#subscriptions). A name that is
    unsubscribed while the wildcard is subscribed is answered too, so that the client knows whether to keep it.
    """
    before, subscribe, unsubscribe = state.subscription, _subscribed(request), _unsubscribed(request)
    wildcard = (before.wildcard and WILDCARD not in unsubscribe) or WILDCARD in subscribe
    after = interned.subscriptions.get(wildcard, (before.names - unsubscribe) | subscribe)
    # The wildcard has no xdstp:// names: of these, nothing is left that the client must be told.
    required_names = subscribe.union(name for name in unsubscribe if after.wants(name)) if wildcard else subscribe
    response_due = WILDCARD in subscribe or any(glob_of(name) for name in subscribe)
    state = state.change_subscription(after, interned.unsent).require(required_names)
    return state._replace(response_due=True) if response_due else state


def _subscribed(request: DeltaDiscoveryRequest) -> set[str]:
    names = set(request.resource_names_subscribe)
    if request.resource_locators_subscribe:
        names.update(locator.name for locator in request.resource_locators_subscribe)
    return all_canonical(names)


def _reported(request: DeltaDiscoveryRequest) -> Mapping[str, str]:
    versions: Mapping[str, str] = request.initial_resource_versions
    if any("?" in name for name in versions):
        return {canonical(name): version for name, version in versions.items()}
    return versions


def _unsubscribed(request: DeltaDiscoveryRequest) -> set[str]:
    names = set(request.resource_names_unsubscribe)
    names.update(locator.name for locator in request.resource_locators_unsubscribe)
    return all_canonical(names)


def begin_sotw(
    state: TypeState,
    request: DiscoveryRequest,
    interned: Interned,
    view: View,
    response_cache: ResponseCache | None,
    nacked: frozenset[str],
) -> TypeState:
    """Apply the first SotW request of a type on a stream.

    The reported version identifies the resources that the client has, except for ``nacked`` names: all of ``view``,
    which needs no response, or those that ``response_cache`` has recorded for it. If ``response_cache`` is None, the
    version is ignored.
    """
    names = _requested(request)
    legacy = not names and state.kind.policy.legacy_wildcard
    state = state._replace(dirty=True, subscription=interned.subscriptions.get(legacy, names), explicit=bool(names))
    version = request.version_info
    if response_cache is not None and version:
        fingerprint = fingerprint_held(state.subscription, view, NO_OVERRIDES)
        if version == state_version(fingerprint):
            return _with_nacked(state._replace(view=view, fingerprint=fingerprint), interned, nacked)
        sent = response_cache.recall(state.type_url, version, state.subscription)
        if sent is not None:
            return _with_nacked(state._replace(view=sent.view, overrides=sent.overrides), interned, nacked)
    if version or (nacked and state.is_full_state and state.kind.is_routing):
        state = _with_unknown_content(state, names, interned, view)
    if not state.is_full_state:
        state = _with_nacked(state, interned, nacked)  # it may have them, although it never accepted a version
    return state._replace(required_names=frozenset(names) - {WILDCARD}, response_due=not state.subscription.nothing)


def _with_nacked(state: TypeState, interned: Interned, nacked: frozenset[str]) -> TypeState:
    """Mark the versions of NACKed names as unknown, so that the resources are sent again."""
    names = [name for name in nacked if state.subscription.wants(name)]
    if not names:
        return state
    uncertain = {name: interned.initial_versions.get(state.type_url, name, "") for name in names}
    last_accepted = {name: state.held(name) for name in names} if state.is_full_state else {}
    return state._replace(
        overrides=state.overrides.update(uncertain),
        fingerprint=None,
        last_accepted=state.last_accepted.update(last_accepted),
    )


def _with_unknown_content(state: TypeState, names: Iterable[str], interned: Interned, view: View) -> TypeState:
    """Return the state of a client whose resources are unknown: it reported another version, or only rejected some.

    The client may use listeners and routes that no longer exist: such listeners drain once the client has answered the
    first response, and such routes are used while they are subscribed.
    """
    state = state._replace(is_known=False)
    if not state.kind.is_routing:
        return state
    missing = ("",) if state.kind.policy.full_state else (name for name in names if view.get(name) is None)
    unknown = (interned.initial_versions.get(state.type_url, name, "") for name in missing)
    return state._replace(draining=add_all_draining(state.draining, unknown, NEVER))


def change_sotw(state: TypeState, request: DiscoveryRequest, interned: Interned, *, repeated: bool) -> TypeState:
    """Apply the names of a later SotW request.

    A request without names means the wildcard only until the first request with names. ``repeated``: the request
    answers a response again, by which Envoy requests resources that it has (the endpoints of a changed cluster).
    """
    before = state.subscription
    names = _requested(request)
    explicit = state.explicit or bool(names)
    if explicit and not state.explicit:
        state = state._replace(explicit=True)
    wildcard = WILDCARD in names or (not names and before.wildcard and not explicit)
    after = interned.subscriptions.get(wildcard, names)
    if after is before:
        everything = before.names | {WILDCARD} if before.wildcard else before.names
        return state.require(everything)._replace(response_due=True) if repeated else state
    added = after.names - before.names
    if wildcard and not before.wildcard:
        added |= {WILDCARD}
    state = state.change_subscription(after, interned.unsent)
    return state.require(added)._replace(response_due=True) if added else state


def drop_stale_sotw(state: TypeState, request: DiscoveryRequest, interned: Interned) -> TypeState:
    """Drop what a later SotW request with a stale nonce no longer names: the client ignores it in what is under way.

    What such a request names in addition is left to the request with the newest nonce, which names it again.
    """
    before, names = state.subscription, _requested(request)
    if not names and not state.explicit:
        return state
    state = state._replace(explicit=True)
    after = interned.subscriptions.get(before.wildcard and WILDCARD in names, names & before.names)
    return state if after is before else state.change_subscription(after, interned.unsent)


def _requested(request: DiscoveryRequest) -> set[str]:
    names = set(request.resource_names)
    names.update(locator.name for locator in request.resource_locators)
    return all_canonical(names)


def check_size(state: TypeState, request: Request, request_bytes: int, most: int) -> None:
    """Check that a request, and the subscription after it, have at most ``most`` names. Raises StreamRefusedError."""
    if request_bytes // NAME_BYTES_MIN + max(len(state.subscription.names), len(state.required_names)) <= most:
        return  # too small for more names
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
    _check_count("report", len(request.initial_resource_versions), about, most)
    adding, dropping = _subscribed(request), _unsubscribed(request)
    _check_count("subscribe to", len((state.subscription.names - dropping) | adding), about, most)
    # With the wildcard, subscribed and unsubscribed names are both answered.
    required_names = state.required_names.union(adding, dropping if state.subscription.wildcard else ())
    _check_count("ask for", len(required_names), about, 2 * most)


def _check_count(verb: str, count: int, about: str, most: int) -> None:
    if count > most:
        raise StreamRefusedError(
            Status.RESOURCE_EXHAUSTED,
            f"a stream may {verb} {most} names of a type (subscriptions_max), not {count} of {about}",
            limit="subscriptions",
        )


def names_bytes(state: TypeState) -> int:
    """Return the approximate bytes of all names that a client sent for one type. O(names)."""
    reported = [resource for resource in state.overrides.values() if resource is not None and resource.is_version_only]
    names = [resource.name for resource in reported] + [resource.version for resource in reported]
    required_bytes = bytes_of(state.required_names - state.subscription.names)
    return state.subscription.names_bytes + required_bytes + bytes_of(names) + INITIAL_VERSION_BYTES * len(reported)
