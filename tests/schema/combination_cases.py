"""Cases of fields that Envoy does not take together, or not with these values: a name, a resource, and a field."""

import base64
from typing import Any

from schema import semantic_cases as cases
from schema.semantic_cases import (
    CONTEXT,
    FILTER,
    HCM,
    HTTP,
    NETWORK,
    OPTIONS,
    PAIR,
    ROUND_ROBIN,
    Case,
    bare,
    cluster,
    hosting,
    http,
    options,
    plain,
    policy,
    route,
    routed,
    trusting,
)
from support import resources as r
from support.static_envoy import address, hcm, listener, tls_cluster, typed, virtual_host

CLUSTERS = r.TYPE + "envoy.extensions.clusters."
SOCKETS = r.TYPE + "envoy.extensions.transport_sockets."
FROM_FILE = {"path_config_source": {"path": "/dev/null"}}
TLS = "transport_socket.typed_config"
TCP = typed("tcp", r.TCP_PROXY, stat_prefix="t", cluster="c")
HTTP_OPTIONS = f'typed_extension_protocol_options["{OPTIONS}"]'


# --- Clusters --------------------------------------------------------------------------------------------------------


def custom(kind: str, name: str = "envoy.clusters.x", config: r.Json | None = None, **fields: Any) -> r.Json:
    made = typed(name, CLUSTERS + kind, **(config or {}))
    return {"@type": r.CLUSTER, "name": "x", "cluster_type": made} | fields


def aggregate(**fields: Any) -> r.Json:
    return custom("aggregate.v3.ClusterConfig", config={"clusters": ["c", "d"]}, **fields)


def forward_proxy(cache: str, config: r.Json | None = None, **fields: Any) -> r.Json:
    """Return a dynamic forward proxy; caches of one name must not differ."""
    own = {"dns_cache_config": {"name": cache}} | (config or {})
    return custom("dynamic_forward_proxy.v3.ClusterConfig", config=own, **({"lb_policy": "CLUSTER_PROVIDED"} | fields))


def of_dns(kind: str = "STRICT_DNS", **fields: Any) -> r.Json:
    endpoint = {"endpoint": {"address": address("a.b")}}
    return bare(kind, load_assignment={"cluster_name": "x", "endpoints": [{"lb_endpoints": [endpoint]}]}, **fields)


def cares(host: str) -> r.Json:
    kind = r.TYPE + "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
    return {"typed_dns_resolver_config": typed("cares", kind, resolvers=[address(host, 53)])}


def dropping(*shares: r.Json) -> r.Json:
    drops = [{"category": "a", "drop_percentage": share} for share in shares]
    return bare("STATIC", load_assignment={"cluster_name": "x", "policy": {"drop_overloads": drops}})


def settings(*pairs: tuple[int, int], **fields: Any) -> r.Json:
    custom_settings = [{"identifier": key, "value": value} for key, value in pairs]
    return {"http2_protocol_options": {"custom_settings_parameters": custom_settings, **fields}}


def over_http2(*pairs: tuple[int, int], **fields: Any) -> r.Json:
    return cluster(**options(explicit_http_config=settings(*pairs, **fields)))


def quic(name: str, **fields: Any) -> r.Json:
    tls = {"sni": "a", "common_tls_context": {}}
    socket = typed(name, SOCKETS + "quic.v3.QuicUpstreamTransport", upstream_tls_context=tls)
    return cluster(transport_socket=socket, **options(**fields))


def reversed_intervals(base: str = "5s", longest: str = "3s") -> r.Json:
    return {"base_interval": base, "max_interval": longest}


