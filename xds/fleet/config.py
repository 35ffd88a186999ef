"""The config of a worker process, sent as one line of JSON: target, node, plan, mix of behaviours."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from xds.fleet.behaviour import Mix
from xds.fleet.plan import SubscriptionPlan


@dataclass(frozen=True, slots=True)
class Tls:
    """The CA that the server is verified against, and the sidecars' certificate (mTLS)."""

    ca: str
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """The fields of the sidecars' nodes; an id is the prefix and seven digits."""

    id_prefix: str = "fleet-"
    cluster: str = "fleet"
    region: str = ""
    zone: str = ""
    sub_zone: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The config of one process. Its sidecars have every ``stride``-th index of the fleet, from ``first_index`` on."""

    target: tuple[str, int] | str
    """An IP address and port, or the path of a unix socket."""
    authority: str
    first_index: int
    stride: int
    types: tuple[str, ...]
    subscribe: dict[str, tuple[str, ...]]
    sotw: bool
    node: NodeOptions
    mix: Mix
    tls: Tls | None
    sources: tuple[str, ...]
    connects_in_flight_max: int
    connect_timeout_s: float
    window_bytes: int
    slow_interval_s: float
    reconnect_lost: bool

    @property
    def plan(self) -> SubscriptionPlan:
        """The subscriptions of the sidecars. Raises ValueError."""
        return SubscriptionPlan.of(self.types, self.subscribe, sotw=self.sotw)

    def to_json(self) -> str:
        """Return the config as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "WorkerConfig":
        """Read what ``to_json`` wrote."""
        given = json.loads(text)
        target = given["target"]
        given["target"] = target if isinstance(target, str) else (target[0], target[1])
        given["node"] = NodeOptions(**given["node"])
        given["mix"] = Mix(**given["mix"])
        given["tls"] = None if given["tls"] is None else Tls(**given["tls"])
        return cls(**given)
