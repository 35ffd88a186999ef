"""Encoded resources made by hand, without a schema, with versions that the test chooses.

Their bodies hold name and version only, so that ``support.hubs`` can identify resources on the wire.
"""

from google.protobuf import any_pb2, duration_pb2

from xds._generated import xds_wire_pb2 as wire
from xds.model import types as t
from xds.model.resource import Reference, Resource

CDS, EDS, LDS, RDS, SRDS = t.CLUSTER, t.ENDPOINTS, t.LISTENER, t.ROUTE, t.SCOPED_ROUTE
VHDS, SDS, RTDS, ECDS, LEDS = t.VIRTUAL_HOST, t.SECRET, t.RUNTIME, t.EXTENSION_CONFIG, t.LOCALITY_ENDPOINTS
OTHER = t.TYPE_PREFIX + "acme.v1.Thing"
"""A type of the schema that the server has no policy for."""

TYPES = {
    RTDS: "RTDS",
    CDS: "CDS",
    EDS: "EDS",
    LDS: "LDS",
    SRDS: "SRDS",
    RDS: "RDS",
    VHDS: "VHDS",
    ECDS: "ECDS",
    SDS: "SDS",
    LEDS: "LEDS",
    OTHER: "OTHER",
}
"""Every type of the tests' schema with its short name, in the order of Envoy's requests when it reconnects."""


def short(type_url: str) -> str:
    """Return the usual short name of a type."""
    return TYPES.get(type_url, type_url)


def resource(
    type_url: str,
    name: str,
    version: str | int = 1,
    *,
    refers: tuple[Reference, ...] = (),
    ttl_s: float | None = None,
    aliases: tuple[str, ...] = (),
    padding: int = 0,
) -> Resource:
    """Return a resource; its body is about ``padding`` bytes longer."""
    inside = wire.Locality(region=name, zone=str(version), sub_zone="x" * padding)
    body = any_pb2.Any(type_url=type_url, value=inside.SerializeToString())
    whole = wire.Resource(version=str(version), name=name, aliases=aliases)
    if ttl_s is not None:
        whole.ttl.CopyFrom(duration_pb2.Duration(seconds=int(ttl_s), nanos=round(ttl_s % 1 * 1e9)))
    heartbeat = whole.SerializeToString() if ttl_s is not None else b""
    whole.resource.CopyFrom(body)
    encoded, encoded_body = whole.SerializeToString(), body.SerializeToString()
    start = encoded.index(encoded_body)
    return Resource(
        type_url=type_url,
        name=name,
        version=str(version),
        encoded=encoded,
        body_start=start,
        body_end=start + len(encoded_body),
        ttl_s=ttl_s,
        heartbeat=heartbeat,
        aliases=aliases,
        references=refers,
    )


def cluster(name: str, version: str | int = 1, *, eds: str | None = "", ttl_s: float | None = None) -> Resource:
    """Return a cluster that takes its endpoints from the assignment ``eds``, by default of its own name."""
    refers = () if eds is None else (Reference(EDS, eds or name),)
    return resource(CDS, name, version, refers=refers, ttl_s=ttl_s)


def endpoints(name: str, version: str | int = 1, *, ttl_s: float | None = None) -> Resource:
    """Return an assignment."""
    return resource(EDS, name, version, ttl_s=ttl_s)


def static(name: str, version: str | int = 1) -> Resource:
    """Return a cluster with its endpoints inline."""
    return cluster(name, version, eds=None)


def listener(name: str, version: str | int = 1, *, routes: str = "", clusters: str = "") -> Resource:
    """Return a listener that refers to its routes by name, or has them inline and so refers to clusters."""
    refers = [*(Reference(RDS, name) for name in routes.split()), *(Reference(CDS, name) for name in clusters.split())]
    return resource(LDS, name, version, refers=tuple(refers))


def route(name: str, version: str | int, clusters: str = "") -> Resource:
    """Return a route configuration to these clusters."""
    return resource(RDS, name, version, refers=tuple(Reference(CDS, to) for to in clusters.split()))


def virtual_host(name: str, version: str | int = 1, *, aliases: tuple[str, ...] = (), clusters: str = "") -> Resource:
    """Return a virtual host with ``route/host`` names as its aliases."""
    return resource(VHDS, name, version, aliases=aliases, refers=tuple(Reference(CDS, to) for to in clusters.split()))
