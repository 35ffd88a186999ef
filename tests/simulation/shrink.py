"""Makes a failing run smaller: fewer clients and events with the same failure."""

import re
from collections.abc import Iterator
from dataclasses import replace

from simulation.known import known_fault
from simulation.plan import Plan
from simulation.runs import run
from simulation.world import Failure


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


def _simpler(drawn: Plan) -> Iterator[Plan]:
    """Return plans with less of what plans may have, the simplest first."""
    plain = replace(drawn, reorders=False, caches=False, small=False)
    if drawn.replicas:
        yield replace(plain, replicas=tuple(0 for _ in drawn.replicas[:2]))
        yield replace(plain, replicas=drawn.replicas[:2])
        yield replace(plain, replicas=tuple(0 for _ in drawn.replicas))
    yield plain
    yield replace(drawn, reorders=False)


def shrink(failed: Failure, *, runs_max: int = 400) -> Plan:
    """Return the smallest plan found with the same failure."""
    failing, kind, known = failed.plan, kind_of(failed.message), known_fault(failed)

    def fails(tried: Plan) -> bool:
        failure = failure_of(tried)
        return failure is not None and kind_of(failure.message) == kind and known_fault(failure) is known

    left = runs_max
    smallest = failing
    for simpler in _simpler(smallest):
        if fails(simpler):
            smallest = simpler
            break
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
