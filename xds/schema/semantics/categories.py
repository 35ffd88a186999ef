"""Extensions stand where their category belongs: a transport socket is no HTTP filter.

``extension_categories.json`` has the types of each category as Envoy 1.40 reports them of itself (``node.extensions``).
Types of contrib and of custom builds pass; and with another schema than the packaged one nothing is checked, because
another Envoy may have a type in further categories.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from xds.schema.decode import Findings
from xds.schema.origin import files_not_in_envoy
from xds.schema.paths import MapKey, Trail
from xds.schema.pool import ANY
from xds.schema.semantics.filters import extension_type, names_no_type
from xds.schema.semantics.rule import Rule, Walks

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3."

_PER_ROUTE = ("envoy.filters.http",)

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
    "envoy.config.route.v3.FilterConfig.config": _PER_ROUTE,
    "envoy.config.route.v3.Route.typed_per_filter_config": _PER_ROUTE,
    "envoy.config.route.v3.RouteConfiguration.typed_per_filter_config": _PER_ROUTE,
    "envoy.config.route.v3.VirtualHost.typed_per_filter_config": _PER_ROUTE,
    "envoy.config.route.v3.WeightedCluster.ClusterWeight.typed_per_filter_config": _PER_ROUTE,
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


_HOLDERS = frozenset(
    {
        *("envoy.config.accesslog.v3.AccessLog", "envoy.config.cluster.v3.Filter", "envoy.config.listener.v3.Filter"),
        *("envoy.config.listener.v3.ListenerFilter", "envoy.config.trace.v3.Tracing.Http", _HCM + "HttpFilter"),
        "envoy.config.route.v3.RetryPolicy.RetryHostPredicate",
        "envoy.config.route.v3.RetryPolicy.RetryPriority",
        "envoy.config.accesslog.v3.ExtensionFilter",
        "envoy.config.core.v3.HealthCheck.CustomHealthCheck",
        "envoy.extensions.filters.network.thrift_proxy.v3.ThriftFilter",
        "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig.SessionFilter",
        _HCM + "RequestIDExtension",
    }
)
"""Messages that Envoy refuses without an extension in them: it does not look for one by name."""
_USED_IF_NOT_EMPTY = frozenset({_HCM + "RequestIDExtension"})
"""Those of which Envoy takes an empty one for none."""
_SOCKET = "envoy.config.core.v3.TransportSocket"
_BY_NAME = frozenset(
    {
        "envoy.config.cluster.v3.Cluster.typed_extension_protocol_options",
        "envoy.config.cluster.v3.Cluster.CustomClusterType.typed_config",
    }
)
"""Fields whose extensions Envoy finds by name, so that types without a category may stand there."""
_MAY_BE_EMPTY = frozenset({"typed_dns_resolver_config", "envoy.config.route.v3.FilterConfig.config"})
"""Fields, anywhere or of one message, in which an Any without anything is as none."""
_TRIED_IN_TURN = frozenset({"typed_extension_config"})
"""Fields of which Envoy takes the first extension that it knows, and passes over the others."""
_OF_ROUTES = frozenset({"envoy.config.route.v3.FilterConfig"})
"""Types beside the extensions of a category."""


@cache
def _categories_of(full_name: str) -> tuple[str, ...]:
    return tuple(category for category, types in types_by_category().items() if full_name in types)


def is_known_of(full_name: str, walks: Walks) -> bool:
    """Return whether it is known where a type may stand: it is one of the packaged Envoy, not of contrib."""
    if not walks.schema.is_packaged or not walks.schema.has(full_name):
        return False
    return bool(_categories_of(full_name)) or walks.schema.descriptor(full_name).file.name not in files_not_in_envoy()


def may_be(full_name: str, categories: Iterable[str], walks: Walks) -> bool:
    """Return whether a type may be an extension of one of these categories."""
    return not is_known_of(full_name, walks) or bool(set(categories) & set(_categories_of(full_name)))


def refuse(full_name: str, wanted: Iterable[str], trail: Trail, found: Findings) -> None:
    """Add that an extension of this type may not stand somewhere."""
    categories = _categories_of(full_name)
    what = f"an extension of {' and '.join(categories)}" if categories else "which is not an extension"
    found.add(trail, f"is of type {full_name}, {what}", f"only one of {' or '.join(wanted)} may stand here")


def _rule(message_name: str, fields: Mapping[str, tuple[str, ...]]) -> Rule:
    def check(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
        if not walks.schema.is_packaged or getattr(message, "is_optional", False):
            return  # an optional extension that Envoy does not know is left out
        if message_name in _USED_IF_NOT_EMPTY and not message.ListFields():
            return
        if message_name in _HOLDERS and not message.HasField("typed_config"):
            if message.DESCRIPTOR.fields_by_name["typed_config"].containing_oneof is None or not message.WhichOneof(
                "config_type"
            ):
                found.add((trail, "typed_config"), "is required: Envoy does not look for extensions by name")
            return
        for field, value in message.ListFields():
            wanted = fields.get(field.name)
            if wanted is None:
                continue
            for extension, here in _extensions(value, (trail, field.name)):
                full_name = extension_type(extension)
                if not extension.type_url and not _MAY_BE_EMPTY & {field.name, f"{message_name}.{field.name}"}:
                    found.add(here, 'has no "@type"', f"one of {' or '.join(wanted)} stands here")
                elif names_no_type(extension, walks) and field.name not in _TRIED_IN_TURN:
                    found.add((here, "type_url"), "is required", "it says of which type value is")
                elif not may_be(full_name, wanted, walks) and not _is_found_otherwise(
                    full_name, f"{message_name}.{field.name}"
                ):
                    refuse(full_name, wanted, here, found)

    return check


def _is_found_otherwise(full_name: str, place: str) -> bool:
    return (full_name in _OF_ROUTES and place.rpartition(".")[0] not in _OF_ROUTES) or (
        place in _BY_NAME and not _categories_of(full_name)
    )


def _check_socket(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    if walks.schema.is_packaged and not message.HasField("typed_config"):
        found.add((trail, "typed_config"), "is required: Envoy does not look for transport sockets by name")


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
    return {message: _rule(message, fields) for message, fields in by_message.items()} | {_SOCKET: _check_socket}


CATEGORY_RULES: dict[str, Rule] = _rules()
