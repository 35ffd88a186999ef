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


def _small(envoy: "Envoy") -> bool:
    return envoy.host.plan.small  # type: ignore[attr-defined,no-any-return]


KNOWN = (
    Known(
        "SotW: rejected clusters that nothing serves any more stay in every response, or hold back what mends them",
        r"in the end|worked before|which are not there|hub: n\d+ CDS",
        lambda envoy: not envoy.delta and envoy.has_rejected,
    ),
    Known(
        "SotW: a client whose rejected resource was taken away is said to be rejected for ever",
        r"the server takes n\d+ to be \['rejected'",
        lambda envoy: not envoy.delta and envoy.has_rejected,
    ),
    Known(
        "a route goes to a rejected cluster: after a return its endpoints, asked for before, are taken for a sign that"
        " it was accepted; or the route was removed meanwhile, and a draining listener still uses it",
        r"worked before, now uses .*, which were rejected",
    ),
    Known(
        "what a node rejected is sent on streams that did not subscribe to it: on others than those where it was"
        " rejected, or when the node is back",
        r"is sent \w+ .* to which it has not subscribed",
        lambda envoy: envoy.delta and envoy.has_rejected,
    ),
    Known(
        "per type: a node that rejected something and came back is said to be rejected for ever",
        r"the server takes n\d+ to be \['rejected'",
        lambda envoy: envoy.delta and envoy.per_type and envoy.has_rejected,
    ),
    Known(
        "a name that was unsubscribed before the NACK of its response came is said to be rejected for ever",
        r"the server takes n\d+ to be \['rejected'\]: (EDS|RDS|SDS)",
        lambda envoy: envoy.delta and envoy.has_rejected,
    ),
    Known(
        "per type: endpoints that were rejected on one stream are not answered on the next",
        r"the endpoints of cluster \w+ did not come in time",
        lambda envoy: envoy.delta and envoy.per_type and envoy.has_rejected,
    ),
    Known("endpoints are sent in a version that no snapshot has any more", r"is sent EDS .*, which is an older one"),
    Known(
        "what drains is forgotten when a node is back before its old stream is noticed: listeners whose removal was not"
        " ACKed before the stream broke",
        r"uses .*, which are not there",
        lambda envoy: envoy.returned_early,
    ),
    Known(
        "per type: routes that drain are forgotten where another route's stream is back first",
        r"uses .*, which are not there",
        lambda envoy: envoy.delta and envoy.per_type and envoy.returned,
    ),
    Known(
        "SotW: routes that a client says it has by the version of a larger set of them are not known",
        r"uses .*, which are not there",
        lambda envoy: not envoy.delta and envoy.returned,
    ),
    Known(
        "SotW: a late ACK of a route that went from the snapshot meanwhile does not keep its clusters",
        r"uses .*, which are not there",
        lambda envoy: not envoy.delta and envoy.was_late,
    ),
    Known(
        "a client is back while clusters warm: routes do not wait for those that warm on a secret, and a route that"
        " drains is forgotten if it came back into the snapshot and went again",
        r"uses .*, which are not there",
        lambda envoy: envoy.delta and bool(envoy.warming_at_return),
    ),
    Known(
        "clusters that waited for something that drained when a node's streams broke are not removed afterwards",
        r"in the end n\d+ has (CDS|EDS|SDS) .* instead of None|hub: n\d+ CDS .*'held back by the order"
        r"|the server takes n\d+ to be \['(pending|rejected)'\]: .*",
        lambda envoy: envoy.returned,
    ),
    Known(
        "listeners of a rejected response that go from the snapshot before a node that is back was sent them again are"
        " not removed, and their clusters are",
        r"uses .*, which are not there|in the end n\d+ has LDS .* instead of None",
        lambda envoy: envoy.has_rejected and envoy.returned,
    ),
    Known(
        "endpoints of the clusters in later parts of a cut response come before these, which then wait for the fetch"
        " timeout; some come though they were rejected",
        r"the endpoints of cluster \w+ did not come in time|is sent EDS .*, which it rejected",
        _small,
    ),
    Known(
        "routes go to clusters of a part of a cut response that was not sent yet, as the client was late with the first"
        " or its clusters warmed for long",
        r"uses .*, which are not there",
        _small,
    ),
)


def known_fault(failure: "Failure") -> Known | None:
    """Return the fault in which a run ended, None for one that nobody knows."""
    found = re.search(r"\bn(\d+)\b", failure.message)
    if found is None or (envoy := failure.envoys.get(int(found[1]))) is None:
        return None
    return next((known for known in KNOWN if re.search(known.says, failure.message) and known.of(envoy)), None)
