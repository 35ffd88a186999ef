"""The references of a resource to other resources."""

from typing import Any

import pytest
from google.protobuf import any_pb2

from xds.model import types
from xds.model.resource import Reference
from xds.schema.ingest import ingest, load_plans
from xds.schema.quick import ingest_encoded
from xds.schema.restore import restore

ADS: dict[str, Any] = {"ads": {}, "resource_api_version": "V3"}
API: dict[str, Any] = {
    "api_config_source": {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
    }
}
FILE: dict[str, Any] = {"path_config_source": {"path": "/etc/envoy/eds.yaml"}}
PREFIX = types.TYPE_PREFIX
NETWORK = PREFIX + "envoy.extensions.filters.network."
TLS = PREFIX + "envoy.extensions.transport_sockets.tls.v3."


def references(type_url: str, value: dict[str, Any]) -> list[tuple[str, str, str]]:
    resource = ingest({"@type": type_url} | value)
    return [(types.short_name(found.type_url), found.name, found.field) for found in resource.references]


def cluster(**fields: Any) -> list[tuple[str, str, str]]:
    return references(types.CLUSTER, {"name": "web", **fields})


def listener(*filters: dict[str, Any], **chain: Any) -> list[tuple[str, str, str]]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 80}}
    chains = [{"filters": list(filters), **chain}]
    return references(types.LISTENER, {"name": "in", "address": address, "filter_chains": chains})


def hcm(**fields: Any) -> dict[str, Any]:
    type_url = NETWORK + "http_connection_manager.v3.HttpConnectionManager"
    return {"name": "hcm", "typed_config": {"@type": type_url, "stat_prefix": "in", **fields}}


def route(**action: Any) -> list[tuple[str, str, str]]:
    routes = [{"match": {"prefix": "/"}, "route": action}]
    return references(types.ROUTE, {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]})


HCM_FIELD = "filter_chains[0].filters[0].typed_config"
ACTION_FIELD = "virtual_hosts[0].routes[0].route"


@pytest.mark.parametrize("source", [ADS, API, {"self": {}}], ids=["ads", "api", "self"])
def test_eds_cluster_refers_to_its_endpoints(source: dict[str, Any]) -> None:
    assert cluster(type="EDS", eds_cluster_config={"eds_config": source}) == [("endpoints", "web", "name")]
    assert cluster(type="EDS", eds_cluster_config={"eds_config": source, "service_name": "svc"}) == [
        ("endpoints", "svc", "eds_cluster_config.service_name"),
    ]


def test_cluster_without_endpoints_from_a_server_refers_to_none() -> None:
    assert cluster(type="EDS", eds_cluster_config={"eds_config": FILE}) == []
    assert cluster(type="STATIC") == []
    assert cluster(type="STRICT_DNS") == []


def test_xdstp_name_is_a_reference_with_or_without_a_source() -> None:
    name = "xdstp://authority/envoy.config.endpoint.v3.ClusterLoadAssignment/svc"

    for eds in ({"service_name": name}, {"service_name": name, "eds_config": ADS}):
        assert cluster(type="EDS", eds_cluster_config=eds) == [("endpoints", name, "eds_cluster_config.service_name")]
    assert cluster(type="EDS", eds_cluster_config={"service_name": name, "eds_config": FILE}) == []


SORTED = "xdstp://x/envoy.config.cluster.v3.Cluster/a?a=1&b=2"
UNSORTED = "xdstp://x/envoy.config.cluster.v3.Cluster/a?b=2&a=1"


