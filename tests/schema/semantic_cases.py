"""Cases of what Envoy's own code asks: a name, a resource, and the field of the problem, "" if it is good."""

import base64
from typing import Any

from support import resources as r
from support.static_envoy import address, hcm, listener, static_cluster, tls_cluster, typed, virtual_host

Case = tuple[str, r.Json, str]

HTTP = r.TYPE + "envoy.extensions.filters.http."
NETWORK = r.TYPE + "envoy.extensions.filters.network."
POLICIES = r.TYPE + "envoy.extensions.load_balancing_policies."
ROUTER = typed("router", r.ROUTER)
TEXT = {"@type": r.TYPE + "google.protobuf.StringValue", "value": "one"}
NODE = {"@type": r.TYPE + "envoy.config.core.v3.Node"}
HCM = "filter_chains[0].filters[0].typed_config"
FILTER = f"{HCM}.http_filters[0].typed_config"
ACTION = "virtual_hosts[0].routes[0].route"


# --- Clusters --------------------------------------------------------------------------------------------------------


def cluster(**fields: Any) -> r.Json:
    return static_cluster("x", **fields)


def bare(kind: str, **fields: Any) -> r.Json:
    return {"@type": r.CLUSTER, "name": "x", "type": kind} | fields


def policy(type_name: str, **fields: Any) -> r.Json:
    return {"policies": [{"typed_extension_config": typed("p", POLICIES + type_name, **fields)}]}


ROUND_ROBIN = policy("round_robin.v3.RoundRobin")
WRONG_POLICY = {"policies": [{"typed_extension_config": ROUTER}]}


def balanced(type_name: str, **fields: Any) -> r.Json:
    return cluster(load_balancing_policy=policy(type_name, **fields))


def selector(**fields: Any) -> r.Json:
    return cluster(lb_subset_config={"subset_selectors": [fields]})


def checked(check: r.Json, *more: r.Json, **fields: Any) -> r.Json:
    times = {"timeout": "1s", "interval": "1s", "healthy_threshold": 1, "unhealthy_threshold": 1}
    return cluster(health_checks=[times | each for each in (check, *more)], **fields)


def statuses(start: int, end: int, field: str = "expected_statuses") -> r.Json:
    return checked({"http_health_check": {"path": "/", field: [{"start": start, "end": end}]}})


OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def options(**fields: Any) -> r.Json:
    return {"typed_extension_protocol_options": {OPTIONS: {"@type": r.TYPE + OPTIONS, **fields}}}


RAW = {"transport_socket": typed("raw", r.TYPE + "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")}
TLS = {"transport_socket": typed("tls", r.UPSTREAM_TLS)}
RAW_MATCH = {"transport_socket_matches": [{"name": "a", "match": {}, **RAW}]}
GRPC, TCP_CHECK = {"grpc_health_check": {}}, {"tcp_health_check": {}}
NOT_HEX = {"tcp_health_check": {"send": {"text": "xyz"}}}
AUTO: r.Json = {"auto_config": {}}


def hosted(endpoint: r.Json, kind: str = "STATIC") -> r.Json:
    return bare(kind, load_assignment={"cluster_name": "x", "endpoints": [{"lb_endpoints": [endpoint]}]})


def pipe(mode: int) -> r.Json:
    return {"endpoint": {"address": {"pipe": {"path": "@a", "mode": mode}}}}


