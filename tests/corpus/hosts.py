"""Where an extension of each category stands in a resource: a listener, a cluster or routes around it."""

import re
from collections.abc import Callable
from typing import Any

from support import resources as r

Json = dict[str, Any]
Host = Callable[[Json], tuple[str, Json]]
"""Makes a resource of a kind (``listeners``) around an extension: its ``name`` and ``typed_config``."""

E = r.TYPE + "envoy.extensions."
ROUTER = {"name": "router", "typed_config": {"@type": r.ROUTER}}
TCP = {"name": "tcp", "typed_config": {"@type": r.TCP_PROXY, "stat_prefix": "tcp", "cluster": "backend"}}
STDOUT = {"name": "stdout", "typed_config": {"@type": E + "access_loggers.stream.v3.StdoutAccessLog"}}
TERMINAL = re.compile(
    r"\.(HttpConnectionManager|DrainAwareHttpConnectionManager|TcpProxy|RedisProxy|ThriftProxy|DubboProxy|GenericProxy|Echo"
    r"|ReverseTunnel|network\.direct_response\.v3\.Config)$"
)
PER_ROUTE = re.compile(r"(PerRoute|PerRouteConfig|Override|CorsPolicy)$")
"""Types of HTTP filters that stand in routes."""


def typed(full_name: str, **fields: Any) -> Json:
    """Return a typed config."""
    return {"@type": r.TYPE + full_name, **fields}


def named(full_name: str, **fields: Any) -> Json:
    """Return an extension: a name and a typed config."""
    return {"name": full_name, "typed_config": typed(full_name, **fields)}


def listener(*filters: Json, chain: Json | None = None, **fields: Any) -> tuple[str, Json]:
    """Return a TCP listener with one filter chain."""
    chains = [{"filters": list(filters), **(chain or {})}]
    return "listeners", {"name": "hosting", "address": r.address(0), "filter_chains": chains, **fields}


def http(*filters: Json, vhost: Json | None = None, route: Json | None = None, **fields: Any) -> tuple[str, Json]:
    """Return a listener whose HTTP connection manager has these filters before the router."""
    only = {"match": {"prefix": "/"}, "route": {"cluster": "backend"}, **(route or {})}
    routes = {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [only], **(vhost or {})}]}
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        **{"stat_prefix": "http", "route_config": routes, "http_filters": [*filters, ROUTER], **fields},
    )
    return listener({"name": "manager", "typed_config": manager})


def cluster(**fields: Any) -> tuple[str, Json]:
    """Return a cluster."""
    return "clusters", {"name": "hosting", "connect_timeout": "1s", **fields}


def assignment(address: str = "127.0.0.1") -> Json:
    """Return endpoints for inside a cluster."""
    return {
        "cluster_name": "hosting",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": r.address(80, address)}}]}],
    }


def routes(
    *,
    action: Json | None = None,
    match: Json | None = None,
    route: Json | None = None,
    vhost: Json | None = None,
    **fields: Any,
) -> tuple[str, Json]:
    """Return a route configuration with one route."""
    only = {"match": match or {"prefix": "/"}, "route": action or {"cluster": "backend"}, **(route or {})}
    hosts = [{"name": "all", "domains": ["*"], "routes": [only], **(vhost or {})}]
    return "routes", {"name": "main", "virtual_hosts": hosts, **fields}


def _http_filter(extension: Json) -> tuple[str, Json]:
    config = extension["typed_config"]
    if PER_ROUTE.search(config["@type"]):
        return routes(vhost={"typed_per_filter_config": {extension["name"]: config}})
    if config["@type"] == r.ROUTER or config["@type"].endswith("McpRouter"):
        return http(http_filters=[extension])
    return http(extension)


def _upstream_http_filter(extension: Json) -> tuple[str, Json]:
    if PER_ROUTE.search(extension["typed_config"]["@type"]):
        return _http_filter(extension)
    codec = named("envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec")
    is_codec = extension["typed_config"]["@type"].endswith("UpstreamCodec")
    return _http_options(http_filters=[extension] if is_codec else [extension, codec])


