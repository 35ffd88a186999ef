"""Histograms of times: fixed buckets, cheap to add to, and summed over processes. Pure."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""The upper bounds of the buckets, in seconds; one more bucket is without a bound."""


class Histogram:
    """Counts of times by bucket, and their sum. A time of a bound is in the bucket that it bounds, as in Prometheus."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        """The number of times in each bucket, the last one without a bound."""
        self.sum_s = 0.0
        """The sum of all times."""

    def observe(self, seconds: float, times: int = 1) -> None:
        """Add a time, that many times. A negative one, by clocks that differ, counts as 0."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BOUNDS_S, seconds)] += times
        self.sum_s += seconds * times

    def add(self, other: "Histogram") -> None:
        """Add all times of another histogram."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s

    def less(self, before: "Histogram") -> "Histogram":
        """Return a histogram of the times that were added since ``before``, an earlier copy of this one."""
        found = Histogram()
        found.counts = [now - then for now, then in zip(self.counts, before.counts, strict=True)]
        found.sum_s = self.sum_s - before.sum_s
        return found

    @classmethod
    def sum(cls, several: Iterable["Histogram"]) -> "Histogram":
        """Return one with the times of all."""
        total = cls()
        for each in several:
            total.add(each)
        return total

    @property
    def count(self) -> int:
        """The number of times."""
        return sum(self.counts)

    def buckets(self) -> Iterator[tuple[str, int]]:
        """Yield each bound as Prometheus writes it, and the number of times up to it."""
        total = 0
        for bound, count in zip((*BOUNDS_S, float("inf")), self.counts, strict=True):
            total += count
            yield ("+Inf" if bound == float("inf") else repr(bound)), total

    def quantile(self, share: float) -> float | None:
        """Return the time that so large a share of the times is within, linear within a bucket; None without times.

        Times beyond the last bound count as that bound.
        """
        rank, total, low = share * self.count, 0, 0.0
        if not self.count:
            return None
        for bound, count in zip(BOUNDS_S, self.counts, strict=False):
            if count and total + count >= rank:
                return low + (bound - low) * max(0.0, rank - total) / count
            total += count
            low = bound
        return BOUNDS_S[-1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and (self.counts, self.sum_s) == (other.counts, other.sum_s)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Histogram({self.counts}, sum_s={self.sum_s:g})"
