"""envoy-data-plane, an independent implementation of the same API, agrees with ours on every resource."""

import importlib
import warnings
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from xds.model import types
from xds.model.resource import Resource
from xds.schema.ingest import ingest

# betterproto2 warns of its own use of pydantic when a message class is built or a deprecated field is read
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PREFIX = types.TYPE_PREFIX
ROUTER = PREFIX + "envoy.extensions.filters.http.router.v3.Router"
HCM = PREFIX + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


@pytest.fixture(scope="module")
def api() -> SimpleNamespace:
    """The parts of envoy-data-plane used here, by short name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {
            "any": "google.protobuf",
            "cluster": "envoy.config.cluster.v3",
            "core": "envoy.config.core.v3",
            "discovery": "envoy.service.discovery.v3",
            "endpoint": "envoy.config.endpoint.v3",
            "hcm": "envoy.extensions.filters.network.http_connection_manager.v3",
            "listener": "envoy.config.listener.v3",
            "route": "envoy.config.route.v3",
            "router": "envoy.extensions.filters.http.router.v3",
            "struct": "google.protobuf",
        }
        modules = {name: importlib.import_module(f"envoy_data_plane.{module}") for name, module in names.items()}
    return SimpleNamespace(**modules)


def content(resource: Resource) -> tuple[str, str, str, bytes, Any]:
    return resource.type_url, resource.name, resource.version, resource.encoded, resource.references


def socket(core: Any, port: int) -> Any:
    return core.Address(socket_address=core.SocketAddress(address="10.0.0.1", port_value=port))


def test_cluster(api: SimpleNamespace) -> None:
    ads = api.core.ConfigSource(ads=api.core.AggregatedConfigSource())
    message = api.cluster.Cluster(
        name="web",
        type=api.cluster.ClusterDiscoveryType.EDS,
        eds_cluster_config=api.cluster.ClusterEdsClusterConfig(eds_config=ads),
        connect_timeout=timedelta(seconds=1.5),
        per_connection_buffer_limit_bytes=32768,
        lb_policy=api.cluster.ClusterLbPolicy.LEAST_REQUEST,
    )
    value = {
        "@type": types.CLUSTER,
        "name": "web",
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}}},
        "connect_timeout": "1.5s",
        "per_connection_buffer_limit_bytes": 32768,
        "lb_policy": "LEAST_REQUEST",
    }

    assert content(ingest(message)) == content(ingest(value))


def test_endpoints(api: SimpleNamespace) -> None:
    lb_endpoints = [
        api.endpoint.LbEndpoint(
            endpoint=api.endpoint.Endpoint(address=socket(api.core, port)),
            health_status=api.core.HealthStatus.DRAINING,
            load_balancing_weight=port,
        )
        for port in (80, 81)
    ]
    locality = api.endpoint.LocalityLbEndpoints(lb_endpoints=lb_endpoints, locality=api.core.Locality(zone="z"))
    message = api.endpoint.ClusterLoadAssignment(cluster_name="web", endpoints=[locality])
    value = {
        "@type": types.ENDPOINTS,
        "clusterName": "web",
        "endpoints": [
            {
                "locality": {"zone": "z"},
                "lbEndpoints": [
                    {
                        "endpoint": {"address": {"socketAddress": {"address": "10.0.0.1", "portValue": port}}},
                        "healthStatus": "DRAINING",
                        "loadBalancingWeight": port,
                    }
                    for port in (80, 81)
                ],
            }
        ],
    }

    assert content(ingest(message)) == content(ingest(value))


def test_listener_with_nested_typed_configs(api: SimpleNamespace) -> None:
    router = api.hcm.HttpFilter(name="router", typed_config=api.any.Any.pack(api.router.Router()))
    rds = api.hcm.Rds(
        route_config_name="main", config_source=api.core.ConfigSource(ads=api.core.AggregatedConfigSource())
    )
    hcm = api.hcm.HttpConnectionManager(stat_prefix="in", rds=rds, http_filters=[router])
    chain = api.listener.FilterChain(filters=[api.listener.Filter(name="hcm", typed_config=api.any.Any.pack(hcm))])
    message = api.listener.Listener(name="in", address=socket(api.core, 80), filter_chains=[chain])
    value = {
        "@type": types.LISTENER,
        "name": "in",
        "address": {"socket_address": {"address": "10.0.0.1", "port_value": 80}},
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "hcm",
                        "typed_config": {
                            "@type": HCM,
                            "stat_prefix": "in",
                            "rds": {"route_config_name": "main", "config_source": {"ads": {}}},
                            "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
                        },
                    }
                ]
            }
        ],
    }

    assert content(ingest(message)) == content(ingest(value))


def test_routes_with_maps_in_any_order(api: SimpleNamespace) -> None:
    names = [f"filter-{number}" for number in range(12)]
    config = api.route.FilterConfig(config=api.any.Any.pack(api.router.Router()), is_optional=True)
    per_filter = {name: api.any.Any.pack(config) for name in names}
    action = api.route.RouteAction(cluster="web", timeout=timedelta(seconds=3))
    route = api.route.Route(match=api.route.RouteMatch(prefix="/"), route=action, typed_per_filter_config=per_filter)
    host = api.route.VirtualHost(name="v", domains=["*"], routes=[route])
    message = api.route.RouteConfiguration(name="main", virtual_hosts=[host])
    filter_config = {
        "@type": PREFIX + "envoy.config.route.v3.FilterConfig",
        "config": {"@type": ROUTER},
        "is_optional": True,
    }
    value = {
        "@type": types.ROUTE,
        "name": "main",
        "virtual_hosts": [
            {
                "name": "v",
                "domains": ["*"],
                "routes": [
                    {
                        "match": {"prefix": "/"},
                        "route": {"cluster": "web", "timeout": "3s"},
                        "typed_per_filter_config": {name: dict(filter_config) for name in reversed(names)},
                    }
                ],
            }
        ],
    }

    assert content(ingest(message)) == content(ingest(value))


def test_any_and_discovery_resource_of_the_other_package_are_opened(api: SimpleNamespace) -> None:
    host = api.route.VirtualHost(name="v", domains=["*"])
    holder = api.any.Any.pack(host)
    wrapped = api.discovery.Resource(name="r/v", aliases=["r/x"], ttl=timedelta(seconds=30), resource=holder)
    value = {"@type": types.VIRTUAL_HOST, "name": "v", "domains": ["*"]}
    outer = {"@type": PREFIX + "envoy.service.discovery.v3.Resource", "resource": value}

    assert content(ingest(holder)) == content(ingest(host)) == content(ingest(value))
    assert content(ingest(wrapped)) == content(ingest(outer | {"name": "r/v", "aliases": ["r/x"], "ttl": "30s"}))


def test_nested_message_class_is_known_by_its_proto_name(api: SimpleNamespace) -> None:
    # ClusterCustomClusterType in Python, Cluster.CustomClusterType in the proto
    message = api.cluster.ClusterCustomClusterType(name="custom")

    assert ingest(message).type_url == PREFIX + "envoy.config.cluster.v3.Cluster.CustomClusterType"
