"""The times of a change on its way: planned, kept by the store, served. For traces; nothing is noted without one.

A caller that wants to know sets ``current`` in its own task before it publishes. The publisher then notes the times of
the change, whichever task handles it.
"""

import time
from contextvars import ContextVar
from typing import NamedTuple

STEPS_MAX = 32
"""Maximum steps that are noted: a change is planned again whenever another writer was first."""


class Step(NamedTuple):
    """A part of the way, in nanoseconds of the epoch."""

    name: str
    begun_ns: int
    ended_ns: int


class Journey:
    """What is noted of one change."""

    __slots__ = ("_storing_ns", "groups", "revision", "steps")

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._storing_ns = 0
        self.revision = 0
        """The revision that serves it, 0 if none does."""
        self.groups: tuple[str, ...] = ()
        """The groups that it changes."""

    def note(self, name: str, begun_ns: int, ended_ns: int = 0) -> None:
        """Note a step, until now if ``ended_ns`` is left out."""
        if len(self.steps) < STEPS_MAX:
            self.steps.append(Step(name, begun_ns, ended_ns or time.time_ns()))

    def begin_store(self) -> None:
        """Note that the store is given the change."""
        self._storing_ns = time.time_ns()

    def end_store(self, ended_ns: int = 0) -> None:
        """Note that the store has the change: it says so, or hands it back, whichever is first."""
        if self._storing_ns:
            self.note("store", self._storing_ns, ended_ns)
            self._storing_ns = 0

    def serve(self, begun_ns: int, revision: int, groups: tuple[str, ...]) -> None:
        """Note that the change, handed back by the store at ``begun_ns``, is served."""
        self.end_store(begun_ns)
        self.note("feed", begun_ns)
        self.revision, self.groups = revision, groups


current: ContextVar[Journey | None] = ContextVar("journey", default=None)
