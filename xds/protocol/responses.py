"""Discovery responses: encoded once for all streams that need the same update, and split if they would be too large.

A cohort is all streams with equal subscription, equal resources held and equal target. ``ResponseCache`` gives each
cohort one response with one nonce, so that it is encoded once and transports can recognise its bytes.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from immutables import Map

from xds._generated.xds_wire_pb2 import DeltaDiscoveryResponse, DiscoveryResponse
from xds._generated.xds_wire_pb2 import Resource as WireResource
from xds.model.resource import Resource
from xds.model.snapshot import Snapshot
from xds.model.types import CLUSTER, ENDPOINTS, SECRET, WRAPPER_URL
from xds.model.view import FINGERPRINT_MASK, View
from xds.protocol.blame import candidates_in
from xds.protocol.diff import EMPTY_SET, Diff, Overrides, wanted
from xds.protocol.draining import NEVER, NOTHING_DRAINS, Draining, add_all_draining
from xds.protocol.policy import Missing, policy_of
from xds.protocol.subscription import NameSet, Subscription

# --- Responses -------------------------------------------------------------------------------------------------------

RESPONSE_BYTES_MAX = 2 * 1024 * 1024
ENVELOPE_BYTES = 96
"""Maximum bytes of a response for nonce and field tags, and for a version that is not an author's."""
STATE_VERSION_BYTES = 16
"""Bytes of a version that is not an author's (``state_version``)."""
FIELD_BYTES = 6
"""Maximum bytes before each resource or name: its tag and length."""
NEVER_SEEN = 1 << 62
_NO_NAME = re.compile(r"""[\s,;:'"()\[\]{}]+""")


