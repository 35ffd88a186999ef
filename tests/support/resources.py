"""Builders of Envoy resources as dicts with ``@type``, in the shape of Envoy's own files.

Every reference from one resource to another uses ``source``, an Envoy ConfigSource; the default is ADS. Each dict is
new: tests may change it.
"""

import copy
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_DEMO = Path(__file__).parents[2] / "snapshots" / "tls"
DEMO_CERT, DEMO_KEY = (_DEMO / "demo-cert.pem").read_text(), (_DEMO / "demo-key.pem").read_text()
"""A certificate and its private key, as PEM text."""

TYPE = "type.googleapis.com/"
CLUSTER = TYPE + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = TYPE + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = TYPE + "envoy.config.listener.v3.Listener"
ROUTE = TYPE + "envoy.config.route.v3.RouteConfiguration"
SCOPED_ROUTE = TYPE + "envoy.config.route.v3.ScopedRouteConfiguration"
VIRTUAL_HOST = TYPE + "envoy.config.route.v3.VirtualHost"
SECRET = TYPE + "envoy.extensions.transport_sockets.tls.v3.Secret"
RUNTIME = TYPE + "envoy.service.runtime.v3.Runtime"
EXTENSION = TYPE + "envoy.config.core.v3.TypedExtensionConfig"
HTTP_MANAGER = TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
TCP_PROXY = TYPE + "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
ROUTER = TYPE + "envoy.extensions.filters.http.router.v3.Router"
DOWNSTREAM_TLS = TYPE + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
UPSTREAM_TLS = TYPE + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"

LOCALHOST = "127.0.0.1"


def ads() -> Json:
    """Return the config source that every reference uses by default."""
    return {"ads": {}, "resource_api_version": "V3"}


def per_type_source(*, cluster: str = "xds", sotw: bool = False, fetch_timeout: str = "15s") -> Json:
    """Return a config source for a per-type service at the cluster ``cluster`` (docs/envoy-behaviour.md#bootstrap)."""
    return {
        "resource_api_version": "V3",
        "initial_fetch_timeout": fetch_timeout,
        "api_config_source": {
            "api_type": "GRPC" if sotw else "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [{"envoy_grpc": {"cluster_name": cluster}}],
        },
    }


def address(port: int, host: str = LOCALHOST) -> Json:
    """Return an Envoy address."""
    return {"socket_address": {"address": host, "port_value": port}}


def cluster(
    name: str,
    *,
    service_name: str | None = None,
    source: Json | None = None,
    health_check_s: float | None = None,
    tls: Json | None = None,
    **fields: Any,
) -> Json:
    """Return an EDS cluster. ``tls`` is a transport socket of ``upstream_tls``; ``fields`` are added unchanged.

    With ``health_check_s`` endpoints are checked at ``/health`` at that interval, and healthy only once they passed.
    """
    eds: Json = {"eds_config": source or ads()}
    if service_name:
        eds["service_name"] = service_name
    made: Json = {"@type": CLUSTER, "name": name, "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": eds}
    if health_check_s is not None:
        made["health_checks"] = [health_check(health_check_s)]
    if tls:
        made["transport_socket"] = tls
    return made | fields


def health_check(interval_s: float, path: str = "/health") -> Json:
    """Return an active HTTP health check decided by a single answer."""
    every = f"{interval_s}s"
    return {
        "timeout": "1s",
        "interval": every,
        "no_traffic_interval": every,
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        "http_health_check": {"path": path},
    }


def static_cluster(name: str, *ports: int, **fields: Any) -> Json:
    """Return a cluster with its endpoints inline, without EDS."""
    inline = assignment(name, *ports)
    del inline["@type"]
    made = {"@type": CLUSTER, "name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": inline}
    return made | fields


def assignment(name: str, *ports: int, region: str = "r", zone: str = "z", hosts: Sequence[str] = ()) -> Json:
    """Return the endpoints of an EDS cluster; without ports it has none.

    They are in one weighted locality, which grpc's own client needs. ``hosts`` replaces 127.0.0.1, one for each port.
    """
    where = hosts or [LOCALHOST] * len(ports)
    members = [{"endpoint": {"address": address(port, host)}} for port, host in zip(ports, where, strict=True)]
    made: Json = {"@type": ENDPOINTS, "cluster_name": name}
    if members:
        place = {"region": region, "zone": zone}
        made["endpoints"] = [{"locality": place, "load_balancing_weight": 1, "lb_endpoints": members}]
    return made


