"""What a hub counts by group and type, and the times that changes and clients take.

A fleet takes the same step one client after the other, so the hub counts equal deliveries and ACKs within a short time
as one.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, fields

from xds.model.types import SHORT_NAMES
from xds.protocol.draining import NEVER
from xds.protocol.responses import Part
from xds.telemetry.histogram import Histogram

OTHER = "other"
"""Stands for groups and types that have no count of their own."""
NOBODY = ("", "")
"""The group and the type of a request that was refused before both were known."""
GROUPS_MAX = 10_000
"""Maximum groups with counts of their own since the start of a process."""
COMMITS_MAX = 4_096
"""Maximum revisions whose commit times are kept; beyond, every other one of the older half is forgotten."""
_TYPES = frozenset(SHORT_NAMES.values())


@dataclass(slots=True)
class Traffic:
    """What was sent and received of one type in one group."""

    requests: int = 0
    responses: int = 0
    response_bytes: int = 0
    resources: int = 0
    removals: int = 0
    acks: int = 0
    nacks: int = 0

    def count_sent(self, part: Part, times: int) -> None:
        """Count a message that was sent to ``times`` streams."""
        self.responses += times
        self.response_bytes += times * len(part.message)
        self.resources += times * len(part.upserts)
        self.removals += times * len(part.removals)

    def add(self, other: "Traffic") -> None:
        """Add the numbers of another one."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


class Measures:
    """Counts by group and type, and histograms of times. Pickled, it is a message to the process that adds them up."""

    __slots__ = (
        *("_groups", "accepted", "sent", "synced", "traffic"),
        *("computed_requests", "computed_responses", "response_hits", "response_misses"),
    )

    def __init__(self) -> None:
        self._groups: set[str] = set()
        """The groups with counts of their own."""
        self.traffic: dict[tuple[str, str], Traffic] = {}
        """By group and type URL. ``OTHER`` stands for types without a short name."""
        self.sent = Histogram()
        """From the commit of a revision until a response that brings it is handed to the transport, per response."""
        self.accepted: dict[str, Histogram] = {}
        """By group: from the commit of the oldest revision that a client owed until it accepted it."""
        self.synced = Histogram()
        """From the first request of a client until it had accepted everything that it subscribed to."""

        self.computed_requests = 0
        """The requests whose step was not cached."""
        self.computed_responses = 0
        """The responses whose step was not cached."""
        self.response_hits = 0
        """How often a computed step found its response in the cache of responses."""
        self.response_misses = 0
        """How often it did not."""

    def count_computed(self, *, requests: int = 0, responses: int = 0) -> None:
        """Count requests and responses whose step was not cached."""
        self.computed_requests += requests
        self.computed_responses += responses

    def count_looked_up(self, hits: int, misses: int) -> None:
        """Count responses that were looked for in the cache."""
        self.response_hits += hits
        self.response_misses += misses

    def of(self, group: str, type_url: str) -> Traffic:
        """Return the counts of a type in a group, to add to."""
        key = (group, type_url)
        found = self.traffic.get(key)
        if found is None:
            known = type_url if type_url in _TYPES or key == NOBODY else OTHER
            found = self.traffic.setdefault((self._counted(group), known), Traffic())
        return found

    def _counted(self, group: str) -> str:
        """Return the group that a group is counted as: itself, or ``OTHER``."""
        if group not in self._groups:
            if len(self._groups) >= GROUPS_MAX:
                return OTHER
            self._groups.add(group)
        return group

    def times_of(self, group: str) -> Histogram:
        """Return the times of a group's clients to accept, to add to."""
        found = self.accepted.get(group)
        if found is None:
            found = self.accepted.setdefault(self._counted(group), Histogram())
        return found

    def add(self, other: "Measures") -> None:
        """Add all of another one."""
        for (group, type_url), traffic in other.traffic.items():
            self.of(group, type_url).add(traffic)
        for group, times in other.accepted.items():
            self.times_of(group).add(times)
        self.sent.add(other.sent)
        self.synced.add(other.synced)
        self.count_computed(requests=other.computed_requests, responses=other.computed_responses)
        self.count_looked_up(other.response_hits, other.response_misses)

    def all_accepted(self) -> Histogram:
        """Return the times of all groups' clients to accept."""
        return Histogram.sum(self.accepted.values())

    def totals(self) -> Mapping[str, int]:
        """Return the sums over all groups and types, by the names of ``Traffic``."""
        total = Traffic()
        for each in self.traffic.values():
            total.add(each)
        return {each.name: getattr(total, each.name) for each in fields(total)}