VERIFIED = {"upstream_http_protocol_options": {"auto_sni": True, "auto_san_validation": True}}
EXPLICIT: r.Json = {"explicit_http_config": {"http_protocol_options": {}}}
HTTP3: r.Json = {"explicit_http_config": {"http3_protocol_options": {}}}
AUTO3 = {"auto_config": {"http3_protocol_options": {}, "alternate_protocols_cache_options": {"name": "a"}}}
SETTING = f"{HTTP_OPTIONS}.explicit_http_config.http2_protocol_options.custom_settings_parameters"
PROVIDED = policy("cluster_provided.v3.ClusterProvided")
CLUSTER_CASES: list[Case] = [
    ("config-policy", cluster(lb_policy="LOAD_BALANCING_POLICY_CONFIG", load_balancing_policy=ROUND_ROBIN), ""),
    ("config-policy-none", cluster(lb_policy="LOAD_BALANCING_POLICY_CONFIG"), "load_balancing_policy"),
    ("aggregate", aggregate(lb_policy="CLUSTER_PROVIDED"), ""),
    ("aggregate-policy", aggregate(load_balancing_policy=PROVIDED), ""),
    ("aggregate-round-robin", aggregate(), "lb_policy"),
    ("aggregate-policy-other", aggregate(load_balancing_policy=ROUND_ROBIN), "load_balancing_policy"),
    (
        "aggregate-both",
        aggregate(lb_policy="CLUSTER_PROVIDED", load_balancing_policy=ROUND_ROBIN),
        "load_balancing_policy",
    ),
    ("dns-cluster-provided", custom("dns.v3.DnsCluster", lb_policy="CLUSTER_PROVIDED"), "lb_policy"),
    (
        "dns-cluster-intervals",
        custom("dns.v3.DnsCluster", config={"dns_failure_refresh_rate": reversed_intervals()}),
        "cluster_type.typed_config.dns_failure_refresh_rate.max_interval",
    ),
    ("original-policy", bare("ORIGINAL_DST", load_balancing_policy=ROUND_ROBIN), "lb_policy"),
    (
        "original-both",
        bare("ORIGINAL_DST", lb_policy="CLUSTER_PROVIDED", load_balancing_policy=ROUND_ROBIN),
        "load_balancing_policy",
    ),
    ("kind-by-name", cluster(type=None, cluster_type={"name": "envoy.cluster.static"}), ""),
    ("kind-unknown", cluster(type=None, cluster_type={"name": "no.such.kind"}), "cluster_type.name"),
    ("forward", forward_proxy("a"), ""),
    ("forward-round-robin", forward_proxy("b", lb_policy="ROUND_ROBIN"), "lb_policy"),
    ("forward-verified", forward_proxy("c", **options(**EXPLICIT, **VERIFIED)), ""),
    (
        "forward-insecure",
        forward_proxy("d", {"allow_insecure_cluster_options": True}, **options(**EXPLICIT)),
        "",
    ),
    (
        "forward-unverified",
        forward_proxy("e", **options(**EXPLICIT)),
        f"{HTTP_OPTIONS}.upstream_http_protocol_options",
    ),
    (
        "forward-resolver",
        forward_proxy("f", {"dns_cache_config": {"name": "f", **cares("dns.google")}}),
        "cluster_type.typed_config.dns_cache_config.typed_dns_resolver_config.typed_config.resolvers[0]"
        ".socket_address.address",
    ),
    ("drop", dropping({"numerator": 100}), ""),
    ("drop-two", dropping({"numerator": 1}, {"numerator": 1}), "load_assignment.policy.drop_overloads"),
    (
        "drop-more-than-all",
        dropping({"numerator": 10_001, "denominator": "TEN_THOUSAND"}),
        "load_assignment.policy.drop_overloads[0].drop_percentage",
    ),
    (
        "drop-two-by-eds",
        {
            "@type": r.ENDPOINTS,
            "cluster_name": "e",
            "policy": {"drop_overloads": [{"category": "a", "drop_percentage": {"numerator": 1}}] * 2},
        },
        "policy.drop_overloads",
    ),
    ("ejection", cluster(outlier_detection={"base_ejection_time": "400s"}), ""),
    ("ejection-equal", cluster(outlier_detection={"max_ejection_time": "30s"}), ""),
    (
        "ejection-less-than-default",
        cluster(outlier_detection={"max_ejection_time": "10s"}),
        "outlier_detection.max_ejection_time",
    ),
    (
        "ejection-less",
        cluster(outlier_detection={"base_ejection_time": "400s", "max_ejection_time": "300s"}),
        "outlier_detection.max_ejection_time",
    ),
    ("refresh", of_dns(dns_failure_refresh_rate=reversed_intervals("5.0005s", "5s")), ""),
    ("refresh-unused", cluster(dns_failure_refresh_rate=reversed_intervals()), ""),
    (
        "refresh-reversed",
        of_dns(dns_failure_refresh_rate=reversed_intervals()),
        "dns_failure_refresh_rate.max_interval",
    ),
    ("resolver", of_dns(**cares("8.8.8.8")), ""),
    ("resolver-unused", cluster(**cares("dns.google")), ""),
    (
        "resolver-name",
        of_dns(**cares("dns.google")),
        "typed_dns_resolver_config.typed_config.resolvers[0].socket_address.address",
    ),
    (
        "resolver-name-old",
        of_dns("LOGICAL_DNS", dns_resolvers=[address("dns.google", 53)]),
        "dns_resolvers[0].socket_address.address",
    ),
    (
        "resolver-name-config",
        of_dns(dns_resolution_config={"resolvers": [address("dns.google", 53)]}),
        "dns_resolution_config.resolvers[0].socket_address.address",
    ),
    ("settings", over_http2((2, 0), (9, 1), (9, 1), (3, 5)), ""),
    ("settings-push", over_http2((2, 1)), f"{SETTING}[0]"),
    ("settings-connect", over_http2((8, 0)), f"{SETTING}[0]"),
    ("settings-other", over_http2((9, 1), (9, 2)), f"{SETTING}[1]"),
    ("settings-named", over_http2((3, 5), max_concurrent_streams=5), f"{SETTING}[0]"),
    ("settings-old", cluster(**settings((2, 1))), "http2_protocol_options.custom_settings_parameters[0]"),
    ("settings-unused", cluster(**settings((2, 1)), **options(**EXPLICIT)), ""),
    ("quic", quic("envoy.transport_sockets.quic", **HTTP3), ""),
    ("quic-by-another-name", quic("quic", **HTTP3), "transport_socket.name"),
    ("quic-auto", quic("envoy.transport_sockets.quic", **AUTO3), ""),
    ("quic-auto-by-another-name", quic("quic", **AUTO3), "transport_socket.name"),
]

