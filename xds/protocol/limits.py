"""What may be set of the protocol: how long order may wait, and what a stream may take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordering:
    """How long order may cost time. ``enabled`` False sends every change at once, at the price of failed requests.

    ``hold_timeout_s`` bounds every wait for a client's answer; ``listener_drain_s`` is how long a client goes on using
    the inline routes of a listener that it replaced (Envoy's ``--drain-time-s``).
    """

    enabled: bool = True
    hold_timeout_s: float = 20.0
    listener_drain_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one stream, or the memory of streams that ended, may take."""

    node_bytes_max: int = 64 * 1024
    subscriptions_max: int = 100_000
    types_max: int = 64
    names_bytes_max: int = 64 * 1024 * 1024
    doubtful_nodes_max: int = 10_000
    nacked_bytes_max: int = 64 * 1024 * 1024
    draining_bytes_max: int = 64 * 1024 * 1024
