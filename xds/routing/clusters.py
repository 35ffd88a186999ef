"""The endpoints of a cluster, as the resources have them: static, by EDS, by DNS, or of other clusters."""

from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format

from xds.model.types import CLUSTER, ENDPOINTS, LOCALITY_ENDPOINTS
from xds.routing.answer import ClusterWay, EndpointWay, Notes
from xds.routing.fields import optional
from xds.routing.priorities import shares_of_priorities
from xds.routing.resources import Resources

ENDPOINTS_MAX = 100
"""Endpoints of a cluster that are named."""
AGGREGATE_DEPTH_MAX = 8
MEMBERS_MAX = 100
"""Clusters of an aggregate that are named."""
_AGGREGATE = "envoy.extensions.clusters.aggregate.v3.ClusterConfig"
_ELSEWHERE = {
    "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig": "DNS, by the host of the request",
    "envoy.extensions.clusters.redis.v3.RedisClusterConfig": "the nodes of a Redis cluster",
}
_SUBSETS = "envoy.lb"
_HEALTH = {0: "healthy", 1: "healthy", 2: "unhealthy", 3: "draining", 4: "timeout", 5: "degraded"}


def way_of(
    resources: Resources,
    notes: Notes,
    name: str,
    *,
    share: float = 1.0,
    subset: Any = None,
    within: tuple[str, ...] = (),
) -> ClusterWay:
    """Return a cluster and its endpoints.

    ``subset`` is the ``metadata_match`` of the route, a Metadata message. ``within``: the aggregates that have the
    cluster, outermost first.
    """
    cluster = resources.get(CLUSTER, name)
    if cluster is None:
        notes.doubt(f"clusters/{name}", "the group lacks it; only Envoy's own bootstrap may have it")
        note = "the group has no cluster of this name: unless Envoy's bootstrap has it, the request fails"
        return ClusterWay(name=name, share=share, found=False, note=note)
    if not notes.may_look_up_cluster():
        return ClusterWay(name=name, share=share, note="its endpoints are not listed here")
    if cluster.HasField("cluster_type"):
        return _custom(resources, notes, cluster, share, within)
    return _with_endpoints(resources, cluster, share, subset)


def _with_endpoints(resources: Resources, cluster: Any, share: float, subset: Any) -> ClusterWay:
    name = cluster.name
    kind = cluster.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[cluster.type].name
    if kind == "ORIGINAL_DST":
        note = "the connection's original destination, or the header that original_dst_lb_config names"
        return ClusterWay(name=name, share=share, kind=kind, note=note)
    assignment, note = cluster.load_assignment, ""
    if kind == "EDS":
        service = cluster.eds_cluster_config.service_name or name
        assignment = resources.get(ENDPOINTS, service)
        if assignment is None:
            note = f"the group has no endpoints/{service}: no endpoint, the request fails with 503"
            return ClusterWay(name=name, share=share, kind=kind, policy=_policy(cluster), note=note)
    elif kind in ("STRICT_DNS", "LOGICAL_DNS"):
        note = "the addresses are what DNS answers to Envoy"
    endpoints = list(_endpoints(resources, assignment))
    notes = [note] if note else []
    if cluster.lb_subset_config.subset_selectors:  # without any, Envoy has no subsets
        endpoints, said = _subset(cluster, endpoints, subset)
        notes.append(said)
        if cluster.lb_subset_config.panic_mode_any:
            notes.append("panic_mode_any may take any endpoint")
        if optional(cluster.lb_subset_config, "metadata_fallback_policy"):
            notes.append("fallback_list in the metadata may choose another subset")
    if cluster.health_checks or cluster.HasField("outlier_detection"):
        notes.append("active health checks and outlier detection may exclude endpoints")
    notes += _drops(assignment)
    shown = tuple(each for each, _ in endpoints)
    return ClusterWay(
        name=name,
        share=share,
        kind=kind,
        policy=_policy(cluster),
        note="; ".join(notes + shares_of_priorities(cluster, assignment, shown)),
        endpoints_total=len(shown),
        endpoints=shown[:ENDPOINTS_MAX],
    )


def _custom(resources: Resources, notes: Notes, cluster: Any, share: float, within: tuple[str, ...]) -> ClusterWay:
    type_name = cluster.cluster_type.typed_config.type_url.rpartition("/")[2]
    kind = cluster.cluster_type.name
    if type_name != _AGGREGATE:
        note = _ELSEWHERE.get(type_name, f"a cluster of the kind {kind}, whose endpoints the resources don't say")
        return ClusterWay(name=cluster.name, share=share, kind=kind, note=note)
    if cluster.name in within or len(within) >= AGGREGATE_DEPTH_MAX:
        is_circle = cluster.name in within
        note = (
            "it has itself among its clusters" if is_circle else f"aggregates nest more than {AGGREGATE_DEPTH_MAX} deep"
        )
        notes.doubt(f"clusters/{cluster.name}", note)
        return ClusterWay(name=cluster.name, share=share, kind=kind, note=note)
    names = list(dict.fromkeys(resources.unpack(cluster.cluster_type.typed_config).clusters))
    within = (*within, cluster.name)
    through = tuple(way_of(resources, notes, each, within=within) for each in names[:MEMBERS_MAX])
    note = "the first of these clusters with healthy endpoints gets the request"
    if len(names) > MEMBERS_MAX:
        note += f"; {len(names) - MEMBERS_MAX} more are not listed here"
    return ClusterWay(name=cluster.name, share=share, kind=kind, note=note, through=through)