def _http_options(**fields: Any) -> tuple[str, Json]:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return cluster(
        typed_extension_protocol_options={
            name: typed(name, explicit_http_config={"http_protocol_options": {}}, **fields)
        }
    )


def _network_filter(extension: Json) -> tuple[str, Json]:
    is_last = TERMINAL.search(extension["typed_config"]["@type"])
    return listener(extension) if is_last else listener(extension, TCP)


def _udp(*filters: Json, chain: Json | None = None, **options: Any) -> tuple[str, Json]:
    address = {"socket_address": {"protocol": "UDP", "address": "127.0.0.1", "port_value": 0}}
    made: Json = {"name": "hosting", "address": address, "udp_listener_config": options}
    return "listeners", made | ({"listener_filters": list(filters)} if filters else {"filter_chains": [chain]})


def _udp_session(extension: Json) -> tuple[str, Json]:
    fields = {
        "stat_prefix": "udp",
        "session_filters": [extension],
        "matcher": _always(named("envoy.extensions.filters.udp.udp_proxy.v3.Route", cluster="backend")),
    }
    return _udp(named("envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig", **fields))


def _always(action: Json) -> Json:
    return {"on_no_match": {"action": action}}


def _quic(**options: Any) -> tuple[str, Json]:
    tls = {
        "common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": "server-cert", "sds_config": r.ads()}]}
    }
    socket = named("envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport", downstream_tls_context=tls)
    manager = http(codec_type="HTTP3")[1]["filter_chains"][0]["filters"]
    return _udp(chain={"filters": manager, "transport_socket": socket}, quic_options=options)


def _log_format(**fields: Any) -> tuple[str, Json]:
    log_format = {"text_format_source": {"inline_string": "%PROTOCOL%\n"}, **fields}
    log = named("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", log_format=log_format)
    return http(access_log=[log])


def _health(**fields: Any) -> tuple[str, Json]:
    times = {"timeout": "1s", "interval": "1s", "healthy_threshold": 1, "unhealthy_threshold": 1}
    return cluster(load_assignment=assignment(), health_checks=[{**times, **({"tcp_health_check": {}} | fields)}])


def _health_checker(extension: Json) -> tuple[str, Json]:
    config = {key: value for key, value in extension["typed_config"].items() if key != "@type"}
    full_name = extension["typed_config"]["@type"].rpartition("/")[2]
    if full_name.startswith("envoy.config.core.v3.HealthCheck."):
        field = {"Http": "http_health_check", "Grpc": "grpc_health_check", "Tcp": "tcp_health_check"}
        name = field[full_name.rpartition(".")[2].removesuffix("HealthCheck")]
        times = {"timeout": "1s", "interval": "1s", "healthy_threshold": 1, "unhealthy_threshold": 1}
        is_grpc = name == "grpc_health_check"
        return cluster(**({"http2_protocol_options": {}} if is_grpc else {}), health_checks=[{**times, name: config}])
    times = {"timeout": "1s", "interval": "1s", "healthy_threshold": 1, "unhealthy_threshold": 1}
    return cluster(health_checks=[{**times, "custom_health_check": extension}])


def _matcher(input_: Json, *, custom: Json | None = None) -> Json:
    """Return a unified matcher with one predicate over an input."""
    value = {"custom_match": custom} if custom else {"value_match": {"prefix": "a"}}
    predicate = {"single_predicate": {"input": input_, **value}}
    return {
        "matcher_list": {
            "matchers": [
                {
                    "predicate": predicate,
                    "on_match": {"action": named("envoy.extensions.filters.common.matcher.action.v3.SkipFilter")},
                }
            ]
        }
    }


