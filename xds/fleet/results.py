"""The figures of a run as plain values, and their computation from samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

FORMAT = 1
"""The version of the JSON form."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The distribution of times; ``last_ms`` is the longest. Percentiles are nearest-rank over all samples."""

    count: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    last_ms: float

    @classmethod
    def of(cls, samples_ns: Sequence[int]) -> "Latency | None":
        """Return the distribution of samples, in any order; None without samples."""
        if not samples_ns:
            return None
        ordered = sorted(samples_ns)
        p50, p99, p999, last = (_nearest(ordered, share) / 1e6 for share in (0.5, 0.99, 0.999, 1.0))
        return cls(len(ordered), *(round(value, 3) for value in (p50, p99, p999, last)))


def _nearest(ordered: Sequence[int], share: float) -> int:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Connected:
    """Sidecars from connecting to synced. The server's figures are None without its pid."""

    sidecars: int
    synced: int
    connect_to_synced: Latency | None
    all_synced_s: float
    server_cpu_us_per_sidecar: float | None
    fleet_cpu_us_per_sidecar: float
    workers_cpu_us_per_sidecar: float | None = None
    """Of the server's, what processes below the named ones took."""


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """The server's proportional set size, in all its processes."""

    before_bytes: int
    connected_bytes: int
    bytes_per_stream: float
    """Growth without memory mapped from files, which other processes may or may not share."""
    bytes_per_added_stream: float | None = None
    """The same since the last step, None in the first: memory left free by the server's start does not distort it."""
    after_pushes_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Push:
    """One push: from just before its trigger until each counted sidecar has received it."""

    due: int
    received: int
    trigger_ms: float
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class Pushes:
    """A series of pushes with the same pause ``gap_ms`` between them; 0 is back to back."""

    gap_ms: float
    pushes: tuple[Push, ...]
    latency: Latency | None
    deliveries: int
    responses: int
    bytes_received: int
    wall_s: float
    server_cpu_us_per_delivery: float | None
    fleet_cpu_us_per_delivery: float | None
    workers_cpu_us_per_delivery: float | None = None
    """Of the server's, what processes below the named ones took."""


@dataclass(frozen=True, slots=True)
class Newcomers:
    """Sidecars that connected at the moment of a push, and that push's receipt at the others."""

    sidecars: int
    synced: int
    connect_to_synced: Latency | None
    push: Push


@dataclass(frozen=True, slots=True)
class Storm:
    """A reconnect of all sidecars at once, with their sessions. ``probe`` is the last message of a sidecar's burst."""

    sidecars: int
    synced: int
    reconnect_to_synced: Latency | None
    all_synced_s: float
    resources_sent_again: int
    responses: int
    server_cpu_us_per_sidecar: float | None
    probe: str


@dataclass(frozen=True, slots=True)
class Verified:
    """The comparison of the sidecars' final resources with those of a new observer."""

    compared: int
    different: int
    excluded: dict[str, int]
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunStep:
    """The figures at one size of the fleet."""

    streams: int
    connect: Connected
    memory: MemoryFigures | None
    pushes: tuple[Pushes, ...]


@dataclass(slots=True)
class Result:
    """All figures of a run; ``problems`` is empty if nothing was wrong."""

    started: str
    tool: dict[str, str]
    machine: dict[str, Any]
    options: dict[str, Any]
    resources: dict[str, int] = field(default_factory=dict)
    steps: list[RunStep] = field(default_factory=list)
    newcomers: Newcomers | None = None
    storm: Storm | None = None
    verify: Verified | None = None
    behaviours: dict[str, int] = field(default_factory=dict)
    churned: int = 0
    rejected: int = 0
    lost: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    bytes_received: int = 0
    fleet_memory_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    format: int = FORMAT

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.problems