POLICY = "load_balancing_policy.policies[0].typed_extension_config.typed_config"
HOST = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address"
CLUSTER_CASES: list[Case] = [
    ("ring", cluster(lb_policy="RING_HASH", ring_hash_lb_config={"minimum_ring_size": 5, "maximum_ring_size": 5}), ""),
    (
        "ring-max-below-default",
        cluster(lb_policy="RING_HASH", ring_hash_lb_config={"maximum_ring_size": 512}),
        "ring_hash_lb_config.maximum_ring_size",
    ),
    ("ring-unused", cluster(ring_hash_lb_config={"minimum_ring_size": 2, "maximum_ring_size": 1}), ""),
    (
        "ring-of-policy",
        balanced("ring_hash.v3.RingHash", minimum_ring_size=2, maximum_ring_size=1),
        f"{POLICY}.maximum_ring_size",
    ),
    ("maglev", cluster(lb_policy="MAGLEV", maglev_lb_config={"table_size": 65537}), ""),
    (
        "maglev-not-prime",
        cluster(lb_policy="MAGLEV", maglev_lb_config={"table_size": 65536}),
        "maglev_lb_config.table_size",
    ),
    ("maglev-unused", cluster(maglev_lb_config={"table_size": 65536}), ""),
    ("maglev-of-policy", balanced("maglev.v3.Maglev", table_size=4), f"{POLICY}.table_size"),
    ("maglev-1", balanced("maglev.v3.Maglev", table_size=1), f"{POLICY}.table_size"),
    ("maglev-2", balanced("maglev.v3.Maglev", table_size=2), ""),
    ("provided-static", bare("STATIC", lb_policy="CLUSTER_PROVIDED"), "lb_policy"),
    ("provided-dns", bare("STRICT_DNS", lb_policy="CLUSTER_PROVIDED"), "lb_policy"),
    ("provided-and-policy", bare("STATIC", lb_policy="CLUSTER_PROVIDED", load_balancing_policy=ROUND_ROBIN), ""),
    ("eds-config-on-static", bare("STATIC", eds_cluster_config={}), "eds_cluster_config"),
    (
        "subset-provided",
        bare("ORIGINAL_DST", lb_policy="CLUSTER_PROVIDED", lb_subset_config={"subset_selectors": [{"keys": ["a"]}]}),
        "lb_subset_config",
    ),
    ("subset-provided-empty", bare("ORIGINAL_DST", lb_policy="CLUSTER_PROVIDED", lb_subset_config={}), ""),
    (
        "subset-and-policy",
        cluster(load_balancing_policy=ROUND_ROBIN, lb_subset_config={"subset_selectors": [{"keys": ["a"]}]}),
        "lb_subset_config",
    ),
    *(
        (f"keys-{name}", selector(**fields), f"lb_subset_config.subset_selectors[0].{field}" if field else "")
        for name, fields, field in [
            ("fine", {"keys": ["a", "b"], "fallback_policy": "KEYS_SUBSET", "fallback_keys_subset": ["a"]}, ""),
            (
                "equal",
                {"keys": ["a"], "fallback_policy": "KEYS_SUBSET", "fallback_keys_subset": ["a"]},
                "fallback_keys_subset",
            ),
            ("none", {"keys": ["a"], "fallback_policy": "KEYS_SUBSET"}, "fallback_keys_subset"),
            (
                "other",
                {"keys": ["a", "b"], "fallback_policy": "KEYS_SUBSET", "fallback_keys_subset": ["c"]},
                "fallback_keys_subset",
            ),
            ("without", {"keys": ["a"], "fallback_keys_subset": ["a"]}, "fallback_keys_subset"),
        ]
    ),
    (
        "keys-of-policy",
        balanced(
            "subset.v3.Subset",
            subset_selectors=[{"keys": ["a"], "fallback_policy": "KEYS_SUBSET"}],
            subset_lb_policy=ROUND_ROBIN,
        ),
        f"{POLICY}.subset_selectors[0].fallback_keys_subset",
    ),
    ("policies-none", cluster(load_balancing_policy={"policies": []}), "load_balancing_policy.policies"),
    ("policy-empty", cluster(load_balancing_policy={"policies": [{}]}), "load_balancing_policy.policies"),
    ("policy-of-another-category", cluster(load_balancing_policy=WRONG_POLICY), "load_balancing_policy.policies"),
    (
        "policy-second",
        cluster(load_balancing_policy={"policies": WRONG_POLICY["policies"] + ROUND_ROBIN["policies"]}),
        "",
    ),
    (
        "policies-inside",
        balanced("subset.v3.Subset", subset_selectors=[{"keys": ["a"]}], subset_lb_policy={"policies": []}),
        f"{POLICY}.subset_lb_policy.policies",
    ),
    ("check-grpc", checked(GRPC), "health_checks[0].grpc_health_check"),
    ("check-grpc-http2", checked(GRPC, http2_protocol_options={}), ""),
    ("check-grpc-option", checked(GRPC, **options(explicit_http_config={"http2_protocol_options": {}})), ""),
    (
        "check-grpc-http1",
        checked(GRPC, **options(explicit_http_config={"http_protocol_options": {}})),
        "health_checks[0].grpc_health_check",
    ),
    (
        "check-grpc-downstream",
        checked(GRPC, **options(use_downstream_protocol_config={})),
        "health_checks[0].grpc_health_check",
    ),
    (
        "check-grpc-downstream-http2",
        checked(GRPC, **options(use_downstream_protocol_config={"http2_protocol_options": {}})),
        "",
    ),
    ("check-grpc-auto", checked(GRPC, **TLS, **options(**AUTO)), ""),
    ("check-text", checked({"tcp_health_check": {"receive": [{"text": "AB"}]}}), ""),
    ("check-text-not-hex", checked(NOT_HEX), "health_checks[0].tcp_health_check.send.text"),
    (
        "check-text-odd",
        checked({"tcp_health_check": {"receive": [{"text": "abc"}]}}),
        "health_checks[0].tcp_health_check.receive[0].text",
    ),
    ("check-status", statuses(100, 600), ""),
    ("check-status-reversed", statuses(300, 200), "health_checks[0].http_health_check.expected_statuses[0]"),
    ("check-status-empty", statuses(200, 200), "health_checks[0].http_health_check.expected_statuses[0]"),
    ("check-status-low", statuses(99, 200), "health_checks[0].http_health_check.expected_statuses[0]"),
    ("check-status-high", statuses(200, 601), "health_checks[0].http_health_check.expected_statuses[0]"),
    (
        "check-status-retriable",
        statuses(300, 200, "retriable_statuses"),
        "health_checks[0].http_health_check.retriable_statuses[0]",
    ),
    (
        "check-http3",
        checked({"http_health_check": {"path": "/", "codec_client_type": "HTTP3"}}),
        "health_checks[0].http_health_check.codec_client_type",
    ),
    ("checks-named", checked(TCP_CHECK | {"name": "a"}, TCP_CHECK | {"name": "b"}), ""),
    ("checks-unnamed", checked(TCP_CHECK | {"name": "a"}, TCP_CHECK), "health_checks[1].name"),
    ("checks-of-one-name", checked(TCP_CHECK | {"name": "a"}, TCP_CHECK | {"name": "a"}), "health_checks[1].name"),
    ("auto-tls", cluster(**TLS, **options(**AUTO)), ""),
    ("auto-plain", cluster(**options(**AUTO)), "transport_socket"),
    ("auto-raw", cluster(**RAW, **options(**AUTO)), "transport_socket"),
    (
        "auto-raw-match",
        cluster(**TLS, **RAW_MATCH, **options(**AUTO)),
        "transport_socket_matches[0].transport_socket",
    ),
    (
        "auto-http3",
        cluster(**TLS, **options(auto_config={"http3_protocol_options": {}})),
        f'typed_extension_protocol_options["{OPTIONS}"].auto_config.alternate_protocols_cache_options',
    ),
    (
        "http3-over-tls",
        cluster(**TLS, **options(explicit_http_config={"http3_protocol_options": {}})),
        "transport_socket",
    ),
    ("pipe-mode", hosted(pipe(0o644)), f"{HOST}.pipe.mode"),
    ("pipe", hosted(pipe(0)), ""),
    (
        "socket-by-name",
        cluster(transport_socket={"name": "envoy.transport_sockets.tls"}),
        "transport_socket.typed_config",
    ),
    (
        "socket-empty",
        cluster(transport_socket={"name": "envoy.transport_sockets.tls", "typed_config": {}}),
        "transport_socket.typed_config",
    ),
    ("socket-node", cluster(transport_socket={"name": "a", "typed_config": NODE}), "transport_socket.typed_config"),
    ("socket-text", cluster(transport_socket={"name": "a", "typed_config": TEXT}), "transport_socket.typed_config"),
    ("host-without-address", hosted({"endpoint": {}}), HOST),
    ("host-none", hosted({}), HOST),
    ("host-without-address-dns", hosted({"endpoint": {}}, "STRICT_DNS"), ""),
    ("host-by-name", hosted({"endpoint_name": "a"}), HOST),
    (
        "options-of-redis",
        cluster(
            typed_extension_protocol_options={
                "envoy.filters.network.redis_proxy": {"@type": NETWORK + "redis_proxy.v3.RedisProtocolOptions"}
            }
        ),
        "",
    ),
]