def refused_assignment(name: str, port: int) -> Json:
    """Return an assignment that only Envoy knows that it refuses: it looks for the interface of the address."""
    made = assignment(name, port)
    (locality,) = made["endpoints"]
    locality["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["address"] = "fe80::1%none"
    return made


def route(
    name: str,
    to: str | None = None,
    *,
    routes: Sequence[Json] = (),
    domains: Sequence[str] = ("*",),
    **fields: Any,
) -> Json:
    """Return a route configuration: ``routes`` first, then everything else to the cluster ``to`` (if given)."""
    rules = [*routes, *([prefix("/", to)] if to else [])]
    hosts = [{"name": f"{name}-host", "domains": list(domains), "routes": rules}] if rules else []
    return {"@type": ROUTE, "name": name, "virtual_hosts": hosts} | fields


def prefix(path: str, to: str) -> Json:
    """Return one route: paths that begin with ``path`` go to the cluster ``to``."""
    return {"match": {"prefix": path}, "route": {"cluster": to}}


def weighted(weights: Mapping[str, int], path: str = "/") -> Json:
    """Return one route that splits by weight among clusters."""
    parts = [{"name": name, "weight": weight} for name, weight in weights.items()]
    return {"match": {"prefix": path}, "route": {"weighted_clusters": {"clusters": parts}}}


def weighted_route(name: str, weights: Mapping[str, int]) -> Json:
    """Return a route configuration that splits everything by weight."""
    return route(name, routes=[weighted(weights)])


def virtual_host(name: str, to: str, domains: Sequence[str]) -> Json:
    """Return a virtual host for VHDS; its name begins with the route configuration's."""
    return {"@type": VIRTUAL_HOST, "name": name, "domains": list(domains), "routes": [prefix("/", to)]}


def scoped_route(name: str, route_name: str, key: str) -> Json:
    """Return a route scope with one string key."""
    fragments = [{"string_key": key}]
    return {
        "@type": SCOPED_ROUTE,
        "name": name,
        "route_configuration_name": route_name,
        "key": {"fragments": fragments},
    }


def http_manager(
    route_name: str | None = None, *, inline: Json | None = None, source: Json | None = None, **fields: Any
) -> Json:
    """Return an HTTP connection manager with RDS (``route_name``) or an ``inline`` route configuration."""
    made: Json = {"@type": HTTP_MANAGER, "stat_prefix": route_name or "inline"}
    if inline is not None:
        made["route_config"] = {key: value for key, value in inline.items() if key != "@type"}
    else:
        made["rds"] = {"route_config_name": route_name, "config_source": source or ads()}
    made["http_filters"] = [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}]
    return made | fields


def listener(
    name: str,
    port: int,
    route_name: str | None = None,
    *,
    inline: Json | None = None,
    source: Json | None = None,
    tls: Json | None = None,
    **fields: Any,
) -> Json:
    """Return an HTTP listener on 127.0.0.1 with its routes by RDS or inline. ``tls`` is that of ``downstream_tls``.

    With port 0 the kernel chooses a port, which ``EnvoyProcess.listener_port`` returns.
    """
    manager = http_manager(route_name, inline=inline, source=source)
    return _listener(name, port, "envoy.filters.network.http_connection_manager", manager, tls) | fields


def tcp_listener(name: str, port: int, to: str, *, tls: Json | None = None) -> Json:
    """Return a listener that proxies TCP connections to a cluster."""
    proxy = {"@type": TCP_PROXY, "stat_prefix": name, "cluster": to}
    return _listener(name, port, "envoy.filters.network.tcp_proxy", proxy, tls)


def filter_listener(name: str, port: int, filter_name: str, config: Json) -> Json:
    """Return a listener with one network filter."""
    return _listener(name, port, filter_name, config, None)


def _listener(name: str, port: int, filter_name: str, config: Json, tls: Json | None) -> Json:
    chain: Json = {"filters": [{"name": filter_name, "typed_config": config}]}
    if tls:
        chain["transport_socket"] = tls
    return {"@type": LISTENER, "name": name, "address": address(port), "filter_chains": [chain]}


def api_listener(name: str, route_name: str, *, source: Json | None = None) -> Json:
    """Return an API listener for grpc's own client (``xds:///NAME``)."""
    return {"@type": LISTENER, "name": name, "api_listener": {"api_listener": http_manager(route_name, source=source)}}