def _policy(cluster: Any) -> str:
    if cluster.HasField("load_balancing_policy"):
        names = [each.typed_extension_config.name for each in cluster.load_balancing_policy.policies]
        return names[0] if names else ""
    return str(cluster.DESCRIPTOR.fields_by_name["lb_policy"].enum_type.values_by_number[cluster.lb_policy].name)


def _endpoints(resources: Resources, assignment: Any) -> Iterator[tuple[EndpointWay, Any]]:
    """Yield the endpoints of an assignment, by priority, each with its metadata."""
    for locality in sorted(assignment.endpoints, key=lambda each: int(each.priority)):
        place = "/".join(filter(None, (locality.locality.region, locality.locality.zone, locality.locality.sub_zone)))
        weight = locality.load_balancing_weight.value if locality.HasField("load_balancing_weight") else None
        members = list(locality.lb_endpoints)
        if locality.HasField("leds_cluster_locality_config"):
            collection = locality.leds_cluster_locality_config.leds_collection_name.rpartition("/")[0]
            members = [each for name, each in resources.all(LOCALITY_ENDPOINTS) if name.startswith(f"{collection}/")]
        for each in members:
            yield (
                EndpointWay(
                    address=_address(resources, assignment, each),
                    health=_HEALTH.get(each.health_status, str(each.health_status)),
                    weight=each.load_balancing_weight.value if each.HasField("load_balancing_weight") else 1,
                    priority=locality.priority,
                    locality=place,
                    locality_weight=weight,
                ),
                each.metadata,
            )


def _address(resources: Resources, assignment: Any, member: Any) -> str:
    endpoint = member.endpoint
    if member.WhichOneof("host_identifier") == "endpoint_name":
        if member.endpoint_name not in assignment.named_endpoints:
            return f"the named endpoint {member.endpoint_name}"
        endpoint = assignment.named_endpoints[member.endpoint_name]
    address = endpoint.address
    kind = address.WhichOneof("address")
    if kind == "pipe":
        return str(address.pipe.path)
    if kind == "envoy_internal_address":
        name = address.envoy_internal_address.server_listener_name
        return f"internal listener {name}, whose own way is not followed"
    host = address.socket_address.address
    return (
        f"[{host}]:{address.socket_address.port_value}"
        if ":" in host
        else f"{host}:{address.socket_address.port_value}"
    )


_FALLBACKS = {0: "NO_FALLBACK", 1: "ANY_ENDPOINT", 2: "DEFAULT_SUBSET"}
_SELECTORS_FALLBACKS = {1: "NO_FALLBACK", 2: "ANY_ENDPOINT", 3: "DEFAULT_SUBSET", 4: "KEYS_SUBSET"}


def _subset(cluster: Any, endpoints: list[Any], wanted: Any) -> tuple[list[Any], str]:
    """Return the endpoints of the subset that a route asks for, and which one it is."""
    given = {} if wanted is None else wanted.filter_metadata
    return _subset_of(cluster, endpoints, dict(given[_SUBSETS].fields) if _SUBSETS in given else {})


def _subset_of(cluster: Any, endpoints: list[Any], fields: dict[str, Any]) -> tuple[list[Any], str]:
    said = ", ".join(f"{key}={_shown(value)}" for key, value in sorted(fields.items()))
    config = cluster.lb_subset_config
    selector = next((each for each in config.subset_selectors if fields and set(each.keys) == fields.keys()), None)
    fits = [pair for pair in endpoints if _has_all(pair[1], fields, config.list_as_any)]
    if selector is not None and fits:
        return fits, f"the subset {said}"
    own = _SELECTORS_FALLBACKS.get(selector.fallback_policy) if selector is not None else None
    policy = own or _FALLBACKS[config.fallback_policy]
    why = f"no subset of the cluster is {said}" if fields else "the route asks for no subset"
    if policy == "KEYS_SUBSET" and selector is not None:
        kept = {key: value for key, value in fields.items() if key in selector.fallback_keys_subset}
        found, then = _subset_of(cluster, endpoints, kept)
        return found, f"{why}, and its fallback is {', '.join(sorted(kept))}: {then}"
    if policy == "ANY_ENDPOINT":
        return endpoints, f"{why}, and its fallback is any endpoint"
    if policy == "DEFAULT_SUBSET":
        default = dict(config.default_subset.fields)
        found = [pair for pair in endpoints if _has_all(pair[1], default, config.list_as_any)]
        return found, f"{why}, and its fallback is default_subset"
    return [], f"{why}, and it has no fallback: the request fails with 503"


def _has_all(metadata: Any, fields: dict[str, Any], list_as_any: bool) -> bool:
    """Return whether an endpoint has all values. ``list_as_any``: one of a list's values is enough."""
    own = metadata.filter_metadata[_SUBSETS].fields if _SUBSETS in metadata.filter_metadata else {}

    def has(key: str, value: Any) -> bool:
        if key not in own:
            return False
        is_list = list_as_any and own[key].HasField("list_value")
        return value in own[key].list_value.values if is_list else bool(own[key] == value)

    return all(has(key, value) for key, value in fields.items())


def _shown(value: Any) -> str:
    return str(json_format.MessageToDict(value))


def _drops(assignment: Any) -> list[str]:
    parts = []
    for each in assignment.policy.drop_overloads:
        share = each.drop_percentage
        denominator = (100, 10_000, 1_000_000)[share.denominator]
        parts.append(f"{share.numerator / denominator:.2%} are dropped ({each.category})")
    return parts