def test_xdstp_names_are_written_in_one_form_by_all_who_refer_to_them() -> None:
    """Envoy compares the names of clusters as text."""
    rules = [
        {"match": {"prefix": "/1"}, "route": {"cluster": UNSORTED}},
        {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [{"name": UNSORTED, "weight": 1}]}}},
    ]
    host = {"name": "v", "domains": ["*"], "routes": rules}
    resource = ingest({"@type": types.ROUTE, "name": UNSORTED, "virtual_hosts": [host]})

    assert resource.name == SORTED
    assert [found.name for found in resource.references] == [SORTED]
    assert UNSORTED.encode() not in resource.encoded
    assert resource.encoded.count(SORTED.encode()) == 4
    assert resource.version == ingest((types.ROUTE, any_pb2.Any.FromString(resource.body).value)).version


def test_xdstp_names_in_lists_maps_and_nested_fields_are_written_in_one_form() -> None:
    aggregate = {"@type": PREFIX + "envoy.extensions.clusters.aggregate.v3.ClusterConfig", "clusters": ["c", UNSORTED]}
    check = {
        "@type": PREFIX + "envoy.extensions.filters.http.health_check.v3.HealthCheck",
        "pass_through_mode": False,
        "cluster_min_healthy_percentages": {UNSORTED: {"value": 50}},
    }
    inline = {"@type": types.CLUSTER, "name": UNSORTED, "cluster_type": {"name": "a", "typed_config": aggregate}}
    inline["lb_policy"] = "CLUSTER_PROVIDED"
    eds = {"service_name": UNSORTED}
    router = {"name": "router", "typed_config": {"@type": PREFIX + "envoy.extensions.filters.http.router.v3.Router"}}
    filters = [{"name": "check", "typed_config": check}, router]

    for resource in (
        ingest(inline),
        ingest({"@type": types.CLUSTER, "name": "c", "type": "EDS", "eds_cluster_config": eds}),
        ingest(
            {
                "@type": types.LISTENER,
                "name": "l",
                "api_listener": {},
                "filter_chains": [{"filters": [hcm(route_config={}, http_filters=filters)]}],
            }
        ),
    ):
        assert SORTED in [found.name for found in resource.references]
        assert SORTED.encode() in resource.encoded
        assert UNSORTED.encode() not in resource.encoded


def test_xdstp_names_of_wrappers_and_requests_are_written_in_one_form() -> None:
    wrapper = {"@type": PREFIX + "envoy.service.discovery.v3.Resource", "name": UNSORTED, "aliases": [UNSORTED + "&c"]}
    value = {"@type": types.VIRTUAL_HOST, "name": "v", "domains": ["*"]}

    wrapped = ingest(wrapper | {"resource": value})
    assert (wrapped.name, wrapped.aliases) == (SORTED, (SORTED + "&c",))
    assert ingest(value, name=UNSORTED).name == SORTED
    encoded = load_plans().schema.message_class("envoy.config.cluster.v3.Cluster")(name=UNSORTED)  # type: ignore[call-arg]
    assert ingest_encoded(types.CLUSTER, encoded.SerializeToString(deterministic=True)).name == SORTED


def test_secret_with_a_source_is_a_reference_and_one_without_is_one_to_the_bootstrap() -> None:
    common = {
        "tls_certificate_sds_secret_configs": [
            {"name": "cert", "sds_config": ADS},
            {"name": "static"},
            {"name": "file", "sds_config": FILE},
        ],
        "validation_context_sds_secret_config": {"name": "ca", "sds_config": API},
    }
    own = common | {"tls_certificate_sds_secret_configs": [{"name": "cert", "sds_config": ADS}]}
    upstream = {"name": "tls", "typed_config": {"@type": TLS + "UpstreamTlsContext", "common_tls_context": own}}
    downstream = {"name": "tls", "typed_config": {"@type": TLS + "DownstreamTlsContext", "common_tls_context": common}}

    def expected(at: str) -> list[tuple[str, str, str]]:
        context = f"{at}transport_socket.typed_config.common_tls_context"
        return [
            ("secrets", "cert", f"{context}.tls_certificate_sds_secret_configs[0].name"),
            ("secrets", "static", f"{context}.tls_certificate_sds_secret_configs[1].name"),
            ("secrets", "ca", f"{context}.validation_context_sds_secret_config.name"),
        ]

    of_server = expected("")
    assert cluster(transport_socket=upstream) == [of_server[0], of_server[2]]
    assert listener(transport_socket=downstream) == expected("filter_chains[0].")


