"""Histograms: the buckets of Prometheus, sums, differences, and quantiles within a bucket of the truth."""

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as Theirs

from xds.telemetry.histogram import BOUNDS_S, Histogram

times = st.lists(st.floats(0, 1_000) | st.sampled_from(BOUNDS_S), max_size=40)


def of(seconds: list[float]) -> Histogram:
    made = Histogram()
    for each in seconds:
        made.observe(each)
    return made


@given(times)
def test_buckets_are_those_of_prometheus(seconds: list[float]) -> None:
    registry = CollectorRegistry()
    theirs = Theirs("t", "t", buckets=BOUNDS_S, registry=registry)
    for each in seconds:
        theirs.observe(each)
    for bound, count in of(seconds).buckets():
        assert registry.get_sample_value("t_bucket", {"le": bound}) == count


@given(times, times)
def test_sums_and_differences_are_those_of_the_times(some: list[float], others: list[float]) -> None:
    both = Histogram.sum([of(some), of(others)])
    assert both.counts == of(some + others).counts
    assert both.less(of(some)).counts == of(others).counts
    assert both.count == len(some) + len(others)


@given(times.filter(bool), st.floats(0.01, 1.0))
def test_a_quantile_is_within_a_bucket_of_the_true_one(seconds: list[float], share: float) -> None:
    found = of(seconds).quantile(share)
    assert found is not None
    true = sorted(seconds)[max(0, -(-int(share * len(seconds) * 1e6) // int(1e6)) - 1)]
    last = len(BOUNDS_S) - 1
    assert abs(min(last, bisect_left(BOUNDS_S, found)) - min(last, bisect_left(BOUNDS_S, true))) <= 1


def test_without_times_there_is_no_quantile_and_negative_ones_count_as_none() -> None:
    assert Histogram().quantile(0.5) is None
    early = of([-0.5])
    assert (early.counts[0], early.sum_s) == (1, 0.0)
