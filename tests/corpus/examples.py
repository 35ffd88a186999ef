"""Values of extensions whose least value by descriptor and rules is none that Envoy can use."""

from typing import Any

from corpus.hosts import RAW, ROUTER, named, typed
from support import resources as r

Json = dict[str, Any]

HTTP = "envoy.extensions.filters.http."
NETWORK = "envoy.extensions.filters.network."
TLS = "envoy.extensions.transport_sockets.tls."
POLICY = "envoy.extensions.load_balancing_policies."

GZIP = named("envoy.extensions.compression.gzip.compressor.v3.Gzip")
GUNZIP = named("envoy.extensions.compression.gzip.decompressor.v3.Gzip")
BUFFER = named(HTTP + "buffer.v3.Buffer", max_request_bytes=1024)
SDS = {"name": "token", "sds_config": r.ads()}
CREDENTIAL = named("envoy.extensions.http.injected_credentials.generic.v3.Generic", credential=SDS)
JSON_PARSER = named(
    "envoy.extensions.content_parsers.json.v3.JsonContentParser",
    rules=[{"rule": {"selectors": [{"key": "usage"}], "on_present": {"metadata_namespace": "a", "key": "b"}}}],
)
ROUND = {"policies": [{"typed_extension_config": named(POLICY + "round_robin.v3.RoundRobin")}]}
RAW_SOCKET = named(RAW)
CERTIFICATES = {"tls_certificate_sds_secret_configs": [{"name": "server-cert", "sds_config": r.ads()}]}
TAP = {
    "static_config": {
        "match": {"any_match": True},
        "output_config": {"sinks": [{"file_per_tap": {"path_prefix": "/tmp/tap"}}]},
    }
}
CEL_TRUE = {"parsed_expr": {"expr": {"id": "1", "const_expr": {"bool_value": True}}}}
ON_DEMAND = typed(
    TLS + "cert_selectors.on_demand_secret.v3.Config",
    config_source=r.ads(),
    certificate_mapper=named(TLS + "cert_mappers.static_name.v3.StaticName", name="server-cert"),
)
DESCRIPTORS = "CgA="
"""An empty set of descriptors would be enough for most filters; this one has a file without a name."""