CEL_INPUT = "xds.type.matcher.v3.HttpAttributesCelMatchInput"
GENERIC_INPUT = "envoy.extensions.filters.network.generic_proxy.matcher.v3.RequestMatchInput"
HEADER_INPUT = named("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name="x-a")


def _delegate(matcher: Json) -> tuple[str, Json]:
    buffer = named("envoy.extensions.filters.http.buffer.v3.Buffer", max_request_bytes=5)
    return http(
        named("envoy.extensions.common.matching.v3.ExtensionWithMatcher", extension_config=buffer, xds_matcher=matcher)
    )


def _http_input(extension: Json) -> tuple[str, Json]:
    full_name = extension["typed_config"]["@type"].rpartition("/")[2]
    if full_name == CEL_INPUT:
        return _delegate(_matcher(extension, custom=_CEL))
    if full_name.endswith("HttpDynamicModuleMatchInput"):
        return _delegate(
            _matcher(
                extension,
                custom=named(
                    "envoy.extensions.matching.input_matchers.dynamic_modules.v3.DynamicModuleMatcher",
                    dynamic_module_config={"name": "a"},
                    matcher_name="a",
                ),
            )
        )
    if full_name.endswith("DynamicMetadataInput"):
        metadata = named(
            "envoy.extensions.matching.input_matchers.metadata.v3.Metadata", value={"string_match": {"exact": "a"}}
        )
        return _delegate(_matcher(extension, custom=metadata))
    return _delegate(_matcher(extension))


_CEL = {
    "name": "cel",
    "typed_config": {
        "@type": r.TYPE + "xds.type.matcher.v3.CelMatcher",
        "expr_match": {"parsed_expr": {"expr": {"id": "1", "const_expr": {"bool_value": True}}}},
    },
}


def _input_matcher(extension: Json) -> tuple[str, Json]:
    full_name = extension["typed_config"]["@type"].rpartition("/")[2]
    if full_name == "xds.type.matcher.v3.CelMatcher":
        return _delegate(_matcher(named(CEL_INPUT), custom=extension))
    if full_name.endswith("generic_proxy.matcher.v3.RequestMatcher"):
        return _generic_routes(_generic_matcher(named(GENERIC_INPUT), custom=extension))
    if full_name.endswith("metadata.v3.Metadata"):
        source = named(
            "envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput", filter="a", path=[{"key": "b"}]
        )
        return _delegate(_matcher(source, custom=extension))
    return _delegate(_matcher(HEADER_INPUT, custom=extension))


def _custom_tree(field: str, input_: Json, custom: Json) -> Json:
    return {"matcher_tree": {"input": input_, "custom_match": custom}}


def _http_custom_matcher(extension: Json) -> tuple[str, Json]:
    is_ip = extension["typed_config"]["@type"].endswith("IPMatcher")
    name = "SourceIPInput" if is_ip else "ServerNameInput"
    return _delegate(
        _custom_tree("custom_match", named(f"envoy.extensions.matching.common_inputs.network.v3.{name}"), extension)
    )


def _chain_matcher(input_: Json, custom: Json | None = None) -> tuple[str, Json]:
    action = {"name": "chain", "typed_config": {"@type": r.TYPE + "google.protobuf.StringValue", "value": "one"}}
    if custom:
        tree = {"matcher_tree": {"input": input_, "custom_match": custom}}
    else:
        tree = {"matcher_tree": {"input": input_, "exact_match_map": {"map": {"a": {"action": action}}}}}
    return listener(TCP, chain={"name": "one"}, filter_chain_matcher=tree)


def _network_custom_matcher(extension: Json) -> tuple[str, Json]:
    is_ip = extension["typed_config"]["@type"].endswith("IPMatcher")
    name = "SourceIPInput" if is_ip else "ServerNameInput"
    return _chain_matcher(named(f"envoy.extensions.matching.common_inputs.network.v3.{name}"), extension)


def _generic_matcher(input_: Json, *, custom: Json | None = None) -> Json:
    value = {"custom_match": custom} if custom else {"value_match": {"prefix": "a"}}
    action = named("envoy.extensions.filters.network.generic_proxy.action.v3.RouteAction", cluster="backend")
    predicate = {"single_predicate": {"input": input_, **value}}
    return {"matcher_list": {"matchers": [{"predicate": predicate, "on_match": {"action": action}}]}}


def _generic(
    *, codec: Json | None = None, filters: list[Json] | None = None, routes_: Json | None = None
) -> tuple[str, Json]:
    fields = {
        "stat_prefix": "generic",
        "codec_config": codec
        or named("envoy.extensions.filters.network.generic_proxy.codecs.dubbo.v3.DubboCodecConfig"),
        "filters": filters or [named("envoy.extensions.filters.network.generic_proxy.router.v3.Router")],
        "route_config": routes_
        or {
            "name": "routes",
            "routes": _generic_matcher(
                named("envoy.extensions.filters.network.generic_proxy.matcher.v3.ServiceMatchInput")
            ),
        },
    }
    return listener(named("envoy.extensions.filters.network.generic_proxy.v3.GenericProxy", **fields))


def _generic_routes(matcher: Json) -> tuple[str, Json]:
    return _generic(routes_={"name": "routes", "routes": matcher})


def _generic_input(extension: Json) -> tuple[str, Json]:
    if extension["typed_config"]["@type"].endswith(GENERIC_INPUT):
        custom = named("envoy.extensions.filters.network.generic_proxy.matcher.v3.RequestMatcher", host={"exact": "a"})
        return _generic_routes(_generic_matcher(extension, custom=custom))
    return _generic_routes(_generic_matcher(extension))


def _socket_input(extension: Json) -> tuple[str, Json]:
    action = named(
        "envoy.extensions.matching.common_inputs.transport_socket.v3.TransportSocketNameAction", name="plain"
    )
    return cluster(
        transport_socket_matches=[{"name": "plain", "match": {}, "transport_socket": named(RAW)}],
        transport_socket_matcher={
            "matcher_tree": {"input": extension, "exact_match_map": {"map": {"a": {"action": action}}}}
        },
    )


RAW = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"


def _matching_action(extension: Json) -> tuple[str, Json]:
    if extension["typed_config"]["@type"].endswith("TransportSocketNameAction"):
        source = named(
            "envoy.extensions.matching.common_inputs.transport_socket.v3.EndpointMetadataInput",
            filter="a",
            path=[{"key": "b"}],
        )
        return cluster(
            transport_socket_matches=[{"name": "name", "match": {}, "transport_socket": named(RAW)}],
            transport_socket_matcher={
                "matcher_tree": {"input": source, "exact_match_map": {"map": {"a": {"action": extension}}}}
            },
        )
    return listener(TCP, chain={"name": "one"}, filter_chain_matcher=_always(extension))


def _tls(side: str, **fields: Any) -> Json:
    return named(f"envoy.extensions.transport_sockets.tls.v3.{side}TlsContext", common_tls_context=fields)


def _selector(mapper: Json | None = None, selector: Json | None = None, *, downstream: bool) -> tuple[str, Json]:
    made = selector or named(
        "envoy.extensions.transport_sockets.tls.cert_selectors.on_demand_secret.v3.Config",
        config_source=r.ads(),
        certificate_mapper=mapper,
    )
    if downstream:
        socket = _tls("Downstream", custom_tls_certificate_selector=made)
        socket["typed_config"] |= {
            "disable_stateless_session_resumption": True,
            "disable_stateful_session_resumption": True,
        }
        return listener(TCP, chain={"transport_socket": socket})
    return cluster(transport_socket=_tls("Upstream", custom_tls_certificate_selector=made))


def _tracing(extension: Json) -> tuple[str, Json]:
    return http(tracing={"provider": extension})


def _otel(**fields: Any) -> tuple[str, Json]:
    service = {"envoy_grpc": {"cluster_name": "tracing"}}
    return _tracing(named("envoy.config.trace.v3.OpenTelemetryConfig", grpc_service=service, **fields))


def _policy(extension: Json) -> tuple[str, Json]:
    if extension["typed_config"]["@type"].endswith("ClusterProvided"):
        return cluster(
            type="ORIGINAL_DST",
            lb_policy="CLUSTER_PROVIDED",
            load_balancing_policy={"policies": [{"typed_extension_config": extension}]},
        )
    return cluster(
        load_assignment=assignment(), load_balancing_policy={"policies": [{"typed_extension_config": extension}]}
    )


def _dns_cache(**fields: Any) -> tuple[str, Json]:
    cache = {"name": "cache", "dns_lookup_family": "V4_ONLY", **fields}
    config = named("envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig", dns_cache_config=cache)
    return cluster(lb_policy="CLUSTER_PROVIDED", cluster_type=config)


def _cluster_type(extension: Json) -> tuple[str, Json]:
    full_name = extension["typed_config"]["@type"]
    provided = (
        "aggregate",
        "composite",
        "dynamic_forward_proxy",
        "original_dst",
        "redis",
        "reverse_connection",
        "mcp",
        "dynamic_modules",
    )
    policy = {"lb_policy": "CLUSTER_PROVIDED"} if any(name in full_name for name in provided) else {}
    return (
        cluster(cluster_type=extension, load_assignment=assignment("host.example.com"), **policy)
        if not policy
        else cluster(cluster_type=extension, **policy)
    )


def _options(extension: Json) -> tuple[str, Json]:
    return cluster(typed_extension_protocol_options={extension["name"]: extension["typed_config"]})


def _rbac(**fields: Any) -> tuple[str, Json]:
    policy = {"permissions": [{"any": True}], "principals": [{"any": True}], **fields}
    return http(named("envoy.extensions.filters.http.rbac.v3.RBAC", rules={"policies": {"one": policy}}))


def _retry(**fields: Any) -> tuple[str, Json]:
    return routes(action={"cluster": "backend", "retry_policy": {"retry_on": "5xx", **fields}})


HTTP = "envoy.extensions.filters.http."
HOSTS: dict[str, Host] = {
    "envoy.access_loggers": lambda e: http(access_log=[e]),
    "envoy.access_loggers.extension_filters": lambda e: http(access_log=[STDOUT | {"filter": {"extension_filter": e}}]),
    "envoy.clusters": _cluster_type,
    "envoy.common.key_value": lambda e: _dns_cache(key_value_config={"config": e}),
    "envoy.compression.compressor": lambda e: http(named(HTTP + "compressor.v3.Compressor", compressor_library=e)),
    "envoy.compression.decompressor": lambda e: http(
        named(HTTP + "decompressor.v3.Decompressor", decompressor_library=e)
    ),
    "envoy.content_parsers": lambda e: http(
        named(HTTP + "sse_to_metadata.v3.SseToMetadata", response_rules={"content_parser": e})
    ),
    "envoy.dubbo_proxy.filters": lambda e: listener(
        named(
            "envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy",
            stat_prefix="dubbo",
            dubbo_filters=[{"name": e["name"], "config": e["typed_config"]}],
        )
    ),
    "envoy.filters.http": _http_filter,
    "envoy.filters.http.upstream": _upstream_http_filter,
    "envoy.filters.listener": lambda e: listener(TCP, listener_filters=[e]),
    "envoy.filters.network": _network_filter,
    "envoy.filters.udp.session": _udp_session,
    "envoy.filters.udp_listener": _udp,
    "envoy.filters.upstream_network": lambda e: cluster(filters=[e]),
    "envoy.formatter": lambda e: _log_format(formatters=[e]),
    "envoy.generic_proxy.codecs": lambda e: _generic(codec=e),
    "envoy.generic_proxy.filters": lambda e: _generic(filters=[e]),
    "envoy.geoip_providers": lambda e: http(named(HTTP + "geoip.v3.Geoip", provider=e)),
    "envoy.health_check.event_sinks": lambda e: _health(event_logger=[e]),
    "envoy.health_checkers": _health_checker,
    "envoy.http.ai_filters": lambda e: http(
        named(HTTP + "ai_protocol_manager.v3.AiProtocolManager", request_handling={}, filters=[e])
    ),
    "envoy.http.cache": lambda e: http(named(HTTP + "cache.v3.CacheConfig", typed_config=e["typed_config"])),
    "envoy.http.cache_v2": lambda e: http(named(HTTP + "cache_v2.v3.CacheV2Config", typed_config=e["typed_config"])),
    "envoy.http.custom_response": lambda e: http(
        named(HTTP + "custom_response.v3.CustomResponse", custom_response_matcher=_always(e))
    ),
    "envoy.http.early_header_mutation": lambda e: http(early_header_mutation_extensions=[e]),
    "envoy.http.ext_proc.processing_request_modifiers": lambda e: http(
        named(
            HTTP + "ext_proc.v3.ExternalProcessor",
            grpc_service={"envoy_grpc": {"cluster_name": "authz"}},
            processing_request_modifier=e,
        )
    ),
    "envoy.http.ext_proc.response_processors": lambda e: http(
        named(
            HTTP + "ext_proc.v3.ExternalProcessor",
            grpc_service={"envoy_grpc": {"cluster_name": "authz"}},
            on_processing_response=e,
        )
    ),
    "envoy.http.forward_client_cert_details": lambda e: http(forward_client_cert_matcher=_always(e)),
    "envoy.http.header_validators": lambda e: http(typed_header_validation_config=e),
    "envoy.http.injected_credentials": lambda e: http(
        named(HTTP + "credential_injector.v3.CredentialInjector", credential=e)
    ),
    "envoy.http.original_ip_detection": lambda e: http(original_ip_detection_extensions=[e]),
    "envoy.http.stateful_header_formatters": lambda e: http(
        http_protocol_options={"header_key_format": {"stateful_formatter": e}}
    ),
    "envoy.http.stateful_session": lambda e: http(named(HTTP + "stateful_session.v3.StatefulSession", session_state=e)),
    "envoy.internal_redirect_predicates": lambda e: routes(
        action={"cluster": "backend", "internal_redirect_policy": {"predicates": [e]}}
    ),
    "envoy.load_balancing_policies": _policy,
    "envoy.matching.action": _matching_action,
    "envoy.matching.common_inputs": lambda e: _delegate(_matcher(e)),
    "envoy.matching.generic_proxy_request_input.input": _generic_input,
    "envoy.matching.http.custom_matchers": _http_custom_matcher,
    "envoy.matching.http.input": _http_input,
    "envoy.matching.input_matchers": _input_matcher,
    "envoy.matching.network.custom_matchers": _network_custom_matcher,
    "envoy.matching.network.input": _chain_matcher,
    "envoy.matching.transport_socket.input": _socket_input,
    "envoy.network.dns_resolver": lambda e: cluster(
        type="STRICT_DNS", load_assignment=assignment("host.example.com"), typed_dns_resolver_config=e
    ),
    "envoy.path.match": lambda e: routes(match={"path_match_policy": e}),
    "envoy.path.rewrite": lambda e: routes(
        match={
            "path_match_policy": named(
                "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig", path_template="/a/{b}"
            )
        },
        action={"cluster": "backend", "path_rewrite_policy": e},
    ),
    "envoy.queue_policy": lambda e: cluster(queuing_policies={"pending_rq_policy": e}),
    "envoy.quic.client_packet_writer": lambda e: _http3_options(client_packet_writer=e),
    "envoy.quic.connection_debug_visitor": lambda e: _quic(connection_debug_visitor_config=e),
    "envoy.quic.connection_id_generator": lambda e: _quic(connection_id_generator_config=e),
    "envoy.quic.proof_source": lambda e: _quic(proof_source_config=e),
    "envoy.quic.server.crypto_stream": lambda e: _quic(crypto_stream_config=e),
    "envoy.quic.server_preferred_address": lambda e: _quic(server_preferred_address_config=e),
    "envoy.rate_limit_descriptors": lambda e: routes(
        action={"cluster": "backend", "rate_limits": [{"actions": [{"extension": e}]}]}
    ),
    "envoy.rbac.matchers": lambda e: _rbac(permissions=[{"matcher": e}]),
    "envoy.rbac.principals": lambda e: _rbac(principals=[{"custom": e}]),
    "envoy.request_id": lambda e: http(request_id_extension={"typed_config": e["typed_config"]}),
    "envoy.retry_host_predicates": lambda e: _retry(retry_host_predicate=[e]),
    "envoy.retry_priorities": lambda e: _retry(retry_priority=e),
    "envoy.route.early_data_policy": lambda e: routes(action={"cluster": "backend", "early_data_policy": e}),
    "envoy.router.cluster_specifier_plugin": lambda e: routes(
        action={"inline_cluster_specifier_plugin": {"extension": e}}
    ),
    "envoy.router.route_specifiers": lambda e: routes(route={"route_specifiers": [e]}),
    "envoy.string_matcher": lambda e: routes(
        match={"prefix": "/", "headers": [{"name": "x-a", "string_match": {"custom": e}}]}
    ),
    "envoy.thrift_proxy.filters": lambda e: listener(
        named(
            "envoy.extensions.filters.network.thrift_proxy.v3.ThriftProxy",
            stat_prefix="thrift",
            thrift_filters=[e]
            if e["typed_config"]["@type"].endswith("Router")
            else [e, named("envoy.extensions.filters.network.thrift_proxy.router.v3.Router")],
        )
    ),
    "envoy.tls.certificate_mappers": lambda e: _selector(e, downstream=True),
    "envoy.tls.certificate_selectors": lambda e: _selector(selector=e, downstream=True),
    "envoy.tls.upstream_certificate_mappers": lambda e: _selector(e, downstream=False),
    "envoy.tls.upstream_certificate_selectors": lambda e: _selector(selector=e, downstream=False),
    "envoy.tls_handshakers": lambda e: listener(
        TCP, chain={"transport_socket": _tls("Downstream", custom_handshaker=e)}
    ),
    "envoy.tracers": _tracing,
    "envoy.tracers.opentelemetry.resource_detectors": lambda e: _otel(resource_detectors=[e]),
    "envoy.tracers.opentelemetry.samplers": lambda e: _otel(sampler=e),
    "envoy.transport_sockets.downstream": lambda e: listener(TCP, chain={"transport_socket": e}),
    "envoy.transport_sockets.upstream": lambda e: cluster(transport_socket=e),
    "envoy.udp_packet_writer": lambda e: _udp(
        named(
            "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig",
            stat_prefix="udp",
            matcher=_always(named("envoy.extensions.filters.udp.udp_proxy.v3.Route", cluster="backend")),
        ),
        udp_packet_packet_writer_config=e,
    ),
    "envoy.upstream.local_address_selector": lambda e: cluster(
        upstream_bind_config={"source_address": {"address": "127.0.0.1", "port_value": 0}, "local_address_selector": e}
    ),
    "envoy.upstream_options": _options,
    "envoy.upstreams": lambda e: cluster(upstream_config=e),
}


def _http3_options(**fields: Any) -> tuple[str, Json]:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = typed(name, explicit_http_config={"http3_protocol_options": {"quic_protocol_options": fields}})
    tls = {"common_tls_context": {}, "sni": "host.example.com"}
    socket = named("envoy.extensions.transport_sockets.quic.v3.QuicUpstreamTransport", upstream_tls_context=tls)
    socket["name"] = "envoy.transport_sockets.quic"
    return cluster(transport_socket=socket, typed_extension_protocol_options={name: options})


NOT_IN_RESOURCES: dict[str, str] = {
    "envoy.bootstrap": "stands in the bootstrap",
    "envoy.config.validators": "stands in config sources, and acts on clusters that come by gRPC alone",
    "envoy.guarddog_actions": "stands in the bootstrap",
    "envoy.listener_manager_impl": "stands in the bootstrap",
    "envoy.matching.stat_matching_data.input": "stands in the bootstrap's stats configuration",
    "envoy.matching.stat_tag_matching_data.input": "stands in the bootstrap's stats configuration",
    "envoy.regex_engines": "stands in the bootstrap",
    "envoy.resource_monitors": "stands in the bootstrap's overload manager",
    "envoy.stats_sinks": "stands in the bootstrap",
}
"""Categories that no resource can hold, with the reason."""