# --- TLS -------------------------------------------------------------------------------------------------------------

PAIR = {"certificate_chain": {"inline_string": r.DEMO_CERT}, "private_key": {"inline_string": r.DEMO_KEY}}
CA = {"trusted_ca": {"inline_string": r.DEMO_CERT}}
SANS: r.Json = {"match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "a"}}]}
FROM_FILE = {"name": "v", "sds_config": {"path_config_source": {"path": "/dev/null"}}}
NO_DER = "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n"
CONTEXT = "transport_socket.typed_config.common_tls_context"


def trusting(**fields: Any) -> r.Json:
    return tls_cluster({"validation_context": fields})


def combined(**fields: Any) -> r.Json:
    made = {"default_validation_context": fields, "validation_context_sds_secret_config": FROM_FILE}
    return tls_cluster({"combined_validation_context": made})


def certified(*certificates: r.Json, **fields: Any) -> r.Json:
    return tls_cluster({"tls_certificates": list(certificates), **fields})


def ciphers(text: str) -> r.Json:
    return tls_cluster({"tls_params": {"cipher_suites": [text]}})


def tickets(size: int) -> r.Json:
    keys = {"keys": [{"inline_bytes": base64.b64encode(b"a" * size).decode()}]}
    config = {
        "@type": r.DOWNSTREAM_TLS,
        "session_ticket_keys": keys,
        "common_tls_context": {"tls_certificates": [PAIR]},
    }
    socket = {"name": "tls", "typed_config": config}
    return listener(filter_chains=[{"filters": [hcm()], "transport_socket": socket}])


TICKET = "filter_chains[0].transport_socket.typed_config.session_ticket_keys.keys[0].inline_bytes"
CIPHER = f"{CONTEXT}.tls_params.cipher_suites[0]"
VALIDATION = f"{CONTEXT}.validation_context"
TLS_CASES: list[Case] = [
    ("sans", trusting(**SANS, **CA), ""),
    ("sans-without-ca", trusting(**SANS), f"{VALIDATION}.match_typed_subject_alt_names"),
    (
        "sans-old-without-ca",
        trusting(match_subject_alt_names=[{"exact": "a"}]),
        f"{VALIDATION}.match_subject_alt_names",
    ),
    ("sans-by-sds", combined(**SANS), ""),
    ("crl-without-ca", trusting(crl={"inline_string": "x"}), f"{VALIDATION}.crl"),
    ("crl-by-sds", combined(crl={"inline_string": "x"}), ""),
    ("ca-not-der", trusting(trusted_ca={"inline_string": NO_DER}), f"{VALIDATION}.trusted_ca.inline_string"),
    (
        "ca-second-not-der",
        trusting(trusted_ca={"inline_string": r.DEMO_CERT + NO_DER}),
        f"{VALIDATION}.trusted_ca.inline_string",
    ),
    (
        "ca-not-base64",
        trusting(trusted_ca={"inline_string": NO_DER.replace("YWJj", "not one")}),
        f"{VALIDATION}.trusted_ca.inline_string",
    ),
    ("certificates", certified(PAIR), ""),
    ("certificate-empty", certified({}), ""),
    (
        "certificate-without-key",
        certified({"certificate_chain": PAIR["certificate_chain"]}),
        f"{CONTEXT}.tls_certificates[0].private_key",
    ),
    (
        "chain-second-not-der",
        certified(PAIR | {"certificate_chain": {"inline_string": r.DEMO_CERT + NO_DER}}),
        f"{CONTEXT}.tls_certificates[0].certificate_chain.inline_string",
    ),
    ("cipher-standard-name", ciphers("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), ""),
    ("cipher-words", ciphers("ALL:!aPSK:!ECDSA+SHA1:!3DES"), ""),
    ("cipher-misspelt", ciphers("ECDHE-RSA-AES128-GCM-SHA257"), CIPHER),
    ("cipher-of-openssl", ciphers("DHE-RSA-AES256-GCM-SHA384"), CIPHER),
    ("cipher-word-unknown", ciphers("ALL:!FOO"), CIPHER),
    ("cipher-in-group", ciphers("[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-FOO]"), CIPHER),
    ("tickets", tickets(80), ""),
    ("tickets-short", tickets(79), TICKET),
    ("tickets-long", tickets(81), TICKET),
]

# --- Listeners -------------------------------------------------------------------------------------------------------

UDP = {"address": {"socket_address": {"protocol": "UDP", "address": "127.0.0.1", "port_value": 10000}}}
CHAIN = {"filters": [hcm()]}


def plain(**fields: Any) -> r.Json:
    return {"@type": r.LISTENER, "name": "l"} | fields


def http(*filters: r.Json, **fields: Any) -> r.Json:
    return listener(hcm(*filters, ROUTER, **fields))


def routed(**fields: Any) -> r.Json:
    config = {"@type": r.HTTP_MANAGER, "stat_prefix": "s", "http_filters": [ROUTER], **fields}
    return listener({"name": "hcm", "typed_config": config})


def scoped(**scope: Any) -> r.Json:
    fragments = [{"header_value_extractor": {"name": "x", "index": 0}}]
    one = {"name": "a", "key": {"fragments": [{"string_key": "b"}]}, **scope}
    return routed(
        scoped_routes={
            "name": "s",
            "scope_key_builder": {"fragments": fragments},
            "rds_config_source": {"path_config_source": {"path": "/dev/null"}},
            "scoped_route_configurations_list": {"scoped_route_configurations": [one]},
        }
    )


def discovered(default: str, *type_urls: str) -> r.Json:
    source = {"path_config_source": {"path": "/dev/null"}}
    config = {"config_source": source, "default_config": {"@type": HTTP + default}, "type_urls": list(type_urls)}
    return http({"name": "e", "config_discovery": config})


def session(name: str) -> r.Json:
    kind = r.TYPE + "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState"
    return http(
        typed("s", HTTP + "stateful_session.v3.StatefulSession", session_state=typed(name, kind, cookie={"name": "a"}))
    )


XFF = typed("xff", r.TYPE + "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig", xff_num_trusted_hops=1)
TLS_INSPECTOR = "envoy.filters.listener.tls_inspector"
SCOPE = f"{HCM}.scoped_routes.scoped_route_configurations_list.scoped_route_configurations[0]"
LISTENER_CASES: list[Case] = [
    ("no-address", plain(filter_chains=[CHAIN]), "address"),
    ("no-chains", plain(address=address()), "filter_chains"),
    ("default-chain", plain(address=address(), default_filter_chain=CHAIN), ""),
    ("udp", plain(**UDP), ""),
    ("udp-chains", plain(**UDP, filter_chains=[CHAIN]), "filter_chains"),
    ("udp-chains-config", plain(**UDP, udp_listener_config={}, filter_chains=[CHAIN]), "filter_chains"),
    ("udp-default-chain", plain(**UDP, udp_listener_config={}, default_filter_chain=CHAIN), "filter_chains"),
    ("tcp-udp-config", plain(address=address(), udp_listener_config={}, filter_chains=[CHAIN]), ""),
    ("pipe-listener-mode", listener(hcm(), address={"pipe": {"path": "@a", "mode": 0o600}}), "address.pipe.mode"),
    ("rds-without-source", routed(rds={"route_config_name": "r"}), f"{HCM}.rds.config_source"),
    ("scope", scoped(route_configuration={"name": "m"}), ""),
    ("scope-without-routes", scoped(), SCOPE),
    ("xff", http(original_ip_detection_extensions=[XFF]), ""),
    (
        "xff-remote",
        http(use_remote_address=True, original_ip_detection_extensions=[XFF]),
        f"{HCM}.original_ip_detection_extensions",
    ),
    (
        "xff-hops",
        http(xff_num_trusted_hops=1, original_ip_detection_extensions=[XFF]),
        f"{HCM}.original_ip_detection_extensions",
    ),
    ("request-id-empty", http(request_id_extension={}), ""),
    (
        "request-id-any-empty",
        http(request_id_extension={"typed_config": {}}),
        f"{HCM}.request_id_extension.typed_config",
    ),
    (
        "network-filter-by-name",
        listener({"name": "envoy.filters.network.echo"}),
        "filter_chains[0].filters[0].typed_config",
    ),
    (
        "network-filter-empty",
        listener({"name": "envoy.filters.network.echo", "typed_config": {}}),
        "filter_chains[0].filters[0].typed_config",
    ),
    ("network-filter-text", listener({"name": "a", "typed_config": TEXT}), "filter_chains[0].filters[0].typed_config"),
    ("http-filter-by-name", http({"name": "envoy.filters.http.cors"}), FILTER),
    ("http-filter-optional", http({"name": "envoy.filters.http.cors", "is_optional": True}), ""),
    ("http-filter-optional-text", http({"name": "a", "is_optional": True, "typed_config": TEXT}), ""),
    (
        "http-filter-optional-network",
        http(
            {
                "name": "a",
                "is_optional": True,
                "typed_config": {"@type": r.TCP_PROXY, "stat_prefix": "s", "cluster": "c"},
            }
        ),
        "",
    ),
    (
        "http-filter-of-routes",
        http(typed("a", HTTP + "buffer.v3.BufferPerRoute", disabled=True)),
        FILTER,
    ),
    (
        "listener-filter-by-name",
        listener(hcm(), listener_filters=[{"name": TLS_INSPECTOR}]),
        "listener_filters[0].typed_config",
    ),
    (
        "log-by-name",
        http(access_log=[{"name": "envoy.access_loggers.file"}]),
        f"{HCM}.access_log[0].typed_config",
    ),
    (
        "tracer-by-name",
        http(tracing={"provider": {"name": "envoy.tracers.zipkin"}}),
        f"{HCM}.tracing.provider.typed_config",
    ),
    ("discovered", discovered("cors.v3.Cors", HTTP + "cors.v3.Cors"), ""),
    ("discovered-name", discovered("cors.v3.Cors", "envoy.extensions.filters.http.cors.v3.Cors"), ""),
    (
        "discovered-other",
        discovered("cors.v3.Cors", HTTP + "buffer.v3.Buffer"),
        f"{HCM}.http_filters[0].config_discovery.default_config",
    ),
    ("session", session("envoy.http.stateful_session.cookie"), ""),
    ("session-by-another-name", session("cookie"), f"{FILTER}.session_state.name"),
]

# --- Filters ---------------------------------------------------------------------------------------------------------


def local_limit(kind: str, interval: str, **fields: Any) -> r.Json:
    bucket = {"max_tokens": 1, "fill_interval": interval}
    return typed("x", kind + "local_ratelimit.v3.LocalRateLimit", stat_prefix="s", token_bucket=bucket, **fields)


def descriptor(interval: str) -> r.Json:
    bucket = {"max_tokens": 1, "fill_interval": interval}
    return {"entries": [{"key": "a", "value": "b"}], "token_bucket": bucket}


SERVICE = {"grpc_service": {"envoy_grpc": {"cluster_name": "c"}}}


def authz(version: str, kind: str = HTTP) -> r.Json:
    fields = SERVICE | ({"stat_prefix": "s"} if kind == NETWORK else {})
    return typed("x", kind + "ext_authz.v3.ExtAuthz", transport_api_version=version, **fields)


def limits(version: str) -> r.Json:
    service = {**SERVICE, "transport_api_version": version}
    return typed("x", HTTP + "ratelimit.v3.RateLimit", domain="d", rate_limit_service=service)


def grpc_log(version: str) -> r.Json:
    kind = r.TYPE + "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"
    return typed("l", kind, common_config={"log_name": "a", "transport_api_version": version, **SERVICE})


def to_metadata(**rule: Any) -> r.Json:
    return http(typed("x", HTTP + "header_to_metadata.v3.Config", request_rules=[rule]))


KEY: r.Json = {"metadata_namespace": "a", "key": "b"}
REWRITTEN = {"regex_value_rewrite": {"pattern": {"regex": "a"}, "substitution": "b"}}


def health_filter(**fields: Any) -> r.Json:
    return http(typed("x", HTTP + "health_check.v3.HealthCheck", **fields))


def keys(text: str) -> r.Json:
    provider = {"issuer": "a", "local_jwks": {"inline_string": text}}
    return http(typed("x", HTTP + "jwt_authn.v3.JwtAuthentication", providers={"a": provider}))


def admission(start: int, end: int) -> r.Json:
    criteria = {"http_criteria": {"http_success_status": [{"start": start, "end": end}]}, "grpc_criteria": {}}
    criteria["grpc_criteria"] = {"grpc_success_status": [0]}
    return http(typed("x", HTTP + "admission_control.v3.AdmissionControl", success_criteria=criteria))


def function(arn: str) -> r.Json:
    return http(typed("x", HTTP + "aws_lambda.v3.Config", arn=arn))


def redis(**routes: Any) -> r.Json:
    settings = {"op_timeout": "1s"}
    return listener(
        typed("x", NETWORK + "redis_proxy.v3.RedisProxy", stat_prefix="s", settings=settings, prefix_routes=routes)
    )


def prefixes(*texts: str) -> list[r.Json]:
    return [{"prefix": text, "cluster": "c"} for text in texts]


def thrift(**match: Any) -> r.Json:
    routes = {"name": "r", "routes": [{"match": match, "route": {"cluster": "c"}}]}
    return listener(typed("x", NETWORK + "thrift_proxy.v3.ThriftProxy", stat_prefix="s", route_config=routes))


def network_rbac(**parts: Any) -> r.Json:
    one = {"permissions": [{"any": True}], "principals": [{"any": True}]} | parts
    return listener(typed("x", NETWORK + "rbac.v3.RBAC", stat_prefix="s", rules={"policies": {"a": one}}), hcm())


HEADER: r.Json = {"header": {"name": "x", "present_match": True}}
NETWORK_POLICY = 'filter_chains[0].filters[0].typed_config.rules.policies["a"]'
PREFIX_ROUTES = "filter_chains[0].filters[0].typed_config.prefix_routes"
JWKS = f'{FILTER}.providers["a"].local_jwks.inline_string'
GOOD_KEY = '{"kty": "oct", "alg": "HS256", "kid": "1", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}'
FILTER_CASES: list[Case] = [
    ("fill", http(local_limit(HTTP, "0.05s")), ""),
    ("fill-fast", http(local_limit(HTTP, "0.049s")), f"{FILTER}.token_bucket.fill_interval"),
    (
        "fill-fast-network",
        listener(local_limit(NETWORK, "0.01s"), hcm()),
        "filter_chains[0].filters[0].typed_config.token_bucket.fill_interval",
    ),
    (
        "fill-fast-descriptor",
        http(local_limit(HTTP, "1s", descriptors=[descriptor("0.01s")])),
        f"{FILTER}.descriptors[0].token_bucket.fill_interval",
    ),
    (
        "descriptor-twice",
        http(local_limit(HTTP, "1s", descriptors=[descriptor("1s"), descriptor("2s")])),
        f"{FILTER}.descriptors[1]",
    ),
    ("authz", http(authz("V3")), ""),
    ("authz-auto", http(authz("AUTO")), ""),
    ("authz-v2", http(authz("V2")), f"{FILTER}.transport_api_version"),
    (
        "authz-network-v2",
        listener(authz("V2", NETWORK), hcm()),
        "filter_chains[0].filters[0].typed_config.transport_api_version",
    ),
    ("limits-v2", http(limits("V2")), f"{FILTER}.rate_limit_service.transport_api_version"),
    (
        "log-v2",
        http(access_log=[grpc_log("V2")]),
        f"{HCM}.access_log[0].typed_config.common_config.transport_api_version",
    ),
    ("to-metadata", to_metadata(header="x", on_header_present=KEY), ""),
    ("to-metadata-both", to_metadata(header="x", cookie="c", on_header_present=KEY), f"{FILTER}.request_rules[0]"),
    ("to-metadata-neither", to_metadata(on_header_present=KEY), f"{FILTER}.request_rules[0]"),
    ("to-metadata-nothing", to_metadata(header="x"), f"{FILTER}.request_rules[0]"),
    (
        "to-metadata-missing",
        to_metadata(header="x", on_header_missing=KEY),
        f"{FILTER}.request_rules[0].on_header_missing.value",
    ),
    (
        "to-metadata-rewritten",
        to_metadata(header="x", on_header_present=KEY | REWRITTEN | {"value": "a"}),
        f"{FILTER}.request_rules[0].on_header_present.regex_value_rewrite",
    ),
    (
        "to-metadata-cookie",
        to_metadata(cookie="x", remove=True, on_header_present=KEY),
        f"{FILTER}.request_rules[0].remove",
    ),
    ("health-cache", health_filter(pass_through_mode=True, cache_time="1s"), ""),
    ("health-cache-alone", health_filter(pass_through_mode=False, cache_time="1s"), f"{FILTER}.cache_time"),
    ("keys", keys(f'{{"keys": [{{"kty": "x"}}, {GOOD_KEY}]}}'), ""),
    ("keys-not-json", keys("not json"), JWKS),
    ("keys-none", keys('{"keys": []}'), JWKS),
    ("keys-list", keys("[]"), JWKS),
    ("keys-single", keys(GOOD_KEY), JWKS),
    ("admission", admission(100, 600), ""),
    ("admission-low", admission(50, 200), f"{FILTER}.success_criteria.http_criteria.http_success_status[0]"),
    ("admission-high", admission(100, 601), f"{FILTER}.success_criteria.http_criteria.http_success_status[0]"),
    ("admission-reversed", admission(300, 200), f"{FILTER}.success_criteria.http_criteria.http_success_status[0]"),
    ("arn", function("arn:aws:lambda:us-west-2:987654321:function:hello"), ""),
    ("arn-name", function("my-function"), f"{FILTER}.arn"),
    ("arn-short", function("arn:aws:lambda:us-west-2:987654321:function"), f"{FILTER}.arn"),
    ("redis", redis(catch_all_route={"cluster": "c"}), ""),
    ("redis-none", redis(), PREFIX_ROUTES),
    ("redis-same", redis(routes=prefixes("a", "a")), f"{PREFIX_ROUTES}.routes[1].prefix"),
    ("redis-case", redis(routes=prefixes("a", "A")), ""),
    (
        "redis-same-but-case",
        redis(case_insensitive=True, routes=prefixes("a", "A")),
        f"{PREFIX_ROUTES}.routes[1].prefix",
    ),
    ("thrift", thrift(method_name="a", invert=True), ""),
    (
        "thrift-invert-all",
        thrift(service_name="", invert=True),
        "filter_chains[0].filters[0].typed_config.route_config.routes[0].match.invert",
    ),
    ("network-rbac", network_rbac(permissions=[{"url_path": {"path": {"exact": "/"}}}]), ""),
    ("network-rbac-header", network_rbac(permissions=[HEADER]), f"{NETWORK_POLICY}.permissions[0].header"),
    ("network-rbac-who", network_rbac(principals=[HEADER]), f"{NETWORK_POLICY}.principals[0].header"),
    (
        "network-rbac-inside",
        network_rbac(permissions=[{"or_rules": {"rules": [{"not_rule": HEADER}]}}]),
        f"{NETWORK_POLICY}.permissions[0].or_rules.rules[0].not_rule.header",
    ),
]

# --- Routes ----------------------------------------------------------------------------------------------------------


def hosting(**fields: Any) -> r.Json:
    return {"@type": r.ROUTE, "name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"]} | fields]}