EXAMPLES: dict[str, Json] = {
    "envoy.extensions.clusters.composite.v3.ClusterConfig": {"clusters": [{"name": "backend"}, {"name": "backend-v2"}]},
    "envoy.extensions.http.ai_filters.transcoder.v3.Transcoder": {"request_handling": "TO_IR"},
    "envoy.extensions.clusters.aggregate.v3.ClusterConfig": {"clusters": ["backend", "backend-v2"]},
    "envoy.config.trace.v3.OpenTelemetryConfig": {
        "grpc_service": {"envoy_grpc": {"cluster_name": "tracing"}},
        "service_name": "shop",
    },
    "envoy.config.trace.v3.XRayConfig": {
        "daemon_endpoint": {"protocol": "UDP", "address": "127.0.0.1", "port_value": 2000},
        "segment_name": "shop",
        "sampling_rule_manifest": {"inline_string": '{"version": 2, "default": {"fixed_target": 1, "rate": 0.1}}'},
    },
    "envoy.config.trace.v3.ZipkinConfig": {
        "collector_cluster": "tracing",
        "collector_endpoint": "/api/v2/spans",
        "collector_endpoint_version": "HTTP_JSON",
    },
    "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter": {"expression": "response.code >= 400"},
    "envoy.extensions.access_loggers.filters.process_ratelimit.v3.ProcessRateLimitFilter": {
        "dynamic_config": {"resource_name": "limit", "config_source": r.ads()}
    },
    "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig": {
        "common_config": {
            "log_name": "otel",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "accesslog"}},
        },
        "body": {"string_value": "%PROTOCOL%"},
    },
    "envoy.extensions.access_loggers.stats.v3.Config": {
        "stat_prefix": "logged",
        "counters": [
            {
                "stat": {"name": "requests", "tags": [{"name": "method", "value_format": "%REQ(:METHOD)%"}]},
                "value_fixed": "1",
            }
        ],
    },
    "envoy.extensions.common.matching.v3.ExtensionWithMatcher": {
        "extension_config": BUFFER,
        "xds_matcher": {
            "matcher_tree": {
                "input": named("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name="x-skip"),
                "exact_match_map": {
                    "map": {"1": {"action": named("envoy.extensions.filters.common.matcher.action.v3.SkipFilter")}}
                },
            }
        },
    },
    "envoy.extensions.content_parsers.json.v3.JsonContentParser": {"rules": JSON_PARSER["typed_config"]["rules"]},
    HTTP + "adaptive_concurrency.v3.AdaptiveConcurrency": {
        "gradient_controller_config": {
            "sample_aggregate_percentile": {"value": 90},
            "concurrency_limit_params": {"concurrency_update_interval": "0.1s"},
            "min_rtt_calc_params": {"jitter": {"value": 10}, "interval": "60s", "request_count": 50},
        }
    },
    HTTP + "aws_eventstream_parser.v3.AwsEventstreamParser": {"response_rules": {"content_parser": JSON_PARSER}},
    HTTP + "aws_lambda.v3.Config": {
        "arn": "arn:aws:lambda:eu-west-1:123456789012:function:hello",
        "invocation_mode": "ASYNCHRONOUS",
    },
    HTTP + "aws_lambda.v3.PerRouteConfig": {
        "invoke_config": {"arn": "arn:aws:lambda:eu-west-1:123456789012:function:hello"}
    },
    HTTP + "aws_request_signing.v3.AwsRequestSigning": {
        "service_name": "s3",
        "region": "eu-west-1",
        "use_unsigned_payload": True,
    },
    HTTP + "aws_request_signing.v3.AwsRequestSigningPerRoute": {
        "stat_prefix": "aws",
        "aws_request_signing": {"service_name": "s3", "region": "eu-west-1"},
    },
    HTTP + "bandwidth_share.v3.BandwidthShare": {},
    HTTP + "basic_auth.v3.BasicAuth": {"users": {"inline_string": "user:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc="}},
    HTTP + "basic_auth.v3.BasicAuthPerRoute": {"users": {"inline_string": "user:{SHA}0DPiKuNIrrVmD8IUCuw1hQxNqZc="}},
    HTTP + "cache.v3.CacheConfig": {
        "typed_config": typed("envoy.extensions.http.cache.simple_http_cache.v3.SimpleHttpCacheConfig")
    },
    HTTP + "cache_v2.v3.CacheV2Config": {
        "typed_config": typed("envoy.extensions.http.cache_v2.simple_http_cache.v3.SimpleHttpCacheV2Config")
    },
    HTTP + "compressor.v3.Compressor": {
        "compressor_library": GZIP,
        "response_direction_config": {"common_config": {"min_content_length": 100}},
    },
    HTTP + "credential_injector.v3.CredentialInjector": {"credential": CREDENTIAL},
    HTTP + "decompressor.v3.Decompressor": {"decompressor_library": GUNZIP},
    HTTP + "ext_proc.v3.ExternalProcessor": {
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}},
        "processing_mode": {"request_body_mode": "STREAMED"},
    },
    HTTP + "filter_chain.v3.FilterChainConfigPerRoute": {"filter_chain": {"filters": [BUFFER]}},
    HTTP + "ip_tagging.v3.IPTagging": {
        "request_type": "EXTERNAL",
        "ip_tags": [{"ip_tag_name": "office", "ip_list": [{"address_prefix": "192.0.2.0", "prefix_len": 24}]}],
    },
    HTTP + "oauth2.v3.OAuth2PerRoute": {
        "config": {
            "token_endpoint": {"cluster": "sts", "uri": "https://sts.example.com/token", "timeout": "3s"},
            "authorization_endpoint": "https://sts.example.com/authorize",
            "redirect_uri": "%REQ(x-forwarded-proto)%://%REQ(:authority)%/callback",
            "redirect_path_matcher": {"path": {"exact": "/callback"}},
            "signout_path": {"path": {"exact": "/signout"}},
            "credentials": {
                "client_id": "shop",
                "token_secret": SDS,
                "hmac_secret": {"name": "hmac", "sds_config": r.ads()},
            },
        }
    },
    HTTP + "sse_to_metadata.v3.SseToMetadata": {"response_rules": {"content_parser": JSON_PARSER}},
    HTTP + "tap.v3.Tap": {"common_config": TAP},
    HTTP + "thrift_to_metadata.v3.ThriftToMetadata": {
        "request_rules": [{"field": "METHOD_NAME", "on_present": {"metadata_namespace": "a", "key": "b"}}]
    },
    NETWORK + "connection_limit.v3.ConnectionLimit": {"stat_prefix": "limit", "max_connections": "100", "delay": "1s"},
    NETWORK + "ext_proc.v3.NetworkExternalProcessor": {
        "stat_prefix": "proc",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}},
    },
    NETWORK + "generic_proxy.v3.GenericProxy": {
        "stat_prefix": "generic",
        "codec_config": named(NETWORK + "generic_proxy.codecs.http1.v3.Http1CodecConfig"),
        "filters": [named(NETWORK + "generic_proxy.router.v3.Router")],
        "generic_rds": {"config_source": r.ads(), "route_config_name": "generic"},
    },
    NETWORK + "http_connection_manager.v3.HttpConnectionManager": {
        "stat_prefix": "http",
        "rds": {"route_config_name": "main", "config_source": r.ads()},
        "http_filters": [ROUTER],
    },
    NETWORK + "redis_proxy.v3.RedisProxy": {
        "stat_prefix": "redis",
        "settings": {"op_timeout": "1s"},
        "prefix_routes": {"catch_all_route": {"cluster": "backend"}},
    },
    NETWORK + "thrift_proxy.filters.header_to_metadata.v3.HeaderToMetadata": {
        "request_rules": [{"header": "x-a", "on_present": {"metadata_namespace": "a", "key": "b"}}]
    },
    NETWORK + "thrift_proxy.filters.payload_to_metadata.v3.PayloadToMetadata": {
        "request_rules": [
            {
                "method_name": "get",
                "field_selector": {"id": 1, "name": "id"},
                "on_present": {"metadata_namespace": "a", "key": "b"},
            }
        ]
    },
    "envoy.extensions.health_checkers.thrift.v3.Thrift": {
        "method_name": "ping",
        "transport": "FRAMED",
        "protocol": "BINARY",
    },
    "envoy.extensions.health_checkers.udp.v3.UdpHealthCheck": {"send": {"text": "0a0b"}, "receive": {"text": "0c"}},
    "envoy.extensions.http.injected_credentials.generic.v3.Generic": {"credential": SDS, "header": "x-token"},
    "envoy.extensions.http.injected_credentials.oauth2.v3.OAuth2": {
        "token_endpoint": {"cluster": "sts", "uri": "https://sts.example.com/token", "timeout": "3s"},
        "client_credentials": {"client_id": "shop", "client_secret": SDS},
    },
    POLICY + "load_aware_locality.v3.LoadAwareLocality": {"endpoint_picking_policy": ROUND},
    POLICY + "override_host.v3.OverrideHost": {
        "override_host_sources": [{"header": "x-host"}],
        "fallback_policy": ROUND,
    },
    POLICY + "subset.v3.Subset": {
        "fallback_policy": "ANY_ENDPOINT",
        "subset_selectors": [{"keys": ["stage"]}],
        "subset_lb_policy": ROUND,
    },
    POLICY + "wrr_locality.v3.WrrLocality": {
        "endpoint_picking_policy": {
            "policies": [
                {
                    "typed_extension_config": named(
                        POLICY + "client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin"
                    )
                }
            ]
        }
    },
    "envoy.extensions.matching.input_matchers.ip.v3.Ip": {
        "cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}],
        "stat_prefix": "ip",
    },
    "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig": {"path_template": "/users/{id}/orders/*"},
    "envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig": {"path_template_rewrite": "/v2/{b}"},
    "envoy.extensions.quic.connection_id_generator.quic_lb.v3.Config": {
        "server_id": {"inline_string": "12345678"},
        "nonce_length_bytes": 8,
        "encryption_parameters": {"name": "token", "sds_config": r.ads()},
    },
    "envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor": {
        "descriptor_key": "method",
        "text": "request.method",
    },
    "envoy.extensions.rate_limit_descriptors.jwt_claim.v3.Descriptor": {
        "descriptor_key": "sub",
        "header_name": "authorization",
        "value_prefix": "Bearer ",
        "claim_name": "sub",
    },
    "envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher": {
        "upstream_port_range": {"start": "80", "end": "90"}
    },
    "envoy.extensions.rbac.principals.mtls_authenticated.v3.Config": {"any_validated_client_certificate": True},
    "envoy.extensions.router.cluster_specifiers.lua.v3.LuaConfig": {
        "source_code": {"inline_string": "function envoy_on_route(h)\n  return 'backend'\nend\n"},
        "default_cluster": "backend",
    },
    "envoy.extensions.string_matcher.lua.v3.Lua": {
        "source_code": {"inline_string": "function envoy_match(s)\n  return s == 'a'\nend\n"}
    },
    "envoy.extensions.tracers.opentelemetry.samplers.v3.CELSamplerConfig": {"expression": CEL_TRUE},
    "envoy.extensions.tracers.opentelemetry.samplers.v3.ParentBasedSamplerConfig": {
        "wrapped_sampler": named("envoy.extensions.tracers.opentelemetry.samplers.v3.AlwaysOnSamplerConfig")
    },
    "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport": {
        "transport_socket": RAW_SOCKET,
        "passthrough_metadata": [{"kind": {"host": {}}, "name": "tunnel"}],
    },
    "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport": {
        "transport_socket": RAW_SOCKET,
        "config": {"version": "V2", "pass_through_tlvs": {"match_type": "INCLUDE", "tlv_type": [5, 6]}},
    },
    "envoy.extensions.transport_sockets.quic.v3.QuicDownstreamTransport": {
        "downstream_tls_context": {"common_tls_context": CERTIFICATES}
    },
    "envoy.extensions.transport_sockets.starttls.v3.StartTlsConfig": {
        "tls_socket_config": {"common_tls_context": CERTIFICATES}
    },
    "envoy.extensions.transport_sockets.tap.v3.Tap": {"common_config": TAP, "transport_socket": RAW_SOCKET},
    "envoy.extensions.transport_sockets.tcp_stats.v3.Config": {"transport_socket": RAW_SOCKET, "update_period": "1s"},
    TLS + "v3.DownstreamTlsContext": {"common_tls_context": CERTIFICATES, "ocsp_staple_policy": "MUST_STAPLE"},
    TLS + "cert_selectors.on_demand_secret.v3.Config": {
        key: value for key, value in ON_DEMAND.items() if key != "@type"
    },
    "xds.type.matcher.v3.CelMatcher": {"expr_match": CEL_TRUE, "description": "always"},
}