# --- TLS -------------------------------------------------------------------------------------------------------------


def signed(*names: str) -> r.Json:
    return tls_cluster({"tls_params": {"signature_algorithms": list(names)}})


def other_name(**fields: Any) -> r.Json:
    matcher = {"san_type": "OTHER_NAME", "matcher": {"exact": "a"}, **fields}
    return trusting(match_typed_subject_alt_names=[matcher], **cases.CA)


def by_name(context: r.Json) -> r.Json:
    return tls_cluster(context, auto_sni_san_validation=True)


def serving(*protocols: str) -> r.Json:
    common = {"alpn_protocols": list(protocols), "tls_certificates": [PAIR]}
    socket = typed("tls", r.DOWNSTREAM_TLS, common_tls_context=common)
    return listener(filter_chains=[{"filters": [hcm()], "transport_socket": socket}])


SDS = {"name": "s", "sds_config": FROM_FILE}
SIGNATURES = f"{CONTEXT}.tls_params.signature_algorithms"
OID = f"{CONTEXT}.validation_context.match_typed_subject_alt_names[0].oid"
TLS_CASES: list[Case] = [
    ("alpn", tls_cluster({"alpn_protocols": ["h2", "http/1.1"]}), ""),
    ("alpn-one-empty", tls_cluster({"alpn_protocols": [""]}), ""),
    ("alpn-empty", tls_cluster({"alpn_protocols": ["h2", ""]}), f"{CONTEXT}.alpn_protocols[1]"),
    ("alpn-server", serving("h2"), ""),
    (
        "alpn-server-empty",
        serving("", "h2"),
        "",
    ),
    ("client-two", tls_cluster({"tls_certificates": [PAIR, PAIR]}), f"{CONTEXT}.tls_certificates"),
    (
        "client-two-by-sds",
        tls_cluster({"tls_certificate_sds_secret_configs": [SDS, SDS | {"name": "t"}]}),
        f"{CONTEXT}.tls_certificate_sds_secret_configs",
    ),
    (
        "client-two-of-both",
        tls_cluster({"tls_certificates": [PAIR], "tls_certificate_sds_secret_configs": [SDS]}),
        f"{CONTEXT}.tls_certificate_sds_secret_configs",
    ),
    ("signatures", signed("rsa_pss_rsae_sha256:ed25519", "mldsa65"), ""),
    ("signatures-of-openssl", signed("RSA+SHA256", "ECDSA+SHA256"), ""),
    ("signatures-unknown", signed("ed25519", "bogus"), f"{SIGNATURES}[1]"),
    ("signatures-case", signed("ED25519"), f"{SIGNATURES}[0]"),
    ("signatures-twice", signed("ed25519", "ed25519"), f"{SIGNATURES}[1]"),
    *((f"oid-{oid}", other_name(oid=oid), "") for oid in ("1.2.3", "2.999.1", "1.2", "commonName", "CN")),
    *((f"oid-{oid}", other_name(oid=oid), OID) for oid in ("1", "3.1", "1..2", "1.40.1", "1.2.03", "1.2 ")),
    ("oid-none", other_name(), OID),
    ("oid-of-dns", other_name(san_type="DNS", oid="1"), ""),
    ("san-by-name", by_name({"validation_context": cases.CA}), ""),
    ("san-by-name-sds", by_name({"validation_context_sds_secret_config": SDS}), ""),
    ("san-by-name-no-context", by_name({}), f"{TLS}.auto_sni_san_validation"),
    ("san-by-name-no-ca", by_name({"validation_context": {}}), f"{TLS}.auto_sni_san_validation"),
    ("expired", trusting(allow_expired_certificate=True, **cases.CA), ""),
    (
        "expired-without-ca",
        trusting(allow_expired_certificate=True),
        f"{CONTEXT}.validation_context.allow_expired_certificate",
    ),
]