@dataclass(slots=True, eq=False)
class Part:
    """One message on the wire, shared by all streams that receive it.

    Values that only some clients need, as after a NACK, are computed once and shared. Otherwise a part is immutable.
    """

    nonce: str
    message: bytes
    upserts: tuple[Resource, ...]
    removals: tuple[str, ...]
    version: str
    is_heartbeat: bool = False
    type_url: str = ""
    replaced: tuple[Resource, ...] = ()
    """The resources that a client held before under the names that the message changes or removes."""
    gone: frozenset[str] = EMPTY_SET
    """Names that the message removes, on full-state SotW by their absence."""
    new: frozenset[str] = EMPTY_SET
    """Names in the message that a client did not hold before."""
    serial: int = field(init=False)
    """The nonce as a number; later messages have higher ones."""
    _name_set: NameSet | None = field(init=False, default=None)
    _accepted_set: NameSet | None = field(init=False, default=None)
    _removal_set: NameSet | None = field(init=False, default=None)
    _versions: Mapping[str, str] | None = field(init=False, default=None)
    _still_used: Draining | None = field(init=False, default=None)
    _had_before: Overrides | None = field(init=False, default=None)
    _clusters_of_endpoints: Map[str, frozenset[str]] | None = field(init=False, default=None)
    _warms_unasked: bool | None = field(init=False, default=None)
    _content_key: bytes | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.serial = int(self.nonce, 16)

    @property
    def name_set(self) -> NameSet:
        """The names in the message, sent or removed, as one shared set."""
        if self._name_set is None:
            self._name_set = NameSet.of(self.names)
        return self._name_set

    @property
    def accepted_set(self) -> NameSet:
        """The names that an ACK confirms: those in the message, and those that it removes by their absence."""
        if self._accepted_set is None:
            self._accepted_set = NameSet.of({*self.names, *self.gone}) if self.gone else self.name_set
        return self._accepted_set

    @property
    def removal_set(self) -> NameSet:
        """The names in the message that it removes, as one shared set."""
        if self._removal_set is None:
            self._removal_set = NameSet.of(self.removals)
        return self._removal_set

    @property
    def still_used(self) -> Draining:
        """The older versions that a client may still use after it rejected the message."""
        if self._still_used is None:
            self._still_used = add_all_draining(NOTHING_DRAINS, self.replaced, NEVER)
        return self._still_used

    @property
    def had_before(self) -> Overrides:
        """What a client held before the message under each name that the message changes; None for nothing."""
        if self._had_before is None:
            nothing: dict[str, Resource | None] = dict.fromkeys(self.new)
            self._had_before = Map(nothing | {older.name: older for older in self.replaced})
        return self._had_before

    def named_in(self, text: str) -> frozenset[str]:
        """Return the names of the message that a text contains as words, or where it tells what is at fault.

        All names if it contains none.
        """
        names = self.name_set.names
        found = names.intersection([*_NO_NAME.split(text), *candidates_in(text)])
        return found or names

    @property
    def clusters_of_endpoints(self) -> Map[str, frozenset[str]]:
        """Assignment name to the clusters in the message that use it."""
        if self._clusters_of_endpoints is None:
            pairs = [(name, resource.name) for resource in self.upserts for name in endpoints_of([resource])]
            found: dict[str, frozenset[str]] = {}
            for name, cluster in pairs:
                found[name] = found.get(name, EMPTY_SET) | {cluster}
            self._clusters_of_endpoints = Map(found)
        return self._clusters_of_endpoints

    @property
    def warms_unasked(self) -> bool:
        """Whether a cluster in the message may warm while its client asks for no endpoints (secrets, health checks)."""
        if self._warms_unasked is None:
            refers = ([one.type_url for one in each.references] for each in self.upserts)
            self._warms_unasked = any(ENDPOINTS not in types or SECRET in types for types in refers)
        return self._warms_unasked

    @property
    def versions(self) -> Mapping[str, str]:
        """Each name in the message to its version, "" for a removed one."""
        if self._versions is None:
            self._versions = {r.name: r.version for r in self.upserts} | dict.fromkeys(self.removals, "")
        return self._versions

    @property
    def content_key(self) -> bytes:
        """A hash of the names in the message and their versions, equal in every process; 16 bytes."""
        if self._content_key is None:
            digest = blake2b(digest_size=16)
            for name, version in sorted(self.versions.items()):
                digest.update(f"{len(name)}:{name}{len(version)}:{version}".encode())
            self._content_key = digest.digest()
        return self._content_key

    @property
    def names(self) -> list[str]:
        """Every name in the message, sent or removed."""
        return [*(resource.name for resource in self.upserts), *self.removals]


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """The update of a cohort from one state to the next."""

    parts: tuple[Part, ...]
    """The messages to send; none if the update changes nothing for the client."""
    view: View
    """The view that the client has been updated to afterwards."""
    overrides: Overrides
    """The client's overrides afterwards."""
    fingerprint: int
    """The fingerprint of all resources that the client holds afterwards."""
    endpoints: frozenset[str]
    """The assignments that the clusters in the response need before they are warm."""
    replaced: tuple[Resource, ...]
    """The resources that the client held under the names that the response changes or removes."""
    gone: frozenset[str]
    """The names that the client loses, whether or not a message contains the removal."""
    still_used: Draining
    """The replaced versions that the client may still use."""
    subscription: Subscription
    names_bytes: int
    """Approximate bytes of the names in the cache key, without those of the subscription."""

    @property
    def message_bytes(self) -> int:
        """The size of all messages."""
        return sum(len(part.message) for part in self.parts)

    @property
    def bytes_kept(self) -> int:
        """Approximate bytes of a cached response: its messages twice, as transports keep them framed, and names."""
        return 2 * self.message_bytes + self.names_bytes

    @property
    def serial(self) -> int:
        """The serial of the first part. A response without parts is valid for every stream."""
        return self.parts[0].serial if self.parts else NEVER_SEEN


@dataclass(frozen=True, slots=True)
class Encoding:
    """The maximum size of a response before it is split, and the control plane's identifier in it."""

    response_bytes_max: int = RESPONSE_BYTES_MAX
    identifier: str = "xds-control-plane"


