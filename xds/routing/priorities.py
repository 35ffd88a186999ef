"""How the priorities of a cluster's endpoints share the requests, by their health as the resources have it."""

from collections.abc import Sequence
from typing import Any

from xds.routing.answer import EndpointWay

_PANIC_THRESHOLD = 50.0
_OVERPROVISIONING = 140


def shares_of_priorities(cluster: Any, assignment: Any, endpoints: Sequence[EndpointWay]) -> list[str]:
    """Return how the priorities share the requests, if there are several, and which of them are in panic mode.

    The health of a priority is its healthy share times the overprovisioning factor, at most 100 %. The priorities get
    the requests in their order, healthy endpoints before degraded ones; if all of them together have less than 100 %,
    their shares grow in proportion.
    """
    groups: dict[int, list[EndpointWay]] = {}
    for each in endpoints:
        groups.setdefault(each.priority, []).append(each)
    known = sorted(groups)
    if not known:
        return []
    policy = assignment.policy
    factor = policy.overprovisioning_factor.value if policy.HasField("overprovisioning_factor") else _OVERPROVISIONING
    healths = [
        min(100, factor * sum(each.health == health for each in groups[priority]) // len(groups[priority]))
        for health in ("healthy", "degraded")
        for priority in known
    ]
    total = min(100, sum(healths))
    if total == 100:
        return _said(known, _loads(healths, total))
    if total == 0:
        loads = [100 * len(groups[priority]) / len(endpoints) for priority in known]
        return [*_said(known, loads), f"no endpoint is healthy: {_in_panic(cluster)}"]
    threshold = _threshold(cluster)
    loads = _loads(healths, total)
    few = [
        str(priority)
        for priority, load in zip(known, loads, strict=True)
        if load
        and 100 * sum(each.health in ("healthy", "degraded") for each in groups[priority]) / len(groups[priority])
        < threshold
    ]
    said = _said(known, loads)
    if few:
        said.append(f"fewer than {threshold:g}% of priority {' and '.join(few)} are healthy: {_in_panic(cluster)}")
    return said


def _loads(healths: list[int], total: int) -> list[float]:
    """Return each priority's share of the requests in percent; ``healths``: of its healthy, then its degraded ones."""
    left, loads = 100.0, []
    for health in healths:
        loads.append(min(left, 100 * health / total))
        left -= loads[-1]
    half = len(healths) // 2
    return [healthy + degraded for healthy, degraded in zip(loads[:half], loads[half:], strict=True)]


def _said(known: list[int], loads: list[float]) -> list[str]:
    if len(known) < 2:
        return []
    parts = [f"{load:.0f}% to priority {priority}" for priority, load in zip(known, loads, strict=True)]
    return [", ".join(parts) + " as far as the resources say"]


def _threshold(cluster: Any) -> float:
    config = cluster.common_lb_config
    is_given = config.HasField("healthy_panic_threshold")
    return float(config.healthy_panic_threshold.value) if is_given else _PANIC_THRESHOLD


def _in_panic(cluster: Any) -> str:
    if not _threshold(cluster) or cluster.common_lb_config.zone_aware_lb_config.fail_traffic_on_panic:
        return "requests to it fail"
    return "all its endpoints get requests (panic mode)"