# --- Listeners -------------------------------------------------------------------------------------------------------


def on_quic(codec: str, socket: r.Json | None) -> r.Json:
    own = {"transport_socket": socket} if socket else {}
    return plain(
        address=address(port=0, protocol="UDP"),
        udp_listener_config={"quic_options": {}},
        filter_chains=[{"filters": [hcm(codec_type=codec)], **own}],
    )


def chosen(*names: str, **fields: Any) -> r.Json:
    action = typed("a", r.TYPE + "google.protobuf.StringValue", value="a")
    chains = [{"filters": [TCP], **({"name": name} if name else {})} for name in names]
    return listener(filter_chain_matcher={"on_no_match": {"action": action}}, filter_chains=chains, **fields)


def matching(**match: Any) -> r.Json:
    return listener(filter_chains=[{"filters": [TCP], "filter_chain_match": match}])


def elsewhere(where: r.Json, **fields: Any) -> r.Json:
    return listener(TCP, additional_addresses=[{"address": where}], **fields)


def unbound(**fields: Any) -> r.Json:
    return listener(TCP, bind_to_port=False, **fields)


def socket_option(state: str) -> r.Json:
    return {"socket_options": [{"level": 1, "name": 2, "int_value": 3, "state": state}]}


DISCOVERED = {"common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": "q", "sds_config": FROM_FILE}]}}
QUIC = typed("q", SOCKETS + "quic.v3.QuicDownstreamTransport", downstream_tls_context=DISCOVERED)
LISTENER_CASES: list[Case] = [
    ("http3", on_quic("HTTP3", QUIC), ""),
    ("http3-auto", on_quic("AUTO", QUIC), f"{HCM}.codec_type"),
    ("http3-no-socket", on_quic("HTTP3", None), "filter_chains[0].transport_socket"),
    (
        "http3-tls",
        on_quic("HTTP3", typed("t", r.DOWNSTREAM_TLS, **DISCOVERED)),
        "filter_chains[0].transport_socket",
    ),
    ("http3-on-tcp", http(codec_type="HTTP3"), f"{HCM}.codec_type"),
    ("suffix", matching(address_suffix="1.1"), "filter_chains[0].filter_chain_match.address_suffix"),
    ("suffix-length", matching(suffix_len=0), "filter_chains[0].filter_chain_match.suffix_len"),
    ("addresses", elsewhere({"pipe": {"path": "@x"}}), ""),
    (
        "addresses-udp",
        elsewhere(address(protocol="UDP")),
        "additional_addresses[0].address",
    ),
    ("unbound", unbound(freebind=True, **socket_option("STATE_PREBIND")), ""),
    ("unbound-listening", unbound(**socket_option("STATE_LISTENING")), ""),
    ("names", chosen("a", "b", default_filter_chain={"filters": [TCP]}), ""),
    ("names-none", chosen("a", ""), "filter_chains[1].name"),
    ("names-equal", chosen("a", "a"), "filter_chains[1].name"),
    (
        "internal-address",
        listener(TCP, internal_listener={}),
        "address",
    ),
]