def state_version(fingerprint: int) -> str:
    """Return the version for a fingerprint of resources. Equal content has an equal version on every replica."""
    return format(fingerprint, "016x")


def common_label(resources: Sequence[Resource]) -> str:
    """Return the version that the author gave to all of these resources, or "".

    It is informative only: if the client reports it later, it does not identify the resources that the client has.
    """
    if not resources or not resources[0].labelled:
        return ""
    label = resources[0].version
    return label if all(each.version == label for each in resources) else ""


def fingerprint_held(subscription: Subscription, view: View, overrides: Overrides) -> int:
    """Return the fingerprint of all resources of one type that a client holds. O(held); O(1) for a whole view."""
    if subscription.wildcard and not subscription.names and not overrides:
        return view.fingerprint
    held = {name: view.get(name) for name in wanted(subscription, view)}
    held.update(overrides.items())
    return sum(r.fingerprint for r in held.values() if r is not None) & FINGERPRINT_MASK


def endpoints_of(resources: Iterable[Resource]) -> frozenset[str]:
    """Return the names of the assignments that the clusters among ``resources`` use."""
    clusters = (resource for resource in resources if resource.type_url == CLUSTER)
    return frozenset(r.name for cluster in clusters for r in cluster.references if r.type_url == ENDPOINTS)


def endpoints_of_one(clusters: Iterable[Resource]) -> frozenset[str]:
    """Return the names of the assignments that exactly one of these clusters uses."""
    counts = Counter(name for cluster in clusters for name in endpoints_of([cluster]))
    return frozenset(name for name, count in counts.items() if count == 1)


def unlimited(encoding: Encoding) -> Encoding:
    """Return the encoding without a maximum size, for responses that cannot be split."""
    return Encoding(1 << 62, encoding.identifier)


class _Item(NamedTuple):
    """One entry of a response: a resource with its bytes, or the name of a removed one without bytes."""

    name: str
    resource: Resource | None
    encoded: bytes


def _chunks(items: Iterable[_Item], bytes_max: int) -> Iterator[list[_Item]]:
    """Split entries into chunks of at most ``bytes_max`` bytes; no entries are one empty chunk."""
    chunk: list[_Item] = []
    size = 0
    for item in items:
        item_bytes = (len(item.encoded) or len(item.name.encode())) + FIELD_BYTES
        if chunk and size + item_bytes > bytes_max:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += item_bytes
    yield chunk


def _room(type_url: str, version: str, encoding: Encoding) -> int:
    """Return the bytes that a response of the type has for resources."""
    label_bytes = max(0, len(version.encode()) - STATE_VERSION_BYTES)
    return encoding.response_bytes_max - len(type_url) - len(encoding.identifier) - label_bytes - ENVELOPE_BYTES


def delta_parts(
    type_url: str,
    subscription: Subscription,
    found: Diff,
    version: str,
    response_due: bool,
    encoding: Encoding,
    next_nonce: Callable[[], str],
) -> tuple[Part, ...]:
    """Encode a diff as ``DeltaDiscoveryResponse`` messages of at most the maximum size; removals come last.

    ``response_due``: return an empty response for an empty diff.
    """
    items = [_Item(resource.name, resource, resource.encoded) for resource in found.upserts]
    bodiless, gone = _missing(type_url, subscription, found)
    items += [_Item(name, _stand_in(type_url, name), _bodiless(name)) for name in bodiless]
    items += [_Item(name, None, b"") for name in gone]
    if not items and not response_due:
        return ()
    parts = []
    for chunk in _chunks(items, _room(type_url, version, encoding)):
        removals = tuple(item.name for item in chunk if item.resource is None)
        message = DeltaDiscoveryResponse(
            type_url=type_url,
            system_version_info=version,
            nonce=next_nonce(),
            resources=[item.encoded for item in chunk if item.resource is not None],
            removed_resources=removals,
        )
        message.control_plane.identifier = encoding.identifier
        sent = tuple(item.resource for item in chunk if item.resource is not None)
        parts.append(Part(message.nonce, message.SerializeToString(), sent, removals, version, type_url=type_url))
    return tuple(parts)


