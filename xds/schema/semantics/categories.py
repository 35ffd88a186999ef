"""Extensions stand where their category belongs: a transport socket is no HTTP filter.

``extension_categories.json`` has the types of each category as Envoy 1.40 reports them of itself (``node.extensions``).
Types that no category has pass, as those of custom builds and of dynamic modules do; and with another schema than the
packaged one nothing is checked, because another Envoy may have a type in further categories.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import MapKey, Trail
from xds.schema.pool import ANY
from xds.schema.semantics.filters import extension_type
from xds.schema.semantics.rule import Rule, Walks

_WELL_KNOWN = "google.protobuf."
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3."

FIELDS: dict[str, tuple[str, ...]] = {
    "envoy.config.accesslog.v3.AccessLog.typed_config": ("envoy.access_loggers",),
    "envoy.config.accesslog.v3.ExtensionFilter.typed_config": ("envoy.access_loggers.extension_filters",),
    "envoy.config.cluster.v3.Cluster.CustomClusterType.typed_config": ("envoy.clusters",),
    "envoy.config.cluster.v3.Cluster.QueuingPolicies.pending_rq_policy": ("envoy.queue_policy",),
    "envoy.config.cluster.v3.Cluster.TransportSocketMatch.transport_socket": ("envoy.transport_sockets.upstream",),
    "envoy.config.cluster.v3.Cluster.transport_socket": ("envoy.transport_sockets.upstream",),
    "envoy.config.cluster.v3.Cluster.typed_dns_resolver_config": ("envoy.network.dns_resolver",),
    "envoy.config.cluster.v3.Cluster.typed_extension_protocol_options": ("envoy.upstream_options",),
    "envoy.config.cluster.v3.Filter.typed_config": ("envoy.filters.upstream_network",),
    "envoy.config.cluster.v3.LoadBalancingPolicy.Policy.typed_extension_config": ("envoy.load_balancing_policies",),
    "envoy.config.common.key_value.v3.KeyValueStoreConfig.config": ("envoy.common.key_value",),
    "envoy.config.core.v3.BindConfig.local_address_selector": ("envoy.upstream.local_address_selector",),
    "envoy.config.core.v3.HealthCheck.CustomHealthCheck.typed_config": ("envoy.health_checkers",),
    "envoy.config.core.v3.HealthCheck.event_logger": ("envoy.health_check.event_sinks",),
    "envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat.stateful_formatter": (
        "envoy.http.stateful_header_formatters",
    ),
    "envoy.config.core.v3.SubstitutionFormatString.formatters": ("envoy.formatter",),
    "envoy.config.listener.v3.Filter.typed_config": ("envoy.filters.network",),
    "envoy.config.listener.v3.FilterChain.transport_socket": ("envoy.transport_sockets.downstream",),
    "envoy.config.listener.v3.ListenerFilter.typed_config": (
        "envoy.filters.listener",
        "envoy.filters.udp_listener",
    ),
    "envoy.config.listener.v3.QuicProtocolOptions.connection_debug_visitor_config": (
        "envoy.quic.connection_debug_visitor",
    ),
    "envoy.config.listener.v3.QuicProtocolOptions.connection_id_generator_config": (
        "envoy.quic.connection_id_generator",
    ),
    "envoy.config.listener.v3.QuicProtocolOptions.crypto_stream_config": ("envoy.quic.server.crypto_stream",),
    "envoy.config.listener.v3.QuicProtocolOptions.proof_source_config": ("envoy.quic.proof_source",),
    "envoy.config.listener.v3.QuicProtocolOptions.server_preferred_address_config": (
        "envoy.quic.server_preferred_address",
    ),
    "envoy.config.rbac.v3.Permission.matcher": ("envoy.rbac.matchers",),
    "envoy.config.rbac.v3.Principal.custom": ("envoy.rbac.principals",),
    "envoy.config.route.v3.ClusterSpecifierPlugin.extension": ("envoy.router.cluster_specifier_plugin",),
    "envoy.config.route.v3.InternalRedirectPolicy.predicates": ("envoy.internal_redirect_predicates",),
    "envoy.config.route.v3.RateLimit.Action.extension": ("envoy.rate_limit_descriptors",),
    "envoy.config.route.v3.RetryPolicy.RetryHostPredicate.typed_config": ("envoy.retry_host_predicates",),
    "envoy.config.route.v3.RetryPolicy.RetryPriority.typed_config": ("envoy.retry_priorities",),
    "envoy.config.route.v3.Route.route_specifiers": ("envoy.router.route_specifiers",),
    "envoy.config.route.v3.RouteAction.early_data_policy": ("envoy.route.early_data_policy",),
    "envoy.config.route.v3.RouteAction.path_rewrite_policy": ("envoy.path.rewrite",),
    "envoy.config.route.v3.RouteMatch.path_match_policy": ("envoy.path.match",),
    "envoy.config.trace.v3.OpenTelemetryConfig.resource_detectors": ("envoy.tracers.opentelemetry.resource_detectors",),
    "envoy.config.trace.v3.OpenTelemetryConfig.sampler": ("envoy.tracers.opentelemetry.samplers",),
    "envoy.config.trace.v3.Tracing.Http.typed_config": ("envoy.tracers",),
    "envoy.extensions.filters.http.ai_protocol_manager.v3.AiProtocolManager.filters": ("envoy.http.ai_filters",),
    "envoy.extensions.filters.http.cache.v3.CacheConfig.typed_config": ("envoy.http.cache",),
    "envoy.extensions.filters.http.cache_v2.v3.CacheV2Config.typed_config": ("envoy.http.cache_v2",),
    "envoy.extensions.filters.http.compressor.v3.Compressor.compressor_library": ("envoy.compression.compressor",),
    "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector.credential": (
        "envoy.http.injected_credentials",
    ),
    "envoy.extensions.filters.http.decompressor.v3.Decompressor.decompressor_library": (
        "envoy.compression.decompressor",
    ),
    "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor.on_processing_response": (
        "envoy.http.ext_proc.response_processors",
    ),
    "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor.processing_request_modifier": (
        "envoy.http.ext_proc.processing_request_modifiers",
    ),
    "envoy.extensions.filters.http.geoip.v3.Geoip.provider": ("envoy.geoip_providers",),
    "envoy.extensions.filters.http.sse_to_metadata.v3.SseToMetadata.ProcessingRules.content_parser": (
        "envoy.content_parsers",
    ),
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSession.session_state": ("envoy.http.stateful_session",),
    "envoy.extensions.filters.network.dubbo_proxy.v3.DubboFilter.config": ("envoy.dubbo_proxy.filters",),
    "envoy.extensions.filters.network.generic_proxy.v3.GenericProxy.codec_config": ("envoy.generic_proxy.codecs",),
    "envoy.extensions.filters.network.generic_proxy.v3.GenericProxy.filters": ("envoy.generic_proxy.filters",),
    _HCM + "HttpConnectionManager.early_header_mutation_extensions": ("envoy.http.early_header_mutation",),
    _HCM + "HttpConnectionManager.original_ip_detection_extensions": ("envoy.http.original_ip_detection",),
    _HCM + "HttpConnectionManager.typed_header_validation_config": ("envoy.http.header_validators",),
    _HCM + "HttpFilter.typed_config": (
        "envoy.filters.http",
        "envoy.filters.http.upstream",
    ),
    _HCM + "RequestIDExtension.typed_config": ("envoy.request_id",),
    "envoy.extensions.filters.network.thrift_proxy.v3.ThriftFilter.typed_config": ("envoy.thrift_proxy.filters",),
    "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig.SessionFilter.typed_config": (
        "envoy.filters.udp.session",
    ),
    "envoy.extensions.transport_sockets.tls.cert_selectors.on_demand_secret.v3.Config.certificate_mapper": (
        "envoy.tls.certificate_mappers",
        "envoy.tls.upstream_certificate_mappers",
    ),
    "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.custom_handshaker": ("envoy.tls_handshakers",),
    "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.custom_tls_certificate_selector": (
        "envoy.tls.certificate_selectors",
        "envoy.tls.upstream_certificate_selectors",
    ),
    "envoy.type.matcher.v3.StringMatcher.custom": ("envoy.string_matcher",),
}
"""The fields that hold an extension, as an Any or in a message with ``typed_config``, and the categories that fit.

