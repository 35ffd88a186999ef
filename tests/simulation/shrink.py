"""Makes a failing run smaller: fewer clients and events with the same failure."""

import re
from dataclasses import replace

from simulation.known import known_fault
from simulation.world import Failure, Plan, run


def kind_of(message: str) -> str:
    """Return the text of a failure without names and numbers."""
    return re.sub(r"[0-9a-f]*\d+[0-9a-f]*|'\w+'|\b[a-z]\d*@\S+", "…", message)


def failure_of(tried: Plan, *, transcript: bool = False) -> Failure | None:
    """Run a plan; return its failure, or None."""
    try:
        run(tried, transcript=transcript)
    except Failure as failure:
        return failure
    return None


def shrink(failed: Failure, *, runs_max: int = 400) -> Plan:
    """Return the smallest plan found with the same failure."""
    failing, kind, known = failed.plan, kind_of(failed.message), known_fault(failed)

    def fails(tried: Plan) -> bool:
        failure = failure_of(tried)
        return failure is not None and kind_of(failure.message) == kind and known_fault(failure) is known

    left = runs_max
    smallest = failing
    piece = max(1, len(smallest.events) // 2)
    for client in failing.clients:
        fewer = replace(smallest, clients=tuple(other for other in smallest.clients if other != client))
        if fewer.clients and fails(fewer):
            smallest = fewer
    while left > 0:
        shorter = False
        at = 0
        while at < len(smallest.events) and left > 0:
            left -= 1
            tried = replace(smallest, events=smallest.events[:at] + smallest.events[at + piece :])
            if fails(tried):
                smallest, shorter = tried, True
            else:
                at += piece
        if piece == 1 and not shorter:
            break
        piece = max(1, piece // 2)
    return smallest