# --- HCM and routes --------------------------------------------------------------------------------------------------


def pattern(**matcher: Any) -> r.Json:
    headers = [{"name": "y", "string_match": matcher}]
    return route({"route": {"cluster": "c"}}, {"prefix": "/", "headers": headers})


def template(text: str, rewrite: str = "") -> r.Json:
    match = typed(
        "m", r.TYPE + "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig", path_template=text
    )
    kind = r.TYPE + "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig"
    own = {"path_rewrite_policy": typed("r", kind, path_template_rewrite=rewrite)} if rewrite else {}
    return route({"route": {"cluster": "c", **own}}, {"path_match_policy": match})


def limiting(wrap: bool = False, disabled: bool = False, **fields: Any) -> r.Json:
    limit = {"@type": HTTP + "local_ratelimit.v3.LocalRateLimit", "stat_prefix": "s", **fields}
    if wrap:
        limit = {"@type": r.TYPE + "envoy.config.route.v3.FilterConfig", "config": limit, "disabled": disabled}
    return hosting(typed_per_filter_config={"a": limit}, **virtual_host_routes())


def virtual_host_routes() -> r.Json:
    return {"routes": virtual_host()["routes"]}


def scoped(**extractor: Any) -> r.Json:
    builder = {"fragments": [{"header_value_extractor": {"name": "x", **extractor}}]}
    routes = {"name": "s", "scope_key_builder": builder, "rds_config_source": FROM_FILE}
    return routed(scoped_routes=routes | {"scoped_rds": {"scoped_rds_config_source": FROM_FILE}})


BUCKET = {"token_bucket": {"max_tokens": 1, "fill_interval": "1s"}}
TEMPLATE = "virtual_hosts[0].routes[0].match.path_match_policy.typed_config.path_template"
REWRITE = "virtual_hosts[0].routes[0].route.path_rewrite_policy.typed_config.path_template_rewrite"
EXTRACTOR = f"{HCM}.scoped_routes.scope_key_builder.fragments[0].header_value_extractor"
ROUTE_CASES: list[Case] = [
    ("strip", http(strip_any_host_port=True), ""),
    (
        "strip-both",
        http(strip_any_host_port=True, strip_matching_host_port=True),
        f"{HCM}.strip_any_host_port",
    ),
    (
        "settings-of-listener",
        http(**settings((2, 1))),
        f"{HCM}.http2_protocol_options.custom_settings_parameters[0]",
    ),
    ("case", pattern(contains="a", ignore_case=True), ""),
    (
        "case-regex",
        pattern(safe_regex={"regex": "a"}, ignore_case=True),
        "virtual_hosts[0].routes[0].match.headers[0].string_match.ignore_case",
    ),
    ("variables", template("/a/{b}/{c=*}", "/{c}/{c}"), ""),
    ("variables-most", template("/{a}/{b}/{c}/{d}/{e}"), ""),
    ("variables-too-many", template("/{a}/{b}/{c}/{d}/{e}/{f}"), TEMPLATE),
    ("variables-twice", template("/{a}/{a=*}"), TEMPLATE),
    ("variables-other", template("/{a}", "/{b}"), REWRITE),
    ("route-limit", limiting(**BUCKET), ""),
    ("route-limit-off", limiting(wrap=True, disabled=True), ""),
    ("route-limit-none", limiting(), 'virtual_hosts[0].typed_per_filter_config["a"].token_bucket'),
    (
        "route-limit-none-wrapped",
        limiting(wrap=True),
        'virtual_hosts[0].typed_per_filter_config["a"].config.token_bucket',
    ),
    ("scope-index", scoped(index=1, element_separator=";"), ""),
    ("scope-index-first", scoped(index=0), ""),
    ("scope-index-alone", scoped(index=1), f"{EXTRACTOR}.element_separator"),
]