def _missing(type_url: str, subscription: Subscription, found: Diff) -> tuple[list[str], list[str]]:
    """Return the names that are answered by a resource without a body, and those that are sent as removed.

    A name that was just unsubscribed is sent as removed for every type, as no fetch timeout waits for it.
    """
    gone = [*found.removals, *(name for name in found.nonexistent if name not in subscription.names)]
    subscribed = [name for name in found.nonexistent if name in subscription.names]
    missing = policy_of(type_url).missing
    if missing is Missing.SILENT:
        return [], gone
    bodiless = [name for name in subscribed if missing is Missing.BODILESS and "/" in name]
    return bodiless, [*gone, *(name for name in subscribed if name not in bodiless)]


def _bodiless(name: str) -> bytes:
    return WireResource(name=name, aliases=[name]).SerializeToString()


def _stand_in(type_url: str, name: str) -> Resource:
    return Resource(type_url=type_url, name=name, version="", encoded=b"")


def sotw_body(resource: Resource) -> bytes:
    """Return the Any of a SotW response: the resource, or its ``Resource`` message if it has a TTL to be sent."""
    if resource.ttl_s is None or not policy_of(resource.type_url).expires_on_sotw:
        return resource.body
    return sotw_wrapped(resource.encoded)


def sotw_wrapped(encoded: bytes) -> bytes:
    """Return the Any of a SotW response that contains an encoded ``Resource`` message."""
    wire = WireResource()
    wire.resource.type_url = WRAPPER_URL
    wire.resource.value = encoded
    return wire.resource.SerializeToString()


def sotw_parts(
    type_url: str,
    resources: Iterable[Resource],
    version: str,
    encoding: Encoding,
    next_nonce: Callable[[], str],
) -> tuple[Part, ...]:
    """Encode resources as ``DiscoveryResponse`` messages: one message for a full-state type.

    Only the last of several messages has ``version``, so that a client which loses its stream before that message does
    not report the version of the whole.
    """
    items = [_Item(resource.name, resource, sotw_body(resource)) for resource in resources]
    room = 1 << 62 if policy_of(type_url).full_state else _room(type_url, version, encoding)
    chunks = list(_chunks(items, room))
    parts = []
    for number, chunk in enumerate(chunks, 1):
        says = version if number == len(chunks) else f"{version}-part{number}"
        message = DiscoveryResponse(
            type_url=type_url, version_info=says, nonce=next_nonce(), resources=[item.encoded for item in chunk]
        )
        message.control_plane.identifier = encoding.identifier
        sent = tuple(item.resource for item in chunk if item.resource is not None)
        parts.append(Part(message.nonce, message.SerializeToString(), sent, (), says, type_url=type_url))
    return tuple(parts)


def note_effects(parts: Iterable[Part], found: Diff, held: Mapping[str, Resource]) -> None:
    """Set ``gone``, ``replaced`` and ``new`` of new parts for clients that held the resources ``held``."""
    *others, last = parts
    removed = set(found.removals)
    for part in (*others, last):
        part.gone = frozenset(removed.intersection(part.removals))
    if not last.removals:
        last.gone = frozenset(removed.difference(*(part.gone for part in others)))  # on SotW, absence removes
    for part in (*others, last):
        names = [resource.name for resource in part.upserts]
        part.replaced = tuple(held[name] for name in (*names, *sorted(part.gone)) if name in held)
        part.new = frozenset(name for name in names if not surely_has(held.get(name)))


