"""Finds texts in the memory of a hub and in the caches of the product's core."""

import functools
import gc
import sys
from collections.abc import Iterator
from enum import Enum
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

from xds.protocol.client_state import ClientState
from xds.protocol.responses import ResponseCache

CLAIMED = "claimed by a client "
"""Begins the names of the resources that clients only claim to have."""
NOT_FOLLOWED = (type, ModuleType, FunctionType, BuiltinFunctionType, CodeType, Enum)


def texts_in(hub: object) -> set[str]:
    """Return all texts that a hub, or a cache of the core, holds directly or indirectly.

    The hub's caches of responses and of steps are emptied first: they are bounded in bytes.
    """
    for each in list(_reached_from(hub)):
        if isinstance(each, ResponseCache):
            each.__init__()  # type: ignore[misc]
        elif isinstance(each, ClientState) and each.steps:
            each.steps.clear()
    gc.collect()
    return {each for each in _reached_from(hub) if isinstance(each, str)}


def _reached_from(hub: object) -> Iterator[object]:
    seen: dict[int, object] = {}
    todo = [hub, *_caches()]
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each
        yield each
        is_of_tests = each is not hub and type(each).__module__.startswith("simulation")
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
