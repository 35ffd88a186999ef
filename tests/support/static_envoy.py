"""What a real Envoy says of one resource, by ``--mode validate`` on a bootstrap that has it statically."""

import json
import subprocess
from pathlib import Path
from typing import Any

from support import resources as r
from support.envoy import envoy_binary


def bootstrap_with(resource: r.Json) -> r.Json:
    """Return a bootstrap in which a resource stands where Envoy checks it, beside the clusters c and d."""
    body = _without_type(resource)
    clusters = [_without_type(static_cluster(name)) for name in "cd"]
    static: dict[str, list[Any]] = {"clusters": clusters, "listeners": []}
    if resource["@type"] == r.CLUSTER:
        static["clusters"].append(body)
    elif resource["@type"] == r.ENDPOINTS:
        static["clusters"].append({"name": "e", "type": "STATIC", "load_assignment": body})
    elif resource["@type"] == r.LISTENER:
        static["listeners"].append(body)
    elif resource["@type"] == r.ROUTE:
        static["listeners"].append(_without_type(listener(hcm(route_config={"validate_clusters": False} | body))))
    else:
        assert resource["@type"] == r.SECRET
        static["secrets"] = [body]
        field = "tls_certificate_sds_secret_configs"
        common: r.Json = {field: [{"name": body["name"]}]}
        if "validation_context" in body:
            common = {"validation_context_sds_secret_config": {"name": body["name"]}}
        static["clusters"].append(_without_type(tls_cluster(common)))
    return {"node": {"id": "n", "cluster": "c"}, "static_resources": static}


def _without_type(resource: r.Json) -> r.Json:
    return {key: value for key, value in resource.items() if key != "@type"}


def refusal(resource: r.Json, directory: Path) -> str:
    """Return why Envoy refuses a resource, "" if it takes it."""
    path = directory / "bootstrap.json"
    path.write_text(json.dumps(bootstrap_with(resource)))
    command = [envoy_binary(), "--mode", "validate", "-c", path, "-l", "critical"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return "" if ended.returncode == 0 else (ended.stderr + ended.stdout).strip()[-400:]


def address(text: str = "127.0.0.1", port: int = 10000, **fields: Any) -> r.Json:
    """Return a socket address."""
    return {"socket_address": {"address": text, "port_value": port, **fields}}


def static_cluster(name: str, host: str = "127.0.0.1", **fields: Any) -> r.Json:
    """Return a cluster with one endpoint, static unless ``fields`` say otherwise."""
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(host)}}]}]}
    return {"@type": r.CLUSTER, "name": name, "type": "STATIC", "load_assignment": assignment} | fields


def tls_cluster(common: r.Json, **fields: Any) -> r.Json:
    """Return a cluster whose connections use TLS."""
    config = {"@type": r.UPSTREAM_TLS, "common_tls_context": common, **fields}
    socket = {"name": "envoy.transport_sockets.tls", "typed_config": config}
    return static_cluster("t", transport_socket=socket)


def listener(*filters: r.Json, **fields: Any) -> r.Json:
    """Return a listener with one filter chain, unless ``fields`` say otherwise."""
    chains = [{"filters": list(filters)}]
    return {"@type": r.LISTENER, "name": "l", "address": address(), "filter_chains": chains} | fields


def hcm(*http_filters: r.Json, **fields: Any) -> r.Json:
    """Return an HTTP connection manager with these HTTP filters, only a router by default."""
    config = {"@type": r.HTTP_MANAGER, "stat_prefix": "s", "route_config": {"virtual_hosts": [virtual_host()]}}
    config["http_filters"] = list(http_filters) or [typed("router", r.ROUTER)]
    return {"name": "hcm", "typed_config": config | fields}


def typed(name: str, type_url: str, /, **fields: Any) -> r.Json:
    """Return a filter with a typed config."""
    return {"name": name, "typed_config": {"@type": type_url, **fields}}


def virtual_host(name: str = "v", domains: tuple[str, ...] = ("*",), **fields: Any) -> r.Json:
    """Return a virtual host with one route, unless ``fields`` say otherwise."""
    routes = [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]
    return {"name": name, "domains": list(domains), "routes": routes} | fields