class Commits:
    """When revisions were committed, on the clock of the hub. Of old revisions some are forgotten."""

    __slots__ = ("_revisions", "_times")

    def __init__(self) -> None:
        self._revisions: list[int] = []
        self._times: list[float] = []

    def note(self, revision: int, at: float) -> None:
        """Note when a revision was committed; they are noted in order."""
        if self._revisions and revision <= self._revisions[-1]:
            return
        self._revisions.append(revision)
        self._times.append(at)
        if len(self._revisions) > COMMITS_MAX:
            half = COMMITS_MAX // 2
            self._revisions[:half] = self._revisions[:half:2]
            self._times[:half] = self._times[:half:2]

    def at(self, revision: int) -> float | None:
        """Return when a revision was committed; of a forgotten one, the next one's time. None if it is not known."""
        index = bisect_left(self._revisions, revision)
        if index == len(self._revisions) or revision < self._revisions[0]:
            return None
        return self._times[index]


COHORTS_MAX = 16
"""Different deliveries that are counted at once."""
COHORTS_S = 0.05
"""How long deliveries that bring no revision wait to be counted, in seconds."""


class Cohort:
    """Deliveries of one part to clients of one group, not counted yet; ``state`` is one that they have then.

    ``at``: when the revision that the part brings was committed, None if it brings none, as to clients that have just
    come. The hub counts a delivery by ``count += 1``.
    """

    __slots__ = ("at", "count", "group", "part", "state")

    def __init__(self, part: Part | None, group: str, state: object, at: float | None) -> None:
        self.part = part
        self.group = group
        self.state = state
        self.at = at
        self.count = 0


class Cohorts:
    """The deliveries that are not counted yet: of one part to a fleet, or in turns to clients that connect."""

    __slots__ = ("_begun", "_nobody", "last", "until")

    def __init__(self) -> None:
        self._nobody = Cohort(None, "", None, None)
        self._begun: dict[tuple[int, int, str], tuple[Part, Cohort]] = {}
        """By the identities of the part and of the state, which the cohort holds, and the group."""
        self.last = self._nobody
        """The cohort of the last delivery, or one of nothing."""
        self.until = NEVER
        """When they must be counted, once the clock has moved on."""

    @property
    def is_full(self) -> bool:
        """Say whether they must be counted before another one begins."""
        return len(self._begun) >= COHORTS_MAX

    def find(self, part: Part, group: str, state: object) -> Cohort | None:
        """Return the cohort of a delivery, from now on the last one; None if it has none yet."""
        found = self._begun.get((id(part), id(state), group))
        if found is None:
            return None
        self.last = found[1]
        return self.last

    def begin(self, part: Part, group: str, state: object, at: float | None, now: float) -> Cohort:
        """Return a new cohort, from now on the last one. The times of a revision are those of its deliveries."""
        cohort = self.last = Cohort(part, group, state, at)
        self._begun[id(part), id(state), group] = part, cohort
        self.until = min(self.until, now if at is not None else now + COHORTS_S)
        return cohort

    def take(self) -> list[tuple[Part, str, int, float | None]]:
        """Return part, group, number and ``at`` of each cohort, and begin anew."""
        begun, self._begun = self._begun, {}
        self.last, self.until = self._nobody, NEVER
        return [(part, cohort.group, cohort.count, cohort.at) for part, cohort in begun.values()]
