"""Cases of messages that Envoy reads without validation: a name, a resource, and the field of the problem."""

import base64
import json
import tempfile
from typing import Any

from support import resources as r
from support.static_envoy import hcm, listener, static_cluster, tls_cluster, typed, virtual_host

Case = tuple[str, r.Json, str]

HTTP = r.TYPE + "envoy.extensions.filters.http."
CACHES = r.TYPE + "envoy.extensions.http."
INPUTS = r.TYPE + "envoy.extensions.matching.common_inputs.transport_socket.v3."
SPIFFE = r.TYPE + "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
CHECK = "health_checks[0].custom_health_check.typed_config"
CACHE = "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config.typed_config"
CA = base64.b64encode(base64.b64decode("".join(r.DEMO_CERT.splitlines()[1:-1]))).decode()
BUNDLES = {"trust_domains": {"example.com": {"keys": [{"kty": "RSA", "use": "x509-svid", "x5c": [CA]}]}}}


def spiffe(**fields: Any) -> r.Json:
    validator = typed("envoy.tls.cert_validator.spiffe", SPIFFE, **fields)
    return tls_cluster({"validation_context": {"custom_validator_config": validator}})


def udp(**fields: Any) -> r.Json:
    checker = typed("u", r.TYPE + "envoy.extensions.health_checkers.udp.v3.UdpHealthCheck", **fields)
    times = {"timeout": "1s", "interval": "60s", "healthy_threshold": 1, "unhealthy_threshold": 3}
    return static_cluster("x", health_checks=[{**times, "custom_health_check": checker}])


def cached(threads: int | None, **fields: Any) -> r.Json:
    pool = {"id": f"pool-{threads}", "thread_pool": {"thread_count": threads}}
    manager = {} if threads is None else {"manager_config": pool}
    kind = CACHES + "cache.file_system_http_cache.v3.FileSystemHttpCacheConfig"
    config = {"@type": kind, **manager, **fields}
    filters = (typed("c", HTTP + "cache.v3.CacheConfig", typed_config=config), typed("router", r.ROUTER))
    return listener(hcm(*filters))


def cached_v2(**fields: Any) -> r.Json:
    kind = CACHES + "cache_v2.file_system_http_cache.v3.FileSystemHttpCacheV2Config"
    config = {"@type": kind, **fields}
    filters = (typed("c", HTTP + "cache_v2.v3.CacheV2Config", typed_config=config), typed("router", r.ROUTER))
    return listener(hcm(*filters))


def redirected(**fields: Any) -> r.Json:
    predicate = typed("p", r.TYPE + "envoy.extensions.internal_redirect.filter_state.v3.FilterStateConfig", **fields)
    action = {"cluster": "c", "internal_redirect_policy": {"predicates": [predicate]}}
    routes = [{"match": {"prefix": "/"}, "route": action}]
    return listener(hcm(route_config={"virtual_hosts": [virtual_host(routes=routes)]}))


def retried(**fields: Any) -> r.Json:
    kind = r.TYPE + "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
    priority = typed("envoy.retry_priorities.previous_priorities", kind, **fields)
    action = {"cluster": "c", "retry_policy": {"retry_on": "5xx", "retry_priority": priority}}
    routes = [{"match": {"prefix": "/"}, "route": action}]
    return listener(hcm(route_config={"virtual_hosts": [virtual_host(routes=routes)]}))


def chosen(kind: str, action: r.Json, **fields: Any) -> r.Json:
    """Return a cluster that chooses a transport socket by a matcher with an input."""
    raw = typed("r", r.TYPE + "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")
    on_match = {"action": typed("n", INPUTS + "TransportSocketNameAction", **action)}
    matcher = {
        "matcher_tree": {"input": typed("i", INPUTS + kind, **fields), "exact_match_map": {"map": {"a": on_match}}}
    }
    sockets = [{"name": "plain", "transport_socket": raw}]
    return static_cluster("x", transport_socket_matches=sockets, transport_socket_matcher=matcher)


PLAIN = {"name": "plain"}
HEX = {"text": "00"}
FILES = tempfile.gettempdir()
CASES: list[Case] = [
    ("spiffe-bundles", spiffe(trust_bundles={"inline_string": json.dumps(BUNDLES)}), ""),
    ("spiffe-nothing", spiffe(), ""),
    ("spiffe-domain-without-name", spiffe(trust_domains=[{"trust_bundle": {"inline_string": r.DEMO_CERT}}]), ""),
    ("udp-nothing", udp(), ""),
    ("udp-send", udp(send=HEX), ""),
    ("udp-payload-nothing", udp(send={}, receive=HEX), ""),
    ("udp-payload-empty", udp(send={"text": ""}, receive=HEX), f"{CHECK}.send.text"),
    ("udp-payload-not-hex", udp(send=HEX, receive={"text": "x"}), f"{CHECK}.receive.text"),
    ("cache-no-path", cached(1), ""),
    ("cache-threads", cached(1025, cache_path=f"{FILES}/"), ""),
    ("cache-no-manager", cached(None, cache_path=FILES), f"{CACHE}.manager_config"),
    ("cache-v2-no-path", cached_v2(manager_config={"id": "v2", "thread_pool": {"thread_count": 1}}), ""),
    ("cache-v2-no-manager", cached_v2(cache_path=FILES), f"{CACHE}.manager_config"),
    ("socket-by-metadata", chosen("EndpointMetadataInput", PLAIN, filter="a"), ""),
    ("socket-by-metadata-key", chosen("EndpointMetadataInput", PLAIN, filter="a", path=[{"key": ""}]), ""),
    ("socket-by-locality", chosen("LocalityMetadataInput", PLAIN), ""),
    ("socket-by-state", chosen("FilterStateInput", PLAIN), ""),
    ("socket-without-name", chosen("EndpointMetadataInput", {}, filter="a", path=[{"key": "b"}]), ""),
]

STRICTER: dict[str, tuple[r.Json, str]] = {
    "redirect-state": (redirected(), "Envoy validates it at the first internal redirect, and ends"),
    "retry-priority": (retried(), "Envoy validates it at the first retry, and ends"),
}
"""Resources that Envoy takes and the product refuses, and why it is right to."""
