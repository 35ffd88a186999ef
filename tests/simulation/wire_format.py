"""Encodes requests and decodes responses of both variants, for clients."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.any_pb2 import Any
from simulation.content import Content

from xds._generated import xds_wire_pb2 as wire
from xds.protocol.policy import Variant

Request = wire.DeltaDiscoveryRequest | wire.DiscoveryRequest
Read = Callable[[str, bytes], Content]


@dataclass(frozen=True, slots=True)
class Held:
    """A received resource. On SotW its version is empty."""

    version: str
    content: Content


@dataclass(frozen=True, slots=True)
class Message:
    """A response. ``unsure`` are clusters that the client may lack because it did not answer for long."""

    type_url: str
    nonce: str
    version: str
    resources: Mapping[str, Held]
    removed: tuple[str, ...]
    unsure: frozenset[str] = frozenset()

    def __str__(self) -> str:
        words = [str(held.content) for held in self.resources.values()] + [f"-{name}" for name in self.removed]
        return " ".join(words) or "(empty)"


def decode(variant: Variant, data: bytes, read: Read, unsure: frozenset[str] = frozenset()) -> Message:
    """Decode a response."""
    found: dict[str, Held] = {}
    if variant is Variant.DELTA:
        delta = wire.DeltaDiscoveryResponse.FromString(data)
        for encoded in delta.resources:
            one = wire.Resource.FromString(encoded)
            assert one.name not in found, f"{one.name} twice in one response"
            found[one.name] = Held(one.version, read(delta.type_url, one.resource.value))
        removed = tuple(delta.removed_resources)
        assert len({*removed, *found}) == len(removed) + len(found), f"a name twice in one response: {removed}, {found}"
        return Message(delta.type_url, delta.nonce, delta.system_version_info, found, removed, unsure)
    sotw = wire.DiscoveryResponse.FromString(data)
    for encoded in sotw.resources:
        content = read(sotw.type_url, Any.FromString(encoded).value)
        assert content.name not in found, f"{content.name} twice in one response"
        found[content.name] = Held("", content)
    return Message(sotw.type_url, sotw.nonce, sotw.version_info, found, (), unsure)


def delta_request(
    type_url: str,
    *,
    subscribe: Iterable[str] = (),
    unsubscribe: Iterable[str] = (),
    have: Mapping[str, str] | None = None,
    nonce: str = "",
    error: str = "",
) -> Request:
    """Encode a delta request."""
    return wire.DeltaDiscoveryRequest(
        type_url=type_url,
        resource_names_subscribe=sorted(subscribe),
        resource_names_unsubscribe=sorted(unsubscribe),
        initial_resource_versions=dict(sorted((have or {}).items())),
        response_nonce=nonce,
        error_detail=wire.Status(code=13, message=error) if error else None,
    )


def sotw_request(type_url: str, *, names: Iterable[str], version: str, nonce: str, error: str = "") -> Request:
    """Encode a SotW request."""
    return wire.DiscoveryRequest(
        type_url=type_url,
        resource_names=sorted(names),
        version_info=version,
        response_nonce=nonce,
        error_detail=wire.Status(code=13, message=error) if error else None,
    )


def spell(request: Request) -> str:
    """Return a request's line in the transcript."""
    words = []
    if isinstance(request, wire.DeltaDiscoveryRequest):
        words += [f"+{name}" for name in request.resource_names_subscribe]
        words += [f"-{name}" for name in request.resource_names_unsubscribe]
        if request.initial_resource_versions:
            words.append("has " + " ".join(f"{n}@{v}" for n, v in sorted(request.initial_resource_versions.items())))
    else:
        words += [f"names [{' '.join(request.resource_names)}]", f"version {request.version_info or '-'}"]
    if request.response_nonce:
        answer = f"NACK {request.error_detail.message!r} of" if request.HasField("error_detail") else "ACK of"
        words.insert(0, f"{answer} {request.response_nonce}")
    return " ".join(words) or "*"
