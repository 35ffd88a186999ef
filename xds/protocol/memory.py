"""Remembered steps: what a client that stands here says, or a change, leads to. Worked out once for a whole fleet.

A step is kept at the standing that it starts from, if several clients came to stand there. It refers forward only: what
no client stands at any more is gone with what led there. Steps that looked at a snapshot end with it.
"""

from weakref import WeakSet, ref

from xds.model.snapshot import Snapshot
from xds.protocol.standing import Standing, Step

STEP_BYTES = 1_000
"""About what a step takes beside what was said and what is sent: a standing, a few states."""
NAMES_FACTOR = 3
"""What is said is kept so many times: as it was said, and as the names that the standing after it has."""
STEPS_MAX = 64
"""So many different requests are remembered at one standing."""
AGE_MAX = 2


class Memory:
    """The steps of all standings. ``bytes_max``: about what they may take; 0 remembers nothing."""

    __slots__ = ("_by_snapshot", "_bytes", "_idle", "_standings", "bytes_max")

    def __init__(self, *, bytes_max: int = 64 * 1024 * 1024) -> None:
        self.bytes_max = bytes_max
        self._bytes = 0
        self._standings: WeakSet[Standing] = WeakSet()
        self._by_snapshot: dict[Snapshot, set[ref[Standing]]] = {}
        self._idle: dict[int, tuple[int, int]] = {}

    def learn(self, standing: Standing, said: bytes, step: Step) -> None:
        """Keep what a request, without its node, leads to."""
        if standing.arrivals < 2 or not step.repeats or len(said) + STEP_BYTES > self.bytes_max:
            return
        if standing.steps is None:
            standing.steps = {}
        elif len(standing.steps) >= STEPS_MAX and said not in standing.steps:
            return
        standing.steps[said] = step
        self._keep(standing, step, NAMES_FACTOR * len(said))

    def look_ahead(self, standing: Standing, step: Step) -> None:
        """Keep what the newest snapshot leads to."""
        if standing.arrivals < 2 or not step.repeats or not self.bytes_max:
            return
        standing.ahead = step
        self._keep(standing, step, len(step.part.message) if step.part is not None else 0)

    def _keep(self, standing: Standing, step: Step, size: int) -> None:
        self._standings.add(standing)
        if step.snapshot is not None:
            self._by_snapshot.setdefault(step.snapshot, set()).add(ref(standing))
        self._bytes += size + STEP_BYTES
        if self._bytes > self.bytes_max:
            self._bytes = sum(map(_bytes_of, self._standings))
            if self._bytes > self.bytes_max // 2:
                self.forget()

    def outdate(self, snapshot: Snapshot) -> None:
        """Forget the steps that looked at a snapshot: its group has a newer one, or is gone."""
        for reference in self._by_snapshot.pop(snapshot, ()):
            standing = reference()
            if standing is None:
                continue
            if standing.ahead is not None and standing.ahead.snapshot is snapshot:
                standing.ahead = None
            if standing.steps is not None:
                left = {said: step for said, step in standing.steps.items() if step.snapshot is not snapshot}
                standing.steps = left or None

    def forget(self) -> None:
        """Forget everything."""
        for standing in list(self._standings):
            standing.steps = standing.ahead = None
        self._standings.clear()
        self._by_snapshot.clear()
        self._bytes = 0

    def grow_old(self) -> None:
        """Forget the steps of standings where nobody arrived since this was called ``AGE_MAX`` times."""
        idle: dict[int, tuple[int, int]] = {}
        for standing in list(self._standings):
            arrivals, age = self._idle.get(id(standing), (0, 0))
            age = age + 1 if arrivals == standing.arrivals else 0
            if age > AGE_MAX:
                standing.steps = standing.ahead = None
                self._standings.discard(standing)
            else:
                idle[id(standing)] = (standing.arrivals, age)
        self._idle = idle
        self._bytes = sum(map(_bytes_of, self._standings))
        self._by_snapshot = {
            snapshot: left
            for snapshot, references in self._by_snapshot.items()
            if (left := {each for each in references if each() in self._standings})
        }

    @property
    def bytes_kept(self) -> int:
        """About what is remembered takes. O(standings)."""
        return sum(map(_bytes_of, self._standings))


def _bytes_of(standing: Standing) -> int:
    steps = standing.steps or {}
    ahead = standing.ahead
    sent = [step.part for step in (*steps.values(), ahead) if step is not None and step.part is not None]
    count = len(steps) + (ahead is not None)
    return STEP_BYTES * count + NAMES_FACTOR * sum(map(len, steps)) + sum(len(part.message) for part in sent)