# --- Filters ---------------------------------------------------------------------------------------------------------


def processor(**fields: Any) -> r.Json:
    return http(typed("x", HTTP + "ext_proc.v3.ExternalProcessor", **fields))


def ports(kind: str = HTTP, **ends: int) -> r.Json:
    one = {"permissions": [{"destination_port_range": ends}], "principals": [{"any": True}]}
    rules = {"policies": {"a": one}}
    if kind == NETWORK:
        return listener(typed("x", NETWORK + "rbac.v3.RBAC", stat_prefix="s", rules=rules), hcm())
    return http(typed("x", HTTP + "rbac.v3.RBAC", rules=rules))


def users(text: str) -> r.Json:
    return http(typed("x", HTTP + "basic_auth.v3.BasicAuth", users={"inline_string": text}))


def api_keys(*keys: str, **source: str) -> r.Json:
    credentials = [{"key": key, "client": "a"} for key in keys]
    sources = [source or {"header": "x-key"}]
    return http(typed("x", HTTP + "api_key_auth.v3.ApiKeyAuth", credentials=credentials, key_sources=sources))


def proxied(**fields: Any) -> r.Json:
    return listener(typed("t", r.TCP_PROXY, **({"stat_prefix": "s", "cluster": "c"} | fields)))


def jwks(**back_off: str) -> r.Json:
    source = {
        "http_uri": {"uri": "https://i/jwks", "cluster": "c", "timeout": "5s"},
        "retry_policy": {"retry_back_off": back_off},
    }
    providers = {"p": {"issuer": "i", "remote_jwks": source}}
    return http(typed("x", HTTP + "jwt_authn.v3.JwtAuthentication", providers=providers))


def fluentd(**back_off: str) -> r.Json:
    kind = r.TYPE + "envoy.extensions.access_loggers.fluentd.v3.FluentdAccessLogConfig"
    retry = {"retry_options": {"backoff_options": back_off}}
    log = typed("f", kind, cluster="c", tag="t", stat_prefix="s", record={"a": "b"}, **retry)
    return http(access_log=[log])


def tls_field(**entry: Any) -> r.Json:
    return proxied(proxy_protocol_tlvs=[{"type": 200, **entry}])


def zstd(**fields: Any) -> r.Json:
    kind = "decompressor" if "dictionaries" in fields else "compressor"
    library = typed("z", r.TYPE + f"envoy.extensions.compression.zstd.{kind}.v3.Zstd", **fields)
    return http(typed("x", HTTP + f"{kind}.v3.{kind.capitalize()}", **{f"{kind}_library": library}))


