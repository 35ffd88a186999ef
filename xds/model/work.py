"""Bounds what others can make this process compute: the parts of a change share an amount of work of each kind."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class CostlyError(Exception):
    """The work would hold up others: do it on a thread."""


class _Shared:
    """The work of one change so far, by kind, and whether it must be quick."""

    __slots__ = ("is_quick", "spent")

    def __init__(self, *, is_quick: bool) -> None:
        self.spent: dict[str, int] = {}
        self.is_quick = is_quick


_shared: ContextVar[_Shared | None] = ContextVar("xds_shared_work", default=None)


@contextmanager
def sharing_work() -> Iterator[None]:
    """Have all work inside share what may be spent, as that on one change. A block in another is part of it."""
    if _shared.get() is not None:
        yield
        return
    with _sharing(is_quick=False):
        yield


@contextmanager
def quick_work() -> Iterator[None]:
    """As ``sharing_work``, but costly work raises CostlyError, for what is done in the event loop."""
    with _sharing(is_quick=True):
        yield


@contextmanager
def _sharing(*, is_quick: bool) -> Iterator[None]:
    token = _shared.set(_Shared(is_quick=is_quick))
    try:
        yield
    finally:
        _shared.reset(token)


def spend(kind: str, cost: int, most: int, *, is_costly: bool = False) -> bool:
    """Return whether work of a kind may be done, of which ``most`` may be spent where it is shared, and take it.

    Raises CostlyError if it is costly and has to be quick.
    """
    shared = _shared.get()
    if shared is None:
        return cost <= most
    if is_costly and shared.is_quick:
        raise CostlyError
    shared.spent[kind] = shared.spent.get(kind, 0) + cost
    return shared.spent[kind] <= most
