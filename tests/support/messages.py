"""Decodes responses, and formats them for transcripts.

CDS #3 a@2 b@1 -c          response 3 to a client: a at version 2, b at version 1, c removed
EDS #4 ~a@1 ttl=9          a without its body, as a heartbeat (or an answer for an unknown host) has it
LDS #1 (empty)             a response with nothing in it
"""

from dataclasses import dataclass

from google.protobuf import any_pb2

from support.encoded import short
from xds._generated import xds_wire_pb2 as wire
from xds.model.types import WRAPPER_URL
from xds.protocol.policy import Variant
from xds.protocol.responses import Part


@dataclass(frozen=True, slots=True)
class Message:
    """A decoded response; ``number`` counts the responses to one client, ``part`` is the Part it was decoded from."""

    number: int
    type_url: str
    nonce: str
    version: str
    resources: tuple[wire.Resource, ...]
    removed: tuple[str, ...]
    identifier: str
    part: Part

    @property
    def names(self) -> list[str]:
        """The names of its resources, without removed ones."""
        return [resource.name for resource in self.resources]

    def __str__(self) -> str:
        words = [short(self.type_url), f"#{self.number}"]
        words += [_resource_text(resource) for resource in self.resources]
        words += [f"-{name}" for name in self.removed]
        return " ".join(words if len(words) > 2 else [*words, "(empty)"])


def _resource_text(resource: wire.Resource) -> str:
    body = "" if resource.HasField("resource") else "~"
    version = f"@{resource.version}" if resource.version else ""
    ttl = f" ttl={resource.ttl.ToTimedelta().total_seconds():g}" if resource.HasField("ttl") else ""
    aliases = f" alias={','.join(resource.aliases)}" if resource.aliases else ""
    return f"{body}{resource.name}{version}{ttl}{aliases}"


def decode(variant: Variant, part: Part, number: int) -> Message:
    """Decode a message, and check that its Part agrees with it."""
    if variant is Variant.DELTA:
        said = wire.DeltaDiscoveryResponse.FromString(part.message)
        found = tuple(wire.Resource.FromString(encoded) for encoded in said.resources)
        version, removed = said.system_version_info, tuple(said.removed_resources)
    else:
        said = wire.DiscoveryResponse.FromString(part.message)
        found = tuple(_unwrapped(encoded) for encoded in said.resources)
        version, removed = said.version_info, ()
    assert (part.nonce, part.removals, part.version) == (said.nonce, removed, version)
    for resource in found:
        assert not resource.HasField("resource") or resource.resource.type_url == said.type_url
    return Message(number, said.type_url, said.nonce, version, found, removed, said.control_plane.identifier, part)


def _unwrapped(encoded: bytes) -> wire.Resource:
    """Decode one resource of a SotW response: an Any with the resource, or with a ``Resource`` around it."""
    body = any_pb2.Any.FromString(encoded)
    if body.type_url == WRAPPER_URL:
        return wire.Resource.FromString(body.value)
    inside = wire.Locality.FromString(body.value)
    return wire.Resource(name=inside.region, version=inside.zone, resource=body)
