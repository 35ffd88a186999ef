"""Runs tests on both event loops: ``xds serve`` and workers use uvloop, a program that embeds the product may not."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine test once on asyncio's own loop and once on uvloop; its fixtures must not be coroutines."""

    def wrapped(run: Callable[[Coroutine[Any, Any, None]], None], **fixtures: Any) -> None:
        run(test(**fixtures))

    given = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in inspect.signature(test).parameters.values()]
    run = inspect.Parameter("run", inspect.Parameter.KEYWORD_ONLY)
    wrapped.__signature__ = inspect.Signature([run, *given])  # type: ignore[attr-defined]
    wrapped.__name__, wrapped.__doc__, wrapped.__module__ = test.__name__, test.__doc__, test.__module__
    marked = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])(wrapped)
    marks = getattr(test, "pytestmark", [])
    for mark in marks:
        marked = getattr(pytest.mark, mark.name)(*mark.args, **mark.kwargs)(marked)
    return marked


class PerTurn:
    """Counts what happens in each turn of the running event loop; ``most`` is the largest count so far."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = self.most = 0
        self._turn()

    def note(self, *_: object) -> None:
        """Count something that happens now."""
        self._now += 1
        self.most = max(self.most, self._now)

    def _turn(self) -> None:
        self._now = 0
        self._loop.call_soon(self._turn)
