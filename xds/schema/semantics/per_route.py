"""Which configurations of HTTP filters stand in routes, and which in the filters of a listener."""

from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import MapKey, Trail
from xds.schema.semantics.filters import extension_type, inside, unpacked
from xds.schema.semantics.rule import Rule, Walks

_HTTP = "envoy.extensions.filters.http."
_ROUTE = "envoy.config.route.v3."
_MATCHING = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"

OF_ROUTES = {
    _MATCHING: _MATCHING + "PerRoute",
    **{
        _HTTP + listener: _HTTP + listener.rpartition(".")[0] + "." + route
        for listener, route in {
            "aws_lambda.v3.Config": "PerRouteConfig",
            "aws_request_signing.v3.AwsRequestSigning": "AwsRequestSigningPerRoute",
            "basic_auth.v3.BasicAuth": "BasicAuthPerRoute",
            "buffer.v3.Buffer": "BufferPerRoute",
            "composite.v3.Composite": "CompositePerRoute",
            "compressor.v3.Compressor": "CompressorPerRoute",
            "ext_authz.v3.ExtAuthz": "ExtAuthzPerRoute",
            "ext_proc.v3.ExternalProcessor": "ExtProcPerRoute",
            "filter_chain.v3.FilterChainConfig": "FilterChainConfigPerRoute",
            "grpc_http1_reverse_bridge.v3.FilterConfig": "FilterConfigPerRoute",
            "jwt_authn.v3.JwtAuthentication": "PerRouteConfig",
            "oauth2.v3.OAuth2": "OAuth2PerRoute",
            "ratelimit.v3.RateLimit": "RateLimitPerRoute",
            "stateful_session.v3.StatefulSession": "StatefulSessionPerRoute",
        }.items()
    },
}
"""A filter's configuration in listeners, to that in routes: Envoy refuses each in the place of the other."""
_OF_LISTENERS = {route: listener for listener, route in OF_ROUTES.items()}

NOT_OF_ROUTES = frozenset(
    _HTTP + name
    for name in (
        *("a2a.v3.A2a", "adaptive_concurrency.v3.AdaptiveConcurrency", "admission_control.v3.AdmissionControl"),
        *("alternate_protocols_cache.v3.FilterConfig", "aws_eventstream_parser.v3.AwsEventstreamParser"),
        *("body_size_limit.v3.BodySizeLimit", "cache.v3.CacheConfig", "cache_v2.v3.CacheV2Config"),
        *("cdn_loop.v3.CdnLoopConfig", "connect_grpc_bridge.v3.FilterConfig"),
        *("credential_injector.v3.CredentialInjector", "decompressor.v3.Decompressor"),
        *("gcp_authn.v3.GcpAuthnFilterConfig", "geoip.v3.Geoip"),
        *("grpc_field_extraction.v3.GrpcFieldExtractionConfig", "grpc_http1_bridge.v3.Config"),
        *("grpc_stats.v3.FilterConfig", "grpc_web.v3.GrpcWeb", "health_check.v3.HealthCheck"),
        *("ip_tagging.v3.IPTagging", "mcp_router.v3.McpRouter", "original_src.v3.OriginalSrc"),
        *("proto_api_scrubber.v3.ProtoApiScrubberConfig",),
        *("proto_message_extraction.v3.ProtoMessageExtractionConfig", "router.v3.Router"),
        *("sse_to_metadata.v3.SseToMetadata", "tap.v3.Tap", "thrift_to_metadata.v3.ThriftToMetadata", "wasm.v3.Wasm"),
    )
)
"""Filters that have no configuration in routes."""


def _check_map(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    for key in sorted(message.typed_per_filter_config):
        here: Trail = ((trail, "typed_per_filter_config"), MapKey(key))
        _check_of_route(extension_type(message.typed_per_filter_config[key]), here, found, walks)
        _check_content(message.typed_per_filter_config[key], here, found, walks)


def _check_wrapped(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    if message.disabled:
        found.drop((trail, "config"))  # Envoy does not read it
    elif message.HasField("config"):
        _check_content(message.config, (trail, "config"), found, walks)
        if not message.is_optional:
            _check_of_route(extension_type(message.config), (trail, "config"), found, walks)
    else:
        found.add((trail, "config"), "is required, unless disabled is set")


def _check_content(packed: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    """Check what the configuration of a filter in a route must have; that of a listener may have none of it."""
    full_name = extension_type(packed)
    fields = _REQUIRED.get(full_name, ())
    config = unpacked(packed, full_name, walks) if fields else None
    if config is not None and not any(known.name in fields for known, _ in config.ListFields()):
        what = f"must have one of {', '.join(fields)} in routes" if len(fields) > 1 else "is required in routes"
        found.add(inside(packed, trail) if len(fields) > 1 else (inside(packed, trail), fields[0]), what)


_RULES = ("request_rules", "response_rules")
_REQUIRED = {
    _HTTP + "local_ratelimit.v3.LocalRateLimit": ("token_bucket",),
    _HTTP + "header_to_metadata.v3.Config": _RULES,
    _HTTP + "json_to_metadata.v3.JsonToMetadata": _RULES,
}
"""Filters, and the fields of which their configuration in a route has one."""


def _check_of_route(full_name: str, trail: Trail, found: Findings, walks: Walks) -> None:
    if not walks.schema.is_packaged:
        return
    if full_name in OF_ROUTES:
        what = f"is of type {full_name}, which stands in the filters of a listener"
        found.add(trail, what, f"in routes this filter has {OF_ROUTES[full_name]}")
    elif full_name in NOT_OF_ROUTES:
        hint = "to turn it off for a route: envoy.config.route.v3.FilterConfig with disabled"
        found.add(trail, f"is of type {full_name}, a filter that has no configuration in routes", hint)


def _check_filter(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    full_name = extension_type(message.typed_config) if message.WhichOneof("config_type") == "typed_config" else ""
    wanted = _OF_LISTENERS.get(full_name)
    if wanted is not None and walks.schema.is_packaged and not message.is_optional:
        what = f"is of type {full_name}, which stands in typed_per_filter_config of routes"
        found.add((trail, "typed_config"), what, f"here the filter has {wanted}")


PER_ROUTE_RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (_ROUTE + name for name in ("RouteConfiguration", "VirtualHost", "Route", "WeightedCluster.ClusterWeight")),
        _check_map,
    ),
    _ROUTE + "FilterConfig": _check_wrapped,
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter": _check_filter,
}
