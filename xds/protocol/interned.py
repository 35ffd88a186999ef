"""The tables of one hub that make equal values one object, for as long as any stream holds them.

Streams that hold one object share responses by its identity. The tables refer weakly: what no stream holds is gone.
"""

from collections.abc import Callable
from weakref import ref

from xds.model.view import View
from xds.protocol.claims import Claims
from xds.protocol.diff import Exceptions, unsent
from xds.protocol.interest import Interest, Interests
from xds.protocol.name_sets import NameSets

UNSENT_KEPT = 4


class Unsent:
    """What changes of a subscription leave unsent of a view (``diff.unsent``), the last few of them.

    So a fleet that changes its subscription alike shares one value.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: list[tuple[Callable[[], Interest | None], Callable[[], Interest | None], View, Exceptions]] = []

    def get(self, before: Interest, after: Interest, view: View) -> Exceptions:
        """Return what a client that was brought to ``view`` lacks of it, since it did not want it before."""
        for was, now, of, found in self._last:
            if was() is before and now() is after and of is view:
                return found
        found = unsent(before, after, view)
        self._last = [(ref(before), ref(after), view, found), *self._last[: UNSENT_KEPT - 1]]
        return found


class Interned:
    """The tables."""

    __slots__ = ("claims", "interests", "name_sets", "unsent")

    def __init__(self) -> None:
        self.interests = Interests()
        self.claims = Claims()
        self.unsent = Unsent()
        self.name_sets = NameSets()
