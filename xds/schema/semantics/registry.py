"""All semantic rules, by the full name of the message type that they check."""

from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import Trail
from xds.schema.semantics.categories import CATEGORY_RULES
from xds.schema.semantics.clusters import CLUSTER_RULES, check_eds_address
from xds.schema.semantics.filters import FILTER_RULES
from xds.schema.semantics.listeners import LISTENER_RULES
from xds.schema.semantics.routes import ROUTE_RULES
from xds.schema.semantics.rule import Rule, Walks
from xds.schema.semantics.texts import TEXT_RULES
from xds.schema.semantics.tls import TLS_RULES

__all__ = ["EDS_RULES", "RULES", "Rule"]


def _both(first: Rule, second: Rule) -> Rule:
    def check(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
        first(message, trail, found, walks)
        second(message, trail, found, walks)

    return check


_OWN_RULES: dict[str, Rule] = {
    **TEXT_RULES,
    **ROUTE_RULES,
    **LISTENER_RULES,
    **CLUSTER_RULES,
    **FILTER_RULES,
    **TLS_RULES,
}
RULES: dict[str, Rule] = {
    **CATEGORY_RULES,
    **{
        name: _both(CATEGORY_RULES[name], rule) if name in CATEGORY_RULES else rule for name, rule in _OWN_RULES.items()
    },
}
"""Rules that hold wherever the message stands."""

EDS_RULES: dict[str, Rule] = {"envoy.config.core.v3.SocketAddress": check_eds_address}
"""Rules that hold only inside a ``ClusterLoadAssignment`` that is a resource of its own."""
