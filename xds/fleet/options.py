"""The options of a run, validated as a whole."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from xds.address import Address
from xds.fleet.behaviour import Mix
from xds.fleet.config import NodeOptions, Tls, WorkerConfig
from xds.fleet.plan import DEFAULT_TYPES, SubscriptionPlan
from xds.fleet.trigger import trigger_of

SIDECARS_PER_WORKER = 15_000
DESCRIPTORS_SPARE = 64
"""File descriptors of a worker process besides its sidecars' sockets."""
SAMPLES_MAX = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """The options of a run. Raises ValueError if they contradict each other."""

    server: Address
    streams: tuple[int, ...] = (1_000,)
    types: tuple[str, ...] = DEFAULT_TYPES
    subscribe: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sotw: bool = False
    node: NodeOptions = field(default_factory=NodeOptions)
    mix: Mix = field(default_factory=Mix)
    tls: Tls | None = None
    sources: tuple[str, ...] = ()
    server_pids: tuple[int, ...] = ()
    workers: int | None = None
    connect_rate_per_s: float | None = None
    connects_in_flight_max: int = 512
    window_bytes: int = 16 << 20
    pushes: int = 0
    warmup_pushes: int = 0
    push_gaps_ms: tuple[float, ...] = (0.0,)
    responses_per_push: int = 1
    trigger: str | None = None
    trigger_command: str | None = None
    newcomers: int = 0
    churn_per_s: float = 0.0
    reconnect_storm: bool = False
    reconnect_lost: bool = False
    verify: bool = True
    slow_interval_s: float = 1.0
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.streams or min(self.streams) < 1:
            raise ValueError("the number of streams must be at least 1")
        if list(self.streams) != sorted(set(self.streams)):
            raise ValueError("steps of streams must grow, as 1000,2000,4000: sidecars are added from step to step")
        if (self.pushes > 0 or self.newcomers > 0) and not (self.trigger or self.trigger_command):
            raise ValueError("a push needs something that makes the server change: --trigger URL or --trigger-command")
        if self.trigger and self.trigger_command:
            raise ValueError("there are two triggers; give --trigger or --trigger-command, not both")
        if self.pushes * len(self.push_gaps_ms) * max(self.streams) > SAMPLES_MAX:
            raise ValueError(f"that many pushes to that many streams are more than {SAMPLES_MAX:,} samples")
        if self.workers is not None and self.workers < 1:
            raise ValueError("there must be at least 1 worker")
        for name in ("timeout_s", "responses_per_push", "connects_in_flight_max", "slow_interval_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name.removesuffix('_s').replace('_', ' ')} must be more than 0")
        for name in ("pushes", "warmup_pushes", "newcomers", "churn_per_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name.removesuffix('_per_s').replace('_', ' ')} must not be negative")
        if self.window_bytes < 1 or self.window_bytes >= 1 << 31:
            raise ValueError("the window must be from 1 byte to 2 GiB less one (RFC 9113, 6.9.1)")
        trigger_of(self.trigger, self.trigger_command, timeout_s=self.timeout_s)
        _ = self.plan

    @property
    def plan(self) -> SubscriptionPlan:
        """The subscriptions of the sidecars."""
        return SubscriptionPlan.of(self.types, self.subscribe, sotw=self.sotw)

    @property
    def worker_count(self) -> int:
        """The number of processes that run the sidecars, without the newcomers'."""
        return self.workers or math.ceil(max(self.streams) / SIDECARS_PER_WORKER)

    @property
    def descriptors_per_worker(self) -> int:
        """The file descriptors that a worker process needs."""
        sidecars = max(math.ceil(max(self.streams) / self.worker_count), self.newcomers)
        return sidecars + self.connects_in_flight_max + DESCRIPTORS_SPARE

    def configs(self, target: tuple[str, int] | str) -> list[WorkerConfig]:
        """Return each worker's config; the last is that of the newcomers, if there are any.

        Newcomers share no process with sidecars that receive pushes meanwhile, so that only the server delays them.
        """
        count = self.worker_count
        made = [self._config(target, first_index=worker, stride=count, mix=self.mix) for worker in range(count)]
        if self.newcomers:
            made.append(self._config(target, first_index=max(self.streams), stride=1, mix=Mix()))
        return made

    def _config(self, target: tuple[str, int] | str, *, first_index: int, stride: int, mix: Mix) -> WorkerConfig:
        return WorkerConfig(
            target=target,
            authority="localhost" if self.server.is_unix else str(self.server),
            first_index=first_index,
            stride=stride,
            types=self.types,
            subscribe=self.subscribe,
            sotw=self.sotw,
            node=self.node,
            mix=mix,
            tls=self.tls,
            sources=self.sources,
            connects_in_flight_max=self.connects_in_flight_max,
            connect_timeout_s=min(self.timeout_s, 30.0),
            window_bytes=self.window_bytes,
            slow_interval_s=self.slow_interval_s,
            reconnect_lost=self.reconnect_lost,
        )

    def shown(self) -> dict[str, Any]:
        """Return the options as values for JSON."""
        return asdict(self) | {"server": str(self.server), "workers": self.worker_count}
