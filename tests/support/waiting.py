"""All waits of the tests: no other module of theirs sleeps (``tests/test_architecture.py``).

Wait for a condition where possible: ``await wait_until(lambda: publisher.revision, equals=2)``. Where time itself is
tested, ``stays`` asserts that nothing changes for some time, and ``for_a_while`` names the reason of a pause.
"""

import asyncio
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_S = 30.0
POLL_S = 0.005
SHOWN_CHARS_MAX = 2_000
_TRUE = object()


class NotMetError(AssertionError):
    """The condition was not met in time. ``seen`` is the last value."""

    def __init__(self, text: str, seen: object) -> None:
        super().__init__(text)
        self.seen = seen


@dataclass(slots=True)
class _Wait:
    is_met_by: Callable[[Any], object] | None
    equals: object
    timeout_s: float
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        assert self.is_met_by is None or self.equals is _TRUE, "say what to wait for in one way"

    def take(self, value: object) -> bool:
        """Return whether the value meets the condition. Raises NotMetError if it does not and the time is over."""
        __tracebackhide__ = True
        if self.is_met_by is not None:
            met = self.is_met_by(value)
        else:
            met = value if self.equals is _TRUE else value == self.equals
        if not met:
            self.miss(value)
        return bool(met)

    def miss(self, seen: object) -> None:
        __tracebackhide__ = True
        if time.monotonic() - self.began > self.timeout_s:
            wanted = "as wanted" if self.equals is _TRUE else _shown(self.equals)
            raise NotMetError(f"not {wanted} within {self.timeout_s} s; last seen: {_shown(seen)}", seen)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}…"


async def wait_until(
    look: Callable[[], Any],
    is_met_by: Callable[[Any], object] | None = None,
    *,
    equals: object = _TRUE,
    timeout_s: float = TIMEOUT_S,
    poll_s: float = POLL_S,
    ignoring: type[Exception] | tuple[type[Exception], ...] = (),
) -> Any:
    """Call ``look`` until its result is true, equals a value, or meets a condition; return the result.

    ``look`` may be a coroutine function. Its errors of types ``ignoring`` count as not met yet. With ``poll_s=0`` it is
    called at every turn of the event loop. Raises NotMetError with the last result.
    """
    __tracebackhide__ = True
    wait = _Wait(is_met_by, equals, timeout_s)
    while True:
        try:
            seen = look()
            if inspect.isawaitable(seen):
                async with asyncio.timeout(timeout_s):
                    seen = await seen
        except ignoring as error:
            wait.miss(error)
        else:
            if wait.take(seen):
                return seen
        await asyncio.sleep(poll_s)


def wait_until_blocking(
    look: Callable[[], Any],
    is_met_by: Callable[[Any], object] | None = None,
    *,
    equals: object = _TRUE,
    timeout_s: float = TIMEOUT_S,
    poll_s: float = POLL_S,
) -> Any:
    """Do the same as ``wait_until``, without an event loop."""
    __tracebackhide__ = True
    wait = _Wait(is_met_by, equals, timeout_s)
    while not wait.take(seen := look()):
        time.sleep(poll_s)
    return seen


async def stays(look: Callable[[], Any], *, equals: object, for_s: float, poll_s: float = POLL_S) -> None:
    """Assert that ``look``'s result equals a value for some seconds; ``look`` may be a coroutine function."""
    __tracebackhide__ = True
    began = time.monotonic()
    after_s = 0.0
    while after_s < for_s:
        seen = look()
        if inspect.isawaitable(seen):
            seen = await seen
        after_s = time.monotonic() - began
        if seen != equals:
            raise AssertionError(f"not {_shown(equals)} any more after {after_s:.2f} s: {_shown(seen)}")
        await asyncio.sleep(poll_s)


async def for_a_while(seconds: float, why: str) -> None:
    """Sleep where no condition could end the wait earlier; ``why`` documents the reason."""
    assert why
    await asyncio.sleep(seconds)


def for_a_while_blocking(seconds: float, why: str) -> None:
    """Do the same as ``for_a_while``, without an event loop."""
    assert why
    time.sleep(seconds)


async def until_due(due: float) -> None:
    """Wait until the monotonic clock reaches ``due``, to pace a load at a rate."""
    await asyncio.sleep(max(0.0, due - time.monotonic()))


async def turns(count: int = 1) -> None:
    """Let the event loop make ``count`` turns, in which ready callbacks run."""
    for _ in range(count):
        await asyncio.sleep(0)
