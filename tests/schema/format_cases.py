"""Cases of format strings and headers in each field that has them: a name, a resource, and the field of the problem."""

from typing import Any

from support import resources as r
from support.static_envoy import address, hcm, listener, static_cluster, typed, virtual_host

Case = tuple[str, r.Json, str]

HTTP = r.TYPE + "envoy.extensions.filters.http."
NETWORK = r.TYPE + "envoy.extensions.filters.network."
LOG = r.TYPE + "envoy.extensions.access_loggers."
TRACE = r.TYPE + "envoy.config.trace.v3."
RESPONSES = r.TYPE + "envoy.extensions.http.custom_response."
ROUTER = typed("router", r.ROUTER)
TCP = typed("tcp", r.TCP_PROXY, stat_prefix="t", cluster="c")
HCM = "filter_chains[0].filters[0].typed_config"
FILTER = f"{HCM}.http_filters[0].typed_config"
LOGGER = f"{HCM}.access_log[0].typed_config"
ROUTE = f"{HCM}.route_config.virtual_hosts[0].routes[0]"
GOOD, WRONG = "%PROTOCOL%", "%BOGUS%"
TO_C: r.Json = {"match": {"prefix": "/"}, "route": {"cluster": "c"}}


def http(kind: str, **fields: Any) -> r.Json:
    return listener(hcm(typed("x", HTTP + kind, **fields), ROUTER))


def logged(kind: str, **fields: Any) -> r.Json:
    return listener(hcm(access_log=[typed("l", LOG + kind, **fields)]))


def routed(**fields: Any) -> r.Json:
    return listener(hcm(route_config={"virtual_hosts": [virtual_host(routes=[TO_C | fields])]}))


def redirected(**fields: Any) -> r.Json:
    route = {"match": {"prefix": "/"}, "redirect": fields}
    return listener(hcm(route_config={"virtual_hosts": [virtual_host(routes=[route])]}))


def traced(provider: r.Json | None = None, **fields: Any) -> r.Json:
    zipkin = {"collector_cluster": "c", "collector_endpoint": "/a", "collector_endpoint_version": "HTTP_JSON"}
    return listener(hcm(tracing={"provider": provider or typed("z", TRACE + "ZipkinConfig", **zipkin), **fields}))


def header(value: str = GOOD, key: str = "x-a", **fields: Any) -> r.Json:
    return {"header": {"key": key, "value": value}, **fields}


def mutated(**mutation: Any) -> r.Json:
    return http("header_mutation.v3.HeaderMutation", mutations={"request_mutations": [mutation]})


def parameter(**mutation: Any) -> r.Json:
    return http("header_mutation.v3.HeaderMutation", mutations={"query_parameter_mutations": [mutation]})


def tunnelled(**fields: Any) -> r.Json:
    tunnel = {"hostname": "a:1", **fields}
    return listener(typed("t", r.TCP_PROXY, stat_prefix="s", cluster="c", tunneling_config=tunnel))


def udp_tunnelled(**fields: Any) -> r.Json:
    tunnel = {"proxy_host": "a", "target_host": "b", "default_target_port": 443, **fields}
    kind = r.TYPE + "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig"
    proxy = typed("u", kind, stat_prefix="s", cluster="c", tunneling_config=tunnel)
    return {"@type": r.LISTENER, "name": "l", "address": address(protocol="UDP"), "listener_filters": [proxy]}


def telemetry(**fields: Any) -> r.Json:
    service = {"http_uri": {"uri": "http://a/v1", "cluster": "c", "timeout": "1s"}}
    return logged("open_telemetry.v3.OpenTelemetryAccessLogConfig", **({"http_service": service} | fields))


def text(value: str) -> r.Json:
    return {"string_value": value}


def fluentd(record: r.Json) -> r.Json:
    return logged("fluentd.v3.FluentdAccessLogConfig", cluster="c", tag="t", stat_prefix="s", record=record)


