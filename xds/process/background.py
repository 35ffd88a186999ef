"""Background tasks that run as long as their owner: one that dies is logged, counted and restarted."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

log = logging.getLogger("xds")
RETRY_MIN_S, RETRY_MAX_S = 0.1, 5.0
WELL_AFTER_S = 10.0
"""How long a restarted task must run to count as healthy."""
OnDeath = Callable[[str], None]
_ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""What is raised to end a process or a coroutine."""


class Background:
    """The background tasks of one process, or of one part of it.

    ``deaths`` counts the unexpected ends of each task by name, 0 for tasks that never died.
    """

    def __init__(self, *, well_after_s: float = WELL_AFTER_S) -> None:
        self.deaths: Counter[str] = Counter()
        self._ailing: dict[str, str] = {}
        self._well_after_s = well_after_s

    @property
    def ailing(self) -> str:
        """The tasks that died recently, each with the reason; "" if there are none."""
        return "; ".join(f"the task {name!r} died: {why}" for name, why in sorted(self._ailing.items()))

    def keep(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        *,
        may_end: Callable[[], bool] = lambda: False,
        on_death: OnDeath = lambda _why: None,
    ) -> "asyncio.Task[None]":
        """Run ``work`` until the returned task is cancelled, restarting it whenever it raises or returns.

        If it returns while ``may_end()``, it is not restarted. ``on_death`` is called with the reason before the pause
        that precedes a restart.
        """
        self.deaths[name] += 0
        return asyncio.create_task(self._keep(name, work, may_end, on_death), name=name)

    def run(
        self, name: str, work: Coroutine[Any, Any, object], *, on_death: OnDeath = lambda _why: None
    ) -> "asyncio.Task[None]":
        """Run ``work`` once. An exception counts as a death, but the work is not restarted."""
        self.deaths[name] += 0
        return asyncio.create_task(self._run(name, work, on_death), name=name)

    async def _keep(
        self, name: str, work: Callable[[], Awaitable[object]], may_end: Callable[[], bool], on_death: OnDeath
    ) -> None:
        pause_s, loop = RETRY_MIN_S, asyncio.get_running_loop()
        try:
            while True:
                began_at = loop.time()
                error: BaseException | None
                mended = loop.call_later(self._well_after_s, self._ailing.pop, name, None)
                try:
                    await work()
                    if may_end():
                        return
                    why, error = "it ended by itself", None
                except asyncio.CancelledError as cancelled:
                    if _is_cancelled():
                        raise
                    why, error = "what it waited for was cancelled", cancelled
                except _ENDS:
                    raise
                except BaseException as raised:  # a library's panic is no Exception, and must not end the task either
                    why, error = repr(raised), raised
                finally:
                    mended.cancel()
                self._note_death(name, why, error, on_death, again=True)
                if loop.time() - began_at >= self._well_after_s:
                    pause_s = RETRY_MIN_S
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
        finally:
            self._ailing.pop(name, None)

    async def _run(self, name: str, work: Coroutine[Any, Any, object], on_death: OnDeath) -> None:
        try:
            await work
        except (asyncio.CancelledError, *_ENDS):
            raise
        except BaseException as error:
            self._note_death(name, repr(error), error, on_death, again=False)
            asyncio.get_running_loop().call_later(self._well_after_s, self._ailing.pop, name, None)

    def _note_death(self, name: str, why: str, error: BaseException | None, on_death: OnDeath, *, again: bool) -> None:
        self.deaths[name] += 1
        self._ailing[name] = why
        log.error(
            "a background task died by a bug in this server; please report it",
            extra={"task": name, "problem": why, "started_again": again},
            exc_info=error,
        )
        try:
            on_death(why)
        except Exception as second:
            log.error("what was to be done at a background task's death failed", extra={"task": name}, exc_info=second)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
