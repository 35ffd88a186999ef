"""Responses: encoded once for every stream that lacks the same, cut where they would grow too large.

Streams with equal subscription, equal holdings and equal target are a cohort: ``Cohorts`` answers all of them with one
``Response`` object, nonce included. It does not know streams.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from xds._generated.xds_wire_pb2 import DeltaDiscoveryResponse, DiscoveryResponse
from xds._generated.xds_wire_pb2 import Resource as WireResource
from xds.model.resource import Resource
from xds.model.snapshot import Snapshot
from xds.model.types import CLUSTER, ENDPOINTS, TYPE_PREFIX
from xds.model.view import FINGERPRINT_MASK, View
from xds.protocol.diff import Diff, Exceptions, wanted
from xds.protocol.interest import Interest
from xds.protocol.policy import Missing, policy_of

RESPONSE_BYTES_MAX = 2 * 1024 * 1024
ENVELOPE_BYTES = 96
"""At most so much of a response is nonce, version and field tags."""
FIELD_BYTES = 6
"""At most so much goes before each resource or name: its tag and length."""
NEVER_SEEN = 1 << 62
LARGE_BYTES = 64 * 1024
"""Responses that take so much are forgotten as soon as nobody new can need them."""
WRAPPER = TYPE_PREFIX + "envoy.service.discovery.v3.Resource"


@dataclass(slots=True, eq=False)
class Part:
    """One message on the wire: its nonce, its bytes, and the names in it. Shared by all streams that get it.

    ``framed`` and ``prefixed`` are for a transport to keep what it made of the bytes, so that a cohort shares that too.
    Nothing else of it ever changes.
    """

    nonce: str
    message: bytes
    upserts: tuple[Resource, ...]
    removals: tuple[str, ...]
    version: str
    is_heartbeat: bool = False
    framed: bytes | None = None
    prefixed: bytes | None = None
    serial: int = field(init=False)
    """The nonce as a number, which only grows."""

    def __post_init__(self) -> None:
        self.serial = int(self.nonce, 16)

    @property
    def names(self) -> list[str]:
        """Every name in the message, sent or removed."""
        return [*(resource.name for resource in self.upserts), *self.removals]


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """What takes a cohort from one state to the next: no parts if that needs no message.

    ``view`` and ``exceptions`` are what a client holds after it, ``before`` and ``exceptions_before`` what it did
    before; ``endpoints`` names the assignments that Envoy waits for once it got the clusters in it; ``replaced`` is
    what the client held under the names that the response changes or removes, ``gone`` those that it removes;
    ``fingerprint`` sums up what it holds after.
    """

    parts: tuple[Part, ...]
    view: View
    exceptions: Exceptions
    before: View | None
    exceptions_before: Exceptions
    fingerprint: int
    endpoints: frozenset[str]
    replaced: tuple[Resource, ...]
    gone: frozenset[str]
    bytes_kept: int
    """About what keeping it costs: its messages, those once more as framed, and names that only it may hold on to."""

    @property
    def serial(self) -> int:
        """The first part's; a response without parts can be given to anybody at any time."""
        return self.parts[0].serial if self.parts else NEVER_SEEN


@dataclass(frozen=True, slots=True, eq=False)
class SentState:
    """All that a client was sent of one type: what it subscribed to, the view it was brought to, what differs."""

    interest: Interest
    view: View
    exceptions: Exceptions


@dataclass(frozen=True, slots=True)
class Encoding:
    """How responses are made: the size above which they are cut, and who they say they are from."""

    response_bytes_max: int = RESPONSE_BYTES_MAX
    identifier: str = "xds-control-plane"


