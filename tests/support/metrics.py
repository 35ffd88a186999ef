"""What a server's metrics say."""

from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families


def samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield each sample of a text of metrics: name, labels and value."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def metrics_of(text: str) -> dict[str, float]:
    """Return the server's own metrics, each summed over its labels; buckets are left out."""
    found: dict[str, float] = defaultdict(float)
    for name, _, value in samples(text):
        if name.startswith("xds_") and not name.endswith("_bucket"):
            found[name] += value
    return dict(found)


def buckets_of(text: str, name: str, **labels: str) -> list[int]:
    """Return the counts of a histogram's buckets, not cumulative, summed over all other labels."""
    found: dict[float, float] = defaultdict(float)
    for each, given, value in samples(text):
        if each == f"{name}_bucket" and labels.items() <= given.items():
            found[float(given["le"])] += value
    counts = [found[bound] for bound in sorted(found)]
    return [int(count - before) for count, before in zip(counts, [0.0, *counts[:-1]], strict=True)]
