"""Geometry of the page's charts, drawn as SVG. Pure.

Each state has a colour, a pattern and a word: no chart can be read by its colour alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

STATES = ("accepted", "pending", "rejected", "gone")
"""The states of a node, in the order in which charts show them."""
WIDTH = 1000
VISIBLE_MIN = 8
"""The least width of a part with any nodes: one node of 10,000 is seen."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a bar: what it stands for, how many nodes, where it begins and how wide it is."""

    state: str
    count: int
    x: int
    width: int


def bar(counts: Mapping[str, int]) -> tuple[Part, ...]:
    """Return the parts of a bar of ``WIDTH`` units; every state with a node is at least ``VISIBLE_MIN`` wide."""
    total = sum(counts.get(state, 0) for state in STATES)
    if not total:
        return ()
    widths = {state: max(VISIBLE_MIN, round(WIDTH * counts[state] / total)) for state in STATES if counts.get(state, 0)}
    widest = max(widths, key=lambda state: widths[state])
    widths[widest] += WIDTH - sum(widths.values())
    parts, x = [], 0
    for state, width in widths.items():
        parts.append(Part(state, counts[state], x, width))
        x += width
    return tuple(parts)


def in_words(counts: Mapping[str, int]) -> str:
    """Return a bar's content for those who do not see it: ``9,990 accepted, 10 rejected``."""
    told = [f"{counts[state]:,} {state}" for state in STATES if counts.get(state, 0)]
    return ", ".join(told) or "no nodes"