def route(action: r.Json, match: r.Json | None = None, **fields: Any) -> r.Json:
    return hosting(routes=[{"match": match or {"prefix": "/"}, **action, **fields}])


def to_c(**fields: Any) -> r.Json:
    return route({"route": {"cluster": "c", **fields}})


def per_filter(config: r.Json) -> r.Json:
    return route({"route": {"cluster": "c"}}, typed_per_filter_config={"a": config})


def wrapped(**fields: Any) -> r.Json:
    return per_filter({"@type": r.TYPE + "envoy.config.route.v3.FilterConfig", **fields})


ANY_ROUTE = {
    "action": {
        "name": "r",
        "typed_config": {
            "@type": r.TYPE + "envoy.config.route.v3.Route",
            "match": {"prefix": "/"},
            "route": {"cluster": "c"},
        },
    }
}
REWRITE = {
    "path_rewrite_policy": typed(
        "a",
        r.TYPE + "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig",
        path_template_rewrite="/{a}",
    )
}
TEMPLATE = {
    "path_match_policy": typed(
        "m", r.TYPE + "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig", path_template="/{a}"
    )
}
PLUGIN = {"is_optional": True, "extension": {"name": "p", "typed_config": TEXT}}
PER_FILTER = 'virtual_hosts[0].routes[0].typed_per_filter_config["a"]'
ROUTE_CASES: list[Case] = [
    ("host-matcher", hosting(matcher={"on_no_match": ANY_ROUTE}), ""),
    (
        "host-matcher-and-routes",
        hosting(**virtual_host(), matcher={"on_no_match": ANY_ROUTE}),
        "virtual_hosts[0].matcher",
    ),
    ("plugin-unknown", route({"route": {"cluster_specifier_plugin": "p"}}), f"{ACTION}.cluster_specifier_plugin"),
    ("plugin", route({"route": {"cluster_specifier_plugin": "p"}}) | {"cluster_specifier_plugins": [PLUGIN]}, ""),
    ("template", route({"route": {"cluster": "c", **REWRITE}}, TEMPLATE), ""),
    ("template-without-match", to_c(**REWRITE), f"{ACTION}.path_rewrite_policy"),
    ("virtual-cluster", hosting(virtual_clusters=[{"name": "x"}]), "virtual_hosts[0].virtual_clusters[0].headers"),
    ("per-filter", per_filter({"@type": HTTP + "buffer.v3.BufferPerRoute", "disabled": True}), ""),
    ("per-filter-of-listener", per_filter({"@type": HTTP + "buffer.v3.Buffer", "max_request_bytes": 5}), PER_FILTER),
    ("per-filter-of-none", per_filter({"@type": r.ROUTER}), PER_FILTER),
    ("per-filter-text", per_filter(TEXT), PER_FILTER),
    ("per-filter-node", per_filter(NODE), PER_FILTER),
    ("per-filter-empty", per_filter({}), PER_FILTER),
    (
        "per-filter-of-network",
        per_filter({"@type": r.TCP_PROXY, "stat_prefix": "s", "cluster": "c"}),
        PER_FILTER,
    ),
    ("per-filter-off", wrapped(disabled=True), ""),
    ("per-filter-wrapped-nothing", wrapped(), f"{PER_FILTER}.config"),
    ("per-filter-wrapped-text", wrapped(config=TEXT), f"{PER_FILTER}.config"),
    ("per-filter-wrapped-optional", wrapped(config=TEXT, is_optional=True), ""),
    (
        "retry-priority-by-name",
        to_c(retry_policy={"retry_priority": {"name": "envoy.retry_priorities.previous_priorities"}}),
        f"{ACTION}.retry_policy.retry_priority.typed_config",
    ),
    (
        "retry-host-by-name",
        to_c(retry_policy={"retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts"}]}),
        f"{ACTION}.retry_policy.retry_host_predicate[0].typed_config",
    ),
]


