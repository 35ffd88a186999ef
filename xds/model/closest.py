"""Suggests the known names that are most like an unknown one. The work is bounded, whoever wrote the names."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from heapq import nlargest
from itertools import islice

from xds.model.work import sharing_work, spend

NAMES_READ_MAX = 2_000
"""Known names among which one is searched."""
NAMES_COMPARED_MAX = 60
"""Names that are compared with the unknown one: of more, those that begin or end most like it."""
NEIGHBOURS_MAX = 150
"""Names on each side of the unknown one whose lengths are looked at."""
NAME_CHARACTERS_MAX = 200
"""Longer names are not compared."""
WORK_MAX = 100_000
"""Characters that may be compared in all searches of a change: 10 to 30 ms. Its later problems have no suggestions."""
READ_COST = 10
"""Characters that could be compared while one more name is put in order."""


_KIND = "names"


class Names:
    """Known names in the order of their beginnings and of their ends, to find neighbours of an unknown one."""

    __slots__ = ("_backward", "_forward")

    def __init__(self, names: Iterable[str]) -> None:
        self._forward = sorted(names)
        self._backward = sorted(name[::-1] for name in self._forward) if len(self) > NAMES_COMPARED_MAX else []

    def __len__(self) -> int:
        return len(self._forward)

    def like(self, word: str, likeness_min: float) -> Sequence[str]:
        """Return at most ``NAMES_COMPARED_MAX`` names that begin or end most like a word, and may be as much alike."""
        if len(self) <= NAMES_COMPARED_MAX:
            return [name for name in self._forward if _may_be_alike(word, name, likeness_min)]
        begins = _neighbours(word, self._forward, likeness_min)
        ends = _neighbours(word[::-1], self._backward, likeness_min)
        return list(dict.fromkeys((*begins, *(name[::-1] for name in ends))))


def _neighbours(word: str, names: Sequence[str], likeness_min: float) -> Iterator[str]:
    """Yield names beside the place of a word in an order, up to a quarter of ``NAMES_COMPARED_MAX`` on each side."""
    at = bisect_left(names, word)
    for side in (range(at - 1, max(at - 1 - NEIGHBOURS_MAX, -1), -1), range(at, min(at + NEIGHBOURS_MAX, len(names)))):
        alike = (name for place in side if _may_be_alike(word, name := names[place], likeness_min))
        yield from islice(alike, NAMES_COMPARED_MAX // 4)


def _may_be_alike(one: str, other: str, likeness_min: float) -> bool:
    """Return whether two texts may be alike by their lengths."""
    shorter, longer = sorted((len(one), len(other)))
    return longer <= NAME_CHARACTERS_MAX and 2 * shorter >= likeness_min * (shorter + longer)


def names_of(names: Iterable[str]) -> Names:
    """Return names in order, for several searches; none if the work is used up."""
    read = list(islice(names, NAMES_READ_MAX)) if spend(_KIND, 0, WORK_MAX) else []
    return Names(read if spend(_KIND, READ_COST * len(read), WORK_MAX) else ())


def closest(word: str, names: Names | Iterable[str], *, count: int = 1, likeness_min: float = 0.6) -> list[str]:
    """Return at most ``count`` of the names that are most like a word, the most alike first; none beyond the bounds."""
    if not word or len(word) > NAME_CHARACTERS_MAX:
        return []
    with sharing_work():
        return _closest(word, names, count, likeness_min) if spend(_KIND, len(word), WORK_MAX) else []


def _closest(word: str, names: Names | Iterable[str], count: int, likeness_min: float) -> list[str]:
    known = names if isinstance(names, Names) else names_of(names)
    alike: list[tuple[float, str]] = []
    for name in known.like(word, likeness_min):
        if not spend(_KIND, len(name), WORK_MAX):
            return []
        if (found := likeness(word, name)) >= likeness_min:
            alike.append((found, name))
    return [name for _, name in nlargest(count, alike)]


def likeness(one: str, other: str) -> float:
    """Return how alike two texts are, from 0 to 1: the part of their characters that is a common subsequence.

    Takes as many steps as ``other`` has characters (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004).
    """
    if not one or not other:
        return float(one == other)
    places: dict[str, int] = {}
    for at, character in enumerate(one):
        places[character] = places.get(character, 0) | 1 << at
    every = (1 << len(one)) - 1
    row = every
    for character in other:
        found = row & places.get(character, 0)
        row = (row + found | row - found) & every
    return 2 * (len(one) - row.bit_count()) / (len(one) + len(other))
