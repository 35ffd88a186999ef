"""Envoy bootstraps for tests, independent of those that ``xds bootstrap`` prints."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support.pki import Pair
from support.resources import LOCALHOST, TYPE, UPSTREAM_TLS, Json, address, ads, per_type_source

ANY_ADMIN = {"address": address(0)}


def node(node_id: str, cluster: str, *, metadata: Json | None = None, locality: Json | None = None) -> Json:
    """Return a bootstrap's node; id and cluster must not be empty."""
    made: Json = {"id": node_id, "cluster": cluster}
    if metadata:
        made["metadata"] = metadata
    if locality:
        made["locality"] = locality
    return made


def ads_bootstrap(
    port: int,
    *,
    node_id: str = "n1",
    cluster: str = "c1",
    sotw: bool = False,
    metadata: Json | None = None,
    locality: Json | None = None,
    fetch_timeout: str = "15s",
    tls: Json | None = None,
    backoff_max: str = "2s",
    keepalive_interval: str = "30s",
    runtime_layer: str | None = None,
    **fields: Any,
) -> Json:
    """Return the bootstrap of an Envoy that gets everything by ADS from 127.0.0.1:``port``, delta unless ``sotw``.

    ``runtime_layer`` adds an RTDS layer of that name. ``tls`` is the result of ``xds_tls``.
    """
    retry = {"retry_back_off": {"base_interval": "0.2s", "max_interval": backoff_max}}
    source = ads() | {"initial_fetch_timeout": fetch_timeout}
    made: Json = {
        "node": node(node_id, cluster, metadata=metadata, locality=locality),
        "admin": ANY_ADMIN,
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC" if sotw else "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds", "retry_policy": retry}}],
            },
            "cds_config": source,
            "lds_config": source,
        },
        "static_resources": {"clusters": [xds_cluster(port, tls=tls, keepalive_interval=keepalive_interval)]},
    }
    if runtime_layer:
        layer = {"name": runtime_layer, "rtds_layer": {"name": runtime_layer, "rtds_config": source}}
        made["layered_runtime"] = {"layers": [layer, {"name": "admin", "admin_layer": {}}]}
    return made | fields


def per_type_bootstrap(
    port: int, *, node_id: str = "n1", cluster: str = "c1", sotw: bool = False, fetch_timeout: str = "15s"
) -> Json:
    """Return the bootstrap of an Envoy that uses the per-type services.

    Its resources must refer to each other by ``per_type_source`` too.
    """
    source = per_type_source(sotw=sotw, fetch_timeout=fetch_timeout)
    return {
        "node": node(node_id, cluster),
        "admin": ANY_ADMIN,
        "dynamic_resources": {"cds_config": source, "lds_config": source},
        "static_resources": {"clusters": [xds_cluster(port)]},
    }


def xds_cluster(port: int, *, tls: Json | None = None, keepalive_interval: str = "30s") -> Json:
    """Return the static cluster ``xds``, which reaches the control plane by HTTP/2."""
    options = TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {"connection_keepalive": {"interval": keepalive_interval, "timeout": "5s"}}
    endpoint = {"endpoint": {"address": address(port, LOCALHOST)}}
    made: Json = {
        "name": "xds",
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [{"max_requests": 100_000}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": http2},
            }
        },
        "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    return made | ({"transport_socket": tls} if tls else {})


def xds_tls(ca: Path, *, client: Pair | None = None, server_name: str = "localhost") -> Json:
    """Return the TLS transport socket of an ``xds`` cluster, mutual if ``client`` is given."""
    san = {"san_type": "DNS", "matcher": {"exact": server_name}}
    validation = {"trusted_ca": {"filename": str(ca)}, "match_typed_subject_alt_names": [san]}
    common: Json = {"alpn_protocols": ["h2"], "validation_context": validation}
    if client:
        files = (str(client.cert_path), str(client.key_path))
        common["tls_certificates"] = [
            {"certificate_chain": {"filename": files[0]}, "private_key": {"filename": files[1]}}
        ]
    config = {"@type": UPSTREAM_TLS, "sni": server_name, "common_tls_context": common}
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


def static_bootstrap(*, listeners: Iterable[Json] = (), clusters: Iterable[Json] = ()) -> Json:
    """Return the bootstrap of an Envoy without a control plane."""
    static = {"listeners": [_plain(x) for x in listeners], "clusters": [_plain(x) for x in clusters]}
    return {"node": node("static", "static"), "admin": ANY_ADMIN, "static_resources": static}


def _plain(resource: Json) -> Json:
    return {key: value for key, value in resource.items() if key != "@type"}
