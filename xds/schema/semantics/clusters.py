"""Clusters and their endpoints: addresses that fit the kind of discovery, load balancing that fits the cluster."""

from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import Trail
from xds.schema.semantics.addresses import IPV4, check_ip, check_socket_address
from xds.schema.semantics.balancing import check_balancing
from xds.schema.semantics.cluster_kinds import check_custom, check_provided
from xds.schema.semantics.filters import inside, unpacked
from xds.schema.semantics.intervals import check_intervals, millis
from xds.schema.semantics.rule import Rule, Walks
from xds.schema.semantics.upstreams import check_upstream

_STATIC_HINT = "give the cluster the type STRICT_DNS or LOGICAL_DNS to have names resolved"
_EDS_HINT = "EDS takes IP addresses; let a cluster of type STRICT_DNS resolve the name"


def check_eds_address(address: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check an address in endpoints that EDS delivers. New endpoints come by the thousand: most are done at once."""
    if IPV4.fullmatch(address.address) is None or address.named_port or address.resolver_name:
        check_socket_address(address, trail, found, hint=_EDS_HINT)


def check_endpoint(endpoint: Any, trail: Trail, found: Findings, hint: str) -> None:
    """Check the addresses of an endpoint whose cluster does not resolve names."""
    if endpoint.HasField("address"):
        check_ip(endpoint.address, (trail, "address"), found, hint=hint)
    else:
        found.add((trail, "address"), "is required")
    for index, additional in enumerate(endpoint.additional_addresses):
        check_ip(additional.address, (((trail, "additional_addresses"), index), "address"), found, hint=hint)
    if endpoint.health_check_config.HasField("address"):
        check_ip(endpoint.health_check_config.address, ((trail, "health_check_config"), "address"), found)


def _check_cluster(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    check_upstream(message, trail, found, walks)
    check_balancing(message, trail, found)
    is_eds = message.WhichOneof("cluster_discovery_type") != "cluster_type" and message.type == message.EDS
    if message.HasField("eds_cluster_config") and not is_eds:
        found.add((trail, "eds_cluster_config"), "must not be set in a cluster that is not of type EDS")
    if message.HasField("upstream_bind_config"):
        _check_bound(message.upstream_bind_config, (trail, "upstream_bind_config"), found)
    _check_resolvers(message, trail, found, walks)
    if message.HasField("outlier_detection"):
        _check_ejection(message.outlier_detection, (trail, "outlier_detection"), found)
    _check_drops(message.load_assignment, (trail, "load_assignment"), found)
    if message.WhichOneof("cluster_discovery_type") == "cluster_type":
        check_custom(message, trail, found, walks)
        return
    kind = message.DESCRIPTOR.enum_types_by_name["DiscoveryType"].values_by_number.get(message.type)
    if kind is not None:
        _CHECKS[kind.name](message, trail, found)
        if kind.name != "ORIGINAL_DST" and message.lb_policy == message.CLUSTER_PROVIDED:
            _check_provided(message, kind.name, trail, found)


def _check_bound(config: Any, trail: Trail, found: Findings) -> None:
    """Check the addresses that the connections of a cluster come from."""
    if config.HasField("source_address"):
        check_socket_address(config.source_address, (trail, "source_address"), found)
    more: list[tuple[Any, Trail]] = []
    for index, each in enumerate(config.extra_source_addresses):
        more.append((each.address, (((trail, "extra_source_addresses"), index), "address")))
    for index, address in enumerate(config.additional_source_addresses):
        more.append((address, ((trail, "additional_source_addresses"), index)))
    if config.extra_source_addresses and config.additional_source_addresses:
        found.add((trail, "additional_source_addresses"), "excludes extra_source_addresses", "use one of both")
    elif len(more) > 1:
        found.add(more[1][1], "is one too many: Envoy takes one address beside source_address")
    elif more and not config.HasField("source_address"):
        found.add((trail, "source_address"), "is required beside further addresses")
    elif more and _is_v6(more[0][0]) == _is_v6(config.source_address):
        found.add(more[0][1], "is of the IP version of source_address", "give an address of the other version")
    for address, here in more[:2]:
        check_socket_address(address, here, found)


def _is_v6(address: Any) -> bool:
    return ":" in address.address


def _check_provided(message: Any, kind: str, trail: Trail, found: Findings) -> None:
    if not message.HasField("load_balancing_policy"):
        hint = "it is for ORIGINAL_DST and for cluster types that balance by themselves"
        found.add((trail, "lb_policy"), f"must not be CLUSTER_PROVIDED in a cluster of type {kind}", hint)


def _check_static(message: Any, trail: Trail, found: Findings) -> None:
    for place, endpoint in _endpoints(message, trail):
        check_endpoint(endpoint, place, found, _STATIC_HINT)


def _check_dns(message: Any, trail: Trail, found: Findings) -> None:
    for place, endpoint in _endpoints(message, trail):
        socket_address = endpoint.address.socket_address
        if socket_address.resolver_name:
            here = (((place, "address"), "socket_address"), "resolver_name")
            found.add(
                here, "must not be set in a cluster that resolves names by DNS", "set dns_resolvers of the cluster"
            )


def _check_resolvers(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    """Check the DNS resolvers of a cluster that resolves names."""
    kind = message.WhichOneof("cluster_discovery_type")
    if kind == "cluster_type" or message.type not in (message.STRICT_DNS, message.LOGICAL_DNS):
        return
    for index, address in enumerate(message.dns_resolvers):
        _check_resolver(address, ((trail, "dns_resolvers"), index), found)
    for index, address in enumerate(message.dns_resolution_config.resolvers):
        _check_resolver(address, (((trail, "dns_resolution_config"), "resolvers"), index), found)
    _check_typed_resolver(message, trail, found, walks)
    check_intervals(message.dns_failure_refresh_rate, (trail, "dns_failure_refresh_rate"), found)


def _check_typed_resolver(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    packed = message.typed_dns_resolver_config.typed_config
    resolver = unpacked(packed, _CARES, walks)
    here = (inside(packed, ((trail, "typed_dns_resolver_config"), "typed_config")), "resolvers")
    for index, address in enumerate(resolver.resolvers if resolver is not None else ()):
        _check_resolver(address, (here, index), found)


_CARES = "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"


def _check_resolver(address: Any, trail: Trail, found: Findings) -> None:
    check_ip(address, trail, found, hint="give the IP address of the resolver")


def _check_cache(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    """Check the DNS resolver of a dynamic forward proxy."""
    _check_typed_resolver(message, trail, found, walks)


EJECTION_MILLIS_DEFAULT = 30_000
"""``base_ejection_time`` where it is not set."""


def _check_ejection(message: Any, trail: Trail, found: Findings) -> None:
    base = millis(message.base_ejection_time) if message.HasField("base_ejection_time") else EJECTION_MILLIS_DEFAULT
    if message.HasField("max_ejection_time") and millis(message.max_ejection_time) < base:
        what = f"must not be less than base_ejection_time ({base / 1000:g}s)"
        found.add((trail, "max_ejection_time"), what)


_DENOMINATORS = {0: 100, 1: 10_000, 2: 1_000_000}
"""``envoy.type.v3.FractionalPercent.DenominatorType`` to its number."""


def _check_drops(assignment: Any, trail: Trail, found: Findings) -> None:
    """Check what an assignment has Envoy drop."""
    here, drops = ((trail, "policy"), "drop_overloads"), assignment.policy.drop_overloads
    if len(drops) > 1:
        found.add(here, f"must have at most one item, but has {len(drops)}", "Envoy has one category")
    for index, drop in enumerate(drops[:1]):
        share = drop.drop_percentage
        if share.numerator > _DENOMINATORS.get(share.denominator, share.numerator):
            found.add(((here, index), "drop_percentage"), "must be at most 100 %")


def check_assignment(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check what an assignment that is a resource of its own has Envoy drop."""
    _check_drops(message, trail, found)


def _check_dns_cluster(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    check_intervals(message.dns_failure_refresh_rate, (trail, "dns_failure_refresh_rate"), found)


def _check_logical_dns(message: Any, trail: Trail, found: Findings) -> None:
    _check_dns(message, trail, found)
    localities = message.load_assignment.endpoints
    if len(localities) != 1 or len(localities[0].lb_endpoints) != 1:
        what = "must have exactly one locality with one endpoint in a cluster of type LOGICAL_DNS"
        found.add((trail, "load_assignment"), what, "use STRICT_DNS for several")


def _check_original_dst(message: Any, trail: Trail, found: Findings) -> None:
    if message.HasField("load_assignment"):
        found.add((trail, "load_assignment"), "must not be set in a cluster of type ORIGINAL_DST")
    if message.lb_policy != message.CLUSTER_PROVIDED:
        found.add((trail, "lb_policy"), "must be CLUSTER_PROVIDED in a cluster of type ORIGINAL_DST")
    else:
        check_provided(message, "type ORIGINAL_DST", trail, found)


def _check_eds(message: Any, trail: Trail, found: Findings) -> None:
    if not message.eds_cluster_config.HasField("eds_config") and not message.eds_cluster_config.service_name.startswith(
        "xdstp://"
    ):
        hint = "for example eds_config: {ads: {}, resource_api_version: V3}"
        found.add((trail, "eds_cluster_config"), "is required in a cluster of type EDS", hint)


_CHECKS = {
    "STATIC": _check_static,
    "STRICT_DNS": _check_dns,
    "LOGICAL_DNS": _check_logical_dns,
    "ORIGINAL_DST": _check_original_dst,
    "EDS": _check_eds,
}


def _endpoints(message: Any, trail: Trail) -> list[tuple[Trail, Any]]:
    """Return the endpoints of a cluster's own assignment, with their places."""
    found: list[tuple[Trail, Any]] = []
    here = ((trail, "load_assignment"), "endpoints")
    for number, locality in enumerate(message.load_assignment.endpoints):
        for index, each in enumerate(locality.lb_endpoints):
            found.append(((((((here, number), "lb_endpoints"), index), "endpoint")), each.endpoint))
    return found


def check_eds_host(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    """Check that an endpoint has an address; Envoy does not know endpoints by their names."""
    if not message.endpoint.HasField("address"):
        found.add(((trail, "endpoint"), "address"), "is required")


CLUSTER_RULES: dict[str, Rule] = {
    "envoy.config.cluster.v3.Cluster": _check_cluster,
    "envoy.extensions.clusters.dns.v3.DnsCluster": _check_dns_cluster,
    "envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig": _check_cache,
}
"""The rules of clusters, by message type."""