HASH = "{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw="
GRPC = {"grpc_service": {"envoy_grpc": {"cluster_name": "c"}}}
BY_HTTP = {"http_service": {"http_service": {"http_uri": {"uri": "http://a", "cluster": "c", "timeout": "1s"}}}}
PORTS = f'{FILTER}.rules.policies["a"].permissions[0].destination_port_range'
USERS = f"{FILTER}.users.inline_string"
FORMATTED = {"format_string": {"text_format_source": {"inline_string": "a"}}}
NO_DICTIONARY = base64.b64encode(b"no dictionary").decode()
FILTER_CASES: list[Case] = [
    ("processor-grpc", processor(**GRPC), ""),
    ("processor-http", processor(**BY_HTTP), ""),
    ("processor-none", processor(), FILTER),
    ("processor-both", processor(**GRPC, **BY_HTTP), FILTER),
    ("ports", ports(start=0, end=65536), ""),
    ("ports-reversed", ports(start=10, end=5), PORTS),
    ("ports-empty", ports(start=5, end=5), PORTS),
    ("ports-many", ports(start=5, end=65537), PORTS),
    ("ports-negative", ports(start=-1, end=5), PORTS),
    (
        "ports-of-network",
        ports(NETWORK, start=10, end=5),
        'filter_chains[0].filters[0].typed_config.rules.policies["a"].permissions[0].destination_port_range',
    ),
    ("users", users(f"# comment\n\na:{HASH}\n b:{HASH}\n"), ""),
    *(
        (f"users-{name}", users(text), USERS)
        for name, text in [
            ("plain", "a:secret"),
            ("twice", f"a:{HASH}\na:{HASH}"),
            ("no-name", f":{HASH}"),
            ("no-password", "a"),
            ("short", "a:{SHA}abc"),
            ("return", f"a:{HASH}\r\n"),
        ]
    ),
    ("api-keys", api_keys("k", "l"), ""),
    ("api-keys-equal", api_keys("k", "l", "k"), f"{FILTER}.credentials[2].key"),
    (
        "api-keys-nowhere",
        api_keys("k", header=""),
        f"{FILTER}.key_sources[0]",
    ),
    ("post", proxied(tunneling_config={"hostname": "a:1", "use_post": True, "post_path": "/x"}), ""),
    (
        "post-not",
        proxied(tunneling_config={"hostname": "a:1", "post_path": "/x"}),
        f"{HCM}.tunneling_config.post_path",
    ),
    ("early", proxied(upstream_connect_mode="ON_DOWNSTREAM_DATA", max_early_data_bytes=0), ""),
    (
        "early-none",
        proxied(upstream_connect_mode="ON_DOWNSTREAM_TLS_HANDSHAKE"),
        f"{HCM}.max_early_data_bytes",
    ),
    (
        "log-options-both",
        proxied(access_log_flush_interval="1s", access_log_options={}),
        f"{HCM}.access_log_flush_interval",
    ),
    (
        "log-options-connected",
        proxied(flush_access_log_on_connected=True, access_log_options={}),
        f"{HCM}.flush_access_log_on_connected",
    ),
    ("field", tls_field(value="YQ=="), ""),
    ("field-nothing", tls_field(), f"{HCM}.proxy_protocol_tlvs[0]"),
    ("field-both", tls_field(value="YQ==", **FORMATTED), f"{HCM}.proxy_protocol_tlvs[0]"),
    ("jwks-interval", jwks(base_interval="3.0005s", max_interval="3s"), ""),
    (
        "jwks-interval-reversed",
        jwks(**reversed_intervals()),
        f'{FILTER}.providers["p"].remote_jwks.retry_policy.retry_back_off.max_interval',
    ),
    ("fluentd-interval", fluentd(base_interval="60s"), ""),
    (
        "fluentd-interval-reversed",
        fluentd(**reversed_intervals()),
        f"{HCM}.access_log[0].typed_config.retry_options.backoff_options.max_interval",
    ),
    (
        "zstd-dictionary",
        zstd(dictionary={"inline_string": "no dictionary"}),
        f"{FILTER}.compressor_library.typed_config.dictionary.inline_string",
    ),
    (
        "zstd-dictionaries",
        zstd(dictionaries=[{"inline_bytes": NO_DICTIONARY}]),
        f"{FILTER}.decompressor_library.typed_config.dictionaries[0].inline_bytes",
    ),
]

# --- One of two ------------------------------------------------------------------------------------------------------


def authz_route(**settings_: Any) -> r.Json:
    kind = HTTP + "ext_authz.v3.ExtAuthzPerRoute"
    return hosting(typed_per_filter_config={"a": {"@type": kind, "check_settings": settings_}}, **virtual_host_routes())


def lua(**fields: Any) -> r.Json:
    return http(typed("x", HTTP + "lua.v3.Lua", **fields))


