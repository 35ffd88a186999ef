"""Known faults of the core that the simulation found and that are not fixed yet. Remove an entry with its fix.

Runs that fail with a known fault are counted separately. Each entry matches as few failures as their text allows.
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
    """A known fault: its description, and the failure text and clients that it matches."""

    what: str
    says: str
    of: Callable[["Envoy"], bool] = lambda _: True


KNOWN: tuple[Known, ...] = (
    Known(
        "a node that returns elsewhere, unnoticed or with nothing, and asks for no clusters, is sent its routes",
        r"[LR]DS \S+ uses .*, which are not there",
        lambda envoy: envoy.delta and bool(envoy.warming_at_return),
    ),
    Known(
        "SotW: after a rejection or a return, a route goes to a cluster that is not there or was rejected",
        r"worked before, now uses .*, which were rejected|uses .*, which are not there",
        lambda envoy: not envoy.delta and (envoy.has_rejected or envoy.returned),
    ),
)


def known_fault(failure: "Failure") -> Known | None:
    """Return the known fault that a failure matches, or None."""
    found = re.search(r"\bn(\d+)\b", failure.message)
    if found is None or (envoy := failure.envoys.get(int(found[1]))) is None:
        return None
    return next((known for known in KNOWN if re.search(known.says, failure.message) and known.of(envoy)), None)
