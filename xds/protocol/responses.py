"""Discovery responses: encoded once for all streams that lack the same, split where they would grow too large.

A cohort is all streams with equal subscription, equal holdings and equal target. ``ResponseCache`` gives each cohort
one response, nonce included, so that it is encoded once and recognised by its bytes.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from immutables import Map

from xds._generated.xds_wire_pb2 import DeltaDiscoveryResponse, DiscoveryResponse
from xds._generated.xds_wire_pb2 import Resource as WireResource
from xds.model.resource import Resource
from xds.model.snapshot import Snapshot
from xds.model.types import CLUSTER, ENDPOINTS, SECRET, TYPE_PREFIX
from xds.model.view import FINGERPRINT_MASK, View
from xds.protocol.diff import NOBODY, Diff, Exceptions, wanted
from xds.protocol.draining import NEVER, NOTHING_DRAINS, Draining, keep_all
from xds.protocol.policy import Missing, policy_of
from xds.protocol.subscription import NameSet, Subscription

# --- Responses -------------------------------------------------------------------------------------------------------

RESPONSE_BYTES_MAX = 2 * 1024 * 1024
ENVELOPE_BYTES = 96
"""At most so much of a response is nonce, version and field tags."""
FIELD_BYTES = 6
"""At most so much goes before each resource or name: its tag and length."""
NEVER_SEEN = 1 << 62
_NO_NAME = re.compile(r"""[\s,;:'"()\[\]{}]+""")
WRAPPER = TYPE_PREFIX + "envoy.service.discovery.v3.Resource"


@dataclass(slots=True, eq=False)
class Part:
    """One message on the wire: its nonce, its bytes, and the names in it. Shared by all streams that get it.

    What is worked out when the first stream rejects it is kept, so that others share it. Nothing else of it changes.

    ``replaced``: what a client held before under the names that the part changes or removes; ``gone``: names that it
    loses; ``new``: names sent that it did not hold.
    """

    nonce: str
    message: bytes
    upserts: tuple[Resource, ...]
    removals: tuple[str, ...]
    version: str
    is_heartbeat: bool = False
    replaced: tuple[Resource, ...] = ()
    gone: frozenset[str] = NOBODY
    new: frozenset[str] = NOBODY
    serial: int = field(init=False)
    """The nonce as a number, which only grows."""
    _name_set: NameSet | None = field(init=False, default=None)
    _accepted_set: NameSet | None = field(init=False, default=None)
    _removal_set: NameSet | None = field(init=False, default=None)
    _versions: Mapping[str, str] | None = field(init=False, default=None)
    _kept: Draining | None = field(init=False, default=None)
    _had_before: Exceptions | None = field(init=False, default=None)
    _clusters_of_endpoints: Map[str, frozenset[str]] | None = field(init=False, default=None)
    _has_secrets: bool | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.serial = int(self.nonce, 16)

    @property
    def name_set(self) -> NameSet:
        """The set of the names in the message, one for all who reject it."""
        if self._name_set is None:
            self._name_set = NameSet.of(self.names)
        return self._name_set

    @property
    def accepted_set(self) -> NameSet:
        """The set of the names that are settled by an ACK: those in the message, and what it removes by leaving out."""
        if self._accepted_set is None:
            self._accepted_set = NameSet.of({*self.names, *self.gone}) if self.gone else self.name_set
        return self._accepted_set

    @property
    def removal_set(self) -> NameSet:
        """The set of the names that the message removes, one for all who reject it."""
        if self._removal_set is None:
            self._removal_set = NameSet.of(self.removals)
        return self._removal_set

    @property
    def kept(self) -> Draining:
        """What a client may go on using if it rejects the message; one value for all who do."""
        if self._kept is None:
            self._kept = keep_all(NOTHING_DRAINS, self.replaced, NEVER)
        return self._kept

    @property
    def had_before(self) -> Exceptions:
        """What a client that rejects the message held before, by each name that it changes; None for nothing."""
        if self._had_before is None:
            nothing: dict[str, Resource | None] = dict.fromkeys(self.new)
            self._had_before = Map(nothing | {older.name: older for older in self.replaced})
        return self._had_before

    def named_in(self, text: str) -> frozenset[str]:
        """Return the names in the message that a text has as words, all of them if it has none."""
        names = self.name_set.names
        found = names.intersection(_NO_NAME.split(text))
        return found or names

    @property
    def clusters_of_endpoints(self) -> Map[str, frozenset[str]]:
        """By assignment, the clusters in the message that take their endpoints from it."""
        if self._clusters_of_endpoints is None:
            pairs = [(name, resource.name) for resource in self.upserts for name in endpoints_of([resource])]
            found: dict[str, frozenset[str]] = {}
            for name, cluster in pairs:
                found[name] = found.get(name, NOBODY) | {cluster}
            self._clusters_of_endpoints = Map(found)
        return self._clusters_of_endpoints

    @property
    def has_secrets(self) -> bool:
        """Whether a resource in the message refers to a secret."""
        if self._has_secrets is None:
            self._has_secrets = any(one.type_url == SECRET for each in self.upserts for one in each.references)
        return self._has_secrets

    @property
    def versions(self) -> Mapping[str, str]:
        """The version of each name in the message, empty for a removed one; one mapping for all who reject it."""
        if self._versions is None:
            self._versions = {r.name: r.version for r in self.upserts} | dict.fromkeys(self.removals, "")
        return self._versions

    @property
    def names(self) -> list[str]:
        """Every name in the message, sent or removed."""
        return [*(resource.name for resource in self.upserts), *self.removals]


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """What takes a cohort from one state to the next: no parts if that needs no message.

    ``view`` and ``exceptions`` are what a client holds after it; ``endpoints`` names the assignments that Envoy waits
    for once it got the clusters in it; ``replaced`` is what the client held under the names that the response changes
    or removes, ``gone`` those that it is to lose, told or not; ``kept`` is what it may go on using of them;
    ``fingerprint`` sums up what it holds after.
    """

    parts: tuple[Part, ...]
    view: View
    exceptions: Exceptions
    fingerprint: int
    endpoints: frozenset[str]
    replaced: tuple[Resource, ...]
    gone: frozenset[str]
    kept: Draining
    subscription: Subscription
    names_bytes: int
    """About what the names take that only it may hold on to, beside those of the subscription."""

    @property
    def message_bytes(self) -> int:
        """The size of its messages in all."""
        return sum(len(part.message) for part in self.parts)

    @property
    def bytes_kept(self) -> int:
        """About what keeping it costs: its messages, those once more as framed, and names."""
        return 2 * self.message_bytes + self.names_bytes

    @property
    def serial(self) -> int:
        """The first part's; a response without parts can be given to anybody at any time."""
        return self.parts[0].serial if self.parts else NEVER_SEEN


@dataclass(frozen=True, slots=True)
class Encoding:
    """How responses are made: the size above which they are cut, and who they say they are from."""

    response_bytes_max: int = RESPONSE_BYTES_MAX
    identifier: str = "xds-control-plane"


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


def fingerprint_held(subscription: Subscription, view: View, exceptions: Exceptions) -> int:
    """Sum up the fingerprints of all that a client holds of one type. O(held), unless that is a whole view."""
    if subscription.wildcard and not subscription.names and not exceptions:
        return view.fingerprint
    held = {name: view.get(name) for name in wanted(subscription, view)}
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
    subscription: Subscription,
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
    bodiless, gone = _missing(type_url, subscription, found)
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


def _missing(type_url: str, subscription: Subscription, found: Diff) -> tuple[list[str], list[str]]:
    """Return the names that are told to be missing by a resource without a body, and those that are told as removed.

    Whatever the type, a name that was just unsubscribed is told as removed: nobody waits for it.
    """
    gone = [*found.removals, *(name for name in found.unknown if name not in subscription.names)]
    subscribed = [name for name in found.unknown if name in subscription.names]
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


def note_effects(parts: Iterable[Part], found: Diff, held: Mapping[str, Resource]) -> None:
    """Note in new parts what they do to a client that held ``held`` of the names in the diff."""
    *others, last = parts
    removed = set(found.removals)
    for part in (*others, last):
        part.gone = frozenset(removed.intersection(part.removals))
    if not last.removals:
        last.gone = frozenset(removed.difference(*(part.gone for part in others)))  # SotW tells them by their absence
    for part in (*others, last):
        names = [resource.name for resource in part.upserts]
        part.replaced = tuple(held[name] for name in (*names, *sorted(part.gone)) if name in held)
        part.new = frozenset(name for name in names if not _surely_has(held.get(name)))


def _surely_has(resource: Resource | None) -> bool:
    """Say whether a client has some version of a resource; of an unknown version, it may have none."""
    return resource is not None and not (resource.is_version_only and not resource.version)


def delta_heartbeat(
    type_url: str, resources: tuple[Resource, ...], version: str, nonce: str, encoding: Encoding
) -> Part:
    """Encode a message that renews TTLs and changes nothing (xDS page, "Time-to-live")."""
    bodiless = [resource.heartbeat for resource in resources]
    message = DeltaDiscoveryResponse(type_url=type_url, system_version_info=version, nonce=nonce, resources=bodiless)
    message.control_plane.identifier = encoding.identifier
    return Part(nonce, message.SerializeToString(), (), (), version, is_heartbeat=True)


# --- The cache -------------------------------------------------------------------------------------------------------

NAMES_BYTES_MAX = 16 * 1024 * 1024
"""What the names in the keys of responses may take: subscriptions, each once, what is asked for, and exceptions."""
AGE_MAX = 2
"""Large responses, or with large names, that nobody was given for so many periods are forgotten."""
LARGE_BYTES = 32 * 1024
"""Responses whose messages are so large are forgotten as soon as nobody new can need them."""


@dataclass(frozen=True, slots=True, eq=False)
class SentState:
    """All that a client was sent of one type: what it subscribed to, the view it was brought to, what differs."""

    subscription: Subscription
    view: View
    exceptions: Exceptions


class ResponseCache:
    """The responses that were made lately, by what they depend on, so that a cohort shares one.

    Bounded by ``entries_max`` and ``bytes_max``: what was not used for longest is forgotten and made again if needed;
    what is large already once the view that it brings clients to is replaced. It also keeps what the last
    ``states_max`` SotW versions stood for: a client that comes back says no more.
    """

    __slots__ = (
        "_ages",
        "_bytes",
        "_entries",
        "_interests",
        "_large",
        "_last",
        "_names_bytes",
        "_nonce",
        "_states",
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
        """By the view that they bring clients to, the keys of the large ones."""
        self.outdated_bytes = 0
        """The size, in all, of the large ones that were forgotten for their view."""
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.names_bytes_max = NAMES_BYTES_MAX
        self._bytes = 0
        self._interests: dict[Subscription, int] = {}
        """Of how many entries each subscription is a part."""
        self._names_bytes = 0
        self._ages: dict[Response, tuple[Hashable, int]] = {}
        """Of the large entries, the key, and how often ``grow_old`` was called since they were used."""
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
        if found is None or found[2] <= after or found[0] != key:
            return None
        if found[1] in self._ages:
            self._ages[found[1]] = (key, 0)
        return found[1]

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
                if response in self._ages:
                    self._ages[response] = (key, 0)
                self._last[type_url] = (key, response, response.serial)
                return response
            self._forget(key)
        response = self._entries[key] = make()
        self._last[type_url] = (key, response, response.serial)
        self._bytes += response.bytes_kept
        self._hold_names(key, response)
        if response.message_bytes >= LARGE_BYTES:
            self._large.setdefault(response.view, set()).add(key)
        while len(self._entries) > 1 and self._is_full:
            self._forget(next(iter(self._entries)))
        return response

    @property
    def _is_full(self) -> bool:
        too_many = len(self._entries) > self.entries_max
        return too_many or self._bytes > self.bytes_max or self._names_bytes > self.names_bytes_max

    def _hold_names(self, key: Hashable, response: Response) -> None:
        subscription = response.subscription
        users = self._interests.get(subscription, 0)
        self._interests[subscription] = users + 1
        self._names_bytes += response.names_bytes + (0 if users else subscription.names_bytes)
        if max(response.message_bytes, response.names_bytes + subscription.names_bytes) >= LARGE_BYTES:
            self._ages[response] = (key, 0)

    def grow_old(self) -> None:
        """Forget the large responses that no stream was given since this was called ``AGE_MAX`` times."""
        for response, (key, age) in list(self._ages.items()):
            self._ages[response] = (key, age + 1)
            if age >= AGE_MAX:
                self._forget(key)
                self._last = {type_url: last for type_url, last in self._last.items() if last[1] is not response}

    def outdate(self, before: Mapping[str, Snapshot], after: Mapping[str, Snapshot], groups: Iterable[str]) -> None:
        """Take note that clients of some groups are brought to other snapshots from now on, or to none.

        One whose order of changes lags behind may still be brought to an older view: that is made anew.
        """
        for group in groups:
            views = before[group].views if group in before else {}
            now = after[group].views if group in after else {}
            for type_url, view in views.items():
                if now.get(type_url) is not view:
                    self._outdate(view)

    def _outdate(self, view: View) -> None:
        last = self._last.get(view.type_url)
        if last is not None and last[1].view is view:
            del self._last[view.type_url]
        for key in tuple(self._large.get(view, ())):
            self.outdated_bytes += self._entries[key].message_bytes
            self._forget(key)

    def _forget(self, key: Hashable) -> None:
        response = self._entries.pop(key)
        self._bytes -= response.bytes_kept
        self._ages.pop(response, None)
        subscription = response.subscription
        self._names_bytes -= response.names_bytes
        self._interests[subscription] -= 1
        if not self._interests[subscription]:
            del self._interests[subscription]
            self._names_bytes -= subscription.names_bytes
        keys = self._large.get(response.view)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._large[response.view]

    def remember(self, type_url: str, version: str, state: SentState) -> None:
        """Keep what a SotW version stands for."""
        self._states[type_url, version] = state
        self._states.move_to_end((type_url, version))
        if len(self._states) > self.states_max:
            self._states.popitem(last=False)

    def recall(self, type_url: str, version: str, subscription: Subscription) -> SentState | None:
        """Return what a version stands for, if it was sent lately to somebody of the same subscription.

        A version is a digest of the content: only who has that can name it, in whichever group it was sent.
        """
        state = self._states.get((type_url, version))
        return state if state is not None and state.subscription is subscription else None

    def __len__(self) -> int:
        return len(self._entries)