Left out are fields in which Envoy 1.40 takes any extension, and those of generic matchers, whose inputs and actions
depend on what they match. ``tests/corpus`` asks a real Envoy about each extension in its place.
"""


@cache
def types_by_category() -> Mapping[str, frozenset[str]]:
    """Return the full names of the types of each category."""
    data = resources.files("xds.schema.semantics").joinpath("extension_categories.json").read_bytes()
    return {category: frozenset(types) for category, types in json.loads(data).items()}


@cache
def _categories_of(full_name: str) -> tuple[str, ...]:
    return tuple(category for category, types in types_by_category().items() if full_name in types)


def _rule(fields: Mapping[str, tuple[str, ...]]) -> Rule:
    def check(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
        if not walks.schema.is_packaged:
            return
        for field, value in message.ListFields():
            wanted = fields.get(field.name)
            if wanted is None:
                continue
            for extension, here in _extensions(value, (trail, field.name)):
                full_name = extension_type(extension)
                categories = _categories_of(full_name) if not full_name.startswith(_WELL_KNOWN) else ()
                if categories and not set(wanted) & set(categories):
                    what = f"is of type {full_name}, an extension of {' and '.join(categories)}"
                    found.add(here, what, f"only one of {' or '.join(wanted)} may stand here")

    return check


def _extensions(value: Any, trail: Trail) -> Iterator[tuple[Any, Trail]]:
    """Yield each Any in the value of a field, with its place."""
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from _extensions(value[key], (trail, MapKey(key)))
    elif not hasattr(value, "DESCRIPTOR"):
        for index, each in enumerate(value):
            yield from _extensions(each, (trail, index))
    elif value.DESCRIPTOR.full_name == ANY:
        yield value, trail
    elif value.HasField("typed_config"):
        yield value.typed_config, (trail, "typed_config")


def _rules() -> dict[str, Rule]:
    by_message: dict[str, dict[str, tuple[str, ...]]] = {}
    for place, wanted in FIELDS.items():
        message, _, field = place.rpartition(".")
        by_message.setdefault(message, {})[field] = wanted
    return {message: _rule(fields) for message, fields in by_message.items()}


CATEGORY_RULES: dict[str, Rule] = _rules()
