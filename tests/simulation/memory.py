"""Finds texts in the memory of hubs and in the caches of the product's core."""

import functools
import gc
import sys
from collections.abc import Collection, Iterator
from enum import Enum
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

from xds.protocol.client_state import ClientState
from xds.protocol.responses import ResponseCache

CLAIMED = "claimed by a client "
"""Begins the names of the resources that clients only claim to have."""
NOT_FOLLOWED = (type, ModuleType, FunctionType, BuiltinFunctionType, CodeType, Enum)


def texts_in(hubs: Collection[object]) -> set[str]:
    """Return all texts that hubs, or the caches of the core, hold directly or indirectly.

    The hubs' caches of responses and of steps are emptied first: they are bounded in bytes.
    """
    for each in list(_reached_from(hubs)):
        if isinstance(each, ResponseCache):
            each.__init__()  # type: ignore[misc]
        elif isinstance(each, ClientState) and each.steps:
            each.steps.clear()
    gc.collect()
    return {each for each in _reached_from(hubs) if isinstance(each, str)}


def _reached_from(hubs: Collection[object]) -> Iterator[object]:
    seen: dict[int, object] = {}
    todo = [*hubs, *_caches()]
    starts = {id(each) for each in hubs}
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each
        yield each
        is_of_tests = id(each) not in starts and type(each).__module__.startswith("simulation")
        if not isinstance(each, NOT_FOLLOWED) and not is_of_tests:
            todo += gc.get_referents(each)


@functools.cache
def _caches() -> tuple[object, ...]:
    return tuple(
        value
        for name, module in sys.modules.items()
        if name.startswith(("xds.protocol", "xds.model"))
        for value in vars(module).values()
        if isinstance(value, functools._lru_cache_wrapper)
    )
