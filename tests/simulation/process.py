"""A simulated process: an asyncio event loop on the simulated clock. It can freeze, be killed, and have wrong clocks.

Each turn of the loop runs the callbacks that are ready, in order, as asyncio does. A turn is an event of the simulated
clock, so turns of several processes and the messages between them interleave by the run's seed. Work for threads is run
by the loop itself, after a delay.
"""

import asyncio
import heapq
import itertools
import sys
from asyncio import events
from collections.abc import Callable
from contextvars import Context
from random import Random
from typing import Any

from simulation.clock import Clock

TURN_S = 0.000_2
"""The longest delay of a turn after the loop became ready."""
BUSY_TURNS = 50
"""After each so many turns without a pause, turns take longer by once their time: a busy loop then sees time pass."""
THREAD_S = 0.002
WALL_S = 1_800_000_000.0
"""The date at which every run begins, in Unix seconds."""


class Process(asyncio.BaseEventLoop):
    """An event loop. ``problems`` are the exceptions that nobody awaited."""

    def __init__(self, clock: Clock, chance: Random, name: str) -> None:
        self._running_turn = False
        super().__init__()
        self.name = name
        self.problems: list[str] = []
        self.frozen_until = 0.0
        self.thread_s = THREAD_S
        """The longest time that work on a thread takes."""
        self._simulated, self._chance = clock, chance
        self._ahead_s = self._wall_ahead_s = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self._turn_at = float("inf")
        self._turn_number = 0
        self._busy = 0
        """The turns since there was nothing to do."""
        self._dead: list[asyncio.Task[Any]] = []

    # --- Time --------------------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the monotonic clock of this process."""
        return self._simulated.now + self._ahead_s

    def wall_time(self) -> float:
        """Return the wall clock of this process, in Unix seconds."""
        return WALL_S + self._simulated.now + self._wall_ahead_s

    def leap(self, seconds: float) -> None:
        """Let the monotonic clock leap, or stand still for a time if ``seconds`` is negative."""
        self._ahead_s += seconds
        self._arm()

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock forward, or back if ``seconds`` is negative."""
        self._wall_ahead_s += seconds

    def freeze(self, seconds: float) -> None:
        """Do nothing for a time, as after SIGSTOP. It must not be frozen already: what waits would be disordered."""
        assert not self.is_frozen
        self.frozen_until = self._simulated.now + seconds

    @property
    def is_frozen(self) -> bool:
        """Whether the process does nothing at present."""
        return self._simulated.now < self.frozen_until

    def kill(self) -> None:
        """End the process as ``kill -9`` does: nothing of it runs any more."""
        self._dead += asyncio.all_tasks(self)
        for task in self._dead:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._timers.clear()
        self.close()

    @property
    def has_dead(self) -> bool:
        """Whether tasks of the killed process are kept."""
        return bool(self._dead)

    def forget_dead(self) -> None:
        """Free the tasks of the killed process: they are kept, as what they do when they are freed must not happen."""
        self._dead.clear()

    # --- Scheduling --------------------------------------------------------------------------------------------------

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        """Run a callback in the next turn; never if the process was killed."""
        handle = asyncio.Handle(callback, args, self, context)
        if not self.is_closed():
            self._ready.append(handle)
            if not self._running_turn:
                self._arm()
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:  # type: ignore[override]
        """Run a callback at a time of this process's clock; never if the process was killed."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.is_closed():
            heapq.heappush(self._timers, (when, next(self._numbers), timer))
            if not self._running_turn:
                self._arm()
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Forget a cancelled timer when it is due."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        """Run work of a thread, one after the other, after a delay."""
        future = self.create_future()
        self.call_later(self._chance.random() * self.thread_s, self._work, future, func, args)
        return future

    def _work(self, future: "asyncio.Future[Any]", func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            result = func(*args)
        except Exception as error:
            if not future.cancelled():
                future.set_exception(error)
        else:
            if not future.cancelled():
                future.set_result(result)

    def _arm(self) -> None:
        """Schedule the next turn."""
        now = self._simulated.now
        if self._ready:
            self._busy += 1
            at = now + self._chance.random() * TURN_S * (1 + self._busy / BUSY_TURNS)
        else:
            self._busy = 0
            while self._timers and self._timers[0][2].cancelled():
                heapq.heappop(self._timers)
            if not self._timers:
                return
            at = max(now, self._timers[0][0] - self._ahead_s)
        at = max(at, self.frozen_until)
        if at < self._turn_at or self._turn_at < now:
            self._turn_at = at
            self._turn_number += 1
            self._simulated.at(at, self._turn, self._turn_number)

    def _turn(self, number: int) -> None:
        if number != self._turn_number or self.is_closed():
            return
        self._turn_at = float("inf")
        if self.is_frozen:
            self._arm()
            return
        now = self.time() + 1e-9
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled():
                self._ready.append(timer)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
        events._set_running_loop(self)
        self._running_turn = True
        try:
            for _ in range(len(self._ready)):
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
                if self.is_closed():
                    return
        finally:
            self._running_turn = False
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
        self._arm()

    def is_running(self) -> bool:
        """Whether one of its callbacks runs now."""
        return self._running_turn

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Record an exception that nobody handles."""
        error = context.get("exception")
        self.problems.append(f"{context.get('message')}: {error!r}")


def current() -> Process:
    """Return the process whose code runs now."""
    found = events._get_running_loop()
    assert isinstance(found, Process), "no simulated process runs"
    return found