REFUSED: dict[str, str] = {
    "envoy.config.core.v3.SubstitutionFormatString": "is an action of no matcher that resources hold",
    HTTP + "geoip.v3.Geoip": "needs a database on Envoy's disk",
    NETWORK + "geoip.v3.Geoip": "needs a database on Envoy's disk",
    "envoy.extensions.geoip_providers.maxmind.v3.MaxMindConfig": "needs a database on Envoy's disk",
    HTTP + "grpc_field_extraction.v3.GrpcFieldExtractionConfig": "needs compiled .proto files",
    HTTP + "grpc_json_reverse_transcoder.v3.GrpcJsonReverseTranscoder": "needs compiled .proto files",
    HTTP + "proto_api_scrubber.v3.ProtoApiScrubberConfig": "needs compiled .proto files",
    HTTP + "proto_message_extraction.v3.ProtoMessageExtractionConfig": "needs compiled .proto files",
    HTTP + "rate_limit_quota.v3.RateLimitQuotaOverride": "is not implemented: routes can't hold it",
    HTTP + "wasm.v3.Wasm": "needs a Wasm module",
    NETWORK + "wasm.v3.Wasm": "needs a Wasm module",
    "envoy.extensions.access_loggers.wasm.v3.WasmAccessLog": "needs a Wasm module",
    NETWORK + "reverse_tunnel.v3.ReverseTunnel": "needs an extension of the bootstrap",
    "envoy.extensions.http.header_validators.envoy_default.v3.HeaderValidatorConfig": "this build does not have it",
    "envoy.extensions.formatter.generic_secret.v3.GenericSecret": "takes the secrets of the bootstrap alone",
}
"""Extensions that this Envoy refuses whatever they say, with the reason. Dynamic modules (``DYNAMIC``) are more."""
DYNAMIC = "DynamicModule"

CRASHES: dict[str, str] = {
    NETWORK + "reverse_tunnel.v3.DrainAwareHttpConnectionManager": "needs an extension of the bootstrap",
}
"""Extensions that end the process of this Envoy."""

NOT_SHOWN: dict[str, str] = {
    HTTP + "oauth2.v3.OAuth2PerRoute": "the routes wait for its secrets, and Envoy shows those before",
}
"""Extensions whose resource is not in Envoy's config dump at once."""
