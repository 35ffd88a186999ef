"""Pairs of intervals: the longest one is not shorter than the first one."""

from typing import Any

from xds.schema.decode import Findings
from xds.schema.paths import Trail


def check_intervals(message: Any, trail: Trail, found: Findings, *, least: int = 0) -> None:
    """Check ``base_interval`` and ``max_interval`` of a message, as Envoy compares them: in milliseconds.

    ``least``: what Envoy takes shorter ones for.
    """
    longest, first = (max(least, millis(each)) for each in (message.max_interval, message.base_interval))
    if message.HasField("max_interval") and longest < first:
        found.add((trail, "max_interval"), "must not be less than base_interval")


def millis(duration: Any) -> int:
    """Return a duration in milliseconds, without their fractions."""
    return int(duration.seconds) * 1000 + int(duration.nanos) // 1_000_000
