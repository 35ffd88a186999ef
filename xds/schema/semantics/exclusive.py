"""Pairs of fields of which Envoy takes one."""

from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import Trail
from xds.schema.semantics.rule import Rule, Walks

_HTTP = "envoy.extensions.filters.http."
_NETWORK = "envoy.extensions.filters.network."

EXCLUSIVE: dict[str, tuple[str, str]] = {
    _HTTP + "ext_authz.v3.CheckSettings": ("disable_request_body_buffering", "with_request_body"),
    _HTTP + "ext_proc.v3.ExternalProcessor": ("disable_clear_route_cache", "route_cache_action"),
    _HTTP + "lua.v3.Lua": ("inline_code", "default_source_code"),
    _NETWORK + "dubbo_proxy.v3.DubboProxy": ("multiple_route_config", "route_config"),
    _NETWORK + "thrift_proxy.v3.ThriftProxy": ("trds", "route_config"),
    "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig": ("use_per_packet_load_balancing", "tunneling_config"),
    "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig": ("xff_num_trusted_hops", "xff_trusted_cidrs"),
}
"""Full names of messages to their two fields."""


def _rule(first: str, second: str) -> Rule:
    def check(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
        if {first, second} <= {field.name for field, _ in message.ListFields()}:
            found.add((trail, second), f"excludes {first}", "use one of both")

    return check


EXCLUSIVE_RULES: dict[str, Rule] = {message: _rule(*fields) for message, fields in EXCLUSIVE.items()}
"""The rules of these messages."""
