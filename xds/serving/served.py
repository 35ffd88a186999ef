"""Which revision each process of a server has published to its streams, and who waits for that."""

import asyncio
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

WAIT_S = 1.0
"""The longest time that a push waits for the processes that serve streams."""
P = TypeVar("P", bound=Hashable)


@dataclass(slots=True, eq=False)
class _Waiting(Generic[P]):
    """The processes that lack a revision, and the future of the time when none does."""

    lacking: set[P] = field(default_factory=set)
    count: int = 0
    """How many wait."""
    reached: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class ServedRevisions(Generic[P]):
    """The revisions of processes. Those that wait for the same revision share one entry, so bursts cost little.

    A process that was waited for in vain is *late*: until it publishes something, it is waited for no more.
    """

    def __init__(self, served: Mapping[P, int] | None = None) -> None:
        self._served: dict[P, int] = dict(served or {})
        self._waiting: dict[int, _Waiting[P]] = {}
        self._late: set[P] = set()

    def note(self, process: P, revision: int) -> None:
        """Note that a process has published a revision, with all before it."""
        self._late.discard(process)
        if revision > self._served.get(process, -1):
            self._served[process] = revision
            self._strike(process, revision)

    def forget(self, process: P) -> None:
        """Note that a process has ended: nobody waits for it any more."""
        self._late.discard(process)
        self._served.pop(process, None)
        self._strike(process, None)

    def _strike(self, process: P, until: int | None) -> None:
        for revision, waiting in self._waiting.items():
            if until is None or revision <= until:
                waiting.lacking.discard(process)
                if not waiting.lacking and not waiting.reached.done():
                    waiting.reached.set_result(None)

    def behind(self, processes: Iterable[P], revision: int) -> set[P]:
        """Return those of the processes that lack a revision. One that has ended lacks nothing."""
        return {each for each in processes if self._served.get(each, revision) < revision}

    async def wait(self, processes: Iterable[P], revision: int, within_s: float = WAIT_S) -> set[P]:
        """Return once these processes have published a revision, or after ``within_s``: those that lack it."""
        lacking = self.behind(processes, revision)
        if not lacking - self._late:
            return lacking
        waiting = self._waiting.setdefault(revision, _Waiting())
        waiting.lacking |= lacking - self._late
        waiting.count += 1
        try:
            async with asyncio.timeout(within_s):
                await asyncio.shield(waiting.reached)
        except TimeoutError:
            self._late |= waiting.lacking
        finally:
            waiting.count -= 1
            if not waiting.count:
                del self._waiting[revision]
        return self.behind(lacking, revision)
