"""What is found out about the way of a request: the steps with what decided each, the doubts, and the outcome."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

PASSED_MAX = 50
"""Things of one step that are named with the reason why they don't take the request."""
DOUBTS_MAX = 100
"""Doubts of one answer."""
CLUSTERS_MAX = 100
"""Clusters of one answer whose endpoints are looked up, those of aggregates among them."""


@dataclass(frozen=True, slots=True)
class Passed:
    """Something that was looked at and does not take the request."""

    what: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One decision, and ``what`` was chosen.

    ``stage``: listener, filter chain, normalization, scope, routes, virtual host, matcher, route, cluster.
    """

    stage: str
    what: str
    because: str
    passed: tuple[Passed, ...] = ()


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something that the resources alone don't decide, and what it could change."""

    at: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointWay:
    """One endpoint of a cluster, as the resources have it: ``health`` without what active checks find."""

    address: str
    health: str
    weight: int
    priority: int
    locality: str
    locality_weight: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterWay:
    """One cluster that may get the request. ``share``: of the requests, 0 to 1; ``kind``: how it finds endpoints.

    ``through`` has the clusters of an aggregate, in their order. ``found``: whether the group has the cluster.
    """

    name: str
    share: float = 1.0
    found: bool = True
    kind: str = ""
    policy: str = ""
    note: str = ""
    endpoints_total: int = 0
    endpoints: tuple[EndpointWay, ...] = ()
    through: tuple["ClusterWay", ...] = ()
    host: str = ""
    """The host that is sent upstream, where the weighted cluster has one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of the request.

    ``kind`` is ``clusters``, ``redirect``, ``direct_response``, ``error`` (Envoy answers or closes by itself) or
    ``unknown``. ``status`` is that of Envoy's own answer, None if there is none.
    """

    kind: str
    what: str
    status: int | None = None
    location: str = ""
    body: str = ""
    clusters: tuple[ClusterWay, ...] = ()
    path: str = ""
    """The path that is sent upstream."""
    host: str = ""
    """The host that is sent upstream."""
    about: dict[str, str] = field(default_factory=dict)
    """Further settings of the route: timeout, retries, mirrors, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The way of one request."""

    request: dict[str, str]
    steps: tuple[Step, ...]
    doubts: tuple[Doubt, ...]
    outcome: Outcome

    @property
    def is_certain(self) -> bool:
        """Whether the resources alone decide the way."""
        return not self.doubts and self.outcome.kind != "unknown"


class EndOfWayError(Exception):
    """The way ends here, with an outcome."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.what)
        self.outcome = outcome


class Notes:
    """Collects the steps and doubts of one evaluation."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.doubts: list[Doubt] = []
        self._clusters_left = CLUSTERS_MAX

    def step(self, stage: str, what: str, because: str, passed: Iterable[Passed] = ()) -> None:
        """Add a step."""
        listed = list(passed)
        if len(listed) > PASSED_MAX:
            rest = len(listed) - PASSED_MAX
            listed[PASSED_MAX:] = [Passed(f"{rest:,} more", "they don't take it either")]
        self.steps.append(Step(stage=stage, what=what, because=because, passed=tuple(listed)))

    def doubt(self, at: str, what: str) -> None:
        """Add a doubt, once."""
        doubt = Doubt(at, what)
        if doubt not in self.doubts and len(self.doubts) < DOUBTS_MAX:
            self.doubts.append(doubt)

    def may_look_up_cluster(self) -> bool:
        """Count a cluster, and return whether the answer may have its endpoints too."""
        self._clusters_left -= 1
        return self._clusters_left >= 0

    def answer(self, request: dict[str, str], outcome: Outcome) -> Answer:
        """Return the answer."""
        return Answer(request=request, steps=tuple(self.steps), doubts=tuple(self.doubts), outcome=outcome)


def answer_json(answer: Answer) -> dict[str, Any]:
    """Return an answer as JSON."""
    outcome = answer.outcome
    told: dict[str, Any] = {"kind": outcome.kind, "what": outcome.what}
    told |= {
        key: value
        for key in ("status", "location", "body", "path", "host", "about")
        if (value := getattr(outcome, key)) not in (None, "", {})
    }
    if outcome.clusters:
        told["clusters"] = [_cluster_json(each) for each in outcome.clusters]
    return {
        "request": answer.request,
        "certain": answer.is_certain,
        "steps": [
            {
                "stage": each.stage,
                "what": each.what,
                "because": each.because,
                "passed": [{"what": one.what, "because": one.because} for one in each.passed],
            }
            for each in answer.steps
        ],
        "doubts": [{"at": each.at, "what": each.what} for each in answer.doubts],
        "outcome": told,
    }


def _cluster_json(way: ClusterWay) -> dict[str, Any]:
    told: dict[str, Any] = {"name": way.name, "share": round(way.share, 6), "found": way.found}
    told |= {key: value for key in ("kind", "policy", "note", "host") if (value := getattr(way, key))}
    if way.found:
        told["endpoints_total"] = way.endpoints_total
        told["endpoints"] = [
            {
                "address": each.address,
                "health": each.health,
                "weight": each.weight,
                "priority": each.priority,
                "locality": each.locality,
                "locality_weight": each.locality_weight,
            }
            for each in way.endpoints
        ]
    if way.through:
        told["through"] = [_cluster_json(each) for each in way.through]
    return told