def counted(**fields: Any) -> r.Json:
    return logged("stats.v3.Config", stat_prefix="s", counters=[{"stat": {"name": "a"}, **fields}])


def limited(value: str) -> r.Json:
    service = {"transport_api_version": "V3", "grpc_service": {"envoy_grpc": {"cluster_name": "c"}}}
    descriptors = [{"entries": [{"key": "a", "value": value}]}]
    kind = NETWORK + "ratelimit.v3.RateLimit"
    return listener(
        typed("r", kind, stat_prefix="s", domain="d", descriptors=descriptors, rate_limit_service=service), TCP
    )


def local_limit(**fields: Any) -> r.Json:
    bucket = {"max_tokens": 1, "fill_interval": "1s"}
    return http("local_ratelimit.v3.LocalRateLimit", stat_prefix="s", token_bucket=bucket, **fields)


def global_limit(**fields: Any) -> r.Json:
    service = {"transport_api_version": "V3", "grpc_service": {"envoy_grpc": {"cluster_name": "c"}}}
    return http("ratelimit.v3.RateLimit", domain="d", rate_limit_service=service, **fields)


def authorized(*headers: r.Json) -> r.Json:
    server = {"uri": "http://127.0.0.1:9000", "cluster": "c", "timeout": "1s"}
    service = {"server_uri": server, "authorization_request": {"headers_to_add": [each["header"] for each in headers]}}
    return http("ext_authz.v3.ExtAuthz", http_service=service)


def service(*headers: r.Json) -> r.Json:
    uri = {"uri": "http://a/b", "cluster": "c", "timeout": "1s"}
    return {"http_uri": uri, "request_headers_to_add": list(headers)}


def processed(*headers: r.Json) -> r.Json:
    return http("ext_proc.v3.ExternalProcessor", http_service={"http_service": service(*headers)})


def oauth2(**fields: Any) -> r.Json:
    def secret(name: str) -> r.Json:
        return {"name": name, "sds_config": {"path_config_source": {"path": "/dev/null"}}}

    config = {
        "token_endpoint": {"cluster": "c", "uri": "https://o/token", "timeout": "3s"},
        "authorization_endpoint": "https://o/auth",
        "redirect_uri": "%REQ(x-forwarded-proto)%://%REQ(:authority)%/callback",
        "redirect_path_matcher": {"path": {"exact": "/callback"}},
        "signout_path": {"path": {"exact": "/signout"}},
        "credentials": {"client_id": "foo", "token_secret": secret("token"), "hmac_secret": secret("hmac")},
    }
    return http("oauth2.v3.OAuth2", config=config | fields)


def responded(kind: str, **fields: Any) -> r.Json:
    action = typed("a", RESPONSES + kind, **fields)
    return http("custom_response.v3.CustomResponse", custom_response_matcher={"on_no_match": {"action": action}})


def replied(**fields: Any) -> r.Json:
    comparison = {"op": "EQ", "value": {"default_value": 400, "runtime_key": "k"}}
    mapper = {"filter": {"status_code_filter": {"comparison": comparison}}, **fields}
    return listener(hcm(local_reply_config={"mappers": [mapper]}))


def checked(**fields: Any) -> r.Json:
    times = {"timeout": "1s", "interval": "1s", "healthy_threshold": 1, "unhealthy_threshold": 1}
    return static_cluster("x", http2_protocol_options={}, health_checks=[times | fields])


def reverse(**fields: Any) -> r.Json:
    kind = r.TYPE + "envoy.extensions.clusters.reverse_connection.v3.ReverseConnectionClusterConfig"
    made = typed("envoy.clusters.reverse_connection", kind, **({"host_id_format": "%REQ(x)%"} | fields))
    return {"@type": r.CLUSTER, "name": "x", "lb_policy": "CLUSTER_PROVIDED", "cluster_type": made}