# --- What is by default what Envoy does not speak any more -----------------------------------------------------------

UNSET = {"api_config_source": {"cluster_names": ["c"], "refresh_delay": "1s", "transport_api_version": "V3"}}
KIND = "api_config_source.api_type"
SCOPE_KEY = {"fragments": [{"header_value_extractor": {"name": "a", "index": 0}}]}


def traced(**fields: Any) -> r.Json:
    zipkin = r.TYPE + "envoy.config.trace.v3.ZipkinConfig"
    config = {"collector_cluster": "c", "collector_endpoint": "/api/v2/spans", **fields}
    return listener(hcm(tracing={"provider": typed("z", zipkin, **config)}))


def scoped(**fields: Any) -> r.Json:
    routing = {"name": "s", "scope_key_builder": SCOPE_KEY, **fields}
    config = {"@type": r.HTTP_MANAGER, "stat_prefix": "s", "scoped_routes": routing, "http_filters": [ROUTER]}
    return listener({"name": "hcm", "typed_config": config})


def by_rds(source: r.Json) -> r.Json:
    rds = {"route_config_name": "r", "config_source": source}
    config = {"@type": r.HTTP_MANAGER, "stat_prefix": "s", "rds": rds, "http_filters": [ROUTER]}
    return listener({"name": "hcm", "typed_config": config})