def surely_has(resource: Resource | None) -> bool:
    """Say whether a client certainly has a version of a resource, which a reported unknown version does not show."""
    return resource is not None and not (resource.is_version_only and not resource.version)


def delta_heartbeat(
    type_url: str, resources: tuple[Resource, ...], version: str, nonce: str, encoding: Encoding
) -> Part:
    """Encode a message that renews TTLs and changes nothing (docs/protocol.md#ttl)."""
    bodiless = [resource.heartbeat for resource in resources]
    message = DeltaDiscoveryResponse(type_url=type_url, system_version_info=version, nonce=nonce, resources=bodiless)
    message.control_plane.identifier = encoding.identifier
    return Part(nonce, message.SerializeToString(), (), (), version, is_heartbeat=True, type_url=type_url)


# --- The cache -------------------------------------------------------------------------------------------------------

NAMES_BYTES_MAX = 16 * 1024 * 1024
"""Maximum bytes of names in cache keys: each subscription once, required names, and overrides."""
AGE_MAX = 2
"""Responses are evicted if unused for this many calls of ``evict_idle``."""
LARGE_BYTES = 32 * 1024
"""Responses with messages of this size are evicted as soon as their view is replaced."""


@dataclass(frozen=True, slots=True, eq=False)
class SentState:
    """The resources of one type that a client was sent: its subscription, view and overrides."""

    subscription: Subscription
    view: View
    overrides: Overrides