def test_bootstrap_clusters_of_a_config_source_are_no_references() -> None:
    # Envoy looks up a management server's cluster in its bootstrap, never in CDS
    assert listener(hcm(rds={"route_config_name": "main", "config_source": API})) == [
        ("routes", "main", f"{HCM_FIELD}.rds.route_config_name"),
    ]


def test_route_configuration_by_name_is_a_reference() -> None:
    assert listener(hcm(rds={"route_config_name": "main", "config_source": ADS})) == [
        ("routes", "main", f"{HCM_FIELD}.rds.route_config_name"),
    ]
    assert listener(hcm(rds={"route_config_name": "main", "config_source": FILE})) == []


def test_scoped_routes_refer_to_route_configurations() -> None:
    key = {"fragments": [{"string_key": "a"}]}
    scoped = {
        "name": "scoped",
        "rds_config_source": ADS,
        "scope_key_builder": {"fragments": [{"header_value_extractor": {"name": "x", "index": 0}}]},
        "scoped_route_configurations_list": {
            "scoped_route_configurations": [{"name": "s", "route_configuration_name": "main", "key": key}]
        },
    }

    assert listener(hcm(scoped_routes=scoped)) == [
        (
            "routes",
            "main",
            f"{HCM_FIELD}.scoped_routes.scoped_route_configurations_list.scoped_route_configurations[0]"
            ".route_configuration_name",
        ),
    ]
    assert references(types.SCOPED_ROUTE, {"name": "s", "route_configuration_name": "main", "key": key}) == [
        ("routes", "main", "route_configuration_name"),
    ]


def test_inline_scopes_come_from_the_source_of_the_listener_that_has_them() -> None:
    key = {"fragments": [{"string_key": "a"}]}
    scopes = [{"name": "s", "route_configuration_name": "main", "key": key}]
    builder = {"fragments": [{"header_value_extractor": {"name": "x", "index": 0}}]}

    def scoped(**source: Any) -> dict[str, Any]:
        inline = {"scoped_route_configurations_list": {"scoped_route_configurations": scopes}}
        return hcm(scoped_routes={"name": "scoped", "scope_key_builder": builder} | inline | source)

    assert listener(scoped(rds_config_source=FILE)) == []
    assert listener(scoped()) == []
    assert [name for _, name, _ in listener(scoped(rds_config_source=API))] == ["main"]


def test_scoped_route_with_routes_of_its_own_refers_to_their_clusters() -> None:
    inner = {
        "virtual_hosts": [
            {"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]}
        ]
    }
    value = {"name": "s", "key": {"fragments": [{"string_key": "a"}]}, "route_configuration": inner}

    assert references(types.SCOPED_ROUTE, value) == [
        ("clusters", "a", "route_configuration.virtual_hosts[0].routes[0].route.cluster"),
    ]


def test_route_refers_to_its_cluster() -> None:
    assert route(cluster="a") == [("clusters", "a", f"{ACTION_FIELD}.cluster")]


def test_route_by_header_refers_to_no_cluster() -> None:
    assert route(cluster_header="x-cluster") == []
    assert route(weighted_clusters={"clusters": [{"cluster_header": "x-cluster", "weight": 1}]}) == []


def test_route_refers_to_its_weighted_clusters() -> None:
    weighted = {"clusters": [{"name": "a", "weight": 1}, {"name": "b", "weight": 9}]}

    assert route(weighted_clusters=weighted) == [
        ("clusters", "a", f"{ACTION_FIELD}.weighted_clusters.clusters[0].name"),
        ("clusters", "b", f"{ACTION_FIELD}.weighted_clusters.clusters[1].name"),
    ]


def test_mirrors_are_references_at_every_level() -> None:
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "a", "request_mirror_policies": [{"cluster": "m1"}]}}]
    host = {"name": "v", "domains": ["*"], "routes": routes, "request_mirror_policies": [{"cluster": "m2"}]}
    value = {"name": "r", "virtual_hosts": [host], "request_mirror_policies": [{"cluster": "m3"}]}

    assert references(types.ROUTE, value) == [
        ("clusters", "a", f"{ACTION_FIELD}.cluster"),
        ("clusters", "m1", f"{ACTION_FIELD}.request_mirror_policies[0].cluster"),
        ("clusters", "m2", "virtual_hosts[0].request_mirror_policies[0].cluster"),
        ("clusters", "m3", "request_mirror_policies[0].cluster"),
    ]


