"""What pairs of figures, one pair a round, say about a ratio. It measures nothing."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CONFIDENCE = 0.95
LIMIT = 1.03


@dataclass(frozen=True, slots=True)
class Ratio:
    """After to before, paired by round: the median, and an interval that holds the true median 19 times in 20.

    ``low`` and ``high`` are None where there are too few rounds to say (fewer than six).
    """

    median: float
    least: float
    most: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, before: Sequence[float], after: Sequence[float]) -> "Ratio":
        """Return the ratio of figures of the same rounds. Raises ValueError without any, or where one is not > 0."""
        if not before or min(before) <= 0:
            raise ValueError("a ratio needs at least one round, and figures above 0 to divide by")
        ratios = sorted(one / other for one, other in zip(after, before, strict=True))
        rank = interval_rank(len(ratios))
        low, high = (None, None) if rank is None else (ratios[rank - 1], ratios[-rank])
        return cls(statistics.median(ratios), ratios[0], ratios[-1], low, high)

    def verdict(self, limit: float = LIMIT) -> Literal["within", "beyond", "can't tell"]:
        """Say whether the ratio is at most ``limit``, as far as these rounds can tell."""
        if self.low is None or self.high is None:
            return "can't tell"
        if self.high <= limit:
            return "within"
        return "beyond" if self.low > limit else "can't tell"

    @property
    def resolution(self) -> float | None:
        """How far the interval reaches from the median: smaller differences can't be told from none."""
        if self.low is None or self.high is None:
            return None
        return max(self.high - self.median, self.median - self.low)


@dataclass(frozen=True, slots=True)
class Difference:
    """After less before, paired by round: the median, and the interval as ``Ratio`` has it."""

    median: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, before: Sequence[float], after: Sequence[float]) -> "Difference":
        """Return the difference of figures of the same rounds. Raises ValueError without any."""
        if not before:
            raise ValueError("a difference needs at least one round")
        found = sorted(one - other for one, other in zip(after, before, strict=True))
        rank = interval_rank(len(found))
        low, high = (None, None) if rank is None else (found[rank - 1], found[-rank])
        return cls(statistics.median(found), low, high)


def interval_rank(count: int, confidence: float = CONFIDENCE) -> int | None:
    """Return k so that the k-th smallest and the k-th largest of so many samples hold their median between them.

    This is the sign test's interval: it assumes nothing of how the samples are distributed. None where even the
    smallest and the largest don't hold it with that confidence.
    """
    outside, found = 0.0, None
    for rank in range(1, count // 2 + 1):
        outside += math.comb(count, rank - 1) / 2 ** (count - 1)
        if outside > 1 - confidence:
            break
        found = rank
    return found


def in_order(names: Sequence[str], number: int) -> list[str]:
    """Return who is measured in which order in a round: A B, B A, A B, …, so that drift hits both alike."""
    return list(names) if number % 2 == 0 else list(reversed(names))
