"""Table of the fields that name another resource or a file, and of those that only look like it.

It has every text field of a configuration message whose name, message or neighbours suggest that it names a cluster,
route configuration, secret, listener, extension config or file, and every config source. A test fails if the schema has
such a field that is missing here, or lacks one that is here. ``xds.schema.references`` extracts what the table says.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from xds.model import types
from xds.model.xdstp import XDSTP
from xds.schema.paths import MapKey, Path

REMOTE = ("ads", "self", "api_config_source")
"""The config sources that are management servers. A file, and no source at all, are none."""

Names = Sequence[tuple[str, Path]]
"""Names in a message, each with its path in the message. A name may be empty."""


class Unrelated(Enum):
    """Why a field is no reference to a resource that this server has to serve."""

    FILE = "a file or directory on Envoy's disk"
    OWN_NAME = "the name of the message itself"
    REQUEST = "a part of requests: a header, a path, a host, a cookie, a parameter"
    WITHIN = "names a part of the same resource"
    SOURCE = "where the resources come from that other fields of the message name"
    ALL_OF_SOURCE = "a source of resources that are not named: they are a wildcard, a collection or named by requests"
    BOOTSTRAP = "in Envoy's bootstrap, which is not served, or names a cluster of the bootstrap"
    PEER = "compared with what the peer says of itself"
    SWITCH = "compared with the name of the cluster that was chosen elsewhere"
    TEXT = "text that is not a name of a resource"
    NOT_IMPLEMENTED = "ignored by Envoy 1.40"
    AROUND = "read with the message around it, which has the condition"


@dataclass(frozen=True, slots=True)
class Refers:
    """The field names resources of a type, all those that ``names`` returns."""

    type_url: str
    names: Callable[[Any, str], Names]
    at_root_only: bool = False
    """Whether the message is a reference only as a resource of its own, not inside another one."""
    otherwise: "Refers | None" = None
    """What the field refers to instead where the message has no source."""


Entry = Refers | Unrelated


def is_fetched(holder: Any, source: str, name: str) -> bool:
    """Return whether Envoy asks a management server for ``name``, by the config source in a field.

    An ``xdstp://`` name needs no config source, as its authority is the source.
    """
    which = getattr(holder, source).WhichOneof("config_source_specifier") if holder.HasField(source) else None
    return which in REMOTE or (which is None and name.startswith(XDSTP))


def _all(message: Any, field: str) -> Names:
    """Return the value of a text, the items of a list, or the keys of a map."""
    value = getattr(message, field)
    if isinstance(value, str):
        return [(value, (field,))] if value else ()
    if isinstance(value, Mapping):
        return [(key, (field, MapKey(key))) for key in sorted(value)]
    return [(name, (field, index)) for index, name in enumerate(value)]


def _plain(type_url: str) -> Refers:
    return Refers(type_url, _all)


def _by_source(type_url: str, source: str) -> Refers:
    """A reference if the config source in the field ``source`` is a management server."""

    def names(message: Any, field: str) -> Names:
        return [found for found in _all(message, field) if is_fetched(message, source, found[0])]

    return Refers(type_url, names)


def _secret() -> Refers:
    """A secret that Envoy fetches; without a source, one that its bootstrap has."""

    def names(message: Any, field: str) -> Names:
        return () if message.HasField("sds_config") or message.name.startswith(XDSTP) else _all(message, field)

    return replace(_by_source(types.SECRET, "sds_config"), otherwise=Refers(types.FROM_BOOTSTRAP, names))


def _endpoints(cluster: Any, field: str) -> Names:
    """Return the endpoints of an EDS cluster: its service name, or else its own name."""
    if cluster.type != cluster.EDS or cluster.WhichOneof("cluster_discovery_type") != "type":
        return ()
    eds = cluster.eds_cluster_config
    name = eds.service_name or cluster.name
    if not is_fetched(eds, "eds_config", name):
        return ()
    return [(name, ("eds_cluster_config", "service_name") if eds.service_name else (field,))]


def _discovered(message: Any, field: str) -> Names:
    """Return the extension config that Envoy waits for, unless it may use its default config without waiting."""
    if not message.HasField("config_discovery"):
        return ()
    discovery = message.config_discovery
    if discovery.apply_default_config_without_warming and discovery.HasField("default_config"):
        return ()
    return [(message.name, (field,))] if is_fetched(discovery, "config_source", message.name) else ()


def _inline_scopes(message: Any, field: str) -> Names:
    """Return the route configurations of inline scopes, which come from the source in ``field``."""
    scopes = message.scoped_route_configurations_list.scoped_route_configurations
    at = ("scoped_route_configurations_list", "scoped_route_configurations")
    return [
        (scope.route_configuration_name, (*at, index, "route_configuration_name"))
        for index, scope in enumerate(scopes)
        if is_fetched(message, field, scope.route_configuration_name)
    ]


CLUSTER = _plain(types.CLUSTER)
_DISCOVERED = Refers(types.EXTENSION_CONFIG, _discovered)
_FILTER: dict[str, Entry] = {"name": _DISCOVERED, "config_discovery": Unrelated.SOURCE}

FILE, OWN_NAME, REQUEST, WITHIN = Unrelated.FILE, Unrelated.OWN_NAME, Unrelated.REQUEST, Unrelated.WITHIN
SOURCE, ALL_OF_SOURCE, BOOTSTRAP, TEXT = Unrelated.SOURCE, Unrelated.ALL_OF_SOURCE, Unrelated.BOOTSTRAP, Unrelated.TEXT
_ON_DEMAND: dict[str, Entry] = {"resources_locator": ALL_OF_SOURCE}


def _rds(type_url: str) -> dict[str, Entry]:
    return {"route_config_name": _by_source(type_url, "config_source"), "config_source": SOURCE}


_CONFIG = "envoy.config."
_EXTENSIONS = "envoy.extensions."
_HTTP = "filters.http."
_NETWORK = "filters.network."
_HCM = _NETWORK + "http_connection_manager.v3."
_REDIS = _NETWORK + "redis_proxy.v3.RedisProxy.PrefixRoutes.Route"
_UDP = "filters.udp.udp_proxy.v3."
_SPECIFIERS = "router.cluster_specifiers."
_TLS = "transport_sockets.tls."
_STS: dict[str, Entry] = {"subject_token_path": FILE, "actor_token_path": FILE, "resource": TEXT}

_OF_CONFIG: dict[str, dict[str, Entry]] = {
    "accesslog.v3.ExtensionFilter": {"name": WITHIN},
    "bootstrap.v3.Admin": {"access_log_path": FILE, "profile_path": FILE},
    "bootstrap.v3.Bootstrap": {
        "certificate_provider_instances": BOOTSTRAP,
        "config_sources": BOOTSTRAP,
        "default_config_source": BOOTSTRAP,
        "default_socket_interface": BOOTSTRAP,
        "flags_path": FILE,
        "hds_config": BOOTSTRAP,
        "node_context_params": TEXT,
        "header_prefix": TEXT,
        "perf_tracing_file_path": FILE,
    },
    "bootstrap.v3.Bootstrap.DynamicResources": {
        "ads_config": BOOTSTRAP,
        "cds_config": BOOTSTRAP,
        "cds_resources_locator": BOOTSTRAP,
        "lds_config": BOOTSTRAP,
        "lds_resources_locator": BOOTSTRAP,
    },
    "bootstrap.v3.ClusterManager": {"load_stats_config": BOOTSTRAP, "local_cluster_name": BOOTSTRAP},
    "bootstrap.v3.ClusterManager.OutlierDetection": {"event_log_path": FILE},
    "bootstrap.v3.RuntimeLayer.RtdsLayer": {"name": BOOTSTRAP, "rtds_config": BOOTSTRAP},
    "cluster.v3.Cluster": {
        "name": Refers(types.ENDPOINTS, _endpoints),
        "alt_stat_name": TEXT,
        "lrs_report_endpoint_metrics": TEXT,
        "lrs_server": BOOTSTRAP,
        "typed_extension_protocol_options": WITHIN,
    },
    "cluster.v3.Cluster.CustomClusterType": {"name": WITHIN},
    "cluster.v3.Cluster.EdsClusterConfig": {"eds_config": SOURCE, "service_name": Unrelated.AROUND},
    "cluster.v3.ClusterCollection": {"entries": ALL_OF_SOURCE},
    "cluster.v3.Filter": _FILTER,
    "core.v3.ApiConfigSource": {"cluster_names": BOOTSTRAP},
    "core.v3.ConfigSource": {"api_config_source": SOURCE, "path": FILE},
    "core.v3.DataSource": {"filename": FILE},
    "core.v3.EnvoyInternalAddress": {"server_listener_name": _plain(types.LISTENER)},
    "core.v3.ExtensionConfigSource": {"config_source": Unrelated.AROUND, "type_urls": TEXT},
    "core.v3.GrpcService.EnvoyGrpc": {"cluster_name": CLUSTER},
    "core.v3.GrpcService.GoogleGrpc.CallCredentials.StsService": _STS,
    "core.v3.HealthCheck": {"event_log_path": FILE},
    "core.v3.HealthCheck.HttpHealthCheck": {"path": REQUEST},
    "core.v3.HttpUri": {"cluster": CLUSTER},
    "core.v3.Node": {"cluster": BOOTSTRAP},
    "core.v3.PathConfigSource": {"path": FILE},
    "core.v3.Pipe": {"path": FILE},
    "core.v3.SocketAddress": {"network_namespace_filepath": FILE},
    "core.v3.WatchedDirectory": {"path": FILE},
    "endpoint.v3.ClusterLoadAssignment": {"cluster_name": OWN_NAME},
    "endpoint.v3.ClusterStats": {"cluster_name": OWN_NAME, "cluster_service_name": OWN_NAME},
    "endpoint.v3.LbEndpointCollection": {"entries": ALL_OF_SOURCE},
    "endpoint.v3.LedsClusterLocalityConfig": {"leds_collection_name": ALL_OF_SOURCE, "leds_config": SOURCE},
    "listener.v3.Filter": _FILTER,
    "listener.v3.Listener": {"name": OWN_NAME},
    "listener.v3.Listener.FcdsConfig": {
        "config_source": Unrelated.NOT_IMPLEMENTED,
        "name": Unrelated.NOT_IMPLEMENTED,
    },
    "listener.v3.ListenerCollection": {"entries": ALL_OF_SOURCE},
    "listener.v3.ListenerFilter": _FILTER,
    "metrics.v3.StatsdSink": {"tcp_cluster_name": BOOTSTRAP},
    "route.v3.RedirectAction": {"path_redirect": REQUEST, "path_rewrite": REQUEST},
    "route.v3.Route": {"name": OWN_NAME},
    "route.v3.RouteAction": {
        "cluster": CLUSTER,
        "cluster_header": REQUEST,
        "cluster_specifier_plugin": WITHIN,
        "path_rewrite": REQUEST,
    },
    "route.v3.RouteAction.HashPolicy.Cookie": {"path": REQUEST},
    "route.v3.RouteAction.RequestMirrorPolicy": {"cluster": CLUSTER, "cluster_header": REQUEST},
    "route.v3.RouteConfiguration": {"name": OWN_NAME, "vhost_header": REQUEST},
    "route.v3.RouteMatch": {"path": REQUEST, "path_separated_prefix": REQUEST},
    "route.v3.ScopedRouteConfiguration": {
        "name": OWN_NAME,
        "route_configuration_name": Refers(types.ROUTE, _all, at_root_only=True),
    },
    "route.v3.Vhds": {"config_source": ALL_OF_SOURCE},
    "route.v3.VirtualCluster": {"name": TEXT},
    "route.v3.WeightedCluster.ClusterWeight": {"name": CLUSTER, "cluster_header": REQUEST},
    "tap.v3.FilePerTapSink": {"path_prefix": FILE},
    "trace.v3.DatadogConfig": {"collector_cluster": CLUSTER, "collector_hostname": REQUEST},
    "trace.v3.LightstepConfig": {"collector_cluster": CLUSTER, "access_token_file": FILE},
    "trace.v3.ZipkinConfig": {
        "collector_cluster": CLUSTER,
        "collector_endpoint": REQUEST,
        "collector_hostname": REQUEST,
    },
}

_OF_FILTERS: dict[str, dict[str, Entry]] = {
    _HTTP + "a2a.v3.MethodParsingConfig": {"paths": REQUEST},
    _HTTP + "aws_lambda.v3.Credentials": {"secret_access_key": TEXT},
    _HTTP + "cache_v2.v3.CacheV2Config": {"override_upstream_cluster": CLUSTER},
    _HTTP + "composite.v3.DynamicConfig": _FILTER,
    _HTTP + "dynamic_modules.v3.DynamicModuleFilterPerRoute": {"per_route_config_name": WITHIN},
    _HTTP + "ext_authz.v3.ExtAuthz": {
        "clear_route_cache_headers": REQUEST,
        "route_metadata_context_namespaces": TEXT,
        "route_typed_metadata_context_namespaces": TEXT,
    },
    _HTTP + "ext_authz.v3.HttpService": {"path_override": REQUEST, "path_prefix": REQUEST},
    _HTTP + "fault.v3.HTTPFault": {"upstream_cluster": Unrelated.SWITCH},
    _HTTP + "file_server.v3.FileServerConfig.DirectoryBehavior": {"default_file": FILE},
    _HTTP + "file_server.v3.FileServerConfig.PathMapping": {"file_path_prefix": FILE, "request_path_prefix": REQUEST},
    _HTTP + "file_system_buffer.v3.FileSystemBufferFilterConfig": {"storage_buffer_path": FILE},
    _HTTP + "gcp_authn.v3.GcpAuthnFilterConfig": {"cluster": CLUSTER},
    _HTTP + "grpc_json_reverse_transcoder.v3.GrpcJsonReverseTranscoder": {"descriptor_path": FILE},
    _HTTP + "grpc_json_transcoder.v3.GrpcJsonTranscoder": {"proto_descriptor": FILE},
    _HTTP + "health_check.v3.HealthCheck": {"cluster_min_healthy_percentages": CLUSTER},
    _HTTP + "lua.v3.Lua": {"package_paths": FILE, "package_cpaths": FILE},
    _HTTP + "lua.v3.LuaPerRoute": {"name": WITHIN, "package_paths": FILE, "package_cpaths": FILE},
    _HTTP + "mcp.v3.ParserConfig.AttributeExtractionRule": {"path": REQUEST},
    _HTTP + "mcp_json_rest_bridge.v3.HttpRule.ParameterBinding": {"argument_path": REQUEST},
    _HTTP + "mcp_json_rest_bridge.v3.McpServerInfo": {"path": REQUEST},
    _HTTP + "mcp_router.v3.McpRouter.McpCluster": {"cluster": CLUSTER, "path": REQUEST},
    _HTTP + "oauth2.v3.CookieConfig": {"path": REQUEST},
    _HTTP + "oauth2.v3.OAuth2Config": {"resources": REQUEST},
    _HTTP + "on_demand.v3.OnDemandCds": _ON_DEMAND | {"source": ALL_OF_SOURCE},
    _NETWORK + "dubbo_proxy.v3.Drds": _rds(types.DUBBO_ROUTE),
    _NETWORK + "dubbo_proxy.v3.DubboFilter": {"name": WITHIN},
    _NETWORK + "dubbo_proxy.v3.MultipleRouteConfiguration": {"name": OWN_NAME},
    _NETWORK + "dubbo_proxy.v3.RouteAction": {"cluster": CLUSTER},
    _NETWORK + "dubbo_proxy.v3.RouteConfiguration": {"name": OWN_NAME},
    _NETWORK + "generic_proxy.action.v3.RouteAction": {"cluster": CLUSTER, "name": OWN_NAME},
    _NETWORK + "generic_proxy.v3.GenericRds": _rds(types.GENERIC_ROUTE),
    _NETWORK + "generic_proxy.v3.RouteConfiguration": {"name": OWN_NAME},
    _HCM + "HttpFilter": _FILTER,
    _HCM + "Rds": _rds(types.ROUTE),
    _HCM + "ScopedRds": {"scoped_rds_config_source": ALL_OF_SOURCE, "srds_resources_locator": ALL_OF_SOURCE},
    _HCM + "ScopedRoutes": {"name": TEXT, "rds_config_source": Refers(types.ROUTE, _inline_scopes)},
    _REDIS: {"cluster": CLUSTER},
    _REDIS + ".ReadCommandPolicy": {"cluster": CLUSTER},
    _REDIS + ".RequestMirrorPolicy": {"cluster": CLUSTER},
    _NETWORK + "reverse_tunnel.v3.ReverseTunnel": {"request_path": REQUEST, "required_cluster_name": Unrelated.PEER},
    _NETWORK + "reverse_tunnel.v3.Validation": {"cluster_id_format": Unrelated.PEER},
    _NETWORK + "tcp_proxy.v3.TcpProxy": {"cluster": CLUSTER},
    _NETWORK + "tcp_proxy.v3.TcpProxy.OnDemand": _ON_DEMAND | {"odcds_config": ALL_OF_SOURCE},
    _NETWORK + "tcp_proxy.v3.TcpProxy.TunnelingConfig": {"post_path": REQUEST},
    _NETWORK + "tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight": {"name": CLUSTER},
    _NETWORK + "thrift_proxy.v3.RouteAction": {"cluster": CLUSTER, "cluster_header": REQUEST},
    _NETWORK + "thrift_proxy.v3.RouteAction.RequestMirrorPolicy": {"cluster": CLUSTER},
    _NETWORK + "thrift_proxy.v3.RouteConfiguration": {"name": OWN_NAME},
    _NETWORK + "thrift_proxy.v3.ThriftFilter": {"name": WITHIN},
    _NETWORK + "thrift_proxy.v3.Trds": _rds(types.THRIFT_ROUTE),
    _NETWORK + "thrift_proxy.v3.WeightedCluster.ClusterWeight": {"name": CLUSTER},
    _UDP + "Route": {"cluster": CLUSTER},
    _UDP + "UdpProxyConfig": {"cluster": CLUSTER},
    _UDP + "UdpProxyConfig.SessionFilter": _FILTER,
    _UDP + "UdpProxyConfig.UdpTunnelingConfig": {"post_path": REQUEST},
}

_OF_EXTENSIONS: dict[str, dict[str, Entry]] = _OF_FILTERS | {
    "access_loggers.file.v3.FileAccessLog": {"path": FILE},
    "access_loggers.filters.process_ratelimit.v3.DynamicTokenBucket": {
        "config_source": SOURCE,
        "resource_name": _by_source(types.TOKEN_BUCKET, "config_source"),
    },
    "access_loggers.fluentd.v3.FluentdAccessLogConfig": {"cluster": CLUSTER},
    "bootstrap.dynamic_modules.v3.DynamicModuleBootstrapExtension": {"extension_name": WITHIN},
    "bootstrap.reverse_tunnel.downstream_socket_interface.v3.DownstreamReverseConnectionSocketInterface"
    ".HttpHandshakeConfig": {"request_path": REQUEST},
    "clusters.aggregate.v3.AggregateClusterResource": {
        "config_source": Unrelated.NOT_IMPLEMENTED,
        "resource_name": Unrelated.NOT_IMPLEMENTED,
    },
    "clusters.aggregate.v3.ClusterConfig": {"clusters": CLUSTER},
    "clusters.composite.v3.ClusterConfig.ClusterEntry": {"name": CLUSTER},
    "clusters.dynamic_modules.v3.ClusterConfig": {"cluster_name": WITHIN},
    "clusters.mcp_multicluster.v3.ClusterConfig.McpCluster": {"cluster": CLUSTER, "path": REQUEST},
    "common.aws.v3.InlineCredentialProvider": {"secret_access_key": TEXT},
    "config.validators.dynamic_modules.v3.DynamicModuleConfigValidator": {"extension_name": WITHIN},
    "formatter.generic_secret.v3.GenericSecret": {"secret_configs": WITHIN},
    "geoip_providers.maxmind.v3.MaxMindConfig": {
        "anon_db_path": FILE,
        "asn_db_path": FILE,
        "city_db_path": FILE,
        "country_db_path": FILE,
        "isp_db_path": FILE,
    },
    "grpc_service.call_credentials.sts_service.v3.StsServiceCredentials": _STS,
    "health_check.event_sinks.file.v3.HealthCheckEventFileSink": {"event_log_path": FILE},
    "http.cache.file_system_http_cache.v3.FileSystemHttpCacheConfig": {"cache_path": FILE},
    "http.cache_v2.file_system_http_cache.v3.FileSystemHttpCacheV2Config": {"cache_path": FILE},
    "internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig": {"allowed_route_names": WITHIN},
    "key_value.file_based.v3.FileBasedKeyValueStoreConfig": {"filename": FILE},
    "network.socket_interface.sockmap.v3.Sockmap": {"bpf_program_path": FILE, "cgroup_path": FILE},
    "path.match.uri_template.v3.UriTemplateMatchConfig": {"path_template": REQUEST},
    "path.rewrite.uri_template.v3.UriTemplateRewriteConfig": {"path_template_rewrite": REQUEST},
    "resource_monitors.injected_resource.v3.InjectedResourceConfig": {"filename": FILE},
    _SPECIFIERS + "dynamic_modules.v3.DynamicModuleClusterSpecifier": {"route_action_overrides": WITHIN},
    _SPECIFIERS + "lua.v3.LuaConfig": {"default_cluster": CLUSTER},
    _SPECIFIERS + "matcher.v3.ClusterAction": {"cluster": CLUSTER},
    _SPECIFIERS + "priority_group.v3.ClusterWeight": {"cluster_name": CLUSTER},
    "tracers.fluentd.v3.FluentdConfig": {"cluster": CLUSTER},
    _TLS + "cert_mappers.static_name.v3.StaticName": {"name": Unrelated.AROUND},
    _TLS + "cert_selectors.on_demand_secret.v3.Config": {
        "config_source": SOURCE,
        "prefetch_secret_names": _by_source(types.SECRET, "config_source"),
    },
    _TLS + "v3.GenericSecret": {"secrets": WITHIN},
    _TLS + "v3.SdsSecretConfig": {"name": _secret(), "sds_config": SOURCE},
    _TLS + "v3.Secret": {"name": OWN_NAME},
    _TLS + "v3.TlsKeyLog": {"path": FILE},
    "watchdog.profile_action.v3.ProfileActionConfig": {"profile_path": FILE},
}

_OF_OTHERS: dict[str, dict[str, Entry]] = {
    "envoy.data.dns.v3.DnsTable.DnsEndpoint": {"cluster_name": CLUSTER},
    "envoy.data.dns.v3.DnsTable.DnsServiceTarget": {"cluster_name": CLUSTER},
    "envoy.type.http.v3.Cookie": {"path": REQUEST},
    "xds.core.v3.CollectionEntry": {"locator": ALL_OF_SOURCE},
    "xds.core.v3.ResourceLocator": {"resource_type": TEXT},
    "xds.core.v3.ResourceLocator.Directive": {"alt": ALL_OF_SOURCE, "entry": ALL_OF_SOURCE},
    "xds.core.v3.ResourceName": {"resource_type": TEXT},
}

TABLE: Mapping[str, Mapping[str, Entry]] = {
    **{_CONFIG + name: fields for name, fields in _OF_CONFIG.items()},
    **{_EXTENSIONS + name: fields for name, fields in _OF_EXTENSIONS.items()},
    **_OF_OTHERS,
}
"""Full name of a message to its fields' names to what each is."""

BOOTSTRAP_ONLY = frozenset({"envoy.config.core.v3.ApiConfigSource"})
"""Messages whose cluster names refer to clusters of Envoy's bootstrap only, never to resources of ours
(``Utility::checkApiConfigSourceSubscriptionBackingCluster`` in Envoy's config/utility.cc)."""
