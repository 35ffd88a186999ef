"""Faults of the core that the simulation found and that are not mended yet. What is mended is to be taken out here.

Runs that end in one of these are counted apart; each entry is as narrow as what a failure says allows.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulation.envoy import Envoy
    from simulation.world import Failure


@dataclass(frozen=True, slots=True)
class Known:
    """A fault: what it is, what runs say that end in it, and of which clients."""

    what: str
    says: str
    of: Callable[["Envoy"], bool] = lambda _: True


KNOWN = (
    Known(
        "SotW: rejected clusters that nothing serves any more stay in every response, or hold back what mends them",
        r"in the end|worked before|which are not there",
        lambda envoy: not envoy.delta and envoy.has_rejected,
    ),
    Known(
        "a route goes to a rejected cluster: after a return its endpoints, asked for before, are taken for a sign that"
        " it was accepted; or the route was removed meanwhile, and a draining listener still uses it",
        r"worked before, now uses .*, which were rejected",
    ),
    Known(
        "delta per type: endpoints are sent on a stream that did not subscribe to them, as the node rejected them on"
        " another",
        r"is sent EDS .* to which it has not subscribed",
        lambda envoy: envoy.delta and envoy.per_type,
    ),
    Known("endpoints are sent in a version that no snapshot has any more", r"is sent EDS .*, which is an older one"),
    Known(
        "what drains is forgotten when a node is back before its old stream is noticed: routes that draining listeners"
        " use, and listeners whose removal was not ACKed before the stream broke",
        r"uses .*, which are not there",
        lambda envoy: envoy.returned_early,
    ),
    Known(
        "SotW: a late ACK of a route that went from the snapshot meanwhile does not keep its clusters",
        r"uses .*, which are not there",
        lambda envoy: not envoy.delta and envoy.was_late,
    ),
    Known(
        "clusters that waited for something that drained when a node's streams broke are not removed afterwards",
        r"in the end n\d+ has (CDS|EDS|SDS) .* instead of None",
        lambda envoy: envoy.returned,
    ),
    Known(
        "listeners of a rejected response that go from the snapshot before a node that is back was sent them again are"
        " not removed, and their clusters are",
        r"uses .*, which are not there",
        lambda envoy: envoy.has_rejected and envoy.returned,
    ),
    Known(
        "endpoints of the clusters in later parts of a cut response come before these, which then wait for the fetch"
        " timeout",
        r"the endpoints of cluster \w+ did not come in time",
        lambda envoy: envoy.host.plan.small,  # type: ignore[attr-defined]
    ),
)


def known_fault(failure: "Failure") -> Known | None:
    """Return the fault in which a run ended, None for one that nobody knows."""
    found = re.search(r"\bn(\d+)\b", failure.message)
    if found is None or (envoy := failure.envoys.get(int(found[1]))) is None:
        return None
    return next((known for known in KNOWN if re.search(known.says, failure.message) and known.of(envoy)), None)
