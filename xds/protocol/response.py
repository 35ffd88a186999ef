"""Responses: encoded once for every stream that lacks the same, cut where they would grow too large.

Streams with equal subscription, equal holdings and equal target are a cohort: ``Cohorts`` answers all of them with one
``Response`` object, nonce included. It does not know streams.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

from xds._generated.xds_wire_pb2 import DeltaDiscoveryResponse, DiscoveryResponse
from xds._generated.xds_wire_pb2 import Resource as WireResource
from xds.model.resource import Resource
from xds.model.types import CLUSTER, ENDPOINTS, TYPE_PREFIX
from xds.model.view import FINGERPRINT_MASK, View
from xds.protocol.diff import Diff, Exceptions, wanted
from xds.protocol.interest import Interest
from xds.protocol.policy import Missing, policy_of

RESPONSE_BYTES_MAX = 2 * 1024 * 1024
WRAPPER = TYPE_PREFIX + "envoy.service.discovery.v3.Resource"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One message on the wire: its nonce, its bytes, and the names in it. Shared by all streams that get it."""

    nonce: str
    message: bytes
    upserts: tuple[Resource, ...]
    removals: tuple[str, ...]
    version: str
    is_heartbeat: bool = False


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


@dataclass(frozen=True, slots=True)
class Encoding:
    """How responses are made: the size above which they are cut, and who they say they are from."""

    response_bytes_max: int = RESPONSE_BYTES_MAX
    identifier: str = "xds-control-plane"


class Cohorts:
    """The responses that were made lately, by what they depend on, so that a cohort shares one.

    Bounded by ``entries_max`` and ``bytes_max``: what was not used for longest is forgotten and made again if needed.
    """

    __slots__ = ("_bytes", "_bytes_max", "_entries", "_entries_max", "_nonce")

    def __init__(self, *, entries_max: int = 4_096, bytes_max: int = 256 * 1024 * 1024) -> None:
        self._entries: OrderedDict[Hashable, Response] = OrderedDict()
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._nonce = 0

    def next_nonce(self) -> str:
        """Return a nonce that no message of this process had before."""
        self._nonce += 1
        return format(self._nonce, "x")

    def get(self, key: Hashable, make: Callable[[], Response]) -> Response:
        """Return the response for ``key``, made now if no stream needed it before."""
        response = self._entries.get(key)
        if response is not None:
            self._entries.move_to_end(key)
            return response
        response = self._entries[key] = make()
        self._bytes += _size(response)
        while len(self._entries) > self._entries_max or (self._bytes > self._bytes_max and len(self._entries) > 1):
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= _size(oldest)
        return response

    def __len__(self) -> int:
        return len(self._entries)


def _size(response: Response) -> int:
    return sum(len(part.message) for part in response.parts)


def state_version(fingerprint: int) -> str:
    """Return the wire form of a set of resources' fingerprint: equal content, equal version, on every replica."""
    return format(fingerprint, "016x")


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


def _chunks(resources: Iterable[tuple[Resource, bytes]], bytes_max: int) -> Iterator[list[tuple[Resource, bytes]]]:
    chunk: list[tuple[Resource, bytes]] = []
    size = 0
    for resource, encoded in resources:
        if chunk and size + len(encoded) > bytes_max:
            yield chunk
            chunk, size = [], 0
        chunk.append((resource, encoded))
        size += len(encoded)
    yield chunk


def delta_parts(
    type_url: str, found: Diff, version: str, owed: bool, encoding: Encoding, next_nonce: Callable[[], str]
) -> tuple[Part, ...]:
    """Encode a diff as ``DeltaDiscoveryResponse`` messages no larger than they may be; removals come last.

    ``owed`` makes an empty response where there is nothing to say.
    """
    missing = policy_of(type_url).missing
    pairs = [(resource, resource.encoded) for resource in found.upserts]
    removals = list(found.removals)
    if missing is Missing.REMOVED:
        removals += found.unknown
    elif missing is Missing.BODILESS:
        pairs += [(_stand_in(type_url, name), _bodiless(name)) for name in found.unknown if "/" in name]
        removals += [name for name in found.unknown if "/" not in name]
    if not pairs and not removals and not owed:
        return ()
    parts = []
    chunks = list(_chunks(pairs, encoding.response_bytes_max))
    for number, chunk in enumerate(chunks, 1):
        gone = removals if number == len(chunks) else []
        message = DeltaDiscoveryResponse(
            type_url=type_url,
            system_version_info=version,
            nonce=next_nonce(),
            resources=[encoded for _, encoded in chunk],
            removed_resources=gone,
        )
        message.control_plane.identifier = encoding.identifier
        sent = tuple(resource for resource, _ in chunk)
        parts.append(Part(message.nonce, message.SerializeToString(), sent, tuple(gone), version))
    return tuple(parts)


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
    limit = 1 << 62 if policy_of(type_url).full_state else encoding.response_bytes_max
    chunks = list(_chunks(((resource, sotw_body(resource)) for resource in resources), limit))
    parts = []
    for number, chunk in enumerate(chunks, 1):
        says = version if number == len(chunks) else f"{version}-part{number}"
        message = DiscoveryResponse(
            type_url=type_url, version_info=says, nonce=next_nonce(), resources=[encoded for _, encoded in chunk]
        )
        message.control_plane.identifier = encoding.identifier
        sent = tuple(resource for resource, _ in chunk)
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


def sotw_heartbeat(
    type_url: str, resources: tuple[Resource, ...], version: str, nonce: str, encoding: Encoding
) -> Part:
    """Encode the same for SotW, where clients know a heartbeat by its wrapper without a body: absence removes not."""
    bodiless = [sotw_wrapped(resource.heartbeat) for resource in resources]
    message = DiscoveryResponse(type_url=type_url, version_info=version, nonce=nonce, resources=bodiless)
    message.control_plane.identifier = encoding.identifier
    return Part(nonce, message.SerializeToString(), (), (), version, is_heartbeat=True)
