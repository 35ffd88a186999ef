"""What takes the place of deprecated fields, as the comments of Envoy's API say, which descriptors do not have."""

from collections.abc import Mapping

_CLUSTER, _CORE, _ROUTE = "envoy.config.cluster.v3.Cluster.", "envoy.config.core.v3.", "envoy.config.route.v3."
_LISTENER, _TRACE = "envoy.config.listener.v3.", "envoy.config.trace.v3."
_EXT = "envoy.extensions."
_HTTP, _NETWORK = _EXT + "filters.http.", _EXT + "filters.network."
_HCM = _NETWORK + "http_connection_manager.v3.HttpConnectionManager."
_TLS = _EXT + "transport_sockets.tls.v3."
_LOG = _EXT + "access_loggers."
_OPTIONS = _EXT + "upstreams.http.v3.HttpProtocolOptions"
_DNS = _EXT + "clusters.dns.v3.DnsCluster"

SUCCESSORS: Mapping[str, str] = {
    _CLUSTER + "max_requests_per_connection": _CORE + "HttpProtocolOptions.max_requests_per_connection",
    _CLUSTER + "upstream_http_protocol_options": _OPTIONS + ".upstream_http_protocol_options",
    _CLUSTER + "common_http_protocol_options": _OPTIONS + ".common_http_protocol_options",
    _CLUSTER + "http_protocol_options": _OPTIONS + ".explicit_http_config",
    _CLUSTER + "http2_protocol_options": _OPTIONS + ".explicit_http_config",
    _CLUSTER + "protocol_selection": _OPTIONS,
    _CLUSTER + "dns_refresh_rate": _DNS + ".dns_refresh_rate",
    _CLUSTER + "dns_jitter": _DNS + ".dns_jitter",
    _CLUSTER + "dns_failure_refresh_rate": _DNS + ".dns_failure_refresh_rate",
    _CLUSTER + "respect_dns_ttl": _DNS + ".respect_dns_ttl",
    _CLUSTER + "dns_resolvers": _CLUSTER + "typed_dns_resolver_config",
    _CLUSTER + "use_tcp_for_dns_lookups": _CLUSTER + "typed_dns_resolver_config",
    _CLUSTER + "dns_resolution_config": _CLUSTER + "typed_dns_resolver_config",
    _CLUSTER + "track_timeout_budgets": _CLUSTER + "track_cluster_stats",
    _CORE + "BindConfig.additional_source_addresses": _CORE + "BindConfig.extra_source_addresses",
    _CORE + "ConfigSource.path": _CORE + "ConfigSource.path_config_source",
    _CORE + "HeaderValueOption.append": _CORE + "HeaderValueOption.append_action",
    _CORE + "HealthCheck.event_log_path": _CORE + "HealthCheck.event_logger",
    _CORE + "Http2ProtocolOptions.stream_error_on_invalid_http_messaging": (
        _CORE + "Http2ProtocolOptions.override_stream_error_on_invalid_http_message"
    ),
    _CORE + "JsonFormatOptions.sort_properties": "",
    _CORE + "KeyValueAppend.entry": _CORE + "KeyValueAppend.record",
    _CORE + "SubstitutionFormatString.text_format": _CORE + "SubstitutionFormatString.text_format_source",
    _LISTENER + "FilterChain.use_proxy_proto": _EXT + "filters.listener.proxy_protocol.v3.ProxyProtocol",
    _LISTENER + "Listener.reuse_port": _LISTENER + "Listener.enable_reuse_port",
    "envoy.config.rbac.v3.Permission.metadata": "envoy.config.rbac.v3.Permission.sourced_metadata",
    "envoy.config.rbac.v3.Principal.source_ip": "envoy.config.rbac.v3.Principal.remote_ip",
    "envoy.config.rbac.v3.Principal.metadata": "envoy.config.rbac.v3.Principal.sourced_metadata",
    **dict.fromkeys(
        (_ROUTE + f"HeaderMatcher.{kind}_match" for kind in ("exact", "safe_regex", "prefix", "suffix", "contains")),
        _ROUTE + "HeaderMatcher.string_match",
    ),
    _ROUTE + "RateLimit.Action.dynamic_metadata": _ROUTE + "RateLimit.Action.metadata",
    _ROUTE + "Route.per_request_buffer_limit_bytes": _ROUTE + "Route.request_body_buffer_limit",
    _ROUTE + "VirtualHost.per_request_buffer_limit_bytes": _ROUTE + "VirtualHost.request_body_buffer_limit",
    _ROUTE + "RouteAction.include_vh_rate_limits": _HTTP + "ratelimit.v3.RateLimitPerRoute.vh_rate_limits",
    _ROUTE + "RouteAction.cors": _HTTP + "cors.v3.CorsPolicy",
    _ROUTE + "VirtualHost.cors": _HTTP + "cors.v3.CorsPolicy",
    _ROUTE + "RouteAction.max_grpc_timeout": _ROUTE + "RouteAction.MaxStreamDuration.grpc_timeout_header_max",
    _ROUTE + "RouteAction.grpc_timeout_offset": _ROUTE + "RouteAction.MaxStreamDuration.grpc_timeout_header_offset",
    _ROUTE + "RouteAction.internal_redirect_action": _ROUTE + "RouteAction.internal_redirect_policy",
    _ROUTE + "RouteAction.max_internal_redirects": _ROUTE + "RouteAction.internal_redirect_policy",
    _ROUTE + "WeightedCluster.total_weight": "",
    "envoy.config.tap.v3.TapConfig.match_config": "envoy.config.tap.v3.TapConfig.match",
    _TRACE + "ZipkinConfig.split_spans_for_request": _HCM + "Tracing.spawn_upstream_span",
    _HTTP + "router.v3.Router.start_child_span": _HCM + "Tracing.spawn_upstream_span",
    "envoy.data.dns.v3.DnsTable.known_suffixes": "",
    **dict.fromkeys(
        (_LOG + f"file.v3.FileAccessLog.{each}" for each in ("format", "json_format", "typed_json_format")),
        _LOG + "file.v3.FileAccessLog.log_format",
    ),
    _LOG + "open_telemetry.v3.OpenTelemetryAccessLogConfig.common_config": (
        _LOG + "open_telemetry.v3.OpenTelemetryAccessLogConfig.grpc_service"
    ),
    _LOG + "stats.v3.Config.stat_prefix": _LOG + "stats.v3.Config.stats_scope",
    **dict.fromkeys(
        (
            _EXT + f"common.dynamic_forward_proxy.v3.DnsCacheConfig.{each}"
            for each in ("use_tcp_for_dns_lookups", "dns_resolution_config")
        ),
        _EXT + "common.dynamic_forward_proxy.v3.DnsCacheConfig.typed_dns_resolver_config",
    ),
    _EXT + "common.matching.v3.ExtensionWithMatcher.matcher": (
        _EXT + "common.matching.v3.ExtensionWithMatcher.xds_matcher"
    ),
    _EXT + "filters.common.set_filter_state.v3.FilterStateValue.read_only": "",
    _HTTP + "alternate_protocols_cache.v3.FilterConfig.alternate_protocols_cache_options": "",
    _HTTP + "dynamic_modules.v3.DynamicModuleFilterPerRoute.per_route_config_name": (
        _HTTP + "dynamic_modules.v3.DynamicModuleFilterPerRoute.filter_name"
    ),
    _HTTP + "ext_authz.v3.AuthorizationRequest.allowed_headers": _HTTP + "ext_authz.v3.ExtAuthz.allowed_headers",
    _HTTP + "gcp_authn.v3.GcpAuthnFilterConfig.http_uri": _HTTP + "gcp_authn.v3.GcpAuthnFilterConfig.cluster",
    _HTTP + "lua.v3.Lua.inline_code": _HTTP + "lua.v3.Lua.default_source_code",
    _HTTP + "set_metadata.v3.Config.metadata_namespace": _HTTP + "set_metadata.v3.Config.metadata",
    _HTTP + "set_metadata.v3.Config.value": _HTTP + "set_metadata.v3.Config.metadata",
    _NETWORK + "dubbo_proxy.v3.DubboProxy.route_config": _NETWORK + "dubbo_proxy.v3.DubboProxy.multiple_route_config",
    _HCM + "access_log_flush_interval": _HCM + "HcmAccessLogOptions.access_log_flush_interval",
    _HCM + "flush_access_log_on_new_request": _HCM + "HcmAccessLogOptions.flush_access_log_on_new_request",
    _NETWORK + "redis_proxy.v3.RedisProxy.downstream_auth_password": (
        _NETWORK + "redis_proxy.v3.RedisProxy.downstream_auth_passwords"
    ),
    _NETWORK + "tcp_proxy.v3.TcpProxy.access_log_flush_interval": (
        _NETWORK + "tcp_proxy.v3.TcpProxy.TcpAccessLogOptions.access_log_flush_interval"
    ),
    _NETWORK + "tcp_proxy.v3.TcpProxy.flush_access_log_on_connected": (
        _NETWORK + "tcp_proxy.v3.TcpProxy.TcpAccessLogOptions.flush_access_log_on_connected"
    ),
    _EXT + "filters.udp.dns_filter.v3.DnsFilterConfig.ClientContextConfig.dns_resolution_config": (
        _EXT + "filters.udp.dns_filter.v3.DnsFilterConfig.ClientContextConfig.typed_dns_resolver_config"
    ),
    _EXT + "filters.udp.udp_proxy.v3.UdpProxyConfig.cluster": _EXT + "filters.udp.udp_proxy.v3.UdpProxyConfig.matcher",
    _EXT + "geoip_providers.common.v3.CommonGeoipProviderConfig.geo_headers_to_add": (
        _EXT + "geoip_providers.common.v3.CommonGeoipProviderConfig.geo_field_keys"
    ),
    _EXT + "geoip_providers.common.v3.CommonGeoipProviderConfig.GeolocationHeadersToAdd.is_anon": (
        _EXT + "geoip_providers.common.v3.CommonGeoipProviderConfig.GeolocationHeadersToAdd.anon"
    ),
    _EXT + "load_balancing_policies.least_request.v3.LeastRequest.enable_full_scan": (
        _EXT + "load_balancing_policies.least_request.v3.LeastRequest.selection_method"
    ),
    **dict.fromkeys(
        (
            _EXT + f"load_balancing_policies.ring_hash.v3.RingHash.{each}"
            for each in ("use_hostname_for_hashing", "hash_balance_factor")
        ),
        _EXT + "load_balancing_policies.ring_hash.v3.RingHash.consistent_hashing_lb_config",
    ),
    _TLS + "CertificateValidationContext.match_subject_alt_names": (
        _TLS + "CertificateValidationContext.match_typed_subject_alt_names"
    ),
    _TLS + "UpstreamTlsContext.enforce_rsa_key_usage": "",
    _EXT + "wasm.v3.PluginConfig.fail_open": _EXT + "wasm.v3.PluginConfig.failure_policy",
}
"""The full name of the field or message to use instead, by that of a deprecated field; "" if it has no effect."""