def test_tcp_proxy_refers_to_its_clusters() -> None:
    plain = {"@type": NETWORK + "tcp_proxy.v3.TcpProxy", "stat_prefix": "t", "cluster": "a"}
    weighted = {
        "@type": NETWORK + "tcp_proxy.v3.TcpProxy",
        "stat_prefix": "t",
        "weighted_clusters": {"clusters": [{"name": "a", "weight": 1}]},
    }

    assert listener({"name": "t", "typed_config": plain}) == [("clusters", "a", f"{HCM_FIELD}.cluster")]
    assert listener({"name": "t", "typed_config": weighted}) == [
        ("clusters", "a", f"{HCM_FIELD}.weighted_clusters.clusters[0].name"),
    ]


def test_udp_proxy_refers_to_its_clusters_within_a_matcher() -> None:
    action = {"@type": PREFIX + "envoy.extensions.filters.udp.udp_proxy.v3.Route", "cluster": "a"}
    udp = {
        "@type": PREFIX + "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig",
        "stat_prefix": "u",
        "matcher": {"on_no_match": {"action": {"name": "route", "typed_config": action}}},
    }
    value = {"name": "u", "api_listener": {}, "listener_filters": [{"name": "udp", "typed_config": udp}]}

    assert references(types.LISTENER, value) == [
        ("clusters", "a", "listener_filters[0].typed_config.matcher.on_no_match.action.typed_config.cluster"),
    ]


def test_aggregate_cluster_refers_to_its_members() -> None:
    config = {"@type": PREFIX + "envoy.extensions.clusters.aggregate.v3.ClusterConfig", "clusters": ["a", "b"]}

    kind = {"name": "envoy.clusters.aggregate", "typed_config": config}
    assert cluster(cluster_type=kind, lb_policy="CLUSTER_PROVIDED") == [
        ("clusters", "a", "cluster_type.typed_config.clusters[0]"),
        ("clusters", "b", "cluster_type.typed_config.clusters[1]"),
    ]


def test_services_of_filters_refer_to_their_clusters() -> None:
    authz = {
        "@type": PREFIX + "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}},
    }
    jwt = {
        "@type": PREFIX + "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"p": {"remote_jwks": {"http_uri": {"uri": "https://a/b", "cluster": "jwks", "timeout": "1s"}}}},
    }
    filters = [{"name": "authz", "typed_config": authz}, {"name": "jwt", "typed_config": jwt}]
    filters.append(
        {"name": "router", "typed_config": {"@type": PREFIX + "envoy.extensions.filters.http.router.v3.Router"}}
    )

    assert listener(hcm(route_config={}, http_filters=filters)) == [
        ("clusters", "authz", f"{HCM_FIELD}.http_filters[0].typed_config.grpc_service.envoy_grpc.cluster_name"),
        ("clusters", "jwks", f'{HCM_FIELD}.http_filters[1].typed_config.providers["p"].remote_jwks.http_uri.cluster'),
    ]


