"""The behaviours of sidecars, assigned evenly by index and equally in every run."""

from dataclasses import dataclass
from enum import IntEnum

_TURN = 0.6180339887498949
"""The golden ratio's fraction: its multiples fill the unit interval evenly, whatever their number."""


class Behaviour(IntEnum):
    """What a sidecar does once it is synced."""

    WELL = 0
    STUCK = 1
    """Never reads again."""
    SLOW = 2
    """Reads a little now and then."""
    NACKING = 3
    """Rejects all responses to pushes."""


@dataclass(frozen=True, slots=True)
class Mix:
    """The shares of sidecars that misbehave, each from 0 to 1, and at most 1 in all."""

    stuck: float = 0.0
    slow: float = 0.0
    nacking: float = 0.0

    def __post_init__(self) -> None:
        if min(self.stuck, self.slow, self.nacking) < 0 or self.stuck + self.slow + self.nacking > 1:
            raise ValueError("the shares of stuck, slow and rejecting sidecars are 0% to 100%, also together")

    def of(self, index: int) -> Behaviour:
        """Return the behaviour of the sidecar with an index."""
        at = (index * _TURN) % 1.0
        for share, behaviour in (
            (self.stuck, Behaviour.STUCK),
            (self.slow, Behaviour.SLOW),
            (self.nacking, Behaviour.NACKING),
        ):
            if at < share:
                return behaviour
            at -= share
        return Behaviour.WELL