def dubbo(**fields: Any) -> r.Json:
    return listener(typed("x", NETWORK + "dubbo_proxy.v3.DubboProxy", stat_prefix="s", **fields))


def thrift(**fields: Any) -> r.Json:
    return listener(typed("x", NETWORK + "thrift_proxy.v3.ThriftProxy", stat_prefix="s", **fields))


def udp_proxy(**fields: Any) -> r.Json:
    kind = r.TYPE + "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig"
    proxy = typed("u", kind, stat_prefix="s", cluster="c", **fields)
    return plain(address=address(protocol="UDP"), listener_filters=[proxy])


def xff(**fields: Any) -> r.Json:
    kind = r.TYPE + "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig"
    return http(original_ip_detection_extensions=[typed("x", kind, **fields)])


CODE = {"default_source_code": {"inline_string": "a = 1"}}
INTERFACE = {"name": "r", "interface": "a.b"}
TUNNEL = {"tunneling_config": {"proxy_host": "a", "target_host": "b", "default_target_port": 443}}
TRUSTED = {"xff_trusted_cidrs": {"cidrs": [{"address_prefix": "192.0.2.0", "prefix_len": 24}]}}
TRDS = {"trds": {"config_source": FROM_FILE, "route_config_name": "a"}}
BODY = {"with_request_body": {"max_request_bytes": 5}}
EXCLUSIVE_CASES: list[Case] = [
    ("one-authz", authz_route(disable_request_body_buffering=False, **BODY), ""),
    (
        "two-authz",
        authz_route(disable_request_body_buffering=True, **BODY),
        'virtual_hosts[0].typed_per_filter_config["a"].check_settings.with_request_body',
    ),
    ("one-cache", processor(**GRPC, route_cache_action="RETAIN"), ""),
    (
        "two-cache",
        processor(**GRPC, route_cache_action="RETAIN", disable_clear_route_cache=True),
        f"{FILTER}.route_cache_action",
    ),
    ("one-code", lua(**CODE), ""),
    ("two-code", lua(inline_code="a = 1", **CODE), f"{FILTER}.default_source_code"),
    ("one-dubbo", dubbo(multiple_route_config={"name": "x", "route_config": [INTERFACE]}), ""),
    (
        "two-dubbo",
        dubbo(multiple_route_config={"name": "x"}, route_config=[INTERFACE]),
        f"{HCM}.route_config",
    ),
    ("one-thrift", thrift(**TRDS), ""),
    ("two-thrift", thrift(route_config={"name": "r"}, **TRDS), f"{HCM}.route_config"),
    ("one-udp", udp_proxy(use_per_packet_load_balancing=False, **TUNNEL), ""),
    (
        "two-udp",
        udp_proxy(use_per_packet_load_balancing=True, **TUNNEL),
        "listener_filters[0].typed_config.tunneling_config",
    ),
    ("one-xff", xff(**TRUSTED), ""),
    (
        "two-xff",
        xff(xff_num_trusted_hops=1, **TRUSTED),
        f"{HCM}.original_ip_detection_extensions[0].typed_config.xff_trusted_cidrs",
    ),
]

CASES = [*CLUSTER_CASES, *TLS_CASES, *LISTENER_CASES, *ROUTE_CASES, *FILTER_CASES, *EXCLUSIVE_CASES]
CRASHING_LIVE: list[Case] = [
    ("unbound-transparent", unbound(transparent=True), "transparent"),
    (
        "unbound-transparent-old",
        listener(TCP, deprecated_v1={"bind_to_port": False}, transparent=True),
        "transparent",
    ),
    ("unbound-option", unbound(**socket_option("STATE_BOUND")), "socket_options[0].state"),
    (
        "unbound-option-of-another-address",
        unbound(additional_addresses=[{"address": address(), "socket_options": socket_option("STATE_BOUND")}]),
        "additional_addresses[0].socket_options.socket_options[0].state",
    ),
]
"""Cases that ``--mode validate`` takes, and with which an Envoy 1.40 that runs crashes."""
CRASHES = {"alpn-empty", "zstd-dictionary", "zstd-dictionaries"}
"""Cases with which Envoy 1.40 crashes."""
