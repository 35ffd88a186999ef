"""Responses and messages for the fleet's tests, encoded as a server would."""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import any_pb2, json_format

from xds._generated import xds_wire_pb2 as wire
from xds.fleet.content import Content, Parser
from xds.model.types import CLUSTER, ENDPOINTS, LISTENER, ROUTE, TYPE_PREFIX
from xds.schema.pool import load_schema

MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
PATHS = {
    CLUSTER: "envoy.config.cluster.v3.Cluster",
    ENDPOINTS: "envoy.config.endpoint.v3.ClusterLoadAssignment",
    LISTENER: "envoy.config.listener.v3.Listener",
    ROUTE: "envoy.config.route.v3.RouteConfiguration",
}


def encoded(message_name: str, json: Mapping[str, Any]) -> bytes:
    """Encode Envoy's JSON form."""
    schema = load_schema()
    message = json_format.ParseDict(dict(json), schema.message_class(message_name)(), descriptor_pool=schema.pool)
    return bytes(message.SerializeToString())


def cluster(name: str, *, service: str = "", kind: str = "EDS", file: bool = False) -> bytes:
    """Encode a cluster that gets its endpoints by EDS."""
    source: dict[str, Any] = {"path_config_source": {"path": "/x"}} if file else {"ads": {}}
    json: dict[str, Any] = {"name": name, "type": kind}
    if kind == "EDS":
        json["eds_cluster_config"] = {"eds_config": source, "service_name": service}
    return encoded(PATHS[CLUSTER], json)


def assignment(name: str, port: int = 1) -> bytes:
    """Encode an assignment of one endpoint."""
    address = {"socket_address": {"address": "10.0.0.1", "port_value": port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return encoded(PATHS[ENDPOINTS], {"cluster_name": name, "endpoints": endpoints})


def listener(name: str, *routes: str, default: str = "", api: str = "") -> bytes:
    """Encode a listener with a filter chain for each route configuration that it asks for."""

    def manager(route: str) -> dict[str, Any]:
        return {
            "@type": TYPE_PREFIX + MANAGER,
            "stat_prefix": "x",
            "rds": {"route_config_name": route, "config_source": {"ads": {}}},
        }

    def chain(route: str) -> dict[str, Any]:
        return {"filters": [{"name": "tcp"}, {"name": "http", "typed_config": manager(route)}]}

    json: dict[str, Any] = {"name": name, "filter_chains": [chain(route) for route in routes]}
    if default:
        json["default_filter_chain"] = chain(default)
    if api:
        json["api_listener"] = {"api_listener": manager(api)}
    return encoded(PATHS[LISTENER], json)


def delta(
    type_url: str,
    resources: Mapping[str, tuple[str, bytes]] | None = None,
    *,
    removed: Iterable[str] = (),
    nonce: str = "1",
) -> bytes:
    """Encode a delta response of name → (version, body)."""
    response = wire.DeltaDiscoveryResponse(type_url=type_url, nonce=nonce, removed_resources=removed)
    response.control_plane.identifier = "test"
    for name, (version, body) in (resources or {}).items():
        inside = any_pb2.Any(type_url=type_url, value=body)
        response.resources.append(wire.Resource(name=name, version=version, resource=inside).SerializeToString())
    return response.SerializeToString()


def sotw(type_url: str, bodies: Iterable[bytes], *, version: str = "1", nonce: str = "1") -> bytes:
    """Encode a state-of-the-world response."""
    resources = [any_pb2.Any(type_url=type_url, value=body).SerializeToString() for body in bodies]
    return wire.DiscoveryResponse(
        type_url=type_url, version_info=version, nonce=nonce, resources=resources
    ).SerializeToString()


def content(encoded_response: bytes, *, is_sotw: bool = False) -> Content:
    """Return the content of a response."""
    return Parser(sotw=is_sotw).message(encoded_response).content
