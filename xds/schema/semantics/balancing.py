"""Load balancing: tables and rings that Envoy can make, subsets that narrow down, policies that fit the cluster."""

from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import Trail
from xds.schema.semantics.categories import may_be
from xds.schema.semantics.filters import extension_type
from xds.schema.semantics.rule import Rule, Walks

RING_MIN_DEFAULT, RING_MAX_DEFAULT = 1024, 8 * 1024 * 1024
"""The sizes of a ring that is given none."""
DIVISORS_MAX = 1 << 16
_CATEGORY = "envoy.load_balancing_policies"
_CLUSTER = "envoy.config.cluster.v3.Cluster"
_POLICIES = "envoy.extensions.load_balancing_policies."


def check_balancing(message: Any, trail: Trail, found: Findings) -> None:
    """Check the load balancing of a cluster. Envoy reads the fields of the policy that it uses alone."""
    uses_policy = message.HasField("load_balancing_policy")
    if message.lb_subset_config.subset_selectors and message.lb_policy == message.CLUSTER_PROVIDED:
        found.add((trail, "lb_subset_config"), "must not be set with lb_policy CLUSTER_PROVIDED")
    elif message.HasField("lb_subset_config") and uses_policy:
        hint = "use the policy envoy.extensions.load_balancing_policies.subset.v3.Subset"
        found.add((trail, "lb_subset_config"), "excludes load_balancing_policy", hint)
    if not uses_policy and message.lb_policy == message.LOAD_BALANCING_POLICY_CONFIG:
        hint = f"for example {_POLICIES}round_robin.v3.RoundRobin"
        found.add((trail, "load_balancing_policy"), "is required with lb_policy LOAD_BALANCING_POLICY_CONFIG", hint)
    if not uses_policy and message.lb_policy == message.RING_HASH:
        check_ring(message.ring_hash_lb_config, (trail, "ring_hash_lb_config"), found)
    if not uses_policy and message.lb_policy == message.MAGLEV:
        check_table(message.maglev_lb_config, (trail, "maglev_lb_config"), found)


def check_ring(message: Any, trail: Trail, found: Findings) -> None:
    """Check the sizes of the ring of a ring hash."""
    least = message.minimum_ring_size.value if message.HasField("minimum_ring_size") else RING_MIN_DEFAULT
    most = message.maximum_ring_size.value if message.HasField("maximum_ring_size") else RING_MAX_DEFAULT
    if least > most:
        field = "maximum_ring_size" if message.HasField("maximum_ring_size") else "minimum_ring_size"
        hint = f"the defaults are {RING_MIN_DEFAULT:,} and {RING_MAX_DEFAULT:,}"
        found.add((trail, field), f"makes a ring of at least {least:,} and at most {most:,} entries", hint)


def check_table(message: Any, trail: Trail, found: Findings) -> None:
    """Check the size of the table of Maglev. With 1, Envoy 1.40 ends with a segmentation fault."""
    if message.HasField("table_size") and not _is_prime(message.table_size.value):
        what = f"must be a prime number, but is {message.table_size.value}"
        found.add((trail, "table_size"), what, "the default is 65537")


def _is_prime(number: int) -> bool:
    """Return whether a number is prime; a rule of the API limits it to some millions."""
    return number > 1 and all(number % divisor for divisor in range(2, min(int(number**0.5), DIVISORS_MAX) + 1))


def _check_selector(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    keys, narrowed = set(message.keys), set(message.fallback_keys_subset)
    here = (trail, "fallback_keys_subset")
    if message.fallback_policy != message.KEYS_SUBSET:
        if narrowed:
            found.add(here, "must not be set without the fallback policy KEYS_SUBSET")
    elif not narrowed or not narrowed < keys:
        found.add(here, "must be some but not all of keys, as the fallback policy is KEYS_SUBSET")


def _check_policies(message: Any, trail: Trail, found: Findings, walks: Walks) -> None:
    """Check that Envoy finds a policy: it uses the first one that it knows."""
    types = [extension_type(each.typed_extension_config.typed_config) for each in message.policies]
    if not any(full_name and may_be(full_name, (_CATEGORY,), walks) for full_name in types):
        what = "has no load balancing policy" + (f": {', '.join(types)}" if any(types) else "")
        found.add((trail, "policies"), what, f"for example {_POLICIES}round_robin.v3.RoundRobin")


def _ring(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    check_ring(message, trail, found)


def _table(message: Any, trail: Trail, found: Findings, _: Walks) -> None:
    check_table(message, trail, found)


BALANCING_RULES: dict[str, Rule] = {
    _POLICIES + "ring_hash.v3.RingHash": _ring,
    _POLICIES + "maglev.v3.Maglev": _table,
    f"{_CLUSTER}.LbSubsetConfig.LbSubsetSelector": _check_selector,
    _POLICIES + "subset.v3.Subset.LbSubsetSelector": _check_selector,
    "envoy.config.cluster.v3.LoadBalancingPolicy": _check_policies,
}
