"""Clusters of a ``cluster_type``: names that Envoy knows, and load balancing that they bring or lack."""

from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import Trail
from xds.schema.rules import shown
from xds.schema.semantics.filters import extension_type, unpacked
from xds.schema.semantics.rule import Walks
from xds.schema.semantics.upstreams import http_options, options_place

_CLUSTERS = "envoy.extensions.clusters."
_PROVIDED = "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided"
_FORWARD_PROXY = _CLUSTERS + "dynamic_forward_proxy.v3.ClusterConfig"
NAMES = frozenset(
    {
        *(f"envoy.cluster.{kind}" for kind in ("static", "eds", "strict_dns", "logical_dns", "dns", "original_dst")),
        *(f"envoy.clusters.{kind}" for kind in ("aggregate", "composite", "dynamic_forward_proxy", "dynamic_modules")),
        *(f"envoy.clusters.{kind}" for kind in ("mcp_multicluster", "redis", "reverse_connection")),
    }
)
"""The names by which Envoy finds a cluster type that has no configuration."""
_BALANCING = frozenset(
    {
        _CLUSTERS + "aggregate.v3.ClusterConfig",
        _CLUSTERS + "composite.v3.ClusterConfig",
        _CLUSTERS + "reverse_connection.v3.ReverseConnectionClusterConfig",
        _FORWARD_PROXY,
    }
)
"""Types of clusters that balance by themselves, and by nothing else."""
_NOT_BALANCING = frozenset({_CLUSTERS + "dns.v3.DnsCluster"})


def check_custom(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    """Check a cluster whose discovery is a ``cluster_type``."""
    if not walks.schema.is_packaged:
        return
    kind = message.cluster_type
    full_name = extension_type(kind.typed_config)
    if not full_name:
        if kind.name and kind.name not in NAMES:
            hint = f"known ones: {', '.join(sorted(NAMES))}"
            found.add(
                ((trail, "cluster_type"), "name"), f"is {shown(kind.name)}, a cluster type that Envoy lacks", hint
            )
        return
    if full_name in _BALANCING:
        check_provided(message, full_name, trail, found)
    elif full_name in _NOT_BALANCING and _asks_cluster(message):
        found.add((trail, "lb_policy"), f"must not be CLUSTER_PROVIDED with {full_name}, which provides nothing")
    if full_name == _FORWARD_PROXY:
        _check_forward_proxy(message, trail, found, walks)


def _asks_cluster(message: Any) -> bool:
    return message.lb_policy == message.CLUSTER_PROVIDED and not message.HasField("load_balancing_policy")


def check_provided(message: Any, kind: str, trail: Trail, found: Findings) -> None:
    """Check the load balancing of a cluster that balances by itself."""
    if not message.HasField("load_balancing_policy"):
        if message.lb_policy != message.CLUSTER_PROVIDED:
            found.add((trail, "lb_policy"), f"must be CLUSTER_PROVIDED with {kind}, which balances by itself")
        return
    types = [
        extension_type(each.typed_extension_config.typed_config) for each in message.load_balancing_policy.policies
    ]
    if types and types[0].startswith("envoy.extensions.load_balancing_policies.") and types[0] != _PROVIDED:
        what = f"must be {_PROVIDED} with {kind}, which balances by itself"
        found.add((trail, "load_balancing_policy"), what, "leave it out, and set lb_policy to CLUSTER_PROVIDED")


def _check_forward_proxy(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    """Check that the names of a dynamic forward proxy's TLS connections are verified."""
    options, packed = http_options(message, walks), message.cluster_type.typed_config
    config = unpacked(packed, _FORWARD_PROXY, walks)
    if options is None or config is None:
        return
    chosen = options.upstream_http_protocol_options
    is_verified = chosen.auto_sni and chosen.auto_san_validation
    if is_verified or config.allow_insecure_cluster_options:
        return
    what = "must have auto_sni and auto_san_validation in a dynamic forward proxy"
    hint = "or set allow_insecure_cluster_options of its cluster_type"
    found.add((options_place(message, trail), "upstream_http_protocol_options"), what, hint)
