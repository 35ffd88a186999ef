"""Cases of what Envoy takes although it looks wrong, beside the like that it refuses."""

from typing import Any

from schema.semantic_cases import Case
from support import resources as r
from support.static_envoy import address, hcm, listener, static_cluster, typed, virtual_host

ANY = {"prefix": "/"}
FINE = {"direct_response": {"status": 200}}
REGEX = "virtual_hosts[0].routes[0].match.safe_regex.regex"
ACTION = "virtual_hosts[0].routes[0].route"
CHOOSING = {"on_no_match": {"action": typed("a", r.TYPE + "google.protobuf.StringValue", value="a")}}
RANGE = {"prefix_ranges": [{"address_prefix": "foo", "prefix_len": 8}]}
TCP = typed("tcp", r.TCP_PROXY, stat_prefix="t", cluster="c")
REDIS = r.TYPE + "envoy.extensions.filters.network.redis_proxy.v3.RedisProxy"


def routes(**fields: Any) -> r.Json:
    return {"@type": r.ROUTE, "name": "r"} | fields


def route(action: r.Json = FINE, match: r.Json = ANY, **fields: Any) -> r.Json:
    return routes(virtual_hosts=[virtual_host(routes=[{"match": match, **action, **fields}])])


def regex(text: str) -> r.Json:
    return route(match={"safe_regex": {"regex": text}})


def domains(*names: str) -> r.Json:
    return routes(virtual_hosts=[virtual_host(f"v{number}", (name,)) for number, name in enumerate(names)])


def upgrades(*names: str) -> r.Json:
    return route({"route": {"cluster": "c", "upgrade_configs": [{"upgrade_type": name} for name in names]}})


def body(size: int, limit: int) -> r.Json:
    made = {"direct_response": {"status": 200, "body": {"inline_string": "x" * size}}}
    return route(made) | {"max_direct_response_body_size_bytes": limit}


def chain(**match: Any) -> r.Json:
    return {"filters": [hcm()], "filter_chain_match": match}


def chains(*matches: r.Json, **fields: Any) -> r.Json:
    return listener(filter_chains=[chain(**each) for each in matches], **fields)


def default(**match: Any) -> r.Json:
    return listener(default_filter_chain=chain(**match))


def chosen(**match: Any) -> r.Json:
    return listener(filter_chains=[chain(**match) | {"name": "a"}], filter_chain_matcher=CHOOSING)


def redis(*prefixes: str) -> r.Json:
    made = {"routes": [{"prefix": each, "cluster": "c"} for each in prefixes], "case_insensitive": True}
    return listener(typed("redis", REDIS, stat_prefix="s", settings={"op_timeout": "1s"}, prefix_routes=made))


MATCH = "filter_chains[0].filter_chain_match"
REGEX_CASES: list[Case] = [
    ("regex-range-of-bytes", regex("[ü-á]"), ""),
    ("regex-letters", regex("(?i)ü[^a]€"), ""),
    ("regex-beyond-bytes", regex(r"\x{10ffff}"), REGEX),
    ("regex-name-of-bytes", regex("(?P<ü>a)"), REGEX),
]
LETTER_CASES: list[Case] = [
    ("domains-umlauts", domains("Ä.com", "ä.com"), ""),
    ("domains-kelvin", domains("\u212a.com", "k.com"), ""),
    ("domains-ascii-in-umlauts", domains("Aä.com", "aä.com"), "virtual_hosts[1].domains[0]"),
    ("upgrades-umlauts", upgrades("Ä", "ä"), ""),
    ("upgrades-ascii-in-umlauts", upgrades("Aä", "aä"), f"{ACTION}.upgrade_configs[1].upgrade_type"),
    ("names-umlauts", chains({"server_names": ["Ä.com"]}, {"server_names": ["ä.com"]}), ""),
    (
        "hcm-upgrades-umlauts",
        listener(hcm(upgrade_configs=[{"upgrade_type": "Ä"}, {"upgrade_type": "ä"}])),
        "",
    ),
    ("redis-umlauts", redis("Ä", "ä"), ""),
    ("redis-ascii", redis("A", "a"), "filter_chains[0].filters[0].typed_config.prefix_routes.routes[1].prefix"),
]
BODY_CASES: list[Case] = [
    ("body-without-limit", body(5_000, 0), ""),
    ("body-over-limit", body(11, 10), "virtual_hosts[0].routes[0].direct_response.body"),
]
CHAIN_CASES: list[Case] = [
    ("default-chain-star", default(server_names=["*"]), ""),
    ("default-chain-twice", default(server_names=["a", "a"]), ""),
    ("default-chain-suffix", default(address_suffix="a", suffix_len=3), ""),
    ("default-chain-range", default(**RANGE), ""),
    ("chosen-chain-star", chosen(server_names=["*"]), ""),
    ("chosen-chain-twice", chosen(server_names=["a", "a"]), ""),
    ("chosen-chain-range", chosen(**RANGE), ""),
    ("chosen-chain-suffix", chosen(address_suffix="a"), f"{MATCH}.address_suffix"),
    ("chain-suffix", chains({"address_suffix": "a"}), f"{MATCH}.address_suffix"),
    (
        "chain-range-of-sources",
        chains({"direct_source_prefix_ranges": RANGE["prefix_ranges"]}),
        f"{MATCH}.direct_source_prefix_ranges[0].address_prefix",
    ),
]

