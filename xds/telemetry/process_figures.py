"""The figures of one process of a server: what it uses of the machine, and what it serves."""

from dataclasses import dataclass, field

from xds.telemetry.histogram import Histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFigures:
    """A process: its name (``parent``, ``worker 1``), and its totals since it started."""

    name: str
    cpu_s: float = 0.0
    resident_bytes: int = 0
    lag: Histogram = field(default_factory=Histogram)
    """By how much its event loop was late."""
    streams: int = 0
    requests: int = 0
    responses: int = 0
    nacks: int = 0
    accepted: Histogram = field(default_factory=Histogram)
    """From commits until clients accepted them, as ``xds.protocol.measures`` counts it."""
