"""All semantic rules, by the full name of the message type that they check."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import Trail
from xds.schema.semantics.balancing import BALANCING_RULES
from xds.schema.semantics.categories import CATEGORY_RULES
from xds.schema.semantics.clusters import CLUSTER_RULES, check_assignment, check_eds_address, check_eds_host
from xds.schema.semantics.defaults import DEFAULT_RULES
from xds.schema.semantics.exclusive import EXCLUSIVE_RULES
from xds.schema.semantics.filter_configs import FILTER_CONFIG_RULES
from xds.schema.semantics.filters import FILTER_RULES
from xds.schema.semantics.format_fields import FORMAT_RULES
from xds.schema.semantics.health_checks import HEALTH_RULES
from xds.schema.semantics.listeners import LISTENER_RULES
from xds.schema.semantics.matchers import MATCHER_RULES
from xds.schema.semantics.per_route import PER_ROUTE_RULES
from xds.schema.semantics.routes import ROUTE_RULES
from xds.schema.semantics.rule import Rule, Walks
from xds.schema.semantics.texts import TEXT_RULES
from xds.schema.semantics.tls import TLS_RULES

__all__ = ["EDS_RULES", "RULES", "Rule"]


def _all(rules: Sequence[Rule]) -> Rule:
    def check(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
        for rule in rules:
            rule(message, trail, found, walks)

    return rules[0] if len(rules) == 1 else check


_TABLES: tuple[dict[str, Rule], ...] = (
    CATEGORY_RULES,
    MATCHER_RULES,
    PER_ROUTE_RULES,
    TEXT_RULES,
    FORMAT_RULES,
    EXCLUSIVE_RULES,
    ROUTE_RULES,
    LISTENER_RULES,
    CLUSTER_RULES,
    BALANCING_RULES,
    HEALTH_RULES,
    FILTER_RULES,
    FILTER_CONFIG_RULES,
    TLS_RULES,
    DEFAULT_RULES,
)
RULES: dict[str, Rule] = {
    name: _all([table[name] for table in _TABLES if name in table]) for name in dict.fromkeys(chain(*_TABLES))
}
"""Rules that hold wherever the message stands."""

EDS_RULES: dict[str, Rule] = {
    "envoy.config.core.v3.SocketAddress": check_eds_address,
    "envoy.config.endpoint.v3.ClusterLoadAssignment": check_assignment,
    "envoy.config.endpoint.v3.LbEndpoint": check_eds_host,
}
"""Rules that hold only inside a ``ClusterLoadAssignment`` that is a resource of its own."""