def test_discovered_filter_is_a_reference_by_its_name() -> None:
    type_urls = [PREFIX + "envoy.extensions.filters.http.fault.v3.HTTPFault"]
    default = {"@type": type_urls[0]}

    def discovered(source: dict[str, Any]) -> dict[str, Any]:
        return {"config_source": source, "default_config": default, "type_urls": type_urls}

    filters = [
        {"name": "fault", "config_discovery": discovered(ADS)},
        {"name": "file", "config_discovery": discovered(FILE)},
    ]

    assert listener(hcm(route_config={}, http_filters=filters)) == [
        ("extensions", "fault", f"{HCM_FIELD}.http_filters[0].name"),
    ]
    assert listener({"name": "net", "config_discovery": discovered(ADS)}) == [
        ("extensions", "net", "filter_chains[0].filters[0].name"),
    ]


def test_discovered_filter_that_starts_with_its_default_config_waits_for_nothing() -> None:
    """Envoy answers requests with the default config until the extension config comes, if it ever does."""
    type_urls = [PREFIX + "envoy.extensions.filters.http.fault.v3.HTTPFault"]
    default = {"default_config": {"@type": type_urls[0]}}

    def found(**discovery: Any) -> list[tuple[str, str, str]]:
        filters = [{"name": "fault", "config_discovery": {"config_source": ADS, "type_urls": type_urls} | discovery}]
        return listener(hcm(route_config={}, http_filters=filters))

    assert found(apply_default_config_without_warming=True, **default) == []
    assert found(**default) != []
    assert found() != []


def plugin(**typed_config: Any) -> list[tuple[str, str]]:
    """Return the references of a route whose cluster is chosen by a plugin, as (type, name)."""
    by_plugin = {"extension": {"name": "p", "typed_config": typed_config}}
    routes = [{"match": {"prefix": "/"}, "route": {"inline_cluster_specifier_plugin": by_plugin}}]
    host = {"name": "v", "domains": ["*"], "routes": routes}
    return [found[:2] for found in references(types.ROUTE, {"name": "r", "virtual_hosts": [host]})]


SPECIFIERS = PREFIX + "envoy.extensions.router.cluster_specifiers."


def test_cluster_specifier_plugins_refer_to_the_clusters_that_they_may_choose() -> None:
    action = {"@type": SPECIFIERS + "matcher.v3.ClusterAction", "cluster": "a"}
    matcher = {"on_no_match": {"action": {"name": "cluster", "typed_config": action}}}
    group = {"name": "g", "clusters": [{"cluster_name": "c", "weight": 1}]}

    assert plugin(**{"@type": SPECIFIERS + "matcher.v3.MatcherClusterSpecifier", "cluster_matcher": matcher}) == [
        ("clusters", "a")
    ]
    assert plugin(
        **{
            "@type": SPECIFIERS + "lua.v3.LuaConfig",
            "source_code": {"inline_string": "function envoy_on_route(handle) return 'other' end"},
            "default_cluster": "b",
        }
    ) == [("clusters", "b")]
    assert plugin(
        **{"@type": SPECIFIERS + "priority_group.v3.PriorityGroupClusterSpecifier", "priority_groups": [group]}
    ) == [("clusters", "c")]


def test_tracers_and_loggers_refer_to_their_collectors() -> None:
    zipkin = {
        "@type": PREFIX + "envoy.config.trace.v3.ZipkinConfig",
        "collector_cluster": "zipkin",
        "collector_endpoint": "/api/v2/spans",
        "collector_endpoint_version": "HTTP_JSON",
    }
    fluentd = {
        "@type": PREFIX + "envoy.extensions.access_loggers.fluentd.v3.FluentdAccessLogConfig",
        "cluster": "logs",
        "tag": "t",
        "stat_prefix": "s",
        "record": {},
    }
    found = listener(
        hcm(
            route_config={},
            tracing={"provider": {"name": "zipkin", "typed_config": zipkin}},
            access_log=[{"name": "fluentd", "typed_config": fluentd}],
        )
    )

    assert [name for _, name, _ in found] == ["zipkin", "logs"]