class Cohorts:
    """The responses that were made lately, by what they depend on, so that a cohort shares one.

    Bounded by ``entries_max`` and ``bytes_max``: what was not used for longest is forgotten and made again if needed;
    what is large already once the view that it brings clients to is replaced. It also keeps what the last
    ``states_max`` SotW versions stood for: a client that comes back says no more.
    """

    __slots__ = (
        "_bytes",
        "_entries",
        "_large",
        "_last",
        "_nonce",
        "_states",
        "bytes_max",
        "entries_max",
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
        """By the view that they bring clients to, the keys of the large ones."""
        self.outdated_bytes = 0
        """What the large ones took, in all, that were forgotten for their view."""
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self._bytes = 0
        self._nonce = 0
        self._last: dict[str, tuple[tuple[object, ...], Response, int]] = {}
        """By type, what ``get`` returned last, with its key and serial."""

    def next_nonce(self) -> str:
        """Return a nonce that no message of this process had before."""
        self._nonce += 1
        return format(self._nonce, "x")

    def again(self, type_url: str, key: tuple[object, ...], after: int) -> Response | None:
        """Return the type's response that ``get`` returned last, if the key is equal: nothing is hashed for that."""
        found = self._last.get(type_url)
        return found[1] if found is not None and found[2] > after and found[0] == key else None

    def get(
        self, type_url: str, key: tuple[Hashable, ...], make: Callable[[], Response], *, after: int = 0
    ) -> Response:
        """Return the response for ``key``, made now if no stream needed it before.

        It is made anew if its nonce is not newer than ``after``: a stream must not see a nonce twice.
        """
        response = self._entries.get(key)
        if response is not None:
            if response.serial > after:
                self._entries.move_to_end(key)
                self._last[type_url] = (key, response, response.serial)
                return response
            self._forget(key)
        response = self._entries[key] = make()
        self._last[type_url] = (key, response, response.serial)
        self._bytes += response.bytes_kept
        if response.bytes_kept >= LARGE_BYTES:
            self._large.setdefault(response.view, set()).add(key)
        while len(self._entries) > self.entries_max or (self._bytes > self.bytes_max and len(self._entries) > 1):
            self._forget(next(iter(self._entries)))
        return response

    def outdate(self, snapshots: Mapping[str, Snapshot], changed: Mapping[str, Iterable[str]]) -> None:
        """Take note that no client is brought any more to what groups have, of the types that change in each."""
        for view in (snapshots[group].view(t) for group, types in changed.items() if group in snapshots for t in types):
            last = self._last.get(view.type_url)
            if last is not None and last[1].view is view:
                del self._last[view.type_url]
            for key in tuple(self._large.get(view, ())):
                self.outdated_bytes += self._forget(key)

    def _forget(self, key: Hashable) -> int:
        response = self._entries.pop(key)
        self._bytes -= response.bytes_kept
        keys = self._large.get(response.view)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._large[response.view]
        return response.bytes_kept

    def remember(self, type_url: str, version: str, state: SentState) -> None:
        """Keep what a SotW version stands for."""
        self._states[type_url, version] = state
        self._states.move_to_end((type_url, version))
        if len(self._states) > self.states_max:
            self._states.popitem(last=False)

    def recall(self, type_url: str, version: str, interest: Interest) -> SentState | None:
        """Return what a version stands for, if it was sent lately to somebody of the same subscription."""
        state = self._states.get((type_url, version))
        return state if state is not None and state.interest is interest else None

    def __len__(self) -> int:
        return len(self._entries)


def state_version(fingerprint: int) -> str:
    """Return the wire form of a set of resources' fingerprint: equal content, equal version, on every replica."""
    return format(fingerprint, "016x")


def common_label(resources: Sequence[Resource]) -> str:
    """Return the version that the author of all these resources gave them, "" if they have none in common.

    It tells a client and its operator what was sent, and nothing about what the client has when it comes back.
    """
    if not resources or not resources[0].labelled:
        return ""
    label = resources[0].version
    return label if all(each.version == label for each in resources) else ""


def fingerprint_held(interest: Interest, view: View, exceptions: Exceptions) -> int:
    """Sum up the fingerprints of all that a client holds of one type. O(held), unless that is a whole view."""
    if interest.wildcard and not interest.names and not exceptions:
        return view.fingerprint
    held = {name: view.get(name) for name in wanted(interest, view)}
    held.update(exceptions.items())
    return sum(r.fingerprint for r in held.values() if r is not None) & FINGERPRINT_MASK


def endpoints_of(resources: Iterable[Resource]) -> frozenset[str]:
    """Return the assignments that the clusters among ``resources`` take their endpoints from."""
    clusters = (resource for resource in resources if resource.type_url == CLUSTER)
    return frozenset(r.name for cluster in clusters for r in cluster.references if r.type_url == ENDPOINTS)


def endpoints_of_one(clusters: Iterable[Resource]) -> frozenset[str]:
    """Return the endpoints that no more than one of these clusters names."""
    counts = Counter(name for cluster in clusters for name in endpoints_of([cluster]))
    return frozenset(name for name, count in counts.items() if count == 1)


def unlimited(encoding: Encoding) -> Encoding:
    """Return the same encoding for what can't be cut."""
    return Encoding(1 << 62, encoding.identifier)


class _Item(NamedTuple):
    """One entry of a response: a resource with its bytes, or with none the name of one that is gone."""

    name: str
    resource: Resource | None
    encoded: bytes


def _chunks(items: Iterable[_Item], bytes_max: int) -> Iterator[list[_Item]]:
    """Cut a response where it would grow beyond ``bytes_max``; an empty one is one empty chunk."""
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


def _room(type_url: str, encoding: Encoding) -> int:
    """Return how many bytes a response of the type has for its resources."""
    return encoding.response_bytes_max - len(type_url) - len(encoding.identifier) - ENVELOPE_BYTES


def delta_parts(
    type_url: str,
    interest: Interest,
    found: Diff,
    version: str,
    owed: bool,
    encoding: Encoding,
    next_nonce: Callable[[], str],
) -> tuple[Part, ...]:
    """Encode a diff as ``DeltaDiscoveryResponse`` messages no larger than they may be; removals come last.

    ``owed`` makes an empty response where there is nothing to say.
    """
    items = [_Item(resource.name, resource, resource.encoded) for resource in found.upserts]
    bodiless, gone = _missing(type_url, interest, found)
    items += [_Item(name, _stand_in(type_url, name), _bodiless(name)) for name in bodiless]
    items += [_Item(name, None, b"") for name in gone]
    if not items and not owed:
        return ()
    parts = []
    for chunk in _chunks(items, _room(type_url, encoding)):
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
        parts.append(Part(message.nonce, message.SerializeToString(), sent, removals, version))
    return tuple(parts)


def _missing(type_url: str, interest: Interest, found: Diff) -> tuple[list[str], list[str]]:
    """Return the names that are told to be missing by a resource without a body, and those that are told as removed.

    Whatever the type, a name that was just unsubscribed is told as removed: nobody waits for it.
    """
    gone = [*found.removals, *(name for name in found.unknown if name not in interest.names)]
    subscribed = [name for name in found.unknown if name in interest.names]
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
    """Return the Any that SotW carries: the resource, or with a TTL the ``Resource`` message around it."""
    if resource.ttl_s is None:
        return resource.body
    return sotw_wrapped(resource.encoded)


def sotw_wrapped(encoded: bytes) -> bytes:
    """Return an encoded ``Resource`` message as the Any that SotW carries it in."""
    wire = WireResource()
    wire.resource.type_url = WRAPPER
    wire.resource.value = encoded
    return wire.resource.SerializeToString()


def sotw_parts(
    type_url: str,
    resources: Iterable[Resource],
    version: str,
    encoding: Encoding,
    next_nonce: Callable[[], str],
) -> tuple[Part, ...]:
    """Encode resources as ``DiscoveryResponse`` messages: one for a full-state type, where absence removes.

    Of several, only the last carries ``version``: a client that was cut off before it must not seem complete.
    """
    items = [_Item(resource.name, resource, sotw_body(resource)) for resource in resources]
    room = 1 << 62 if policy_of(type_url).full_state else _room(type_url, encoding)
    chunks = list(_chunks(items, room))
    parts = []
    for number, chunk in enumerate(chunks, 1):
        says = version if number == len(chunks) else f"{version}-part{number}"
        message = DiscoveryResponse(
            type_url=type_url, version_info=says, nonce=next_nonce(), resources=[item.encoded for item in chunk]
        )
        message.control_plane.identifier = encoding.identifier
        sent = tuple(item.resource for item in chunk if item.resource is not None)
        parts.append(Part(message.nonce, message.SerializeToString(), sent, (), says))
    return tuple(parts)


def delta_heartbeat(
    type_url: str, resources: tuple[Resource, ...], version: str, nonce: str, encoding: Encoding
) -> Part:
    """Encode a message that renews TTLs and changes nothing (xDS page, "Time-to-live")."""
    bodiless = [resource.heartbeat for resource in resources]
    message = DeltaDiscoveryResponse(type_url=type_url, system_version_info=version, nonce=nonce, resources=bodiless)
    message.control_plane.identifier = encoding.identifier
    return Part(nonce, message.SerializeToString(), (), (), version, is_heartbeat=True)