def authz_grpc(value: str) -> r.Json:
    metadata = [{"key": "a", "value": value}]
    common = {
        "log_name": "l",
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "c"}, "initial_metadata": metadata},
    }
    return logged("grpc.v3.HttpGrpcAccessLogConfig", common_config=common)


WRONG_HEADER = header(WRONG)
BOTH = header(append=True, append_action="ADD_IF_ABSENT")
MUTATION = f"{FILTER}.mutations.request_mutations[0]"
PARAMETER = f"{FILTER}.mutations.query_parameter_mutations[0]"
RESPONSE = f"{FILTER}.custom_response_matcher.on_no_match.action.typed_config"
UDP_TUNNEL = "listener_filters[0].typed_config.tunneling_config"
HTTP_CHECK = "health_checks[0].http_health_check"
ADDED = "request_headers_to_add[0].header"

CASES: list[Case] = [
    ("format-mutation", mutated(append=header("%REQ(x)%")), ""),
    ("format-mutation-value", mutated(append=WRONG_HEADER), f"{MUTATION}.append.header.value"),
    ("format-mutation-path", mutated(append=header("x", ":path")), f"{MUTATION}.append.header.key"),
    ("format-mutation-host", mutated(append=header("x", "Host")), f"{MUTATION}.append.header.key"),
    ("format-mutation-both", mutated(append=BOTH), f"{MUTATION}.append.append_action"),
    ("format-mutation-removed", mutated(remove="host"), ""),
    ("format-parameter", parameter(append={"record": {"key": "%", "value": "%REQ(x)%"}}), ""),
    ("format-parameter-removed", parameter(remove="host"), ""),
    (
        "format-parameter-value",
        parameter(append={"record": {"key": "a", "value": WRONG}}),
        f"{PARAMETER}.append.record.value",
    ),
    (
        "format-parameter-number",
        parameter(append={"record": {"key": "a", "value": 5}}),
        f"{PARAMETER}.append.record.value",
    ),
    ("format-parameter-nothing", parameter(), PARAMETER),
    ("format-parameter-no-record", parameter(append={}), f"{PARAMETER}.append.record"),
    ("format-parameter-two", parameter(remove="a", append={"record": {"key": "a", "value": "b"}}), PARAMETER),
    ("format-append", routed(request_headers_to_add=[header(append=True)]), ""),
    (
        "format-append-both",
        routed(request_headers_to_add=[BOTH]),
        f"{ROUTE}.request_headers_to_add[0].append_action",
    ),
    ("format-header-generic", routed(request_headers_to_add=[header("%HOST%")]), f"{ROUTE}.{ADDED}.value"),
    ("format-tunnel", tunnelled(headers_to_add=[header()]), ""),
    (
        "format-tunnel-value",
        tunnelled(headers_to_add=[WRONG_HEADER]),
        f"{HCM}.tunneling_config.headers_to_add[0].header.value",
    ),
    (
        "format-tunnel-host",
        tunnelled(headers_to_add=[header("a", "host")]),
        f"{HCM}.tunneling_config.headers_to_add[0].header.key",
    ),
    ("format-udp", udp_tunnelled(proxy_host=GOOD, target_host=GOOD), ""),
    ("format-udp-proxy", udp_tunnelled(proxy_host=WRONG), f"{UDP_TUNNEL}.proxy_host"),
    ("format-udp-target", udp_tunnelled(target_host=WRONG), f"{UDP_TUNNEL}.target_host"),
    ("format-udp-header", udp_tunnelled(headers_to_add=[WRONG_HEADER]), f"{UDP_TUNNEL}.headers_to_add[0].header.value"),
    ("format-otel", telemetry(body=text(GOOD), attributes={"values": [{"key": WRONG, "value": text(GOOD)}]}), ""),
    ("format-otel-resource", telemetry(resource_attributes={"values": [{"key": "a", "value": text(WRONG)}]}), ""),
    ("format-otel-body", telemetry(body=text(WRONG)), f"{LOGGER}.body.string_value"),
    (
        "format-otel-attribute",
        telemetry(attributes={"values": [{"key": "a", "value": text(WRONG)}]}),
        f"{LOGGER}.attributes.values[0].value.string_value",
    ),
    (
        "format-otel-list",
        telemetry(
            body={"kvlist_value": {"values": [{"key": "a", "value": {"array_value": {"values": [text(WRONG)]}}}]}}
        ),
        f"{LOGGER}.body.kvlist_value.values[0].value.array_value.values[0].string_value",
    ),
    ("format-otel-number", telemetry(body={"int_value": "5"}), f"{LOGGER}.body"),
    (
        "format-otel-header",
        telemetry(http_service=service(WRONG_HEADER)),
        f"{LOGGER}.http_service.{ADDED}.value",
    ),
    ("format-fluentd", fluentd({"a": GOOD, "b": 5}), ""),
    ("format-fluentd-value", fluentd({"a": {"b": [WRONG]}}), f'{LOGGER}.record["a"]["b"][0]'),
    ("format-stats", counted(value_format="%BYTES_SENT%"), ""),
    ("format-stats-value", counted(value_format=WRONG), f"{LOGGER}.counters[0].value_format"),
    (
        "format-stats-tag",
        counted(stat={"name": "a", "tags": [{"name": "t", "value_format": WRONG}]}, value_fixed=1),
        f"{LOGGER}.counters[0].stat.tags[0].value_format",
    ),
    ("format-limit", limited("%DOWNSTREAM_REMOTE_ADDRESS%"), ""),
    ("format-limit-value", limited(WRONG), f"{HCM}.descriptors[0].entries[0].value"),
    ("format-local-limit", local_limit(response_headers_to_add=[header()]), ""),
    (
        "format-local-limit-value",
        local_limit(response_headers_to_add=[WRONG_HEADER]),
        f"{FILTER}.response_headers_to_add[0].header.value",
    ),
    (
        "format-local-limit-request",
        local_limit(request_headers_to_add_when_not_enforced=[WRONG_HEADER]),
        f"{FILTER}.request_headers_to_add_when_not_enforced[0].header.value",
    ),
    (
        "format-global-limit",
        global_limit(response_headers_to_add=[WRONG_HEADER]),
        f"{FILTER}.response_headers_to_add[0].header.value",
    ),
    ("format-authz", authorized(header()), ""),
    (
        "format-authz-value",
        authorized(WRONG_HEADER),
        f"{FILTER}.http_service.authorization_request.headers_to_add[0].value",
    ),
    (
        "format-authz-host",
        authorized(header("a", "host")),
        f"{FILTER}.http_service.authorization_request.headers_to_add[0].key",
    ),
    ("format-processor", processed(header("a", ":path"), BOTH), ""),
    ("format-processor-value", processed(WRONG_HEADER), f"{FILTER}.http_service.http_service.{ADDED}.value"),
    ("format-oauth2", oauth2(), ""),
    ("format-oauth2-redirect", oauth2(redirect_uri=WRONG), f"{FILTER}.config.redirect_uri"),
    ("format-oauth2-original", oauth2(original_request_uri=WRONG), f"{FILTER}.config.original_request_uri"),
    (
        "format-response",
        responded("local_response_policy.v3.LocalResponsePolicy", response_headers_to_add=[WRONG_HEADER]),
        f"{RESPONSE}.response_headers_to_add[0].header.value",
    ),
    (
        "format-redirect-policy",
        responded("redirect_policy.v3.RedirectPolicy", uri="https://foo/x", request_headers_to_add=[WRONG_HEADER]),
        f"{RESPONSE}.{ADDED}.value",
    ),
    (
        "format-reply-host",
        replied(headers_to_add=[header("a", "host")]),
        f"{HCM}.local_reply_config.mappers[0].headers_to_add[0].header.key",
    ),
    ("format-trace", traced(operation="%REQ(:path)%", custom_tags=[{"tag": "%", "value": "%REQ(x)%"}]), ""),
    ("format-trace-literal", traced(custom_tags=[{"tag": "a", "literal": {"value": WRONG}}]), ""),
    ("format-trace-operation", traced(operation=WRONG), f"{HCM}.tracing.operation"),
    ("format-trace-upstream", traced(upstream_operation=WRONG), f"{HCM}.tracing.upstream_operation"),
    (
        "format-trace-tag",
        traced(custom_tags=[{"tag": "a", "value": WRONG}]),
        f"{HCM}.tracing.custom_tags[0].value",
    ),
    (
        "format-trace-otel",
        traced(typed("o", TRACE + "OpenTelemetryConfig", http_service=service(WRONG_HEADER))),
        f"{HCM}.tracing.provider.typed_config.http_service.{ADDED}.value",
    ),
    (
        "format-trace-zipkin",
        traced(
            typed(
                "z",
                TRACE + "ZipkinConfig",
                collector_service=service(WRONG_HEADER),
                collector_endpoint_version="HTTP_JSON",
            )
        ),
        f"{HCM}.tracing.provider.typed_config.collector_service.{ADDED}.value",
    ),
    ("format-route-trace", routed(tracing={"operation": WRONG}), f"{ROUTE}.tracing.operation"),
    ("format-decorator", routed(decorator={"operation": WRONG}), ""),
    ("format-redirect", redirected(path_rewrite="/%REQ(x)%"), ""),
    ("format-redirect-path", redirected(path_redirect=WRONG), ""),
    ("format-redirect-rewrite", redirected(path_rewrite=WRONG), f"{ROUTE}.redirect.path_rewrite"),
    ("format-check", checked(http_health_check={"path": "/", "request_headers_to_add": [header()]}), ""),
    (
        "format-check-value",
        checked(http_health_check={"path": "/", "request_headers_to_add": [WRONG_HEADER]}),
        f"{HTTP_CHECK}.{ADDED}.value",
    ),
    (
        "format-check-host",
        checked(http_health_check={"path": "/", "request_headers_to_add": [header("a", "host")]}),
        f"{HTTP_CHECK}.{ADDED}.key",
    ),
    (
        "format-check-removed",
        checked(http_health_check={"path": "/", "request_headers_to_remove": ["host"]}),
        f"{HTTP_CHECK}.request_headers_to_remove[0]",
    ),
    (
        "format-check-grpc",
        checked(grpc_health_check={"initial_metadata": [WRONG_HEADER]}),
        "health_checks[0].grpc_health_check.initial_metadata[0].header.value",
    ),
    ("format-reverse", reverse(), ""),
    ("format-reverse-host", reverse(host_id_format=WRONG), "cluster_type.typed_config.host_id_format"),
    ("format-reverse-tenant", reverse(tenant_id_format=WRONG), "cluster_type.typed_config.tenant_id_format"),
    (
        "format-copied",
        routed(route={"cluster": "c", "internal_redirect_policy": {"response_headers_to_copy": ["x"]}}),
        "",
    ),
    (
        "format-copied-path",
        routed(route={"cluster": "c", "internal_redirect_policy": {"response_headers_to_copy": [":path"]}}),
        f"{ROUTE}.route.internal_redirect_policy.response_headers_to_copy[0]",
    ),
    ("format-grpc", authz_grpc("%HOSTNAME%"), ""),
    (
        "format-grpc-value",
        authz_grpc(WRONG),
        f"{LOGGER}.common_config.grpc_service.initial_metadata[0].value",
    ),
]