# --- Templates of paths ----------------------------------------------------------------------------------------------

TEMPLATE_MATCH = r.TYPE + "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
TEMPLATE_REWRITE = r.TYPE + "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig"
TEMPLATE_AT = "virtual_hosts[0].routes[0].match.path_match_policy.typed_config.path_template"
REWRITE_AT = f"{ACTION}.path_rewrite_policy.typed_config.path_template_rewrite"


def in_struct(type_url: str, **value: Any) -> r.Json:
    return {"@type": r.TYPE + "xds.type.v3.TypedStruct", "type_url": type_url, "value": value}


def templates(match: r.Json, rewrite: r.Json | None = None) -> r.Json:
    own = {"path_rewrite_policy": {"name": "r", "typed_config": rewrite}} if rewrite else {}
    return route({"route": {"cluster": "c", **own}}, {"path_match_policy": {"name": "m", "typed_config": match}})


def template(text: str) -> r.Json:
    return templates({"@type": TEMPLATE_MATCH, "path_template": text})


def rewritten(text: str) -> r.Json:
    match = {"@type": TEMPLATE_MATCH, "path_template": "/{x}/{y}"}
    return templates(match, {"@type": TEMPLATE_REWRITE, "path_template_rewrite": text})


MATCHING_STRUCT = in_struct(TEMPLATE_MATCH, path_template="/{x}")
TEMPLATE_CASES: list[Case] = [
    *(
        (f"template {text}", template(text), "")
        for text in (
            *("/", "/a/", "/**/a", "/*/**", "/{x=**}/a", "/{x}/**", "/{x}.html", "/{x}.h/a", "/a{x}", "/a*", "/*a"),
            *("/{x=a/*}", "/{x=a/**}/b", "/{x=*}", "/{x==*}", "/{a1_}", "/{aaaaaaaaaaaaaaaa}", "/***", "/a**", "/**.m"),
            *("/*.m", "/{x}*", "/a%20b", "/{x=a}", "/a/{x=**}.m3u8", "/a:b@c!$&'()+,;=~_-."),
        )
    ),
    *(
        (f"template {text}", template(text), TEMPLATE_AT)
        for text in (
            *("/**/{x}", "/**/*", "/**/**", "/{x=**}/{y}", "/{x=**}/*", "/{x=}", "/{}", "/{1a}", "/{a-b}", "/{ x }"),
            *("/{aaaaaaaaaaaaaaaaa}", "a", "//", "/a//b", "/{x}{y}", "/{x}.{y}", "/{x", "/x}", "/{x={y}}", "/a b"),
            *("/ü", "/a?b", "/a#b"),
        )
    ),
    *(
        (f"rewrite {text}", rewritten(text), "")
        for text in ("/{x}{y}", "/{x}.{y}", "/{x}/**", "/*", "/", "/{x}-{y}", "/{x}y")
    ),
    *(
        (f"rewrite {text}", rewritten(text), REWRITE_AT)
        for text in ("/{x=*}", "x", "/{x", "/a//b", "//", "/ü", "/a b", "/}")
    ),
    (
        "rewrite-in-struct",
        templates(MATCHING_STRUCT, in_struct(TEMPLATE_REWRITE, path_template_rewrite="/{x}")),
        "",
    ),
    ("rewrite-of-struct", templates(MATCHING_STRUCT, {"@type": TEMPLATE_REWRITE, "path_template_rewrite": "/{x}"}), ""),
    (
        "rewrite-in-struct-unknown",
        templates(MATCHING_STRUCT, in_struct(TEMPLATE_REWRITE, path_template_rewrite="/{y}")),
        REWRITE_AT.replace("typed_config.", "typed_config.value."),
    ),
]