DEFAULT_CASES: list[Case] = [
    ("zipkin", traced(collector_endpoint_version="HTTP_JSON"), ""),
    ("zipkin-unset", traced(), f"{HCM}.tracing.provider.typed_config.collector_endpoint_version"),
    (
        "zipkin-default",
        traced(collector_endpoint_version=0),
        f"{HCM}.tracing.provider.typed_config.collector_endpoint_version",
    ),
    (
        "source-eds",
        bare("EDS", eds_cluster_config={"eds_config": UNSET}),
        f"eds_cluster_config.eds_config.{KIND}",
    ),
    ("source-rds", by_rds(UNSET), f"{HCM}.rds.config_source.{KIND}"),
    (
        "source-scopes",
        scoped(rds_config_source={"ads": {}}, scoped_rds={"scoped_rds_config_source": UNSET}),
        f"{HCM}.scoped_routes.scoped_rds.scoped_rds_config_source.{KIND}",
    ),
    (
        "source-secret",
        tls_cluster({"tls_certificate_sds_secret_configs": [{"name": "a", "sds_config": UNSET}]}),
        f"transport_socket.typed_config.common_tls_context.tls_certificate_sds_secret_configs[0].sds_config.{KIND}",
    ),
    (
        "source-extension",
        listener(
            hcm(
                {
                    "name": "x",
                    "config_discovery": {
                        "config_source": UNSET,
                        "type_urls": ["envoy.extensions.filters.http.lua.v3.Lua"],
                    },
                },
                ROUTER,
            )
        ),
        f"{HCM}.http_filters[0].config_discovery.config_source.{KIND}",
    ),
    (
        "source-hosts",
        listener(hcm(route_config={"name": "r", "vhds": {"config_source": UNSET}})),
        f"{HCM}.route_config.vhds.config_source.{KIND}",
    ),
    (
        "source-thrift",
        listener(
            typed(
                "t",
                NETWORK + "thrift_proxy.v3.ThriftProxy",
                stat_prefix="s",
                trds={"route_config_name": "a", "config_source": UNSET},
            )
        ),
        f"{HCM}.trds.config_source.{KIND}",
    ),
    (
        "source-on-demand",
        listener(hcm(typed("o", HTTP + "on_demand.v3.OnDemand", odcds={"source": UNSET}), ROUTER)),
        f"{FILTER}.odcds.source.{KIND}",
    ),
    (
        "source-on-demand-tcp",
        listener(typed("t", r.TCP_PROXY, stat_prefix="s", cluster="c", on_demand={"odcds_config": UNSET})),
        f"{HCM}.on_demand.odcds_config.{KIND}",
    ),
]

CASES = [*CLUSTER_CASES, *TLS_CASES, *LISTENER_CASES, *FILTER_CASES, *ROUTE_CASES, *DEFAULT_CASES]
CRASHES = {"maglev-1", "check-http3"}
"""Cases with which Envoy 1.40 ends with a segmentation fault."""