def downstream_tls(
    secret_name: str, *, validation: str | None = None, source: Json | None = None, **fields: Any
) -> Json:
    """Return a listener's transport socket with its certificate by SDS; with ``validation``, mTLS."""
    common: Json = {"tls_certificate_sds_secret_configs": [_sds(secret_name, source)]}
    if validation:
        common["validation_context_sds_secret_config"] = _sds(validation, source)
        fields["require_client_certificate"] = True
    config = {"@type": DOWNSTREAM_TLS, "common_tls_context": common, **fields}
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


def upstream_tls(
    validation: str, *, certificate: str | None = None, sni: str = "localhost", source: Json | None = None
) -> Json:
    """Return a cluster's transport socket: the CA it trusts, and its client certificate, by SDS."""
    common: Json = {"validation_context_sds_secret_config": _sds(validation, source)}
    if certificate:
        common["tls_certificate_sds_secret_configs"] = [_sds(certificate, source)]
    config = {"@type": UPSTREAM_TLS, "sni": sni, "common_tls_context": common}
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


def _sds(name: str, source: Json | None) -> Json:
    return {"name": name, "sds_config": source or ads()}


def secret(name: str, cert: str, key: str) -> Json:
    """Return a certificate with its private key, both as PEM text."""
    pair = {"certificate_chain": {"inline_string": cert}, "private_key": {"inline_string": key}}
    return {"@type": SECRET, "name": name, "tls_certificate": pair}


def keyed_cluster(name: str, key: str) -> Json:
    """Return a cluster whose client certificate has a key with ``key`` before it, twice: as text and as bytes."""
    text = f"{key}\n{DEMO_KEY}"
    chain = {"certificate_chain": {"inline_string": DEMO_CERT}}
    encoded = b64encode(text.encode()).decode()

    def socket(**private_key: str) -> Json:
        context = {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {"tls_certificates": [chain | {"private_key": private_key}]},
        }
        return {"name": "tls", "typed_config": context}

    match = {"name": "other", "match": {"other": True}, "transport_socket": socket(inline_bytes=encoded)}
    sockets = {"transport_socket": socket(inline_string=text), "transport_socket_matches": [match]}
    return static_cluster(name, 1) | sockets


def validation_secret(name: str, ca: str) -> Json:
    """Return a CA to trust, as PEM text."""
    return {"@type": SECRET, "name": name, "validation_context": {"trusted_ca": {"inline_string": ca}}}


def runtime(name: str, layer: Json) -> Json:
    """Return an RTDS layer."""
    return {"@type": RUNTIME, "name": name, "layer": layer}


def extension(name: str, typed_config: Json) -> Json:
    """Return an ECDS extension configuration."""
    return {"@type": EXTENSION, "name": name, "typed_config": typed_config}


def path_through(
    *, port: int, upstream_port: int, cluster_name: str = "a", route_name: str = "r1", source: Json | None = None
) -> list[Json]:
    """Return the minimum that serves HTTP: listener ``l1``, a route, an EDS cluster and its one endpoint."""
    return [
        cluster(cluster_name, source=source),
        assignment(cluster_name, upstream_port),
        route(route_name, cluster_name),
        listener("l1", port, route_name, source=source),
    ]


def name_of(resource: Mapping[str, Any]) -> str:
    """Return the xDS name of a resource."""
    return str(resource["cluster_name" if resource["@type"] == ENDPOINTS else "name"])


REFUSED_BY_ENVOY: Json = {
    "typed_extension_protocol_options": {
        "no.such.filter": {"@type": TYPE + "google.protobuf.StringValue", "value": "a"},
    }
}
"""Fields of a cluster that only Envoy knows that it refuses: it looks for the filter of that name."""
REFUSED_WORDS = (
    "Didn't find a registered network or http filter or protocol options implementation for name: 'no.such.filter'"
)


def write_file(path: Path, resources: Iterable[Json]) -> Path:
    """Write a resource file (JSON, which is YAML) atomically by a rename, as editors and ConfigMaps do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps({"resources": list(resources)}, indent=1))
    draft.rename(path)
    return path


def write_directory(directory: Path, resources: Iterable[Json], group: str | None = None) -> Path:
    """Write resources as a directory in the product's format, one file for each type, in ``group`` or the default."""
    by_type: dict[str, list[Json]] = {}
    for resource in resources:
        by_type.setdefault(resource["@type"].rsplit(".", 1)[-1], []).append(resource)
    for type_name, members in by_type.items():
        write_file((directory / group if group else directory) / f"{type_name}.yaml", members)
    return directory


def changed(resource: Json, **fields: Any) -> Json:
    """Return a deep copy with top-level fields replaced."""
    return copy.deepcopy(resource) | fields