class ResponseCache:
    """A cache of responses by all that they depend on, so that a cohort shares one response.

    Responses that are not used are evicted after some time; beyond ``entries_max`` and ``bytes_max`` the least recently
    used ones are; large ones as soon as their view is replaced. The cache also keeps the resources of the last
    ``states_max`` SotW versions, as a SotW client that reconnects reports only its version.
    """

    __slots__ = (
        "_ages",
        "_bytes",
        "_entries",
        "_hits",
        "_large",
        "_last",
        "_misses",
        "_names_bytes",
        "_nonce",
        "_states",
        "_subscriptions",
        "bytes_max",
        "entries_max",
        "names_bytes_max",
        "outdated_bytes",
        "states_max",
    )

    def __init__(
        self, *, entries_max: int = 4_096, bytes_max: int = 256 * 1024 * 1024, states_max: int = 1_024
    ) -> None:
        self._states: OrderedDict[tuple[str, str], SentState] = OrderedDict()
        self.states_max = states_max
        self._entries: OrderedDict[Hashable, Response] = OrderedDict()
        self._large: dict[View, set[Hashable]] = {}
        """The keys of large responses, by their view."""
        self.outdated_bytes = 0
        """Total bytes of the responses that were evicted because their view was replaced."""
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.names_bytes_max = NAMES_BYTES_MAX
        self._bytes = 0
        self._subscriptions: dict[Subscription, int] = {}
        """The number of entries with each subscription."""
        self._names_bytes = 0
        self._ages: dict[Response, tuple[Hashable, int]] = {}
        """Responses, to their key and the calls of ``evict_idle`` since the last use."""
        self._nonce = 0
        self._hits = self._misses = 0
        self._last: dict[str, tuple[tuple[object, ...], Response, int]] = {}
        """Type URL to the response that ``get`` returned last, with its key and serial."""

    def next_nonce(self) -> str:
        """Return a nonce that is unique in this process."""
        self._nonce += 1
        return format(self._nonce, "x")

    def get_last(self, type_url: str, key: tuple[object, ...], after: int) -> Response | None:
        """Return the response that ``get`` returned last for the type, if its key is equal. Hashes nothing."""
        found = self._last.get(type_url)
        if found is None or found[2] <= after or found[0] != key:
            return None
        self._ages[found[1]] = (key, 0)
        self._hits += 1
        return found[1]

    def take_counts(self) -> tuple[int, int]:
        """Return how often a response was found and was not since the last call, and begin anew."""
        counts, self._hits, self._misses = (self._hits, self._misses), 0, 0
        return counts

    def get(
        self, type_url: str, key: tuple[Hashable, ...], make: Callable[[], Response], *, after: int = 0
    ) -> Response:
        """Return the response for ``key``, made by ``make`` if it is not cached.

        A cached response whose serial is not above ``after`` is made again: a stream must not receive a nonce twice.
        """
        response = self._entries.get(key)
        if response is not None:
            if response.serial > after:
                self._entries.move_to_end(key)
                self._ages[response] = (key, 0)
                self._last[type_url] = (key, response, response.serial)
                self._hits += 1
                return response
            self._forget(key)
        self._misses += 1
        response = self._entries[key] = make()
        self._last[type_url] = (key, response, response.serial)
        self._ages[response] = (key, 0)
        self._bytes += response.bytes_kept
        self._hold_names(response)
        if response.message_bytes >= LARGE_BYTES:
            self._large.setdefault(response.view, set()).add(key)
        while len(self._entries) > 1 and self._is_full:
            self._forget(next(iter(self._entries)))
        return response

    @property
    def _is_full(self) -> bool:
        too_many = len(self._entries) > self.entries_max
        return too_many or self._bytes > self.bytes_max or self._names_bytes > self.names_bytes_max

    def _hold_names(self, response: Response) -> None:
        subscription = response.subscription
        users = self._subscriptions.get(subscription, 0)
        self._subscriptions[subscription] = users + 1
        self._names_bytes += response.names_bytes + (0 if users else subscription.names_bytes)

    def evict_idle(self) -> None:
        """Drop the responses that were not used during the last ``AGE_MAX`` calls."""
        for key in [key for key, age in self._ages.values() if age >= AGE_MAX]:
            self._forget(key)
        self._ages = {response: (key, age + 1) for response, (key, age) in self._ages.items()}

    def drop_replaced(
        self, before: Mapping[str, Snapshot], after: Mapping[str, Snapshot], groups: Iterable[str]
    ) -> None:
        """Drop responses to views of these groups that a new snapshot replaced, or that were removed.

        A client whose routes still follow an older snapshot may need such a response: it is then made again.
        """
        for group in groups:
            views = before[group].views if group in before else {}
            now = after[group].views if group in after else {}
            for type_url, view in views.items():
                if now.get(type_url) is not view:
                    self._drop_view(view)

    def _drop_view(self, view: View) -> None:
        last = self._last.get(view.type_url)
        if last is not None and last[1].view is view:
            del self._last[view.type_url]
        for key in tuple(self._large.get(view, ())):
            self.outdated_bytes += self._entries[key].message_bytes
            self._forget(key)

    def _forget(self, key: Hashable) -> None:
        response = self._entries.pop(key)
        self._bytes -= response.bytes_kept
        del self._ages[response]
        if (last := self._last.get(response.view.type_url)) is not None and last[1] is response:
            del self._last[response.view.type_url]
        subscription = response.subscription
        self._names_bytes -= response.names_bytes
        self._subscriptions[subscription] -= 1
        if not self._subscriptions[subscription]:
            del self._subscriptions[subscription]
            self._names_bytes -= subscription.names_bytes
        keys = self._large.get(response.view)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._large[response.view]

    def remember(self, type_url: str, version: str, state: SentState) -> None:
        """Record the resources of a SotW version."""
        self._states[type_url, version] = state
        self._states.move_to_end((type_url, version))
        if len(self._states) > self.states_max:
            self._states.popitem(last=False)

    def recall(self, type_url: str, version: str, subscription: Subscription) -> SentState | None:
        """Return the resources of a version, if it was sent recently to a client with this subscription.

        A version is a digest of the content, so it identifies the resources in whichever group it was sent.
        """
        state = self._states.get((type_url, version))
        return state if state is not None and state.subscription is subscription else None

    def __len__(self) -> int:
        return len(self._entries)