# --- Addresses -------------------------------------------------------------------------------------------------------

SOURCE = {"address": "127.0.0.1", "port_value": 0}
SIXTH = {"address": "::1", "port_value": 0}
HOST = "load_assignment.endpoints[0].lb_endpoints[0].endpoint"


def assigned(endpoint: r.Json) -> r.Json:
    return {"cluster_name": "x", "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]}


def bound(**fields: Any) -> r.Json:
    return static_cluster("x", upstream_bind_config=fields)


def extra(*addresses: r.Json) -> list[r.Json]:
    return [{"address": each} for each in addresses]


UNRESOLVED = address(resolver_name="foo")
EXTRA_AT = "upstream_bind_config.extra_source_addresses"
ADDRESS_CASES: list[Case] = [
    (
        "resolver-of-endpoint",
        static_cluster("x", load_assignment=assigned({"address": UNRESOLVED})),
        f"{HOST}.address.socket_address.resolver_name",
    ),
    (
        "resolver-of-check",
        static_cluster(
            "x", load_assignment=assigned({"address": address(), "health_check_config": {"address": UNRESOLVED}})
        ),
        f"{HOST}.health_check_config.address.socket_address.resolver_name",
    ),
    (
        "resolver-of-eds",
        {"@type": r.ENDPOINTS, **assigned({"address": UNRESOLVED}), "cluster_name": "e"},
        "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.resolver_name",
    ),
    ("resolver-of-listener", listener(hcm(), address=UNRESOLVED), "address.socket_address.resolver_name"),
    (
        "resolver-of-dns",
        static_cluster("x", type="STRICT_DNS", dns_resolvers=[address("1.1.1.1", resolver_name="foo")]),
        "dns_resolvers[0].socket_address.resolver_name",
    ),
    (
        "resolver-of-source",
        bound(source_address=SOURCE | {"resolver_name": "x"}),
        "upstream_bind_config.source_address.resolver_name",
    ),
    ("source-extra", bound(source_address=SOURCE, extra_source_addresses=extra(SIXTH)), ""),
    (
        "source-extra-name",
        bound(source_address=SIXTH, extra_source_addresses=extra(SOURCE | {"address": "foo"})),
        f"{EXTRA_AT}[0].address.address",
    ),
    (
        "source-extra-resolver",
        bound(source_address=SOURCE, extra_source_addresses=extra(SIXTH | {"resolver_name": "x"})),
        f"{EXTRA_AT}[0].address.resolver_name",
    ),
    (
        "source-extra-two",
        bound(source_address=SOURCE, extra_source_addresses=extra(SIXTH, SIXTH | {"address": "::2"})),
        f"{EXTRA_AT}[1].address",
    ),
    (
        "source-extra-of-version",
        bound(source_address=SOURCE, extra_source_addresses=extra(SOURCE)),
        f"{EXTRA_AT}[0].address",
    ),
    ("source-extra-alone", bound(extra_source_addresses=extra(SIXTH)), "upstream_bind_config.source_address"),
    ("source-additional", bound(source_address=SOURCE, additional_source_addresses=[SIXTH]), ""),
    (
        "source-both",
        bound(source_address=SOURCE, additional_source_addresses=[SIXTH], extra_source_addresses=extra(SIXTH)),
        "upstream_bind_config.additional_source_addresses",
    ),
]

# --- Listeners -------------------------------------------------------------------------------------------------------

QUIC = {"udp_listener_config": {"quic_options": {}}}
MANAGER = "filter_chains[0].filters[0].typed_config"


def without_chains(**fields: Any) -> r.Json:
    return {"@type": r.LISTENER, "name": "l"} | fields


def manager_in_struct(**fields: Any) -> r.Json:
    value = hcm(**fields)["typed_config"]
    return {"name": "hcm", "typed_config": in_struct(value.pop("@type"), **value)}


LISTENER_CASES: list[Case] = [
    ("quic-without-chains", without_chains(address=address(protocol="UDP"), **QUIC), "filter_chains"),
    ("quic-on-tcp", listener(hcm(codec_type="HTTP3"), **QUIC), ""),
    ("quic-on-tcp-http2", listener(hcm(), **QUIC), f"{MANAGER}.codec_type"),
    ("quic-on-tcp-proxy", listener(TCP, **QUIC), ""),
    ("http3-in-struct", listener(manager_in_struct(codec_type="HTTP3")), f"{MANAGER}.value.codec_type"),
    ("http1-in-struct", listener(manager_in_struct()), ""),
    ("internal-without-chains", without_chains(internal_listener={}), "filter_chains"),
    (
        "internal-additional",
        without_chains(
            internal_listener={}, filter_chains=[{"filters": [TCP]}], additional_addresses=[{"address": address()}]
        ),
        "additional_addresses",
    ),
]

FRESH = {"quic-on-tcp", "quic-on-tcp-http2"}
"""Listeners that Envoy judges otherwise if they replace one that differs in its chains and in this alone."""

# --- Filters and their configuration in routes -----------------------------------------------------------------------

WRAPPER = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
HTTP = r.TYPE + "envoy.extensions.filters.http."
BUFFER = {"@type": HTTP + "buffer.v3.BufferPerRoute", "disabled": True}
PER_FILTER = 'virtual_hosts[0].routes[0].typed_per_filter_config["f"]'
FILTER = f"{MANAGER}.http_filters[0].typed_config"
JWKS = f'{FILTER}.providers["p"].local_jwks.inline_string'
JWK = '{"kty": "oct", "alg": "HS256", "kid": "1", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}'
NO_TYPE = {"@type": r.TYPE + "xds.type.v3.TypedStruct", "value": {"a": 1}}
BALANCED = {"@type": r.TYPE + "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"}


def per_route(config: r.Json) -> r.Json:
    return route(typed_per_filter_config={"f": config})


def wrapped(config: r.Json, **fields: Any) -> r.Json:
    return per_route({"@type": WRAPPER, "config": config, **fields})


def http(*filters: r.Json) -> r.Json:
    return listener(hcm(*filters, typed("router", r.ROUTER)))


def jwks(text: str) -> r.Json:
    provider = {"issuer": "i", "local_jwks": {"inline_string": text}}
    return http(typed("jwt", HTTP + "jwt_authn.v3.JwtAuthentication", providers={"p": provider}))


def arn(text: str) -> r.Json:
    return http(typed("l", HTTP + "aws_lambda.v3.Config", arn=text))


def users(text: str) -> r.Json:
    return http(typed("b", HTTP + "basic_auth.v3.BasicAuth", users={"inline_string": text}))


def policies(*configs: r.Json, **fields: Any) -> r.Json:
    made = [{"typed_extension_config": {"name": "p", "typed_config": each}} for each in configs]
    return static_cluster("x", load_balancing_policy={"policies": made}, **fields)


def grpc_checked(options: r.Json) -> r.Json:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    times = {"timeout": "1s", "interval": "1s", "healthy_threshold": 1, "unhealthy_threshold": 1}
    return static_cluster(
        "x",
        health_checks=[{**times, "grpc_health_check": {}}],
        typed_extension_protocol_options={name: in_struct(r.TYPE + name, **options)},
    )


def added(value: str) -> r.Json:
    return route(request_headers_to_add=[{"header": {"key": "x-a", "value": value}}])


LENIENT_JWKS = (
    *(f"{{'keys': [{JWK}]}}", f"{{keys: [{JWK}]}}", f'{{"keys": [{JWK}],}}', f'{{"keys": [1, {JWK}]}}'),
    *(f'{{"\\u006beys": [{JWK}]}}', f'{{"keys": [{JWK}]}}'.replace('"1"', '"1\t"')),
)
"""What protobuf's parser of JSON takes beside JSON."""
ADDED_AT = "virtual_hosts[0].routes[0].request_headers_to_add[0].header.value"
HTTP2: r.Json = {"explicit_http_config": {"http2_protocol_options": {}}}
FILTER_CASES: list[Case] = [
    *(
        (f"disabled-{config['@type'].rpartition('.')[2]}", wrapped(config, disabled=True), "")
        for config in (
            *({"@type": r.ROUTER}, {"@type": WRAPPER}),
            {"@type": HTTP + "ext_authz.v3.ExtAuthz", "transport_api_version": "V2"},
            {"@type": r.TYPE + "envoy.extensions.filters.network.echo.v3.Echo"},
            {"@type": HTTP + "buffer.v3.BufferPerRoute", "buffer": {"max_request_bytes": 0}},
        )
    ),
    ("wrapped-empty", wrapped({}), ""),
    (
        "wrapped-zero",
        wrapped({"@type": BUFFER["@type"], "buffer": {"max_request_bytes": 0}}),
        f"{PER_FILTER}.config.buffer.max_request_bytes",
    ),
    ("wrapped-twice", wrapped({"@type": WRAPPER, "config": BUFFER}), f"{PER_FILTER}.config"),
    ("wrapped-twice-optional", wrapped({"@type": WRAPPER, "config": BUFFER}, is_optional=True), ""),
    (
        "bucket-in-struct",
        per_route(in_struct(HTTP + "local_ratelimit.v3.LocalRateLimit", stat_prefix="s")),
        f"{PER_FILTER}.value.token_bucket",
    ),
    ("headers-empty", per_route({"@type": HTTP + "header_to_metadata.v3.Config"}), PER_FILTER),
    (
        "headers-empty-optional",
        wrapped({"@type": HTTP + "header_to_metadata.v3.Config"}, is_optional=True),
        f"{PER_FILTER}.config",
    ),
    ("headers-empty-in-listener", http(typed("h", HTTP + "header_to_metadata.v3.Config")), ""),
    ("json-empty", per_route(in_struct(HTTP + "json_to_metadata.v3.JsonToMetadata")), f"{PER_FILTER}.value"),
    ("struct-without-type", http({"name": "f", "typed_config": NO_TYPE}), f"{FILTER}.type_url"),
    ("struct-without-type-optional", http({"name": "f", "typed_config": NO_TYPE, "is_optional": True}), ""),
    ("struct-without-type-in-route", per_route(NO_TYPE), f"{PER_FILTER}.type_url"),
    ("struct-without-type-tried", policies(NO_TYPE, BALANCED), ""),
    (
        "struct-with-a-long-type",
        policies(in_struct("type.googleapis.com/" + "a/" * 100 + BALANCED["@type"].rpartition("/")[2])),
        "",
    ),
    ("options-in-struct", grpc_checked(HTTP2), ""),
    (
        "options-in-struct-http1",
        grpc_checked({"explicit_http_config": {"http_protocol_options": {}}}),
        "health_checks[0].grpc_health_check",
    ),
    (
        "socket-match-without-socket",
        static_cluster("x", transport_socket_matches=[{"name": "a", "match": {}}]),
        "transport_socket_matches[0].transport_socket",
    ),
    ("subset-empty-and-policy", policies(BALANCED, lb_subset_config={}), "lb_subset_config"),
    *((f"jwks {number}", jwks(text), "") for number, text in enumerate(LENIENT_JWKS)),
    *(
        (f"jwks {text}", jwks(text), JWKS)
        for text in ("x", "[]", "{}", "{a: 1}", '{"keys": [1]}', '{"keys": [[]]}', "null", '{"keys": []}', "{")
    ),
    *((f"arn {text}", arn(text), "") for text in ("arn:aws:lambda:r:1:function:", "arn:aws:lambda:r:1::a")),
    ("arn-short", arn("arn:aws:lambda:r:1:function"), f"{FILTER}.arn"),
    ("users-none", users(""), f"{FILTER}.users.inline_string"),
    ("users-comment", users("# a"), ""),
    ("users-hash-of-bytes", users("u:{SHA}" + "a" * 26 + "ä"), ""),
    (
        "users-none-in-route",
        per_route({"@type": HTTP + "basic_auth.v3.BasicAuthPerRoute", "users": {"inline_string": ""}}),
        "",
    ),
    ("format-length", added(f"%REQ(a):{2**64 - 1}%"), ""),
    ("format-length-zeros", added(f"%REQ(a):{'0' * 30}5%"), ""),
    ("format-length-large", added(f"%REQ(a):{2**64}%"), ADDED_AT),
    ("format-length-huge", added(f"%REQ(a):{'9' * 9_999}%"), ADDED_AT),
    ("format-of-first", added('%COALESCE({"operators": ["PROTOCOL"]})%'), ""),
    (
        "format-of-first-stream",
        added('%COALESCE({"operators": [{"command": "PER_REQUEST_STATE", "param": "a"}]})%'),
        ADDED_AT,
    ),
]
CASES = [
    *(*REGEX_CASES, *LETTER_CASES, *BODY_CASES, *CHAIN_CASES, *TEMPLATE_CASES, *ADDRESS_CASES, *LISTENER_CASES),
    *FILTER_CASES,
]
