"""Decides whether new streams are accepted, and how fast new clients get their first answers.

Past capacity, new streams are shed with UNAVAILABLE: Envoy and gRPC clients then try again by themselves, after a pause
that grows and is random. Streams that are open are never shed. A shed stream costs nothing but its own headers.
"""

from dataclasses import dataclass
from enum import IntEnum

from xds.limits import LimitHits
from xds.protocol.errors import Status, StreamRefusedError


class Pressure(IntEnum):
    """How short the memory is, and so what is done: nothing; and, each besides those before, as the names say."""

    NONE = 0
    SLOW = 1
    """New clients get their first answers slowly."""
    SHED = 2
    """New streams are shed."""
    REFUSE = 3
    """Changes are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """``waiting_max`` clients may wait for their first answer, the longest for ``wait_max_s`` (0: no limit).

    ``slow_streams_per_s`` get theirs per second while memory is short.
    """

    streams_max: int = 100_000
    waiting_max: int = 100_000
    wait_max_s: float = 15.0
    slow_streams_per_s: float = 20.0


class StreamAdmission:
    """The admission of streams in this process. ``hits`` is where its caller counts the limits that are reached."""

    __slots__ = ("_limits", "_pressure", "hits")

    def __init__(self, limits: AdmissionLimits | None = None, hits: LimitHits | None = None) -> None:
        self.hits = hits or LimitHits()
        self._limits = limits or AdmissionLimits()
        self._pressure = Pressure.NONE

    @property
    def pressure(self) -> Pressure:
        """How short the memory is."""
        return self._pressure

    def set_pressure(self, pressure: Pressure) -> None:
        """Set how short the memory is."""
        self._pressure = pressure

    @property
    def pause_s(self) -> float:
        """How long to wait after the first answer to a new client before the next; 0: no pause."""
        return 1 / self._limits.slow_streams_per_s if self._pressure else 0.0

    def check(self, streams: int, waiting: int, longest_wait_s: float) -> None:
        """Raise StreamRefusedError (UNAVAILABLE) if a new stream is to be shed.

        ``streams`` others are open, of which ``waiting`` wait for their first answer, the first of them for
        ``longest_wait_s``.
        """
        limits = self._limits
        if streams >= limits.streams_max:
            self._shed("streams", f"this server takes {limits.streams_max} streams (transport.streams_max)")
        if self._pressure >= Pressure.SHED:
            self._shed("memory", "this server is short of memory (overload.shed_ratio)")
        if waiting >= limits.waiting_max:
            self._shed("waiting", f"{limits.waiting_max} clients wait for their first answer (overload.waiting_max)")
        if longest_wait_s > limits.wait_max_s > 0:
            waited = f"clients wait for their first answer for {longest_wait_s:.0f} s"
            self._shed("wait", f"{waited} (overload.wait_max_s)")

    def _shed(self, limit: str, why: str) -> None:
        raise StreamRefusedError(Status.UNAVAILABLE, f"{why}; try again later", limit=limit)
