"""The resources that a message refers to, by message type.

Only resources that Envoy fetches from a management server count: those whose config source is ``ads``, ``self`` or
``api_config_source``, not a file. An ``xdstp://`` name needs no config source, as its authority is the source.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from xds.model.types import CLUSTER, ENDPOINTS, EXTENSION_CONFIG, ROUTE, SECRET
from xds.schema.paths import Path

_REMOTE = ("ads", "self", "api_config_source")
_XDSTP = "xdstp://"
_CORE = "envoy.config.core.v3."
_ROUTE = "envoy.config.route.v3."
_LISTENER = "envoy.config.listener.v3."
_NETWORK = "envoy.extensions.filters.network."
_HCM = _NETWORK + "http_connection_manager.v3."
_UDP = "envoy.extensions.filters.udp.udp_proxy.v3."

BOOTSTRAP_ONLY = frozenset({_CORE + "ApiConfigSource"})
"""Messages whose cluster names refer to clusters of Envoy's bootstrap only, never to resources of ours
(``Utility::checkApiConfigSourceSubscriptionBackingCluster`` in Envoy's config/utility.cc)."""


class Named(NamedTuple):
    """A reference in a message: the type and name of the resource, and the path in the message."""

    type_url: str
    name: str
    path: Path


Extractor = Callable[[Any], Iterable[Named]]


def _is_fetched(holder: Any, field: str, name: str) -> bool:
    which = getattr(holder, field).WhichOneof("config_source_specifier") if holder.HasField(field) else None
    return which in _REMOTE or (which is None and name.startswith(_XDSTP))


def _of_cluster(cluster: Any) -> Iterator[Named]:
    if cluster.WhichOneof("cluster_discovery_type") != "type" or cluster.type != cluster.EDS:
        return
    eds = cluster.eds_cluster_config
    name = eds.service_name or cluster.name
    if _is_fetched(eds, "eds_config", name):
        yield Named(ENDPOINTS, name, ("eds_cluster_config", "service_name") if eds.service_name else ("name",))


def _fetched(type_url: str, name_field: str, source_field: str) -> Extractor:
    def extract(message: Any) -> Iterator[Named]:
        name = getattr(message, name_field)
        if _is_fetched(message, source_field, name):
            yield Named(type_url, name, (name_field,))

    return extract


def _of_discovered_filter(message: Any) -> Iterator[Named]:
    discovery = message.config_discovery
    if message.HasField("config_discovery") and _is_fetched(discovery, "config_source", message.name):
        yield Named(EXTENSION_CONFIG, message.name, ("name",))


def _plain(type_url: str, *fields: str) -> Extractor:
    def extract(message: Any) -> Iterator[Named]:
        for field in fields:
            yield Named(type_url, getattr(message, field), (field,))

    return extract


def _of_aggregate(message: Any) -> Iterator[Named]:
    for index, name in enumerate(message.clusters):
        yield Named(CLUSTER, name, ("clusters", index))


EXTRACTORS: dict[str, Extractor] = {
    "envoy.config.cluster.v3.Cluster": _of_cluster,
    "envoy.extensions.clusters.aggregate.v3.ClusterConfig": _of_aggregate,
    "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig": _fetched(SECRET, "name", "sds_config"),
    _HCM + "Rds": _fetched(ROUTE, "route_config_name", "config_source"),
    _ROUTE + "ScopedRouteConfiguration": _plain(ROUTE, "route_configuration_name"),
    _ROUTE + "RouteAction": _plain(CLUSTER, "cluster"),
    _ROUTE + "RouteAction.RequestMirrorPolicy": _plain(CLUSTER, "cluster"),
    _ROUTE + "WeightedCluster.ClusterWeight": _plain(CLUSTER, "name"),
    _NETWORK + "tcp_proxy.v3.TcpProxy": _plain(CLUSTER, "cluster"),
    _NETWORK + "tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight": _plain(CLUSTER, "name"),
    _NETWORK + "thrift_proxy.v3.RouteAction": _plain(CLUSTER, "cluster"),
    _NETWORK + "redis_proxy.v3.RedisProxy.PrefixRoutes.Route": _plain(CLUSTER, "cluster"),
    _UDP + "UdpProxyConfig": _plain(CLUSTER, "cluster"),
    _UDP + "Route": _plain(CLUSTER, "cluster"),
    _CORE + "GrpcService.EnvoyGrpc": _plain(CLUSTER, "cluster_name"),
    _CORE + "HttpUri": _plain(CLUSTER, "cluster"),
    _HCM + "HttpFilter": _of_discovered_filter,
    _LISTENER + "Filter": _of_discovered_filter,
    _LISTENER + "ListenerFilter": _of_discovered_filter,
    "envoy.config.cluster.v3.Filter": _of_discovered_filter,
    _UDP + "UdpProxyConfig.SessionFilter": _of_discovered_filter,
    "envoy.extensions.filters.http.composite.v3.DynamicConfig": _of_discovered_filter,
}
"""The references of each message type. Names may be empty; the caller skips those."""