@pytest.mark.parametrize(
    ("config", "field", "short"),
    [
        ("thrift_proxy.v3.ThriftProxy", "trds", "thrift-routes"),
        ("dubbo_proxy.v3.DubboProxy", "drds", "dubbo-routes"),
        ("generic_proxy.v3.GenericProxy", "generic_rds", "generic-routes"),
    ],
)
def test_proxies_of_other_protocols_refer_to_route_configurations_of_their_own(
    config: str, field: str, short: str
) -> None:
    codec = {"name": "c", "typed_config": {"@type": NETWORK + "generic_proxy.codecs.http1.v3.Http1CodecConfig"}}
    more = {"codec_config": codec} if field == "generic_rds" else {}

    def proxy(source: dict[str, Any]) -> dict[str, Any]:
        rds = {field: {"config_source": source, "route_config_name": "main"}}
        return {"name": "f", "typed_config": {"@type": NETWORK + config, "stat_prefix": "s"} | rds | more}

    assert listener(proxy(ADS)) == [(short, "main", f"{HCM_FIELD}.{field}.route_config_name")]
    assert listener(proxy(FILE)) == []


@pytest.mark.parametrize("package", ["xds.type.v3", "udpa.type.v1"])
def test_names_inside_a_typed_struct_are_references_also_after_a_restart(package: str) -> None:
    zipkin = {"collector_cluster": "zipkin", "collector_endpoint": "/", "collector_endpoint_version": "HTTP_JSON"}
    struct = {
        "@type": f"{PREFIX}{package}.TypedStruct",
        "type_url": PREFIX + "envoy.config.trace.v3.ZipkinConfig",
        "value": zipkin,
    }
    tracing = {"provider": {"name": "zipkin", "typed_config": struct}}
    chain = {"filters": [hcm(route_config={}, tracing=tracing)]}
    resource = ingest({"@type": types.LISTENER, "name": "in", "api_listener": {}, "filter_chains": [chain]})

    assert [found[:2] for found in resource.references] == [(types.CLUSTER, "zipkin")]
    assert [found[:2] for found in restore(types.LISTENER, resource.encoded).references] == [(types.CLUSTER, "zipkin")]


def test_names_that_are_keys_of_a_map_are_references() -> None:
    check = {
        "@type": PREFIX + "envoy.extensions.filters.http.health_check.v3.HealthCheck",
        "pass_through_mode": False,
        "cluster_min_healthy_percentages": {"b": {"value": 50}, "a": {"value": 10}},
    }

    router = {"name": "router", "typed_config": {"@type": PREFIX + "envoy.extensions.filters.http.router.v3.Router"}}
    filters = [{"name": "check", "typed_config": check}, router]
    assert listener(hcm(route_config={}, http_filters=filters)) == [
        ("clusters", name, f'{HCM_FIELD}.http_filters[0].typed_config.cluster_min_healthy_percentages["{name}"]')
        for name in ("a", "b")
    ]


def test_endpoint_at_an_internal_listener_refers_to_it() -> None:
    internal = {"envoy_internal_address": {"server_listener_name": "inner"}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": internal}}]}]

    assert references(types.ENDPOINTS, {"cluster_name": "a", "endpoints": endpoints}) == [
        (
            "listeners",
            "inner",
            "endpoints[0].lb_endpoints[0].endpoint.address.envoy_internal_address.server_listener_name",
        )
    ]


def test_reference_is_listed_once_where_it_first_stands() -> None:
    weighted = {"clusters": [{"name": "a", "weight": 1}, {"name": "a", "weight": 9}]}
    resource = ingest(
        {
            "@type": types.VIRTUAL_HOST,
            "name": "v",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"weighted_clusters": weighted}}],
        }
    )

    assert resource.references == (Reference(types.CLUSTER, "a", "routes[0].route.weighted_clusters.clusters[0].name"),)