CRASHES_LIVE = {"format-grpc-value"}
"""Cases that ``--mode validate`` refuses, and which end an Envoy 1.40 that runs, now and then."""

PARAMETERS = (
    *("%PROTOCOL()%", "%PROTOCOL(a)%", "%PROTOCOL:5%", "%BYTES_SENT(1)%", "%DOWNSTREAM_REMOTE_ADDRESS(MASK:24)%"),
    *("%REQ(a?b)%", "%REQ(a?b?c)%", "%REQ(?b)%", "%REQ(a b)%", "%REQ(:path?:x)%", "%REQ(a:b)%", "%REQ(a):5%"),
    *("%RESP(a?b?c)%", "%TRAILER(a?b?c)%", "%STREAM_INFO_REQ(a/b)%", "%QUERY_PARAM(a?b c)%", "%ENVIRONMENT(a=b):5%"),
    *("%METADATA(FOO:a)%", "%METADATA(DYNAMIC:a)%", "%METADATA(ROUTE)%", "%METADATA(LISTENER_FILTER_CHAIN:a:b):5%"),
    *("%FILTER_STATE(k)%", "%FILTER_STATE(k:)%", "%FILTER_STATE(k:PLAIN):5%", "%FILTER_STATE(k:BOGUS)%"),
    *("%FILTER_STATE(:PLAIN)%", "%FILTER_STATE(k:FIELD)%", "%FILTER_STATE(k:FIELD:a:b)%", "%FILTER_STATE(k:TYPED:a)%"),
    *("%UPSTREAM_FILTER_STATE(k:BOGUS)%", "%CLUSTER_METADATA(:)%", "%CLUSTER_METADATA(a):5%"),
    *("%COMMON_DURATION(A)%", "%COMMON_DURATION(A:B)%", "%COMMON_DURATION(A:B:ms)%", "%COMMON_DURATION(A:B:s)%"),
    *("%COMMON_DURATION(A:B:us:x)%", "%COMMON_DURATION(A:B:ns):5%", "%COMMON_DURATION(A:B:)%"),
    *("%GRPC_STATUS(FOO)%", "%GRPC_STATUS(NUMBER)%", "%GRPC_STATUS:3%", "%GRPC_STATUS_NUMBER(a)%"),
    *("%PATH(FOO)%", "%PATH(WQ:ORIG):5%", "%PATH(:PATH)%", "%PATH(WQ:x)%", "%PATH(NQ:PATH:x)%", "%PATH:5%"),
    *("%QUERY_PARAMS(RAW)%", "%QUERY_PARAMS(ORIG):5%", "%QUERY_PARAMS%"),
    *("%REQUESTED_SERVER_NAME(zzz)%", "%REQUESTED_SERVER_NAME(SNI_FIRST:HOST)%", "%REQUESTED_SERVER_NAME(SNI_ONLY):5%"),
    *("%XFCC_VALUE(uri):5%", "%XFCC_VALUE(x)%", "%START_TIME(%E)%", "%START_TIME(%Y):5%", "%START_TIME(\n)%"),
    *("%RESPONSE_CODE_DETAILS(a)%", "%RESPONSE_CODE_DETAILS:5%", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(a)%"),
    *("%CEL(1)%", "%TYPED_CEL(1):5%", "%HOST%", "%PER_REQUEST_STATE(a)%"),
    *("%COALESCE(x)%", "%COALESCE({})%", '%COALESCE({"operators": []})%', '%COALESCE({"operators": ["PROTOCOL"]}):5%'),
    *(
        f'%COALESCE({{"operators": [{operator}]}})%'
        for operator in (
            *('"NOPE"', '"REQ"', '""', "5", "null", '{"param": "a"}', '{"command": "REQ", "param": 5}'),
            *('{"command": "REQ", "param": "a", "x": 1}', '{"command": "REQ", "param": "a?b?c"}'),
            *('{"command": "REQ", "param": "a", "max_length": 0}', '{"command": "REQ", "param": "a", "max_length": 5}'),
            *('{"command": "PROTOCOL", "param": "a"}', '{"command": "REQ", "param": "a", "max_length": "5"}'),
            r'{"command": "COALESCE", "param": "{\"operators\": [\"PROTOCOL\"]}"}',
            r'{"command": "COALESCE", "param": "{\"operators\": [\"NOPE\"]}"}',
        )
    ),
)
"""Formats of logs about whose parameters a real Envoy is asked."""
